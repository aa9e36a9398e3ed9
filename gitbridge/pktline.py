"""Packets of Git's long-running filter protocol, on two file descriptors.

Headers are read through a small buffer, since a request is half a dozen packets of a few bytes. The content of
a file bypasses it: git sends packets of full length until the last, so `os.readv` takes the rest of a packet and all
that wait behind it straight into the caller's memory, their headers beside it: a whole pipe costs one system call and
no copy. Where a header says otherwise, what was read after it is copied.

Source: gitprotocol-common(5), "pkt-line Format"; gitattributes(5), "Long Running Filter Process".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from gitbridge.errors import BridgeError
from thetastore.digest import Buffer

MAX_PACKET_BYTES = 65_520
"""A packet with its header of four bytes (LARGE_PACKET_MAX in git's pkt-line.h)."""
MAX_PAYLOAD_BYTES = MAX_PACKET_BYTES - 4
PIPE_BYTES = 1 << 20
"""Of a pipe on both sides, where the platform lets us ask: 16 packets for one change between the two processes."""

_FLUSH = b"0000"
_HEX = frozenset(b"0123456789abcdef")
_FULL_HEADER = b"%04x" % MAX_PACKET_BYTES
_HEADER_BYTES = 4
_PACKETS_PER_WRITE = 64
_PACKETS_PER_READ = PIPE_BYTES // MAX_PACKET_BYTES + 1


class ProtocolError(BridgeError):
    """What arrived is not the protocol: the other side is not git, or it died in the middle of a packet."""

    code = "protocol"


def widen_pipe(fd: int) -> None:
    """Ask for a pipe of `PIPE_BYTES`; whatever cannot be had is done without."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (AttributeError, OSError):
        pass


class PacketReader:
    """Reads packets. Not thread-safe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ahead = b""
        self._headers = [memoryview(bytearray(_HEADER_BYTES)) for _ in range(_PACKETS_PER_READ)]

    def lines(self) -> list[bytes] | None:
        """Return the text packets up to the next flush, each without its line feed; None where input has ended.

        Raises:
            ProtocolError: the input ends elsewhere, or is malformed.
        """
        lines: list[bytes] = []
        if not self._ahead and not self._read_more():
            return None
        while (size := self._next_size()) is not None:
            lines.append(self._take(size).removesuffix(b"\n"))
        return lines

    def content(self) -> Content:
        """Return the packets up to the next flush as a stream. Drain it before the next call of this reader."""
        return Content(self)

    def _next_size(self) -> int | None:
        """Read a header; return the bytes of its payload, or None for a flush."""
        return payload_bytes(self._take(4))

    def _take(self, nbytes: int) -> bytes:
        while len(self._ahead) < nbytes:
            if not self._read_more():
                raise ProtocolError("git closed the pipe in the middle of a packet")
        taken, self._ahead = self._ahead[:nbytes], self._ahead[nbytes:]
        return taken

    def _read_more(self) -> bool:
        more = os.read(self._fd, MAX_PACKET_BYTES)
        self._ahead += more
        return bool(more)

    def _read_packets(self, target: memoryview, left_bytes: int) -> tuple[int, int]:
        """Fill `target` from a packet of which `left_bytes` are left, and from full ones after it, with one call.

        What comes after a header that is not that of a full packet is read ahead.

        Returns:
            How many bytes of the target were filled, and how many are left of the packet that the last ones were of.
        """
        pieces = self._scattered(target, left_bytes)
        count = os.readv(self._fd, pieces)
        if not count:
            raise ProtocolError("git closed the pipe in the middle of a packet")
        filled = 0
        for at in range(0, len(pieces), 2):
            got = min(count, len(pieces[at]))
            filled += got
            count -= got
            left_bytes -= got
            if left_bytes or not count:
                break
            if pieces[at + 1] != _FULL_HEADER or count < _HEADER_BYTES:
                self._ahead = _first(pieces[at + 1 :], count)
                break
            count -= _HEADER_BYTES
            left_bytes = MAX_PAYLOAD_BYTES
        return filled, left_bytes

    def _scattered(self, target: memoryview, left_bytes: int) -> list[memoryview]:
        """Return where a packet's rest, the next header, its packet and so on are to go, as far as `target` reaches."""
        pieces: list[memoryview] = []
        start = 0
        for header in self._headers:
            pieces.append(target[start : start + left_bytes])
            start += left_bytes
            if start > len(target):
                break
            pieces.append(header)
            left_bytes = MAX_PAYLOAD_BYTES
        return pieces


class Content:
    """The content of one file as git sends it: `readinto` until it returns 0."""

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._packet_left = 0
        self.ended = False
        """Whether the flush after the last packet was read."""

    def readinto(self, target: memoryview) -> int:
        """Fill `target` as far as the content reaches; return how many bytes, 0 at the end.

        Raises:
            ProtocolError: the input ends before the content does, or is malformed.
        """
        filled = 0
        while filled < len(target) and self._has_more():
            filled += self._read_some(target[filled:])
        return filled

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes in memory of their own, fewer only at the end."""
        pieces = bytearray()
        while len(pieces) < max_bytes and self._has_more():
            size = min(self._packet_left, max_bytes - len(pieces))
            pieces += self._reader._take(size)
            self._packet_left -= size
        return bytes(pieces)

    def drain(self) -> None:
        """Read to the end and drop it: git writes all of it before it reads an answer."""
        if self.ended:
            return
        waste = memoryview(bytearray(PIPE_BYTES))
        while self.readinto(waste):
            pass

    def _has_more(self) -> bool:
        while not self._packet_left and not self.ended:
            size = self._reader._next_size()
            self.ended = size is None
            self._packet_left = size or 0
        return not self.ended

    def _read_some(self, target: memoryview) -> int:
        ahead = self._reader._ahead
        if ahead:
            size = min(len(ahead), len(target), self._packet_left)
            target[:size] = self._reader._take(size)
            self._packet_left -= size
        else:
            size, self._packet_left = self._reader._read_packets(target, self._packet_left)
        return size


def payload_bytes(header: bytes) -> int | None:
    """Return how many bytes follow a packet's header, or None for a flush.

    Raises:
        ProtocolError: it is not four hexadecimal digits, or a length that no packet of this protocol has.
    """
    if header == _FLUSH:
        return None
    size = int(header, 16) if set(header) <= _HEX else -1
    if not 4 <= size <= MAX_PACKET_BYTES:
        raise ProtocolError(f"git sent {header!r} where the length of a packet belongs")
    return size - 4


class PacketWriter:
    """Writes packets. Not thread-safe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def lines(self, *lines: bytes) -> None:
        """Send text packets and a flush."""
        self._write_all([text_packets(lines)])

    def answer(self, content: Buffer) -> None:
        """Send a whole answer: success, the content, and that the status stays."""
        head = text_packets([b"status=success"])
        if len(content) <= MAX_PAYLOAD_BYTES:
            packet = (b"%04x" % (len(content) + 4), content) if len(content) else ()
            self._write_all([b"".join((head, *packet, _FLUSH, _FLUSH))])
            return
        self._write_all([head])
        self.content(content)
        self._write_all([_FLUSH + _FLUSH])

    def content(self, content: Buffer) -> None:
        """Send a part of some content as packets, without a flush."""
        view = memoryview(content)
        step = MAX_PAYLOAD_BYTES * _PACKETS_PER_WRITE
        for start in range(0, len(view), step):
            self._write_all(_packets(view[start : start + step]))

    def end_of_content(self) -> None:
        """Send the flush that ends content; the list of a last status follows."""
        self._write_all([_FLUSH])

    def _write_all(self, pieces: Sequence[Buffer]) -> None:
        written = os.writev(self._fd, pieces)
        left = sum(map(len, pieces)) - written
        while left:
            pieces = _after(pieces, written)
            written = os.writev(self._fd, pieces)
            left -= written


def text_packets(lines: Iterable[bytes]) -> bytes:
    """Return lines as packets, a line feed after each, and a flush."""
    return b"".join([b"%04x%b\n" % (len(line) + 5, line) for line in lines]) + _FLUSH


def _packets(view: memoryview) -> list[Buffer]:
    pieces: list[Buffer] = []
    for start in range(0, len(view), MAX_PAYLOAD_BYTES):
        payload = view[start : start + MAX_PAYLOAD_BYTES]
        pieces.append(_FULL_HEADER if len(payload) == MAX_PAYLOAD_BYTES else b"%04x" % (len(payload) + 4))
        pieces.append(payload)
    return pieces


def _first(pieces: Sequence[memoryview], nbytes: int) -> bytes:
    """Return the first bytes of `pieces` as one."""
    taken = []
    for piece in pieces:
        if nbytes <= 0:
            break
        taken.append(piece[:nbytes])
        nbytes -= len(piece)
    return b"".join(taken)


def _after(pieces: Sequence[Buffer], written: int) -> list[Buffer]:
    """Return what is left of `pieces` once their first `written` bytes are gone."""
    for at, piece in enumerate(pieces):
        if written < len(piece):
            return [memoryview(piece)[written:], *pieces[at + 1 :]]
        written -= len(piece)
    return []
