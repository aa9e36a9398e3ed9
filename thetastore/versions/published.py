"""Versions that a publisher has made: whole ones, and those that are there only as the difference from the one before.

What the metadata of their entries says is specified in `docs/format/weight-differences.md`.
"""

from __future__ import annotations

from thetastore.errors import UnsupportedError
from thetastore.ref_entries import Entry
from thetastore.versions.names import MODELS, number_of, version_text

KIND, ANCHOR_NUMBER = "publication", "anchor"
"""Keys of an entry's metadata."""
ANCHOR, DIFFERENCE = "anchor", "difference"


def is_difference(entry: Entry) -> bool:
    """Tell whether an entry is there only as a difference from the one before."""
    return entry.metadata.get(KIND) == DIFFERENCE


def anchor_of(entry: Entry) -> int | None:
    """Return the number of the newest whole version up to an entry; None where it does not say."""
    number = number_of(entry.metadata.get(ANCHOR_NUMBER, ""))
    return number if number is not None and number <= entry.number else None


def refuse_difference(entry: Entry) -> None:
    """Refuse a version that cannot be had by itself.

    Raises:
        UnsupportedError: it is a difference; names the whole version before it.
    """
    if is_difference(entry):
        name = entry.name.removeprefix(f"{MODELS}/")
        raise UnsupportedError(
            f"'{name}@{version_text(entry.number)}' is there as the difference from the version before: follow it with "
            f"thetastore.subscribe, or take the whole version '{name}@{version_text(anchor_of(entry) or 1)}'"
        )
