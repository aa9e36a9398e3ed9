"""The truth table, as docs/merge.md has it, and what must hold for every three tables of tensors."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from thetastore.digest import Digest
from thetastore.merging.three_way import Content, Decision, decide, renames

DOCUMENT = Path(__file__).parents[2] / "docs" / "merge.md"
SIDES = ("base", "ours", "theirs")
Small = dict[str, Content]


def content(letter: str) -> Content:
    return Content(Digest(letter.encode() * 32), "float32", (2,))


def table(**letters: str) -> Small:
    return {name.replace("_", "."): content(letter) for name, letter in letters.items()}


def documented() -> list[tuple[str, ...]]:
    lines = [line.strip(" |").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    return [tuple(cell.strip(" `") for cell in cells[:4]) for cells in lines if len(cells) == 5]


@pytest.mark.parametrize("row", documented(), ids=str)
def test_every_line_of_the_documented_table_holds(row: tuple[str, ...]) -> None:
    *letters, expected = row
    tables = [{} if letter == "-" else table(w=letter) for letter in letters]

    decisions = decide(*tables)

    assert [one.taken or "conflict" for one in decisions] == [expected]


def test_the_documented_table_has_every_case() -> None:
    def shape(letters: tuple[str, ...]) -> tuple[int, ...]:
        seen: dict[str, int] = {"-": 0}
        return tuple(seen.setdefault(letter, len(seen)) for letter in letters)

    possible = {shape(letters) for letters in itertools.product("-ABC", repeat=3)} - {(0, 0, 0)}

    assert {shape(row[:3]) for row in documented()} == possible


def all_tables(names: str, letters: str) -> list[Small]:
    choices = itertools.product([None, *letters], repeat=len(names))
    return [{n: content(c) for n, c in zip(names, chosen, strict=True) if c} for chosen in choices]


def result(decisions: list[Decision]) -> Small:
    return {one.result.name: one.result.content for one in decisions if one.result}


TABLES = all_tables("xyz", "AB")


def test_what_only_one_side_changed_is_taken_whole() -> None:
    for base, side in itertools.product(TABLES, repeat=2):
        for ours, theirs in ((base, side), (side, base), (side, side)):
            decisions = decide(base, ours, theirs)

            assert all(one.taken for one in decisions), (base, ours, theirs)
            assert result(decisions) == side, (base, ours, theirs)


def test_of_all_tables_every_tensor_is_decided_once_and_no_two_results_have_one_name() -> None:
    for base, ours, theirs in itertools.product(TABLES, repeat=3):
        decisions = decide(base, ours, theirs)
        for side, tensors in zip(SIDES, (base, ours, theirs), strict=True):
            found = [one.side(side) for one in decisions]
            assert sorted(one.name for one in found if one) == sorted(tensors), (base, ours, theirs)
        names = [one.name for one in decisions if one.taken is None or one.result]
        assert len(names) == len(set(names)), (base, ours, theirs)


def test_of_all_tables_swapping_the_sides_swaps_nothing_but_the_sides() -> None:
    for base, ours, theirs in itertools.product(TABLES, repeat=3):
        one, other = decide(base, ours, theirs), decide(base, theirs, ours)

        assert result(one) == result(other), (base, ours, theirs)
        assert sum(not each.taken for each in one) == sum(not each.taken for each in other)


def test_without_renames_each_name_is_decided_on_its_own() -> None:
    rows = {row[:3]: row[3] for row in documented()}
    for letters in itertools.product("-ABC", repeat=3):
        base, ours, theirs = (table(other="Z") | ({} if letter == "-" else table(w=letter)) for letter in letters)
        seen: dict[str, str] = {"-": "-"}
        row = tuple(seen.setdefault(letter, "ABC"[len(seen) - 1]) for letter in letters)

        decisions = [one for one in decide(base, ours, theirs) if one.name == "w"]

        assert [one.taken or "conflict" for one in decisions] == ([] if set(letters) == {"-"} else [rows[row]])


def test_a_change_follows_the_other_sides_rename() -> None:
    (decision,) = decide(table(old="A"), table(new="A"), table(old="B"))

    assert decision.result is not None
    assert (decision.result.name, decision.result.content) == ("new", content("B"))


def test_the_same_rename_on_both_sides_is_no_conflict_and_two_different_ones_are() -> None:
    assert result(decide(table(old="A"), table(new="A"), table(new="A"))) == table(new="A")
    (decision,) = decide(table(old="A"), table(new="A"), table(newer="A"))
    assert decision.conflict == "renamed twice"


def test_a_rename_on_one_side_and_a_deletion_on_the_other_conflict() -> None:
    (decision,) = decide(table(old="A"), table(new="A"), {})

    assert decision.conflict == "deleted by theirs"


def test_a_rename_to_a_name_that_the_other_side_gave_to_something_else_is_not_followed() -> None:
    decisions = decide(table(old="A"), table(new="A"), table(old="A", new="B"))

    assert [(one.name, one.conflict) for one in decisions] == [("new", "both added"), ("old", "")]


def test_equal_tensors_that_were_all_renamed_are_told_apart_by_their_names() -> None:
    layers = range(12)
    base = {f"bert.layer.{layer}.{part}.bias": content("0") for layer in layers for part in ("query", "key")}
    side = {name.removeprefix("bert."): same for name, same in base.items()}

    assert renames(base, side, base) == {name: name.removeprefix("bert.") for name in base}


def test_a_tensor_with_another_dtype_or_shape_is_another_tensor() -> None:
    base = table(w="A")
    recast = {"w": base["w"]._replace(dtype="int32")}
    reshaped = {"w": base["w"]._replace(shape=(1, 2))}

    assert decide(base, recast, reshaped)[0].conflict == "both changed"


def test_pairing_equal_tensors_takes_a_bounded_time() -> None:
    base = {f"a.{number}.x": content("0") for number in range(20_000)}
    side = {f"b.{number}.y": content("0") for number in range(20_000)}

    assert renames(base, side, base) == {}
