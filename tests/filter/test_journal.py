"""The journal says what its document says, and nothing in it is believed that should not be."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitbridge.journal import Identity, Journal, Placement, boot_id, found_journals, is_safe_path, parse_journal
from gitbridge.work_files import UnsafePathError, WorkFiles, temporary_name
from thetastore.digest import digest_of

DOCUMENT = Path(__file__).parents[2] / "docs/format/journal.md"
PLACEMENT = Placement(
    b"m.bin", b".m.bin.theta-0123456789abcdef", bytes(range(20)), 3, digest_of(b"abc"), Identity(1, 2, 4096, 10**18)
)


def example() -> bytes:
    """The bytes of the hex dump in the document."""
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2}(?: |$))+)", DOCUMENT.read_text(), re.MULTILINE)
    return bytes.fromhex("".join(lines))


def test_the_example_in_the_document_is_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gitbridge.journal.boot_id", lambda: b"boot")
    journal = Journal.create(str(tmp_path))
    journal.intend(PLACEMENT.path, PLACEMENT.temporary)
    journal.ready(PLACEMENT)

    assert next(tmp_path.iterdir()).read_bytes() == example()
    records = parse_journal(example())
    assert records is not None
    assert records.is_of_this_boot
    assert records.ready == {b"m.bin": PLACEMENT}
    assert records.temporaries == {PLACEMENT.temporary: b"m.bin"}
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_another_boot_is_told_apart() -> None:
    records = parse_journal(example())

    assert records is not None
    assert not records.is_of_this_boot
    assert len(boot_id()) <= 64


def test_a_living_journal_is_seen_as_such(tmp_path: Path) -> None:
    journal = Journal.create(str(tmp_path))
    journal.ready(PLACEMENT)

    assert [(found.is_dead, found.read().ready) for found in found_journals(str(tmp_path))] == [
        (False, {b"m.bin": PLACEMENT})
    ]
    journal.leave()
    assert [found.is_dead for found in found_journals(str(tmp_path))] == [True]


@pytest.mark.parametrize("at", range(0, 207, 3))
def test_damage_ends_the_journal_and_never_invents(at: int) -> None:
    content = bytearray(example())
    content[at] ^= 0x41

    records = parse_journal(bytes(content))

    if records is not None:
        assert set(records.ready.values()) <= {PLACEMENT}
        assert set(records.temporaries.items()) <= {(PLACEMENT.temporary, b"m.bin")}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 206))
def test_a_cut_journal_is_read_as_far_as_it_goes(end: int) -> None:
    records = parse_journal(example()[:end])

    assert records is not None
    assert records.ready == {}
    assert bool(records.temporaries) == (end >= 0x3F)


UNSAFE = [b"", b"/etc/passwd", b"a//b", b"../a", b"a/../b", b"./a", b".git/config", b"a/.GIT/b", b"a\0b", b"a/"]


@pytest.mark.parametrize("path", UNSAFE)
def test_a_path_that_leads_elsewhere_is_refused(path: bytes, tmp_path: Path) -> None:
    assert not is_safe_path(path)
    with WorkFiles(str(tmp_path)) as files, pytest.raises(UnsafePathError):
        files.open(path)


def test_an_unsafe_name_in_a_journal_is_left_out(tmp_path: Path) -> None:
    for bad in (
        PLACEMENT._replace(path=b"../m.bin"),
        PLACEMENT._replace(temporary=b".x"),
        PLACEMENT._replace(temporary=b"m.theta-1"),
        PLACEMENT._replace(temporary=b".a/.theta-1"),
    ):
        journal = Journal.create(str(tmp_path / "pending"))
        journal.ready(bad)
        path = next((tmp_path / "pending").iterdir())
        records = parse_journal(path.read_bytes())
        journal.remove()
        assert records is not None
        assert records.ready == {}
        assert records.temporaries == {}


def test_symlinks_are_not_followed_anywhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a").write_bytes(b"abc")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink(tmp_path / "outside", root / "d")
    os.symlink(tmp_path / "outside/a", root / "a")

    with WorkFiles(str(root)) as files:
        with pytest.raises(OSError, match="d"):
            files.open(b"d/a")
        assert files.pointer_at(b"a", 3, digest_of(b"abc")) is None
        assert files.pointer_at(b"d/a", 3, digest_of(b"abc")) is None
        with pytest.raises(OSError, match="d"):
            files.create_temporary(b"d/a", temporary_name(b"d/a"))


@pytest.mark.parametrize("name", [b"a", b"x" * 255, "☃".encode() * 85])
def test_temporary_names_are_short_enough_and_never_the_same(name: bytes) -> None:
    names = {temporary_name(b"dir/" + name) for _ in range(100)}

    assert len(names) == 100
    assert all(len(one) <= 255 and one.startswith(b".") and b".theta-" in one for one in names)


def test_what_is_not_a_regular_file_is_no_pointer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()

    with WorkFiles(str(tmp_path)) as files:
        assert files.pointer_at(b"fifo", 0, digest_of(b"")) is None
        assert files.pointer_at(b"directory", 0, digest_of(b"")) is None
        assert files.pointer_at(b"nothing", 0, digest_of(b"")) is None
        assert files.pointer_at(b"no/directory", 0, digest_of(b"")) is None
