"""The element types of HDF5: numbers described by their bits, and here by their names.

Source: HDF5 File Format Specification 3.0, section IV.A.2.d (datatype message).
"""

from __future__ import annotations

import struct

from thetastore.dtypes import DTYPES, big_endian

_HEAD = struct.Struct("<B3sI")
_INTEGER = struct.Struct("<HH")
_FLOAT = struct.Struct("<HHBBBBI")
_FIXED_POINT, _FLOATING_POINT, _OPAQUE, _COMPOUND, _ENUM = 0, 1, 5, 6, 8

_FLOATS = {
    # bytes, exponent at, exponent bits, mantissa bits, bias
    (8, 52, 11, 52, 1023): "float64",
    (4, 23, 8, 23, 127): "float32",
    (2, 10, 5, 10, 15): "float16",
    (2, 7, 8, 7, 127): "bfloat16",
}
"""What is narrower cannot be told: HDF5 does not say what the types of eight bits make of infinities and NaNs."""
_TRUTH = (b"FALSE\0TRUE\0" + b"\0\1", b"FALSE\0\0\0TRUE\0\0\0\0" + b"\0\1")
"""Names and values of the enumeration that h5py makes of booleans; before version 3 names are padded."""


def dtype_of(raw: bytes) -> str | None:
    """Return the name of the elements that a datatype message describes; None for all that are no plain numbers."""
    if len(raw) < _HEAD.size:
        return None
    head, bits, nbytes = _HEAD.unpack_from(raw)
    kind, properties = head & 0x0F, raw[_HEAD.size :]
    if kind == _FIXED_POINT:
        return _integer(bits[0], nbytes, properties)
    if kind == _FLOATING_POINT:
        return _float(bits, nbytes, properties)
    if kind == _COMPOUND:
        return _complex(head >> 4, bits, nbytes, properties)
    if kind == _ENUM:
        return _enum(bits, nbytes, properties)
    return None


def opaque_bytes_of(raw: bytes) -> int | None:
    """Return the width of elements of which a datatype message says nothing else; None if it says more."""
    if len(raw) < _HEAD.size or raw[0] & 0x0F != _OPAQUE:
        return None
    nbytes: int = _HEAD.unpack_from(raw)[2]
    return nbytes


def _integer(bits: int, nbytes: int, properties: bytes) -> str | None:
    name = f"{'int' if bits & 0x08 else 'uint'}{8 * nbytes}"
    if len(properties) < _INTEGER.size or nbytes not in (1, 2, 4, 8):
        return None
    if _INTEGER.unpack_from(properties) != (0, 8 * nbytes):
        return None
    return big_endian(name) if bits & 0x01 else name


def _float(bits: bytes, nbytes: int, properties: bytes) -> str | None:
    if len(properties) < _FLOAT.size:
        return None
    offset, precision, exponent_at, exponent, mantissa_at, mantissa, bias = _FLOAT.unpack_from(properties)
    name = _FLOATS.get((nbytes, exponent_at, exponent, mantissa, bias))
    is_usual = not offset and precision == 8 * nbytes and not mantissa_at and bits[1] == precision - 1
    if name is None or not is_usual or bits[0] & 0x70 != 0x20 or bits[0] & 0x40:
        return None
    return big_endian(name) if bits[0] & 0x01 else name


def _enum(bits: bytes, nbytes: int, properties: bytes) -> str | None:
    """Return bool for what h5py makes of it; the integers for any other enumeration."""
    if not properties or properties[0] & 0x0F != _FIXED_POINT:  # an enumeration of enumerations could nest for ever
        return None
    base = dtype_of(properties)
    members = properties[_HEAD.size + _INTEGER.size :]
    if base == "int8" and nbytes == 1 and bits[:2] == b"\2\0" and members.startswith(_TRUTH):
        return "bool"
    return base if base is not None and DTYPES[base].bits == 8 * nbytes else None


def _complex(version: int, bits: bytes, nbytes: int, properties: bytes) -> str | None:
    """Return a complex type for two floats that are called `r` and `i`, one after the other, as h5py writes them."""
    if int.from_bytes(bits[:2], "little") != 2 or version not in (1, 3, 4):
        return None
    name_bytes, skip = (8, 4 + 28) if version == 1 else (2, 1)
    member_bytes = name_bytes + skip + _HEAD.size + _FLOAT.size
    parts = []
    for number, name in enumerate((b"r", b"i")):
        member = properties[number * member_bytes : (number + 1) * member_bytes]
        offset = int.from_bytes(member[name_bytes : name_bytes + (4 if version == 1 else 1)], "little")
        if len(member) < member_bytes or member[:name_bytes].rstrip(b"\0") != name or offset != number * nbytes // 2:
            return None
        parts.append(dtype_of(member[name_bytes + skip :]))
    wide = {"float16": "complex32", "float32": "complex64", "float64": "complex128"}
    wide |= {big_endian(part): big_endian(whole) for part, whole in wide.items()}
    name_of = wide.get(parts[0] or "")
    return name_of if parts[0] == parts[1] and name_of and DTYPES[name_of].bits == 8 * nbytes else None
