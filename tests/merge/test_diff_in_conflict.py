"""`git theta diff` while files are in conflict: what theirs has otherwise than ours, and every side by its stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checkpoints import Arrays

if TYPE_CHECKING:
    from conftest import Work

FILE = "model.safetensors"


def changed(work: Work, *arguments: str) -> list[str]:
    """Return the tensors that differ."""
    printed = work.theta("diff", *arguments, "--name-status").out
    return [line.split("\t")[-1] for line in printed.splitlines()]


def test_without_arguments_theirs_is_compared_with_ours(work: Work, conflict: Arrays) -> None:
    assert changed(work) == [f"layers.{layer}.weight" for layer in range(4)]
    assert f"{FILE}: 4 changed of" in work.theta("diff", "--stat").out
    assert "(ours -> theirs)" in work.theta("diff", "--stat").out


def test_sides_are_named_by_the_stages_of_the_index(work: Work, conflict: Arrays) -> None:
    assert changed(work, f":1:{FILE}", f":2:{FILE}") == [f"layers.{layer}.weight" for layer in (1, 2, 3)]
    assert changed(work, f":1:./{FILE}", f":3:{FILE}") == [f"layers.{layer}.weight" for layer in (0, 1, 2)]


def test_a_stage_of_a_file_that_is_not_in_conflict_is_an_error_that_says_so(work: Work, conflict: Arrays) -> None:
    work.theta("mergetool", "--ours", "*")

    done = work.theta("diff", f":2:{FILE}", f":3:{FILE}", check=False)

    assert done.status == 2
    assert f"there is no ':2:{FILE}': '{FILE}' is not in conflict" in done.err


def test_a_side_that_deleted_the_file_has_none(work: Work, conflict: Arrays) -> None:
    work.git("merge", "--abort")
    work.git("checkout", "-q", "-b", "without", "base")
    work.git("rm", "-q", FILE)
    work.commit(message="without")
    work.git("checkout", "-q", "ours")
    work.git("merge", "without", check=False)

    assert "not in the newer version; ours has it" in work.theta("diff", "--stat").out
    done = work.theta("diff", f":2:{FILE}", f":3:{FILE}", check=False)
    assert "has no theirs that git theta tracks" in done.err
