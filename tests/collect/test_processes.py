"""Writers and collectors that are real processes over one directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from collectable import model

from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.refs import Refs
from thetastore.store import Store

WRITER = """
import io, os, signal, sys
from collectable import model
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store

path, name, stops, seeds = sys.argv[1], sys.argv[2], sys.argv[3] == "stops", [int(seed) for seed in sys.argv[4:]]
for seed in seeds:
    with Store.open(path) as store:
        store.begin_session()
        digest = store.put_file(io.BytesIO(model(seed, 16))).manifest_digest
        store.seal()
        if stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        Refs(store.backend).append(f"models/{name}", lambda before: Draft(
            (RefFile(f"{seed}.safetensors", 0, digest),), oldest=before.number + 1 if before else None))
        while store.lost_meanwhile([digest]):
            store.put_file(io.BytesIO(model(seed, 16)))
            store.seal()
    print(seed, digest, flush=True)
"""

COLLECTOR = """
import sys
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.errors import BackendError
from thetastore.store import Store

while True:
    with Store.open(sys.argv[1]) as store:
        try:
            collected = collect(store.objects, lambda: roots_of(store.backend, True), Terms(0, 0))
            print(collected.deleted.pack_count, flush=True)
        except BackendError:
            pass  # a writer merges at the moment
"""


def start(script: str, *args: str, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *args]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=environment, **more)  # type: ignore[call-overload, no-any-return]


def newest(store: Store, name: str) -> bytes:
    entry = Refs(store.backend).latest(f"models/{name}")
    assert entry is not None
    (file,) = entry.files
    manifest = store.get_manifest(file.manifest_digest)
    return b"".join(map(bytes, store.read_file(manifest, file.manifest_digest)))


def test_a_writer_that_was_stopped_for_longer_than_its_session_stores_again_what_went(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    Store.open(path, create=True).close()
    assert start(WRITER, path, "kept", "goes", "1").communicate()[0].startswith("1 ")
    writer = start(WRITER, path, "late", "stops", "2")
    os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
    for file in (tmp_path / "store" / "sessions").iterdir():
        os.utime(file, (0, 0))  # by the place's clock it has not been heard of for long

    with Store.open(path) as store:
        collected = collect(store.objects, lambda: roots_of(store.backend), Terms(0, 0))
    os.kill(writer.pid, signal.SIGCONT)
    said, _ = writer.communicate(timeout=60)

    assert collected.deleted.pack_count == 1
    assert said.startswith("2 ")
    with Store.open(path) as store:
        assert newest(store, "late") == model(2, 16)
        assert newest(store, "kept") == model(1, 16)
    assert not list((tmp_path / "store" / "sessions").iterdir())


def test_writers_and_a_collector_without_any_grace_lose_nothing_that_was_reported(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    Store.open(path, create=True).close()
    collector = start(COLLECTOR, path)
    names = ("a", "b", "c")
    seeds = [str(seed % 4) for seed in range(12)]

    writers = [start(WRITER, path, name, "goes", *seeds[at:], *seeds[:at]) for at, name in enumerate(names)]
    said = [writer.communicate(timeout=120)[0].splitlines() for writer in writers]
    collector.kill()
    rounds = collector.communicate()[0].split()

    assert all(len(lines) == 12 for lines in said)
    with Store.open(path) as store:
        for at, name in enumerate(names):
            assert newest(store, name) == model(int([*seeds[at:], *seeds[:at]][-1]), 16)
    assert rounds
