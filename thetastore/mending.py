"""Damage set aside, so that what is lost can be stored anew.

A store never takes an object that it has, and it cannot know that what it has is rotten without reading it: adding
or fetching the same bytes again would change nothing. So damage is mended in two steps. Here the sound records of a
damaged pack go into a new one, and the pack moves to `damaged/`, whole, where nothing reads it; then whatever is
missing can be fetched, or added again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from thetastore.digest import Digest, Kind
from thetastore.errors import BackendError, MalformedError, ObjectCorruptError, ObjectMissingError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import id_of, records_of
from thetastore.packs.index import Place, write_run
from thetastore.packs.reader import Pack, Record
from thetastore.packs.upkeep import MERGE_LOCK, stored_bytes_of
from thetastore.packs.writer import PackWriter
from thetastore.suspects import acquit, list_suspects


class SetAside(NamedTuple):
    """A pack that was damaged."""

    file_name: str
    """Where it lies now."""
    kept_count: int
    """Records that were sound, and are in a new pack."""
    lost: tuple[Digest, ...]
    """Objects that were not, and that no other pack gives; there may be more in what cannot be read at all."""


def set_aside_damage(objects: Objects) -> list[SetAside]:
    """Read everything that is sealed, and set damaged packs aside; return which.

    May be killed at any point: a pack goes only after its sound records are durable and indexed.

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
        found = [mended for name in sorted(snapshot.packs - snapshot.retired) for mended in _mend(objects, name)]
    if found:
        objects.rebuild_index()
        found = [mended._replace(lost=tuple(filter(partial(_is_lost, objects), mended.lost))) for mended in found]
    for digest in list_suspects(backend):
        acquit(backend, digest)
    return found


def _mend(objects: Objects, name: str) -> Iterator[SetAside]:
    try:
        pack = objects.packs.get(name)
    except MalformedError:
        yield SetAside(_moved(objects, name), 0, ())
        return
    except (UnsupportedError, FileNotFoundError):
        return  # not ours to judge, or merged away
    records = records_of(pack)
    lost = [record for record in records if not _is_sound(objects, pack, record)]
    if lost or not _has_whole_table(pack):
        kept = [record for record in records if record not in lost]
        _copy(objects, pack, kept)
        yield SetAside(_moved(objects, name), len(kept), tuple(record.entry.digest for record in lost))


def _is_lost(objects: Objects, digest: Digest) -> bool:
    """Tell whether no other record gives an object."""
    try:
        kind = objects.entry(digest).kind
        if isinstance(kind, Kind):
            objects.get(kind, digest)
    except (ObjectCorruptError, ObjectMissingError):
        return True
    except UnsupportedError:
        pass  # not ours to judge
    return False


def _has_whole_table(pack: Pack) -> bool:
    try:
        pack.table()
        return True
    except MalformedError:
        return False


def _is_sound(objects: Objects, pack: Pack, record: Record) -> bool:
    """Tell whether a record gives its object; what only a newer version could read counts as sound."""
    entry = record.entry
    try:
        stored_bytes_of(pack, record)
        if isinstance(entry.kind, Kind):
            objects.representations.get_at(Place(pack.name, record.offset, record.nbytes), entry.kind, entry.digest)
    except UnsupportedError:
        return True
    except (ObjectCorruptError, ObjectMissingError, MalformedError):
        return False
    return True


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
    moved = f"damaged/{id_of(name)}.pack"
    try:
        objects.backend.create(moved, objects.backend.view(name))
    except FileExistsError:
        pass  # killed here, an earlier time
    objects.backend.delete(name)
    return moved
