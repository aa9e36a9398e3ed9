"""Weights that are published while they change, and followed by others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints import safetensors_bytes

import thetastore
from thetastore.errors import BackendError, MalformedError, NoSuchModelError, UnsupportedError
from thetastore.publishing.publisher import Publisher
from thetastore.publishing.subscriber import Subscriber
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

State = dict[str, np.ndarray]
RNG = np.random.default_rng(7)


def start() -> State:
    """Some tensors, the largest of more than one piece, of odd types and shapes, too."""
    return {
        "big": RNG.standard_normal((700, 1000), np.float32),
        "half": RNG.standard_normal(300_000).astype(ml_dtypes.bfloat16),
        "mask": RNG.integers(0, 2, 5).astype(bool),
        "step": np.array(3),
        "nothing": np.empty((0, 4), np.float16),
        "frozen": RNG.standard_normal((50, 50), np.float32),
    }


def train(state: State, share: float = 0.02) -> None:
    for name in ("big", "half"):
        flat = state[name].reshape(-1)
        chosen = RNG.random(flat.size) < share
        flat[chosen] = (flat[chosen].astype(np.float32) * 1.001 + 0.0001).astype(flat.dtype)
    state["step"] += 1


def copied(state: State) -> State:
    return {name: value.copy() for name, value in state.items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return thetastore.Models(tmp_path / "zoo", create=True).url


def test_a_subscriber_has_after_each_version_the_very_bits_of_the_publisher(url: str) -> None:
    state = start()
    with Publisher(url, "rl/policy", anchor_every=4) as publisher, Subscriber(url, "rl/policy") as subscriber:
        for number in range(1, 11):
            published = publisher.publish(state, f"step {number}", {"reward": "1.5"})
            update = subscriber.update()

            assert published.number == number
            assert published.is_anchor == (number % 4 == 1)
            assert update is not None
            assert (update.name, update.message) == (f"rl/policy@v{number}", f"step {number}")
            assert update.metadata["reward"] == "1.5"
            assert update.is_whole == (number == 1), "also at an anchor only the difference is read"
            assert same(subscriber.tensors, state)
            assert subscriber.update() is None
            train(state)


def test_a_version_of_which_two_percent_has_changed_takes_a_few_percent(url: str) -> None:
    state = start()
    whole_bytes = sum(value.nbytes for value in state.values())
    with Publisher(url, "policy") as publisher:
        publisher.publish(state)
        train(state)
        published = publisher.publish(state)

    assert 0 < published.difference_bytes < 0.06 * whole_bytes


def test_the_subscribers_own_arrays_are_changed_in_place_and_others_left_alone(url: str) -> None:
    state = start()
    mine = {name: np.zeros_like(value) for name, value in state.items()}
    mine["big"] = np.zeros((1000, 700), np.float32).T  # not in C order
    buffer = mine["buffer"] = np.full(3, 7.0)
    arrays = dict(mine)
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy", into=mine) as subscriber:
        for _ in range(3):
            publisher.publish(state)
            subscriber.update()
            assert all(np.array_equal(arrays[name], state[name]) for name in state)
            train(state)

    assert (buffer == 7).all()


class Module:
    """As one of torch: its tensors have the memory of its parameters, which may become another."""

    def __init__(self, state: State) -> None:
        self.state = state

    def state_dict(self) -> State:
        return {name: value.view() for name, value in self.state.items()}

    def to(self, dtype: str | None = None) -> None:
        self.state = {name: value.astype(dtype or value.dtype) for name, value in self.state.items()}


def test_a_module_whose_parameters_were_moved_is_followed_where_they_are_now(url: str) -> None:
    state = start()
    served = Module(copied(state))
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy", into=served) as subscriber:
        publisher.publish(state)
        subscriber.update()
        for moves in (False, True):
            if moves:
                served.to()
            train(state)
            publisher.publish(state)
            update = subscriber.update()
            assert update is not None
            assert update.is_whole == moves
            assert same(served.state, state)

        served.to()
        served.state["big"][:] = 0
        update = subscriber.update()
        assert update is not None
        assert update.is_whole
        assert same(served.state, state)
        assert subscriber.update() is None
        assert same(subscriber.tensors, served.state)


def test_a_module_that_became_one_of_another_type_is_refused_and_followed_again_later(url: str) -> None:
    state = {"w": np.arange(6, dtype=np.float32)}
    served = Module(copied(state))
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy", into=served) as subscriber:
        publisher.publish(state)
        subscriber.update()
        served.to("f2")
        for _ in range(2):
            with pytest.raises(MalformedError, match="'w' of float32 .* there is one of float16"):
                subscriber.update()
        served.to("f4")
        served.state["w"][:] = 7
        subscriber.update()

        assert same(served.state, state)


def test_tied_tensors_are_changed_once(url: str) -> None:
    shared = RNG.standard_normal((400, 800), np.float32)
    state = {"embed": shared, "head": shared}
    memory = np.zeros_like(shared)
    with (
        Publisher(url, "policy") as publisher,
        Subscriber(url, "policy", into={"embed": memory, "head": memory}) as subscriber,
    ):
        for _ in range(3):
            publisher.publish(state)
            subscriber.update()
            assert np.array_equal(memory, shared)
            shared[::3, ::50] += 0.5


def test_late_joiners_begin_at_an_anchor_and_several_follow_at_their_own_pace(url: str) -> None:
    state = start()
    with Publisher(url, "policy", anchor_every=3) as publisher, Subscriber(url, "policy") as eager:
        for _ in range(5):
            publisher.publish(state)
            eager.update()
            train(state)
        with Subscriber(url, "policy") as late:
            update = late.update()
            assert update is not None
            assert (update.number, update.is_whole, update.difference_count) == (5, True, 1)
            assert same(late.tensors, eager.tensors)
            for _ in range(3):
                publisher.publish(state)
                train(state)
            caught_up = late.update()
            assert caught_up is not None
            assert (caught_up.number, caught_up.is_whole, caught_up.difference_count) == (8, False, 3)
            eager.update()
            assert same(late.tensors, eager.tensors)


def test_a_subscriber_whose_memory_was_changed_notices_and_reads_a_whole_version(url: str) -> None:
    state = start()
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy") as subscriber:
        publisher.publish(state)
        subscriber.update()
        subscriber.tensors["frozen"][3, 3] += 1  # not even among what changes next
        train(state)
        publisher.publish(state)

        update = subscriber.update()

        assert update is not None
        assert update.is_whole
        assert same(subscriber.tensors, state)


def test_a_publisher_that_starts_again_goes_on_with_a_whole_version(url: str) -> None:
    state = start()
    with Subscriber(url, "policy") as subscriber:
        for number in range(1, 4):
            with Publisher(url, "policy") as publisher:
                published = publisher.publish(state)
                train(state)
                second = publisher.publish(state)
            assert (published.number, published.is_anchor) == (2 * number - 1, True)
            assert (second.number, second.is_anchor) == (2 * number, False)
            update = subscriber.update()
            assert update is not None
            assert same(subscriber.tensors, state)
            train(state)


def test_what_has_not_changed_is_no_new_version(url: str) -> None:
    state = start()
    with Publisher(url, "policy") as publisher:
        publisher.publish(state)

        again = publisher.publish(state)

        assert (again.number, again.is_new) == (1, False)
        train(state)
        assert publisher.publish(state).number == 2


def test_other_tensors_than_before_make_a_whole_version(url: str) -> None:
    state = start()
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy") as subscriber:
        publisher.publish(state)
        subscriber.update()
        state["more"] = np.arange(5.0)

        assert publisher.publish(state).is_anchor
        update = subscriber.update()
        assert update is not None
        assert update.is_whole
        assert same(subscriber.tensors, state)


def test_of_two_publishers_one_is_told_and_goes_on_from_the_others_version(url: str) -> None:
    state, other = start(), start()
    with Publisher(url, "policy") as first, Publisher(url, "policy") as second:
        first.publish(state)
        second.publish(other)
        train(state)

        with pytest.raises(BackendError, match="another publisher has written a version meanwhile"):
            first.publish(state)

        published = first.publish(state)
        assert (published.number, published.is_anchor) == (3, True)
    with Subscriber(url, "policy") as subscriber:
        subscriber.update()
        assert same(subscriber.tensors, state)


def test_old_versions_are_let_go_of_by_whole_runs_of_an_anchor(url: str) -> None:
    state = start()
    kept = []
    with Publisher(url, "policy", anchor_every=3, keep=4) as publisher:
        for _ in range(11):
            publisher.publish(state)
            train(state)
            kept.append(thetastore.Models(url).log("policy")[-1].number)

    assert kept == [1, 1, 1, 1, 1, 1, 4, 4, 4, 7, 7]
    with Publisher(url, "policy", anchor_every=3, keep=1) as publisher:
        publisher.publish(state)
    assert [version.number for version in thetastore.Models(url).log("policy")] == [12]


def test_an_anchor_is_a_model_like_any_other_and_a_difference_says_what_it_is(url: str) -> None:
    state = start()
    with Publisher(url, "policy") as publisher:
        publisher.publish(state)
        first = copied(state)
        train(state)
        publisher.publish(state)
    models = thetastore.Models(url)

    assert np.array_equal(models["policy@v1"]["big"][:], first["big"])
    with pytest.raises(UnsupportedError, match=r"'policy@v2' is there as the difference.*'policy@v1'"):
        _ = models["policy"]


def test_the_loop_ends_when_there_was_nothing_new_for_long_enough(url: str) -> None:
    state = start()
    with Publisher(url, "policy") as publisher, Subscriber(url, "policy", poll_s=0.001) as subscriber:
        assert list(subscriber.updates(timeout_s=0)) == []
        publisher.publish(state)
        seen = []
        for update in subscriber.updates(timeout_s=0.01):
            seen.append(update.number)
            if update.number < 4:
                train(state)
                publisher.publish(state)

    assert seen == [1, 2, 3, 4]


PUBLISHING = """
import sys
import numpy as np
import thetastore

rng = np.random.default_rng(1)
state = {"w": rng.standard_normal((500, 1000), np.float32)}
with thetastore.Publisher(sys.argv[1], "policy", anchor_every=4, keep=8) as publisher:
    for step in range(12):
        publisher.publish(state, metadata={"sum": str(int(state["w"].view(np.uint32).astype(np.uint64).sum()))})
        state["w"][rng.random(state["w"].shape) < 0.02] += 0.01
print("done")
"""


def test_other_processes_follow_while_it_is_published_and_never_see_a_mixture(url: str) -> None:
    command = [sys.executable, "-c", PUBLISHING, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        with Subscriber(url, "policy", poll_s=0.001) as one, Subscriber(url, "policy", poll_s=0.001) as other:
            while one.number < 12 or other.number < 12:
                for subscriber in (one, other):
                    for update in subscriber.updates(timeout_s=0.02):
                        total = int(subscriber.tensors["w"].view(np.uint32).astype(np.uint64).sum())
                        assert update.metadata["sum"] == str(total)
        assert process.wait() == 0


def test_what_cannot_be_followed_or_published_is_refused_in_words(url: str) -> None:
    state = start()
    with Subscriber(url, "policy") as subscriber, pytest.raises(NoSuchModelError, match="there is no model 'policy'"):
        subscriber.update()
    with Publisher(url, "policy") as publisher:
        publisher.publish(state)
        with pytest.raises(MalformedError, match="is what a publisher says itself"):
            publisher.publish(state, metadata={"anchor": "1"})
        with pytest.raises(UnsupportedError, match="no array of numbers"):
            publisher.publish({"x": np.array(["a"])})
    wrong = state | {"big": np.zeros((700, 999), np.float32)}
    with (
        Subscriber(url, "policy", into=wrong) as subscriber,
        pytest.raises(MalformedError, match=r"a tensor 'big' of float32 \(700, 1000\), and there is one of .*999"),
    ):
        subscriber.update()
    frozen = state | {"big": state["big"].copy()}
    frozen["big"].flags.writeable = False
    with pytest.raises(UnsupportedError, match="'big' is no numpy array or torch tensor that can be changed"):
        Subscriber(url, "policy", into=frozen)
    with pytest.raises(ValueError, match="at least 1"):
        Publisher(url, "policy", anchor_every=0)
    with Subscriber(url, "policy") as subscriber:
        subscriber.update()
        thetastore.Models(url).delete("policy")
        with pytest.raises(NoSuchModelError, match="was deleted"):
            subscriber.update()


def test_a_closed_publisher_publishes_nothing(url: str) -> None:
    publisher = Publisher(url, "rl/policy")
    publisher.publish(start())
    publisher.close()

    with pytest.raises(ValueError, match="'rl/policy' is closed"):
        publisher.publish(start())
    assert [version.number for version in thetastore.Models(url).log("rl/policy")] == [1]


def test_the_weights_of_a_version_of_several_files_are_read_together(tmp_path: Path) -> None:
    arrays = {f"layers.{n:02}": RNG.random((64, 1024), np.float32) for n in range(8)}
    weights, zoo = tmp_path / "weights", tmp_path / "zoo"
    weights.mkdir()
    for name, array in arrays.items():
        (weights / f"{name}.safetensors").write_bytes(safetensors_bytes({name: array}))
    thetastore.Models(zoo, create=True).put("policy", weights)
    rounds = Rounds(MemoryRequests({str(p.relative_to(zoo)): p.read_bytes() for p in zoo.rglob("*") if p.is_file()}))

    with Subscriber(Store.at(rounds.backend()), "policy") as subscriber:
        subscriber.update()

    assert same(subscriber.tensors, arrays)
    assert len({asked.round for asked in rounds.asked if asked.nbytes > 100_000}) == 1, rounds.asked
