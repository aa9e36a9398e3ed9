"""The conformance suite of format plug-ins, and what is this format's own. Run by `pytest` where both are installed."""

import hashlib
import struct

import pytest
from thetastore_nrrd import MAX_HEADER_BYTES, Nrrd

from thetastore.errors import NotThisFormat
from thetastore.testing.formats import FormatConformance, Sample, scan_bytes


def nrrd(raw: bytes, **fields: str) -> bytes:
    given = {"type": "float", "dimension": "2", "sizes": "3 2", "encoding": "raw", "endian": "little"} | fields
    header = "".join(f"{name}: {value}\n" for name, value in given.items())
    return f"NRRD0005\n# made by a test\n{header}note:=anything\n\n".encode() + raw


def seen(dtype: str, shape: tuple[int, ...], raw: bytes) -> tuple[str, tuple[int, ...], str]:
    return dtype, shape, hashlib.sha256(raw).hexdigest()


FLOATS = struct.pack("<6f", *range(6))


class TestNrrd(FormatConformance):
    def make_format(self) -> Nrrd:
        return Nrrd()

    def samples(self) -> list[Sample]:
        swapped = struct.pack(">4h", *range(4))
        return [
            Sample("floats", nrrd(FLOATS), {"": seen("float32", (2, 3), FLOATS)}),
            Sample("named", nrrd(FLOATS, content="a scan"), {"a scan": seen("float32", (2, 3), FLOATS)}),
            Sample(
                "big-endian",
                nrrd(swapped, type="short", dimension="1", sizes="4", endian="big"),
                {"": seen("int16_be", (4,), swapped)},
            ),
        ]


@pytest.mark.parametrize(
    "raw",
    [
        nrrd(FLOATS, encoding="gzip"),
        nrrd(FLOATS, dimension="3"),
        nrrd(FLOATS, sizes="-3 2"),
        nrrd(FLOATS, sizes="9999999999999999999 2"),
        nrrd(FLOATS, type="block"),
        b"NRRD0005\n" + b"#" * MAX_HEADER_BYTES,
    ],
)
def test_what_is_not_sure_is_declined(raw: bytes) -> None:
    with pytest.raises(NotThisFormat):
        scan_bytes(Nrrd(), raw)
