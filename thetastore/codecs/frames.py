"""zstd frames of known size: compress, and decompress into memory that the caller has.

One frame holds one chunk or one plane. Its header says the raw size, and has neither checksum (the digest of the
raw bytes and the checksum of the stored record are above it) nor dictionary. A reader checks all of that, walks the
block headers to find that the frame ends where the stored bytes end, and only then calls zstd, which takes its
single-pass path: no window, no memory of its own that grows with the frame.

Source: RFC 8878, sections 3.1.1 (frames) and 3.1.1.2 (blocks).
"""

from __future__ import annotations

from _thread import _local  # threading.local, without the cost of importing threading
from typing import TYPE_CHECKING, Final

import zstandard

from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thetastore.digest import Buffer

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 8 << 20
"""What RFC 8878 recommends every decoder to support; 1 MiB chunks need less."""
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3

_SHORT_BYTES: Final = 32 << 10
"""Up to here new memory and a copy are cheaper than a stream."""

_LEVEL: Final = 3
_HUFFMAN: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    window_log=17,
    hash_log=6,
    chain_log=6,
    search_log=1,
    target_length=0,
    write_content_size=True,
    write_checksum=False,
    write_dict_id=False,
)
"""zstd as a Huffman coder: its matcher nearly never finds anything. On MiniLM's exponent plane .330 of raw at 0.8 GB/s,
where level 1 gives .362 at 0.29 and level 3 .405 at 0.16; a smaller min_match or a larger hash finds short matches that
cost more than the symbols they replace; a target_length turns Huffman coding off."""


class _Contexts(_local):
    """zstd's objects are not thread-safe and dear to make: one of each for a thread."""

    def __init__(self) -> None:
        self.general = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_content_size=True)
        self.huffman = zstandard.ZstdCompressor(compression_params=_HUFFMAN)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)


_contexts = _Contexts()


def compress(raw: Buffer) -> bytes:
    """Compress opaque bytes: repetitions and statistics."""
    return _contexts.general.compress(raw)


def compress_plane(plane: Buffer, ends: Sequence[int] = ()) -> bytes:
    """Compress a byte plane by the frequencies of its bytes alone.

    Args:
        plane: one byte or more.
        ends: where bytes of other frequencies begin, ascending: there a block ends, and the next has its own table.
    """
    if not ends:
        return _contexts.huffman.compress(plane)
    view = memoryview(plane)
    sink = _contexts.huffman.compressobj(size=view.nbytes)
    blocks: list[bytes] = []
    begin = 0
    for end in ends:
        if begin < end < view.nbytes:
            blocks += (sink.compress(view[begin:end]), sink.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            begin = end
    blocks += (sink.compress(view[begin:]), sink.flush())
    return b"".join(blocks)


def pays(stored_bytes: int, raw_bytes: int) -> bool:
    """Tell whether so small a saving is worth the time that decoding takes: 1/64 or more, and at least a byte."""
    return stored_bytes <= raw_bytes - max(raw_bytes >> 6, 1)


def decompress_into(frame: memoryview, out: memoryview) -> None:
    """Fill `out` with the content of `frame`.

    Raises:
        MalformedError: `frame` is not exactly one frame of `out.nbytes` bytes in the form given above.
    """
    _check_header(frame, out.nbytes)
    try:
        if out.nbytes <= _SHORT_BYTES:
            raw = _contexts.decompressor.decompress(frame)  # as many bytes as the header says, or an error
            filled_bytes = len(raw)
            out[:filled_bytes] = raw
        else:
            filled_bytes = _contexts.decompressor.stream_reader(frame).readinto(out)
    except zstandard.ZstdError as error:
        raise MalformedError(f"zstd frame cannot be decoded: {error}") from None
    if filled_bytes != out.nbytes:
        raise MalformedError(f"zstd frame gives {filled_bytes} bytes, {out.nbytes} were expected")


def _check_header(frame: memoryview, raw_bytes: int) -> None:
    if bytes(frame[:4]) != _MAGIC:  # skippable frames and those of zstd before 0.8 have other ones
        raise MalformedError("zstd frame does not begin with its magic number")
    try:
        header = zstandard.get_frame_parameters(frame)
        header_bytes = zstandard.frame_header_size(frame)
    except zstandard.ZstdError as error:
        raise MalformedError(f"zstd frame has a bad header: {error}") from None
    if header.content_size != raw_bytes or not raw_bytes:  # zstd would not look at the blocks of an empty frame
        raise MalformedError(f"zstd frame says {header.content_size} raw bytes, {raw_bytes} were expected")
    if header.has_checksum or header.dict_id or header.window_size > max(raw_bytes, _MAX_WINDOW_BYTES):
        raise MalformedError("zstd frame has a checksum, a dictionary or a window over 8 MiB: none is allowed")
    _check_blocks(frame, header_bytes)


def _check_blocks(frame: memoryview, position: int) -> None:
    """Walk the block headers: the last block has to end where the frame's bytes end."""
    end = frame.nbytes
    is_last = False
    while not is_last:
        if position + 3 > end:
            raise MalformedError(f"zstd frame is truncated: a block should begin at byte {position} of {end}")
        header = int.from_bytes(frame[position : position + 3], "little")
        is_last, kind = bool(header & 1), header >> 1 & 3
        if kind == _RESERVED_BLOCK:
            raise MalformedError(f"zstd frame has a block of a reserved kind at byte {position}")
        position += 3 + (1 if kind == _RLE_BLOCK else header >> 3)
    if position != end:
        raise MalformedError(f"zstd frame ends at byte {position}, its stored bytes at {end}")
