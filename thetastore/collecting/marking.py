"""What is needed, and where it lies: the digests that roots lead to, and what all packs hold.

Time and memory: every manifest and page that is named is read, and the table of every pack, but for what earlier runs
remember; some 30 bytes are held for each object of the store. No chunk is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import numpy

from thetastore.collecting.remembered import Listed, Remembered
from thetastore.collecting.roots import Root
from thetastore.collecting.tables import Table, has, read_table, union, words_of
from thetastore.digest import Digest, Kind
from thetastore.errors import ObjectMissingError
from thetastore.manifest import parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.packs.records import MAX_DEPTH

if TYPE_CHECKING:
    from thetastore.collecting.tables import Words

_TABLES_AT_ONCE = 256
"""From far away: at most 64 KiB of each are announced."""


def needed_by(
    objects: Objects, roots: Iterable[Root], may_lack: bool = False, remembered: Remembered | None = None
) -> Words:
    """Return the words, ascending and distinct, of all that files need: manifests, pages, chunks; no bases.

    Args:
        objects: of the store.
        roots: the files.
        may_lack: whether manifests and pages may be missing here, as in a store that keeps some of what a remote has.
        remembered: what earlier runs have read.

    Raises:
        ObjectMissingError, ObjectCorruptError, MalformedError, UnsupportedError: a manifest or page cannot be read, so
            that what it needs is unknown.
    """
    remembered = remembered or Remembered()
    manifests = dict.fromkeys(root.manifest_digest for root in roots)
    objects.whereabouts.expect_manifests([digest for digest in manifests if remembered.listed(digest) is None])
    found: dict[Digest, Words] = {}
    for digest in manifests:
        try:
            listed = remembered.listed(digest) or _read_lists(objects, digest, may_lack, remembered)
        except ObjectMissingError:
            if not may_lack:
                raise
            continue
        found[digest] = listed.words
        for page in listed.pages:
            if page not in found and (of_page := remembered.listed(page)) is not None:
                found[page] = of_page.words
    return union([words_of(manifests), *found.values()])


def _read_lists(objects: Objects, manifest_digest: Digest, may_lack: bool, remembered: Remembered) -> Listed:
    """Read a manifest and those of its pages that are not remembered, and remember what they list."""
    manifest = parse_manifest(objects.get(Kind.MANIFEST, manifest_digest))
    for page in manifest.pages:
        if remembered.listed(page.digest) is not None:
            continue
        try:
            chunks = parse_page(objects.get(Kind.PAGE, page.digest), page)
        except ObjectMissingError:
            if may_lack:
                continue
            raise
        remembered.learn_listed(page.digest, Listed(words_of(chunk.digest for chunk in chunks), ()))
    digests = [entry.digest for entry in manifest.pages or manifest.chunks]
    listed = Listed(words_of(digests), tuple(page.digest for page in manifest.pages))
    remembered.learn_listed(manifest_digest, listed)
    return listed


def with_bases(needed: Words, tables: Iterable[Table]) -> Words:
    """Return what is needed together with all that it leans on, at any of its places."""
    edges = [table.edges for table in tables if len(table.edges.owners)]
    if not edges:
        return needed
    owners = numpy.concatenate([some.owners for some in edges])
    bases = numpy.concatenate([some.bases for some in edges])
    for _ in range(MAX_DEPTH + 2):
        more = union([needed, bases[has(needed, owners)]])
        if len(more) == len(needed):
            return needed
        needed = more
    return union([needed, bases])  # deeper than records can be: hostile, and nothing of it is let go of


def read_tables(objects: Objects, names: Iterable[str], remembered: Remembered | None = None) -> dict[str, Table]:
    """Return the tables of packs of a store; one that is gone by now is left out.

    Raises:
        MalformedError, UnsupportedError: one is no pack, or a newer version wrote it: what leans on what is unknown.
    """
    remembered = remembered or Remembered()
    tables = {}
    unknown: dict[str, int] = {}
    for name in sorted(names):
        try:
            file_bytes = objects.packs.size(name)
        except FileNotFoundError:
            continue
        table = remembered.table(name, file_bytes)
        if table is None:
            unknown[name] = file_bytes
        else:
            tables[name] = table
    rest = iter(unknown)
    while window := list(islice(rest, _TABLES_AT_ONCE)):
        objects.whereabouts.expect_tables(window)
        for name in window:
            try:
                tables[name] = read_table(objects.packs, name)
            except FileNotFoundError:
                continue
            remembered.learn_table(name, unknown[name], tables[name])
    return tables
