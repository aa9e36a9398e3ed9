"""Work on many files at once by any `concurrent.futures.Executor`: threads, processes, the machines of a cluster.

Each item stands for itself: a worker opens the store (both stores) by path or URL, does one file, seals, and closes.
Stores are made for many processes that write at once, so nothing has to be agreed on between workers; what several of
them write at the same time may be there twice, and a repack takes one of the two away. `checking.check` spreads its
packs in the same way. A repack is one process's, which chooses and writes; its workers look for differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

from thetastore.digest import Digest
from thetastore.pool import spread
from thetastore.store import Opener, Store
from thetastore.transfers.transfer import CopyReport
from thetastore.upkeep.repack import HOT, Effort, Repacked, Workers
from thetastore.upkeep.repack import repack as repack_objects


class StoredFile(NamedTuple):
    """A file that is in a store, durably."""

    path: str
    manifest_digest: Digest


def put_files(
    store: Store, paths: Sequence[str], executor: Executor | None = None, base: Digest | None = None
) -> Iterator[StoredFile]:
    """Store files, and yield their manifests in the order of the paths, each when it is durable.

    The first is stored before the others are begun: as the next ones of its family look for their bases, it is there.

    Args:
        store: where they go.
        paths: of the files, as the workers find them.
        executor: see `pool.spread`.
        base: manifest of an earlier version of all of them.

    Raises:
        OSError: a file cannot be read, or the store not be written; earlier files are stored.
    """
    put = partial(_put, store.opener, base)
    yield from spread(executor, put, paths[:1])
    yield from spread(executor, put, paths[1:])


def _put(opener: Opener, base: Digest | None, path: str) -> StoredFile:
    with opener() as store:
        with open(path, "rb", buffering=0) as file:
            ingested = store.put_file(file, base)
        store.seal()
    return StoredFile(path, ingested.manifest_digest)


def send_files(
    source: Store, target: Store, manifest_digests: Iterable[Digest], executor: Executor | None = None
) -> CopyReport:
    """Copy to another store what it lacks of some files; durable when this returns.

    Args:
        source: where they are.
        target: where they go.
        manifest_digests: the files; the first is sent before the others are begun, so put the one first that the
            others were made from.
        executor: see `pool.spread`.

    Raises:
        ThetaError: as `Store.send_to`; the files before are there.
    """
    wanted = list(dict.fromkeys(manifest_digests))
    send = partial(_send, source.opener, target.opener)
    total = CopyReport(0, 0, 0)
    for some in (wanted[:1], wanted[1:]):
        for copied in spread(executor, send, some):
            total = CopyReport(*(a + b for a, b in zip(total, copied, strict=True)))
    return total


def _send(from_opener: Opener, to_opener: Opener, manifest_digest: Digest) -> CopyReport:
    with from_opener() as source, to_opener() as target:
        return source.send_to(target, [manifest_digest])


def repack(store: Store, executor: Executor | None = None, effort: Effort = HOT, is_dry: bool = False) -> Repacked:
    """Represent everything in a store anew where that takes less.

    Args:
        store: in a directory that all workers see; sealed.
        executor: who looks for differences, some chunks at a time; see `pool.spread`. None for threads.
        effort: how far to go.
        is_dry: change nothing, and only estimate.

    Raises:
        BackendError: as `upkeep.repack.repack`; a worker died. What was there before is there.
    """
    workers = None if executor is None else Workers(executor, store.opener)
    return repack_objects(store.objects, store.pool, effort, is_dry, workers=workers)
