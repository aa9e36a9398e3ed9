"""Which formats a file may be of, and that no plug-in can harm the store."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, HeaderFormat, NeedBytes, RandomAccess, WholeFormat
from thetastore.formats.registry import Registry, candidates, guarded
from thetastore.layout import Layout, Span, Tensor
from thetastore.testing.formats import BytesFile

SAFETENSORS_HEAD = (100).to_bytes(8, "little") + b'{"a":'
ZIP_HEAD = b"PK\3\4" + bytes(60)


def test_a_file_is_known_by_its_first_bytes() -> None:
    assert [format.name for format in candidates(SAFETENSORS_HEAD)] == ["safetensors"]
    assert [format.name for format in candidates(ZIP_HEAD)] == ["torch-zip", "npz", "keras", "torch-dcp"]
    assert [format.name for format in candidates(b"GGUF\3\0\0\0")] == ["gguf", "gguf"]
    assert [format.name for format in candidates(b"\x93NUMPY\1\0")] == ["npy"]
    assert [format.name for format in candidates(b"\x93NUMPY\1\0v\0{'fortran_order': True")] == ["npy", "npy"]
    assert [format.name for format in candidates(b"plain text")] == []
    assert candidates(b"") == []
    assert isinstance(candidates(SAFETENSORS_HEAD)[0], HeaderFormat)
    assert isinstance(candidates(ZIP_HEAD)[0], WholeFormat)


class Plugin:
    name = "example"
    version = 3
    answer: Any = None

    def sniff(self, head: bytes) -> bool:
        return head.startswith(b"EXAMPLE")


class HeaderPlugin(Plugin):
    def scan_header(self, prefix: bytes) -> Layout:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class WholePlugin(Plugin):
    def scan(self, file: RandomAccess) -> Layout:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


def ask(plugin: Plugin, answer: Any) -> Layout:
    plugin.answer = answer
    format = guarded(plugin)
    return format.scan_header(b"EXAMPLE") if isinstance(format, HeaderFormat) else format.scan(BytesFile(b"EXAMPLE"))


GOOD = Layout("example", 3, 7, (Span(0, 4, "float32", ()),), (Tensor("t", "float32", (), 0),))


@pytest.mark.parametrize("plugin", [HeaderPlugin(), WholePlugin()])
def test_a_good_answer_passes(plugin: Plugin) -> None:
    assert ask(plugin, GOOD) == GOOD


@pytest.mark.parametrize("plugin", [HeaderPlugin(), WholePlugin()])
@pytest.mark.parametrize(
    "answer",
    [
        ValueError("x"),
        KeyError(),
        RecursionError(),
        MemoryError(),
        NotImplementedError(),
        StopIteration(),
        SystemExit(0),
        NotThisFormat("no"),
        None,
        "a layout",
        GOOD._replace(spans=(Span(0, 8, "float32", ()),)),
        GOOD._replace(spans=(Span(4, 4, "float32", ()),)),
        GOOD._replace(tensors=(Tensor("t", "float33", (), 0),)),
        GOOD._replace(tensors=(Tensor("\ud800", "float32", (), 0),)),
        GOOD._replace(file_bytes=-1),
    ],
)
def test_whatever_else_a_plugin_does_it_declines_the_file(plugin: Plugin, answer: Any) -> None:
    with pytest.raises(NotThisFormat):
        ask(plugin, answer)


def test_a_request_for_bytes_passes_only_if_it_can_be_met() -> None:
    with pytest.raises(NeedBytes):
        ask(HeaderPlugin(), NeedBytes(100))
    for nbytes in (0, 7, MAX_HEADER_BYTES + 1, "x", None):
        with pytest.raises(NotThisFormat):
            ask(HeaderPlugin(), NeedBytes(nbytes))  # type: ignore[arg-type]
    with pytest.raises(NotThisFormat):
        ask(WholePlugin(), NeedBytes(100))


@pytest.mark.parametrize(
    ("name", "version"),
    [("", 1), ("Upper", 1), ("a b", 1), ("x" * 33, 1), (None, 1), ("ok", -1), ("ok", 65536), ("ok", True), ("ok", "1")],
)
def test_a_plugin_without_a_released_name_is_refused(name: Any, version: Any) -> None:
    plugin = HeaderPlugin()
    plugin.name, plugin.version = name, version

    with pytest.raises(NotThisFormat):
        guarded(plugin)


def test_an_error_while_sniffing_means_no() -> None:
    class Broken(HeaderPlugin):
        def sniff(self, head: bytes) -> bool:
            raise IndexError

    class Leaving(HeaderPlugin):
        def sniff(self, head: bytes) -> bool:
            sys.exit(0)

    assert guarded(Broken()).sniff(b"") is False
    assert guarded(Leaving()).sniff(b"") is False


def install(folder: Any, entry_points: str, module: str) -> None:
    """Put a distribution with entry points into a folder, as pip would."""
    (folder / "example_plugin.py").write_text(module)
    info = folder / "example_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[thetastore.formats]\n{entry_points}\n")


MODULE = """
from thetastore.layout import Layout
class Example:
    name = "example"
    version = 1
    def sniff(self, head):
        return head[:7] in (b"EXAMPLE", b"PK\\3\\4" + bytes(3))
    def scan_header(self, prefix):
        return Layout("example", 1, 7, (), ())
class Failing(Example):
    def __init__(self):
        raise SystemExit(0)
"""


def test_plugins_of_other_packages_are_found_and_broken_ones_are_passed_over(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "a = example_plugin:Missing\nb = no_such_module:X\nc = example_plugin:Failing\nd = example_plugin:Example"
    install(tmp_path, points, MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("example_plugin", None)

    found = Registry().candidates(b"EXAMPLE")

    assert [(format.name, format.version) for format in found] == [("example", 1)]
    assert [format.name for format in Registry().candidates(ZIP_HEAD)] == ["torch-zip", "npz", "keras", "torch-dcp"], (
        "built in formats come first"
    )


def modules_after(program: str) -> set[str]:
    program = "import sys\nfrom thetastore.formats.registry import candidates\n" + program + "\nprint(*sys.modules)"
    root = os.path.join(os.path.dirname(__file__), "..", "..")
    result = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, check=True, text=True, cwd=root)
    return set(result.stdout.split())


def test_nothing_is_imported_before_a_file_asks_for_it() -> None:
    assert not modules_after("") & {"json", "numpy", "importlib.metadata", "thetastore.formats.torch_zip"}
    assert "thetastore.formats.torch_zip" not in modules_after(f"candidates({SAFETENSORS_HEAD!r})")
    assert not modules_after(f"candidates({ZIP_HEAD!r})") & {
        "importlib.metadata",
        "thetastore.formats.safetensors",
        "numpy",
    }
    plain = modules_after("candidates(b'plain text')")
    assert "importlib.metadata" in plain
    assert not any(name.startswith(("thetastore.formats.onnx", "thetastore.formats.flax")) for name in plain)


def test_a_format_without_a_magic_is_asked_after_the_plugins(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = MODULE.replace('head[:7] in (b"EXAMPLE", b"PK\\3\\4" + bytes(3))', 'head[:1] in (b"\\x08", b"\\x81")')
    install(tmp_path, "d = example_plugin:Example", module)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("example_plugin", None)

    for head, names in ((b"\x08\x0a\x3a", ["onnx", "onnx-external"]), (b"\x81\xa1w", ["flax-msgpack"])):
        assert [format.name for format in Registry().candidates(head)] == ["example", *names]
    del sys.modules["example_plugin"]
