"""Small files that a store keeps beside manifests, and that go when these are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.backends import Backend
from thetastore.collecting.tables import has, words_of
from thetastore.digest import Digest
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from thetastore.collecting.tables import Words

_DIRECTORIES = ("families", "recipes", "locators")
"""Their files have the digest of a manifest in a part of their names."""


def delete_sidecars(backend: Backend, there: Words, before_s: float) -> int:
    """Delete what belongs to manifests that are not in the store any more; return how many files that were.

    Args:
        backend: of the store.
        there: words, ascending, of all objects of the store.
        before_s: what was written later, by the place's clock, may belong to a manifest that is not counted yet.
    """
    count = 0
    for directory in _DIRECTORIES:
        for name in list(backend.list(directory)):
            digest = _digest_in(name)
            if digest is None or has(there, words_of([digest])).any():
                continue
            try:
                if backend.written_s(name) < before_s:
                    backend.delete(name)
                    count += 1
            except FileNotFoundError:
                continue
    return count


def _digest_in(name: str) -> Digest | None:
    """Return the manifest's digest in a file name; None where there is none.

    Names are `families/<key>/<id>-<manifest>`, `recipes/<manifest>/<digest>`, `locators/<manifest>` and longer.
    """
    for part in name.split("/")[1:]:
        try:
            return Digest.parse(part.rpartition("-")[2].partition(".")[0])
        except MalformedError:
            continue
    return None
