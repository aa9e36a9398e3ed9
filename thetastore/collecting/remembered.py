"""What earlier runs have read of what never changes: the tables of packs, and what manifests and pages list.

It is kept in a file of the machine that collects; the place that is collected knows nothing of it. So a collection
reads what is new since the one before, and not the whole store. Losing the file costs time only, and by what it says
weights are deleted: one that is damaged, of another version, or that others may write to, is none.

    0   8   magic, with the version
    8   16  XXH3-128 of the rest
    24      the arrays of `_Arrays`, each as `numpy.save` writes it
"""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from thetastore.collecting.tables import Edges, Table
from thetastore.digest import Digest, checksum_of
from thetastore.open_file import Replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thetastore.collecting.tables import Words

_MAGIC = b"\xa7thmark\x01"
_HEAD_BYTES = len(_MAGIC) + 16
_DIGEST_BYTES = 32
_PACK = numpy.dtype([("name", "S128"), ("file_bytes", "<u8"), ("records", "<u8"), ("edges", "<u8")])
_LIST = numpy.dtype([("digest", "u1", _DIGEST_BYTES), ("words", "<u8"), ("pages", "<u8")])


class Listed(NamedTuple):
    """What a manifest or a page lists."""

    words: Words
    """Of pages or of chunks."""
    pages: tuple[Digest, ...]
    """Those of a manifest; empty where it lists chunks, and of a page."""


class _Arrays(NamedTuple):
    """All that is remembered; what belongs to one pack or list comes after what belongs to the one before it."""

    packs: NDArray[Any]
    """Of `_PACK`."""
    words: Words
    nbytes: Words
    kinds: NDArray[numpy.uint8]
    owners: Words
    bases: Words
    lists: NDArray[Any]
    """Of `_LIST`."""
    list_words: Words
    page_digests: NDArray[numpy.uint8]


_Key = tuple[str, int]
"""Name of a pack, and its length in bytes."""


class Remembered:
    """What is remembered of one store. For one thread."""

    def __init__(self, path: str | None = None) -> None:
        """Take what an earlier run has saved at `path`; None for nothing."""
        self._path = path
        self._tables: dict[_Key, Table] = {}
        self._lists: dict[Digest, Listed] = {}
        self._asked: set[_Key | Digest] = set()
        arrays = None if path is None else _load(path)
        if arrays is not None:
            self._tables, self._lists = _tables_of(arrays), _lists_of(arrays)
        self._saved = {*self._tables, *self._lists}

    def table(self, name: str, file_bytes: int) -> Table | None:
        """Return the table of a pack that has this length; None if it has to be read."""
        self._asked.add((name, file_bytes))
        return self._tables.get((name, file_bytes))

    def learn_table(self, name: str, file_bytes: int, table: Table) -> None:
        """Remember what was read of a pack. Of a damaged one it may be something else the next time."""
        if table.is_whole:
            self._tables[name, file_bytes] = table

    def listed(self, digest: Digest) -> Listed | None:
        """Return what a manifest or page lists; None if it has to be read, or one of its pages."""
        self._asked.add(digest)
        listed = self._lists.get(digest)
        return None if listed is None or any(page not in self._lists for page in listed.pages) else listed

    def learn_listed(self, digest: Digest, listed: Listed) -> None:
        """Remember what was read of a manifest or page."""
        self._lists[digest] = listed

    def save(self) -> None:
        """Keep for the next run all that this one has asked for, and nothing else, if the disk has room."""
        tables = {key: table for key, table in self._tables.items() if key in self._asked}
        lists = {digest: listed for digest, listed in self._lists.items() if digest in self._asked}
        if self._path is None or self._saved == {*tables, *lists}:
            return
        body = io.BytesIO()
        for array in _arrays_of(tables, lists):
            numpy.save(body, array, allow_pickle=False)
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with Replacing(self._path) as descriptor, open(descriptor, "wb", closefd=False) as file:
                os.fchmod(descriptor, 0o600)
                file.write(_MAGIC + checksum_of(body.getbuffer()))
                file.write(body.getbuffer())
        except OSError:
            return  # the next run reads everything again
        self._saved = {*tables, *lists}


def _load(path: str) -> _Arrays | None:
    """Read what was saved; None where there is nothing, or nothing that can be relied on."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            is_ours = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022
            raw = file.read() if is_ours else b""
    except OSError:
        return None
    body = memoryview(raw)[_HEAD_BYTES:]
    if raw[:_HEAD_BYTES] != _MAGIC + checksum_of(body):
        return None
    stream = io.BytesIO(body)
    return _Arrays(*(numpy.load(stream, allow_pickle=False) for _ in _Arrays._fields))


def _arrays_of(tables: dict[_Key, Table], lists: dict[Digest, Listed]) -> _Arrays:
    packs = numpy.array(
        [(name.encode(), nbytes, len(one.words), len(one.edges.owners)) for (name, nbytes), one in tables.items()],
        dtype=_PACK,
    )
    rows = numpy.zeros(len(lists), dtype=_LIST)
    rows["digest"] = numpy.frombuffer(b"".join(lists), dtype=numpy.uint8).reshape(-1, _DIGEST_BYTES)
    rows["words"] = [len(listed.words) for listed in lists.values()]
    rows["pages"] = [len(listed.pages) for listed in lists.values()]
    page_digests = b"".join(page for listed in lists.values() for page in listed.pages)
    return _Arrays(
        packs,
        _joined([one.words for one in tables.values()], numpy.uint64),
        _joined([one.nbytes for one in tables.values()], numpy.uint64),
        _joined([one.kinds for one in tables.values()], numpy.uint8),
        _joined([one.edges.owners for one in tables.values()], numpy.uint64),
        _joined([one.edges.bases for one in tables.values()], numpy.uint64),
        rows,
        _joined([listed.words for listed in lists.values()], numpy.uint64),
        numpy.frombuffer(page_digests, dtype=numpy.uint8),
    )


def _joined(arrays: list[Any], dtype: type) -> Any:
    return numpy.concatenate([numpy.empty(0, dtype=dtype), *arrays])


def _tables_of(arrays: _Arrays) -> dict[_Key, Table]:
    record_ends, edge_ends = (arrays.packs[field].cumsum()[:-1].astype(numpy.int64) for field in ("records", "edges"))
    parts = zip(
        numpy.split(arrays.words, record_ends),
        numpy.split(arrays.nbytes, record_ends),
        numpy.split(arrays.kinds, record_ends),
        numpy.split(arrays.owners, edge_ends),
        numpy.split(arrays.bases, edge_ends),
        strict=True,
    )
    return {
        (pack["name"].decode(), int(pack["file_bytes"])): Table(words, nbytes, kinds, Edges(owners, bases), True)
        for pack, (words, nbytes, kinds, owners, bases) in zip(arrays.packs, parts, strict=False)
    }


def _lists_of(arrays: _Arrays) -> dict[Digest, Listed]:
    digests = arrays.lists["digest"].tobytes()
    pages = arrays.page_digests.tobytes()
    word_ends, page_ends = (arrays.lists[field].cumsum().astype(numpy.int64).tolist() for field in ("words", "pages"))
    found = {}
    word_at = page_at = 0
    for number, (word_end, page_end) in enumerate(zip(word_ends, page_ends, strict=True)):
        found[_digest_at(digests, number)] = Listed(
            arrays.list_words[word_at:word_end], tuple(_digest_at(pages, at) for at in range(page_at, page_end))
        )
        word_at, page_at = word_end, page_end
    return found


def _digest_at(digests: bytes, number: int) -> Digest:
    return Digest(digests[_DIGEST_BYTES * number : _DIGEST_BYTES * (number + 1)])
