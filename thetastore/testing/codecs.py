"""The contract of a codec's `decode` as tests.

class TestMyCodec(CodecConformance):
    decode = staticmethod(my_decode)        # (params, stored, out, bases), as the entry point leads to it
    samples = [Sample(raw, params, stored)] # what it decodes, of some lengths; with bases where it takes any
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

DAMAGES = 64
"""Places at which stored bytes are damaged, one at a time."""


class Sample(NamedTuple):
    """Stored bytes, and what they stand for."""

    raw: bytes
    params: bytes
    stored: bytes
    bases: tuple[bytes, ...] = ()


class CodecConformance:
    """What every codec does: what comes out is compared with a digest, so it need only end, and stay in its memory."""

    decode: ClassVar[Callable[[bytes, memoryview, memoryview, Sequence[memoryview]], None]]
    samples: ClassVar[Sequence[Sample]]

    def _decoded(self, sample: Sample, stored: bytes, length: int) -> bytes:
        """Return what is written between two walls, which stand afterwards."""
        wall = b"\xa5" * 64
        memory = bytearray(wall + bytes(length) + wall)
        out = memoryview(memory)[64 : 64 + length]
        bases = [memoryview(base) for base in sample.bases]
        try:
            type(self).decode(sample.params, memoryview(stored), out, bases)
        finally:
            assert memory[:64] == wall
            assert memory[-64:] == wall
        return bytes(out)

    def test_there_are_samples_of_several_lengths(self) -> None:
        assert len({len(sample.raw) for sample in self.samples}) > 1

    def test_stored_bytes_come_back_as_raw_ones(self) -> None:
        for sample in self.samples:
            assert self._decoded(sample, sample.stored, len(sample.raw)) == sample.raw

    def test_the_same_comes_each_time_and_leaves_stored_bytes_and_bases_alone(self) -> None:
        for sample in self.samples:
            stored, bases = bytearray(sample.stored), [bytearray(base) for base in sample.bases]
            for _ in range(2):
                out = bytearray(len(sample.raw))
                views = [memoryview(base) for base in bases]
                type(self).decode(sample.params, memoryview(stored), memoryview(out), views)
                assert out == sample.raw
            assert stored == sample.stored
            assert [bytes(base) for base in bases] == list(sample.bases)

    def test_damage_ends_in_an_exception_or_in_other_bytes(self) -> None:
        for sample in self.samples:
            for number in range(min(DAMAGES, len(sample.stored))):
                damaged = bytearray(sample.stored)
                damaged[number * len(damaged) // min(DAMAGES, len(damaged))] ^= 0xFF
                self._attempt(sample, bytes(damaged), len(sample.raw))

    def test_stored_bytes_that_are_cut_off_and_other_lengths_end_likewise(self) -> None:
        for sample in self.samples:
            for keep in (0, 1, len(sample.stored) // 2, len(sample.stored) - 1):
                self._attempt(sample, sample.stored[: max(0, keep)], len(sample.raw))
            for length in (0, 1, 2 * len(sample.raw) + 1):
                self._attempt(sample, sample.stored, length)

    def _attempt(self, sample: Sample, stored: bytes, length: int) -> None:
        try:
            self._decoded(sample, stored, length)
        except AssertionError:
            raise
        except Exception:
            return
