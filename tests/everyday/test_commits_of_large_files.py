"""A checkpoint that nothing tracks is named at the commit that would keep it in git; the commit goes on."""

from __future__ import annotations

import pytest

LARGE = b"\0" * (11 << 20)


def commit(work, *options):
    return work.run("git", "commit", "-m", "more", *options)


@pytest.mark.parametrize("is_whole_tree", [False, True])
def test_a_large_checkpoint_is_named_with_what_would_track_it(work, is_whole_tree) -> None:
    work.write("model's.pt", LARGE)
    work.git("add", "-A", ".")
    if is_whole_tree:
        work.write("a.txt", b"more\n")

    done = commit(work, *(["-a"] if is_whole_tree else []))

    assert "keeps whole, for ever, in every clone: model's.pt (11.5 MB)" in done.stderr
    assert "git theta track '*.pt' && git add --renormalize . && git commit --amend --no-edit" in done.stderr
    assert work.git("log", "-1", "--format=%s") == "more"


def test_what_the_hint_says_mends_it(work) -> None:
    work.write("model.pt", LARGE)
    work.git("add", "-A", ".")
    commit(work)

    work.run("sh", "-c", "git theta track '*.pt' && git add --renormalize . && git commit --amend --no-edit")

    assert work.git("cat-file", "blob", "HEAD:model.pt").startswith("version ")
    assert work.read("model.pt") == LARGE


def test_the_first_commit_of_a_repository_is_looked_at_too(place) -> None:
    place.git("init", "-q", "new")
    new = place.at(place.path / "new")
    new.theta("track", "*.safetensors")
    new.write("model.pt", LARGE)
    new.git("add", "-A", ".")

    assert "model.pt (11.5 MB)" in commit(new).stderr


def test_nothing_is_said_of_small_files_of_tracked_ones_and_of_none(work) -> None:
    work.write("small.pt", b"x" * 1000)
    work.write("big.safetensors", LARGE)
    work.git("add", "-A", ".")

    assert commit(work).stderr == ""
    assert commit(work, "--allow-empty").stderr == ""
    work.write("model.pt", LARGE)
    work.git("add", "-A", ".")
    work.git("config", "theta.warnSize", "0")
    assert commit(work).stderr == ""


def test_the_hook_of_the_user_runs_and_decides(work) -> None:
    hook = work.path / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho mine >&2\nexit 1\n")
    hook.chmod(0o755)
    work.theta("install", "--local")
    work.write("model.pt", LARGE)
    work.git("add", "-A", ".")

    done = work.run("git", "commit", "-q", "-m", "more", check=False)

    assert done.returncode == 1
    assert "model.pt (11.5 MB)" in done.stderr
    assert done.stderr.endswith("mine\n")


def test_of_a_file_that_is_tracked_and_came_without_the_filter_the_hint_is_to_install_it(work) -> None:
    work.write("big.safetensors", LARGE)
    filterless = ["filter.theta.process=", "filter.theta.clean=cat", "filter.theta.required=false"]
    work.git(*(word for one in filterless for word in ("-c", one)), "add", "big.safetensors")

    said = commit(work).stderr

    assert "hint: git theta install && git add --renormalize . && git commit --amend --no-edit" in said
