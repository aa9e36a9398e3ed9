"""`git theta log` and `blame` in real repositories, merges among them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Work


def weights(**values: float) -> dict[str, Any]:
    return {name: np.full((4, 8), value, "f4") for name, value in values.items()}


def logged(work: Work, *args: str) -> list[tuple[str, list[str]]]:
    result = work.theta("log", "--json", *args)
    assert result.status == 0, result.err
    commits = json.loads(result.out)["commits"]
    return [(commit["subject"], [tensor["name"] for tensor in commit["tensors"]]) for commit in commits]


def blamed(work: Work, *args: str) -> dict[str, str]:
    result = work.theta("blame", "--json", *args)
    assert result.status == 0, result.err
    return {tensor["name"]: tensor["commit"]["subject"] for tensor in json.loads(result.out)["tensors"]}


def test_the_commits_that_changed_tensors_are_listed_with_them(work: Work) -> None:
    work.save("one", weights(a=1, b=1))
    work.commit("something else")
    work.save("two", weights(a=2, b=1))
    work.save("three", weights(a=2, b=2, c=1))

    assert logged(work, "model.safetensors") == [("three", ["b", "c"]), ("two", ["a"]), ("one", ["a", "b"])]
    assert logged(work, "model.safetensors", "--tensors", "a") == [("two", ["a"]), ("one", ["a"])]
    assert logged(work, "HEAD~1", "model.safetensors") == [("two", ["a"]), ("one", ["a", "b"])]
    assert logged(work, "-n", "1", "model.safetensors") == [("three", ["b", "c"])]


@pytest.mark.parametrize("command", [["log"], ["log", "--json"], ["blame"]])
def test_globs_that_match_nothing_are_an_error_that_names_what_is_near(work: Work, command: list[str]) -> None:
    work.save("one", {"encoder.layer.0.bias": np.zeros(3, "f4"), "pooler": np.zeros(3, "f4")})

    result = work.theta(*command, "model.safetensors", "--tensors", "layers.*")

    assert result.status == 2
    assert result.err.startswith("git theta: no tensor matches 'layers.*'; near names: 'encoder.layer.0.bias'\n")


@pytest.mark.parametrize("command", ["log", "blame"])
def test_a_name_may_look_like_an_option_behind_dashes(work: Work, command: str) -> None:
    work.save("one", weights(a=1), "q.safetensors")
    work.git("mv", "--", "q.safetensors", "-q.safetensors")
    work.commit("two")

    assert work.theta(command, "--json", "--", "-q.safetensors").status == 0
    assert work.theta(command).err.startswith(f"git theta {command}: missing: PATH\n")


def test_the_log_for_people_names_kinds_and_tensors(work: Work) -> None:
    work.save("one", weights(a=1, b=1))
    work.save("two", weights(a=2, bb=1))

    result = work.theta("log", "model.safetensors")

    lines = result.out.splitlines()
    assert lines[0].endswith(" 2023-11-16 A U Thor: two  (1 changed, 1 renamed)")
    assert lines[1:3] == ["  M  a", "  R  b -> bb"]
    assert lines[3].endswith(" 2023-11-15 A U Thor: one  (2 added)")


def test_each_tensor_is_blamed_on_the_commit_that_changed_it_last(work: Work) -> None:
    work.save("one", weights(a=1, b=1, c=1))
    work.save("two", weights(a=2, b=1, c=1))
    work.save("three", weights(a=2, b=2, c=1))

    assert blamed(work, "model.safetensors") == {"a": "two", "b": "three", "c": "one"}
    assert blamed(work, "HEAD~1:model.safetensors") == {"a": "two", "b": "one", "c": "one"}
    assert blamed(work, "model.safetensors", "--tensors", "[ab]") == {"a": "two", "b": "three"}


def test_blame_says_by_how_much(work: Work) -> None:
    work.save("one", weights(a=1))
    work.save("two", weights(a=1.5))

    result = work.theta("blame", "--json", "model.safetensors")

    (tensor,) = json.loads(result.out)["tensors"]
    assert tensor["relative"] == pytest.approx(0.5)
    assert tensor["looks"]["word"] == "scaled"
    line = work.theta("blame", "model.safetensors").out
    assert line.split()[1:] == ["2023-11-16", "A", "U", "Thor", "M", "100%", "0.5", "scaled", "by", "1.5", "a"]


def test_blame_without_weights_says_who_and_what_to_fetch(work: Work) -> None:
    work.save("one", weights(a=1, b=1))
    work.save("two", weights(a=2, b=1))
    shutil.rmtree(work.path / ".git" / "theta")

    result = work.theta("blame", "model.safetensors")

    assert result.status == 0
    assert [line.split()[5] for line in result.out.splitlines()] == ["M", "A"]
    assert "git theta fetch" in result.err


def test_a_value_that_came_back_is_blamed_on_the_commit_that_brought_it_back(work: Work) -> None:
    work.save("one", weights(a=1, b=1))
    work.save("two", weights(a=2, b=1))
    work.save("back", weights(a=1, b=1))

    assert blamed(work, "model.safetensors") == {"a": "back", "b": "one"}
    assert [subject for subject, _ in logged(work, "model.safetensors", "--tensors", "a")] == ["back", "two", "one"]


def merged(work: Work, result: dict[str, Any]) -> None:
    """main changes a, side changes b; their merge is what is given."""
    work.save("one", weights(a=1, b=1, c=1))
    work.git("checkout", "-q", "-b", "side")
    work.save("side", weights(a=1, b=2, c=1))
    work.git("checkout", "-q", "main")
    work.save("main", weights(a=2, b=1, c=1))
    work.git("merge", "-q", "--no-commit", "-s", "ours", "side")
    work.add(result)
    work.commit("merge")


def test_what_a_merge_takes_from_its_parents_is_theirs(work: Work) -> None:
    merged(work, weights(a=2, b=2, c=1))

    assert blamed(work, "model.safetensors") == {"a": "main", "b": "side", "c": "one"}
    assert sorted(subject for subject, _ in logged(work, "model.safetensors")) == ["main", "one", "side"]


def test_what_a_merge_changes_against_all_parents_is_its_own(work: Work) -> None:
    merged(work, weights(a=2, b=1.5, c=1))

    assert blamed(work, "model.safetensors") == {"a": "main", "b": "merge", "c": "one"}
    assert logged(work, "model.safetensors")[0] == ("merge", ["b"])


def test_a_merge_that_keeps_one_side_whole_hides_the_other(work: Work) -> None:
    merged(work, weights(a=2, b=1, c=1))

    assert blamed(work, "model.safetensors") == {"a": "main", "b": "one", "c": "one"}
    assert [subject for subject, _ in logged(work, "model.safetensors")] == ["main", "one"]


def test_a_tensor_that_a_merge_drops_is_logged_with_it(work: Work) -> None:
    merged(work, weights(a=2, b=2))

    assert logged(work, "model.safetensors")[0] == ("merge", ["c"])


def test_a_file_that_was_deleted_and_added_again_starts_anew(work: Work) -> None:
    work.save("one", weights(a=1))
    work.git("rm", "-q", "model.safetensors")
    work.commit("gone")
    work.save("again", weights(a=1))

    assert blamed(work, "model.safetensors") == {"a": "again"}
    assert [subject for subject, _ in logged(work, "model.safetensors")] == ["again", "gone", "one"]


def test_history_from_before_the_tool_is_no_hindrance(work: Work) -> None:
    (work.path / "model.safetensors").write_bytes(b"plain bytes of old")
    work.git("add", "model.safetensors")
    work.commit("plain")
    work.save("one", weights(a=1))

    assert blamed(work, "model.safetensors") == {"a": "one"}


def test_the_user_s_own_settings_of_git_log_do_not_matter(work: Work) -> None:
    for name, value in (("log.follow", "true"), ("log.showSignature", "true"), ("format.pretty", "fuller")):
        work.git("config", name, value)
    work.save("one", weights(a=1))
    work.save("two\n\nwith a body", weights(a=2))

    assert logged(work, "model.safetensors") == [("two", ["a"]), ("one", ["a"])]


def test_paths_are_from_where_one_is(work: Work) -> None:
    work.save("one", weights(a=1), "deep/model.safetensors")

    result = work.theta("blame", "model.safetensors", cwd="deep")

    assert result.status == 0, result.err
    assert result.out.endswith(" a\n")


@pytest.mark.parametrize("command", ["log", "blame"])
def test_a_path_without_history_is_an_error(work: Work, command: str) -> None:
    work.save("one", weights(a=1))

    result = work.theta(command, "other.safetensors")

    assert result.status == 2
    assert "no commit up to 'HEAD' has a file 'other.safetensors'" in result.err


@pytest.mark.parametrize("command", ["log", "blame"])
def test_a_file_that_is_none_of_ours_is_an_error(work: Work, command: str) -> None:
    (work.path / "readme.txt").write_text("words")
    work.git("add", "readme.txt")
    work.commit("one")

    result = work.theta(command, "readme.txt")

    assert result.status == 2
    assert "'readme.txt' is not a file that git theta tracks there" in result.err


def test_blame_and_log_follow_a_file_to_what_it_was_called_before(work: Work) -> None:
    names = [f"layers.{at}" for at in range(12)]
    before = weights(**dict.fromkeys(names, 1.0))
    work.save("one", before, "first.safetensors")
    work.save("two", {**before, **weights(**{"layers.3": 2})}, "first.safetensors")
    work.git("mv", "first.safetensors", "second.safetensors")
    work.commit("moved")
    work.git("mv", "second.safetensors", "third.safetensors")
    work.save("moved and changed", {**before, **weights(**{"layers.3": 2, "layers.5": 3})}, "third.safetensors")

    found = blamed(work, "third.safetensors")

    assert (found["layers.3"], found["layers.5"], found["layers.7"]) == ("two", "moved and changed", "one")
    assert logged(work, "third.safetensors", "--tensors", "layers.3") == [("moved and changed", ["layers.3"])]
    subjects = [subject for subject, _ in logged(work, "third.safetensors", "--follow", "--tensors", "layers.[35]")]
    assert subjects == ["moved and changed", "two", "one"]


@pytest.fixture
def sharded(work: Work) -> Work:
    """A model of nine shards that a list names, one of them changed in a second commit; then a file beside it."""
    names = [f"model-{number}-of-9.safetensors" for number in range(1, 10)]
    for number, name in enumerate(names):
        work.add({f"layer.{number}": np.full((4, 8), number, "f4")}, name)
    weight_map = {f"layer.{number}": name for number, name in enumerate(names)}
    (work.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    work.git("add", "model.safetensors.index.json")
    work.commit("one")
    work.save("two", {"layer.3": np.full((4, 8), 30, "f4")}, names[3])
    work.save("beside", weights(a=1), "other.safetensors")
    return work


def test_the_list_of_a_model_s_shards_stands_for_the_model(sharded: Work) -> None:
    model = "model.safetensors.index.json"

    assert logged(sharded, model) == [("two", ["layer.3"]), ("one", [f"layer.{number}" for number in range(9)])]
    assert logged(sharded, "HEAD~2", model)[0][0] == "one"
    assert blamed(sharded, model) == {f"layer.{number}": "two" if number == 3 else "one" for number in range(9)}
    (row,) = (line for line in sharded.theta("blame", model).out.splitlines() if line.endswith("layer.3"))
    assert "scaled by 10" in row
    paths = json.loads(sharded.theta("diff", "--json", "HEAD~2", "HEAD", "--", model).out)["files"]
    assert [file["path"] for file in paths] == ["model-4-of-9.safetensors"]
    files = next(line for line in sharded.theta("show", f"HEAD:{model}").out.splitlines() if line.startswith("files"))
    assert files.split(maxsplit=1)[1] == "model-1-of-9.safetensors ... model-9-of-9.safetensors, 9 files"


def test_a_list_of_shards_that_are_not_all_there_is_named(sharded: Work) -> None:
    sharded.git("rm", "-q", "--cached", "model-1-of-9.safetensors")
    sharded.commit("three")

    found = logged(sharded, "HEAD~1", "model.safetensors.index.json")
    result = sharded.theta("log", "model.safetensors.index.json")

    assert [subject for subject, _ in found] == ["two", "one"]
    assert (result.status, result.out) == (2, "")
    assert "names the shard 'model-1-of-9.safetensors', which is not tracked there" in result.err


def test_groups_that_stayed_as_they_are_give_way_where_there_are_many(work: Work) -> None:
    layers = {f"model.layers.{number}.weight": np.ones((4, 8), "f4") for number in range(120)}
    work.save("one", layers)
    work.save("two", layers | {"model.layers.119.weight": np.zeros((4, 8), "f4")})

    lines = work.theta("diff", "HEAD~1", "HEAD").out.splitlines()

    assert [line.split()[0] for line in lines if line.startswith("  model.layers")] == ["model.layers.119"]
    assert "  ... and 119 in which nothing did" in lines
