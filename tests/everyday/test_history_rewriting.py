"""What people do to history: merge, rebase, pick, revert, stash, bisect, and give up in the middle of it."""

from __future__ import annotations

import pytest


def deep(value: object) -> object:
    return pytest.param(value, marks=pytest.mark.deep)


def tip(work, name: str = "HEAD") -> str:
    return work.git("rev-parse", name)


def test_an_octopus_brings_the_files_of_all_its_parents(work) -> None:
    for name in ("one", "two"):
        work.git("checkout", "-q", "-b", name, "v1")
        work.commit(name, **{f"{name}_safetensors": work.checkpoint(name)})
    work.git("checkout", "-q", "main")

    work.git("merge", "-q", "-m", "octopus", "one", "two", "side")

    assert len(work.git("rev-list", "--parents", "-1", "HEAD").split()) == 5
    assert work.read("two.safetensors") == work.checkpoint("two")
    assert work.read("side.safetensors") == work.side
    assert work.is_whole()


def test_an_interactive_rebase_stops_to_edit_a_model_and_goes_on(work) -> None:
    work.git("checkout", "-q", "side")
    work.commit("later", later_safetensors=work.checkpoint("later"))

    work.git("rebase", "-q", "-i", "main", GIT_SEQUENCE_EDITOR="sed -i '1s/pick/edit/'")
    assert work.read("side.safetensors") == work.side
    assert work.read("m.safetensors") == work.v2
    work.write("side.safetensors", work.checkpoint("edited"))
    work.git("commit", "-q", "-a", "--amend", "--no-edit")
    work.git("rebase", "--continue")

    assert work.read("side.safetensors") == work.checkpoint("edited")
    assert work.read("later.safetensors") == work.checkpoint("later")
    assert work.is_whole()


@pytest.mark.deep
def test_commits_are_reordered_squashed_and_dropped(work) -> None:
    for name in ("x", "y", "z"):
        work.commit(name, **{f"{name}_safetensors": work.checkpoint(name), "m_safetensors": work.checkpoint("m", name)})

    editor = "sed -i -e '2s/pick/squash/' -e '3d'"
    work.git("rebase", "-q", "-i", "HEAD~3", GIT_SEQUENCE_EDITOR=editor)

    assert work.read("m.safetensors") == work.checkpoint("m", "y")
    assert not (work.path / "z.safetensors").exists()
    assert work.is_whole()


def test_rebase_exec_reads_whole_files_at_each_commit(work) -> None:
    work.git("checkout", "-q", "side")

    work.git("rebase", "-q", "main", "--exec", "cat m.safetensors side.safetensors | b3sum_of", PATH=_with_b3sum(work))

    assert work.read("../seen").split() == [_digest(work.v2 + work.side)]
    assert work.is_whole()


def _with_b3sum(work) -> str:
    import sys

    script = work.path.parent / "bin" / "b3sum_of"
    script.parent.mkdir()
    code = "import sys, blake3; print(blake3.blake3(sys.stdin.buffer.read()).hexdigest())"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" >> {work.path.parent}/seen\n')
    script.chmod(0o755)
    return f"{script.parent}:{work.environment['PATH']}"


def _digest(content: bytes) -> bytes:
    from blake3 import blake3

    return blake3(content).hexdigest().encode()


@pytest.mark.parametrize("way", ["merge", "rebase", "stash pop", *map(deep, ["cherry-pick", "revert", "am"])])
def test_giving_up_in_the_middle_leaves_everything_as_it_was(work, way: str) -> None:
    """Each of these stops at a conflict in a model that both sides changed."""
    work.git("checkout", "-q", "-b", "other", "v1")
    work.commit("other", m_safetensors=work.checkpoint("x", "y", "z"), c_safetensors=work.checkpoint("c"))
    patch = work.git("format-patch", "--stdout", "--full-index", "--binary", "HEAD~1") + "\n"
    work.git("checkout", "-q", "main")
    before = tip(work)
    if way == "stash pop":
        work.write("m.safetensors", work.checkpoint("stashed"))
        work.git("stash", "-q")
        work.commit("in between", m_safetensors=work.checkpoint("between"))
        before = tip(work)
    command = {
        "merge": ("merge", "other"),
        "rebase": ("rebase", "other"),
        "cherry-pick": ("cherry-pick", "other"),
        "revert": ("revert", "--no-edit", "v1"),
        "stash pop": ("stash", "pop"),
        "am": ("am", "-3"),
    }[way]

    stopped = work.run("git", *command, check=False, text=patch)
    assert stopped.returncode != 0
    assert "Traceback" not in stopped.stderr
    if way == "stash pop":
        work.git("checkout", "-q", "-f", "HEAD")
    else:
        work.git(command[0], "--abort")

    assert tip(work) == before
    assert work.is_whole()


def test_a_conflict_is_settled_with_either_side(work) -> None:
    work.git("checkout", "-q", "-b", "other", "v1")
    work.commit("other", m_safetensors=work.checkpoint("x", "y"))

    for side, expected in (("--theirs", work.v2), ("--ours", work.checkpoint("x", "y"))):
        assert work.run("git", "merge", "-q", "main", check=False).returncode == 1
        work.git("checkout", side, "--", "m.safetensors")
        work.git("add", "m.safetensors")
        work.git("commit", "-q", "-m", "merged")
        assert work.read("m.safetensors") == expected
        assert work.is_whole()
        work.git("reset", "-q", "--hard", "HEAD~1")


def test_picks_and_reverts_of_models_bring_their_bytes(work) -> None:
    work.git("cherry-pick", "side")
    assert work.read("side.safetensors") == work.side
    work.git("revert", "--no-edit", "HEAD", "v2")

    assert work.read("m.safetensors") == work.v1
    assert not (work.path / "side.safetensors").exists()
    assert work.is_whole()


def test_a_stash_keeps_untracked_and_staged_models(work) -> None:
    work.write("new.safetensors", work.checkpoint("new"))
    work.write("m.safetensors", work.checkpoint("changed"))
    work.write("d/n.safetensors", work.checkpoint("staged"))
    work.git("add", "d/n.safetensors")

    work.git("stash", "-q", "-u")
    assert work.is_whole()
    work.git("stash", "pop", "-q", "--index")

    assert work.read("new.safetensors") == work.checkpoint("new")
    assert work.read("m.safetensors") == work.checkpoint("changed")
    assert work.read("d/n.safetensors") == work.checkpoint("staged")
    assert work.status().split("\n") == ["M  d/n.safetensors", " M m.safetensors", "?? new.safetensors"]


@pytest.mark.parametrize("partly", [("--keep-index",), deep(("--", "m.safetensors")), deep(("--staged",))])
def test_a_part_of_the_changes_is_stashed_and_comes_back(work, partly: tuple[str, ...]) -> None:
    work.write("d/n.safetensors", work.checkpoint("n2"))
    work.write("m.safetensors", work.checkpoint("m2"))
    work.git("add", "m.safetensors")

    work.git("stash", "push", "-q", *partly)
    if partly == ("--keep-index",):
        assert (work.read("m.safetensors"), work.read("d/n.safetensors")) == (work.checkpoint("m2"), work.v1)
        work.git("reset", "-q", "--hard")
    else:
        assert (work.read("m.safetensors"), work.read("d/n.safetensors")) == (work.v2, work.checkpoint("n2"))
    work.git("stash", "pop", "-q")

    assert (work.read("m.safetensors"), work.read("d/n.safetensors")) == (work.checkpoint("m2"), work.checkpoint("n2"))


def test_bisect_runs_a_program_on_whole_files(work) -> None:
    for number in range(5):
        work.commit(f"step {number}", m_safetensors=work.checkpoint("a", f"step{number}"))
    wanted = work.git("rev-parse", "HEAD~1")
    work.write("../bad", work.checkpoint("a", "step3"))
    work.write("../worse", work.checkpoint("a", "step4"))
    work.git("bisect", "start", "HEAD", "v1")

    script = (
        "! cmp -s m.safetensors ../bad && ! cmp -s m.safetensors ../worse && test $(wc -c < m.safetensors) -gt 500000"
    )
    said = work.git("bisect", "run", "sh", "-c", script)
    work.git("bisect", "reset")

    assert f"{wanted} is the first bad commit" in said
    assert work.is_whole()


def test_what_was_reset_away_comes_back_from_the_reflog(work) -> None:
    work.commit("lost", m_safetensors=work.checkpoint("lost"))
    work.git("reset", "-q", "--hard", "v1")
    assert work.is_whole()

    work.git("reset", "-q", "--hard", "HEAD@{1}")

    assert work.read("m.safetensors") == work.checkpoint("lost")
    assert work.is_whole()


@pytest.mark.deep
def test_tags_and_a_detached_head_are_checked_out_and_left(work) -> None:
    for name, expected in (("v1", work.v1), ("v2", work.v2), ("HEAD~1", work.v1), ("main", work.v2)):
        work.git("checkout", "-q", name)
        assert work.read("m.safetensors") == expected
        assert work.is_whole()


def test_a_rewritten_branch_is_force_pushed_and_fetched(work) -> None:
    other = work.clone(work.path.parent / "host.git", work.path.parent / "other")
    work.write("m.safetensors", work.checkpoint("amended"))
    work.git("commit", "-q", "-a", "--amend", "-m", "amended")

    work.git("push", "-q", "--force-with-lease", "origin", "main")
    other.git("fetch", "-q")
    other.git("reset", "-q", "--hard", "origin/main")

    assert other.read("m.safetensors") == work.checkpoint("amended")
    assert other.is_whole()
