"""Bulk work by any executor: threads, processes, and the workers of a cluster, through one mechanism."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.bulk import put_files, repack, send_files
from thetastore.checking.check import Check
from thetastore.digest import Digest
from thetastore.errors import BackendError
from thetastore.pool import processes, spread
from thetastore.store import Store
from thetastore.upkeep.repack import AGGRESSIVE
from thetastore.upkeep.verify import Level

CLUSTER = """
import sys
from pathlib import Path
from distributed import Client, LocalCluster
from test_executors import do_everything

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            print(do_everything(Path(sys.argv[1]), client.get_executor()))
"""


def model(seed: int) -> bytes:
    base = np.random.default_rng(0).normal(0, 0.02, (700, 300)).astype(np.float32)
    return safetensors_bytes({"shared": base, "own": base + np.float32(seed) * np.float32(1e-7)})


def do_everything(path: Path, executor: Executor | None) -> str:
    """Store, send and check six models; return what came of it."""
    paths = []
    for seed in range(6):
        paths.append(str(path / f"{seed}.safetensors"))
        Path(paths[-1]).write_bytes(model(seed))
    with (
        Store.open(str(path / "store"), create=True) as store,
        Store.open(str(path / "other"), create=True) as other,
    ):
        digests = [stored.manifest_digest for stored in put_files(store, paths, executor)]
        send_files(store, other, digests, executor)
        other.objects.catalog.refresh()
        contents = [b"".join(map(bytes, other.read_file(other.get_manifest(one), one))) for one in digests]
        assert contents == [Path(one).read_bytes() for one in paths]
        check = Check(other, Level.RAW, executor=executor)
        found = [str(finding) for finding in check.findings()]
        return f"{found} {check.is_whole} {do_repack(path, executor)} {' '.join(map(str, digests))}"


def do_repack(path: Path, executor: Executor | None) -> str:
    """Repack models that were stored without knowing of each other; return what became of them."""
    stored = []
    for seed in range(4):
        shutil.rmtree(path / "loose" / "families", ignore_errors=True)
        with Store.open(str(path / "loose"), create=True) as store:
            stored.append(store.put_file(io.BytesIO(model(seed))))
    with Store.open(str(path / "loose")) as store:
        repacked = repack(store, executor, AGGRESSIVE)
        for seed, one in enumerate(stored):
            digest = one.manifest_digest
            assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == model(seed)
        return f"{sorted(repacked.after.by_codec.items())} {repacked.after.by_depth} {repacked.rewritten_count}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    return do_everything(tmp_path_factory.mktemp("alone"), None)


def test_threads_do_the_same_as_one_thread(tmp_path, expected):
    with ThreadPoolExecutor(3) as executor:
        assert do_everything(tmp_path, executor) == expected


def test_processes_do_the_same_as_one_thread(tmp_path, expected):
    with processes(2) as executor:
        assert do_everything(tmp_path, executor) == expected


def test_two_workers_of_dask_do_the_same_as_one_thread(tmp_path, expected):
    pytest.importorskip("distributed")
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "shared"), *os.environ.get("PYTHONPATH", "").split(":")]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, paths)), "DASK_LOGGING__DISTRIBUTED": "error"},
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected


def test_workers_have_models_become_differences_that_were_stored_as_if_alone(tmp_path):
    alone = do_repack(tmp_path / "alone", None)
    with processes(2) as executor:
        by_processes = do_repack(tmp_path / "processes", executor)

    assert by_processes == alone
    assert "'difference', Amount(object_count=6" in alone


def test_a_repack_whose_worker_dies_changes_nothing(tmp_path):
    do_repack(tmp_path, None)

    with Store.open(str(tmp_path / "loose")) as store, processes(1) as executor:
        store.opener = partial(os._exit, 9)
        with pytest.raises(BackendError, match="a worker died"):
            repack(store, executor, AGGRESSIVE)
        assert list(Check(store, Level.RAW).findings()) == []


def test_a_model_of_a_family_is_stored_as_differences_by_every_executor(tmp_path, expected):
    with ThreadPoolExecutor(3) as executor:
        do_everything(tmp_path, executor)

    with Store.open(str(tmp_path / "store")) as store:
        last = store.get_manifest(Digest.parse(expected.split()[-1]))
        own = next(one for one in last.tensors if one.name == "own")
        codecs = {store.objects.entry(chunk.digest).codec for chunk in last.chunks if chunk.raw_bytes > 1000}
        assert own.raw_bytes == 840_000
        assert "difference" in codecs


class Later(Executor):
    """Runs what is submitted when it is asked for, and notes how much was in flight."""

    def __init__(self) -> None:
        self.waiting: list[Future] = []
        self.most_waiting = 0

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        result = future.result

        def run(timeout=None):
            if future in self.waiting:
                self.waiting.remove(future)
                try:
                    future.set_result(function(*args, **kwargs))
                except Exception as error:
                    future.set_exception(error)
            return result(timeout)

        future.result = run
        self.waiting.append(future)
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return future


def test_results_come_in_order_and_no_more_than_the_window_is_in_flight():
    executor = Later()

    assert list(spread(executor, lambda number: number * 2, range(50), window=7)) == list(range(0, 100, 2))
    assert executor.most_waiting == 7


def test_the_error_of_the_earliest_item_is_raised_and_the_rest_is_cancelled():
    def work(number: int) -> int:
        if number >= 3:
            raise ValueError(number)
        return number

    executor = Later()
    results = spread(executor, work, range(50), window=5)

    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert all(future.cancelled() for future in executor.waiting)


def test_a_worker_that_dies_is_an_error_of_ours_and_not_a_traceback():
    with processes(1) as executor, pytest.raises(BackendError, match="a worker died"):
        list(spread(executor, os._exit, [9]))
