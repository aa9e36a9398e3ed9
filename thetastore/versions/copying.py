"""Versions from one store to another: one of them (`copy_version`), or all refs as they are (`sync`).

Objects go first, and are durable before the entry that names them is written; what the other store has is not sent.
So either may be interrupted anywhere, and goes on where it was when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from thetastore.digest import Digest
from thetastore.errors import MalformedError, NoSuchModelError, ObjectMissingError
from thetastore.ref_entries import Draft, Entry
from thetastore.refs import Refs
from thetastore.store import Store
from thetastore.versions.history import Put, Versions
from thetastore.versions.names import MODELS, TAGS, ModelName, parse_name, resolve, version_of_tag, version_text
from thetastore.versions.published import refuse_difference

Report = Callable[[int, int], None]
COPIED_FROM = "copied_from"


class Copied(NamedTuple):
    """What was sent."""

    object_count: int = 0
    stored_bytes: int = 0

    def plus(self, other: Copied) -> Copied:
        """Return both together."""
        return Copied(self.object_count + other.object_count, self.stored_bytes + other.stored_bytes)


class SyncedRef(NamedTuple):
    """What became of one ref."""

    name: str
    """With its first part: `models/org/bert`."""
    new_numbers: range
    """Those that were (or, on a dry run, would be) written."""
    differs_at: int | None = None
    """The first number that the two stores have different entries for; then nothing was written. Of a tag that names a
    version which the other store has another one for: the number of that version."""


class Synced(NamedTuple):
    """What became of all refs."""

    refs: list[SyncedRef]
    copied: Copied


def copy_version(
    source: Store, wanted: ModelName, target: Store, name: str, draft: Draft | None = None, report: Report | None = None
) -> tuple[Put, Copied]:
    """Copy a version to another store (or in the same one), as the next version of a model there.

    Args:
        source: where it is.
        wanted: the version.
        target: where it goes.
        name: of the model there.
        draft: message and author; None for those of the version.
        report: called with the objects and stored bytes sent so far.

    Raises:
        NoSuchModelError: there is no such version.
        UnsupportedError: it is there only as a difference.
        ObjectMissingError, ObjectCorruptError: it cannot be read; there is no new version then.
    """
    parse_name(name)
    entry = resolve(source, wanted)
    refuse_difference(entry)
    came_from = {COPIED_FROM: f"{source.url}/{wanted.name}@{version_text(entry.number)}"}
    words = draft or Draft((), entry.message, entry.author)
    versions = Versions(target)
    with versions.session():
        copied = _send(source, target, [entry], report)
        put = versions.append_files(name, entry.files, words._replace(metadata={**entry.metadata, **came_from}))
    return put, copied


def sync(
    source: Store,
    target: Store,
    models: Sequence[str] = (),
    is_dry_run: bool = False,
    report: Report | None = None,
    each: Callable[[SyncedRef], None] | None = None,
) -> Synced:
    """Make the refs of a store, with all versions that are wanted, be in another one, number for number.

    Refs for which the other store has entries of its own are left alone, and said so; so are tags of versions that are
    others there.

    Args:
        source: where they are.
        target: where they go.
        models: only these models, with their tags; none for all refs.
        is_dry_run: look only.
        report: called with the objects and stored bytes sent so far for a ref.
        each: called after each ref.

    Raises:
        NoSuchModelError: there is no such model.
        ObjectMissingError, ObjectCorruptError: a version cannot be read; the refs before it are done.
    """
    ours, theirs = Refs(source.backend), Refs(target.backend)
    numbers, there = ours.numbers(), theirs.numbers()
    chosen = _chosen(list(numbers), models, source.url)
    done = Synced([], Copied())
    others: dict[str, int] = {}
    with nullcontext() if is_dry_run else Versions(target).session():
        for name in sorted(chosen, key=lambda name: (not name.startswith(f"{MODELS}/"), name)):
            latest = ours.latest(name)
            if latest is None:
                continue  # only numbers above a missing one
            if _names_another(latest, others):
                made, copied = SyncedRef(name, range(0), version_of_tag(latest)), Copied()
            else:
                made, copied = _sync_ref(ours, theirs, latest, there.get(name, []), source, target, is_dry_run, report)
            if made.differs_at is not None and name.startswith(f"{MODELS}/"):
                others[name.removeprefix(f"{MODELS}/")] = made.differs_at
            done = Synced([*done.refs, made], done.copied.plus(copied))
            if each:
                each(made)
    return done


def _chosen(names: list[str], models: Sequence[str], place: str) -> list[str]:
    if not models:
        return names
    for model in models:
        parse_name(model)
        if f"{MODELS}/{model}" not in names:
            raise NoSuchModelError(f"there is no model '{model}' in '{place}'")
    wanted = {f"{MODELS}/{model}" for model in models}
    return [name for name in names if name in wanted or (name.startswith(f"{TAGS}/") and _model_of(name) in models)]


def _model_of(tag: str) -> str:
    return tag.removeprefix(f"{TAGS}/").rpartition("/")[0]


def _names_another(latest: Entry, others: Mapping[str, int]) -> bool:
    """Tell whether a ref is a tag that would name another version in the other store.

    Args:
        latest: entry of the ref.
        others: the models that differ there, and from which number on.
    """
    if not latest.name.startswith(f"{TAGS}/") or latest.is_tombstone:
        return False
    model = _model_of(latest.name)
    return model in others and version_of_tag(latest) >= others[model]


def _sync_ref(
    ours: Refs,
    theirs: Refs,
    latest: Entry,
    there: list[int],
    source: Store,
    target: Store,
    is_dry_run: bool,
    report: Report | None,
) -> tuple[SyncedRef, Copied]:
    name = latest.name
    common = [number for number in there if number <= latest.number]
    # The newest that both have tells for all before it: a writer of the next one has read it.
    if there and (len(common) < len(there) or _write_id(ours, name, common[-1]) != _write_id(theirs, name, common[-1])):
        return _diverged(ours, theirs, name, there, latest.number), Copied()
    new = range((common[-1] if common else 0) + 1, latest.number + 1)
    if is_dry_run or not new:
        return SyncedRef(name, new), Copied()
    entries = [ours.read(name, number) for number in new]
    copied = _send(source, target, [entry for entry in entries if entry.number >= latest.oldest], report)
    for entry in entries:
        if not theirs.mirror(entry):
            return SyncedRef(name, range(new.start, entry.number), entry.number), copied
    if not target.objects.is_vouched_for():
        kept = [file.manifest_digest for entry in entries if entry.number >= latest.oldest for file in entry.files]
        for _, digest in target.missing_objects(kept):
            raise ObjectMissingError(str(digest), target.url)
    return SyncedRef(name, new), copied


def _diverged(ours: Refs, theirs: Refs, name: str, there: list[int], latest: int) -> SyncedRef:
    for number in there:
        if number > latest or _write_id(ours, name, number) != _write_id(theirs, name, number):
            return SyncedRef(name, range(0), number)
    raise AssertionError("they differ somewhere")


def _write_id(refs: Refs, name: str, number: int) -> str:
    try:
        return refs.read(name, number).write_id
    except FileNotFoundError:
        raise MalformedError(f"entry {number} of the ref '{name}' is missing") from None


def _send(source: Store, target: Store, entries: Sequence[Entry], report: Report | None) -> Copied:
    """Send what some versions need; all of it is durable when this returns."""
    wanted: list[Digest] = list(dict.fromkeys(file.manifest_digest for entry in entries for file in entry.files))
    if not wanted:
        return Copied()
    sent = source.send_to(target, wanted, report)
    return Copied(sent.object_count, sent.stored_bytes)
