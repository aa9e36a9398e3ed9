"""Which formats a file may be of.

What is built in is listed here and imported only when a file's first bytes ask for it; entry points of other
packages are read only for a file that nothing built in knows, because reading them costs 40 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, Format, HeaderFormat, NeedBytes, RandomAccess
from thetastore.layout import Layout, checked_layout
from thetastore.plugins import FORMATS, offered

if TYPE_CHECKING:
    from thetastore.formats.outside import CalledTable, TableFormat

MAX_VERSION = 0xFFFF
"""Manifests hold a layout version in two bytes."""

_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_BUILT_IN = (
    # leading offset, magic there, module, class
    (0, b"PK\3\4", "torch_zip", "TorchZip"),
    (0, b"PK\3\4", "npz", "Npz"),
    (0, b"PK\3\4", "keras", "Keras"),
    (0, b"PK\3\4", "torch_dcp", "TorchDcp"),
    (2, _TORCH_LEGACY, "torch_legacy", "TorchLegacy"),
    (11, _TORCH_LEGACY, "torch_legacy", "TorchLegacy"),
    (8, b"{", "safetensors", "Safetensors"),
    (0, b"GGUF", "gguf", "Gguf"),
    (0, b"GGUF", "gguf", "UnpaddedGguf"),
    (0, b"\x93NUMPY", "npy", "Npy"),
    (0, b"\x93NUMPY", "npy", "FortranNpy"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5", "Hdf5"),
)
_GUESSED = (
    (0, b"\x08", "onnx", "Onnx"),
    (0, b"\x08", "onnx", "OnnxExternal"),
    (0, b"\0\0", "tensorflow", "TensorflowIndex"),
    (0, tuple(bytes([code]) for code in (*range(0x81, 0x90), 0xDE, 0xDF)), "flax_msgpack", "FlaxMsgpack"),
)
"""Formats without a magic, known by first bytes that others may have too: here plug-ins are asked first."""
_TABLES = {"onnx-external": ("onnx", "OnnxExternal"), "tensorflow-index": ("tensorflow", "TensorflowIndex")}
"""Formats whose files name tensors in other files."""
_CALLED = {".metadata": ("torch_dcp_metadata", "TorchDcpMetadata")}
"""What opaque files name tensors in other files, by what they are called."""


_FAILURES = (Exception, SystemExit)
"""What a plug-in may raise, and files are added all the same: `sys.exit` would end the filter in the middle."""


def table_format(name: str) -> TableFormat | None:
    """Return the format of this name if its files name tensors in others."""
    return _loaded(*_TABLES[name]) if name in _TABLES else None


def table_called(file_name: str) -> CalledTable | None:
    """Return what reads a file so called, if such files name tensors in others and are opaque themselves."""
    return _loaded(*_CALLED[file_name]) if file_name in _CALLED else None


def candidates(head: bytes) -> list[Format]:
    """Return the formats that a file may be of, the likeliest first, by its first `SNIFF_BYTES` (or fewer).

    Their scans raise nothing but `NotThisFormat` and `NeedBytes`, whatever the plug-in does.
    """
    return _REGISTRY.candidates(head)


class Registry:
    """The formats of this process. The entry points are read once, when a file first needs them."""

    def __init__(self) -> None:
        self._plugins: list[Format] | None = None

    def candidates(self, head: bytes) -> list[Format]:
        """See `candidates`."""
        found = _sniffed(_BUILT_IN, head)
        if found:
            return found
        if self._plugins is None:
            self._plugins = _load_plugins()
        return [plugin for plugin in self._plugins if plugin.sniff(head)] + _sniffed(_GUESSED, head)


_REGISTRY = Registry()


def _sniffed(table: Sequence[tuple[int, bytes | tuple[bytes, ...], str, str]], head: bytes) -> list[Format]:
    """Return the formats of a table that a file may be of; only their modules are imported."""
    formats = (
        guarded(_loaded(module, name), checked=True)
        for offset, magic, module, name in table
        if head.startswith(magic, offset)
    )
    return [format for format in formats if format.sniff(head)]


def _loaded(module: str, name: str) -> Any:
    """Make a format that is built in."""
    from importlib import import_module

    return getattr(import_module(f"thetastore.formats.{module}"), name)()


def _load_plugins() -> list[Format]:
    """Load what other packages offer. A plug-in that cannot be loaded must not keep files from being added."""
    plugins: list[Format] = []
    for entry_point in offered(FORMATS):
        try:
            plugins.append(guarded(entry_point.load()()))
        except _FAILURES:
            continue
    return plugins


def guarded(plugin: Any, checked: bool = False) -> Format:
    """Return a format that behaves, whatever the plug-in does; its layouts are checked unless they are known to be.

    Raises:
        NotThisFormat: it is no format plug-in at all.
    """
    name, version = plugin.name, plugin.version
    if not _is_released_name(name) or type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise NotThisFormat(f"a format plug-in may not be called {name!r:.80} version {version!r:.20}")
    kind = _GuardedHeader if isinstance(plugin, HeaderFormat) else _GuardedWhole
    return kind(plugin, name, version, checked)


def _is_released_name(name: object) -> bool:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
    return isinstance(name, str) and 1 <= len(name) <= 32 and all(letter in letters for letter in name)


class _Guarded:
    """Turns what a plug-in raises into what its protocol allows."""

    def __init__(self, plugin: Any, name: str, version: int, checked: bool) -> None:
        self.name = name
        self.version = version
        self._plugin = plugin
        self._checked = checked

    def sniff(self, head: bytes) -> bool:
        try:
            return bool(self._plugin.sniff(head))
        except _FAILURES:
            return False

    def _accept(self, layout: Layout) -> Layout:
        if self._checked:
            return layout
        return checked_layout(self.name, self.version, layout.file_bytes, list(layout.spans), list(layout.tensors))

    def _declined(self, error: BaseException) -> NotThisFormat:
        return NotThisFormat(f"the format plug-in '{self.name}' failed: {type(error).__name__}")


class _GuardedHeader(_Guarded):
    def scan_header(self, prefix: bytes) -> Layout:
        try:
            return self._accept(self._plugin.scan_header(prefix))
        except NotThisFormat:
            raise
        except NeedBytes as need:
            if type(need.nbytes) is int and len(prefix) < need.nbytes <= MAX_HEADER_BYTES:
                raise
            raise self._declined(need) from need
        except _FAILURES as error:
            raise self._declined(error) from error


class _GuardedWhole(_Guarded):
    def scan(self, file: RandomAccess) -> Layout:
        try:
            return self._accept(self._plugin.scan(file))
        except NotThisFormat:
            raise
        except _FAILURES as error:
            raise self._declined(error) from error
