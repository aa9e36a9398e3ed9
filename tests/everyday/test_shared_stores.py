"""A store that several users of a machine write to: what one makes, the others may write to, whatever the umask."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thetastore.errors import MalformedError
from thetastore.store import Store

SHARED = stat.S_ISGID | stat.S_IWGRP
GROUP_WRITES = stat.S_IRGRP | stat.S_IWGRP


def modes(store: Path) -> dict[str, int]:
    """The modes of a store's directories, and of the files in those that all writers write to."""
    found = {".": store.stat().st_mode}
    for name in ("incoming", "index", "packs", "repositories"):
        if (store / name).is_dir():
            found[name] = (store / name).stat().st_mode
            found |= {f"{name}/{one.name}": one.stat().st_mode for one in (store / name).iterdir()}
    assert "packs" in found
    return found


def lets_the_group_in(store: Path) -> bool:
    return all(
        mode & (SHARED | stat.S_IXGRP if stat.S_ISDIR(mode) else GROUP_WRITES)
        == (SHARED | stat.S_IXGRP if stat.S_ISDIR(mode) else GROUP_WRITES)
        for mode in modes(store).values()
    )


@pytest.fixture(autouse=True)
def _closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_what_comes_into_a_shared_directory_lets_its_group_in(place) -> None:
    place.write("a.safetensors", place.checkpoint("a"))

    place.run("thetastore", "init", "--shared", "zoo")
    place.run("thetastore", "put", "zoo/model", "a.safetensors")

    assert lets_the_group_in(place.path / "zoo")


def test_elsewhere_the_umask_says_who_may_do_what(place) -> None:
    place.write("a.safetensors", place.checkpoint("a"))

    place.run("thetastore", "init", "zoo")
    (place.path / "zoo").chmod(0o770)  # writable, but nothing says whose group what comes into it has
    place.run("thetastore", "put", "zoo/model", "a.safetensors")

    inside = {name: mode for name, mode in modes(place.path / "zoo").items() if name != "."}
    assert not any(mode & (stat.S_IRWXG | stat.S_IRWXO) for mode in inside.values())


@pytest.mark.parametrize(("word", "is_shared"), [("group", True), ("0660", True), ("umask", False), ("0640", False)])
def test_a_repository_that_git_shares_has_a_store_that_is_shared(place, word: str, is_shared: bool) -> None:
    place.git("init", "-q", f"--shared={word}", "p") if word != "umask" else place.git("init", "-q", "p")
    work = place.at(place.path / "p")
    work.theta("track", "*.safetensors")
    work.commit("first", m_safetensors=place.checkpoint("a", "b"))

    assert lets_the_group_in(work.path / ".git" / "theta") == is_shared


def test_whoever_works_in_a_shared_work_tree_can_complete_and_replace_what_others_left(place) -> None:
    place.git("init", "-q", "--shared", "p")
    repository = place.path / "p"
    place.write("p/a.safetensors", place.checkpoint("a"))
    place.run("sh", "-ec", "cd p; git theta track '*.safetensors'; git add .; git commit -qm one")
    place.run("sh", "-ec", "cd p; rm a.safetensors; git checkout -q -- .")

    closed = [path for path in (repository / ".git").rglob("*") if not _is_open(path.stat().st_mode)]

    assert (repository / ".git/theta/pending").is_dir()
    assert [path.name for path in closed] == ["COMMIT_EDITMSG"], "which is git's own"


def _is_open(mode: int) -> bool:
    runs = stat.S_IXGRP if mode & stat.S_IXUSR else 0
    wanted = SHARED | stat.S_IXGRP if stat.S_ISDIR(mode) else stat.S_IRGRP | runs
    return mode & wanted == wanted


def test_the_doctor_names_what_not_everybody_may_write_to(place) -> None:
    place.run("thetastore", "init", "--shared", "zoo")
    place.git("init", "-q", "p")
    work = place.at(place.path / "p")
    work.git("config", "theta.storage", str(place.path / "zoo"))
    work.theta("track", "*.safetensors")
    work.commit("first", m_safetensors=place.checkpoint("a", "b"))
    assert "local-store" not in work.theta("doctor", "-q", check=False).stdout

    (place.path / "zoo" / "packs").chmod(0o700)
    said = work.theta("doctor", "-q", check=False)

    assert said.returncode == 1
    assert f"'{place.path}/zoo/packs' cannot be written by all who share it" in said.stdout
    mend = next(line for line in said.stdout.splitlines() if "chmod" in line).partition("mend: ")[2]
    work.run("sh", "-c", mend)
    assert "local-store" not in work.theta("doctor", "-q", check=False).stdout


@pytest.fixture
def two(place):
    """Two clones of a bare host, which share a local store that is all there is; the first has a commit."""
    place = place.with_own_settings()
    place.git("config", "--global", "theta.storage", str(place.path / "zoo"))
    place.git("init", "-q", "--bare", "host.git")
    one = place.clone("host.git", place.path / "one")
    one.theta("track", "*.safetensors")
    one.commit("first", m_safetensors=place.checkpoint("a", "b"), n_safetensors=place.checkpoint("c"))
    return one


def pushed(work: Any) -> list[bool | None]:
    files = json.loads(work.theta("status", "--json").stdout)["files"]
    return [one["pushed"] for one in files]


def test_weights_in_a_store_that_the_remote_shares_are_pushed_when_their_commit_is(two) -> None:
    assert pushed(two) == [False, False]
    assert "not pushed" in two.theta("status").stdout

    two.git("push", "-q", "-u", "origin", "main")
    assert pushed(two) == [True, True]
    other = two.clone(two.path.parent / "host.git", two.path.parent / "two")
    assert (pushed(other), other.is_whole()) == ([True, True], True)

    other.commit("second", m_safetensors=two.checkpoint("a", "d"))
    assert pushed(other) == [False, True]


def test_the_doctor_says_where_a_push_makes_no_second_copy(two) -> None:
    said = two.theta("doctor", "-q").stdout

    assert "is the local store as well: a push makes no second copy" in said
    mend = next(line for line in said.splitlines() if "another/store" in line).partition("mend: ")[2]
    two.run("sh", "-c", mend.replace("/path/to", ".."))
    assert "the local store as well" not in two.theta("doctor", "-q").stdout


def test_what_a_clone_fetches_is_limited_not_what_the_shared_store_fills(two) -> None:
    two.git("push", "-q", "-u", "origin", "main")

    other = two.clone(two.path.parent / "host.git", two.path.parent / "two", "-c", "theta.fetchInclude=n.safetensors")
    apart = two.clone(
        two.path.parent / "host.git",
        two.path.parent / "three",
        "-c",
        "theta.fetchInclude=n.safetensors",
        "-c",
        "theta.storage=apart",
        "-c",
        f"theta.url={two.path.parent / 'zoo'}",
    )

    assert other.is_whole()
    assert apart.read("m.safetensors").startswith(b"version ")
    assert apart.read("n.safetensors") == two.read("n.safetensors")


def test_a_bucket_has_no_group() -> None:
    with pytest.raises(MalformedError, match="has no group to share it with"):
        Store.open("s3://bucket/zoo", create=True, is_shared=True)


def test_a_prune_names_the_way_out_where_a_repository_of_the_store_is_another_users(place, tmp_path: Path) -> None:
    work = place.with_own_settings()
    work.git("config", "--global", "theta.storage", str(tmp_path / "shared"))
    for name in ("mine", "theirs"):
        work.git("init", "-q", str(tmp_path / name))
        one = work.at(tmp_path / name)
        one.theta("track", "-q", "*.safetensors")
        one.commit("weights", m_safetensors=one.checkpoint(name))
    mine, theirs = work.at(tmp_path / "mine"), f"{tmp_path}/theirs/.git"
    work.git("config", "--global", "safe.directory", str(tmp_path / "mine"))

    done = mine.theta("prune", "--dry-run", check=False, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")

    assert done.returncode == 2
    assert f"'{theirs}' keeps its weights here too, and belongs to another user: everything stays" in done.stderr
    command = done.stderr.partition("if you trust that user: ")[2].split()
    work.run(*command)
    assert mine.theta("prune", "--dry-run", GIT_TEST_ASSUME_DIFFERENT_OWNER="1").stdout.endswith("nothing to prune\n")
