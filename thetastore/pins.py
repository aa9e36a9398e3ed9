"""What says that a store has all weights of a history of somebody else's: `docs/format/pins.md` is the specification.

A collector keeps what pins name. What a commit or a repository is, the store does not know: they are two names here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.errors import MalformedError, UnsupportedError

DIRECTORY = "pins"
VERSION = 0
MAX_PIN_BYTES = 256 << 20
_NAME = re.compile(r"pins/((?:[0-9a-f]{40}|[0-9a-f]{64}))/((?:[0-9a-f]{40}|[0-9a-f]{64}))(\.shallow)?\.json")


class Pin(NamedTuple):
    """A commit, and the manifests that it brought."""

    repository: str
    commit: str
    whole_history: bool
    """Whether `manifests` is all that the commit reaches, not only what earlier pins lack."""
    manifests: tuple[Digest, ...]
    """Ascending, distinct."""
    is_shallow: bool = False
    """Whether the writer could not see the whole history; in the name, not in the content."""

    @property
    def name(self) -> str:
        """Name of the pin's file in the store."""
        return f"pins/{self.repository}/{self.commit}{'.shallow' if self.is_shallow else ''}.json"


class PinName(NamedTuple):
    """What the name of a pin tells without reading it."""

    repository: str
    commit: str
    is_shallow: bool


def pin_names(backend: Backend) -> list[PinName]:
    """Return the pins of a store; files of other names are none of ours."""
    matches = (_NAME.fullmatch(name) for name in backend.list(DIRECTORY))
    return sorted(PinName(match[1], match[2], match[3] is not None) for match in matches if match)


def write_pin(backend: Backend, pin: Pin) -> bool:
    """Write a pin; False if there is one of this name already, which says the same.

    Raises:
        BackendError: the store refused.
    """
    try:
        backend.create(pin.name, encode_pin(pin))
    except FileExistsError:
        return False
    return True


def read_pin(backend: Backend, name: PinName) -> Pin:
    """Read and check a pin.

    Raises:
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    file_name = Pin(name.repository, name.commit, False, (), name.is_shallow).name
    if backend.size(file_name) > MAX_PIN_BYTES:
        raise MalformedError(f"the pin '{file_name}' is longer than {MAX_PIN_BYTES} bytes")
    return parse_pin(backend.read(file_name), name)


def encode_pin(pin: Pin) -> bytes:
    """Return the content of a pin."""
    import json

    values = {
        "format": "theta-pin",
        "version": VERSION,
        "repository": pin.repository,
        "commit": pin.commit,
        "whole_history": pin.whole_history,
        "manifests": [str(digest) for digest in sorted(set(pin.manifests))],
    }
    return json.dumps(values).encode() + b"\n"


def parse_pin(content: bytes, name: PinName) -> Pin:
    """Return the pin that a file holds.

    Raises:
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    import json

    where = f"the pin of commit '{name.commit}'"
    # As values, other text takes up to 30 times its length: 7 GB for the longest pin. Manifests take 68 bytes each.
    most = len(content) // 66 + 100
    if content.count(b",") > most or content.count(b'"') > 2 * most or content.count(b"{") + content.count(b"[") > 100:
        raise MalformedError(f"{where} holds other things than manifests")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedError(f"{where} is not JSON") from None
    if not isinstance(values, dict) or values.get("format") != "theta-pin":
        raise MalformedError(f"{where} is not a pin: its format is another")
    if values.get("version") != VERSION:
        raise UnsupportedError(f"{where} has version {values.get('version')!r}, this version reads 0: update it")
    if (values.get("repository"), values.get("commit")) != (name.repository, name.commit):
        raise MalformedError(f"{where} speaks of another commit or repository than its name")
    texts, whole_history = values.get("manifests"), values.get("whole_history")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise MalformedError(f"{where} does not list manifests")
    if not isinstance(whole_history, bool) or sorted(set(texts)) != texts:
        raise MalformedError(f"{where} lists manifests out of order, or does not say 'whole_history'")
    manifests = tuple(Digest.parse(text) for text in texts)
    return Pin(name.repository, name.commit, whole_history, manifests, name.is_shallow)
