"""Processes that commit to one store at once, beside a collector; one is stopped for longer than any grace.

Each writer says which versions it was told that were committed; in the end all of these are there, and right. Half of
their models are the same ones, and models are deleted now and then, so that what one writer finds is what the
collector takes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.reliability.tally import HANG_S, Tally
from benchmarks.reliability.worlds import forget, model, newest, put
from thetastore.backends.directory import DirectoryBackend
from thetastore.collecting import collect as collecting
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.errors import BackendError, MalformedError, ObjectMissingError, ThetaError
from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

GRACE_S = 0.2
_ROUNDS = 10
_SHARED_SEEDS = 5
_MOST_TRIES = 100


def write(path: str, number: int, skew_s: float) -> None:
    """Commit versions until it is enough; say each one that was committed."""
    _skew(skew_s)
    chance = random.Random(number)
    for step in range(_ROUNDS):
        seed = chance.choice([chance.randrange(_SHARED_SEEDS), 1000 * number + step])
        name = f"w{number}-{step}"
        for _ in range(_MOST_TRIES):
            try:
                put(DirectoryBackend(path), name, model(seed))
                break
            except ObjectMissingError:
                continue  # it was taken for dead, and says so
        print(name, seed, flush=True)
        if step and chance.random() < 0.5:
            forget(DirectoryBackend(path), old := f"w{number}-{step - 1}")
            print(old, "deleted", flush=True)


def sweep(path: str, skew_s: float) -> None:
    """Collect, again and again, until somebody ends it."""
    _skew(skew_s)
    backend = DirectoryBackend(path)
    collecting.SLACK_S = 0.0  # there is one clock here, the file system's; with an hour, every session would hold all
    while True:
        try:
            with Store.open(path) as store:
                done = collect(store.objects, lambda: roots_of(backend, may_be_none=True), Terms(GRACE_S, GRACE_S))
            print(done.deleted.pack_count, flush=True)
        except BackendError:
            pass  # somebody merges
        except MalformedError as error:
            print(f"refuses: {error}", file=sys.stderr, flush=True)
        time.sleep(0.01)


def _skew(skew_s: float) -> None:
    """Let the clock of this process be wrong."""
    if skew_s:
        right, right_ns = time.time, time.time_ns
        time.time = lambda: right() + skew_s
        time.time_ns = lambda: right_ns() + int(skew_s * 1e9)


def crowd(path: Path, writer_count: int, stops: bool, skews: bool) -> Tally:
    """Let so many processes write at once; count what was said to be committed and is not there."""
    fault = ", ".join([f"{writer_count} writers and a collector"] + ["SIGSTOP"] * stops + ["clocks days off"] * skews)
    tally = Tally("commit and collect, directory", fault)
    store_path = str(path / "store")
    Store.open(store_path, create=True).close()
    skewed = [0.0, 9 * 86400.0, -9 * 86400.0] if skews else [0.0]
    collector = _start("sweep", store_path, skewed[-1])
    writers = [_start("write", store_path, n, skewed[n % len(skewed)]) for n in range(writer_count)]
    if stops:
        for writer in writers[:: max(1, writer_count // 3)]:
            _stop_for_a_while(writer)
    committed: dict[str, int] = {}
    for number, writer in enumerate(writers):
        tally.runs += 1
        try:
            said, errors = writer.communicate(timeout=HANG_S * 4)
        except subprocess.TimeoutExpired:
            writer.kill()
            tally.blame("hangs", f"writer {number}")
            continue
        tally.failed += writer.returncode != 0
        if writer.returncode and b"Traceback" in errors and b"Error" not in errors.splitlines()[-1]:
            tally.blame("stuck", errors.decode()[-300:])
        for name, what in (line.split() for line in said.decode().splitlines()):
            committed.pop(name, None)
            if what != "deleted":
                committed[name] = int(what)
    collector.kill()
    said, _ = collector.communicate()
    tally.collected = sum(map(int, said.split()))
    tally.fault += f"; {tally.collected} packs collected"
    _look(tally, store_path, committed)
    tally.succeeded = tally.runs - tally.failed if not tally.bad else 0
    return tally


def _look(tally: Tally, store_path: str, committed: dict[str, int]) -> None:
    with Store.open(store_path) as store:
        for name, seed in committed.items():
            try:
                digest = newest(store.backend, name)
                got = (
                    b"" if digest is None else b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))
                )
            except ThetaError as error:
                tally.blame("lost_objects", f"{name}: {error}")
                continue
            if got != model(seed):
                tally.blame("wrong_bytes" if got else "lost_refs", name)
        for finding in verify(store.objects, Level.RAW):
            tally.blame("unfound", f"left behind: {finding}")


def _start(what: str, *arguments: object) -> subprocess.Popen[bytes]:
    code = f"from benchmarks.reliability.crowds import {what}\n{what}(*{arguments!r})"
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, env=environment)


def _stop_for_a_while(writer: subprocess.Popen[bytes]) -> None:
    """Stop a process somewhere in its work, for longer than condemning, waiting and deleting take."""
    assert writer.stdout is not None
    time.sleep(random.uniform(0.2, 0.5))
    writer.send_signal(signal.SIGSTOP)
    time.sleep(4 * GRACE_S)
    writer.send_signal(signal.SIGCONT)
