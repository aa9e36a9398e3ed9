"""`git theta mergetool`: conflicts are decided by options or in a conversation, and the index entry is whole again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Work

Model = dict[str, Any]
Make = Callable[..., Model]


def moved(work: Work, base: Model) -> list[float]:
    """By how much each layer was moved from the base."""
    return [round(float(np.mean(array - base[name])), 3) for name, array in sorted(work.tensors().items())]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ours", "*"], [4, 8, 8, 8]),
        (["--theirs", "*"], [4, 4, 4, 8]),
        (["--base", "*"], [4, 0, 0, 8]),
        (["--method", "average", "*"], [4, 6, 6, 8]),
        (["--theirs", "*", "--ours", "layers.1.*"], [4, 8, 4, 8]),
        (["--ours", "layers.1.*", "--method", "average weight=1,3", "layers.2.*"], [4, 8, 5, 8]),
    ],
)
def test_options_decide_and_the_file_is_merged(
    work: Work, conflict: Model, options: list[str], expected: list[float]
) -> None:
    done = work.theta("mergetool", *options)

    assert "is decided" in done.out
    assert moved(work, conflict) == expected
    assert work.status() == "M  model.safetensors\n"
    assert not list((work.path / ".git/theta/conflicts").iterdir())
    work.git("commit", "--no-edit")
    assert work.status() == ""
    assert "Theta-Merge: model.safetensors: " in work.git("log", "-1", "--format=%B").out


def test_what_the_options_leave_undecided_changes_nothing(work: Work, conflict: Model) -> None:
    before = work.read()

    done = work.theta("mergetool", "--ours", "layers.1.*", check=False)

    assert done.status == 1
    assert "both changed: layers.2.weight" in done.err
    assert work.read() == before
    assert work.status() == "UU model.safetensors\n"


def test_a_pattern_that_matches_nothing_in_conflict_is_an_error(work: Work, conflict: Model) -> None:
    done = work.theta("mergetool", "--ours", "layer.*", check=False)

    assert done.status == 2
    assert "'layer.*' matches no tensor in conflict" in done.err
    assert "layers.1.weight" in done.err


def test_answers_are_for_one_tensor_or_for_all_that_match(work: Work, conflict: Model) -> None:
    done = work.theta("mergetool", text="\nlist\nnonsense\nslerp t=9\nt\naverage weight=3,1 layers.*\n")

    assert "ours | theirs | base" in done.out
    assert "there is no merge method 'nonsense'" in done.out
    assert "expected a number from 0 to 1" in done.out
    assert moved(work, conflict) == [4, 4, 7, 8]
    assert work.status() == "M  model.safetensors\n"


@pytest.mark.parametrize("text", ["quit\n", "", "ours\n"])
def test_whoever_stops_answering_has_changed_nothing(work: Work, conflict: Model, text: str) -> None:
    before = work.read()

    done = work.theta("mergetool", text=text, check=False)

    assert done.status == 1
    assert work.read() == before
    assert work.status() == "UU model.safetensors\n"


def test_a_recipe_decides_too(work: Work, conflict: Model) -> None:
    (work.path / "recipe").write_text("* theirs\nlayers.2.* ours\n")

    work.theta("mergetool", "--recipe", "recipe")

    assert moved(work, conflict) == [4, 4, 8, 8]


def test_a_rule_for_nothing_in_a_recipe_is_an_error(work: Work, conflict: Model) -> None:
    (work.path / "recipe").write_text("* theirs\nno.such.* ours\n")

    done = work.theta("mergetool", "--recipe", "recipe", check=False)

    assert done.status == 2
    assert "recipe, line 2: 'no.such.*' matches no tensor" in done.err
    assert work.status() == "UU model.safetensors\n"


def test_importances_are_opened_for_an_option(work: Work, conflict: Model) -> None:
    for name, value in (("much", 3), ("little", 1)):
        work.write({key: np.full_like(array, value) for key, array in conflict.items()}, f"{name}.safetensors")

    work.theta("mergetool", "--method", "fisher fisher=much.safetensors,little.safetensors", "*")

    assert moved(work, conflict) == [4, 7, 7, 8]


def test_the_list_names_tensors_and_what_happened_to_them(work: Work, conflict: Model) -> None:
    done = work.theta("mergetool", "--list")
    assert "  layers.1.weight  both changed\n  layers.2.weight  both changed\n" in done.out

    values = json.loads(work.theta("mergetool", "--json").out)

    assert values["schema"] == 1
    assert [one["name"] for one in values["files"][0]["conflicts"]] == ["layers.1.weight", "layers.2.weight"]


def test_what_was_written_down_of_an_aborted_merge_is_not_said_of_another(work: Work, conflict: Model) -> None:
    work.git("merge", "--abort")
    work.git("checkout", "-q", "-b", "without", "base")
    work.git("rm", "-q", "model.safetensors")
    work.commit(message="without")
    work.git("checkout", "-q", "ours")
    assert work.git("merge", "without", check=False).status == 1

    assert work.theta("mergetool", "--list").out == "model.safetensors: deleted by theirs\n"
    assert "layers" not in work.theta("status").out


def test_a_deleted_file_does_not_keep_others_from_being_decided(work: Work, sides: Model, model: Make) -> None:
    work.write(model(5), "a.safetensors")
    work.commit(message="added", tag="added")
    work.git("checkout", "-q", "theirs")
    work.git("cherry-pick", "added")
    work.git("rm", "-q", "a.safetensors")
    work.commit(message="deleted")
    work.git("checkout", "-q", "ours")
    work.git("merge", "-q", "-m", "merge", "theirs~1", GIT_THETA_MERGE_METHOD="ours")
    work.write(model(6), "a.safetensors")
    work.commit({name: array + 1 for name, array in work.tensors().items()})
    work.git("checkout", "-q", "theirs")
    work.commit({name: array + 2 for name, array in work.tensors().items()})
    work.git("checkout", "-q", "ours")
    assert work.git("merge", "theirs", check=False).status == 1

    done = work.theta("mergetool", "--theirs", "*", check=False)

    assert done.status == 1
    assert "'a.safetensors' was deleted by theirs" in done.err
    assert "git rm :/a.safetensors deletes it" in done.err
    assert work.status() == "UD a.safetensors\nM  model.safetensors\n"


def test_an_edited_file_is_not_overwritten_unless_forced(work: Work, conflict: Model, model: Make) -> None:
    work.write(model(9))
    edited = work.read()

    done = work.theta("mergetool", "--ours", "*", check=False)
    assert done.status == 2
    assert "neither side of the merge" in done.err
    assert work.read() == edited

    work.theta("mergetool", "--ours", "*", "--force")
    assert moved(work, conflict) == [4, 8, 8, 8]


def test_where_nothing_is_in_conflict_it_says_so(work: Work, model: Make) -> None:
    work.commit(model())

    assert work.theta("mergetool").out == "no file of weights is in conflict\n"


def test_a_cherry_pick_that_stopped_goes_on_after_it(work: Work, model: Make, changed: Make) -> None:
    base = model()
    work.commit(base, tag="base")
    work.branch("theirs", changed(base, 4, 1))
    work.branch("ours", changed(base, 8, 1))
    assert work.git("cherry-pick", "theirs", check=False).status == 1

    work.theta("mergetool", "--method", "average", "*")
    work.git("cherry-pick", "--continue")

    assert moved(work, base) == [0, 6, 0, 0]
    assert "Theta-Merge: model.safetensors: average (1 tensor)" in work.git("log", "-1", "--format=%B").out


def test_a_deletion_against_a_change_can_only_be_decided_for_a_side(work: Work, model: Make, changed: Make) -> None:
    base = model()
    work.commit(base, tag="base")
    theirs = changed(base, 4, 1)
    work.branch("theirs", theirs)
    work.branch("ours", {name: array for name, array in base.items() if name != "layers.1.weight"})
    assert work.git("merge", "theirs", check=False).status == 1

    done = work.theta("mergetool", "--method", "average", "*", check=False)
    assert done.status == 1
    assert "nothing to mix" in done.err

    work.theta("mergetool", "--theirs", "*")
    assert work.tensors().keys() == theirs.keys()
