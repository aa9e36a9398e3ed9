"""Of a file that is elsewhere, the chunks of some tensors are copied, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.digest import digest_of
from thetastore.errors import ObjectMissingError
from thetastore.manifest import Tensor
from thetastore.selection import Ranges, glob_wants, named_wants, reach_bytes
from thetastore.store import Store


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6),
    st.integers(0, 80),
    st.integers(1, 30),
)
def test_ranges_overlap_as_sets_of_bytes_do(places, start, nbytes):
    tensors = [
        Tensor(f"t{n}", "uint8", (length,), offset, None, digest_of(b"")) for n, (offset, length) in enumerate(places)
    ]
    wanted = {byte for offset, length in places[::2] for byte in range(offset, offset + length)}

    ranges = Ranges(tensors, named_wants(f"t{n}" for n in range(0, len(places), 2)))

    assert ranges.overlap(start, start + nbytes) == bool(wanted & set(range(start, start + nbytes)))


def test_globs_are_of_whole_names_and_know_case():
    wants = glob_wants(["model.layers.[0-1].*", "lm_head.weight"])

    assert wants("model.layers.0.mlp.up.weight")
    assert wants("lm_head.weight")
    assert not wants("model.layers.2.mlp.up.weight")
    assert not wants("Lm_head.weight")
    assert not wants("xlm_head.weight")


def test_a_strided_tensor_reaches_to_its_last_element():
    assert reach_bytes(Tensor("t", "float32", (3, 2), 0, (1, 10), digest_of(b""))) == 4 * 13
    assert reach_bytes(Tensor("t", "float32", (3, 0), 0, (1, 10), digest_of(b""))) == 0
    assert reach_bytes(Tensor("t", "bfloat16", (3, 2), 7, None, digest_of(b""))) == 12


def model():
    random = np.random.default_rng(1)
    return {f"layers.{n}.w": random.standard_normal((300, 1000)).astype(np.float32) for n in range(8)}


def put(store, arrays):
    def new(name, array):
        return NewTensor(name, "float32", array.shape, lambda: iter([array.tobytes()]))

    return store.put_file(safetensors_source([new(*item) for item in arrays.items()]))


def test_a_part_of_a_file_is_copied(tmp_path):
    arrays, wants = model(), glob_wants(["layers.[25].w"])
    with (
        Store.open(str(tmp_path / "a"), create=True) as source,
        Store.open(str(tmp_path / "b"), create=True) as target,
    ):
        stored = put(source, arrays)
        needed = set(source.iter_objects(stored.manifest_digest, wants))

        copied = source.send_to(target, [stored.manifest_digest], wants=wants)

        reader = target.tensors(stored.manifest, stored.manifest_digest)
        assert copied.object_count == len(needed) < len(set(source.iter_objects(stored.manifest_digest))) / 2
        assert reader.read("layers.2.w") == arrays["layers.2.w"].tobytes()
        assert target.missing_objects([stored.manifest_digest], wants) == []
        assert target.missing_objects([stored.manifest_digest])
        with pytest.raises(ObjectMissingError, match="of tensor 'layers.3.w'"):
            reader.read("layers.3.w")

        source.send_to(target, [stored.manifest_digest])

        assert target.missing_objects([stored.manifest_digest]) == []


def test_of_a_part_that_is_a_difference_no_base_is_copied(tmp_path):
    arrays, wants = model(), glob_wants(["layers.3.w"])
    tuned = {name: array + np.float32(1e-4) * (np.arange(1000) % 7 == 0) for name, array in arrays.items()}
    with (
        Store.open(str(tmp_path / "a"), create=True) as source,
        Store.open(str(tmp_path / "b"), create=True) as target,
    ):
        base = put(source, arrays)
        stored = put(source, {name: array.astype(np.float32) for name, array in tuned.items()})
        assert any(
            source.objects.entry(placed.chunk.digest).bases
            for placed in source.tensors(stored.manifest, stored.manifest_digest).chunks("layers.3.w")
        )

        source.send_to(target, [stored.manifest_digest], wants=wants)

        reader = target.tensors(stored.manifest, stored.manifest_digest)
        assert reader.read("layers.3.w") == tuned["layers.3.w"].astype(np.float32).tobytes()
        assert not target.objects.contains(base.manifest_digest)
