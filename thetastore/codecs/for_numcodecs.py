"""Codec `planes` for numcodecs, so that Zarr, kerchunk and others can read and write what we store.

Found by numcodecs through the entry point group `numcodecs.codecs`; nothing else imports this module, since numcodecs
costs 127 ms. As a Zarr compressor it takes the place of Blosc with a bitshuffle:

    zarr.create_array(..., zarr_format=2, compressors=Planes("float32"))
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numcodecs.abc import Codec  # type: ignore[import-untyped]
from numcodecs.compat import ensure_contiguous_ndarray  # type: ignore[import-untyped]
from numcodecs.registry import register_codec  # type: ignore[import-untyped]

from thetastore.codecs import planes
from thetastore.codecs.payload import MAX_RAW_BYTES, read_header
from thetastore.dtypes import DTYPES

__all__ = ["Planes"]

Array = np.ndarray[Any, np.dtype[Any]]


class Planes(Codec):  # type: ignore[misc]  # numcodecs has no types
    """Byte planes, each Huffman-coded where that pays: see `docs/format/codecs.md`.

    Args:
        dtype: element type, a name of `thetastore.dtypes.DTYPES`. It steers encoding only: any payload can be decoded.
    """

    codec_id: ClassVar[str] = "thetastore.planes"

    def __init__(self, dtype: str) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype '{dtype}' is unknown; known are {', '.join(DTYPES)}")
        self.dtype = dtype

    def encode(self, buf: Any) -> memoryview:
        """Return the payload for `buf`, a contiguous buffer of at most 4 GiB - 1.

        Raises:
            ValueError: `buf` is larger.
        """
        raw = _bytes_of(buf)
        payload = planes.encode(raw, planes.plan(raw, self.dtype), at_any_size=True)
        if payload is None:
            raise ValueError(f"chunk of {raw.nbytes} bytes is over the codec's limit of {MAX_RAW_BYTES}: chunk smaller")
        return payload

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the raw bytes, in `out` if it is given.

        Else memory is allocated for what the payload claims, once its header is consistent: planes that are constant
        claim up to 4 GiB in a few bytes, so whoever reads what strangers wrote gives `out`.

        Raises:
            MalformedError: the payload breaks a rule of its format, or is for another length than `out` has.
        """
        payload = _bytes_of(buf)
        if out is None:
            raw_bytes = planes.raw_bytes_of(payload)
            read_header(payload, raw_bytes)  # a length that nothing bears out is not allocated
            out = np.empty(raw_bytes, dtype=np.uint8)
        planes.decode(payload, _bytes_of(out))
        return out


def _bytes_of(buf: Any) -> memoryview:
    return memoryview(ensure_contiguous_ndarray(buf).reshape(-1).view(np.uint8))


register_codec(Planes)
