"""Packets come out as they went in, whatever the pipe makes of them."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitbridge.pktline import MAX_PAYLOAD_BYTES, PacketReader, PacketWriter, ProtocolError, payload_bytes


def reader_of(raw: bytes) -> PacketReader:
    """A reader at the other end of a pipe that is fed `raw` by a thread."""
    out, into = os.pipe()

    def feed() -> None:
        with os.fdopen(into, "wb") as stream:
            stream.write(raw)

    threading.Thread(target=feed, daemon=True).start()
    return PacketReader(out)


def packets(*payloads: bytes) -> bytes:
    return b"".join(b"%04x%b" % (len(payload) + 4, payload) for payload in payloads) + b"0000"


def read_all(reader: PacketReader, step: int) -> bytes:
    content, found = reader.content(), bytearray()
    target = memoryview(bytearray(step))
    while count := content.readinto(target):
        found += target[:count]
    assert content.ended
    assert content.readinto(target) == 0
    return bytes(found)


def test_lines_lose_exactly_one_line_feed() -> None:
    reader = reader_of(packets(b"command=clean\n", b"pathname=a\n\n", b"bare") + packets(b"next\n"))

    assert reader.lines() == [b"command=clean", b"pathname=a\n", b"bare"]
    assert reader.lines() == [b"next"]
    assert reader.lines() is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 700))
def test_any_packets_come_back_through_any_buffer(payloads: list[bytes], step: int) -> None:
    reader = reader_of(packets(b"a=b\n") + packets(*payloads) + packets(b"after\n"))

    assert reader.lines() == [b"a=b"]
    assert read_all(reader, step) == b"".join(payloads)
    assert reader.lines() == [b"after"]


@pytest.mark.parametrize("step", [1000, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 1 << 20])
def test_large_content_comes_back_whole(step: int) -> None:
    raw = os.urandom(700_001)
    payloads = [raw[start : start + MAX_PAYLOAD_BYTES] for start in range(0, len(raw), MAX_PAYLOAD_BYTES)]
    reader = reader_of(packets(b"x\n") + packets(*payloads) + packets(b"after\n"))

    assert reader.lines() == [b"x"]
    assert read_all(reader, step) == raw
    assert reader.lines() == [b"after"]


@pytest.mark.parametrize("step", [1000, 70_000, 1 << 20])
@pytest.mark.parametrize("torn", [1 << 20, MAX_PAYLOAD_BYTES + 2, 65_000])
def test_short_packets_between_full_ones_come_back_whole(step: int, torn: int) -> None:
    sizes = [MAX_PAYLOAD_BYTES] * 3 + [5, MAX_PAYLOAD_BYTES, 0, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, 60_000, 1]
    payloads = [os.urandom(size) for size in sizes]
    out, into = os.pipe()
    sent = packets(*payloads) + packets(b"after\n")

    def feed() -> None:
        for start in range(0, len(sent), torn):
            os.write(into, sent[start : start + torn])
        os.close(into)

    threading.Thread(target=feed, daemon=True).start()
    reader = PacketReader(out)

    assert read_all(reader, step) == b"".join(payloads)
    assert reader.lines() == [b"after"]


def test_a_head_that_was_read_apart_is_not_lost_to_the_rest() -> None:
    reader = reader_of(packets(b"0123456789", b"abc") + packets(b"after"))
    content = reader.content()

    assert content.read(4) == b"0123"
    target = memoryview(bytearray(100))
    assert content.readinto(target) == 9
    assert bytes(target[:9]) == b"456789abc"
    assert reader.lines() == [b"after"]


def test_drained_content_leaves_the_reader_at_the_next_request() -> None:
    reader = reader_of(packets(b"x" * 60_000, b"y" * 60_000) + packets(b"after"))
    content = reader.content()
    content.read(10)

    content.drain()

    assert reader.lines() == [b"after"]


@pytest.mark.parametrize(
    "header", [b"0001", b"0003", b"fff1", b"00g4", b"+123", b" 123", b"0x12", b"1_00", b"\xff\xff\xff\xff"]
)
def test_a_length_that_no_packet_has_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        payload_bytes(header)


@pytest.mark.parametrize("raw", [b"00", b"0010abc", b"0006ab"])
def test_a_pipe_that_closes_in_the_middle_is_reported(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        reader_of(raw).lines()
    with pytest.raises(ProtocolError):
        read_all(reader_of(raw), 100)


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 10_000_000])
def test_an_answer_of_any_size_is_read_back(size: int) -> None:
    out, into = os.pipe()
    reader, content = PacketReader(out), os.urandom(size)
    found: list[object] = []

    def take() -> None:
        found.append(reader.lines())
        found.append(read_all(reader, 100_000))
        found.append(reader.lines())

    thread = threading.Thread(target=take)
    thread.start()
    PacketWriter(into).answer(content)
    thread.join()

    assert found == [[b"status=success"], content, []]
