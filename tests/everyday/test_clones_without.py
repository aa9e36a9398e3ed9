"""Clones without the tool, without the store, without the weights; and pointers that are committed by mistake."""

from __future__ import annotations

import json
import os
import shutil

import pytest


def host(work) -> str:
    return f"file://{work.path.parent}/host.git"


def without_the_tool(work) -> dict[str, str]:
    """An environment in which git knows nothing of us."""
    empty = work.path.parent / "empty"
    empty.write_text("[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n")
    own = os.path.dirname(shutil.which("git-theta", path=work.environment["PATH"]) or "")
    path = os.pathsep.join(part for part in work.environment["PATH"].split(os.pathsep) if part != own)
    return {"GIT_CONFIG_GLOBAL": str(empty), "PATH": path}


def test_without_the_tool_a_clone_has_pointers_that_explain_themselves(work) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", **without_the_tool(work))

    text = clone.read("m.safetensors").decode()

    assert "git theta" in text
    assert "pip install" in text
    assert "layer.0" in text

    done = clone.theta("pull")
    assert clone.read("m.safetensors") == work.v2
    assert "filled 2 files" in done.stdout
    assert clone.is_whole()


def test_raw_weights_that_a_teammate_commits_without_the_tool_are_caught_everywhere(work) -> None:
    bare = without_the_tool(work)
    clone = work.clone(host(work), work.path.parent / "clone", **bare)
    clone.write("raw.safetensors", clone.checkpoint("raw"))
    clone.git("add", "raw.safetensors", **bare)
    clone.git("commit", "-q", "-m", "raw", **bare)
    clone.git("push", "-q", "origin", "main", **bare)

    pulled = work.run("git", "pull", "-q")
    assert "Traceback" not in pulled.stderr
    assert work.read("raw.safetensors") == work.checkpoint("raw")
    status = work.theta("status", check=False)
    pushed = work.run("git", "push", "origin", "main:again")

    assert status.returncode == 1
    assert "raw.safetensors" in status.stdout
    assert "git add --renormalize raw.safetensors" in status.stdout
    assert "raw.safetensors" in pushed.stderr
    assert "git add --renormalize raw.safetensors" in pushed.stderr
    work.git("add", "--renormalize", "raw.safetensors")
    work.git("commit", "-q", "-m", "into the store")
    assert work.is_whole()
    assert work.theta("status").returncode == 0
    assert "raw.safetensors" not in work.run("git", "push", "origin", "main").stderr


def test_without_the_store_a_clone_fails_with_the_way_out_and_pull_completes_it(work) -> None:
    top = work.path.parent
    shutil.move(top / "weights", top / "away")

    failed = work.run("git", "clone", "-q", host(work), str(top / "clone"), check=False)
    clone = work.at(top / "clone")

    assert failed.returncode == 128
    assert "hint: " in failed.stderr
    assert "Traceback" not in failed.stderr
    shutil.move(top / "away", top / "weights")
    clone.git("restore", "--source=HEAD", "--staged", "--worktree", ":/")
    assert clone.is_whole()


def test_after_a_clone_that_failed_status_and_doctor_name_what_checks_it_out_with_and_without_weights(work) -> None:
    top = work.path.parent
    shutil.move(top / "weights", top / "away")
    work.run("git", "clone", "-q", host(work), str(top / "clone"), check=False)
    clone = work.at(top / "clone")
    restore = "git restore --source=HEAD --staged --worktree :/"

    found = json.loads(clone.run("git", "theta", "doctor", "--json", check=False).stdout)["findings"]
    status = clone.run("git", "theta", "status", check=False).stdout

    problems = {one["check"]: one["mend"] for one in found if one["level"] == "problem"}
    assert problems.keys() <= {"remote-store", "checkout"}
    assert problems["checkout"] == f"{restore} (without weights: GIT_THETA_SKIP_SMUDGE=1 {restore})"
    assert f"without their weights: GIT_THETA_SKIP_SMUDGE=1 {restore}\n" in status
    clone.run("sh", "-ec", f"GIT_THETA_SKIP_SMUDGE=1 {restore}")
    assert clone.read("m.safetensors").startswith(b"version https:")
    assert clone.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("way", ["environment", "install", pytest.param("setting", marks=pytest.mark.deep)])
def test_pointers_are_left_where_that_is_asked_for_and_pull_fills_them(work, way: str) -> None:
    top = work.path.parent
    variables = {"GIT_THETA_SKIP_SMUDGE": "1"} if way == "environment" else {}
    options = ["-c", "theta.skipSmudge=true"] if way == "setting" else []
    if way == "install":
        shutil.copy(work.environment["GIT_CONFIG_GLOBAL"], top / "gitconfig")
        variables = {"GIT_CONFIG_GLOBAL": str(top / "gitconfig")}
        assert "leaves pointers" in work.theta("install", "--skip-smudge", **variables).stdout
    shutil.move(top / "weights", top / "away")  # nothing is fetched

    clone = work.clone(host(work), top / "clone", *options, **variables)

    assert clone.read("m.safetensors").startswith(b"version ")
    assert clone.git("status", "--porcelain", **variables) == ""
    shutil.move(top / "away", top / "weights")
    assert "filled 2 files" in clone.theta("pull", **variables).stdout
    assert clone.is_whole()
    if way == "install":
        assert "fills files" in clone.theta("install", **variables).stdout


def test_a_pointer_left_in_place_is_committed_as_what_it_is(work) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", GIT_THETA_SKIP_SMUDGE="1")
    clone.write("a.txt", b"another change\n")

    clone.git("commit", "-q", "-a", "-m", "pointers stay")

    assert clone.git("diff", "--name-only", "HEAD~1") == "a.txt"
    clone.theta("pull")
    assert clone.is_whole()


def test_a_pointer_copied_to_a_path_that_nothing_tracks_is_noticed(work) -> None:
    work.write("copy.txt", work.git("cat-file", "blob", "HEAD:m.safetensors").encode() + b"\n")
    work.git("add", "copy.txt")
    work.git("commit", "-q", "-m", "a pointer where none belongs")

    found = json.loads(work.theta("doctor", "--json", check=False).stdout)["findings"]

    assert any("copy.txt" in one["message"] and one["level"] == "problem" for one in found)


def test_an_edited_pointer_is_not_committed_and_the_way_back_is_named(work) -> None:
    text = work.git("cat-file", "blob", "HEAD:m.safetensors") + "\n"
    work.write("m.safetensors", text.replace("layer.0", "layer.9").encode())

    failed = work.run("git", "commit", "-q", "-a", "-m", "edited", check=False)

    assert failed.returncode != 0
    assert "m.safetensors" in failed.stderr
    assert "hint: " in failed.stderr
    assert "git checkout" in failed.stderr or "git restore" in failed.stderr
    work.git("checkout", "-q", "--", "m.safetensors")
    assert work.is_whole()


def test_a_push_without_the_weights_is_refused_and_says_how_to_go_on(work) -> None:
    work.commit("new", m_safetensors=work.checkpoint("new"))
    (work.path.parent / "weights").chmod(0o755)
    shutil.rmtree(work.path / ".git" / "theta")

    failed = work.run("git", "push", "origin", "main", check=False)

    assert failed.returncode != 0
    assert "m.safetensors" in failed.stderr
    assert "hint: " in failed.stderr
    work.git("add", "--renormalize", "m.safetensors")
    work.git("push", "-q", "origin", "main")
