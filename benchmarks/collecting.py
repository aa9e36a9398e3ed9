"""Collecting a store of many objects: with nothing remembered of it, and with what the run before has read.

    python -m benchmarks.collecting [--objects 1000000] [--rounds 3]

Each named file has 5,000 chunks of 24 bytes; real packs, index runs, pages, manifests and a ref hold them. The two ways
take turns, each run in a process of its own: processor time, and memory at its peak.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from thetastore.collecting.collect import collect
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import roots_of
from thetastore.digest import Digest, Kind, checksum_of, digest_of, new_hasher
from thetastore.manifest import Chunk, Manifest, PageRef, encode_manifest, encode_page, paginate
from thetastore.packs.index import write_run
from thetastore.packs.records import Entry
from thetastore.packs.writer import PackWriter
from thetastore.ref_entries import Draft, RefFile
from thetastore.refs import Refs
from thetastore.store import Store

CHUNKS = 5000
CHUNK_BYTES = 24
FILES_A_PACK = 10


def crowd(directory: Path, objects: int) -> None:
    """Make a store of so many objects, all of which have a name."""
    with Store.open(str(directory), create=True) as store:
        files: list[Digest] = []
        while CHUNKS * len(files) < objects:
            writer = PackWriter.new(store.backend)
            files += [_add_file(writer) for _ in range(FILES_A_PACK)]
            write_run(store.backend, [writer.seal()])
            writer.close()
        listed = tuple(RefFile(f"{number:06d}", CHUNKS * CHUNK_BYTES, one) for number, one in enumerate(files))
        Refs(store.backend).append("models/crowd", lambda _: Draft(listed))


def _add_file(writer: PackWriter) -> Digest:
    hasher, chunks = new_hasher(), []
    for _ in range(CHUNKS):
        raw = os.urandom(CHUNK_BYTES)
        hasher.update(raw)
        chunks.append(Chunk(CHUNK_BYTES, _append(writer, Kind.CHUNK, raw)))
    refs = []
    for some in paginate(chunks):
        page = _append(writer, Kind.PAGE, encode_page(some))
        refs.append(PageRef(CHUNK_BYTES * len(some), len(some), page))
    nbytes = CHUNKS * CHUNK_BYTES
    root = Manifest("opaque", 1, nbytes, Digest(hasher.digest()), (), (), tuple(refs))
    return _append(writer, Kind.MANIFEST, encode_manifest(root))


def _append(writer: PackWriter, kind: Kind, raw: bytes) -> Digest:
    digest = digest_of(raw, kind)
    writer.append(Entry(kind, digest, "literal", b"", len(raw), len(raw), (), 0, checksum_of(raw)), raw)
    return digest


def measured(directory: Path, path: str | None) -> tuple[float, int, int]:
    """Collect, for show; return processor seconds, peak bytes and objects. For a process of its own."""
    started_s = time.process_time()
    with Store.open(str(directory)) as store:
        found = collect(store.objects, lambda: roots_of(store.backend), is_dry=True, remembered=Remembered(path))
    used_s = time.process_time() - started_s
    return used_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, found.object_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store, path = Path(name, "store"), str(Path(name, "remembered"))
        crowd(store, options.objects)
        ways = {"nothing remembered": None, "the run before remembered": path}
        runs: dict[str, list[tuple[float, int, int]]] = {way: [] for way in ways}
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            pool.apply(measured, (store, path))
            for _ in range(options.rounds):
                for way, remembered in ways.items():
                    runs[way].append(pool.apply(measured, (store, remembered)))
    for way, rows in runs.items():
        used_s, peak_bytes, count = (median(column) for column in zip(*rows, strict=True))
        print(f"{way:26} {count:,.0f} objects   {used_s:.2f} CPU s   {peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
