"""Damage set aside, so that what is lost can be stored anew.

A store never takes an object that it has, and it cannot know that what it has is rotten without reading it: adding
or fetching the same bytes again would change nothing. So damage is mended in two steps. Here the sound records of a
damaged pack go into a new one, and the pack moves to `damaged/`, whole, where nothing reads it; damaged index runs move
there, too, and the index is made anew. Then whatever is missing can be fetched, or added again.

A record whose base is lost may be sound: nobody can tell before the base is back. It is kept.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from typing import NamedTuple

from thetastore.digest import Digest, Kind
from thetastore.errors import (
    BackendError,
    FileUnreadableError,
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    UnsupportedError,
)
from thetastore.objects import Objects
from thetastore.packs.catalog import id_of, records_of
from thetastore.packs.index import Place, Run, write_run
from thetastore.packs.reader import Pack, Record
from thetastore.packs.upkeep import MERGE_LOCK, stored_bytes_of
from thetastore.packs.writer import PackWriter
from thetastore.representations.suspects import acquit, list_suspects, suspect
from thetastore.upkeep.losses import is_readable, lost_objects
from thetastore.upkeep.verify import stands_on_loss

DAMAGED = "damaged"
"""Where what is damaged lies, whole, and nothing reads it."""


class SetAside(NamedTuple):
    """A pack that was damaged."""

    file_name: str
    """Where it lies now."""
    kept_count: int
    """Records that were sound, and are in a new pack."""
    lost: tuple[Digest, ...]
    """Objects that were not, and that no other pack gives; there may be more in what cannot be read at all."""


def set_aside_damage(objects: Objects, names: Collection[str] | None = None) -> list[SetAside]:
    """Read what is sealed, and set damaged packs and index runs aside; return which packs.

    Objects that are lost by that become suspects, so that later checks go on naming them until they are back.

    May be killed at any point: a pack goes only after its sound records are durable and indexed.

    Args:
        objects: of the store.
        names: file names of the packs to read, for a caller who has looked at the others; None for all.

    Raises:
        BackendError: the store cannot be written, or (`EAGAIN`) another process is merging its packs.
    """
    backend = objects.backend
    with backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            raise BackendError(errno.EAGAIN, "another process is merging the packs", backend.url)
        objects.catalog.refresh(thorough=True)
        snapshot = objects.catalog.snapshot()
        # What is retired is elsewhere; put into a new pack it would count again.
        sealed = snapshot.packs - snapshot.retired
        chosen = sealed if names is None else sealed.intersection(names)
        torn = {name for name in chosen if not _is_whole(objects, name)}
        gone = lost_objects(objects, (), torn)  # the index that names them is about to be made anew
        for digest in gone:
            suspect(backend, digest)
        found = [mended for name in sorted(chosen) for mended in _mend(objects, name)]
        needs_index = _set_runs_aside(objects)
    if found or gone or needs_index:
        objects.rebuild_index()
        found = [
            mended._replace(lost=tuple(digest for digest in mended.lost if not is_readable(objects, digest)))
            for mended in found
        ]
    remember_lost(objects, gone.union(*(mended.lost for mended in found)))
    return found


def remember_lost(objects: Objects, lost: Collection[Digest]) -> None:
    """Let the suspects of a store be what is lost, so that every later check names it."""
    suspected = list_suspects(objects.backend)
    for digest in suspected:
        if digest not in lost and is_readable(objects, digest):
            acquit(objects.backend, digest)
    for digest in lost:
        if digest not in suspected and not is_readable(objects, digest):
            suspect(objects.backend, digest)


def _is_whole(objects: Objects, name: str) -> bool:
    try:
        return _has_whole_table(objects.packs.get(name))
    except FileUnreadableError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise  # set aside, it would be lost to those who may read it
        return False
    except (MalformedError, UnsupportedError, FileNotFoundError):
        return False


def _set_runs_aside(objects: Objects) -> bool:
    """Move damaged runs to where nothing reads them; tell whether the index lacks or misplaces anything."""
    backend, snapshot = objects.backend, objects.catalog.snapshot()
    needs_index = any(loose.file_name in snapshot.packs for loose in snapshot.loose)
    for name in sorted(backend.list("index")):
        try:
            if Run(backend.view(name), name).is_intact():
                continue
        except FileNotFoundError:
            continue  # merged away
        except UnsupportedError:
            continue  # not ours to judge
        except MalformedError:
            pass
        needs_index = _moved(objects, name) != name or needs_index
    return needs_index


def _mend(objects: Objects, name: str) -> Iterator[SetAside]:
    try:
        pack = objects.packs.get(name)
        records = records_of(pack)
    except (MalformedError, FileUnreadableError):
        yield SetAside(_moved(objects, name), 0, ())
        return
    except (UnsupportedError, FileNotFoundError):
        return  # not ours to judge, or merged away
    lost = [record for record in records if not _is_sound(objects, pack, record)]
    if lost or not _has_whole_table(pack):
        kept = [record for record in records if record not in lost]
        _copy(objects, pack, kept)
        for record in lost:  # before the pack goes: nothing else may know of them
            suspect(objects.backend, record.entry.digest)
        yield SetAside(_moved(objects, name), len(kept), tuple(record.entry.digest for record in lost))


def _has_whole_table(pack: Pack) -> bool:
    try:
        pack.table()
        return True
    except (MalformedError, FileUnreadableError):
        return False


def _is_sound(objects: Objects, pack: Pack, record: Record) -> bool:
    """Tell whether a record gives its object; what only a newer version, or a lost base, could tell counts as sound."""
    entry = record.entry
    try:
        stored_bytes_of(pack, record)
        if isinstance(entry.kind, Kind):
            objects.representations.get_at(Place(pack.name, record.offset, record.nbytes), entry.kind, entry.digest)
    except UnsupportedError:
        return True
    except ObjectCorruptError as error:
        return _has_checksum(pack, record) and error.digest == str(entry.digest) and stands_on_loss(objects, record)
    except FileUnreadableError:
        return _has_checksum(pack, record) and stands_on_loss(objects, record)
    except (ObjectMissingError, MalformedError):
        return False
    return True


def _has_checksum(pack: Pack, record: Record) -> bool:
    try:
        stored_bytes_of(pack, record)
        return next(pack.records(record.offset), None) == record
    except (ObjectCorruptError, FileUnreadableError):
        return False


def _copy(objects: Objects, pack: Pack, records: list[Record]) -> None:
    if not records:
        return
    writer = PackWriter.new(objects.backend)
    try:
        for record in records:
            writer.append(record.entry, stored_bytes_of(pack, record))
        write_run(objects.backend, [writer.seal()])
    finally:
        writer.close()


def _moved(objects: Objects, name: str) -> str:
    """Move a file to `damaged/`, whether it can be read or not; return its new name."""
    moved = f"{DAMAGED}/{id_of(name)}.{name.rpartition('.')[2]}"
    try:
        objects.backend.move(name, moved)
    except FileExistsError:
        objects.backend.delete(name)  # copied, and killed before it was deleted, an earlier time
    return moved
