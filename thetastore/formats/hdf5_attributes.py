"""Attributes of HDF5 objects that are text.

HDF5 knows no bfloat16 when h5py writes it: the elements are opaque, and Keras says what they are in an attribute.

Source: HDF5 File Format Specification 3.0, sections IV.A.2.m (attribute message), III.E (global heap).
"""

from __future__ import annotations

import struct

from thetastore.errors import NotThisFormat
from thetastore.formats.hdf5_objects import ATTRIBUTE, Hdf5File, Message

MAX_TEXT_BYTES = 64
_MAX_COLLECTION_BYTES = 64 << 10
"""The global heap keeps texts together, 4 KiB of them as a rule."""

_HEAD = struct.Struct("<BBHHH")
_REFERENCE = struct.Struct("<IQI")
_COLLECTION = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<HHIQ")
_VARIABLE_LENGTH = 9


def text_attribute(file: Hdf5File, messages: list[Message], name: bytes) -> str | None:
    """Return a short text that is an attribute of an object; None if there is no such text."""
    for message in messages:
        if message.type == ATTRIBUTE and not message.is_shared and len(message.raw) > _HEAD.size:
            found, datatype, value = _parts(message.raw)
            if found == name and datatype[:1] and datatype[0] & 0x0F == _VARIABLE_LENGTH:
                return _text(file, value)
    return None


def _parts(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return name, datatype and value of an attribute; empty ones if it is of another version."""
    version, _, name_bytes, type_bytes, space_bytes = _HEAD.unpack_from(raw)
    if version not in (1, 3):
        return b"", b"", b""
    step = 8 if version == 1 else 1
    name_at = _HEAD.size + (1 if version == 3 else 0)
    type_at = name_at + -(-name_bytes // step) * step
    space_at = type_at + -(-type_bytes // step) * step
    value_at = space_at + -(-space_bytes // step) * step
    return raw[name_at : name_at + name_bytes].rstrip(b"\0"), raw[type_at : type_at + type_bytes], raw[value_at:]


def _text(file: Hdf5File, value: bytes) -> str | None:
    """Read one text of the global heap."""
    if len(value) != _REFERENCE.size:
        return None
    nbytes, collection, wanted = _REFERENCE.unpack(value)
    magic, version, collection_bytes = _COLLECTION.unpack(file.read(collection, _COLLECTION.size))
    if magic != b"GCOL" or version != 1 or nbytes > MAX_TEXT_BYTES:
        raise NotThisFormat(f"no short text in a global heap at {collection}")
    raw = file.read(collection, min(collection_bytes, _MAX_COLLECTION_BYTES))
    at = _COLLECTION.size
    while at + _HEAP_OBJECT.size <= len(raw):
        index, _, _, object_bytes = _HEAP_OBJECT.unpack_from(raw, at)
        at += _HEAP_OBJECT.size
        if index == wanted:
            return raw[at : at + nbytes].decode("ascii", "replace")
        at += -(-object_bytes // 8) * 8
        if index == 0:
            break
    return None
