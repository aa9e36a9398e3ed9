"""What is kept of a merge, in the store and in the message of its commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import digest_of
from thetastore.recipes import MAX_RECORD_BYTES, put_record, records_of, send_records

if TYPE_CHECKING:
    from conftest import Work

MANIFEST, OTHER = digest_of(b"manifest"), digest_of(b"other")
Make = Callable[..., dict[str, Any]]


def test_a_record_comes_back_and_is_sent_with_its_manifest_and_no_other() -> None:
    here, there = MemoryBackend(), MemoryBackend()
    put_record(here, MANIFEST, {"rule": "ties"})
    put_record(here, OTHER, {"rule": "ours"})

    send_records(here, there, [MANIFEST])
    send_records(here, there, [MANIFEST])

    assert records_of(there, MANIFEST) == [{"rule": "ties"}]
    assert records_of(there, OTHER) == []


def test_damaged_and_overlong_records_are_left_out(tmp_path: Path) -> None:
    here, there = DirectoryBackend(str(tmp_path)), MemoryBackend()
    name = put_record(here, MANIFEST, {"rule": "ties"})
    assert name is not None
    (tmp_path / name).chmod(0o644)
    (tmp_path / name).write_bytes(b'{"rule": "other"}')

    send_records(here, there, [MANIFEST])

    assert records_of(here, MANIFEST) == []
    assert list(there.list("recipes")) == []
    assert put_record(here, MANIFEST, {"rule": "x" * MAX_RECORD_BYTES}) is None


def test_of_many_ways_to_one_file_a_few_are_kept() -> None:
    backend = MemoryBackend()

    names = [put_record(backend, MANIFEST, {"number": number}) for number in range(12)]

    assert names.count(None) == 4
    assert len(records_of(backend, MANIFEST)) == 8


def test_a_push_takes_the_recipe_along(work: Work, model: Make, changed: Make, tmp_path: Path) -> None:
    work.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    work.git("remote", "add", "origin", str(tmp_path / "bare.git"))
    work.git("config", "theta.url", str(tmp_path / "remote"))
    base = model()
    work.commit(base, tag="base")
    work.branch("theirs", changed(base, 4, 1))
    work.branch("ours", changed(base, 8, 1))
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")

    work.git("push", "-q", "origin", "ours")

    assert [path.name for path in (tmp_path / "remote" / "recipes").iterdir()] == [
        path.name for path in (work.path / ".git/theta/recipes").iterdir()
    ]


def test_a_hook_that_the_user_writes_puts_the_trailer_into_merges_without_conflicts(
    work: Work, model: Make, changed: Make
) -> None:
    hook = work.path / ".git/hooks/prepare-commit-msg"
    hook.write_text('#!/bin/sh\ngit theta hook prepare-commit-msg "$1"\n')
    hook.chmod(0o755)
    base = model()
    work.commit(base, tag="base")
    work.branch("theirs", changed(base, 4, 1))
    work.branch("ours", changed(base, 8, 1))

    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")
    assert work.git("log", "-1", "--format=%B").out.strip() == (
        "merge\n\nTheta-Merge: model.safetensors: average (1 tensor)"
    )

    work.commit(changed(base, 9, 1))
    assert "Theta-Merge" not in work.git("log", "-1", "--format=%B").out
