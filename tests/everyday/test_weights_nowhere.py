"""What is said where weights cannot be had: what brings them, or which limit stands in the way."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def lost(work, tmp_path):
    """A clone with pointers, whose weights no store has that it knows."""
    clone = work.clone(tmp_path / "host.git", tmp_path / "clone", GIT_THETA_SKIP_SMUDGE="1")
    shutil.rmtree(tmp_path / "weights")
    return clone


def hints(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("hint: ")]


def test_a_store_that_cannot_be_asked_is_for_the_doctor(lost) -> None:
    done = lost.theta("status", check=False)

    assert done.returncode == 1
    assert "pointer only, and in no store that can be reached" in done.stdout
    assert hints(done.stdout)[0].startswith("hint: git theta doctor says why the remote store cannot be asked")


def test_a_store_that_lacks_them_wants_a_push_from_where_they_are(lost, tmp_path) -> None:
    lost.run("thetastore", "init", str(tmp_path / "weights"))

    done = lost.theta("status", check=False)

    assert hints(done.stdout)[0] == (
        "hint: '../weights' lacks them: git theta push where they were committed, then pull here"
    )


def test_what_only_the_store_has_lost_is_stored_again_from_the_files(work, tmp_path) -> None:
    shutil.rmtree(tmp_path / "weights")
    shutil.rmtree(work.path / ".git" / "theta" / "packs")
    shutil.rmtree(work.path / ".git" / "theta" / "index")

    said = work.theta("status", check=False).stdout
    mend = "git add --renormalize d/n.safetensors m.safetensors"
    assert f"hint: {mend} stores again what is missing, from the files here" in hints(said)
    work.run(*mend.split())

    assert "missing from the store" in said
    assert "missing from the store" not in work.theta("status", check=False).stdout


@pytest.mark.parametrize("command", ["theta pull", "theta checkout --to out.safetensors HEAD:m.safetensors"])
def test_a_limit_on_the_size_of_files_is_named(work, tmp_path, command: str) -> None:
    clone = work.clone(tmp_path / "host.git", tmp_path / "clone", GIT_THETA_SKIP_SMUDGE="1")

    done = clone.run("bash", "-c", f"ulimit -f 100; git {command}", check=False)

    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert "hint: the file system, or 'ulimit -f', allows no file so large" in done.stderr
