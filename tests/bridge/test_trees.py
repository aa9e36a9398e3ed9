"""Pointers in trees, in the index and in ranges of history, found by content."""

from __future__ import annotations

import os
import random

import pytest

from gitbridge.errors import PointerError, RevisionError
from gitbridge.pointers import render_pointer
from gitbridge.trees import tracked_in_history, tracked_in_index, tracked_in_tree


def weights(seed: int) -> bytes:
    return random.Random(seed).randbytes(5_000)


def paths(files) -> list[str]:
    return [file.path for file in files]


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_pointers_are_found_whatever_their_names_and_attributes(make_work, object_format):
    work = make_work("work", f"--object-format={object_format}")
    digest = work.put("dir/ünï \t\n.bin", weights(1))
    (work.path / "plain.txt").write_text("x" * 1000)
    (work.path / "link").symlink_to("dir")
    os.symlink("version https://pypi.org/project/thetastore/#pointer-1", work.path / "liar")
    work.git("add", ".")
    work.commit()

    with work.repository() as repository:
        in_tree, in_index = tracked_in_tree(repository, "HEAD"), tracked_in_index(repository)

        assert paths(in_tree) == ["dir/ünï \t\n.bin"]
        assert in_tree == in_index
        assert in_tree[0].manifest_digest == digest
        assert in_tree[0].file_bytes == 5_000
        assert in_tree[0].pointer(repository).file_digest == in_tree[0].file_digest


def test_a_path_that_is_not_utf8_comes_back(work):
    work.put("plain", weights(1))
    oid = work.git("rev-parse", ":plain").out.strip()
    odd = os.fsdecode(b"bad-\xff")
    work.git("update-index", "--add", "--cacheinfo", f"100644,{oid},{odd}")

    with work.repository() as repository:
        assert os.fsencode(tracked_in_index(repository)[0].path) == b"bad-\xff"


def test_a_file_in_conflict_is_our_side(work):
    work.put("w", weights(1))
    work.commit("base")
    work.git("checkout", "-q", "-b", "theirs")
    work.put("w", weights(2))
    work.commit()
    work.git("checkout", "-q", "main")
    ours = work.put("w", weights(3))
    work.commit()
    work.git("merge", "theirs", check=False)

    with work.repository() as repository:
        found = tracked_in_index(repository)
        assert [file.manifest_digest for file in found] == [ours]


def test_what_only_begins_like_a_pointer_is_left_out(work):
    work.put("w", weights(1))
    text = (work.path / "w").read_bytes()
    (work.path / "cut").write_bytes(text[:200] + b"\n" * 200)
    work.git("add", ".")

    with work.repository() as repository:
        assert paths(tracked_in_index(repository)) == ["w"]


def test_an_edited_pointer_is_refused_with_its_path(work):
    work.put("w", weights(1))
    (work.path / "w").write_bytes((work.path / "w").read_bytes() + b"edited\n")
    work.git("add", "w")

    with work.repository() as repository, pytest.raises(PointerError, match="'w'"):
        tracked_in_index(repository)[0].pointer(repository)


def test_history_leaves_out_what_excluded_commits_reach_and_ignores_unknown_ones(work):
    first = work.put("w", weights(1))
    one = work.commit()
    second = work.put("w", weights(2))
    work.commit()
    third = work.put("sub/w", weights(3))
    three = work.commit()
    work.git("tag", "-a", "-m", "x", "v1")
    tag = work.git("rev-parse", "v1").out.strip()

    with work.repository() as repository:
        everything = {f.manifest_digest for f in tracked_in_history(repository, [tag])}
        rest = {f.manifest_digest for f in tracked_in_history(repository, [three], [one, "0" * 39 + "1"])}

    assert everything == {first, second, third}
    assert rest == {second, third}


def test_a_replaced_commit_does_not_hide_history(work):
    digest = work.put("w", weights(1))
    one = work.commit()
    work.git("rm", "-q", "--cached", "w")
    two = work.commit()
    work.git("replace", "--graft", two)

    with work.repository() as repository:
        assert one not in work.git("log", "--format=%H").out
        assert [f.manifest_digest for f in tracked_in_history(repository, [two])] == [digest]


@pytest.mark.parametrize("revision", ["nonsense", "--all", "HEAD:nothing", ""])
def test_an_unknown_revision_is_named(work, revision):
    work.commit()

    with work.repository() as repository, pytest.raises(RevisionError, match="is not a"):
        tracked_in_tree(repository, revision)


def test_thousands_of_files_take_no_time_to_speak_of(work):
    import time

    work.put("one", weights(1))
    oid = work.git("rev-parse", ":one").out.strip()
    lines = "".join(f"100644 {oid}\tdir{n % 50}/{n}\n" for n in range(5_000))
    import subprocess

    subprocess.run(["git", "update-index", "--index-info"], cwd=work.path, input=lines.encode(), check=True)
    started = time.monotonic()

    with work.repository() as repository:
        assert len(tracked_in_index(repository)) == 5_001

    assert time.monotonic() - started < 5


def test_rendering_is_what_put_left_behind(work):
    digest = work.put("w", weights(1))

    with work.repository() as repository, repository.open_store() as store:
        assert render_pointer(store.get_manifest(digest), digest) == (work.path / "w").read_bytes()
