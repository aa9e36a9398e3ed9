"""What is kept of a merge, in the store and in the message of its commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import digest_of
from thetastore.merge_records import MAX_RECORD_BYTES, put_record, records_of, send_records

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


def test_a_push_takes_the_recipe_along(work: Work, sides: Any, tmp_path: Path) -> None:
    work.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    work.git("remote", "add", "origin", str(tmp_path / "bare.git"))
    work.git("config", "theta.url", str(tmp_path / "remote"))
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")

    work.git("push", "-q", "origin", "ours")

    assert [path.name for path in (tmp_path / "remote" / "recipes").iterdir()] == [
        path.name for path in (work.path / ".git/theta/recipes").iterdir()
    ]


TRAILER = "Theta-Merge: model.safetensors: average (1 tensor)"


def last_message(work: Work) -> str:
    return work.git("log", "-1", "--format=%B").out.strip()


def test_a_merge_without_conflicts_has_a_trailer_and_the_next_commit_none(work: Work, sides: Any) -> None:
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")
    assert last_message(work) == f"merge\n\n{TRAILER}"

    work.append("notes", "more")
    work.commit(message="notes")
    assert last_message(work) == "notes"
    work.theta("uninstall", "--local")
    assert not (work.path / ".git/hooks/prepare-commit-msg").exists()


def test_commits_of_a_rebase_and_a_cherry_pick_have_trailers(work: Work, sides: Any) -> None:
    work.git("config", "theta.merge.method", "average")
    work.git("checkout", "-q", "-b", "picked")
    work.git("cherry-pick", "theirs")
    assert last_message(work).endswith(TRAILER)

    work.git("checkout", "-q", "theirs")
    work.git("rebase", "-q", "ours")
    assert last_message(work).endswith(TRAILER)


def test_what_the_mergetool_decides_in_a_rebase_is_in_the_message(work: Work, sides: Any) -> None:
    work.git("checkout", "-q", "theirs")
    assert work.git("rebase", "-q", "ours", check=False).status == 1

    assert "the commit's message will say" in work.theta("mergetool", "--method", "average", "*").out
    work.git("rebase", "--continue")

    assert last_message(work).endswith(TRAILER)


def test_the_users_hook_runs_too_and_is_left_as_it_was(work: Work, sides: Any) -> None:
    hook = work.path / ".git/hooks/prepare-commit-msg"
    text = '#!/bin/sh\ngit theta hook prepare-commit-msg "$1"\necho "Reviewed-by: me" >>"$1"\n'
    hook.write_text(text)
    hook.chmod(0o755)

    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")

    assert last_message(work) == f"merge\n\n{TRAILER}\nReviewed-by: me"
    work.theta("uninstall", "--local")
    assert hook.read_text() == text


def test_where_no_hook_may_be_put_in_the_mergetool_writes_into_the_message_itself(work: Work, conflict: Any) -> None:
    work.git("config", "theta.installHooks", "false")

    work.theta("mergetool", "--method", "average", "*")

    assert not (work.path / ".git/hooks/prepare-commit-msg").exists()
    work.git("commit", "--no-edit")
    assert "\n\nTheta-Merge: model.safetensors: average (2 tensors)\n" in last_message(work)


def test_an_empty_message_stays_empty_so_that_git_refuses_it(work: Work, sides: Any) -> None:
    work.git("merge", "--no-commit", "theirs", GIT_THETA_MERGE_METHOD="average")
    (work.path / ".git/MERGE_MSG").write_text("\n# only a comment\n")

    done = work.git("commit", "--cleanup=strip", check=False)

    assert done.status == 1
    assert "empty commit message" in done.err
    work.git("commit", "-m", "merge")
    assert last_message(work).endswith(TRAILER)
