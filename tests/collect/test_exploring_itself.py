"""The explorer itself: all orders are tried, none twice, and what it finds it finds again."""

from __future__ import annotations

from itertools import combinations

from thetastore.testing.exploring import Body, Explored, SteppedBackend, World, explore


def counter(name: str, rounds: int) -> Body:
    """Return a process that looks how many files there are, and writes one that says so, again and again."""

    def body(backend: SteppedBackend) -> None:
        for number in range(rounds):
            seen = len([*backend.list("seen")])
            backend.create(f"seen/{name}{number}", str(seen).encode())

    return body


def creator(name: str, files: int) -> Body:
    """Return a process that looks at nothing."""

    def body(backend: SteppedBackend) -> None:
        for number in range(files):
            backend.create(f"{name}/{number}", b"")

    return body


def files_of(world: World) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((name, world.backend.read(name)) for name in world.backend.list("")))


def outcomes_of(bodies: list[Body], **more: object) -> tuple[list[tuple[tuple[str, bytes], ...]], Explored]:
    outcomes = []

    def check(world: World) -> None:
        outcomes.append(files_of(world))

    options = {"most_events": 99, "most_runs": 9999, "faults": (), **more}
    return outcomes, explore(lambda: World(is_remote=True), bodies, check, **options)  # type: ignore[arg-type]


def by_hand(rounds: int) -> set[tuple[tuple[str, bytes], ...]]:
    """Return what two counters may leave behind: one outcome for each order of their steps, tried one after another."""
    found = set()
    steps = 2 * rounds
    for of_a in combinations(range(2 * steps), steps):
        files: dict[str, bytes] = {}
        done, seen = {"a": 0, "b": 0}, {"a": 0, "b": 0}
        for at in range(2 * steps):
            name = "a" if at in of_a else "b"
            if done[name] % 2 == 0:
                seen[name] = len(files)
            else:
                files[f"seen/{name}{done[name] // 2}"] = str(seen[name]).encode()
            done[name] += 1
        found.add(tuple(sorted(files.items())))
    return found


def test_every_outcome_of_every_order_is_checked_and_each_once() -> None:
    outcomes, explored = outcomes_of([counter("a", 3), counter("b", 3)])

    assert explored.is_complete
    assert set(outcomes) == by_hand(3)
    assert len(outcomes) == len(set(outcomes))


def test_processes_that_do_not_see_each_other_have_as_many_states_as_there_are_pairs_of_places() -> None:
    outcomes, explored = outcomes_of([creator("a", 5), creator("b", 5)])

    assert explored.is_complete
    assert len(outcomes) == 1
    assert explored.state_count <= 6 * 6
    assert explored.run_count <= 2 * 6 * 6


def test_with_so_many_events_no_more_is_tried() -> None:
    none, _ = outcomes_of([counter("a", 2), counter("b", 2)], most_events=0)
    one, _ = outcomes_of([counter("a", 2), counter("b", 2)], most_events=1)
    all_of_them, _ = outcomes_of([counter("a", 2), counter("b", 2)])

    assert len(none) == 2
    assert set(none) < set(one) < set(all_of_them)


def test_what_was_explored_is_explored_in_the_same_way_again() -> None:
    first, second = (
        outcomes_of([counter("a", 3), counter("b", 3)], faults=("kill", "lose"), most_runs=200) for _ in "ab"
    )

    assert first == second


def test_a_process_that_is_killed_leaves_what_it_had_done() -> None:
    outcomes, explored = outcomes_of([creator("a", 3)], faults=("kill",))

    assert explored.is_complete
    assert {len(files) for files in outcomes} == {0, 1, 2, 3}


def test_the_answer_to_any_step_may_be_lost() -> None:
    outcomes, explored = outcomes_of([creator("a", 3)], faults=("lose",))

    assert explored.is_complete
    assert {len(files) for files in outcomes} == {1, 2, 3}
