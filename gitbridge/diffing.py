"""What changed between versions of files, tensor by tensor, as values: what prints them is in `reports`.

Pointers say which tensors changed. For figures the weights are read, from the local store or from files, as little of
them as differs. A version whose weights are not here is an error that says what to fetch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from gitbridge.anatomy import is_buffer
from gitbridge.errors import RemoteError, RevisionError, UsageError
from gitbridge.history import Blamed
from gitbridge.profile import fetch_all_the_same, profile_of
from gitbridge.repository import Repository
from gitbridge.trees import tracked_blob
from gitbridge.versions import INDEX, NO_REVISIONS, WORK_TREE, Two, Version
from thetastore.comparing.changes import RECAST, Change, Entry, changes_between
from thetastore.comparing.comparison import Comparison, Measured
from thetastore.comparing.sides import JoinedSide, Side, StoredSide
from thetastore.digest import Digest
from thetastore.errors import ObjectMissingError, StoreMissingError
from thetastore.selection import Globs
from thetastore.statistics.looks import Looks
from thetastore.store import Store

METADATA, DTYPE, BUFFERS = "metadata", "dtype", "buffers"
CLASSES = (METADATA, DTYPE, BUFFERS)
"""What can be left out of a diff."""

ORDERS = ("name", "relative", "norm", "max", "share", "size")
"""By what changed tensors can be sorted; all but `name` put the largest first."""

_MOST_TEXTS = 8
"""Texts of metadata that are named."""

_KEPT_SIDES = 4
"""Manifests in memory: what one commit made, the one after it began with."""


class Options(NamedTuple):
    """What is asked for."""

    tensors: Sequence[str] = ()
    """Globs of names; empty for all."""
    ignore: frozenset[str] = frozenset()
    """Some of `CLASSES`."""
    with_figures: bool = True
    """False reads no weights."""
    metrics: Sequence[str] = ()
    read_all: bool = False
    """Norms and cosines of whole tensors, at the cost of reading what did not change."""


class FileDiff(NamedTuple):
    """What changed in one file."""

    two: Two
    changes: list[Measured]
    """In the order of names. Where no figures were asked for, they are empty."""
    unchanged: tuple[Entry, ...]
    """Tensors that are the same on both sides."""
    outside: str
    """What changed outside of tensors, for people; empty if nothing did, or that was not asked for."""

    @property
    def is_empty(self) -> bool:
        """Nothing changed that was asked for."""
        return not self.changes and not self.outside


class Differ:
    """Compares files. A context manager: it holds the store open."""

    def __init__(self, repository: Repository | None, options: Options) -> None:
        self._repository = repository
        self._options = options
        self._wants = Globs(options.tensors)
        self._open = ExitStack()
        self._store: Store | None = None
        self._stored: dict[Digest, StoredSide] = {}

    def __enter__(self) -> Differ:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def diffs(self, twos: Iterable[Two]) -> Iterator[FileDiff]:
        """Yield what changed in each file, leaving out those in which nothing did.

        Raises:
            RemoteError: weights are not here; says what to fetch.
            NoSuchTensorError: a glob matches no tensor of any file; says which names are near.
        """
        for two in twos:
            found = self.diff(two)
            if not found.is_empty or (two.before is None) != (two.after is None) or two.is_moved:
                yield found
        self._wants.check()

    def diff(self, two: Two) -> FileDiff:
        """Return what changed between two versions of a file."""
        before = self._entries(two.before)
        after = self._entries(two.after)
        changes = changes_between(before, after)
        names = {change.name for change in changes}
        unchanged = tuple(entry for entry in after if entry.name not in names)
        if self._options.with_figures and (two.before and two.after) and changes:
            measured = self._without_recast(self.measured(two.before, two.after, changes))
        else:
            measured = [Measured(change) for change in changes]
        is_asked = METADATA not in self._options.ignore and not self._options.tensors
        return FileDiff(two, measured, unchanged, self._outside(two) if is_asked else "")

    def _entries(self, version: Version | None) -> list[Entry]:
        if version is None:
            return []
        skips = BUFFERS in self._options.ignore
        return [e for e in version.entries if self._wants(e.name) and not (skips and is_buffer(e.name))]

    def measured(self, before: Version, after: Version, changes: list[Change]) -> list[Measured]:
        """Return the figures of some changes between two versions, in their order.

        Raises:
            RemoteError: weights are not here; says what to fetch.
        """
        needs_weights = [change for change in changes if change.before and change.after and not change.has_same_values]
        if not needs_weights:
            return [Measured(change, looks=Looks("same") if change.has_same_values else None) for change in changes]
        metrics, read_all = self._options.metrics, self._options.read_all
        try:
            sides = self._side(before), self._side(after)
            for change in needs_weights:
                _check(sides[0], before, change.before)
                _check(sides[1], after, change.after)
            with Comparison(*sides, metrics, read_all) as comparison:
                return list(comparison.measure(changes))
        except ObjectMissingError as error:
            raise self._not_here(before, after) from error

    def of_commits(
        self, path: str, blamed: Iterable[Blamed], side_of: Callable[[str], Side | None]
    ) -> Iterator[Measured]:
        """Yield the figures of what commits did to the tensors of a file; of those that they added, none.

        Args:
            path: of the file.
            blamed: its tensors, and what they come from.
            side_of: returns what reads a version that is no pointer, by what its commit has as its blob.

        Raises:
            RemoteError: weights are not here; says what to fetch.
        """
        by_commit: dict[str, list[Blamed]] = {}
        for one in blamed:
            if one.change.before is not None:
                by_commit.setdefault(one.commit.oid, []).append(one)
        for rows in by_commit.values():
            commit = rows[0].commit
            before = self._version(path, f"{commit.short}~", commit.parent_blobs[0], side_of)
            after = self._version(path, commit.short, commit.blob, side_of)
            yield from self.measured(before, after, [one.change for one in rows])

    def _version(self, path: str, where: str, blob: str, side_of: Callable[[str], Side | None]) -> Version:
        """Return a version without its table: what is compared is known already."""
        side = side_of(blob)
        if side is not None:
            return Version(path, where, "", 0, None, None, (), side)
        assert self._repository is not None, "commits are of a repository"
        file = tracked_blob(self._repository, path, blob)
        if file is None:
            raise RevisionError(
                f"'{path}' is not tracked by git theta in '{where}'", "git theta ls-files REV lists what is"
            )
        return Version(path, where, file.format, file.file_bytes, file.file_digest, file.manifest_digest, ())

    def _without_recast(self, measured: list[Measured]) -> list[Measured]:
        if DTYPE not in self._options.ignore:
            return measured
        return [one for one in measured if not _is_only_recast(one)]

    def _side(self, version: Version) -> Side:
        if version.side is not None:
            return version.side
        if version.parts:
            sides = [(self._side(part), part.entries) for part in version.parts]
            return JoinedSide({entry.name: side for side, entries in sides for entry in entries})
        digest = version.manifest_digest
        assert digest is not None, "what is in no file is in a store"
        if digest not in self._stored:
            store = self._opened_store(version)
            manifest = store.get_manifest(digest)
            while len(self._stored) >= _KEPT_SIDES:
                self._stored.pop(next(iter(self._stored)))
            self._stored[digest] = StoredSide(store.objects, store.tensors(manifest, digest))
        return self._stored[digest]

    def _opened_store(self, version: Version) -> Store:
        if self._store is None:
            if self._repository is None:
                raise RemoteError(
                    f"'{version.path}' is a pointer, and there is no Git repository here to find its weights in",
                    "run this in the repository that it is from",
                )
            try:
                self._store = self._open.enter_context(self._repository.open_store(create=False))
            except StoreMissingError:
                raise self._not_here(version) from None
        return self._store

    def _not_here(self, *versions: Version) -> RemoteError:
        lacking = [version for version in versions if version.side is None and not self._is_here(version)]
        one = lacking[0] if lacking else versions[0]
        revisions = dict.fromkeys(v.where for v in lacking or versions if v.where not in NO_REVISIONS)
        what = f"fetch {self._remote()} {' '.join(revisions)}" if revisions else "fetch"
        what = f"git theta {what}" if self._keeps_all() else fetch_all_the_same(what)
        return RemoteError(
            f"not all weights of '{one.path}' in {_named(one)} are in the local store",
            f"{what}  (--name-status needs no weights)",
        )

    def _remote(self) -> str:
        from gitbridge.remotes import default_remote

        return "" if self._repository is None else default_remote(self._repository) or "origin"

    def _keeps_all(self) -> bool:
        return self._repository is None or profile_of(self._repository).is_whole

    def _is_here(self, version: Version) -> bool:
        if self._store is None or version.manifest_digest is None:
            return False
        return not self._store.missing_objects([version.manifest_digest])

    def _outside(self, two: Two) -> str:
        """Say what changed outside of tensors, where that is not just how the table of tensors is written."""
        before, after = two.sides
        if before is None or after is None or before.file_digest == after.file_digest:  # of joined files: none
            return ""
        if before.format != after.format:
            return f"format: {before.format} -> {after.format}"
        if not before.entries and not after.entries:
            return f"content: {before.file_bytes} -> {after.file_bytes} bytes, in no known format"
        has_same_layout = _layout_of(before) == _layout_of(after)
        is_alone = has_same_layout and _digests(before) == _digests(after)
        known = "metadata" if is_alone else ""
        if not self._options.with_figures:
            return known
        try:
            words = metadata_text(self._side(before).texts(), self._side(after).texts())
            if words or is_alone or not has_same_layout or (before.side is None) != (after.side is None):
                return words or known
            return "" if self._side(before).skeleton() == self._side(after).skeleton() else "metadata"
        except (ObjectMissingError, RemoteError) as error:
            if is_alone or not has_same_layout:  # what came, went or stayed needs no weights
                return known
            raise error if isinstance(error, RemoteError) else self._not_here(before, after) from error


def _check(side: Side, version: Version, entry: Entry | None) -> None:
    """Refuse a pointer whose lines are not those of the manifest that it names."""
    if entry is not None and not side.has(entry.name, entry.dtype, entry.shape, entry.digest):
        raise RevisionError(
            f"the pointer of '{version.path}' in {_named(version)} lists '{entry.name}' as its manifest does not",
            "take the file from another revision, or add it again",
        )


def metadata_text(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Say which texts of a file's metadata changed; nothing where none did."""
    names = sorted(before.keys() | after.keys())
    changed = [name for name in names if before.get(name) != after.get(name)]
    what = ("added" if name not in before else "removed" if name not in after else "changed" for name in changed)
    said = [f"{name:.60} {word}" for name, word in zip(changed, what, strict=True)]
    more = [f"and {len(said) - _MOST_TEXTS} more"] if len(said) > _MOST_TEXTS else []
    return f"metadata: {', '.join(said[:_MOST_TEXTS] + more)}" if said else ""


def _layout_of(version: Version) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(entry.name, entry.dtype, entry.shape) for entry in version.entries}


def _digests(version: Version) -> set[tuple[str, Digest]]:
    return {(entry.name, entry.digest) for entry in version.entries}


def _is_only_recast(measured: Measured) -> bool:
    is_recast = measured.change.kind == RECAST
    return is_recast and measured.looks is not None and measured.looks.word in ("same", "bits", "rounded")


def _named(version: Version) -> str:
    return "the " + version.where if version.where in (INDEX, WORK_TREE) else f"'{version.where or version.path}'"


def ordered(changes: Iterable[Measured], order: str, top: int | None) -> list[Measured]:
    """Return changes in an order (by name, or the largest first), at most `top` of them.

    Raises:
        UsageError: there is no such order.
    """
    if order not in ORDERS:
        raise UsageError(f"tensors cannot be sorted by '{order}'", f"--sort {'|'.join(ORDERS)}")
    rows = list(changes)
    if order != "name":
        rows.sort(key=lambda one: -_size(one, order))
    return rows if top is None else rows[:top]


def _size(one: Measured, order: str) -> float:
    entry = one.change.after or one.change.before
    if order == "size":
        return entry.raw_bytes if entry else 0
    if order == "share":
        return one.changed / one.compared if one.compared else -1.0
    if one.moments is None:  # added, removed, renamed: what has no figures is at the end
        return -1.0
    if order == "relative":
        relative = one.moments.relative
        return math.inf if relative is None else relative
    return one.moments.change_norm if order == "norm" else one.moments.largest
