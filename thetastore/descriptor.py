"""What a store says of itself: that it is one, of which version, with which features, for how many writers.

Files are never replaced in a store, so while a store is upgraded there are moments without a descriptor. A record under
`upgrades/`, made before the old one is deleted, tells them from an empty place. `docs/format/store.md`, "Upgrades".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from thetastore.backends import Backend
from thetastore.errors import BackendError, MalformedError, UnsupportedError

DESCRIPTOR = "thetastore.json"
MAX_DESCRIPTOR_BYTES = 64 << 10
VERSION = 1
"""Of the stores that this thetastore reads and writes."""
NEEDS = "thetastore 0.1"
"""The first release that does."""
FEATURES: frozenset[str] = frozenset()
"""Required features that it knows."""
UPGRADES = "upgrades"
UPGRADING = "upgrading-to-"
"""A required feature that no reader knows: with the number behind it, it says that an upgrade is under way."""
_MOST_NEEDS = 80


class Descriptor(NamedTuple):
    """The values of a descriptor."""

    version: int
    required: tuple[str, ...] = ()
    """Features without which the store cannot be read."""
    optional: tuple[str, ...] = ()
    writers: str = ""
    """`many`, `one`, or empty where nobody has tried."""
    needs: str = ""
    """The oldest release that reads the store, in words for people; empty where nothing is known of it."""

    @property
    def upgrading_to(self) -> int | None:
        """The version that an upgrade under way leads to; None where there is none."""
        numbers = [name[len(UPGRADING) :] for name in self.required if name.startswith(UPGRADING)]
        return int(numbers[0]) if numbers and numbers[0].isdigit() and len(numbers[0]) < 10 else None

    def is_for_many(self, is_remote: bool) -> bool:
        """Tell whether several processes may write at once."""
        return (self.writers or ("one" if is_remote else "many")) == "many"


NEW = Descriptor(VERSION, needs=NEEDS)
"""Of a new store."""
_TEXT = (
    b'{"format": "thetastore", "version": 1, "required_features": [], "optional_features": [], '
    b'"needs": "thetastore 0.1"}\n'
)


def encode_descriptor(descriptor: Descriptor) -> bytes:
    """Return the file of a descriptor."""
    if descriptor == NEW:
        return _TEXT
    import json

    values: dict[str, Any] = {
        "format": "thetastore",
        "version": descriptor.version,
        "required_features": list(descriptor.required),
        "optional_features": list(descriptor.optional),
    }
    values |= {name: value for name, value in zip(("writers", "needs"), descriptor[3:], strict=True) if value}
    return json.dumps(values).encode() + b"\n"


def parse_descriptor(stored: bytes, url: str) -> Descriptor:
    """Read a descriptor, of whatever version.

    Raises:
        MalformedError: it is none.
    """
    if stored == _TEXT:  # the common case, without the import of json
        return NEW
    import json

    try:
        values = json.loads(stored if len(stored) <= MAX_DESCRIPTOR_BYTES else b"")
        if values["format"] != "thetastore" or type(values["version"]) is not int:
            raise ValueError("another format")  # noqa: TRY301 - all that is wrong is told in one way
        return Descriptor(
            values["version"],
            _names(values["required_features"]),
            _names(values.get("optional_features", [])),
            str(values.get("writers", "")),
            str(values.get("needs", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise MalformedError(
            f"'{url}/{DESCRIPTOR}' is not the descriptor of a thetastore; if it was one: thetastore mend {url}"
        ) from None


def _names(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("no list of names")
    return tuple(listed)


def read_descriptor(backend: Backend) -> Descriptor:
    """Return a store's descriptor, of whatever version.

    Raises:
        FileNotFoundError: there is none.
        MalformedError: there is something else in its place.
    """
    return parse_descriptor(backend.read(DESCRIPTOR, 0, MAX_DESCRIPTOR_BYTES + 1), backend.url)


def create_descriptor(backend: Backend, version: int = VERSION) -> Descriptor:
    """Make a store of a place that has none, and return what it says; a place far away is tried with some 10 MiB.

    Raises:
        BackendError: the place cannot be written to.
        MalformedError, UnsupportedError: another process was faster, and its store is none for us.
    """
    descriptor = NEW if version == VERSION else Descriptor(version)
    if backend.is_remote:
        from thetastore.backends.probe import keeps_what_is_there

        many = keeps_what_is_there(backend)
        if not many:
            backend.look_before_creating()
        descriptor = descriptor._replace(writers="many" if many else "one")
    try:
        backend.create(DESCRIPTOR, encode_descriptor(descriptor))
    except FileExistsError:
        descriptor = read_descriptor(backend)
        check_descriptor(descriptor, backend.url)
    return descriptor


def check_descriptor(descriptor: Descriptor, url: str) -> None:
    """Refuse a store that this version cannot read.

    Raises:
        UnsupportedError: it is newer, older, or being upgraded; the message says what to do.
    """
    upgrading_to = descriptor.upgrading_to
    if upgrading_to is not None:
        raise UnsupportedError(being_upgraded(url, upgrading_to))
    unknown = [name for name in descriptor.required if name not in FEATURES]
    if descriptor.version > VERSION or unknown:
        has = f"has version {descriptor.version}"
        has += f" and requires {', '.join(map(_printable, unknown[:5]))}" if unknown else ""
        needs = _printable(descriptor.needs) or "a newer thetastore"
        raise UnsupportedError(
            f"the store '{url}' {has}; this thetastore reads version {VERSION}: {needs} is needed "
            "(pip install --upgrade thetastore)"
        )
    if descriptor.version < VERSION:
        raise UnsupportedError(
            f"the store '{url}' has version {descriptor.version}; this thetastore reads version {VERSION}: "
            f"thetastore upgrade {url}"
        )


def being_upgraded(url: str, version: int) -> str:
    """Return what is said of a store whose upgrade is not complete."""
    return (
        f"the store '{url}' is being upgraded to version {version}: wait until that is done; if it was interrupted, "
        f"with a thetastore that knows version {version}: thetastore upgrade {url}"
    )


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MOST_NEEDS]


def check_nothing_is_under_way(backend: Backend) -> None:
    """Refuse a place that has no descriptor because an upgrade is about to put another one there.

    Raises:
        UnsupportedError: it is so.
    """
    try:
        versions = [name.rpartition("/")[2] for name in backend.list(UPGRADES)]
    except (BackendError, FileNotFoundError):
        return  # nobody writes where nothing is listed (http); of a bucket that is not there, others tell
    numbers = [int(version) for version in versions if version.isdigit() and len(version) < 10]
    if numbers:
        raise UnsupportedError(being_upgraded(backend.url, max(numbers)))


def check_is_still(backend: Backend, descriptor: Descriptor) -> None:
    """Refuse to make durable what was written for another version than the store now has.

    Raises:
        UnsupportedError: the store was upgraded, or is being upgraded, since it was opened.
    """
    try:
        now = read_descriptor(backend)
    except FileNotFoundError:
        check_nothing_is_under_way(backend)
        raise
    if (now.version, now.required) != (descriptor.version, descriptor.required):
        check_descriptor(now, backend.url)
        raise UnsupportedError(f"the store '{backend.url}' has changed its version since it was opened: run this again")
