"""Gathering a tensor's bytes in C order, against numpy's own idea of strides."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore import strided
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError
from thetastore.layout import Tensor
from thetastore.strided import iter_c_order
from thetastore.testing.formats import BytesFile

_NUMPY_DTYPES = {"uint8": "u1", "bfloat16": "u2", "float32": "u4", "float64": "u8", "complex128": "V16"}


def expected_bytes(raw: bytes, tensor: Tensor) -> bytes:
    """Return the C-order bytes by way of numpy."""
    element_bytes = DTYPES[tensor.dtype].bits // 8
    assert tensor.strides is not None
    array = numpy.ndarray(
        tensor.shape,
        _NUMPY_DTYPES[tensor.dtype],
        raw,
        tensor.offset,
        [step * element_bytes for step in tensor.strides],
    )
    return array.tobytes()


@st.composite
def strided_tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(_NUMPY_DTYPES)))
    axes = draw(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 2, 3, 7, 9, 50, 120])), max_size=5))
    return Tensor("t", dtype, tuple(n for n, _ in axes), draw(st.integers(0, 40)), tuple(step for _, step in axes))


def file_for(tensor: Tensor) -> bytes:
    element_bytes = DTYPES[tensor.dtype].bits // 8
    assert tensor.strides is not None
    reach = 1 + sum(max(n - 1, 0) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    return numpy.random.default_rng(7).bytes(tensor.offset + reach * element_bytes)


@settings(max_examples=300, deadline=None)
@given(strided_tensors(), st.sampled_from([1, 3, 100, 1 << 20]), st.sampled_from([64, 1000, 16 << 20]), st.booleans())
def test_any_strides_give_what_numpy_gives(tensor: Tensor, block_bytes: int, tile_bytes: int, jump: bool) -> None:
    raw = file_for(tensor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "TILE_BYTES", tile_bytes)
        patch.setattr(strided, "_GAP_BYTES", 0 if jump else 4096)
        blocks = list(iter_c_order(BytesFile(raw), tensor, block_bytes))

    assert b"".join(blocks) == expected_bytes(raw, tensor)
    assert all(0 < len(block) <= block_bytes for block in blocks)


@pytest.mark.parametrize("strides", [(1, 700), (700, 1), (0, 3), (3, 0)])
def test_tiles_join_without_seam(strides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strided, "TILE_BYTES", 100_000)
    tensor = Tensor("t", "float32", (700, 300), 12, strides)
    raw = file_for(tensor)

    assert b"".join(iter_c_order(BytesFile(raw), tensor)) == expected_bytes(raw, tensor)


def test_a_contiguous_tensor_is_read_as_it_lies() -> None:
    raw = bytes(range(200))

    assert b"".join(iter_c_order(BytesFile(raw), Tensor("t", "float16", (5, 7), 9), 16)) == raw[9:79]


def test_packed_elements_are_read_as_whole_bytes() -> None:
    raw = bytes(range(20))

    assert b"".join(iter_c_order(BytesFile(raw), Tensor("t", "float4_e2m1fn", (3, 2), 1), 16)) == raw[1:4]


@pytest.mark.parametrize("strides", [None, (5, 1, 1)])
def test_an_empty_tensor_has_no_bytes(strides: tuple[int, ...] | None) -> None:
    assert list(iter_c_order(BytesFile(b""), Tensor("t", "float32", (3, 0, 5), 0, strides))) == []


@pytest.mark.parametrize("strides", [None, ()])
def test_a_scalar_is_one_element(strides: tuple[int, ...] | None) -> None:
    assert list(iter_c_order(BytesFile(b"xabcd"), Tensor("t", "float32", (), 1, strides))) == [b"abcd"]


@pytest.mark.parametrize("strides", [None, (1, 4)])
def test_a_file_that_ends_within_the_tensor_is_reported(strides: tuple[int, ...] | None) -> None:
    with pytest.raises(MalformedError, match="ends within a tensor"):
        list(iter_c_order(BytesFile(bytes(60)), Tensor("t", "float32", (4, 4), 0, strides)))


def test_the_bits_of_every_element_survive() -> None:
    """Signalling NaNs must not be quietened on their way."""
    raw = bytes.fromhex("010000000000f07f") * 8
    tensor = Tensor("t", "complex128", (2, 2), 0, (1, 2))

    assert b"".join(iter_c_order(BytesFile(raw), tensor)) == raw
