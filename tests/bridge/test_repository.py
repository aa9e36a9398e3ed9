"""Finding a repository, its settings, its objects."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gitbridge.errors import RepositoryMissingError, RevisionError
from gitbridge.repository import LOCAL_VARIABLES, Repository


def said_by_git(directory: Path) -> tuple[str, str]:
    answer = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir", "--git-common-dir"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    git_dir, common = answer.stdout.splitlines()
    return git_dir, os.path.normpath(directory / common)


def test_a_work_tree_is_found_from_below(work):
    (work.path / "a" / "b").mkdir(parents=True)

    found = Repository.discover(str(work.path / "a" / "b"))

    assert (found.work_tree, found.git_dir) == (str(work.path), str(work.path / ".git"))
    assert found.index_path == str(work.path / ".git" / "index")


def test_a_linked_work_tree_shares_the_common_directory_and_the_store(work, tmp_path):
    work.commit()
    work.git("worktree", "add", "-q", str(tmp_path / "linked"))

    found = Repository.discover(str(tmp_path / "linked"))

    assert (found.git_dir, found.common_dir) == said_by_git(tmp_path / "linked")
    assert found.store_path() == str(work.path / ".git" / "theta")
    assert found.root == str(work.path)


def test_a_submodule_counts_relative_paths_from_its_own_top(make_work, tmp_path):
    inner, outer = make_work("inner"), make_work("outer")
    inner.commit()
    outer.git("submodule", "--quiet", "add", str(inner.path), "sub")
    outer.git("config", "theta.storage", "elsewhere")
    subprocess.run(["git", "config", "theta.storage", "store"], cwd=outer.path / "sub", check=True)

    found = Repository.discover(str(outer.path / "sub"))

    assert (found.git_dir, found.common_dir) == said_by_git(outer.path / "sub")
    assert found.store_path() == str(outer.path / "sub" / "store")


def test_a_bare_repository_has_no_work_tree(make_work):
    bare = make_work("bare.git", "--bare")

    found = bare.repository()

    assert (found.work_tree, found.git_dir) == (None, str(bare.path))


def test_a_separate_git_directory_is_followed(make_work, tmp_path):
    work = make_work("work", f"--separate-git-dir={tmp_path / 'elsewhere'}")

    assert work.repository().git_dir == str(tmp_path / "elsewhere")


def test_the_environment_names_the_repository_as_it_does_for_git(work, tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(work.path)
    monkeypatch.setenv("GIT_DIR", ".git")
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "outside"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other-index"))

    found = Repository.discover()

    assert (found.git_dir, found.work_tree) == (str(work.path / ".git"), str(tmp_path / "outside"))
    assert found.index_path == str(tmp_path / "other-index")
    assert found.git("rev-parse", "--show-toplevel").decode().strip() == str(tmp_path / "outside")


def test_git_dir_alone_takes_core_worktree_into_account(work, tmp_path, monkeypatch):
    work.git("config", "core.worktree", "../../elsewhere")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(work.path / ".git"))

    assert Repository.discover().work_tree == str(tmp_path / "elsewhere")


def test_outside_of_a_repository_the_error_says_so(tmp_path):
    (tmp_path / "plain").mkdir()

    with pytest.raises(RepositoryMissingError, match="not inside of a Git repository"):
        Repository.discover(str(tmp_path / "plain"))


def test_another_repository_is_opened_whatever_our_environment_says(make_work, monkeypatch):
    one, other = make_work("one"), make_work("other")
    other.git("config", "theta.url", "/of/the/other")
    monkeypatch.setenv("GIT_DIR", str(one.path / ".git"))

    assert Repository.at(str(other.path)).config("theta.url") == "/of/the/other"


def test_the_variables_of_one_repository_are_those_that_git_lists(work):
    listed = set(work.git("rev-parse", "--local-env-vars").out.split())

    assert listed <= set(LOCAL_VARIABLES)


def test_settings_are_read_as_git_reads_them(work):
    work.git("config", "--add", "theta.url", "first")
    work.git("config", "--add", "theta.url", "second\nline = with ] oddities")
    work.git("config", 'remote.A.b "c".thetaUrl', "x")
    with open(work.path / ".git" / "config", "a") as stream:
        stream.write("[theta]\n\tbare\n")
    found = work.repository()

    assert found.config("theta.URL") == "second\nline = with ] oddities"
    assert found.config_all("Theta.url") == ["first", "second\nline = with ] oddities"]
    assert found.config('REMOTE.A.b "c".thetaurl') == "x"
    assert found.config('remote.a.b "c".thetaurl') is None
    assert found.config_bool("theta.bare", False) is True


def test_git_dash_c_counts(work, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "theta.storage")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "~/weights")

    assert work.repository().store_path() == os.path.expanduser("~/weights")


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_objects_are_read_one_after_another_in_either_format(make_work: Callable, object_format):
    work = make_work("work", f"--object-format={object_format}")
    contents = [b"", b"x\n", b"\n\n", b"y" * 100_000] * 200
    oids = [
        subprocess.run(
            ["git", "hash-object", "-w", "--stdin"], cwd=work.path, input=content, capture_output=True, check=True
        )
        .stdout.decode()
        .strip()
        for content in contents[:4]
    ] * 200

    with work.repository() as found:
        assert found.object_format == object_format
        assert [item.content for item in found.read_objects(oids)] == contents
        assert [item.head for item in found.cat_file().read_heads(oids[:8], 3)] == [c[:3] for c in contents[:8]]
        next(found.read_objects(oids))  # left in the middle
        assert found.read_object(oids[1]) == b"x\n"
        with pytest.raises(RevisionError):
            found.read_object("HEAD:no such file")
        assert found.read_object(oids[1]) == b"x\n"
