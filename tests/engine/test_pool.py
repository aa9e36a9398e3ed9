"""Work in threads: in order, bounded, and with the errors that a plain loop would have."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from thetastore.pool import Pool


def started(pulled: list[int]) -> Iterator[int]:
    for number in range(100):
        pulled.append(number)
        yield number


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("is_small", [lambda number: False, lambda number: True, lambda number: number % 3 == 0])
def test_results_come_in_the_order_of_the_items(workers: int, is_small) -> None:
    with Pool(workers) as pool:
        found = list(pool.map_bounded(lambda number: number * number, range(100), is_small))

    assert found == [number * number for number in range(100)]


def test_no_more_than_the_window_is_under_way() -> None:
    pulled: list[int] = []

    with Pool(2) as pool:
        for number in pool.map_bounded(lambda number: number, started(pulled), lambda _: False):
            assert len(pulled) <= number + pool.window


def test_what_is_small_is_done_when_it_is_asked_for() -> None:
    pulled: list[int] = []

    with Pool(2) as pool:
        for number in pool.map_bounded(lambda number: number, started(pulled), lambda _: True):
            assert len(pulled) == number + 1


def test_the_error_of_the_earliest_item_is_raised_and_the_rest_is_waited_for() -> None:
    ended: list[int] = []

    def work(number: int) -> int:
        if number >= 7:
            raise ValueError(number)
        ended.append(number)
        return number

    with Pool(3) as pool, pytest.raises(ValueError, match="7") as raised:
        list(pool.map_bounded(work, range(100), lambda _: False))

    assert raised.value.args == (7,)
    assert sorted(ended) == list(range(7))


def test_threads_end_with_their_pool_whether_or_not_it_is_closed() -> None:
    before = set(threading.enumerate())
    kept, dropped = Pool(2), Pool(2)
    list(kept.map_bounded(str, range(10), lambda _: False))
    list(dropped.map_bounded(str, range(10), lambda _: False))
    own = set(threading.enumerate()) - before
    assert len(own) == 4

    kept.close()
    del dropped
    for thread in own:
        thread.join(60)

    assert not own & set(threading.enumerate())


def test_a_pool_works_again_after_it_was_closed() -> None:
    pool = Pool(2)
    list(pool.map_bounded(str, range(10), lambda _: False))
    pool.close()

    assert list(pool.map_bounded(str, [1, 2], lambda _: False)) == ["1", "2"]
    pool.close()
