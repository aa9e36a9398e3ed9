"""What is wrong with a store, found by reading it: the ground of fsck.

Each level includes the ones before it and costs more: tables read the ends of packs and all of the
index; stored bytes read everything; raw bytes decode everything.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.digest import Digest, Kind
from thetastore.errors import (
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.objects import Objects
from thetastore.packs.catalog import Snapshot
from thetastore.packs.index import Place, Run
from thetastore.packs.reader import Pack, Record
from thetastore.packs.records import base_cost_bytes, most_base_bytes
from thetastore.packs.upkeep import stored_bytes_of
from thetastore.packs.writer import sealed_name


class Level(enum.IntEnum):
    """How deep to look."""

    TABLES = 1
    """Every file's structure, the index against the packs, and that every base is there and shallower."""
    STORED = 2
    """The checksum of every record's stored bytes."""
    RAW = 3
    """The digest of every object, decoded."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    file_name: str
    digest: Digest | None
    """The object it is about; None where it is about the whole file."""
    reason: str

    def __str__(self) -> str:
        subject = f" object '{self.digest}':" if self.digest is not None else ""
        return f"{self.file_name}:{subject} {self.reason}"


def verify(objects: Objects, level: Level) -> Iterator[Finding]:
    """Yield what is wrong with a store as it is now, file by file; nothing is changed.

    Memory is bounded by the largest pack's table and by the index.
    """
    backend, packs, catalog = objects.backend, objects.packs, objects.catalog
    catalog.refresh(thorough=True)
    snapshot = catalog.snapshot()
    for name in sorted(backend.list("index")):
        try:
            yield from _run_findings(Run(backend.view(name), name), snapshot)
        except (MalformedError, UnsupportedError) as error:
            yield Finding(name, None, str(error))
        except FileNotFoundError:
            continue  # merged since it was listed
    for name in sorted(snapshot.packs | snapshot.incoming):
        try:
            pack = packs.get(name)
            found = list(_pack_findings(objects, pack, snapshot, level))
            if found:
                backend.size(name)  # what was merged or repacked meanwhile stands on what has moved
            yield from found
        except (MalformedError, UnsupportedError) as error:
            yield Finding(name, None, str(error))
        except FileNotFoundError:
            continue


def _run_findings(run: Run, snapshot: Snapshot) -> Iterator[Finding]:
    if not run.is_intact():
        yield Finding(run.name, None, "the digests or places do not have their checksum; rebuild the index")
    for info in run.packs:
        if sealed_name(info.id) not in snapshot.packs:
            yield Finding(run.name, None, f"it covers '{sealed_name(info.id)}', which is not there")


def _pack_findings(objects: Objects, pack: Pack, snapshot: Snapshot, level: Level) -> Iterator[Finding]:
    is_sealed = pack.name in snapshot.packs
    if is_sealed and any(loose.file_name == pack.name for loose in snapshot.loose):
        yield Finding(pack.name, None, "no index run covers it; the next seal will")
    records = pack.table() if is_sealed else list(pack.records())
    for record in records:
        digest = record.entry.digest
        place = Place(pack.name, record.offset, record.nbytes)
        if is_sealed and place not in snapshot.find(digest):
            yield Finding(pack.name, digest, "the index does not have it; rebuild the index")
        reason = _record_problem(objects, pack, record, level)
        if reason:
            yield Finding(pack.name, digest, reason)


def _record_problem(objects: Objects, pack: Pack, record: Record, level: Level) -> str | None:
    """Return what is wrong with one record, or None."""
    try:
        found = next(pack.records(record.offset), None)
        if found != record:
            return f"the record at {record.offset} is not the one that the table describes"
        problem = _base_problem(objects, record)
        if problem:
            return problem
        if level >= Level.STORED:
            stored_bytes_of(pack, record)
        if level >= Level.RAW and isinstance(record.entry.kind, Kind):
            objects.representations.get_at(
                Place(pack.name, record.offset, record.nbytes), record.entry.kind, record.entry.digest
            )
    except ObjectCorruptError as error:
        return error.reason
    except ThetaError as error:
        return str(error)
    return None


def _base_problem(objects: Objects, record: Record) -> str | None:
    """Return what is wrong with the bases that a record names, as far as their heads tell, or None."""
    entry = record.entry
    left_bytes = most_base_bytes(entry.raw_bytes)
    for base in entry.bases:
        try:
            found = objects.representations.shallowest(base, with_retired=True)
        except (ObjectMissingError, ObjectCorruptError, UnsupportedError) as error:
            return f"its base cannot be had: {error}"
        left_bytes -= base_cost_bytes(found.raw_bytes)
        if found.depth >= entry.depth or left_bytes < 0:
            return f"its base '{base}' has depth {found.depth} and {found.raw_bytes} raw bytes: too deep or too long"
    return None
