"""The same weights in another container are stored once: only skeletons and manifests are new."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.digest import Digest, digest_of
from thetastore.manifest import Chunk, Manifest
from thetastore.store import Store
from thetastore.testing.formats import mutations

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures")
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store"), create=True) as store:
        yield store


def weights() -> Arrays:
    """Return tensors of one and of several chunks, with odd edges and leading axes."""
    rng = np.random.default_rng(4)
    return {
        "embed": rng.standard_normal((5003, 96), dtype=np.float32),
        "experts": rng.standard_normal((3, 700, 401), dtype=np.float32).astype(np.float16),
        "long": rng.standard_normal(300_001, dtype=np.float32),
        "positions": np.arange(777, dtype=np.int64),
    }


def as_npz(arrays: Arrays) -> bytes:
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def as_npy(array: np.ndarray[Any, Any]) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def as_gguf(arrays: Arrays, gguf_file: Callable[..., bytes]) -> bytes:
    numbers = {"<f4": 0, "<f2": 1, "<i8": 27}
    return gguf_file({name: (numbers[a.dtype.str], a.shape, a.tobytes()) for name, a in arrays.items()})


def put(store: Store, raw: bytes) -> Manifest:
    """Store a file, and make sure that it comes back."""
    digest, manifest = store.put_file(io.BytesIO(raw))
    assert b"".join(bytes(piece) for piece in store.read_file(manifest, digest)) == raw
    return manifest


def chunks(store: Store, manifest: Manifest) -> set[Chunk]:
    return {placed.chunk for placed in iter_chunks(store.objects, manifest)}


def digests(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...], Digest]]:
    return {tensor.name: (tensor.dtype, tensor.shape, tensor.digest) for tensor in manifest.tensors}


def test_another_container_adds_nothing_but_its_skeleton(store: Store, gguf_file: Callable[..., bytes]) -> None:
    arrays = weights()
    first = put(store, safetensors_bytes(arrays))

    for form, raw in [("npz", as_npz(arrays)), ("gguf", as_gguf(arrays, gguf_file))]:
        manifest = put(store, raw)
        new = chunks(store, manifest) - chunks(store, first)

        assert manifest.format == form
        assert digests(manifest) == digests(first)
        assert sum(chunk.raw_bytes for chunk in new) <= len(raw) - sum(array.nbytes for array in arrays.values())


def test_padding_at_the_end_of_a_gguf_file_may_be_left_out(store: Store, gguf_file: Callable[..., bytes]) -> None:
    arrays = weights()
    raw = as_gguf(arrays, gguf_file)
    padded = put(store, raw)

    unpadded = put(store, raw[: -(-arrays["positions"].nbytes % 32)])

    assert (padded.format, unpadded.format) == ("gguf", "gguf")
    assert unpadded.tensors == padded.tensors


def test_an_array_in_a_file_of_its_own_adds_nothing_but_its_header(store: Store) -> None:
    arrays = weights()
    first = put(store, safetensors_bytes(arrays))

    for name, array in arrays.items():
        manifest = put(store, as_npy(array))

        assert manifest.format == "npy"
        assert digests(manifest)[""] == digests(first)[name]
        assert [chunk.raw_bytes for chunk in chunks(store, manifest) - chunks(store, first)] == [128]


def test_files_of_the_real_libraries_share_their_tensors(store: Store) -> None:
    manifests = {}
    for name in ("torch/model.safetensors", "torch/model.pt", "gguf/model.gguf"):
        with open(os.path.join(FIXTURES, name), "rb") as file:
            manifests[name] = put(store, file.read())
    first, pt, gguf = manifests.values()
    tensor_digests = {tensor.digest for tensor in first.tensors}

    assert [manifest.format for manifest in manifests.values()] == ["safetensors", "torch-zip", "gguf"]
    assert digests(pt) == digests(first)
    assert {tensor.digest for tensor in gguf.tensors} == tensor_digests
    for manifest in manifests.values():
        assert tensor_digests <= {chunk.digest for chunk in chunks(store, manifest)}


def test_a_fortran_array_has_the_digest_of_its_values_and_the_chunks_of_its_transpose(store: Store) -> None:
    array = np.random.default_rng(5).standard_normal((1500, 611), dtype=np.float32)
    transposed = put(store, as_npy(np.ascontiguousarray(array.T)))

    for raw in (as_npy(np.asfortranarray(array)), as_npz({"t": np.asfortranarray(array)})):
        manifest = put(store, raw)

        assert manifest.tensors[0].digest == digest_of(array.tobytes())
        assert manifest.tensors[0].strides == (1, 1500)
        assert {chunk for chunk in chunks(store, transposed) if chunk.raw_bytes > 128} <= chunks(store, manifest)


def test_quantised_tensors_are_shared_between_files(store: Store, gguf_file: Callable[..., bytes]) -> None:
    rng = np.random.default_rng(6)
    first, second = rng.bytes(34 * 4096 * 16), rng.bytes(34 * 64)
    whole = put(store, gguf_file({"a": (8, (4096, 512), first), "b": (8, (64, 32), second)}))

    alone = put(store, gguf_file({"b": (8, (64, 32), second), "renamed": (8, (4096, 512), first)}))

    assert digests(alone)["renamed"] == digests(whole)["a"] == ("gguf_q8_0", (4096, 512), digest_of(first))
    assert sum(chunk.raw_bytes for chunk in chunks(store, alone) - chunks(store, whole)) < 500


@pytest.mark.parametrize("missing_bytes", [1, 40, 70_000])
def test_what_is_cut_short_is_kept_as_opaque_bytes(
    store: Store, gguf_file: Callable[..., bytes], missing_bytes: int
) -> None:
    arrays = weights()
    for raw in (as_gguf(arrays, gguf_file), as_npz(arrays), as_npy(arrays["embed"]), as_npy(arrays["embed"].T)):
        assert put(store, raw[:-missing_bytes]).format == "opaque"


def test_damaged_files_come_back_whatever_they_are_taken_for(store: Store, gguf_file: Callable[..., bytes]) -> None:
    small = {name: np.ascontiguousarray(array[:7, ...]) for name, array in weights().items() if array.ndim == 2}
    originals = [
        as_gguf(small, gguf_file),
        as_npz(small),
        as_npy(small["embed"]),
        as_npy(np.asfortranarray(small["embed"])),
    ]
    formats = set()
    for seed, original in enumerate(originals):
        for raw in mutations(original, 60, seed):
            formats.add(put(store, raw).format)

    assert formats == {"gguf", "npz", "npy", "opaque"}
