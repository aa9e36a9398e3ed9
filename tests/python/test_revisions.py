"""`REV:PATH//TENSOR` means what it means to git, and what is not there is named with what is near."""

from __future__ import annotations

import os

import pytest

from gitbridge.errors import PathMissingError, RevisionError
from gitbridge.revisions import FileName, parse_name, resolve, tracked_file


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("w.pt", FileName(None, "w.pt")),
        ("v1:a/w.pt", FileName("v1", "a/w.pt")),
        (":w.pt", FileName("", "w.pt")),
        ("v1:a/w.pt//model.w", FileName("v1", "a/w.pt", "model.w")),
        ("w.pt//a//b:c", FileName(None, "w.pt", "a//b:c")),
        ("HEAD^{/x}:w", FileName("HEAD^{/x}", "w")),
        ("//home/w.pt//t", FileName(None, "/home/w.pt", "t")),
    ],
)
def test_a_name_is_taken_apart(text, name):
    assert parse_name(text) == name


def found(work, name, directory=None):
    with work.repository() as repository:
        return tracked_file(repository, parse_name(name), directory and str(work.path / directory))


def test_files_are_found_in_revisions_and_in_the_index(work):
    first = work.put("a/w", b"one" * 9000)
    work.commit()
    work.git("tag", "-a", "-m", "x", "v1")
    second = work.put("a/w", b"two" * 9000)

    assert found(work, "v1:a/w").manifest_digest == first
    assert found(work, "v1:./w", "a").manifest_digest == first
    assert found(work, "v1:a/./w").manifest_digest == first
    assert found(work, ":a/w").manifest_digest == second
    assert found(work, "w", "a").manifest_digest == second
    assert found(work, "../a/w", "a").path == "a/w"
    assert found(work, str(work.path / "a/w")).manifest_digest == second


def test_a_link_to_the_work_tree_leads_into_it(work, tmp_path):
    digest = work.put("a/w", b"one" * 9000)
    os.symlink(work.path / "a", tmp_path / "link")

    assert found(work, "w", tmp_path / "link").manifest_digest == digest


def test_a_bare_repository_means_head(work, make_work):
    digest = work.put("w", b"one" * 9000)
    work.commit()

    assert found(make_work("bare.git", "--bare", clone=work.path), "w").manifest_digest == digest


def test_in_a_conflict_our_side_is_meant(work):
    work.put("w", b"base" * 9000)
    work.commit()
    work.git("checkout", "-q", "-b", "side")
    work.put("w", b"side" * 9000)
    work.commit()
    work.git("checkout", "-q", "main")
    ours = work.put("w", b"main" * 9000)
    work.commit()
    work.git("merge", "side", check=False)

    assert found(work, "w").manifest_digest == ours


def test_what_is_not_there_is_said_with_what_is_near(work):
    work.put("models/weights.pt", b"one" * 9000)
    (work.path / "README").write_text("words")
    work.git("add", "README")
    work.commit()

    with pytest.raises(PathMissingError, match=r"no file 'models/weight.pt' in 'HEAD'; did you mean 'models/weights"):
        found(work, "HEAD:models/weight.pt")
    with pytest.raises(FileNotFoundError, match="in the index"):
        found(work, "models/x")
    with pytest.raises(PathMissingError, match="'README' in 'HEAD' is not a file that git theta tracks"):
        found(work, "HEAD:README")
    with pytest.raises(PathMissingError, match="'models' in 'HEAD' is a directory"):
        found(work, "HEAD:models")
    with pytest.raises(PathMissingError, match="'HEAD' is a revision, and no file in the index; HEAD:PATH"):
        found(work, "HEAD")
    for revision in ("nowhere", "-h", "--all"):
        with pytest.raises(RevisionError, match=f"'{revision}' is not a commit") as caught:
            found(work, f"{revision}:w")
        assert isinstance(caught.value, LookupError)
        assert not isinstance(caught.value, FileNotFoundError)


def test_names_are_resolved_to_a_kind_of_object(work):
    work.put("w", b"one" * 9000)
    commit = work.commit()
    work.git("tag", "-a", "-m", "x", "v1")

    with work.repository() as repository:
        assert resolve(repository, "v1", "commit") == commit
        assert resolve(repository, "v1:w") == found(work, ":w").oid
        with pytest.raises(RevisionError, match="'mian' is not a commit, tag or tree .*; did you mean 'main'"):
            resolve(repository, "mian", "commit")


def test_without_a_commit_that_is_what_is_said(work):
    with work.repository() as repository, pytest.raises(RevisionError, match="there is no commit here yet"):
        resolve(repository, "HEAD", "commit")


def test_a_path_with_a_colon_is_told_from_a_revision(work):
    work.put("a:w", b"one" * 9000)

    with pytest.raises(RevisionError, match="'a' is not a commit.*to name a path with a colon in it: ':a:w'"):
        found(work, "a:w")
