"""Files made by the real gguf package show what it sees in them; what breaks a rule is declined."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from thetastore.chunking import grid_lengths
from thetastore.dtypes import DTYPES
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, NeedBytes
from thetastore.formats.gguf import _DTYPES, MAX_KEY_BYTES, MAX_METADATA, MAX_NESTING, Gguf, UnpaddedGguf
from thetastore.formats.registry import candidates
from thetastore.layout import MAX_TENSORS, Layout, Span, Tensor
from thetastore.testing.formats import FormatConformance, Sample, mutations, scan_bytes

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "gguf")
READABLE = ("aligned.gguf", "blocks.gguf", "model.gguf", "plain.gguf")
PLAIN = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}

MakeGguf = Callable[..., bytes]


def fixture(name: str) -> bytes:
    with open(os.path.join(FIXTURES, name), "rb") as file:
        return file.read()


def expected() -> dict[str, Any]:
    return json.loads(fixture("expected.json"))  # type: ignore[no-any-return]


def dtype_of(ggml_name: str) -> str:
    return PLAIN.get(ggml_name, f"gguf_{ggml_name.lower()}")


def scan(raw: bytes) -> Layout:
    return scan_bytes(Gguf(), raw)


class TestConformance(FormatConformance):
    def make_format(self) -> Gguf:
        return Gguf()

    def samples(self) -> list[Sample]:
        samples = [
            Sample(name, fixture(name), {row[0]: (dtype_of(row[1]), tuple(row[2]), row[3]) for row in expected()[name]})
            for name in READABLE
        ]
        version_2 = bytearray(samples[0].raw)
        version_2[4] = 2
        return [*samples, samples[0]._replace(name="version 2", raw=bytes(version_2))]

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=77)


class TestUnpadded(FormatConformance):
    def make_format(self) -> UnpaddedGguf:
        return UnpaddedGguf()

    def samples(self) -> list[Sample]:
        samples = []
        for padded in TestConformance().samples():
            end = max(span.offset + span.raw_bytes for span in scan(padded.raw).spans)
            if end < len(padded.raw):
                samples.append(padded._replace(raw=padded.raw[:end]))
        return samples


def test_every_type_of_ggml_has_its_name_and_the_right_size() -> None:
    for name, (number, elements, nbytes) in expected()["types"].items():
        dtype = DTYPES[_DTYPES[number]]

        assert dtype.name == dtype_of(name)
        assert (dtype.block_elements, dtype.bits) == (elements, 8 * nbytes)
    assert len(_DTYPES) == len(expected()["types"])


def test_each_tensor_is_a_span_and_its_shape_is_in_c_order(gguf_file: MakeGguf) -> None:
    raw = gguf_file({"a": (0, (2, 3), bytes(24)), "b": (2, (5, 64), bytes(180))})

    layout = scan(raw)

    first, second = (span.offset for span in layout.spans)
    assert layout.spans == (Span(first, 24, "float32", (2, 3)), Span(second, 180, "gguf_q4_0", (5, 64)))
    assert layout.tensors == (Tensor("a", "float32", (2, 3), first), Tensor("b", "gguf_q4_0", (5, 64), second))
    assert (first % 32, second - first, layout.file_bytes) == (0, 32, len(raw))


def test_quantised_tensors_are_cut_between_blocks() -> None:
    lengths = list(grid_lengths("gguf_q6_k", (100_000, 512)))

    assert len(lengths) > 1
    assert all(length % 210 == 0 for length in lengths)


def test_a_big_endian_file_has_dtypes_that_say_so() -> None:
    raw = fixture("big-endian.gguf")
    layout = scan(raw)
    (tensor,) = layout.tensors

    assert [format.name for format in candidates(raw[:64])] == ["gguf", "gguf"]
    assert tensor[:3] == ("t", "float32_be", (2, 3))
    assert raw[tensor.offset : tensor.offset + 24] == struct.pack(">6f", *range(6))
    assert layout.spans[0][2:] == ("float32_be", (2, 3))
    assert layout.file_bytes == len(raw)


def test_a_file_without_tensors_is_padded_or_not(gguf_file: MakeGguf) -> None:
    raw = gguf_file({}, [entry(b"k", 0, b"x")])

    assert scan_bytes(UnpaddedGguf(), raw) == Layout("gguf", 1, len(raw), (), ())
    assert scan(raw) == Layout("gguf", 1, len(raw) + -len(raw) % 32, (), ())


def test_a_file_whose_last_tensor_needs_no_padding_is_asked_about_once(gguf_file: MakeGguf) -> None:
    with pytest.raises(NotThisFormat, match="no padding"):
        scan_bytes(UnpaddedGguf(), gguf_file({"t": (0, (8,), bytes(32))}))


def test_tensors_need_not_follow_each_other_nor_be_listed_in_order(gguf_file: MakeGguf) -> None:
    raw = bytearray(gguf_file({"a": (24, (32,), bytes(32)), "gap": (24, (32,), bytes(32)), "b": (24, (8,), bytes(8))}))
    at = raw.index(b"gap") + 3 + 4 + 8 + 4
    struct.pack_into("<Q", raw, at, 96)

    layout = scan(bytes(raw) + bytes(32))

    assert [span.offset - layout.spans[0].offset for span in layout.spans] == [0, 64, 96]


def entry(key: bytes, value_type: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", value_type) + value


def array(element_type: int, count: int, elements: bytes) -> bytes:
    return struct.pack("<IQ", element_type, count) + elements


def string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


METADATA = {
    "a string": entry(b"k", 8, string(b"\xff not UTF-8")),
    "a long string": entry(b"k", 8, string(bytes(100_000))),
    "an array of numbers": entry(b"k", 9, array(10, 3, bytes(24))),
    "an empty array": entry(b"k", 9, array(8, 0, b"")),
    "an array of strings": entry(b"k", 9, array(8, 3, string(b"a") + string(b"") + string(bytes(5000)))),
    "arrays of arrays": entry(b"k", 9, array(9, 2, array(8, 1, string(b"a")) + array(9, 1, array(0, 2, b"xy")))),
    "nothing deeper": entry(b"k", 9, array(9, 1, b"") * (MAX_NESTING - 1) + array(0, 1, b"x")),
    "a key of any bytes": entry(b"\xff\0", 0, b"x"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_are_walked_over(name: str, gguf_file: MakeGguf) -> None:
    raw = gguf_file({"t": (0, (4,), bytes(16))}, [METADATA[name], entry(b"last", 7, b"\1")])

    layout = scan(raw)

    assert (layout.file_bytes, layout.tensors[0].name) == (len(raw), "t")


def test_more_is_asked_for_only_where_it_must_be_there(gguf_file: MakeGguf) -> None:
    for metadata in METADATA.values():
        raw = gguf_file({"t": (0, (4,), bytes(16))}, [metadata])
        end = raw.index(b"t" + struct.pack("<IQ", 1, 4)) + 1 + 4 + 8 + 12
        assert scan(raw).file_bytes == len(raw)
        for nbytes in [*range(min(end, 300)), end - 1]:
            with pytest.raises(NeedBytes) as need:
                Gguf().scan_header(raw[:nbytes])

            assert nbytes < need.value.nbytes <= end


def test_a_vocabulary_of_many_strings_is_read_a_few_times_only(gguf_file: MakeGguf) -> None:
    words = b"".join(string(b"%d" % number) for number in range(100_000))
    raw = gguf_file({"t": (0, (4,), bytes(16))}, [entry(b"tokens", 9, array(8, 100_000, words))])
    offered = []

    class Counting(Gguf):
        def scan_header(self, prefix: bytes) -> Layout:
            offered.append(len(prefix))
            return super().scan_header(prefix)

    assert scan_bytes(Counting(), raw).file_bytes == len(raw)
    assert len(offered) < 12
    assert sum(offered) < 4 * len(raw)


def one(kind: int = 0, shape: tuple[int, ...] = (4,), raw: bytes = bytes(16)) -> dict[str, Any]:
    return {"t": (kind, shape, raw)}


def head(tensor_count: int = 0, metadata_count: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensor_count, metadata_count) + rest


def info(
    name: bytes = b"t", lengths: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    count = len(lengths) if dimensions is None else dimensions
    return string(name) + struct.pack(f"<I{len(lengths)}QIQ", count, *lengths, kind, offset)


def with_alignment(value_type: int, value: bytes) -> bytes:
    return head(1, 1, entry(b"general.alignment", value_type, value) + info()) + bytes(200)


WRONG = {
    "version 1": head(version=1),
    "version 4": head(version=4),
    "too many tensors": head(MAX_TENSORS + 1, 0),
    "2^64 - 1 tensors": head(2**64 - 1, 0),
    "too many metadata": head(0, MAX_METADATA + 1),
    "an empty key": head(0, 1, entry(b"", 0, b"x")),
    "a key twice": head(0, 2, entry(b"k", 0, b"x") * 2),
    "a key that is too long": head(0, 1, entry(b"k" * (MAX_KEY_BYTES + 1), 0, b"x")),
    "a key of 2^63 bytes": head(0, 1, struct.pack("<Q", 2**63) + bytes(50)),
    "an unknown type of value": head(0, 1, entry(b"k", 13, bytes(50))),
    "an unknown type of elements": head(0, 1, entry(b"k", 9, array(13, 0, bytes(50)))),
    "a string of 2^64 - 1 bytes": head(0, 1, entry(b"k", 8, struct.pack("<Q", 2**64 - 1) + bytes(50))),
    "an array of 2^64 - 1 numbers": head(0, 1, entry(b"k", 9, array(12, 2**64 - 1, bytes(50)))),
    "an array of 2^61 strings": head(0, 1, entry(b"k", 9, array(8, 2**61, bytes(50)))),
    "an array of 2^61 arrays": head(0, 1, entry(b"k", 9, array(9, 2**61, bytes(50)))),
    "a long string in an array": head(0, 1, entry(b"k", 9, array(8, 2, struct.pack("<Q", 2**63) + bytes(50)))),
    "arrays nested too deep": head(0, 1, entry(b"k", 9, array(9, 1, b"") * MAX_NESTING + array(0, 1, b"x"))),
    "an alignment of another type": with_alignment(10, struct.pack("<Q", 32)),
    "an alignment of 0": with_alignment(4, struct.pack("<I", 0)),
    "an alignment of 48": with_alignment(4, struct.pack("<I", 48)),
    "a name twice": head(2, 0, info() + info(offset=32)) + bytes(100),
    "a name that is not UTF-8": head(1, 0, info(b"\xff")) + bytes(100),
    "a name that is too long": head(1, 0, info(b"n" * 65_536)) + bytes(100),
    "a name beyond any directory": head(1, 0, struct.pack("<Q", MAX_HEADER_BYTES) + bytes(50)),
    "65 dimensions": head(1, 0, info(lengths=(1,) * 65)) + bytes(100),
    "2^32 - 1 dimensions": head(1, 0, info(dimensions=2**32 - 1)) + bytes(100),
    "an unknown type of tensor": head(1, 0, info(kind=42)) + bytes(100),
    "a type that was removed": head(1, 0, info(kind=4)) + bytes(100),
    "a row that is no whole number of blocks": head(1, 0, info(lengths=(48,), kind=2)) + bytes(100),
    "a quantised scalar": head(1, 0, info(lengths=(), kind=2)) + bytes(100),
    "a shape beyond all limits": head(1, 0, info(lengths=(2**63, 2**63, 2**63))) + bytes(100),
    "an offset that is not aligned": head(1, 0, info(offset=16)) + bytes(100),
    "an offset beyond all limits": head(1, 0, info(offset=2**64 - 32)) + bytes(100),
    "tensors that overlap": head(2, 0, info(b"a", (16,)) + info(b"b", offset=32)) + bytes(200),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_breaks_a_rule_is_declined(name: str) -> None:
    with pytest.raises(NotThisFormat, match=r"^(?!the file ends)"):
        scan(WRONG[name] + bytes(100))


def test_more_entries_than_the_file_has_room_for_are_not_looked_for() -> None:
    with pytest.raises(NeedBytes) as need:
        Gguf().scan_header(head(MAX_TENSORS, MAX_METADATA) + bytes(100))

    assert need.value.nbytes > 24 * MAX_TENSORS


def test_the_template_of_what_is_wrong_is_itself_right() -> None:
    assert scan(head(1, 0, info()) + bytes(100)).tensors[0][:3] == ("t", "float32", (4,))
    assert scan(with_alignment(4, struct.pack("<I", 64))).tensors[0].offset % 64 == 0


ATTACKS = {
    "empty strings": "metadata(8, (MOST >> 3) - 1, bytes(MOST))",
    "arrays that are empty": 'metadata(9, MOST // 12 - 1, struct.pack("<IQ", 0, 0) * (MOST // 12))',
    "arrays in arrays": 'metadata(9, 100_000, struct.pack("<IQIQ", 9, 1, 0, 0) * 100_000)',
    "as many keys as may be": "head(0, 200_000) + b''.join(key(b'%09d' % n) for n in range(200_000))",
    "long keys": "head(0, 500) + b''.join(key(b'%065000d' % n) for n in range(500))",
    "as many tensors as may be, of no bytes": "tensors(200_000, (0, 1, 1, 1))",
    "tensors of 64 dimensions": "tensors(20_000, (2**64 - 1,) * 64)",
    "a name of wide characters": "head(1, 0) + struct.pack('<Q', MOST) + '\\U0001f600'.encode() * (MOST // 4)",
}

MEASURE = """
import json, struct, time
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, NeedBytes
from thetastore.formats.gguf import Gguf
MOST = MAX_HEADER_BYTES - 1000
def head(tensor_count, metadata_count):
    return struct.pack("<4sIQQ", b"GGUF", 3, tensor_count, metadata_count)
def metadata(element_type, count, elements):
    return head(0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, element_type, count) + elements
def key(name):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", 0) + b"x"
def tensors(count, lengths):
    info = struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, 0, 0)
    return head(count, 0) + b"".join(struct.pack("<Q", 9) + b"%09d" % n + info for n in range(count))
prefix = {text}
prefix = prefix[:MAX_HEADER_BYTES]
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before_bytes, started = peak_bytes(), time.process_time()
try:
    Gguf().scan_header(prefix)
    outcome = "layout"
except NotThisFormat:
    outcome = "declined"
except NeedBytes:
    outcome = "more"
print(json.dumps([outcome, peak_bytes() - before_bytes, time.process_time() - started]))
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_directory_of_32_mib_takes_bounded_memory_and_time(attack: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURE.replace("{text}", ATTACKS[attack])], capture_output=True, check=True
    )
    outcome, extra_bytes, elapsed_s = json.loads(result.stdout)

    assert outcome in ("layout", "declined"), "the attack is complete"
    assert extra_bytes < 300 << 20, f"{extra_bytes >> 20} MiB beside the header"
    assert elapsed_s < 20


def test_damaged_directories_are_read_or_declined(gguf_file: MakeGguf) -> None:
    raw = gguf_file(
        one(),
        list(
            {number: entry(b"k%d" % number, 9, array(9, 1, array(8, 1, string(b"a")))) for number in range(5)}.values()
        ),
    )
    for damaged in mutations(raw, 3000, seed=9):
        try:
            scan(damaged)
        except NotThisFormat:
            pass
