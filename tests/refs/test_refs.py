"""Refs: numbered entries, written by many at once, over places that lose answers."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from thetastore.backends import Backend
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.digest import Digest, digest_of
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.ref_entries import Draft, Entry, RefFile, encode_entry, parse_entry
from thetastore.refs import Refs
from thetastore.testing.faults import Fault, FaultyBackend, FaultyRequests, MemoryRequests

ROOT = Path(__file__).parents[2]
NAME = "models/org/bert"


def draft(message: str = "", oldest: int | None = None) -> Draft:
    files = (RefFile("model.safetensors", 3, digest_of(b"abc")), RefFile("config.json", 2, digest_of(b"{}")))
    return Draft(files, message, "ada", {"step": "7"}, oldest)


def put(refs: Refs, message: str = "", oldest: int | None = None, name: str = NAME) -> Entry:
    return refs.append(name, lambda _: draft(message, oldest))


def messages(backend: Backend) -> list[str]:
    refs = Refs(backend)
    numbers = refs.numbers().get(NAME, [])
    assert numbers == list(range(1, len(numbers) + 1))
    return [refs.read(NAME, number).message for number in numbers]


def test_versions_are_numbered_from_one_and_the_last_one_counts() -> None:
    refs = Refs(MemoryBackend())

    first, second = put(refs, "first"), put(refs, "second")

    assert (first.number, second.number) == (1, 2)
    assert refs.latest(NAME) == second
    assert refs.read(NAME, 1) == first
    assert [file.path for file in second.files] == ["config.json", "model.safetensors"]
    assert refs.latest("models/other") is None


def test_a_deleted_ref_is_a_tombstone_whose_number_is_never_used_again() -> None:
    refs = Refs(MemoryBackend())
    put(refs, "before")

    gone = refs.append(NAME, lambda _: Draft((), "no longer needed", is_tombstone=True))

    assert gone.is_tombstone
    assert not list(refs.live())
    again = put(refs, "anew")
    assert (again.number, again.oldest) == (3, 3)
    assert list(refs.live()) == [again]
    assert refs.read(NAME, 1).message == "before"


def test_what_is_let_go_of_does_not_come_back_with_an_entry_that_wants_more() -> None:
    refs = Refs(MemoryBackend())
    for _ in range(3):
        put(refs)
    put(refs, oldest=3)

    last = put(refs, oldest=1)

    assert last.oldest == 3
    assert [entry.number for entry in refs.live()] == [3, 4, 5]


def test_a_writer_that_looked_before_another_wrote_takes_the_next_number() -> None:
    backend = MemoryBackend()
    late = Refs(backend)
    known = put(late, "first")
    put(Refs(backend), "faster")
    seen: list[int] = []

    def content(before: Entry | None) -> Draft:
        seen.append(before.number if before else 0)
        return draft("late")

    assert late.append(NAME, content, known).number == 3
    assert seen == [1, 2], "what an entry says is decided anew, knowing the one that was faster"
    assert messages(backend) == ["first", "faster", "late"]


WRITER = """
import sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.ref_entries import Draft
from thetastore.refs import Refs

refs = Refs(DirectoryBackend(sys.argv[1]))
sys.stdin.read(1)
for turn in range(int(sys.argv[3])):
    entry = refs.append("models/org/bert", lambda before: Draft((), f"{sys.argv[2]}.{turn}"))
    print(entry.number, f"{sys.argv[2]}.{turn}", flush=True)
"""


def test_many_processes_write_one_ref_in_a_directory_and_each_entry_is_there_once(tmp_path: Path) -> None:
    processes, turns = 8, 6
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(n), str(turns)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(processes)
    ]
    for writer in writers:  # all have imported what they need, and begin together
        assert writer.stdin
        writer.stdin.write("x")
        writer.stdin.close()
    told = {}
    for writer in writers:
        assert writer.stdout
        told |= {int(number): word for number, word in map(str.split, writer.stdout)}
        writer.stdout.close()
        assert writer.wait() == 0

    assert len(told) == processes * turns
    assert [told[number] for number in range(1, len(told) + 1)] == messages(DirectoryBackend(str(tmp_path)))


def test_writers_killed_at_any_time_leave_whole_entries_and_no_hole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    for number in range(3):
        with subprocess.Popen(
            [*command, str(number), "100000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdin
            assert writer.stdout
            writer.stdin.write("x")
            writer.stdin.flush()
            told = [writer.stdout.readline().split() for _ in range(2 + number)]
            writer.kill()

        found = messages(DirectoryBackend(str(tmp_path)))
        assert [found[int(place) - 1] for place, _ in told] == [word for _, word in told]


FAULTS = [Fault.REQUEST_LOST, Fault.RESPONSE_LOST, Fault.DUPLICATED, Fault.SERVER_ERROR, Fault.STALE_LISTING]


def remote(files: dict[str, bytes], faults: dict[int, Fault]) -> tuple[RemoteBackend, FaultyRequests]:
    requests = FaultyRequests(MemoryRequests(files), faults)
    return RemoteBackend(requests, "test://", pause=lambda _: None), requests


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.value)
def test_whatever_goes_wrong_once_on_the_way_each_version_is_written_once(fault: Fault) -> None:
    _, counted = remote(files := {}, {})
    for word in ("one", "two", "three"):
        put(Refs(RemoteBackend(counted, "test://")), word)
    assert len(files) == 3

    for number in range(len(counted.operations)):
        backend, _ = remote({}, {number: fault})
        refs = Refs(backend)

        for word in ("one", "two", "three"):
            put(refs, word)

        assert messages(backend) == ["one", "two", "three"], f"operation {number}: {counted.operations[number]}"


@pytest.mark.parametrize("fault", [Fault.DEAD, Fault.REFUSED], ids=lambda fault: fault.value)
def test_a_version_that_is_reported_is_there_and_one_that_is_not_leaves_no_hole(fault: Fault) -> None:
    number = 0
    while True:
        files: dict[str, bytes] = {}
        backend, requests = remote(files, {number: fault})
        refs = Refs(backend)
        reported = []
        try:
            for word in ("one", "two", "three"):
                put(refs, word)
                reported.append(word)
        except BackendError:
            pass
        found = messages(RemoteBackend(MemoryRequests(files), "test://"))
        assert found[: len(reported)] == reported
        assert len(found) <= len(reported) + 1
        if number >= len(requests.operations):
            break
        number += 1
    assert reported == ["one", "two", "three"]


def test_when_it_is_unknown_whether_an_entry_was_made_that_is_said_and_it_is_not_reported() -> None:
    files: dict[str, bytes] = {}
    backend, requests = remote(files, {})
    put(Refs(backend), "one")
    for number in range(len(requests.operations) + 2, 100):
        requests.fail(number, Fault.RESPONSE_LOST)

    with pytest.raises(BackendError, match=r"whether entry 2 of 'models/org/bert' was made is unknown"):
        put(Refs(backend), "two")


def test_threads_over_places_that_lose_answers_write_each_version_once() -> None:
    files: dict[str, bytes] = {}
    told: dict[int, str] = {}

    def write(writer: int) -> None:
        faults = {number: (Fault.RESPONSE_LOST, Fault.REQUEST_LOST)[number % 2] for number in range(writer, 200, 5)}
        refs = Refs(remote(files, faults)[0])
        for turn in range(5):
            entry = put(refs, f"{writer}.{turn}")
            told[entry.number] = entry.message

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [told[number] for number in sorted(told)] == messages(RemoteBackend(MemoryRequests(files), "test://"))
    assert len(told) == 30


def test_a_disk_that_fails_at_any_call_loses_no_version_that_was_reported() -> None:
    inner = MemoryBackend()
    counted = FaultyBackend(inner)
    put(Refs(counted))

    for number in range(len(counted.operations)):
        backend = MemoryBackend()
        put(Refs(backend), "one")
        try:
            put(Refs(FaultyBackend(backend, number)), "two")
        except BackendError:
            assert messages(backend) in (["one"], ["one", "two"])
        else:
            assert messages(backend) == ["one", "two"]


def test_a_listing_that_lacks_a_number_in_the_middle_is_looked_behind() -> None:
    class Late(MemoryBackend):
        def list(self, prefix: str) -> Iterator[str]:
            return (name for name in super().list(prefix) if not name.endswith("/000000000002"))

    backend = Late()
    for word in ("one", "two", "three"):
        put(Refs(backend), word)

    latest = Refs(backend).latest(NAME)

    assert latest is not None
    assert latest.message == "three"


def test_what_lies_above_a_missing_number_does_not_count_and_a_collector_is_stopped() -> None:
    backend = MemoryBackend()
    refs = Refs(backend)
    for word in ("one", "two", "three"):
        put(refs, word)
    backend.delete(f"refs/{NAME}/000000000002")

    latest = refs.latest(NAME)

    assert latest is not None
    assert latest.message == "one"
    with pytest.raises(MalformedError, match="entry 2 of the ref 'models/org/bert' is missing"):
        list(refs.live())


def test_every_flipped_bit_and_every_cut_of_an_entry_is_refused() -> None:
    encoded = encode_entry(put(Refs(MemoryBackend()), "message"))
    assert parse_entry(encoded, NAME, 1).message == "message"

    for place in range(len(encoded)):
        with pytest.raises(MalformedError):
            parse_entry(encoded[:place], NAME, 1)
        for bit in range(8):
            changed = bytearray(encoded)
            changed[place] ^= 1 << bit
            with pytest.raises(MalformedError):
                parse_entry(bytes(changed), NAME, 1)


def signed(line: bytes) -> bytes:
    return line + f"{digest_of(line)}\n".encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"oldest": 1', '"oldest": 3'),
        ('"oldest": 1', '"oldest": 0'),
        ('"oldest": 1', '"oldest": true'),
        ('"oldest": 1', '"oldest": ' + "9" * 5000),
        ('"number": 1', '"number": 2'),
        ('"name": "models/org/bert"', '"name": "models/org/Bert"'),
        ('"path": "config.json"', '"path": "../config.json"'),
        ('"path": "config.json"', '"path": "/etc/passwd"'),
        ('"path": "config.json"', '"path": "a\\u0000b"'),
        ('"path": "config.json"', '"path": "a\\\\b"'),
        ('"path": "config.json"', '"path": "\\ud800"'),
        ('"path": "config.json"', '"path": "model.safetensors"'),
        ('"path": "config.json"', '"path": "z"'),
        ('"path": "config.json"', '"path": ""'),
        ('"path": "config.json"', '"path": 5'),
        ('"bytes": 2', '"bytes": -2'),
        ('"bytes": 2', '"bytes": 2.0'),
        ('"files": [', '"files": [[], '),
        ('"files": [', '"files": 7, "more": ['),
        ('"step": "7"', '"step": 7'),
        ('"metadata": {', '"metadata": [], "more": {'),
        ('"write_id": "', '"write_id": "Z'),
        ('"format": "theta-ref"', '"format": "theta-pin"'),
        ('{"format"', '[{"format"'),
        ('{"format"', "[" * 100_000 + '{"format"'),
    ],
)
def test_an_entry_that_breaks_a_rule_is_refused_though_its_digest_is_right(old: str, new: str) -> None:
    line = encode_entry(put(Refs(MemoryBackend()))).split(b"\n")[0] + b"\n"
    assert old.encode() in line

    with pytest.raises(MalformedError):
        parse_entry(signed(line.replace(old.encode(), new.encode(), 1)), NAME, 1)


def test_an_entry_of_a_newer_version_is_refused_as_such_and_unknown_keys_are_ignored() -> None:
    line = encode_entry(put(Refs(MemoryBackend()), "m")).split(b"\n")[0] + b"\n"

    with pytest.raises(UnsupportedError, match="has version 7"):
        parse_entry(signed(line.replace(b'"version": 1', b'"version": 7')), NAME, 1)
    assert parse_entry(signed(line.replace(b'{"format"', b'{"more": [1], "format"')), NAME, 1).message == "m"


def test_a_file_below_another_file_is_refused() -> None:
    with pytest.raises(MalformedError, match="a file below 'a'"):
        Refs(MemoryBackend()).append(
            NAME, lambda _: Draft((RefFile("a", 0, digest_of(b"")), RefFile("a/b", 0, digest_of(b""))))
        )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "..",
            "models/..",
            "models/../../packs",
            "/models",
            "models/",
            "models//x",
            "models/.x",
            "models/-x",
            "models/~",
        ),
        *(
            "models/a b",
            "models/a@v1",
            "models/ä",
            "models/000000000001",
            "a/b/c/d/e/f/g",
            "models/" + "x" * 129,
            "models/\0",
        ),
    ],
)
def test_a_name_that_could_lead_out_of_the_store_is_refused(name: str, tmp_path: Path) -> None:
    refs = Refs(DirectoryBackend(str(tmp_path / "store")))

    for act in (refs.latest, refs.numbers, put_named(refs), lambda name: refs.read(name, 1)):
        with pytest.raises(MalformedError, match="is no name"):
            act(name)
    assert not list(tmp_path.iterdir())


def put_named(refs: Refs):  # type: ignore[no-untyped-def]
    return lambda name: put(refs, name=name)


def test_files_that_are_no_entries_are_not_looked_at() -> None:
    backend = MemoryBackend()
    put(Refs(backend))
    for name in ("refs/x", "refs/models/1", "refs/models/org/bert/2", "refs/models/org/bert/00000000000a", "refs/.x/y"):
        backend.create(name, b"")
    backend.create("refs/models/org/bert/000000000000", b"")

    assert Refs(backend).numbers() == {NAME: [1]}


def test_a_listing_of_huge_numbers_costs_nothing() -> None:
    backend = MemoryBackend()
    put(Refs(backend), "one")
    backend.create(f"refs/{NAME}/999999999999", b"")

    latest = Refs(backend).latest(NAME)

    assert latest is not None
    assert latest.message == "one"


def test_names_below_a_name_are_refs_of_their_own() -> None:
    refs = Refs(MemoryBackend())
    put(refs, name="models/org")
    put(refs, name="models/org/bert")
    put(refs, name="models/org/bert")

    assert refs.numbers("models/org") == {"models/org": [1], "models/org/bert": [1, 2]}
    latest = refs.latest("models/org")
    assert latest is not None
    assert latest.number == 1


def test_the_example_of_the_document_is_what_is_written() -> None:
    text = (ROOT / "docs" / "format" / "refs.md").read_text()
    shown = re.search(r"^    (\{.*\})\n    ([0-9a-f]{64})\n", text, re.MULTILINE)
    assert shown
    encoded = f"{shown[1]}\n{shown[2]}\n".encode()

    entry = parse_entry(encoded, "models/bert", 2)

    assert encode_entry(entry) == encoded
    manifest = Digest.parse("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
    assert entry.files == (RefFile("model.safetensors", 90868376, manifest),)
