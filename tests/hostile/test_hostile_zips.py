"""Zip files that two readers could see in two ways, or that are made to exhaust one: all are declined."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.errors import NotThisFormat
from thetastore.formats.zip_directory import MAX_ENTRIES, read_directory
from thetastore.testing.formats import BytesFile, mutations

CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")


def archive(**entries: bytes) -> bytearray:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, raw in entries.items():
            file.writestr(name, raw)
    return bytearray(target.getvalue())


def two() -> bytearray:
    return archive(a=b"first", b=b"second")


def central_at(raw: bytearray, number: int = 0) -> int:
    at = -1
    for _ in range(number + 1):
        at = raw.index(b"PK\1\2", at + 1)
    return at


def patched(at_field: str, value: int, number: int = 0) -> bytearray:
    """Return two entries, with a field of one's central header set."""
    raw = two()
    offset, layout = {
        "flags": (8, "<H"),
        "method": (10, "<H"),
        "stored": (20, "<I"),
        "raw": (24, "<I"),
        "name bytes": (28, "<H"),
        "extra bytes": (30, "<H"),
        "comment bytes": (32, "<H"),
        "disk": (34, "<H"),
        "offset": (42, "<I"),
    }[at_field]
    struct.pack_into(layout, raw, central_at(raw, number) + offset, value)
    return raw


def with_end(field: int, value: int) -> bytearray:
    raw = two()
    fields = list(END.unpack_from(raw, len(raw) - END.size))
    fields[field] = value
    END.pack_into(raw, len(raw) - END.size, *fields)
    return raw


def renamed(old: bytes, new: bytes) -> bytearray:
    assert len(old) == len(new)
    return bytearray(bytes(archive(**{old.decode(): b"x"})).replace(old, new))


def central_name_only() -> bytearray:
    raw = two()
    raw[central_at(raw) + CENTRAL.size] = ord("z")
    return raw


def with_zip64(end_fields: tuple[int, ...], at_shift: int = 0, rest_bytes: int = 44) -> bytearray:
    """Return an archive with a zip64 end record of the given disk, disk, count, count, length and offset."""
    raw = two()
    end = END.unpack_from(raw, len(raw) - END.size)
    at = len(raw) - END.size
    fields = tuple(have if want < 0 else want for have, want in zip(end[1:7], end_fields, strict=True))
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", rest_bytes, 45, 45, *fields)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + at_shift, 1)
    return raw[:at] + end64 + locator + END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def commented() -> bytearray:
    raw = with_end(7, 2)
    return raw + b"hi"


ATTACKS: dict[str, Callable[[], bytes | bytearray]] = {
    "nothing": lambda: b"",
    "no end record": lambda: two()[:-1],
    "a comment": commented,
    "something after the end": lambda: two() + b"\0",
    "something before the start, offsets not moved": lambda: b"\0" + two(),
    "more entries than the directory": lambda: with_end(4, 3),
    "fewer entries than the directory": lambda: with_end(4, 1),
    "65535 entries": lambda: with_end(4, 0xFFFF),
    "one of two disks": lambda: with_end(1, 1),
    "a directory beyond the file": lambda: with_end(6, 0xFFFFFFF0),
    "a directory of another length": lambda: with_end(5, 40),
    "a zip64 record with other numbers": lambda: with_zip64((-1, -1, 7, 7, -1, -1)),
    "a zip64 record of 2^60 entries": lambda: with_zip64((-1, -1, 2**60, 2**60, -1, -1)),
    "a zip64 directory of 2^60 bytes": lambda: with_zip64((-1, -1, -1, -1, 2**60, -1)),
    "a zip64 locator that points elsewhere": lambda: with_zip64((-1,) * 6, at_shift=-1),
    "a longer zip64 record": lambda: with_zip64((-1,) * 6, rest_bytes=45),
    "encrypted by its flags": lambda: patched("flags", 1),
    "other flags in the directory": lambda: patched("flags", 2),
    "another method in the directory": lambda: patched("method", 8),
    "another stored size": lambda: patched("stored", 4),
    "another raw size": lambda: patched("raw", 4),
    "a size beyond the file": lambda: patched("stored", 0x7FFFFFFF),
    "a zip64 size without its field": lambda: patched("raw", 0xFFFFFFFF),
    "a name beyond the directory": lambda: patched("name bytes", 0xFFFF),
    "an extra field beyond the directory": lambda: patched("extra bytes", 0xFFFF),
    "an entry of another disk": lambda: patched("disk", 1),
    "an entry within another": lambda: patched("offset", 0, number=1),
    "an entry beyond the file": lambda: patched("offset", 0xFFFFFF00),
    "another name in the directory": central_name_only,
    "two entries of one name": lambda: bytearray(bytes(two()).replace(b"\0b", b"\0a").replace(b"bsecond", b"asecond")),
    "a path upwards": lambda: renamed(b"abcd", b"../d"),
    "an absolute path": lambda: renamed(b"abcd", b"/bcd"),
    "an empty part": lambda: renamed(b"abcd", b"a//d"),
    "a dot": lambda: renamed(b"abcd", b"a/./"),
    "a backslash": lambda: renamed(b"abcd", b"a\\cd"),
    "a NUL": lambda: renamed(b"abcd", b"a\0cd"),
    "invalid UTF-8": lambda: renamed(b"abcd", b"a\xffcd"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_odd_zip_file_is_declined(attack: str) -> None:
    raw = bytes(ATTACKS[attack]())

    assert raw != bytes(two()), "the attack changes something"
    with pytest.raises(NotThisFormat):
        read_directory(BytesFile(raw))


def test_the_template_of_the_attacks_is_itself_valid() -> None:
    for raw in (two(), with_zip64((-1,) * 6)):
        entries = read_directory(BytesFile(bytes(raw)))

        assert {name: raw[entry.offset : entry.offset + entry.nbytes] for name, entry in entries.items()} == {
            "a": b"first",
            "b": b"second",
        }


def test_too_many_entries_are_declined_before_they_are_read() -> None:
    count = MAX_ENTRIES + 1
    directory = CENTRAL.pack(b"PK\1\2", *(0,) * 16) * count
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(directory), 1)
    end = END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)

    with pytest.raises(NotThisFormat, match="beyond the limit"):
        read_directory(BytesFile(directory + end64 + locator + end))


class HugeFile:
    """A file that says it is huge and is not read beyond what a reader needs."""

    size = 1 << 50

    def __init__(self) -> None:
        self.read_bytes = 0

    def read_at(self, offset: int, nbytes: int) -> bytes:
        self.read_bytes += nbytes
        return bytes(nbytes)


def test_a_huge_file_that_is_no_zip_is_declined_after_a_few_bytes() -> None:
    file = HugeFile()
    with pytest.raises(NotThisFormat):
        read_directory(file)

    assert file.read_bytes <= 100


NAMES = st.from_regex(r"[a-zé.]{1,5}(/[a-z0-9]{1,3}){0,2}", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-zé.]{1,5}(/[a-z0-9]{1,3}){0,2}", fullmatch=True), st.binary(max_size=300), max_size=8
    )
)
def test_what_python_writes_is_read_as_python_reads_it(contents: dict[str, bytes]) -> None:
    contents = {name: raw for name, raw in contents.items() if not {".", ".."} & set(name.split("/"))}
    raw = bytes(archive(**contents))
    entries = read_directory(BytesFile(raw))

    assert {name: raw[entry.offset : entry.offset + entry.nbytes] for name, entry in entries.items()} == contents
    assert all(entry.stored for entry in entries.values())


def test_a_streamed_archive_with_data_descriptors_is_read() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as file:  # type: ignore[call-overload]
        file.writestr("a", b"first")
        with file.open("b", "w", force_zip64=True) as entry:
            entry.write(b"second")
    raw = bytes(pipe.written)

    entries = read_directory(BytesFile(raw))

    assert [raw[entry.offset : entry.offset + entry.nbytes] for entry in entries.values()] == [b"first", b"second"]


def test_compressed_entries_are_known_as_such() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(1000))
        file.mkdir("folder")

    entries = read_directory(BytesFile(target.getvalue()))

    assert [(name, entry.stored) for name, entry in entries.items()] == [("a", False)]


def test_damaged_zip_files_are_read_or_declined() -> None:
    for raw in (bytes(two()), bytes(with_zip64((-1,) * 6))):
        for damaged in mutations(raw, 2000, seed=6):
            try:
                read_directory(BytesFile(damaged))
            except NotThisFormat:
                pass
