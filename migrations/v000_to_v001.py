"""From the draft to the first released version: pins are written anew, and nothing else.

Other files of the draft differ in nothing but the number that they say, and are read as they are. To write them anew
would cost a store's whole length in traffic, and could not reach the most important ones: manifests are named by
digests, which stand in the history of Git. `docs/decisions/080-version-1.md`.

A pin of the draft was of a project, and left out what other pins of it listed: `docs/format/pins.md`, "From the draft".
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from thetastore.backends import Backend
from thetastore.digest import Digest, digest_of
from thetastore.errors import MalformedError
from thetastore.pins import DIRECTORY, MAX_PIN_BYTES, Pin, PinName, encode_pin

SUMMARY = "the first released version: pins are written anew, all else is read as it is"
NEEDS = "thetastore 0.1"

_OID = r"(?:[0-9a-f]{40}|[0-9a-f]{64})"
_NAME = re.compile(rf"{DIRECTORY}/({_OID})/({_OID})(?:\.shallow)?\.json")


def pending(backend: Backend) -> Iterator[str]:
    """Yield the names of pins of the draft's form."""
    yield from sorted(name for name in backend.list(DIRECTORY) if _NAME.fullmatch(name))


def convert(backend: Backend, name: str) -> None:
    """Keep alive what a pin kept, by one that nobody leans on, and delete it.

    Raises:
        MalformedError: it is no pin; what it keeps is unknown then, and nothing was changed.
    """
    try:
        content = backend.read(name) if backend.size(name) <= MAX_PIN_BYTES else b""
    except FileNotFoundError:
        return  # another upgrade was faster
    pin = _parse(content, name)
    written = PinName(pin.repository, pin.commit, "0" * 12 + str(digest_of(name.encode()))[:20], is_partial=True)
    try:
        backend.create(written.file_name, encode_pin(pin))
    except FileExistsError:
        pass  # by one that died before it deleted the old one, or works beside us
    backend.delete(name)


def _parse(content: bytes, name: str) -> Pin:
    import json

    match = _NAME.fullmatch(name)
    assert match is not None, "only what is pending is converted"
    project, commit = match[1], match[2]
    # As values, other text takes up to 30 times its length.
    most = len(content) // 42 + 1000
    try:
        if (
            len(content) > MAX_PIN_BYTES
            or content.count(b",") > most
            or content.count(b"{") + content.count(b"[") > 100
        ):
            raise ValueError("other things than manifests")  # noqa: TRY301 - all that is wrong is told in one way
        values = json.loads(content)
        said = (values["format"], values["version"], values["repository"], values["commit"])
        manifests = tuple(Digest.parse(text) for text in values["manifests"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        said, manifests = None, ()
    if said != ("theta-pin", 0, project, commit):
        raise MalformedError(f"'{name}' is no pin of the draft: set it aside, and push again from a whole clone")
    return Pin(f"draft:{project}", commit, tuple(sorted(set(manifests))), is_partial=True)
