"""The file of a result: ours' bytes with other tensors in their places, in every format that allows it."""

from __future__ import annotations

import io
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from thetastore.formats.zip_checksums import mend_checksums
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import FileCheckpoint, Nothing, StoredCheckpoint
from thetastore.merging.merge import Merge, Sides, source_of, three_way_merge
from thetastore.merging.mixing import Part, Rule, plan
from thetastore.merging.recipes import parse_rule
from thetastore.open_file import OpenFile
from thetastore.store import Store

FIXTURES = Path(__file__).parents[1] / "fixtures"


def rule(text: str) -> Rule:
    found = parse_rule(text, "test")
    assert found is not None
    return found


def merged(sides: Sides, text: str = "average") -> Merge:
    merge = three_way_merge(sides, lambda decision: rule(text))
    assert not merge.conflicts, merge.conflicts
    return merge


def read_all(merge: Merge) -> bytes:
    found = bytearray()
    buffer = bytearray(100_000)
    with tempfile.TemporaryFile() as scratch:
        source = source_of(merge, lambda: scratch)
        while count := source.readinto(memoryview(buffer)):
            found += buffer[:count]
    return bytes(found)


def npz(seed: int) -> bytes:
    stream = io.BytesIO()
    draw = np.random.default_rng(seed)
    np.savez(stream, a=draw.standard_normal((30, 20)).astype("f4"), b=np.arange(10))
    return stream.getvalue()


def npy(seed: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(seed).standard_normal((30, 20)).astype("f4"))
    return stream.getvalue()


SAMPLES: dict[str, Callable[[], bytes]] = {
    "torch zip": lambda: (FIXTURES / "torch" / "training.pt").read_bytes(),
    "torch zip of TorchScript": lambda: (FIXTURES / "torch" / "script.pt").read_bytes(),
    "torch legacy": lambda: (FIXTURES / "torch" / "legacy-training.pt").read_bytes(),
    "gguf": lambda: (FIXTURES / "gguf" / "plain.gguf").read_bytes(),
    "npz": lambda: npz(1),
    "npy": lambda: npy(1),
    "safetensors": lambda: (FIXTURES / "torch" / "model.safetensors").read_bytes(),
}


def with_added(path: Path, raw: bytes, by: float) -> FileCheckpoint:
    """Write a file whose float tensors have something added, and open it."""
    path.write_bytes(raw)
    found = FileCheckpoint(str(path))
    with path.open("r+b") as stream:
        for tensor in found.tensors.values():
            if tensor.dtype == "float32" and tensor.strides is None:
                stream.seek(tensor.offset)
                values = np.frombuffer(raw, "f4", tensor.raw_bytes // 4, tensor.offset) + np.float32(by)
                stream.write(values.tobytes())
        stream.flush()
        if raw[:2] == b"PK":
            mend_checksums(OpenFile(stream.fileno(), len(raw)))
    found.close()
    return FileCheckpoint(str(path))


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_result_with_the_same_tensors_is_ours_byte_for_byte_but_for_what_was_mixed(
    tmp_path: Path, sample: str
) -> None:
    raw = SAMPLES[sample]()
    sides = Sides(*(with_added(tmp_path / name, raw, by) for name, by in (("base", 0), ("ours", 1), ("theirs", 3))))
    ours = (tmp_path / "ours").read_bytes()

    result = read_all(merged(sides))

    (tmp_path / "result").write_bytes(result)
    found = FileCheckpoint(str(tmp_path / "result"))
    assert found.tensors == sides.ours.tensors
    expected = bytearray(ours)
    for tensor in found.tensors.values():
        if tensor.dtype == "float32":
            at, size = tensor.offset, tensor.raw_bytes
            one, other = (
                np.frombuffer((tmp_path / name).read_bytes()[at : at + size], "f4") for name in ("ours", "theirs")
            )
            expected[at : at + size] = ((one.astype("f8") + other) / 2).astype("f4").tobytes()
    if raw[:2] == b"PK":
        (tmp_path / "expected").write_bytes(expected)
        with (tmp_path / "expected").open("r+b") as stream:
            assert mend_checksums(OpenFile(stream.fileno(), len(expected))) > 0
        expected = bytearray((tmp_path / "expected").read_bytes())
        with zipfile.ZipFile(tmp_path / "result") as archive:
            assert archive.testzip() is None
    assert result == bytes(expected)
    for side in (*sides, found):
        side.close()  # type: ignore[attr-defined]


def test_a_torch_file_whose_tensors_changed_their_number_is_refused_and_safetensors_is_named(tmp_path: Path) -> None:
    fixtures = FIXTURES / "torch"
    base, ours = (FileCheckpoint(str(fixtures / "few.pt")) for _ in range(2))
    theirs = FileCheckpoint(str(fixtures / "model.safetensors"))

    with pytest.raises(MergeError, match="torch-zip.*safetensors"):
        read_all(merged(Sides(base, ours, theirs), "theirs"))

    for side in (base, ours, theirs):
        side.close()


def test_tensors_that_do_not_lie_in_one_piece_in_ours_are_refused_if_they_change(tmp_path: Path) -> None:
    raw = (FIXTURES / "torch" / "views.pt").read_bytes()
    sides = Sides(*(with_added(tmp_path / name, raw, by) for name, by in (("base", 0), ("ours", 1), ("theirs", 3))))

    with pytest.raises(MergeError, match="one behind the other"):
        read_all(merged(sides))

    for side in sides:
        side.close()  # type: ignore[attr-defined]


# One tensor


class Memory:
    """Arrays as a checkpoint."""

    format = ""

    def __init__(self, label: str, arrays: dict[str, Any], dtype: str | None = None) -> None:
        from thetastore.layout import Tensor

        self.label = label
        self.arrays = arrays
        self.tensors = {n: Tensor(n, dtype or a.dtype.name, a.shape, 0) for n, a in arrays.items()}

    def read(self, name: str, start: int, stop: int) -> bytes:
        return bytes(self.arrays[name].tobytes()[start:stop])

    def table(self) -> Any:
        raise NotImplementedError

    def segments(self) -> Any:
        raise NotImplementedError


def mix(text: str, *arrays: Any, base: Any = None, dtype: str | None = None) -> Any:
    """Mix one tensor, of ours and theirs; return an array."""
    parts = [Part(Memory(label, {"w": one}), "w") for label, one in zip(("ours", "theirs"), arrays, strict=False)]
    base_part = None if base is None else Part(Memory("base", {"w": base}), "w")
    result = plan("w", rule(text), base_part, parts, dtype=dtype)
    kind = np.dtype(getattr(ml_dtypes, result.dtype, None) or result.dtype)
    return np.frombuffer(b"".join(bytes(piece) for piece in result.pieces()), kind).reshape(result.shape)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float32", "float64", "int8"])
def test_every_dtype_is_mixed_and_rounded_once(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    draw = np.random.default_rng(1)
    ours, theirs = ((20 * draw.standard_normal(1000)).astype("f4").astype(kind) for _ in range(2))

    found = mix("average weight=1,2", ours, theirs)

    exact = (ours.astype("f8") + 2 * theirs.astype("f8")) / 3
    if dtype == "int8":
        assert found.tolist() == np.rint(exact).tolist()
        return
    near = exact.astype(kind)
    if dtype in ("float32", "float64"):
        assert np.abs(found.astype("f8") - exact).max() <= np.spacing(np.abs(exact).astype(kind)).astype("f8").max()
    else:  # computed in float32, which rounds twice: that shows only next to a tie
        assert (found.view(f"u{kind.itemsize}") != near.view(f"u{kind.itemsize}")).mean() < 0.01


def test_a_tensor_without_axes_and_one_without_elements_are_mixed_too() -> None:
    assert mix("slerp", np.float32(2).reshape(()), np.float32(4).reshape(())).tolist() == 3
    assert mix("ties", *[np.zeros((0, 3), "f4")] * 2, base=np.zeros((0, 3), "f4")).shape == (0, 3)


def test_an_elementwise_method_gives_the_same_however_long_the_tensor_is() -> None:
    ours = np.arange(600_000, dtype="f4")

    assert mix("average", ours, ours + 2).tolist() == (ours + 1).tolist()


def test_what_is_not_finite_is_named_with_its_side() -> None:
    bad = np.array([1, np.inf], "f4")

    with pytest.raises(MergeError, match="tensor 'w': theirs has elements that are NaN or infinite"):
        mix("average", np.ones(2, "f4"), bad)
    assert mix("theirs", np.ones(2, "f4"), bad).tolist() == bad.tolist()


def test_a_result_that_its_dtype_does_not_hold_is_an_error() -> None:
    with pytest.raises(MergeError, match="beyond what float16 holds"):
        mix("linear normalize=false", *[np.full(2, 60000, "f2")] * 2)


@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_what_cannot_be_mixed_can_still_be_copied(dtype: str) -> None:
    ours, theirs = np.array([1, 0, 1], dtype), np.array([0, 0, 1], dtype)

    assert mix("theirs", ours, theirs).tolist() == theirs.tolist()
    with pytest.raises(MergeError):
        mix("slerp", ours, theirs)


def test_complex_numbers_are_averaged_by_parts() -> None:
    assert mix("average", np.array([1 + 2j], "c8"), np.array([3 - 2j], "c8")).tolist() == [2 + 0j]


def test_a_vocabulary_that_one_side_extended_keeps_its_new_rows() -> None:
    base = np.zeros((4, 3), "f4")
    ours, theirs = np.ones((6, 3), "f4"), np.full((4, 3), 3, "f4")

    for text in ("average", "ties", "slerp"):
        found = mix(text, ours, theirs, base=base)
        assert found.shape == (6, 3)
        assert found[4:].tolist() == ours[4:].tolist()
        assert mix(text, theirs, ours, base=base)[4:].tolist() == ours[4:].tolist()
    assert mix("average", ours, theirs, base=base)[:4].tolist() == np.full((4, 3), 2).tolist()


def test_vocabularies_that_both_sides_extended_and_other_shapes_are_refused() -> None:
    base = np.zeros((4, 3), "f4")
    for one, other in (((5, 3), (6, 3)), ((5, 3), (5, 3)), ((4, 3), (3, 3)), ((4, 3), (4, 2)), ((4, 3), (12,))):
        with pytest.raises(MergeError):
            mix("average", np.ones(one, "f4"), np.ones(other, "f4"), base=base)
    assert mix("theirs", np.ones((5, 3), "f4"), np.ones((6, 3), "f4"), base=base).shape == (6, 3)


def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path: Path) -> None:
    shape = (256, 1024)  # 1 MiB in float32

    def peak(layers: int) -> int:
        draw = np.random.default_rng(1)
        header, at = {}, 0
        for layer in range(layers):
            header[f"{layer:03}"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + 2**20]}
            at += 2**20
        import json

        text = json.dumps(header).encode()
        with Store.open(str(tmp_path / f"store{layers}"), create=True) as store:
            stored = []
            for label in ("base", "ours", "theirs"):
                path = tmp_path / f"{label}{layers}"
                with path.open("wb") as stream:
                    stream.write(len(text).to_bytes(8, "little") + text)
                    for _ in range(layers):
                        stream.write(draw.standard_normal(shape).astype("f4").tobytes())
                with path.open("rb", buffering=0) as stream:
                    stored.append(StoredCheckpoint(store, store.put_file(stream).manifest_digest, label))
            merge = merged(Sides(*stored), "ties density=0.5")
            tracemalloc.start()
            store.put_file(source_of(merge, tempfile.TemporaryFile), stored[1].digest)
            _, high = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return high

    few, many = peak(3), peak(12)

    assert many < few + 8 * 2**20
    assert Nothing().table() == {}
