"""Every fault at every place, in samples; `make test-deep` tries all, as docs/reliability.md has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.reliability.crowds import crowd
from benchmarks.reliability.damage import CUT, FLIPPED, KINDS, damaged
from benchmarks.reliability.injecting import KILLED, REFUSALS, misled, refused
from benchmarks.reliability.memory import TRAPS, taken
from benchmarks.reliability.tally import Tally
from benchmarks.reliability.worlds import COLLECT, FAR, MEND, NEAR
from thetastore.testing import Fault

MOST_PEAK_BYTES = 300_000_000


def named(deed) -> str:
    return deed.name


def check(tally: Tally) -> None:
    assert tally.runs > 0
    assert tally.bad == 0, f"{tally.example} ({tally})"
    assert tally.succeeded + tally.failed == tally.runs


@pytest.mark.parametrize("fault", REFUSALS)
@pytest.mark.parametrize("deed", NEAR, ids=named)
def test_a_call_that_is_refused_or_the_last_one_of_a_process_costs_nothing_committed(deed, fault):
    check(refused(deed, fault, every=23, first=list(REFUSALS).index(fault) * 5))


@pytest.mark.deep
@pytest.mark.parametrize("fault", REFUSALS)
@pytest.mark.parametrize("deed", NEAR, ids=named)
def test_every_call_refused_or_the_last_one_of_a_process_costs_nothing_committed(deed, fault):
    check(refused(deed, fault))


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("deed", FAR, ids=named)
def test_a_fault_of_a_network_costs_nothing_committed(deed, fault):
    check(misled(deed, fault, every=13, first=list(Fault).index(fault)))


@pytest.mark.deep
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("deed", FAR, ids=named)
def test_every_fault_of_a_network_costs_nothing_committed(deed, fault):
    check(misled(deed, fault))


@pytest.mark.parametrize("how", [CUT, FLIPPED])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_and_found_and_never_read_as_other_bytes(kind, how):
    check(damaged(kind, how, every={"packs": 401, "index": 37, "refs": 37}.get(kind, 7)))


@pytest.mark.deep
@pytest.mark.parametrize("how", [CUT, FLIPPED])
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_refused_and_found_and_never_read_as_other_bytes(kind, how):
    check(damaged(kind, how))


def test_two_writers_and_a_collector_lose_nothing(tmp_path):
    check(crowd(tmp_path, 2, stops=False, skews=True))


@pytest.mark.deep
@pytest.mark.parametrize(("writer_count", "stops", "skews"), [(4, True, False), (8, True, True), (16, True, True)])
def test_many_writers_some_asleep_for_longer_than_any_grace_lose_nothing(tmp_path, writer_count, stops, skews):
    check(crowd(tmp_path, writer_count, stops, skews))


def test_the_tallies_count_what_they_are_for():
    """A collector and a repair that are killed half-way have failed, most of the time: else nothing was injected."""
    for deed in (COLLECT, MEND):
        tally = refused(deed, KILLED, every=10)
        assert tally.failed > tally.runs // 2


@pytest.mark.deep
def test_hostile_input_takes_a_bounded_amount_of_memory():
    found = list(taken())

    assert len(found) == len(TRAPS)
    assert [one.what for one in found if one.peak_bytes > MOST_PEAK_BYTES] == []
    assert [one.what for one in found if one.input_bytes > 1000 and one.per_byte > 32] == []


def test_the_page_tells_of_no_run_that_went_wrong():
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ") and line.count("|") == 12]

    assert re.search(r"runs \(all[^)]*\), 0 bad\.", page)
    assert len(lines) > 80
    assert all(line.endswith("| 0 |") for line in lines if not line.startswith(("| what", "| ---")))
