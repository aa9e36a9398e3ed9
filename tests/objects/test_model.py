"""Objects against a dictionary: several processes put, get, seal, merge, die, and lose their index."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, digest_of
from thetastore.errors import ObjectMissingError
from thetastore.objects import Objects, Prepared
from thetastore.packs import upkeep
from thetastore.upkeep.verify import Level, verify

kinds = st.sampled_from(list(Kind))
raws = st.one_of(st.binary(max_size=40), st.integers(0, 255).map(lambda byte: bytes([byte]) * 3000))
numbers = st.integers(0, 2)


class Model(RuleBasedStateMachine):
    """Three processes over one store. What one of them was told is stored stays, whoever dies."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = MemoryBackend()
        self.stored: dict[tuple[Kind, Digest], bytes] = {}
        self.prepared: list[tuple[int, Prepared, Kind, bytes]] = []

    @initialize(pack_bytes=st.sampled_from([200, 4000, 1 << 20]))
    def start(self, pack_bytes: int) -> None:
        self.pack_bytes = pack_bytes
        self.processes = [self.fresh() for _ in range(3)]

    def fresh(self) -> Objects:
        return Objects(self.backend, pack_bytes=self.pack_bytes)

    @rule(number=numbers, kind=kinds, raw=raws)
    def put(self, number: int, kind: Kind, raw: bytes) -> None:
        digest = self.processes[number].put(kind, raw)
        assert digest == digest_of(raw, kind)
        assert self.processes[number].contains(digest)
        self.stored[kind, digest] = raw

    @rule(number=numbers, kind=kinds, raw=raws)
    def prepare(self, number: int, kind: Kind, raw: bytes) -> None:
        self.prepared.append((number, self.processes[number].prepare(kind, raw), kind, raw))

    @rule()
    def add_what_was_prepared(self) -> None:
        for number, prepared, kind, raw in self.prepared:
            self.stored[kind, self.processes[number].add(prepared)] = raw
        self.prepared = []

    @rule(number=numbers, data=st.data())
    def get(self, number: int, data: st.DataObject) -> None:
        if self.stored:
            (kind, digest), raw = data.draw(st.sampled_from(sorted(self.stored.items())))
            assert self.processes[number].get(kind, digest) == raw

    @rule(number=numbers, kind=kinds, raw=raws)
    def get_what_may_be_missing(self, number: int, kind: Kind, raw: bytes) -> None:
        digest = digest_of(raw, kind)
        if (kind, digest) in self.stored:
            assert self.processes[number].get(kind, digest) == raw
        else:
            with pytest.raises(ObjectMissingError):
                self.processes[number].get(kind, digest)

    @rule(number=numbers)
    def seal(self, number: int) -> None:
        self.processes[number].seal()

    @rule(number=numbers)
    def close_and_open(self, number: int) -> None:
        self.processes[number].close()
        self.processes[number] = self.fresh()
        self.prepared = [waiting for waiting in self.prepared if waiting[0] != number]

    @rule()
    def everybody_is_killed(self) -> None:
        self.backend.crash()
        self.processes = [self.fresh() for _ in range(3)]
        self.prepared = []

    @rule(number=numbers)
    def rebuild_the_index(self, number: int) -> None:
        self.processes[number].rebuild_index()

    @rule(data=st.data())
    def a_run_is_lost(self, data: st.DataObject) -> None:
        names = sorted(self.backend.list("index"))
        if names:
            self.backend.delete(data.draw(st.sampled_from(names)))

    @invariant()
    def everybody_else_reads_everything(self) -> None:
        objects = self.fresh()
        for (kind, digest), raw in self.stored.items():
            assert objects.contains(digest)
            assert objects.get(kind, digest) == raw

    def teardown(self) -> None:
        self.backend.crash()
        if self.stored:
            objects = self.fresh()
            objects.seal()
            assert list(verify(objects, Level.RAW)) == []
            assert list(self.backend.list("incoming")) == []


@pytest.fixture(autouse=True)
def crowds_are_small(monkeypatch):
    monkeypatch.setattr(upkeep, "MOST_SMALL_PACKS", 3)
    monkeypatch.setattr(upkeep, "MOST_RUNS", 3)


def run_model(max_examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_several_processes_over_one_store_behave_like_one_dictionary():
    run_model(max_examples=60, steps=30)


@pytest.mark.deep
def test_several_processes_over_one_store_behave_like_one_dictionary_for_long():
    run_model(max_examples=3000, steps=60)
