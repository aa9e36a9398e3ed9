"""The directory of a zip file, read strictly and within bounds.

Only what stored (uncompressed) entries need. A zip names each entry twice, in the central directory and before its
bytes, and readers that trust different copies see different files; here both must agree, no two entries may share
bytes, and the directory must end the file. Whatever is odd is refused: the file is then kept as opaque bytes.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 (records) and 4.5.3 (zip64 extra field).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, RandomAccess

MAX_ENTRIES = 250_000
"""A layout has at most 200,000 tensors; an entry costs about 400 bytes of memory and 7 us."""

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")

_CENTRAL_CRC = 16
_LOCAL_CRC = 14

_FULL16 = 0xFFFF
_FULL32 = 0xFFFFFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR_FOLLOWS = 0x0008
_ZIP64_EXTRA = 1


class ZipEntry(NamedTuple):
    """One file of an archive."""

    offset: int
    """Byte offset in the archive of the entry's own bytes, after its local header."""
    nbytes: int
    """How many bytes it takes in the archive."""
    stored: bool
    """Whether those bytes are the entry's contents as they are."""


class ChecksumPlaces(NamedTuple):
    """The contents of a stored entry, and where the archive holds their CRC-32."""

    offset: int
    nbytes: int
    places: tuple[int, ...]
    """Byte offsets of four little-endian bytes each: directory, local header or what follows the contents."""


class _Central(NamedTuple):
    offset: int
    name: bytes
    flags: int
    method: int
    stored_bytes: int
    raw_bytes: int


def read_directory(file: RandomAccess) -> dict[str, ZipEntry]:
    """Return the entries by name, in the order of the directory; folders are left out.

    Raises:
        NotThisFormat: anything that two readers could see in two ways, and more than `MAX_ENTRIES`.
    """
    offset, nbytes, count = _find_directory(file)
    directory = _read(file, offset, nbytes)
    records = _parse_directory(directory, count)
    entries: dict[str, ZipEntry] = {}
    for record in records:
        name = _checked_name(record.name)
        if name in entries:
            raise NotThisFormat(f"two zip entries are named '{name[:80]}'")
        entries[name] = _locate(file, record, offset)
    _check_overlaps(records, entries)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}


def checksum_places(file: RandomAccess) -> list[ChecksumPlaces]:
    """Return where the checksums of the stored entries are.

    Raises:
        NotThisFormat: as `read_directory`.
    """
    at, nbytes, count = _find_directory(file)
    directory = _read(file, at, nbytes)
    found = []
    for record in _parse_directory(directory, count):
        entry = _locate(file, record, at)
        if entry.stored:
            found.append(ChecksumPlaces(entry.offset, entry.nbytes, _places(file, record, entry, at)))
        at += _CENTRAL.size + len(record.name) + sum(_CENTRAL.unpack_from(_read(file, at, _CENTRAL.size))[11:13])
    return found


def _places(file: RandomAccess, record: _Central, entry: ZipEntry, central_at: int) -> tuple[int, ...]:
    in_directory = central_at + _CENTRAL_CRC
    if not record.flags & _DESCRIPTOR_FOLLOWS:
        return in_directory, record.offset + _LOCAL_CRC
    end = entry.offset + entry.nbytes
    # The signature is optional, and everybody writes it. Without it the field would be the checksum itself.
    has_signature = file.read_at(end, 4) == b"PK\7\x08"
    return in_directory, end + (4 if has_signature else 0)


def archive_start(file: RandomAccess) -> int:
    """Return where the last archive of a file begins, by its end record; the archive itself is not looked at.

    Raises:
        NotThisFormat: the file does not end with an end record, or what that says begins before the file.
    """
    at = file.size - _END.size
    magic, _, _, _, _, nbytes, offset, _ = _END.unpack(_read(file, at, _END.size))
    locator = _read(file, at - _END64_LOCATOR.size, _END64_LOCATOR.size) if at >= _END64_LOCATOR.size else b""
    if locator[:4] == b"PK\6\7":
        at -= _END64_LOCATOR.size + _END64.size
        *_, nbytes, offset = _END64.unpack(_read(file, at, _END64.size))
    start: int = at - nbytes - offset
    if magic != b"PK\5\6" or start < 0:
        raise NotThisFormat("no zip archive ends where the file ends")
    return start


def _read(file: RandomAccess, offset: int, nbytes: int) -> bytes:
    data = file.read_at(offset, nbytes) if offset >= 0 else b""
    if len(data) != nbytes:
        raise NotThisFormat(f"the zip file has no {nbytes} bytes at {offset}")
    return data


def _find_directory(file: RandomAccess) -> tuple[int, int, int]:
    """Return offset, length in bytes and entry count of the central directory.

    An archive comment is refused: it can hold a second end record, and nothing that saves tensors writes one.
    """
    at = file.size - _END.size
    magic, disk, first_disk, disk_count, count, nbytes, offset, comment_bytes = _END.unpack(_read(file, at, _END.size))
    if magic != b"PK\5\6" or comment_bytes:
        raise NotThisFormat("the zip file does not end with its directory")
    short = (disk, first_disk, disk_count, count, nbytes, offset)
    locator_at = at - _END64_LOCATOR.size
    locator = _read(file, locator_at, _END64_LOCATOR.size) if locator_at >= 0 else b""
    if locator[:4] == b"PK\6\7":
        at = locator_at - _END64.size
        long = _read_end64(file, at, locator)
        if any(s not in (w, _FULL16 if n < 4 else _FULL32) for n, (s, w) in enumerate(zip(short, long, strict=True))):
            raise NotThisFormat("the two end records of the zip file disagree")
        disk, first_disk, disk_count, count, nbytes, offset = long
    if disk or first_disk or disk_count != count:
        raise NotThisFormat("the zip file is one of several")
    if offset + nbytes != at:
        raise NotThisFormat(f"the zip directory ends at {offset + nbytes}, not at {at}")
    if nbytes > MAX_HEADER_BYTES or count > MAX_ENTRIES:
        raise NotThisFormat(f"a zip directory of {count} entries in {nbytes} bytes is beyond the limit")
    return offset, nbytes, count


def _read_end64(file: RandomAccess, at: int, locator: bytes) -> tuple[int, int, int, int, int, int]:
    _, locator_disk, end64_at, disk_total = _END64_LOCATOR.unpack(locator)
    magic, rest_bytes, _, _, *fields = _END64.unpack(_read(file, at, _END64.size))
    if magic != b"PK\6\6" or rest_bytes != _END64.size - 12 or end64_at != at or locator_disk or disk_total != 1:
        raise NotThisFormat("the zip64 end record is not where it must be")
    disk, first_disk, disk_count, count, nbytes, offset = fields
    return disk, first_disk, disk_count, count, nbytes, offset


def _parse_directory(directory: bytes, count: int) -> list[_Central]:
    records = []
    at = 0
    for _ in range(count):
        if len(directory) - at < _CENTRAL.size:
            raise NotThisFormat("the zip directory is shorter than its entries")
        fields = _CENTRAL.unpack_from(directory, at)
        magic, _, _, flags, method, _, _, _, stored, raw, name_bytes, extra_bytes, comment_bytes, disk = fields[:14]
        name_at = at + _CENTRAL.size
        at = name_at + name_bytes + extra_bytes + comment_bytes
        if magic != b"PK\1\2" or disk or at > len(directory):
            raise NotThisFormat("a broken entry in the zip directory")
        extra_at = name_at + name_bytes
        raw, stored, offset = _widen((raw, stored, fields[16]), directory[extra_at : extra_at + extra_bytes])
        records.append(_Central(offset, directory[name_at:extra_at], flags, method, stored, raw))
    if at != len(directory):
        raise NotThisFormat("the zip directory is longer than its entries")
    return records


def _widen(sizes: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Replace the saturated 32-bit fields by those of the zip64 extra field."""
    if _FULL32 not in sizes:
        return sizes
    at = 0
    while at + 4 <= len(extra):
        tag, nbytes = struct.unpack_from("<2H", extra, at)
        if tag == _ZIP64_EXTRA and nbytes == 8 * sizes.count(_FULL32) and at + 4 + nbytes <= len(extra):
            wide = iter(struct.unpack_from(f"<{nbytes // 8}Q", extra, at + 4))
            raw, stored, offset = (next(wide) if size == _FULL32 else size for size in sizes)
            return raw, stored, offset
        at += 4 + nbytes
    raise NotThisFormat("a zip entry lacks its zip64 sizes")


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise NotThisFormat("the name of a zip entry is not valid UTF-8") from None
    parts = name.removesuffix("/").split("/")
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise NotThisFormat(f"a zip entry may not be named {name[:80]!r}")
    return name


def _locate(file: RandomAccess, record: _Central, end: int) -> ZipEntry:
    """Read the local header of an entry and hold it against the directory; `end` is where entries must end."""
    header = _read(file, record.offset, _LOCAL.size + len(record.name))
    magic, _, flags, method, _, _, _, stored, raw, name_bytes, extra_bytes = _LOCAL.unpack_from(header)
    if magic != b"PK\3\4" or name_bytes != len(record.name) or header[_LOCAL.size :] != record.name:
        raise NotThisFormat(f"the local header at {record.offset} does not match the zip directory")
    if (flags, method) != (record.flags, record.method) or flags & _ENCRYPTED:
        raise NotThisFormat(f"the zip entry at {record.offset} is encrypted, or is described in two ways")
    unknown = (0, _FULL32) if flags & _DESCRIPTOR_FOLLOWS else (_FULL32,)
    sizes = ((stored, record.stored_bytes), (raw, record.raw_bytes))
    if any(have != want and have not in unknown for have, want in sizes):
        raise NotThisFormat(f"the zip entry at {record.offset} has two sizes")
    if method == 0 and record.stored_bytes != record.raw_bytes:
        raise NotThisFormat(f"the stored zip entry at {record.offset} changes its size")
    offset = record.offset + _LOCAL.size + name_bytes + extra_bytes
    if offset + record.stored_bytes > end:
        raise NotThisFormat(f"the zip entry at {record.offset} runs into the directory")
    return ZipEntry(offset, record.stored_bytes, method == 0)


def _check_overlaps(records: list[_Central], entries: dict[str, ZipEntry]) -> None:
    end = 0
    for start, entry in sorted((record.offset, entry) for record, entry in zip(records, entries.values(), strict=True)):
        if start < end:
            raise NotThisFormat(f"the zip entry at {start} overlaps the one that ends at {end}")
        end = entry.offset + entry.nbytes
