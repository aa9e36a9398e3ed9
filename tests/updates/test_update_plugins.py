"""Update types, codecs and commands of other packages: their conformance classes, and what becomes of bad ones."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from git_work import GitWork, home_in, weights, write_model

from thetastore.adapters.types import BUILT_IN
from thetastore.testing.codecs import CodecConformance, Sample
from thetastore.testing.commands import CommandConformance
from thetastore.testing.updates import UpdateTypeConformance

BASE = {"a": weights(1, 40, 30), "b": weights(2, 20)}


def write_low_rank(path: str, base: Mapping[str, Any], name: str = "a") -> None:
    write_model(Path(path), {f"{name}/R": weights(3, 40, 2), f"{name}/C": weights(4, 2, 30)})


def write_ia3(path: str, base: Mapping[str, Any], name: str = "a") -> None:
    write_model(Path(path), {f"{name}/ia3": weights(3, 40, 1)})


def write_dense(path: str, base: Mapping[str, Any], name: str = "b") -> None:
    write_model(Path(path), {name: weights(9, 20)})


def write_sparse(path: str, base: Mapping[str, Any], name: str = "a") -> None:
    parts = {
        "data": weights(3, 2),
        "indices": np.array([5, 9]),
        "indptr": np.array([0, 2]),
        "shape": np.array([40, 30]),
    }
    write_model(Path(path), {f"{name}/{part}": array for part, array in parts.items()})


def _conformance(kind: str, write: Callable[..., None]) -> type[UpdateTypeConformance]:
    members = {
        "update_type": BUILT_IN[kind],
        "base": staticmethod(lambda: dict(BASE)),
        "write": staticmethod(write),
        "write_for_another": staticmethod(partial(write, base={}, name="z")),
    }
    return type("Conformance", (UpdateTypeConformance,), members)


class TestLowRank(_conformance("low-rank", write_low_rank)): ...  # type: ignore[misc]


class TestIa3(_conformance("ia3", write_ia3)): ...  # type: ignore[misc]


class TestDense(_conformance("dense", write_dense)): ...  # type: ignore[misc]


class TestSparse(_conformance("sparse", write_sparse)): ...  # type: ignore[misc]


class TestAuto(_conformance("auto", write_low_rank)): ...  # type: ignore[misc]


def unzip(params: bytes, stored: memoryview, out: memoryview, bases: Any) -> None:
    out[:] = zlib.decompressobj().decompress(stored, len(out))


class TestCodec(CodecConformance):
    decode = staticmethod(unzip)
    samples = tuple(Sample(raw, b"", zlib.compress(raw)) for raw in (b"abc" * 50, bytes(1000)))


def hello(arguments: list[str]) -> int:
    if arguments == ["--help"]:
        print("usage: git theta hello")
        return 0
    if arguments:
        print("not understood", file=sys.stderr)
        return 129
    return 0


class TestCommand(CommandConformance):
    command = staticmethod(hello)


MODULE = """
import numpy as np
from thetastore.updates.recipe import Recipe
from thetastore.adapters import Adapter, Change, UpdateType
def opened(path, base):
    kind = open(path).read()
    if kind == "raise":
        raise ZeroDivisionError("oh")
    if kind == "exit":
        raise SystemExit(0)
    if kind == "lie":
        return {"a": 1}
    if kind == "part":
        return Adapter("mine", {"a": partly(base)}, ())
    pieces = {"short": lambda: iter([b"x"]), "late": lambda: iter([1 / 0])}[kind]
    tensor = base.tensors["a"]
    return Adapter("mine", {"a": Change("a", tensor.dtype, tensor.shape, pieces)}, ())
def partly(base):
    # Of the recipe only the first row is right.
    tensor = base.tensors["a"]
    raw = bytearray(base.read("a", 0, tensor.raw_bytes))
    rows, columns = tensor.shape
    row = np.frombuffer(raw, "<f4")[:columns] * np.float32(2)
    raw[:4 * columns] = row.tobytes()
    left, right = np.ones((rows, 1), "<f4"), np.frombuffer(base.read("a", 0, 4 * columns), "<f4")[None]
    return Change("a", tensor.dtype, tensor.shape, lambda: iter([bytes(raw)]), lambda: Recipe(columns, left, right))
TYPE = UpdateType("mine", "mine", opened)
NO_TYPE = 3
def hello(arguments):
    if arguments == ["bad"]:
        raise ZeroDivisionError("oh")
    print("hello", *arguments)
    return 0
"""
POINTS = """[thetastore.updates]
mine = example_updates:TYPE
none = example_updates:NO_TYPE
gone = example_updates:MISSING
[gitbridge.commands]
hello = example_updates:hello
"""


@pytest.fixture(name="work")
def work_with_plugins(tmp_path: Path) -> GitWork:
    info = tmp_path / "site" / "example_updates-1.0.dist-info"
    info.mkdir(parents=True)
    (tmp_path / "site" / "example_updates.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-updates\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    environment = home_in(tmp_path / "home")
    environment["PYTHONPATH"] = f"{tmp_path / 'site'}:{environment['PYTHONPATH']}"
    work = GitWork(tmp_path / "work", environment).ready("*.safetensors")
    write_model(work.path / "m.safetensors", BASE)
    work.git("add", "-A")
    work.git("commit", "-qm", "base")
    return work


def test_a_plugin_that_fails_or_lies_changes_nothing(work: GitWork, tmp_path: Path) -> None:
    before = work.git("ls-files", "-s"), (work.path / "m.safetensors").read_bytes()
    for kind, words in {
        "raise": "update type 'mine' failed: ZeroDivisionError",
        "exit": "update type 'mine' failed: SystemExit",
        "lie": "did not answer with an Adapter",
        "short": "it was given",
        "late": "update type 'mine' failed at 'a': ZeroDivisionError",
    }.items():
        (tmp_path / "update").write_text(kind)
        done = work.theta("add", "m.safetensors", "--update-type", "mine", "--update-path", str(tmp_path / "update"))
        assert (done.status, words in done.err) == (2, True), done
        assert (work.git("ls-files", "-s"), (work.path / "m.safetensors").read_bytes()) == before
    assert work.theta("fsck").status == 0


def test_a_plugin_whose_recipe_is_not_what_it_makes_loses_nothing(work: GitWork, tmp_path: Path) -> None:
    base = weights(1, 3, 256 << 10)  # each row is a chunk
    write_model(work.path / "m.safetensors", {"a": base})
    work.git("add", "-A")
    work.git("commit", "-qm", "large")
    (tmp_path / "update").write_text("part")

    done = work.theta("add", "m.safetensors", "--update-type", "mine", "--update-path", str(tmp_path / "update"))

    assert done.status == 0, done
    base[0] *= 2
    assert (work.path / "m.safetensors").read_bytes()[-base.nbytes :] == base.tobytes()
    assert work.theta("fsck").status == 0


def test_unknown_names_list_what_is_installed(work: GitWork, tmp_path: Path) -> None:
    done = work.theta("add", "m.safetensors", "--update-type", "other", "--update-path", "x")
    assert "dense, sparse, low-rank, ia3, auto, gone, mine, none" in done.err
    done = work.theta("add", "m.safetensors", "--update-type", "gone", "--update-path", "x")
    assert (done.status, "cannot be loaded" in done.err) == (2, True)
    done = work.theta("add", "m.safetensors", "--update-type", "none", "--update-path", "x")
    assert (done.status, "not an UpdateType" in done.err) == (2, True)


def test_a_command_of_another_package_runs_and_its_failure_is_named(work: GitWork) -> None:
    assert work.git("theta", "hello", "you") == "hello you\n"
    assert "hello" in work.git("theta", "help")
    done = work.theta("hello", "bad")
    assert (done.status, "the plug-in 'hello' (example_updates:hello) failed: ZeroDivisionError" in done.err) == (
        2,
        True,
    )
    assert "did you mean: git theta hello" in work.theta("helo").err
