"""The conformance suite of format plug-ins, and a file in memory to scan.

Subclass `FormatConformance` in a test module, say which plug-in and which samples, and run pytest:

    class TestMyFormat(FormatConformance):
        def make_format(self) -> MyFormat: ...
        def samples(self) -> list[Sample]: ...
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, SNIFF_BYTES, Format, HeaderFormat, NeedBytes, next_prefix_bytes
from thetastore.formats.registry import guarded
from thetastore.layout import Layout, Tensor, checked_layout
from thetastore.strided import iter_c_order

FRAMEWORKS = frozenset(("flax", "h5py", "jax", "keras", "onnx", "pickle", "tensorflow", "torch", "transformers"))
"""What no plug-in may import, and what it may not unpickle with."""


class BytesFile:
    """Bytes that can be read like a file."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)`; shorter only at the end."""
        assert offset >= 0, "a negative offset is a bug of the reader"
        assert nbytes >= 0, "a negative length is a bug of the reader"
        return self._raw[offset : offset + nbytes]


class Sample(NamedTuple):
    """A valid file, and what the format's own library finds in it."""

    name: str
    raw: bytes
    tensors: dict[str, tuple[str, tuple[int, ...], str]]
    """Dtype, shape and hexadecimal SHA-256 of the bytes in C order, by tensor name."""


def scan_bytes(format: Format, raw: bytes) -> Layout:
    """Scan a file in memory as the store does: a header format sees a prefix that grows as it asks for more.

    Raises:
        NotThisFormat: the plug-in declines, or asks for more than there is.
    """
    if not isinstance(format, HeaderFormat):
        return format.scan(BytesFile(raw))
    prefix = raw[:SNIFF_BYTES]
    while True:
        try:
            return format.scan_header(prefix)
        except NeedBytes as need:
            wanted_bytes = need.nbytes
        assert len(prefix) < wanted_bytes <= MAX_HEADER_BYTES, "each request must be for more, within the limit"
        if wanted_bytes > len(raw):
            raise NotThisFormat(f"the file ends before byte {wanted_bytes} of its header")
        prefix = raw[: next_prefix_bytes(len(prefix), wanted_bytes)]


def mutations(raw: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies: bits flipped, bytes set, runs removed, repeated or swapped, the end cut off.

    Half of the damage is in the first and the last 2 KiB, where directories are.
    """
    draw = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(raw)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            _damage(damaged, draw)
        yield bytes(damaged)


def _damage(raw: bytearray, draw: random.Random) -> None:
    if not raw:
        return
    near = draw.randrange(min(len(raw), 2048))
    at = draw.choice((near, len(raw) - 1 - near, draw.randrange(len(raw)), draw.randrange(len(raw))))
    end = min(len(raw), at + draw.choice((1, 2, 4, 8, 64)))
    action = draw.randrange(6)
    if action == 0:
        raw[at] ^= 1 << draw.randrange(8)
    elif action == 1:
        raw[at:end] = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * (end - at)
    elif action == 2:
        raw[at:end] = draw.randbytes(end - at)
    elif action == 3:
        del raw[at:end]
    elif action == 4:
        raw[at:at] = raw[at:end]
    else:
        del raw[at:]


class FormatConformance:
    """What the store relies on of every format plug-in. Override `make_format` and `samples`."""

    mutation_count = 1000
    """How many damaged copies of all samples together are scanned."""
    seconds_a_scan = 5.0
    """How much CPU time a scan of a small damaged file may take at most."""

    def make_format(self) -> Format:
        """Return the plug-in."""
        raise NotImplementedError

    def samples(self) -> list[Sample]:
        """Return small valid files (under 1 MiB) that show what the format can hold."""
        raise NotImplementedError

    def test_the_name_and_version_can_be_written_to_a_pointer(self) -> None:
        guarded(self.make_format())

    def test_every_sample_is_sniffed(self) -> None:
        for sample in self.samples():
            assert self.make_format().sniff(sample.raw[:SNIFF_BYTES]), sample.name

    def test_sniffing_short_and_random_heads_raises_nothing(self) -> None:
        draw = random.Random(1)
        heads = [self.samples()[0].raw[:nbytes] for nbytes in range(SNIFF_BYTES)]
        for head in heads + [draw.randbytes(nbytes) for nbytes in range(SNIFF_BYTES + 1)]:
            assert self.make_format().sniff(head) in (True, False)

    def test_every_tensor_is_found_with_its_dtype_and_shape(self) -> None:
        for sample in self.samples():
            found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in self._layout(sample).tensors}

            assert found == {name: expected[:2] for name, expected in sample.tensors.items()}, sample.name

    def test_every_tensor_has_its_bytes(self) -> None:
        for sample in self.samples():
            for tensor in self._layout(sample).tensors:
                assert _sha256(sample.raw, tensor) == sample.tensors[tensor.name][2], (sample.name, tensor)

    def test_the_layout_is_of_this_format_and_file_and_passes_the_checks(self) -> None:
        format = self.make_format()
        for sample in self.samples():
            layout = self._layout(sample)

            assert layout == checked_layout(
                format.name, format.version, len(sample.raw), list(layout.spans), list(layout.tensors)
            ), sample.name

    def test_nearly_all_bytes_of_tensors_lie_under_spans(self) -> None:
        for sample in self.samples():
            layout = self._layout(sample)
            tensor_bytes = _covered(
                (tensor.offset, tensor.raw_bytes) for tensor in layout.tensors if not tensor.strides
            )
            both_bytes = _covered(
                [(tensor.offset, tensor.raw_bytes) for tensor in layout.tensors if not tensor.strides]
                + [(span.offset, span.raw_bytes) for span in layout.spans]
            )
            span_bytes = sum(span.raw_bytes for span in layout.spans)

            assert both_bytes - span_bytes <= 0.01 * tensor_bytes, sample.name

    def test_two_scans_agree(self) -> None:
        for sample in self.samples():
            assert self._layout(sample) == self._layout(sample), sample.name

    def test_a_header_scan_does_not_depend_on_what_follows(self) -> None:
        format = self.make_format()
        if not isinstance(format, HeaderFormat):
            pytest.skip("this format is scanned as a whole file")
        for sample in self.samples():
            assert format.scan_header(sample.raw) == self._layout(sample), sample.name

    def test_a_file_cut_short_is_declined_or_seen_to_be_too_short(self) -> None:
        format = self.make_format()
        for sample in self.samples():
            for nbytes in sorted({*range(0, len(sample.raw), max(1, len(sample.raw) // 50)), len(sample.raw) - 1}):
                try:
                    layout = scan_bytes(format, sample.raw[:nbytes])
                except NotThisFormat:
                    continue
                assert isinstance(format, HeaderFormat), f"{sample.name}: {nbytes} bytes passed for the whole"
                assert layout.file_bytes != nbytes, sample.name

    def test_random_and_empty_files_give_a_layout_or_are_declined(self) -> None:
        draw = random.Random(3)
        for sample in self.samples():
            for nbytes in (0, 1, SNIFF_BYTES, 5000):
                self._scan_any(draw.randbytes(nbytes))
                self._scan_any(sample.raw[:SNIFF_BYTES] + draw.randbytes(nbytes))

    def test_no_framework_is_imported_to_scan(self) -> None:
        format = self.make_format()
        program = (
            f"import sys; sys.path[:0] = {sys.path!r}; import {type(format).__module__}; print(*sys.modules, sep='\\n')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

        assert not FRAMEWORKS & set(done.stdout.split())

    def test_scans_in_several_threads_agree(self) -> None:
        sample = self.samples()[0]
        format = self.make_format()
        with ThreadPoolExecutor(4) as threads:
            layouts = set(threads.map(lambda _: scan_bytes(format, sample.raw), range(8)))

        assert layouts == {self._layout(sample)}

    def test_damaged_files_give_a_layout_or_are_declined(self) -> None:
        samples = self.samples()
        for sample in samples:
            self.check_damaged(sample, self.mutation_count // len(samples) + 1, seed=2)

    def check_damaged(self, sample: Sample, count: int, seed: int) -> None:
        """Scan damaged copies of a sample; anything but a valid layout or `NotThisFormat` fails."""
        for raw in mutations(sample.raw, count, seed):
            self._scan_any(raw)

    def _scan_any(self, raw: bytes) -> None:
        format = self.make_format()
        started = time.process_time()
        try:
            layout = scan_bytes(format, raw)
        except NotThisFormat:
            layout = None
        assert time.process_time() - started < self.seconds_a_scan, f"a scan takes too long: {raw[:4096]!r}"
        if layout is not None:
            _check_again(format, layout)

    def _layout(self, sample: Sample) -> Layout:
        return scan_bytes(self.make_format(), sample.raw)


def _check_again(format: Format, layout: Layout) -> None:
    again = checked_layout(format.name, format.version, layout.file_bytes, list(layout.spans), list(layout.tensors))
    assert again == layout


def _covered(places: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> int:
    """Return how many bytes lie in at least one of the places."""
    total = end = 0
    for offset, nbytes in sorted(places):
        total += max(0, offset + nbytes - max(end, offset))
        end = max(end, offset + nbytes)
    return total


def _sha256(raw: bytes, tensor: Tensor) -> str:
    hasher = hashlib.sha256()
    for block in iter_c_order(BytesFile(raw), tensor):
        hasher.update(block)
    return hasher.hexdigest()
