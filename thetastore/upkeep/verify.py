"""What is wrong with a store, found by reading it: the ground of fsck.

Each level includes the ones before it and costs more: a listing reads index runs alone; tables read the ends of packs
and all of the index; stored bytes read everything; raw bytes decode everything.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.digest import Digest, Kind
from thetastore.errors import (
    BackendError,
    FileUnreadableError,
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.objects import Objects
from thetastore.packs.catalog import Snapshot
from thetastore.packs.index import Place, Run
from thetastore.packs.preamble import PREAMBLE_BYTES
from thetastore.packs.reader import Pack, Record
from thetastore.packs.records import base_cost_bytes, most_base_bytes
from thetastore.packs.upkeep import stored_bytes_of
from thetastore.packs.writer import sealed_name


class Level(enum.IntEnum):
    """How deep to look."""

    LISTING = 0
    """Which files are there, and how long they are, against what index runs say."""
    TABLES = 1
    """Every file's structure, the index against the packs, and that every base is there and shallower."""
    STORED = 2
    """The checksum of every record's stored bytes."""
    RAW = 3
    """The digest of every object, decoded."""


class Problem(enum.StrEnum):
    """What kind of thing is wrong; the names are released."""

    INDEX = "index"
    """An index run is damaged or lacks something: making the index anew mends it."""
    PACK = "pack"
    """A pack is gone, cut off, or not readable as a whole."""
    RECORD = "record"
    """A record does not give its object."""
    BASE = "base"
    """A record is sound, but what it stands on cannot be had."""
    MISSING = "missing"
    """What has to be there by what somebody else says (a pin, a history) is not."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    file_name: str
    digest: Digest | None
    """The object it is about; None where it is about the whole file."""
    reason: str
    problem: Problem = Problem.RECORD

    def __str__(self) -> str:
        subject = f" object '{self.digest}':" if self.digest is not None else ""
        return f"{self.file_name}:{subject} {self.reason}"


def verify(objects: Objects, level: Level) -> Iterator[Finding]:
    """Yield what is wrong with a store as it is now, file by file; nothing is changed.

    Memory is bounded by the largest pack's table and by the index.
    """
    yield from verify_listing(objects, level)
    if level > Level.LISTING:
        for name in packs_to_verify(objects):
            yield from verify_pack(objects, name, level)


def verify_listing(objects: Objects, level: Level = Level.LISTING) -> Iterator[Finding]:
    """Yield what is wrong with index runs, and which packs are gone or have another length than a run says.

    Above the level of a listing, the checksums of runs are looked at, too.
    """
    backend, catalog = objects.backend, objects.catalog
    catalog.refresh(thorough=True)
    snapshot = catalog.snapshot()
    for name in sorted(backend.list("index")):
        try:
            run = Run(backend.view(name), name)
            if level > Level.LISTING and not run.is_intact():
                reason = "the digests or places do not have their checksum; rebuild the index"
                yield Finding(name, None, reason, Problem.INDEX)
            yield from _covered_findings(objects, run, snapshot)
        except (MalformedError, UnsupportedError) as error:
            yield Finding(name, None, str(error), Problem.INDEX)
        except FileUnreadableError as error:
            yield _unreadable(name, error, Problem.INDEX)
        except FileNotFoundError:
            continue  # merged since it was listed


def _covered_findings(objects: Objects, run: Run, snapshot: Snapshot) -> Iterator[Finding]:
    for info in run.packs:
        name = sealed_name(info.id)
        if name in snapshot.in_trash:
            continue
        if name not in snapshot.packs:
            yield Finding(run.name, None, f"it covers '{name}', which is not there", Problem.PACK)
            continue
        try:
            file_bytes = objects.backend.open(name).size()
        except FileNotFoundError:
            continue  # merged since it was listed
        except FileUnreadableError as error:
            yield _unreadable(name, error)
            continue
        if file_bytes != info.file_bytes:
            reason = f"it has {file_bytes} bytes, and had {info.file_bytes} when it was sealed"
            yield Finding(name, None, reason, Problem.PACK)


def packs_to_verify(objects: Objects) -> list[str]:
    """Return the file names of all packs, those in the making too, in the order of their ids: by age."""
    snapshot = objects.catalog.snapshot()
    return sorted(snapshot.packs | snapshot.incoming, key=lambda name: name.partition("/")[2])


def verify_pack(objects: Objects, name: str, level: Level) -> list[Finding]:
    """Return what is wrong with one pack; nothing where it is gone by now."""
    snapshot = objects.catalog.snapshot()
    try:
        if name in snapshot.incoming and objects.backend.size(name) < PREAMBLE_BYTES:
            return []  # its writer has just begun, or died there
        found = list(_pack_findings(objects, objects.packs.get(name), snapshot, level))
        if found:
            objects.backend.size(name)  # what was merged or repacked meanwhile stands on what has moved
        return found
    except (MalformedError, UnsupportedError) as error:
        return [Finding(name, None, str(error), Problem.PACK)]
    except FileNotFoundError:
        return []
    except FileUnreadableError as error:
        return [_unreadable(name, error)]


def _unreadable(name: str, error: FileUnreadableError, problem: Problem = Problem.PACK) -> Finding:
    return Finding(name, None, f"it cannot be read: {error.strerror}", problem)


def _pack_findings(objects: Objects, pack: Pack, snapshot: Snapshot, level: Level) -> Iterator[Finding]:
    is_sealed = pack.name in snapshot.packs
    if is_sealed and any(loose.file_name == pack.name for loose in snapshot.loose):
        yield Finding(pack.name, None, "no index run covers it; the next seal will", Problem.INDEX)
    records = pack.table() if is_sealed else list(pack.records())
    for record in records:
        digest = record.entry.digest
        place = Place(pack.name, record.offset, record.nbytes)
        if is_sealed and place not in snapshot.find(digest):
            yield Finding(pack.name, digest, "the index does not have it; rebuild the index", Problem.INDEX)
        found = _record_problem(objects, pack, record, level)
        if found:
            yield Finding(pack.name, digest, *found)


def _record_problem(objects: Objects, pack: Pack, record: Record, level: Level) -> tuple[str, Problem] | None:
    """Return what is wrong with one record, or None."""
    try:
        found = next(pack.records(record.offset), None)
        if found != record:
            reason = f"the record at {record.offset} is not the one that the table describes"
            return reason, Problem.RECORD
        problem = _base_problem(objects, record)
        if problem:
            return problem, Problem.BASE
        if level >= Level.STORED:
            stored_bytes_of(pack, record)
        if level >= Level.RAW and isinstance(record.entry.kind, Kind):
            objects.representations.get_at(
                Place(pack.name, record.offset, record.nbytes), record.entry.kind, record.entry.digest
            )
    except ObjectCorruptError as error:
        return error.reason, Problem.BASE if stands_on_loss(objects, record) else Problem.RECORD
    except FileUnreadableError as error:
        if stands_on_loss(objects, record):
            return f"its base cannot be had: {error}", Problem.BASE
        return f"it cannot be read: {error.strerror}", Problem.RECORD
    except BackendError:
        raise  # nothing is known then
    except ThetaError as error:
        return str(error), Problem.RECORD
    return None


def stands_on_loss(objects: Objects, record: Record) -> bool:
    """Tell whether one of a record's bases cannot be had, so that nothing is known of the record itself."""
    for base in record.entry.bases:
        try:
            objects.representations.get(Kind.CHUNK, base)
        except (ObjectMissingError, ObjectCorruptError, FileUnreadableError):
            return True
        except UnsupportedError:
            continue
    return False


def _base_problem(objects: Objects, record: Record) -> str | None:
    """Return what is wrong with the bases that a record names, as far as their heads tell, or None."""
    entry = record.entry
    left_bytes = most_base_bytes(entry.raw_bytes)
    for base in entry.bases:
        try:
            found = objects.representations.shallowest(base, with_retired=True)
        except (ObjectMissingError, ObjectCorruptError, UnsupportedError, FileUnreadableError) as error:
            return f"its base cannot be had: {error}"
        left_bytes -= base_cost_bytes(found.raw_bytes)
        if found.depth >= entry.depth or left_bytes < 0:
            return f"its base '{base}' has depth {found.depth} and {found.raw_bytes} raw bytes: too deep or too long"
    return None
