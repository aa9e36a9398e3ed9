"""Zip files whose stored entries were overwritten in place get the checksums of what is in them now.

Every reader of zip files refuses an entry with another CRC-32. Nothing else of an archive depends on its contents as
long as no entry changes its length. Torch's `.data/serialization_id`, a number made when the file was written, stays.
"""

from __future__ import annotations

import zlib

from thetastore.errors import NotThisFormat
from thetastore.formats.zip_directory import checksum_places
from thetastore.open_file import OpenFile

_BLOCK_BYTES = 1 << 20


def mend_checksums(file: OpenFile) -> int:
    """Write the CRC-32 of every stored entry where it is another one; return how many were.

    Raises:
        NotThisFormat: this is no zip file, or one that readers could see in two ways.
        OSError: it cannot be read or written.
    """
    mended_count = 0
    for entry in checksum_places(file):
        checksum = _checksum(file, entry.offset, entry.nbytes).to_bytes(4, "little")
        stale = [place for place in entry.places if file.read_at(place, 4) != checksum]
        for place in stale:
            file.write_at(place, memoryview(checksum))
        mended_count += bool(stale)
    return mended_count


def _checksum(file: OpenFile, offset: int, nbytes: int) -> int:
    value = 0
    for at in range(offset, offset + nbytes, _BLOCK_BYTES):
        count = min(_BLOCK_BYTES, offset + nbytes - at)
        block = file.read_at(at, count)
        if len(block) != count:
            raise NotThisFormat(f"the zip file ends within the entry at {offset}")
        value = zlib.crc32(block, value)
    return value
