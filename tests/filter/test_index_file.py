"""Git's own index is read as git reads it, and patched so that git believes it."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitbridge.index_file import (
    Filled,
    IndexLockedError,
    IndexLookup,
    IndexUnsupportedError,
    parse_index,
    patch_index,
    read_index,
    update_index,
)

if TYPE_CHECKING:
    from conftest import Worktree

NAMES = ["a", "b/" + "long" * 1100, "b/c d", "b/c/ünï", "b/cc", "z.bin"]


def index_path(worktree: Worktree) -> str:
    return str(worktree.path / ".git" / "index")


def commit_files(worktree: Worktree) -> None:
    for number, name in enumerate(NAMES):
        if len(name) < 200:
            worktree.write(name, b"content %d" % number)
    worktree.git("add", ".")
    oid = worktree.git("hash-object", "-w", "--stdin")
    worktree.git("update-index", "--add", "--cacheinfo", f"100755,{oid},{NAMES[1]}")
    worktree.git("commit", "-q", "-m", "1")


def listed_by_git(worktree: Worktree) -> list[tuple[bytes, int, str, int]]:
    found = []
    for line in worktree.git("ls-files", "-s", "-z").split("\0")[:-1]:
        facts, name = line.split("\t", 1)
        mode, oid, stage = facts.split(" ")
        found.append((os.fsencode(name), int(mode, 8), oid, int(stage)))
    return found


def listed_by_us(worktree: Worktree, object_format: str = "sha1") -> list[tuple[bytes, int, str, int]]:
    entries = parse_index(read_index(index_path(worktree)), object_format)
    return [(entry.path, entry.mode, entry.oid.hex(), entry.stage) for entry in entries]


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_entries_are_those_that_git_lists(plain: Worktree, object_format: str, version: str) -> None:
    if object_format == "sha256":
        plain = plain.at(plain.path / "other")
        plain.path.mkdir()
        plain.git("init", "-q", "--object-format=sha256")
    commit_files(plain)
    if version == "3":
        plain.write("later", b"x")
        plain.git("add", "-N", "later")
    else:
        plain.git("update-index", "--index-version", version)

    assert read_index(index_path(plain))[7] == int(version)
    assert listed_by_us(plain, object_format) == listed_by_git(plain)


def test_a_conflict_is_found_at_our_stage(plain: Worktree) -> None:
    commit_files(plain)
    plain.git("checkout", "-q", "-b", "side")
    plain.write("z.bin", b"theirs")
    plain.git("commit", "-q", "-am", "2")
    plain.git("checkout", "-q", "main")
    plain.write("z.bin", b"ours")
    plain.git("commit", "-q", "-am", "3")
    plain.run("merge", "side", check=False)

    lookup = IndexLookup(read_index(index_path(plain)), "sha1")

    assert listed_by_us(plain) == listed_by_git(plain)
    assert lookup.oid(b"z.bin") == bytes.fromhex(plain.git("rev-parse", "main:z.bin"))
    assert lookup.oid(b"a") == bytes.fromhex(plain.git("rev-parse", "main:a"))
    assert lookup.oid(b"nowhere") is None


def test_no_index_has_no_entries(tmp_path: Path) -> None:
    assert list(parse_index(read_index(str(tmp_path / "index")), "sha1")) == []
    assert IndexLookup(b"", "sha1").oid(b"a") is None


def replace_behind_git(worktree: Worktree, name: str) -> Filled:
    """Put other bytes at a path, as the fill does, and say that they stand for the same blob."""
    oid = bytes.fromhex(worktree.git("rev-parse", f":{name}"))
    worktree.write("new", b"longer than before")
    os.utime(worktree.path / "new", ns=(0, 999_999_999))
    os.rename(worktree.path / "new", worktree.path / name)
    return Filled(oid, os.lstat(worktree.path / name))


SETTINGS = [
    ("index.version", "2"),
    ("index.version", "4"),
    ("index.threads", "2"),
    ("index.skipHash", "true"),
    ("core.untrackedCache", "true"),
    ("core.fsmonitor", "false"),
    ("index.sparse", "true"),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_git_takes_a_patched_file_for_unchanged(plain: Worktree, name: str, value: str) -> None:
    plain.git("config", name, value)
    commit_files(plain)
    plain.git("rm", "-q", "--cached", NAMES[1])
    plain.git("status")
    filled = replace_behind_git(plain, "z.bin")
    assert plain.git("diff-files", "--name-only") == "z.bin"

    update_index(index_path(plain), "sha1", {b"z.bin": filled})

    assert plain.git("diff-files", "--name-only") == ""
    assert plain.git("status", "--porcelain", "-uno") == f"D  {NAMES[1]}"
    assert plain.git("fsck") == ""
    assert not os.path.lexists(index_path(plain) + ".lock")


def test_a_checksum_of_zeros_stays_one(plain: Worktree) -> None:
    commit_files(plain)
    index = read_index(index_path(plain))[:-20] + bytes(20)

    patched = patch_index(index, "sha1", {b"z.bin": replace_behind_git(plain, "z.bin")})

    assert patched != index
    assert patched[-20:] == bytes(20)


def test_another_blob_is_never_patched(plain: Worktree) -> None:
    commit_files(plain)
    filled = replace_behind_git(plain, "z.bin")
    index = read_index(index_path(plain))

    assert patch_index(index, "sha1", {b"z.bin": filled._replace(oid=bytes(20))}) is index
    assert patch_index(index, "sha1", {b"a": filled, b"nowhere": filled}) is index


def test_a_link_is_never_patched(plain: Worktree) -> None:
    os.symlink("target", plain.path / "link")
    plain.git("add", "link")
    index = read_index(index_path(plain))
    filled = Filled(bytes.fromhex(plain.git("rev-parse", ":link")), os.stat(plain.path))

    assert patch_index(index, "sha1", {b"link": filled}) is index


def test_a_conflict_is_never_patched(plain: Worktree) -> None:
    commit_files(plain)
    oid = plain.git("rev-parse", ":a")
    conflict = "".join(f"100644 {oid} {stage}\tconflict\n" for stage in (1, 2, 3))
    plain.run("update-index", "--index-info", text=conflict)
    index = read_index(index_path(plain))
    filled = Filled(bytes.fromhex(oid), os.stat(plain.path / "a"))

    assert b"conflict" in [entry.path for entry in parse_index(index, "sha1")]
    assert patch_index(index, "sha1", {b"conflict": filled}) is index


def test_a_split_index_is_refused(plain: Worktree) -> None:
    commit_files(plain)
    plain.git("update-index", "--split-index")
    index = read_index(index_path(plain))

    with pytest.raises(IndexUnsupportedError, match="link"):
        patch_index(index, "sha1", {b"a": Filled(bytes(20), os.stat(plain.path))})


def test_a_newer_version_is_refused() -> None:
    with pytest.raises(IndexUnsupportedError, match="version 5"):
        list(parse_index(struct.pack(">4sII", b"DIRC", 5, 0) + bytes(20), "sha1"))


def test_damage_is_refused_and_never_given_a_good_checksum(plain: Worktree) -> None:
    commit_files(plain)
    filled = {b"z.bin": replace_behind_git(plain, "z.bin")}
    index = read_index(index_path(plain))
    damaged = bytearray(index)
    damaged[12 + 50] ^= 1

    with pytest.raises(IndexUnsupportedError, match="damaged"):
        patch_index(bytes(damaged), "sha1", filled)
    for end in range(0, len(index) - 1, 7):
        if end:
            with pytest.raises(IndexUnsupportedError):
                patch_index(index[:end], "sha1", filled)


def test_a_held_lock_is_waited_for_and_then_reported(plain: Worktree) -> None:
    commit_files(plain)
    filled = {b"z.bin": replace_behind_git(plain, "z.bin")}
    Path(index_path(plain) + ".lock").write_bytes(b"")
    index = read_index(index_path(plain))

    with pytest.raises(IndexLockedError):
        update_index(index_path(plain), "sha1", filled, patience_s=0.02)

    assert read_index(index_path(plain)) == index
    assert os.path.lexists(index_path(plain) + ".lock")


def test_the_index_keeps_its_permissions(plain: Worktree) -> None:
    commit_files(plain)
    os.chmod(index_path(plain), 0o664)

    update_index(index_path(plain), "sha1", {b"z.bin": replace_behind_git(plain, "z.bin")})

    assert os.stat(index_path(plain)).st_mode & 0o777 == 0o664
