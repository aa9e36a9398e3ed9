"""What people call a version: `PLACE/NAME@VERSION`, where PLACE is a store, and which entry of which ref that is.

A version is `v3` (or `3`), a tag, or nothing: the newest one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from thetastore.backends.urls import is_url
from thetastore.errors import MalformedError, NoSuchModelError, StoreMissingError, did_you_mean, near_names
from thetastore.ref_entries import Entry, check_ref_name
from thetastore.refs import Refs
from thetastore.store import Store

if TYPE_CHECKING:
    OptionsOf = Callable[[str], Mapping[str, object] | None]

MODELS, TAGS = "models", "tags"
VERSION_OF_TAG = "version"
"""In the metadata of a tag: the number of the entry that it was made from."""
_MOST_PARTS = 4
_MOST_SHOWN = 5


class ModelName(NamedTuple):
    """A model, and which of its versions."""

    name: str
    version: str = ""
    """As it was written; empty for the newest."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parse_name(text: str) -> ModelName:
    """Read `NAME` or `NAME@VERSION`.

    Raises:
        MalformedError: that is no name.
    """
    name, at, version = text.partition("@")
    try:
        check_ref_name(f"{TAGS}/{name}/{version or 'newest'}")
    except MalformedError:
        name = ""
    if not name or name.count("/") >= _MOST_PARTS or (at and (not version or "/" in version)):
        raise MalformedError(
            f"'{text:.200}' is no name of a model: expected NAME, NAME@v3 or NAME@TAG, where NAME has up to "
            f"{_MOST_PARTS} parts with '/' between, of letters, digits, '.', '_' and '-'"
        )
    return ModelName(name, version)


def number_of(version: str) -> int | None:
    """Return the number that `v3` or `3` says; None for a tag."""
    digits = version.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 12 else None


def version_text(number: int) -> str:
    """Return how a version is written."""
    return f"v{number}"


def find(text: str, options_of: OptionsOf = lambda place: None) -> tuple[Store, str]:
    """Open the store that a text begins with; return it, and the rest of the text, which may be empty.

    Args:
        text: `PLACE`, `PLACE/NAME` or `PLACE/NAME@VERSION`; PLACE may be left out where it is the current directory.
        options_of: gives fsspec's `storage_options` for a URL.

    Raises:
        StoreMissingError: there is no store at any of the places that the text may mean.
    """
    scheme, mark, rest = text.partition("://") if is_url(text) else ("", "", text.removeprefix("file://"))
    parts = rest.rstrip("/").split("/")
    for count in range(min(_MOST_PARTS, len(parts) - (1 if mark else 0)) + 1):
        above = "/".join(parts[: len(parts) - count])
        place = scheme + mark + above if mark else above or ("/" if rest.startswith("/") else os.curdir)
        if "@" in above.rpartition("/")[2] and (not mark or "/" in above):
            continue  # a version, which no place has in its name
        try:
            return Store.open(place, options=options_of(place)), "/".join(parts[len(parts) - count :])
        except StoreMissingError:
            continue
    raise StoreMissingError(f"there is no thetastore at '{text}', nor at one of the places above it")


def resolve(store: Store, wanted: ModelName) -> Entry:
    """Return the entry of a version, which may have been let go of.

    Raises:
        NoSuchModelError: there is no such model, or it was deleted; or it has no such version.
    """
    refs = Refs(store.backend)
    number = number_of(wanted.version)
    if wanted.version and number is None:
        number = _tagged(refs, wanted) or 0
    if number is None:
        latest = refs.latest(f"{MODELS}/{wanted.name}")
        if latest is None or latest.is_tombstone:
            raise _no_such_model(store, refs, wanted.name, latest)
        return latest
    try:
        found = refs.read(f"{MODELS}/{wanted.name}", number) if number else None
    except FileNotFoundError:
        found = None
    if found is None or found.is_tombstone:
        raise _no_such_version(store, refs, wanted)
    return found


def tags_of(refs: Refs, name: str) -> dict[str, Entry]:
    """Return the tags of a model and where each points, in the order of their names."""
    below = f"{TAGS}/{name}"
    entries = {
        ref.removeprefix(f"{below}/"): refs.latest(ref)
        for ref in refs.numbers(below)
        if "/" not in ref.removeprefix(f"{below}/")
    }
    return {tag: entry for tag, entry in sorted(entries.items()) if entry is not None and not entry.is_tombstone}


def version_of_tag(tag: Entry) -> int:
    """Return the number of the version that a tag was made from.

    Raises:
        MalformedError: it does not say.
    """
    number = number_of(tag.metadata.get(VERSION_OF_TAG, ""))
    if number is None:
        raise MalformedError(f"the tag '{tag.name.removeprefix(TAGS + '/')}' does not say of which version it is")
    return number


def _tagged(refs: Refs, wanted: ModelName) -> int | None:
    tag = refs.latest(f"{TAGS}/{wanted.name}/{wanted.version}")
    return None if tag is None or tag.is_tombstone else version_of_tag(tag)


def _no_such_model(store: Store, refs: Refs, name: str, latest: Entry | None) -> NoSuchModelError:
    if latest is not None:
        last = f"{name}@{version_text(latest.number - 1)}"
        return NoSuchModelError(
            f"the model '{name}' was deleted from '{store.url}'; until it is collected, '{last}' may still be had"
        )
    known = [ref.removeprefix(f"{MODELS}/") for ref in refs.numbers(MODELS)]
    near = near_names(name, known) or tuple(one for one in known if one.rpartition("/")[2] == name.rpartition("/")[2])
    some = f"; it has {_some(known)}" if known and not near else "" if known else "; it has no models yet"
    return NoSuchModelError(f"there is no model '{name}' in '{store.url}'{did_you_mean(near) or some}")


def _no_such_version(store: Store, refs: Refs, wanted: ModelName) -> NoSuchModelError:
    latest = refs.latest(f"{MODELS}/{wanted.name}")
    if latest is None or (latest.is_tombstone and number_of(wanted.version) is None):
        return _no_such_model(store, refs, wanted.name, latest)
    tags = list(tags_of(refs, wanted.name))
    there = f"it has {version_text(1)} to {version_text(latest.number)}" if latest.number > 1 else "it has v1"
    tagged = f" and the tags {_some(tags)}" if tags else ""
    near = did_you_mean(near_names(wanted.version, tags))
    return NoSuchModelError(
        f"'{wanted.name}' has no version '{wanted.version}' in '{store.url}': {there}{tagged}{near}"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_SHOWN])
    return shown + (f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else "")
