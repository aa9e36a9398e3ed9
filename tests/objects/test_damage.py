"""Action x place x change: whatever is done to a store's files, bytes come back right or an error names the object."""

from __future__ import annotations

import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.records import Entry
from thetastore.upkeep.verify import Level, verify

RAWS = [b"first of the first pack", b"abcd" * 60, b"of the second", b"of the third", b"in the making", b"last"]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Three sealed packs with a run each, and a pack in the making that nobody writes any more."""
    backend = MemoryBackend()
    for raws in (RAWS[:2], RAWS[2:3], RAWS[3:4]):
        with Objects(backend) as objects:
            for raw in raws:
                objects.put(Kind.CHUNK, raw)
    objects = Objects(backend)
    for raw in RAWS[4:]:
        objects.put(Kind.CHUNK, raw)
    return {name: backend.read(name) for name in backend.list("")}


def backend_of(files: dict[str, bytes]) -> MemoryBackend:
    backend = MemoryBackend()
    for name, content in files.items():
        backend.create(name, content)
    return backend


def readable(backend: MemoryBackend) -> set[bytes]:
    """Get everything; whatever fails must fail as the contract says."""
    objects = Objects(backend)
    got = set()
    for raw in RAWS:
        digest = digest_of(raw)
        objects.contains(digest)
        try:
            assert objects.get(Kind.CHUNK, digest) == raw
            got.add(raw)
        except (ObjectCorruptError, ObjectMissingError, UnsupportedError) as error:
            check_error(error, str(digest))
    return got


def check_error(error: Exception, digest: str) -> None:
    """It names the object or, where a whole file cannot be read, the file."""
    if isinstance(error, UnsupportedError):
        assert digest in str(error) or "packs/" in str(error) or "incoming/" in str(error)
    else:
        assert error.digest == digest
    if isinstance(error, ObjectCorruptError):
        assert error.place.split("/")[0] in ("packs", "incoming")


def names_in(files: dict[str, bytes], directory: str) -> list[str]:
    return sorted(name for name in files if name.startswith(directory))


def flips(content: bytes) -> list[bytes]:
    return [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in range(len(content))]


@pytest.mark.parametrize("directory", ["packs", "incoming", "index"])
def test_every_flipped_byte(files, directory):
    for name in names_in(files, directory):
        for content in flips(files[name]):
            got = readable(backend_of({**files, name: content}))
            if directory == "index":
                assert got == set(RAWS)
            if directory == "packs":
                assert len(got) >= len(RAWS) - 2


@pytest.mark.parametrize("directory", ["packs", "incoming", "index"])
def test_every_truncation_and_some_bytes_too_many(files, directory):
    for name in names_in(files, directory):
        whole = files[name]
        for content in [whole[:nbytes] for nbytes in range(len(whole))] + [whole + b"\0", whole + whole]:
            got = readable(backend_of({**files, name: content}))
            if directory == "index":
                assert got == set(RAWS)
            assert len(got) >= len(RAWS) - 2


def test_every_file_deleted(files):
    for name in files:
        got = readable(backend_of({other: content for other, content in files.items() if other != name}))
        if name.startswith("index"):
            assert got == set(RAWS)


@pytest.mark.parametrize("directory", ["packs", "index"])
def test_files_under_each_others_names(files, directory):
    first, second, third = names_in(files, directory)

    got = readable(backend_of({**files, first: files[second], second: files[first], third: files[first]}))

    if directory == "index":
        assert got == set(RAWS)


def test_files_of_other_kinds_under_a_files_name(files):
    pack, run = names_in(files, "packs")[0], names_in(files, "index")[0]
    for content in (b"", b"\0" * 1000, b"garbage" * 100):
        for name in (pack, run):
            readable(backend_of({**files, name: content}))
    assert readable(backend_of({**files, run: files[pack]})) == set(RAWS)
    readable(backend_of({**files, pack: files[run]}))


def test_verify_finds_every_flipped_byte_of_sealed_packs_and_runs(files):
    assert list(verify(Objects(backend_of(files)), Level.RAW)) == []

    for name in names_in(files, "packs") + names_in(files, "index"):
        for content in flips(files[name]):
            findings = list(verify(Objects(backend_of({**files, name: content})), Level.STORED))
            assert name in {finding.file_name for finding in findings}


def test_verify_finds_what_is_deleted_truncated_or_not_indexed(files):
    packs, runs = names_in(files, "packs"), names_in(files, "index")

    for name in packs + runs:
        without = backend_of({other: content for other, content in files.items() if other != name})
        assert list(verify(Objects(without), Level.TABLES))
        for nbytes in range(len(files[name])):
            assert list(verify(Objects(backend_of({**files, name: files[name][:nbytes]})), Level.TABLES))


def test_only_raw_digests_find_bytes_that_were_never_right():
    backend = MemoryBackend()
    raw, wrong = b"right", b"wrong"
    objects = Objects(backend)
    entry = Entry(Kind.CHUNK, digest_of(raw), "literal", b"", 5, 5, (), 0, checksum_of(wrong))
    objects.add_representation(entry, wrong)
    objects.seal()

    assert list(verify(Objects(backend), Level.STORED)) == []
    (finding,) = verify(Objects(backend), Level.RAW)
    assert finding.digest == digest_of(raw)
    assert str(finding.digest) in str(finding)
    assert finding.file_name in str(finding)


def test_writing_to_a_damaged_store_loses_nothing_that_could_be_read(files):
    for name in files:
        for content in [*flips(files[name])[::3], files[name][: len(files[name]) // 2], b""]:
            backend = backend_of({**files, name: content})
            before = readable(backend)
            objects = Objects(backend)
            new = objects.put(Kind.CHUNK, b"new")
            objects.seal()

            assert readable(backend) >= before
            assert Objects(backend).get(Kind.CHUNK, new) == b"new"


def test_rebuilding_the_index_of_a_damaged_store_loses_nothing_that_could_be_read(files):
    for name in names_in(files, "packs") + names_in(files, "index"):
        for content in [*flips(files[name])[::3], files[name][: len(files[name]) // 2], b""]:
            backend = backend_of({**files, name: content})
            before = readable(backend)

            Objects(backend).rebuild_index()

            assert readable(backend) >= before


def test_an_object_is_put_again_over_its_lost_pack(files):
    """What the index lists without a pack behind it does not count as stored."""
    backend = backend_of({name: content for name, content in files.items() if not name.startswith("packs")})
    objects = Objects(backend)
    for raw in RAWS:
        objects.put(Kind.CHUNK, raw)
    objects.seal()

    assert readable(backend) == set(RAWS)


@pytest.mark.parametrize("nbytes", [0, 31])
def test_a_pack_whose_writer_died_at_its_first_bytes_is_no_problem(files: dict[str, bytes], nbytes: int) -> None:
    cut = {name: content[:nbytes] if name.startswith("incoming/") else content for name, content in files.items()}
    assert cut != files

    assert list(verify(Objects(backend_of(cut)), Level.RAW)) == []
