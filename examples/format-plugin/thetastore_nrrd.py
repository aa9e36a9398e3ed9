"""The layout of `*.nrrd`: a text header, an empty line, then the elements of one array.

Only what lies in the file as it is: `encoding: raw`, elements of a known type, no data in other files.

Source: https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import math

from thetastore.dtypes import big_endian, raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import NeedBytes
from thetastore.layout import Layout, Span, Tensor, checked_layout

MAX_HEADER_BYTES = 16 << 10
MAX_DIGITS = 18
"""Of a length: enough for any file, and cheap to convert."""

_DTYPES = {
    "signed char": "int8",
    "uchar": "uint8",
    "unsigned char": "uint8",
    "short": "int16",
    "ushort": "uint16",
    "int": "int32",
    "uint": "uint32",
    "longlong": "int64",
    "ulonglong": "uint64",
    "float": "float32",
    "double": "float64",
}


class Nrrd:
    """`*.nrrd` with raw elements."""

    name = "nrrd"
    version = 0

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic is there."""
        return head.startswith(b"NRRD000")

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the array; see `thetastore.formats.HeaderFormat.scan_header`."""
        if not self.sniff(prefix) and len(prefix) >= 8:
            raise NotThisFormat("not the magic of NRRD")
        end = prefix.find(b"\n\n", 0, MAX_HEADER_BYTES)
        if end < 0:
            if len(prefix) >= MAX_HEADER_BYTES:
                raise NotThisFormat(f"a header of more than {MAX_HEADER_BYTES} bytes")
            # One byte more is all that is known to be there; the store offers four times the prefix.
            raise NeedBytes(len(prefix) + 1)
        fields = _fields(prefix[:end])
        dtype, shape = _dtype(fields), _shape(fields)
        offset = end + 2
        nbytes = raw_bytes_of(dtype, math.prod(shape))
        span = Span(offset, nbytes, dtype, shape)
        tensor = Tensor(fields.get("content", ""), dtype, shape, offset)
        return checked_layout(self.name, self.version, offset + nbytes, [span], [tensor])


def _fields(header: bytes) -> dict[str, str]:
    """Return the fields of a header; comments begin with `#`, keys of a user's own are followed by `:=`."""
    try:
        lines = header.decode("ascii").split("\n")[1:]
    except UnicodeDecodeError:
        raise NotThisFormat("a header that is not ASCII") from None
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        if line.startswith("#") or ":=" in line:
            continue
        if not colon or name in fields:
            raise NotThisFormat(f"no field, or one that is there twice: {line[:80]!r}")
        fields[name] = value.strip()
    if fields.get("encoding") != "raw" or fields.keys() & {"data file", "datafile", "byte skip", "line skip"}:
        raise NotThisFormat("elements that are encoded, or lie elsewhere")
    return fields


def _dtype(fields: dict[str, str]) -> str:
    dtype = _DTYPES.get(fields.get("type", ""))
    endian = fields.get("endian", "little")
    if dtype is None or endian not in ("little", "big"):
        raise NotThisFormat("elements of an unknown type")
    return big_endian(dtype) if endian == "big" else dtype


def _shape(fields: dict[str, str]) -> tuple[int, ...]:
    """Return the lengths in C order; NRRD lists the fastest axis first."""
    sizes = fields.get("sizes", "").split()
    if fields.get("dimension") != str(len(sizes)) or not all(
        size.isdigit() and len(size) <= MAX_DIGITS for size in sizes
    ):
        raise NotThisFormat("sizes that are not as many numbers as there are dimensions")
    return tuple(int(size) for size in reversed(sizes))
