"""How a merged file came to be, kept in its store beside it: `docs/format/recipes.md`.

A merge's recipe cannot be in the pointer, which is a function of the file's bytes. It is a small file of its own, under
the manifest's digest, that is sent along with it. It explains; nothing is ever read from it to make bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thetastore.backends import Backend
from thetastore.digest import Digest, digest_of

DIRECTORY = "recipes"
MAX_RECORD_BYTES = 1 << 20
_MOST = 8
"""Records of one manifest: the same bytes may be reached in several ways, but nobody reads dozens."""


def put_record(backend: Backend, manifest: Digest, record: dict[str, Any]) -> str | None:
    """Keep how a file came to be; return the record's name, None where it is too long or there are enough.

    Raises:
        BackendError: the store cannot be written.
    """
    import json

    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    if len(text) > MAX_RECORD_BYTES or len(list(backend.list(f"{DIRECTORY}/{manifest}"))) >= _MOST:
        return None
    name = f"{DIRECTORY}/{manifest}/{digest_of(text)}"
    _create(backend, name, text)
    return name


def records_of(backend: Backend, manifest: Digest) -> list[dict[str, Any]]:
    """Return what is known of how a file came to be; what is damaged is left out."""
    import json

    found = []
    for name in sorted(backend.list(f"{DIRECTORY}/{manifest}"))[:_MOST]:
        try:
            record = json.loads(_sound(backend, name) or b"")
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def send_records(source: Backend, target: Backend, manifests: Iterable[Digest]) -> None:
    """Copy the records of some files to another store; there are none of most."""
    wanted = {str(manifest) for manifest in manifests}
    for name in source.list(DIRECTORY):
        if name.split("/")[1] in wanted:
            text = _sound(source, name)
            if text is not None:
                _create(target, name, text)


def _sound(backend: Backend, name: str) -> bytes | None:
    """Return a record's bytes; None if they are not those that its name says."""
    text = backend.read(name, 0, MAX_RECORD_BYTES + 1)
    is_sound = len(text) <= MAX_RECORD_BYTES and str(digest_of(text)) == name.rpartition("/")[2]
    return text if is_sound else None


def _create(backend: Backend, name: str, text: bytes) -> None:
    try:
        backend.create(name, text)
    except FileExistsError:
        pass
