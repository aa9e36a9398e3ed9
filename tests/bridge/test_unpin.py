"""`git theta unpin` lets go of what a Git remote has no more, and of nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from gitbridge import hooks
from thetastore.pins import list_pins, read_pin
from thetastore.store import Store


def weights(seed: int, nbytes: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(nbytes)


@pytest.fixture
def shared(tmp_path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def work(make_work, shared):
    """A clone with one pushed version of `w` on main, and another one on a branch called side."""
    work, bare = make_work(), make_work("bare.git", "--bare")
    work.git("remote", "add", "origin", str(bare.path))
    work.git("config", "theta.url", str(shared))
    hooks.install(work.repository())
    work.main = work.put("w", weights(1))
    work.commit()
    work.git("push", "-q", "origin", "main")
    work.git("checkout", "-q", "-b", "side")
    work.side = work.put("w", weights(2))
    work.commit()
    work.git("push", "-q", "origin", "side")
    work.git("checkout", "-q", "main")
    return work


def pinned(store: Path) -> set:
    with Store.open(str(store)) as opened:
        names = list_pins(opened.backend).names
        return {digest for name in names for digest in read_pin(opened.backend, name).manifests}


def marks(store: Path) -> list[Path]:
    return sorted(store.glob("pins/*/*.going"))


def has(store: Path, *manifests) -> bool:
    with Store.open(str(store)) as opened:
        return opened.missing_objects(manifests) == []


def later(store: Path, days: float) -> None:
    """Make everything in a store so much older."""
    for path in store.rglob("*"):
        if path.is_file():
            known = path.stat()
            os.utime(path, (known.st_atime - days * 86400, known.st_mtime - days * 86400))


def unpin(work, *arguments: str) -> dict:
    done = work.theta("unpin", "--json", *arguments)
    assert done.status == 0, done.err
    [found] = json.loads(done.out)["repositories"]
    return found


def test_what_a_deleted_branch_had_goes_in_two_steps_and_gc_frees_it(work, shared):
    work.git("push", "-q", "origin", ":side")
    later(shared, 2)

    said = work.theta("unpin", "--dry-run")
    assert "1  would be marked: nobody leans on them any more (side)" in said.out
    assert "no other pin names 1 version of a file" in said.out
    assert marks(shared) == []

    first = unpin(work)
    assert [one["refs"] for one in first["marked"]] == [["refs/heads/side"]]
    assert pinned(shared) == {work.main, work.side}

    later(shared, 2)
    second = unpin(work)
    assert (len(second["marked"]), len(second["deleted"]), second["pin_count"]) == (0, 1, 2)
    assert pinned(shared) == {work.main}
    assert marks(shared) == []

    for _ in range(3):
        assert work.theta("gc", "--remote").status == 0
        later(shared, 2)
    assert not has(shared, work.side)
    assert has(shared, work.main)


def test_a_branch_that_comes_back_within_the_grace_keeps_everything(work, shared):
    work.git("push", "-q", "origin", ":side")
    later(shared, 2)
    unpin(work)
    later(shared, 2)
    work.git("push", "-q", "origin", "side")

    found = unpin(work)

    assert len(found["deleted"]) == 1
    assert pinned(shared) == {work.main, work.side}
    assert unpin(work)["marked"] == []


def test_a_branch_that_comes_back_without_our_hook_keeps_everything(work, shared):
    work.git("push", "-q", "origin", ":side")
    later(shared, 2)
    unpin(work)
    later(shared, 2)
    work.git("push", "-q", "--no-verify", "origin", "side")

    unpin(work)

    assert pinned(shared) == {work.main, work.side}


def test_what_a_server_squashed_is_pinned_before_the_branch_goes(work, shared, tmp_path):
    tree = work.git("rev-parse", "side^{tree}").out.strip()
    squashed = work.git("commit-tree", "-m", "squashed", "-p", "main", tree).out.strip()
    work.git("push", "-q", "--no-verify", "origin", f"{squashed}:refs/heads/main", ":side")
    work.git("gc", "-q", "--prune=now")
    clone = tmp_path / "clone"
    work.git("clone", "-q", str(tmp_path / "bare.git"), str(clone))
    later(shared, 2)

    for _ in range(2):
        unpin(work)
        later(shared, 2)

    assert work.side in pinned(shared)
    with Store.open(str(shared)) as opened:
        commits = {name.commit for name in list_pins(opened.backend).names}
    assert squashed in commits
    assert work.git("rev-parse", "side").out.strip() not in commits


def test_what_others_pushed_is_fetched_before_anything_is_decided(work, shared, make_work, tmp_path):
    other = make_work("other", clone=tmp_path / "bare.git")
    other.git("config", "theta.url", str(shared))
    hooks.install(other.repository())
    digest = other.put("v", weights(3))
    other.commit()
    other.git("push", "-q", "origin", "HEAD:refs/pull/1/head")
    later(shared, 2)

    found = unpin(work)

    assert found["marked"] == []
    assert digest in pinned(shared)
    assert not (work.path / ".git" / "FETCH_HEAD").exists()


def test_young_pins_stay_since_a_push_may_be_under_way(work, shared):
    work.git("push", "-q", "origin", ":side")

    found = unpin(work)

    assert (found["young_count"], found["marked"]) == (1, [])


def test_pins_of_another_repository_stay(work, shared, make_work):
    fork = make_work("fork.git", "--bare")
    work.git("push", "-q", str(fork.path), "side")
    work.git("push", "-q", "origin", ":side")
    later(shared, 2)
    for _ in range(2):
        unpin(work)
        later(shared, 2)

    assert pinned(shared) == {work.main, work.side}
    listed = work.theta("unpin", "--list").out
    assert "fork.git" in listed
    assert "bare.git" in listed

    shutil.rmtree(fork.path)
    for _ in range(2):
        assert len(unpin(work, "--forget", listed.split("fork.git")[0].split()[-1] + "fork.git")) > 0
        later(shared, 2)

    assert pinned(shared) == {work.main}


def test_a_remote_that_cannot_be_read_keeps_everything(work, shared, tmp_path):
    shutil.move(tmp_path / "bare.git", tmp_path / "moved.git")
    later(shared, 30)

    done = work.theta("unpin", "--grace", "0")

    assert done.status == 2
    assert "all its pins stay" in done.err
    assert "git theta unpin --forget" in done.err
    assert marks(shared) == []
    assert pinned(shared) == {work.main, work.side}


def test_a_remote_without_any_ref_keeps_everything(work, shared, tmp_path):
    work.git("-C", str(tmp_path / "bare.git"), "update-ref", "-d", "refs/heads/main")
    work.git("-C", str(tmp_path / "bare.git"), "update-ref", "-d", "refs/heads/side")
    later(shared, 30)

    done = work.theta("unpin", "--grace", "0")

    assert (done.status, marks(shared)) == (2, [])
    assert "has no refs at all" in done.err


def test_a_shallow_clone_keeps_everything(work, shared, make_work, tmp_path):
    work.git("push", "-q", "origin", ":side")
    clone = make_work("clone", "--depth=1", clone=f"file://{tmp_path / 'bare.git'}")
    clone.git("config", "theta.url", str(shared))
    later(shared, 30)

    done = clone.theta("unpin", "--grace", "0")

    assert (done.status, marks(shared)) == (2, [])
    assert "git fetch --unshallow" in done.err


def test_without_a_grace_both_steps_are_taken_at_once(work, shared):
    work.git("push", "-q", "origin", ":side")
    later(shared, 2)

    found = unpin(work, "--grace", "0")

    assert len(found["deleted"]) == 1
    assert pinned(shared) == {work.main}


def test_a_repository_that_nobody_pinned_is_not_forgotten(work):
    done = work.theta("unpin", "--forget", "https://example.org/other")

    assert done.status == 129 or done.status == 2
    assert "git theta unpin --list" in done.err
