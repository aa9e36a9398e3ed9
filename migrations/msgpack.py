"""The little of MessagePack that Git-Theta's objects are made of: maps of texts and of bytes.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import NamedTuple

from thetastore.errors import MalformedError

_MOST_DEPTH = 8
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class _Read(NamedTuple):
    value: object
    stop: int


def unpack(raw: bytes | bytearray) -> object:
    """Return what is packed; bytes as views of `raw`.

    Raises:
        MalformedError: it is cut off, has more behind it, or something besides maps, texts and bytes.
    """
    read = _value(memoryview(raw).toreadonly(), 0, 0)
    if read.stop != len(raw):
        raise MalformedError(f"{len(raw) - read.stop} bytes follow a packed value")
    return read.value


def _value(raw: memoryview, at: int, depth: int) -> _Read:
    kind = raw[at] if at < len(raw) else -1
    if kind & 0xF0 == 0x80:
        return _map(raw, at + 1, kind & 0x0F, depth)
    if kind & 0xE0 == 0xA0:
        return _text(raw, at + 1, kind & 0x1F)
    for sizes, read in ((_TEXTS, _text), (_BYTES, _bytes)):
        if kind in sizes:
            return read(raw, at + 1 + sizes[kind], _length(raw, at + 1, sizes[kind]))
    if kind in _MAPS:
        return _map(raw, at + 1 + _MAPS[kind], _length(raw, at + 1, _MAPS[kind]), depth)
    raise MalformedError(f"no map, text or bytes at {at} of {len(raw)} packed bytes")


def _length(raw: memoryview, at: int, nbytes: int) -> int:
    return int.from_bytes(_bytes(raw, at, nbytes).value, "big")  # type: ignore[arg-type]


def _bytes(raw: memoryview, at: int, nbytes: int) -> _Read:
    if nbytes > len(raw) - at:
        raise MalformedError(f"{nbytes} packed bytes are said to follow, {len(raw) - at} do")
    return _Read(raw[at : at + nbytes], at + nbytes)


def _text(raw: memoryview, at: int, nbytes: int) -> _Read:
    value = _bytes(raw, at, nbytes).value
    assert isinstance(value, memoryview)
    return _Read(bytes(value).decode("utf-8", "replace"), at + nbytes)


def _map(raw: memoryview, at: int, count: int, depth: int) -> _Read:
    if depth > _MOST_DEPTH:
        raise MalformedError(f"maps are packed more than {_MOST_DEPTH} deep")
    found: dict[str, object] = {}
    for _ in range(count):  # each turn takes a byte at least, so a count that lies ends soon
        key = _value(raw, at, depth + 1)
        value = _value(raw, key.stop, depth + 1)
        found[str(key.value)] = value.value
        at = value.stop
    return _Read(found, at)
