"""Packets of Git's long-running filter protocol, on two file descriptors.

Headers are read through a small buffer, since a request is half a dozen packets of a few bytes. The content of
a file bypasses it: `os.readv` takes the rest of a packet straight into the caller's memory, and the header of
the next packet with it, so that 64 KiB cost one system call and no copy.

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
_PACKETS_PER_WRITE = 64


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
        self._header = bytearray(4)
        self._header_view = memoryview(self._header)

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

    def _read_direct(self, target: memoryview) -> int:
        """Fill `target`, and read ahead by one header; return how many bytes of the target were filled."""
        count = os.readv(self._fd, (target, self._header_view))
        if not count:
            raise ProtocolError("git closed the pipe in the middle of a packet")
        beyond = count - len(target)
        if beyond > 0:
            self._ahead = bytes(self._header_view[:beyond])
            return len(target)
        return count


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
            filled += self._read_some(target[filled : filled + self._packet_left])
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
            size = min(len(ahead), len(target))
            target[:size] = self._reader._take(size)
        elif len(target) == self._packet_left:
            size = self._reader._read_direct(target)
        else:
            size = os.readv(self._reader._fd, (target,))
            if not size:
                raise ProtocolError("git closed the pipe in the middle of a packet")
        self._packet_left -= size
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


def _after(pieces: Sequence[Buffer], written: int) -> list[Buffer]:
    """Return what is left of `pieces` once their first `written` bytes are gone."""
    for at, piece in enumerate(pieces):
        if written < len(piece):
            return [memoryview(piece)[written:], *pieces[at + 1 :]]
        written -= len(piece)
    return []
