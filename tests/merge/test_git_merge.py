"""`git merge` and everything else of git's that merges, with weights that two sides changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from thetastore.merging import MergeError
from thetastore.merging.recipes import parse_recipe

if TYPE_CHECKING:
    from conftest import Work

Model = dict[str, Any]
Make = Callable[..., Model]


def same(one: Model, other: Model) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_what_different_sides_changed_is_merged_without_a_question(work: Work, base: Model, changed: Make) -> None:
    work.branch("theirs", changed(base, 1, 0))
    work.branch("ours", changed(base, 2, 1, 2))

    work.git("merge", "-m", "merge", "theirs")

    assert same(work.tensors(), changed(changed(base, 1, 0), 2, 1, 2))
    assert work.status() == ""
    assert b'"format":"pt"' in work.read()[:200]


def test_a_conflict_leaves_ours_whole_and_says_which_tensors(work: Work, base: Model, changed: Make) -> None:
    work.branch("theirs", changed(base, 1, 0, 1))
    ours = changed(base, 2, 1, 2)
    work.branch("ours", ours)
    before = work.read()

    done = work.git("merge", "-m", "merge", "theirs", check=False)

    assert done.status == 1
    assert "both changed: layers.1.weight" in done.err
    assert "layers.0" not in done.err
    assert work.read() == before
    assert work.status().startswith("UU")
    shown = work.theta("status", check=False)
    assert "layers.1.weight" in shown.out
    work.git("merge", "--abort")
    assert work.read() == before
    assert "layers.1.weight" not in work.theta("status", check=False).out


def test_a_part_of_a_distributed_checkpoint_is_not_merged_by_the_numbers_of_its_tensors(work: Work) -> None:
    part = (Path(__file__).parent.parent / "fixtures/dcp/__3_0.distcp").read_bytes()
    work.git("theta", "track", "*.distcp")
    place = work.path / "a.distcp"
    place.write_bytes(part)
    work.commit(tag="parted")
    for branch, at in (("theirs", 3226), ("ours", 4803)):  # where tensors '2' and '3' begin
        work.git("checkout", "-q", "-b", branch, "parted")
        place.write_bytes(part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :])
        work.commit(message=branch)
    before = place.read_bytes()

    done = work.git("merge", "-m", "merge", "theirs", check=False)

    assert done.status == 1
    assert "'a.distcp' is not merged: its tensors ('base') have numbers for names" in done.err
    assert "git checkout --ours (or --theirs) -- DIRECTORY" in done.err
    assert place.read_bytes() == before
    assert work.status() == "UU a.distcp\n"


@pytest.mark.parametrize("how", ["setting", "attribute", "environment", "recipe"])
def test_a_method_that_was_said_beforehand_decides(work: Work, sides: Model, changed: Make, how: str) -> None:
    base = sides
    if how == "attribute":
        work.append(".gitattributes", "model.safetensors theta.merge.method=average;weight=3,1\n")
    if how == "recipe":
        (work.path / ".thetamerge").write_text("* theirs\nlayers.1.* average weight=3,1\n")
    if how == "setting":
        work.git("config", "theta.merge.method", "average weight=3,1")
    if how in ("attribute", "recipe"):
        work.commit()

    environment = {"GIT_THETA_MERGE_METHOD": "average weight=3,1"} if how == "environment" else {}
    done = work.git("merge", "-m", "merge", "theirs", **environment)

    merged = work.tensors()
    assert np.allclose(merged["layers.1.weight"], base["layers.1.weight"] + 7, atol=1e-5)
    assert merged["layers.0.weight"].tobytes() == changed(base, 4, 0)["layers.0.weight"].tobytes()
    assert work.status() == ""
    assert "average weight=3,1: 1 tensor" in done.err


def test_the_environment_goes_before_the_recipe_and_the_recipe_before_attribute_and_setting(
    work: Work, base: Model, changed: Make
) -> None:
    (work.path / ".thetamerge").write_text("layers.1.* theirs\n")
    work.append(".gitattributes", "model.safetensors theta.merge.method=average\n")
    work.git("config", "theta.merge.method", "base")
    work.commit(tag="start")
    for name, by in (("theirs", 4), ("ours", 8)):
        work.git("checkout", "-q", "-b", name, "start")
        work.commit(changed(base, by, 1, 2))

    work.git("merge", "-m", "merge", "theirs")
    merged = work.tensors()
    assert np.allclose(merged["layers.1.weight"], base["layers.1.weight"] + 4, atol=1e-5)
    assert np.allclose(merged["layers.2.weight"], base["layers.2.weight"] + 6, atol=1e-5)

    work.git("reset", "-q", "--hard", "HEAD~1")
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="ours")
    assert np.allclose(work.tensors()["layers.2.weight"], base["layers.2.weight"] + 8, atol=1e-5)


def test_tensors_that_sides_added_deleted_and_renamed_make_a_new_valid_file(
    work: Work, base: Model, changed: Make
) -> None:
    theirs = changed(base, 1, 0)
    theirs["head"] = np.ones(5, "f2")
    del theirs["layers.3.weight"]
    work.branch("theirs", theirs)
    ours = dict(base)
    ours["model.layers.0.weight"] = ours.pop("layers.0.weight")
    work.branch("ours", ours)

    work.git("merge", "-m", "merge", "theirs")

    expected = {name: base[name] for name in ("layers.1.weight", "layers.2.weight")}
    expected |= {"model.layers.0.weight": theirs["layers.0.weight"], "head": theirs["head"]}
    assert same(work.tensors(), expected)
    assert b'"format":"pt"' in work.read()[:60]
    assert work.status() == ""


def test_a_file_that_both_sides_added_is_merged_without_a_base(work: Work, model: Make) -> None:
    work.commit(tag="base")
    one, other = model(1, layers=2), model(1, layers=3)
    work.branch("theirs", other)
    work.branch("ours", one)

    work.git("merge", "-m", "merge", "theirs")

    assert same(work.tensors(), other)


def test_a_method_that_needs_a_base_says_so_where_there_is_none(work: Work, model: Make) -> None:
    work.git("config", "theta.merge.method", "ties density=0.5")
    work.commit(tag="base")
    work.branch("theirs", model(1))
    work.branch("ours", model(2))

    done = work.git("merge", "-m", "merge", "theirs", check=False)

    assert done.status == 1
    assert "needs the base" in done.err
    assert same(work.tensors(), model(2))


def test_a_rebase_and_a_cherry_pick_merge_by_tensor(work: Work, base: Model, changed: Make) -> None:
    work.branch("theirs", changed(base, 1, 0))
    work.branch("ours", changed(base, 2, 1))
    work.git("checkout", "-q", "-b", "picked")
    work.git("cherry-pick", "theirs")
    both = changed(changed(base, 1, 0), 2, 1)
    assert same(work.tensors(), both)

    work.git("checkout", "-q", "ours")
    work.git("rebase", "-q", "theirs")

    assert same(work.tensors(), both)
    assert work.status() == ""


def test_a_revert_takes_back_one_side_and_keeps_what_came_after(work: Work, base: Model, changed: Make) -> None:
    work.commit(changed(base, 1, 0), tag="one")
    work.commit(changed(changed(base, 1, 0), 2, 1), tag="two")

    work.git("revert", "--no-edit", "one")

    assert same(work.tensors(), changed(base, 2, 1))


def test_an_octopus_of_different_files_is_merged_and_of_one_file_is_refused_by_git(
    work: Work, base: Model, changed: Make, model: Make
) -> None:
    for name in ("a", "b"):
        work.git("checkout", "-q", "-b", name, "base")
        work.write(model(5), f"{name}.safetensors")
        work.commit()
    work.git("checkout", "-q", "-b", "octopus", "base")
    work.git("merge", "-q", "-m", "octopus", "a", "b")
    assert same(work.tensors("a.safetensors"), model(5))
    assert same(work.tensors("b.safetensors"), model(5))

    for name, layer in (("c", 0), ("d", 1)):
        work.branch(name, changed(base, 1, layer))
    work.git("checkout", "-q", "-b", "second", "base")
    work.commit(changed(base, 1, 2))
    before = work.read()
    assert work.git("merge", "-m", "octopus", "c", "d", check=False).status != 0
    work.git("reset", "-q", "--hard")
    assert work.read() == before


def test_an_octopus_that_git_gave_up_is_decided_by_the_mergetool(work: Work, sides: Model) -> None:
    work.git("checkout", "-q", "-b", "octopus", "base")
    assert work.git("merge", "-m", "octopus", "ours", "theirs", check=False).status != 0
    assert b"<<<<<<<" in work.read()

    work.theta("mergetool", "--method", "average", "*")

    merged = work.tensors()
    assert np.allclose(merged["layers.1.weight"], sides["layers.1.weight"] + 6, atol=1e-5)
    assert work.status() == "M  model.safetensors\n"


def criss_cross(work: Work, base: Model, changed: Make) -> None:
    """Two branches that have merged each other's first commit: two merge bases."""
    work.branch("one", changed(base, 1, 0))
    work.branch("two", changed(base, 2, 1))
    for here, there in (("one", "two~0"), ("two", "one~1")):
        work.git("checkout", "-q", here)
        work.git("merge", "-q", "-m", "cross", there)


def test_a_criss_cross_merge_has_a_virtual_base(work: Work, base: Model, changed: Make) -> None:
    criss_cross(work, base, changed)
    both = changed(changed(base, 1, 0), 2, 1)
    work.git("checkout", "-q", "one")
    work.commit(changed(both, 3, 2))
    work.git("checkout", "-q", "two")
    work.commit(changed(both, 4, 3))

    work.git("merge", "-q", "-m", "merge", "one")

    assert same(work.tensors(), changed(changed(both, 3, 2), 4, 3))


def test_what_conflicts_between_merge_bases_conflicts_in_the_merge_too(work: Work, base: Model, changed: Make) -> None:
    work.branch("one", changed(base, 1, 0))
    work.branch("two", changed(base, 2, 0))
    for here, there in (("one", "two~0"), ("two", "one~1")):
        work.git("checkout", "-q", here)
        work.git("merge", "-q", "-m", "cross", there, GIT_THETA_MERGE_METHOD="ours")
    work.git("checkout", "-q", "one")
    ours = work.read()

    done = work.git("merge", "-m", "merge", "two", check=False)

    assert done.status == 1
    assert "both changed: layers.0.weight" in done.err
    assert done.err.count("in conflict") == 1
    assert work.read() == ours


def test_the_recipe_that_was_used_is_in_the_store_under_the_manifest(work: Work, sides: Model) -> None:
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="ties density=0.5")

    manifest = next(
        line.split()[1]
        for line in work.git("show", "HEAD:model.safetensors").out.splitlines()
        if "manifest" in line[:8]
    )
    (record,) = (work.path / ".git/theta/recipes" / manifest).iterdir()

    values = json.loads(record.read_bytes())
    assert values["rules"] == [
        {"rule": "ties density=0.5", "source": "GIT_THETA_MERGE_METHOD", "tensors": ["layers.1.weight"]}
    ]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("* averge\n", "did you mean"),
        ("# fine\n\n* ties density=2\n", "line 3"),
        ("* ties densty=0.5\n", "its parameters: weight, normalize, lambda, density, rescale"),
        ("* average weight=1,2,3\n", "3 values for 2 sides"),
        ("*\n", "a method is missing"),
        ("[models\n", "in brackets"),
    ],
)
def test_a_recipe_that_is_not_understood_is_named_with_its_line(recipe: str, said: str) -> None:
    with pytest.raises(MergeError) as caught:
        parse_recipe(recipe, "R")

    assert caught.value.message.startswith("R, line ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("# fine\n\n* ties density=2\n", ".thetamerge, line 3"),
        ("layer.9.* ours\n", "'layer.9.*' matches no tensor of 'model.safetensors'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_leaves_ours_and_says_what_to_do(
    work: Work, sides: Model, recipe: str, said: str
) -> None:
    (work.path / ".thetamerge").write_text(recipe)
    work.commit()
    before = work.read()

    done = work.git("merge", "-m", "merge", "theirs", check=False)

    assert done.status != 0
    assert said in done.err
    assert "hint: ours is as it was. Mend that, abort this merge" in done.err
    assert work.read() == before
    assert said in work.theta("status", check=False).out


def test_a_side_that_is_a_damaged_pointer_is_named(work: Work, sides: Model) -> None:
    pointer = work.git("show", "theirs:model.safetensors").out
    oid = work.git("hash-object", "-w", "--no-filters", "--stdin", text=pointer.replace("manifest ", "manifest x")).out
    work.git("update-index", "--cacheinfo", f"100644,{oid.strip()},model.safetensors")
    tree = work.git("write-tree").out.strip()
    bad = work.git("commit-tree", "-p", "base", "-m", "bad", tree).out.strip()
    work.git("reset", "-q")
    before = work.read()

    done = work.git("merge", bad, check=False)

    assert done.status == 1
    assert "theirs is a damaged pointer" in done.err
    assert "take the other side whole: git checkout --ours" in done.err
    assert work.read() == before
    work.git("merge", "--abort")
    assert (work.read(), work.status()) == (before, "")


def test_a_nan_in_a_side_is_a_conflict_and_nothing_is_mixed_with_it(work: Work, base: Model, changed: Make) -> None:
    theirs = changed(base, 1, 1, 2)
    theirs["layers.1.weight"] = theirs["layers.1.weight"].copy()
    theirs["layers.1.weight"][0, 0] = np.nan
    work.branch("theirs", theirs)
    work.branch("ours", changed(base, 2, 1, 2))

    done = work.git("merge", "-m", "merge", "theirs", check=False, GIT_THETA_MERGE_METHOD="average")

    assert done.status == 1
    assert "theirs has elements that are NaN or infinite" in done.err
    assert same(work.tensors(), changed(base, 2, 1, 2))


def test_a_change_of_the_header_alone_is_taken_with_the_other_sides_weights(
    work: Work, base: Model, changed: Make
) -> None:
    work.git("checkout", "-q", "-b", "theirs", "base")
    work.write(base, metadata={"format": "pt", "license": "mit"})
    work.commit()
    work.git("checkout", "-q", "-b", "ours", "base")
    work.write(changed(base, 1, 0))
    work.commit()

    work.git("merge", "-m", "merge", "theirs")

    assert b'"license":"mit"' in work.read()[:200]
    assert same(work.tensors(), changed(base, 1, 0))


def test_files_that_are_no_checkpoints_conflict_as_wholes(work: Work) -> None:
    work.theta("track", "*.dat")
    work.commit(tag="start")
    for name in ("base", "theirs", "ours"):
        work.git("checkout", "-q", "-b", name, "start" if name == "base" else "base")
        (work.path / "x.dat").write_bytes(name.encode() * 1000)
        work.commit()

    done = work.git("merge", "-m", "merge", "theirs", check=False)

    assert done.status == 1
    assert "tensors are not known" in done.err
    assert "git checkout --theirs -- x.dat" in done.err
    assert work.read("x.dat") == b"ours" * 1000
    tool = work.theta("mergetool", "--theirs", "*", check=False)
    assert tool.status == 2
    assert "take one side whole" in tool.err
    assert work.read("x.dat") == b"ours" * 1000


def test_what_cannot_be_mixed_between_merge_bases_is_their_own_bases(work: Work, base: Model, changed: Make) -> None:
    bad = changed(base, 1, 0)
    bad["layers.0.weight"] = bad["layers.0.weight"].copy()
    bad["layers.0.weight"][0, 0] = np.nan
    work.branch("one", bad)
    work.branch("two", changed(base, 2, 0))
    for here, there, taken in (("one", "two~0", "theirs"), ("two", "one~1", "ours")):
        work.git("checkout", "-q", here)
        work.git("merge", "-q", "-m", "cross", there, GIT_THETA_MERGE_METHOD=taken)
    work.git("checkout", "-q", "one")
    work.commit(changed(changed(base, 2, 0), 3, 1))

    work.git("merge", "-m", "merge", "two", GIT_THETA_MERGE_METHOD="average")

    assert same(work.tensors(), changed(changed(base, 2, 0), 3, 1))


def test_importances_are_read_from_files_that_a_rule_names(work: Work, base: Model, changed: Make) -> None:
    for name, value in (("ours", 3), ("theirs", 1)):
        work.write({key: np.full_like(array, value) for key, array in base.items()}, f"{name}.importances.safetensors")
    work.commit(tag="start")
    for name, by in (("theirs", 4), ("ours", 8)):
        work.git("checkout", "-q", "-b", name, "start")
        work.commit(changed(base, by, 1))

    rule = "fisher fisher=ours.importances.safetensors,start:theirs.importances.safetensors"
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD=rule)
    assert np.allclose(work.tensors()["layers.1.weight"], base["layers.1.weight"] + 7, atol=1e-5)

    work.git("reset", "-q", "--hard", "HEAD~1")
    outside = work.git("merge", "theirs", check=False, GIT_THETA_MERGE_METHOD="fisher fisher=/etc/passwd")
    assert "outside of the work tree" in outside.err
    assert outside.status == 1


def test_a_file_committed_before_it_was_tracked_is_merged_too(work: Work, model: Make, changed: Make) -> None:
    base = model()
    work.theta("untrack", "*.safetensors")
    work.commit(base, tag="base")
    work.branch("theirs", changed(base, 4, 0))
    work.branch("ours", changed(base, 8, 1))
    work.theta("track", "*.safetensors")
    work.git("add", "--renormalize", ".")
    work.commit()
    assert work.git("show", "HEAD:model.safetensors").out.startswith("version ")

    work.git("merge", "-m", "merge", "theirs")

    assert same(work.tensors(), changed(changed(base, 4, 0), 8, 1))


def test_weights_that_a_clone_lacks_are_fetched_and_a_missing_base_is_named(
    work: Work, base: Model, changed: Make, tmp_path: Path
) -> None:
    work.git("config", "theta.url", str(tmp_path / "remote"))
    work.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    work.git("remote", "add", "origin", str(tmp_path / "bare.git"))
    work.branch("theirs", changed(base, 4, 0, 1))
    work.branch("ours", changed(base, 8, 1))
    work.git("push", "-q", "origin", "base", "ours", "theirs")
    shutil.rmtree(work.path / ".git" / "theta")

    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="task_arithmetic")
    assert np.allclose(work.tensors()["layers.1.weight"], base["layers.1.weight"] + 12, atol=1e-5)

    work.git("reset", "-q", "--hard", "HEAD~1")
    before = work.read()
    shutil.rmtree(work.path / ".git" / "theta")
    shutil.rmtree(tmp_path / "remote")
    done = work.git("merge", "-m", "merge", "theirs", check=False)
    assert done.status == 1
    assert "the weights of 'model.safetensors'" in done.err
    assert work.read() == before
