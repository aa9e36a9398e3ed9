"""The safetensors header: what the reference implementation writes is found, what breaks a rule is declined."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, NeedBytes
from thetastore.formats.safetensors import Safetensors
from thetastore.layout import Layout, Span, Tensor
from thetastore.testing.formats import FormatConformance, Sample, scan_bytes

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")
SHARED = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data")


def file_of(header: object, data_bytes: int = 0) -> bytes:
    """Return a file with a header given as JSON text or as what becomes it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def scan(header: object, data_bytes: int = 0) -> Layout:
    return scan_bytes(Safetensors(), file_of(header, data_bytes))


class TestConformance(FormatConformance):
    def make_format(self) -> Safetensors:
        return Safetensors()

    def samples(self) -> list[Sample]:
        with open(os.path.join(FIXTURES, "expected.json"), encoding="ascii") as file:
            expected = json.load(file)
        samples = []
        for name in ("dtypes.safetensors", "model.safetensors"):
            with open(os.path.join(FIXTURES, name), "rb") as file:
                raw = file.read()
            samples.append(Sample(name, raw, {row[0]: (row[1], tuple(row[2]), row[3]) for row in expected[name]}))
        return samples


def test_a_real_model_has_its_tensors() -> None:
    path = os.path.join(SHARED, "minilm.bf16.safetensors")
    if not os.path.exists(path):
        pytest.skip(f"'{path}' is not on this machine")
    with open(path, "rb") as file:
        raw = file.read()

    layout = scan_bytes(Safetensors(), raw)

    assert len(layout.tensors) == 104
    assert sum(span.raw_bytes for span in layout.spans) > 0.99 * len(raw)
    assert ("embeddings.word_embeddings.weight", "bfloat16", (30522, 384)) in {tensor[:3] for tensor in layout.tensors}


def test_a_file_without_tensors_is_valid() -> None:
    assert scan({}) == Layout("safetensors", 1, 10, (), ())
    assert scan({"__metadata__": {"a": "b"}}).tensors == ()


def test_each_tensor_is_a_span() -> None:
    layout = scan({"b": entry("F32", [2, 3], 0, 24), "a": entry("I8", [], 24, 25)}, 25)

    start = layout.file_bytes - 25
    assert layout.spans == (Span(start, 24, "float32", (2, 3)), Span(start + 24, 1, "int8", ()))
    assert layout.tensors == (Tensor("a", "int8", (), start + 24), Tensor("b", "float32", (2, 3), start))


@pytest.mark.parametrize(
    ("dtype", "name", "count", "nbytes"),
    [("F4", "float4_e2m1fn", 6, 3), ("F6_E2M3", "float6_e2m3fn", 4, 3), ("F6_E3M2", "float6_e3m2fn", 8, 6)],
)
def test_elements_narrower_than_a_byte_are_packed(dtype: str, name: str, count: int, nbytes: int) -> None:
    layout = scan({"t": entry(dtype, [count], 0, nbytes)}, nbytes)

    assert layout.spans[0][1:] == (nbytes, name, (count,))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a" : { "data_offsets" : [ 0 , 4 ] , "shape" : [ 4 ] , "dtype" : "U8" } }',
        b'{\n\t"a":\r\n{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}      \n',
        b'{"\\u0061":{"dtype":"\\u00558","shape":[4],"data_offsets":[0,4]},"__metadata__":{}}',
        b'{"__metadata__":{"\\"":"{[,\\\\"},"a":{"shape":[2,2],"dtype":"U8","data_offsets":[0,4]}}',
    ],
)
def test_any_json_spelling_of_a_valid_header_is_read(text: bytes) -> None:
    tensor = scan(text, 4).tensors[0]

    assert (tensor.name, tensor.dtype, tensor.raw_bytes) == ("a", "uint8", 4)


def test_names_are_whatever_unicode_spells() -> None:
    header = {"": entry("U8", [1], 0, 1), "a\u0000\n\U0001f600": entry("U8", [1], 1, 2), "é": entry("U8", [0], 2, 2)}

    for text in (json.dumps(header).encode(), json.dumps(header, ensure_ascii=False).encode()):
        assert {tensor.name for tensor in scan(text, 2).tensors} == set(header)


def test_more_is_asked_for_only_when_it_is_needed() -> None:
    raw = file_of({"a": entry("U8", [4], 0, 4)}, 4)
    end = len(raw) - 4
    for nbytes, wanted in [(0, 9), (8, 9), (9, end), (end - 1, end)]:
        with pytest.raises(NeedBytes) as need:
            Safetensors().scan_header(raw[:nbytes])

        assert need.value.nbytes == wanted


def test_a_header_that_is_too_long_by_its_own_word_is_declined_at_once() -> None:
    for header_bytes in (MAX_HEADER_BYTES - 7, 10 * 10**9, 2**64 - 1):
        head = header_bytes.to_bytes(8, "little") + b'{"a":'

        assert not Safetensors().sniff(head)
        with pytest.raises(NotThisFormat):
            Safetensors().scan_header(head)


TENSOR = b'"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
WRONG = {
    "not an object": b"[]",
    "a space first": b" {" + TENSOR + b"}",
    "cut off": b"{" + TENSOR,
    "something after the end": b"{" + TENSOR + b"}x",
    "a comma too many": b"{" + TENSOR + b",}",
    "a name twice": b"{" + TENSOR + b',"b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},' + TENSOR + b"}",
    "a name twice, spelt differently": b"{" + TENSOR + b',"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}',
    "a field twice": b'{"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}}',
    "a field missing": b'{"a":{"dtype":"U8","data_offsets":[0,4]}}',
    "an unknown field": b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}',
    "a key of metadata twice": b'{"__metadata__":{"k":"1","k":"2"},' + TENSOR + b"}",
    "metadata twice": b'{"__metadata__":{},"__metadata__":{},' + TENSOR + b"}",
    "metadata that is no text": b'{"__metadata__":{"k":1},' + TENSOR + b"}",
    "metadata that nests": b'{"__metadata__":{"k":{}},' + TENSOR + b"}",
    "metadata that is null": b'{"__metadata__":null,' + TENSOR + b"}",
    "invalid UTF-8 in a name": TENSOR.replace(b"a", b"\xff", 1).join([b"{", b"}"]),
    "an overlong encoding in metadata": b'{"__metadata__":{"k":"\xc0\x80"},' + TENSOR + b"}",
    "a surrogate in UTF-8": TENSOR.replace(b"a", b"\xed\xa0\x80", 1).join([b"{", b"}"]),
    "a lone surrogate in a name": TENSOR.replace(b"a", b"\\ud800", 1).join([b"{", b"}"]),
    "a lone surrogate in metadata": b'{"__metadata__":{"k":"\\udfff"},' + TENSOR + b"}",
    "a control character in a name": TENSOR.replace(b"a", b"\n", 1).join([b"{", b"}"]),
    "an unknown escape": TENSOR.replace(b"a", b"\\x", 1).join([b"{", b"}"]),
    "an escape cut short": TENSOR.replace(b"a", b"\\u12", 1).join([b"{", b"}"]),
    "an unknown dtype": TENSOR.replace(b"U8", b"Q8").join([b"{", b"}"]),
    "a dtype in lower case": TENSOR.replace(b"U8", b"u8").join([b"{", b"}"]),
    "a dtype that is no text": TENSOR.replace(b'"U8"', b"8").join([b"{", b"}"]),
    "a dtype that is a lone surrogate": TENSOR.replace(b"U8", b"\\ud800").join([b"{", b"}"]),
    "a fraction": TENSOR.replace(b"[4]", b"[4.0]").join([b"{", b"}"]),
    "an exponent": TENSOR.replace(b"[4]", b"[4e0]").join([b"{", b"}"]),
    "a boolean": TENSOR.replace(b"[4]", b"[4,true]").join([b"{", b"}"]),
    "a negative length": TENSOR.replace(b"[4]", b"[-2,-2]").join([b"{", b"}"]),
    "a negative zero": TENSOR.replace(b"[0,4]", b"[-0,4]").join([b"{", b"}"]),
    "a leading zero": TENSOR.replace(b"[4]", b"[04]").join([b"{", b"}"]),
    "a number of 20 digits": TENSOR.replace(b"[4]", b"[10000000000000000000]").join([b"{", b"}"]),
    "NaN": TENSOR.replace(b"[4]", b"[NaN]").join([b"{", b"}"]),
    "three offsets": TENSOR.replace(b"[0,4]", b"[0,4,4]").join([b"{", b"}"]),
    "offsets the wrong way round": TENSOR.replace(b"[0,4]", b"[4,0]").join([b"{", b"}"]),
    "a hole before the first tensor": TENSOR.replace(b"[0,4]", b"[1,5]").join([b"{", b"}"]),
    "more bytes than the shape": TENSOR.replace(b"[0,4]", b"[0,5]").join([b"{", b"}"]),
    "fewer bytes than the shape": TENSOR.replace(b"[0,4]", b"[0,3]").join([b"{", b"}"]),
    "a shape whose product is huge": TENSOR.replace(b"[4]", b"[%s]" % b",".join([b"4000000000"] * 64)).join(
        [b"{", b"}"]
    ),
    "65 dimensions": TENSOR.replace(b"[4]", b"[%s,4]" % b",".join([b"1"] * 64)).join([b"{", b"}"]),
    "two tensors that overlap": b"{" + TENSOR + b',"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
    "two tensors in one place": b"{" + TENSOR + b',"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    "a hole between tensors": b"{" + TENSOR + b',"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}',
    "an empty tensor within another": b"{" + TENSOR + b',"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}',
    "packed elements that end within a byte": b'{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}',
}


@pytest.mark.parametrize("what", WRONG)
def test_a_header_with_a_fault_is_declined(what: str) -> None:
    with pytest.raises(NotThisFormat):
        Safetensors().scan_header(file_of(WRONG[what], 8))


def test_the_template_of_the_faults_is_itself_valid() -> None:
    assert scan(b"{" + TENSOR + b"}", 4).tensors[0].name == "a"
