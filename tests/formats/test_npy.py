"""Arrays as numpy saves them, alone or in a zip file: plain numbers are found, all else is declined."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.errors import NotThisFormat
from thetastore.formats import NeedBytes
from thetastore.formats.npy import FortranNpy, Npy
from thetastore.formats.npy_header import _DTYPES, MAX_HEADER_BYTES
from thetastore.formats.npz import Npz
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import Layout, Span, Tensor
from thetastore.testing.formats import BytesFile, FormatConformance, Sample, scan_bytes

TORCH = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")
CODES = [code.decode() for code in _DTYPES]


def saved(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, array, version=version)
    return target.getvalue()


def zipped(*arrays: np.ndarray[Any, Any], **named: np.ndarray[Any, Any]) -> bytes:
    target = io.BytesIO()
    np.savez(target, *arrays, **named)
    return target.getvalue()


def any_bits(code: str, *shape: int) -> np.ndarray[Any, Any]:
    dtype = np.dtype(code)
    raw = np.random.default_rng(dtype.num).bytes(dtype.itemsize * int(np.prod(shape)))
    return np.frombuffer(raw, dtype).reshape(shape)


def seen(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], str]:
    code = array.dtype.str
    dtype = f"{_DTYPES[f'<{code[1:]}'.encode()]}_be" if code[0] == ">" else _DTYPES[code.encode()]
    return dtype, array.shape, hashlib.sha256(array.tobytes("C")).hexdigest()


def sample(name: str, array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> Sample:
    return Sample(name, saved(array, version), {"": seen(array)})


class TestNpy(FormatConformance):
    def make_format(self) -> Npy:
        return Npy()

    def samples(self) -> list[Sample]:
        return [
            *(sample(code, any_bits(code, 3, 2, 4)) for code in CODES),
            *(sample(f"version {n}", any_bits("<f4", 5, 7), (n, 0)) for n in (1, 2, 3)),
            sample("scalar", np.float64(2.5).reshape(())),
            sample("empty", np.zeros((3, 0, 2), "<i4")),
            sample("one axis of Fortran", np.asfortranarray(any_bits("<f4", 9))),
        ]

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 5_000, seed=78)


class TestFortranNpy(FormatConformance):
    def make_format(self) -> FortranNpy:
        return FortranNpy()

    def samples(self) -> list[Sample]:
        return [
            *(sample(code, np.asfortranarray(any_bits(code, 3, 2, 4))) for code in CODES),
            *(sample(f"version {n}", np.asfortranarray(any_bits("<f4", 5, 7)), (n, 0)) for n in (1, 2, 3)),
            sample("axes of length 1", np.asfortranarray(any_bits("<f4", 1, 5, 1, 3))),
            Sample("empty", header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 0, 3)}"), EMPTY),
        ]


class TestNpz(FormatConformance):
    def make_format(self) -> Npz:
        return Npz()

    def samples(self) -> list[Sample]:
        dtypes = {f"t.{code[1:]}": any_bits(code, 3, 4) for code in CODES}
        layers = {"layer/0/w": np.asfortranarray(any_bits("<f4", 3, 5)), "scalar": np.float32(1).reshape(())}
        mixed = {"text": np.array(["a", "b"]), "w": any_bits("<f2", 4, 4), "big": any_bits(">f4", 3)}
        return [
            Sample("dtypes", zipped(**dtypes), {name: seen(array) for name, array in dtypes.items()}),
            Sample("layers", zipped(**layers), {name: seen(array) for name, array in layers.items()}),
            Sample("others", zipped(**mixed), {"w": seen(mixed["w"]), "big": seen(mixed["big"])}),
            Sample("unnamed", zipped(dtypes["t.f4"]), {"arr_0": seen(dtypes["t.f4"])}),
        ]

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=79)


def header(text: str | bytes, version: bytes = b"\1\0") -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(raw)) + raw


EMPTY = {"": ("float32", (2, 0, 3), hashlib.sha256(b"").hexdigest())}


def scan(raw: bytes) -> Layout:
    return scan_bytes(Npy(), raw)


def test_fortran_order_is_strides_over_a_span_that_lies_as_the_file_does() -> None:
    array = np.asfortranarray(any_bits("<f4", 3, 5))
    raw = saved(array)

    layout = scan_bytes(FortranNpy(), raw)

    assert layout == Layout(
        "npy", 1, len(raw), (Span(128, 60, "float32", (5, 3)),), (Tensor("", "float32", (3, 5), 128, (1, 3)),)
    )
    assert scan(saved(array.T)).spans == layout.spans, "the transposed array is cut alike"
    with pytest.raises(NotThisFormat, match="Fortran"):
        scan(raw)


def test_elements_of_which_only_the_width_is_known_are_cut_and_not_listed() -> None:
    layout = scan(saved(np.ones((4, 6), ml_dtypes.bfloat16)))

    assert layout.spans == (Span(128, 48, "bfloat16", (4, 6)),)
    assert layout.tensors == ()
    assert scan(saved(np.ones(4, ml_dtypes.float8_e4m3fn))).spans == (Span(128, 4, "uint8", (4,)),)


SPELLINGS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n",
    "{'shape': (2, 3,), 'fortran_order': False, 'descr': '<f4'}",
    '{"descr":"<f4","fortran_order":False,"shape":(2,3)}',
    " \n{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 3 ) } \n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_any_spelling_of_a_plain_header_is_read(text: str) -> None:
    for version in (b"\1\0", b"\2\0", b"\3\0"):
        layout = scan(header(text, version) + bytes(24))

        assert layout.tensors == (Tensor("", "float32", (2, 3), layout.file_bytes - 24),)


@pytest.mark.parametrize("code", ["<b1", "<u1", "<i1"])
def test_single_bytes_may_have_an_order(code: str) -> None:
    assert scan(header(f"{{'descr': '{code}', 'fortran_order': False, 'shape': (4,)}}") + bytes(4)).tensors[
        0
    ].shape == (4,)


WRONG = {
    "other magic": b"\x93NUMPX" + header(SPELLINGS[0])[6:],
    "version 0": header(SPELLINGS[0], b"\0\0"),
    "version 1.1": header(SPELLINGS[0], b"\1\1"),
    "version 4": header(SPELLINGS[0], b"\4\0"),
    "a header that is too long": header(" " * (MAX_HEADER_BYTES + 1)),
    "a header of 4 GiB by its own word": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100),
    "an empty header": header(""),
    "no dict": header("('descr', '<f4')"),
    "an empty dict": header("{}"),
    "no shape": header("{'descr': '<f4', 'fortran_order': False}"),
    "a key twice": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'shape': (2, 3)}"),
    "another key": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': True}"),
    "something after the end": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} + {}"),
    "a comment": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} # x"),
    "no comma": header("{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3)}"),
    "a call": header("{'descr': '<f4', 'fortran_order': bool(), 'shape': (2, 3)}"),
    "an order that is a number": header("{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}"),
    "an order that is text": header("{'descr': '<f4', 'fortran_order': 'False', 'shape': (2, 3)}"),
    "a type that is no text": header("{'descr': True, 'fortran_order': False, 'shape': (2, 3)}"),
    "a shape that is no tuple": header("{'descr': '<f4', 'fortran_order': False, 'shape': (6)}"),
    "a shape that is a list": header("{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3]}"),
    "a negative length": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}"),
    "a length of 20 digits": header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**19},)}}"),
    "a length in other digits": header("{'descr': '<f4', 'fortran_order': False, 'shape': (0x2, 3)}"),
    "lengths beyond all limits": header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(2**62,) * 3}}}"),
    "65 dimensions": header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 65}}}"),
    "a tuple of commas": header("{'descr': '<f4', 'fortran_order': False, 'shape': (,)}"),
    "braces upon braces": header("{" * 9000),
    "parentheses upon parentheses": header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 9000),
    "big-endian text": saved(np.array(["a"], ">U1")),
    "the order of the machine": header("{'descr': '=f4', 'fortran_order': False, 'shape': (2, 3)}"),
    "no order": header("{'descr': 'f4', 'fortran_order': False, 'shape': (2, 3)}"),
    "an empty type": header("{'descr': '', 'fortran_order': False, 'shape': (2, 3)}"),
    "long doubles": saved(np.zeros(3, np.longdouble)),
    "text": saved(np.array(["a"])),
    "dates": saved(np.zeros(3, "M8[s]")),
    "records": saved(np.zeros(3, "f4,i2")),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_header_that_is_not_of_a_plain_array_is_declined(name: str) -> None:
    for format in (Npy(), FortranNpy()):
        with pytest.raises(NotThisFormat, match=r"^(?!the file ends)"):
            scan_bytes(format, WRONG[name] + bytes(24))


def test_an_array_that_does_not_fill_the_file_is_declined() -> None:
    raw = saved(np.asfortranarray(any_bits("<f4", 3, 5)))
    for odd in (raw[:-1], raw + b"\0"):
        with pytest.raises(NotThisFormat):
            scan_bytes(FortranNpy(), odd)
    assert scan(saved(any_bits("<f4", 15)) + b"\0").file_bytes == len(raw), "which the store holds against the file"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CODES),
    st.lists(st.integers(0, 4), max_size=5),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
def test_what_numpy_saves_is_read_as_numpy_reads_it(
    code: str, shape: list[int], is_fortran: bool, version: tuple[int, int]
) -> None:
    array = np.asarray(any_bits(code, *shape), order="F" if is_fortran else "C")
    raw = saved(array, version)
    layout = Npz().scan(BytesFile(zipped(t=array)))

    assert [(tensor.dtype, tensor.shape) for tensor in layout.tensors] == [seen(array)[:2]]
    try:
        alone = scan(raw)
    except NotThisFormat:
        alone = scan_bytes(FortranNpy(), raw)
    assert alone.tensors[0][1:3] + alone.tensors[0][4:] == layout.tensors[0][1:3] + layout.tensors[0][4:]
    assert [span[1:] for span in alone.spans] == [span[1:] for span in layout.spans]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text("{}()[],:'\"desc rfotanhp<f4TuFl0123\\\n", max_size=100), st.binary(max_size=60)))
def test_any_header_is_read_or_declined(text: str | bytes) -> None:
    for format in (Npy(), FortranNpy()):
        try:
            scan_bytes(format, header(text))
        except NotThisFormat:
            pass


def test_more_is_asked_for_only_where_it_must_be_there() -> None:
    raw = saved(any_bits("<f4", 3), (2, 0))
    for nbytes, wanted in [(0, 10), (7, 10), (8, 12), (11, 12), (12, 128), (127, 128)]:
        with pytest.raises(NeedBytes) as need:
            Npy().scan_header(raw[:nbytes])

        assert need.value.nbytes == wanted


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return target.getvalue()


ARRAY = saved(any_bits("<f4", 2, 3))


def test_members_that_are_no_plain_arrays_are_skeleton() -> None:
    members = {
        "a.npy": ARRAY,
        "cut.npy": ARRAY[:-1],
        "long.npy": ARRAY + b"\0",
        "header only.npy": ARRAY[:40],
        "empty.npy": b"",
        "text.npy": b"no array",
        "readme.txt": ARRAY,
        "objects.npy": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    }

    layout = Npz().scan(BytesFile(archive(members)))

    assert [tensor.name for tensor in layout.tensors] == ["a"]
    assert len(layout.spans) == 1


def test_compressed_members_are_skeleton() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("a.npy", ARRAY, zipfile.ZIP_DEFLATED)
        file.writestr("b.npy", ARRAY)

    assert [tensor.name for tensor in Npz().scan(BytesFile(target.getvalue())).tensors] == ["b"]


@pytest.mark.parametrize(
    "raw",
    [archive({"a.txt": b"x"}), archive({"a.npy": b"x"}), archive({"a.npy": ARRAY}, zipfile.ZIP_DEFLATED)],
    ids=["another zip", "no array", "compressed"],
)
def test_a_zip_file_without_an_array_in_the_clear_is_declined(raw: bytes) -> None:
    with pytest.raises(NotThisFormat, match="no member"):
        Npz().scan(BytesFile(raw))


def test_torch_and_numpy_decline_each_others_zip_files() -> None:
    with open(os.path.join(TORCH, "model.pt"), "rb") as file:
        model = file.read()

    with pytest.raises(NotThisFormat):
        TorchZip().scan(BytesFile(zipped(a=np.ones(3))))
    for raw in (model, archive({"x/data.pkl": b"", "a.npy": ARRAY})):
        with pytest.raises(NotThisFormat, match="made by torch"):
            Npz().scan(BytesFile(raw))
