"""Zarr and others reach the planes codec through numcodecs."""

from __future__ import annotations

import os
import tomllib

import numpy as np
import pytest

numcodecs = pytest.importorskip("numcodecs")

from thetastore.codecs.for_numcodecs import Planes  # noqa: E402 - imports numcodecs
from thetastore.dtypes import DTYPES  # noqa: E402
from thetastore.errors import MalformedError  # noqa: E402

PYPROJECT = os.path.join(os.path.dirname(__file__), "..", "..", "pyproject.toml")


def test_the_entry_point_names_the_codec() -> None:
    with open(PYPROJECT, "rb") as file:
        entry_points = tomllib.load(file)["project"]["entry-points"]["numcodecs.codecs"]

    assert entry_points == {Planes.codec_id: f"{Planes.__module__}:{Planes.__name__}"}


def test_get_codec_gives_an_equal_codec_from_its_configuration() -> None:
    codec = numcodecs.get_codec({"id": "thetastore.planes", "dtype": "bfloat16"})

    assert codec == Planes("bfloat16")
    assert numcodecs.get_codec(codec.get_config()) == codec


def test_an_unknown_element_type_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="float128"):
        Planes("float128")


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("length", [0, 1, 7, 500, 4099, 100_000])
def test_any_buffer_comes_back_also_where_nothing_is_saved(dtype, length) -> None:
    rng = np.random.default_rng(length)
    codec = Planes(dtype)
    for raw in (rng.bytes(length), bytes(length)):
        payload = codec.encode(raw)
        out = np.empty(length, np.uint8)

        assert bytes(codec.decode(payload)) == raw
        assert codec.decode(payload, out=out) is out
        assert out.tobytes() == raw


def test_an_out_of_another_length_is_refused() -> None:
    payload = Planes("float32").encode(np.ones(500, np.float32))

    with pytest.raises(MalformedError):
        Planes("float32").decode(payload, out=np.empty(499, np.float32))


def test_a_zarr_array_is_written_and_read_through_it(tmp_path, weights_of) -> None:
    zarr = pytest.importorskip("zarr")
    values = np.frombuffer(weights_of("float32", 120_000), np.float32).reshape(300, 400)
    path = str(tmp_path / "weights.zarr")

    array = zarr.create_array(
        path, shape=values.shape, chunks=(128, 128), dtype="f4", zarr_format=2, compressors=Planes("float32")
    )
    array[:] = values
    again = zarr.open_array(path, mode="r")

    assert again[:].tobytes() == values.tobytes()
    assert again.nbytes_stored() < 0.95 * values.nbytes
