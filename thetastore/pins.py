"""What says that a store has all weights of a history of somebody else's: `docs/format/pins.md` is the specification.

A collector keeps what pins name. What a commit or a repository is, the store does not know: a repository is a URL, and
a commit is a name that leans on other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from thetastore.backends import Backend, Range, announced
from thetastore.digest import Digest, digest_of
from thetastore.errors import BackendError, MalformedError, UnsupportedError

DIRECTORY = "pins"
VERSION = 1
_VERSIONS = (0, VERSION)
"""Those that are read; they differ in nothing but the number."""
MAX_PIN_BYTES = 256 << 20
MAX_URL_CHARACTERS = 4096
_OID = r"(?:[0-9a-f]{40}|[0-9a-f]{64})"
_NAME = re.compile(rf"pins/([0-9a-f]{{40}})/({_OID})\.([0-9a-f]{{32}})\.(json|partial\.json|going)")
_READ_AT_ONCE = 256
_MOST_LATE_S = 12 * 3600.0
"""A pin that was written so long after a sign of life was surely written before its session could be revoked."""
_MOST_COLLECTIONS = 3
"""So often a writer begins anew; each time takes a day without a sign of life from it."""


class PinName(NamedTuple):
    """What the names of a pin's files tell without reading them."""

    repository: str
    commit: str
    id: str
    """Of the writing: two pins of one commit are two files."""
    is_partial: bool = False
    """Whether its writer could not see the whole history, or not all of it was to be had."""
    is_going: bool = False
    """Whether it is marked to be deleted, so that nobody leans on it any more."""

    @property
    def file_name(self) -> str:
        """Name of the pin's file in the store."""
        return f"{self._stem}.{'partial.json' if self.is_partial else 'json'}"

    @property
    def mark_name(self) -> str:
        """Name of the file that marks it. Listings show it before the pin itself: see `docs/format/pins.md`."""
        return f"{self._stem}.going"

    @property
    def _stem(self) -> str:
        return f"{DIRECTORY}/{self.repository}/{self.commit}.{self.id}"


class Pin(NamedTuple):
    """A commit, and the manifests that it brought."""

    url: str
    """Where the Git repository is that has the commit, or will have it; without credentials."""
    commit: str
    manifests: tuple[Digest, ...]
    """Ascending, distinct: all that the commit reaches and those that it leans on do not."""
    leans_on: tuple[str, ...] = ()
    """Commits whose pins list the rest; ascending, distinct."""
    refs: tuple[str, ...] = ()
    """For which refs of the repository it was made, for people; ascending, distinct."""
    is_partial: bool = False
    """See `PinName`: in the name, not in the content."""
    alive_s: int | None = None
    """When, by the place's clock, its writer's session gave the last sign of life before it; None: nobody says."""

    @property
    def repository(self) -> str:
        """Name of the repository's directory."""
        return repository_of(self.url)


class Listing(NamedTuple):
    """What there is in `pins/`."""

    names: tuple[PinName, ...]
    """In order."""
    lone_marks: tuple[str, ...]
    """Marks of pins that are gone."""
    unknown: tuple[str, ...]
    """Files that are not understood."""


def is_url_of_repository(text: str) -> bool:
    """Tell whether a pin may name a repository by this text."""
    return text.isascii() and text.isprintable() and 0 < len(text) <= MAX_URL_CHARACTERS


def repository_of(url: str) -> str:
    """Return the directory of the pins of a Git repository."""
    return str(digest_of(url.encode()))[:40]


def list_pins(backend: Backend) -> Listing:
    """Return what there is in `pins/`.

    Raises:
        BackendError: the store does not answer.
    """
    marks: set[str] = set()
    names: list[PinName] = []
    unknown: list[str] = []
    for name in sorted(backend.list(DIRECTORY)):
        match = _NAME.fullmatch(name)
        if match is None:
            unknown.append(name)
        elif match[4] == "going":
            marks.add(name)
        else:
            names.append(PinName(match[1], match[2], match[3], match[4] != "json"))
    found = tuple(name._replace(is_going=name.mark_name in marks) for name in names)
    lone = marks - {name.mark_name for name in found}
    return Listing(found, tuple(sorted(lone)), tuple(unknown))


def leanable(backend: Backend, repository: str) -> set[str]:
    """Return the commits of a repository that new pins may lean on by their names: complete, and here to stay.

    Raises:
        BackendError: the store does not answer.
    """
    return _Listed(backend, repository).leanable()


class _Listed:
    """The pins of a repository that are here to stay; each is read once, and only if something rests on it."""

    def __init__(self, backend: Backend, repository: str) -> None:
        self._backend = backend
        self._by_commit: dict[str, list[PinName]] = {}
        self._read: dict[PinName, Pin | None] = {}
        for name in list_pins(backend).names:
            if name.repository == repository and not name.is_going:
                self._by_commit.setdefault(name.commit, []).append(name)

    def leanable(self) -> set[str]:
        """Return the commits of which one is not partial."""
        return {commit for commit, names in self._by_commit.items() if not all(name.is_partial for name in names)}

    def holds(self, commit: str) -> bool:
        """Tell whether a commit's history is here, and was so when the pin that says it was written."""
        return any(self._pin(name) for name in self._by_commit.get(commit, ()) if not name.is_partial)

    def has(self, pin: Pin) -> bool:
        """Tell whether another pin says the same."""
        others = map(self._pin, self._by_commit.get(pin.commit, ()))
        return any(other and other._replace(refs=pin.refs, alive_s=pin.alive_s) == pin for other in others)

    def _pin(self, name: PinName) -> Pin | None:
        """Return a pin; None if it is gone, not understood, or may have been written when all it names was gone."""
        if name not in self._read:
            try:
                pin = read_pin(self._backend, name)
                self._read[name] = None if _is_late(self._backend, name, pin) else pin
            except (FileNotFoundError, MalformedError, UnsupportedError):
                self._read[name] = None
        return self._read[name]


def _is_late(backend: Backend, name: PinName, pin: Pin) -> bool:
    """Tell whether a pin may have been written after its writer's session was revoked: nobody vouches for it then."""
    return pin.alive_s is not None and backend.written_s(name.file_name) - pin.alive_s > _MOST_LATE_S


class Guard(Protocol):
    """What keeps, for a writer of pins, what it has seen and sent: `thetastore.objects.Objects` with its session."""

    def is_vouched_for(self) -> bool:
        """Tell whether the session was honoured all the time; if not, it has begun anew."""

    def seen_alive_s(self) -> int | None:
        """Return when it gave the last sign of life, by the place's clock; None where the place does not tell."""


def pin_history(
    backend: Backend,
    repository: str,
    commits: Iterable[str],
    send: Callable[[set[str]], Iterable[Pin]],
    guard: Guard,
) -> list[Pin]:
    """Send what commits need, and pin them; return the pins once it is certain that they hold.

    Args:
        backend: of the store, in which a session has begun.
        repository: whose commits they are.
        commits: what is to be pinned.
        send: given the commits that pins may lean on, makes all durable that is missing, and returns the pins: of all
            the commits that are not among these, and of what else it needs.
        guard: the session.

    Raises:
        BackendError: the store refused; or this process slept for days, again and again.
    """
    wanted = set(commits)
    written: list[Pin] = []
    for _ in range(_MOST_COLLECTIONS + 1):
        listed = _Listed(backend, repository)  # each time: one may have been marked while this process slept
        new = [pin for pin in _sent(listed, wanted, send, {pin.commit for pin in written}) if not listed.has(pin)]
        if new and not guard.is_vouched_for():
            continue
        alive_s = guard.seen_alive_s() if new else None
        for pin in new:
            written.append(pin._replace(alive_s=alive_s))
            write_pin(backend, written[-1])
        if guard.is_vouched_for():
            return written
    import errno

    words = "was collected again and again while this process slept, and may not have everything"
    raise BackendError(errno.ETIMEDOUT, words, backend.url)


def _sent(listed: _Listed, wanted: set[str], send: Callable[[set[str]], Iterable[Pin]], own: set[str]) -> list[Pin]:
    """Send, and look whether what was left out is here: so often that nothing is left out for a pin that is late.

    Args:
        listed: the pins of others.
        wanted: commits to pin.
        send: see `pin_history`.
        own: commits whose pins this process has written itself, and which nobody has vouched for.
    """
    leanable = listed.leanable() - own
    while True:
        pins = list(send(leanable))
        relied_on = wanted.union(*(pin.leans_on for pin in pins)).difference(pin.commit for pin in pins)
        doubtful = {commit for commit in relied_on & leanable if not listed.holds(commit)}
        if not doubtful:
            return pins
        leanable = leanable - doubtful


def write_pin(backend: Backend, pin: Pin) -> PinName:
    """Write a pin, under a name that nobody has used; return it.

    Raises:
        BackendError: the store refused.
    """
    from thetastore.packs.writer import new_id

    name = PinName(pin.repository, pin.commit, new_id(), pin.is_partial)
    try:
        backend.create(name.file_name, encode_pin(pin))
    except FileExistsError:
        pass  # somebody on the way has repeated the request: nobody else has this id
    return name


def read_pin(backend: Backend, name: PinName) -> Pin:
    """Read and check a pin.

    Raises:
        FileNotFoundError: it is gone.
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    nbytes = backend.open(name.file_name).size()
    if nbytes > MAX_PIN_BYTES:
        raise MalformedError(f"the pin '{name.file_name}' is longer than {MAX_PIN_BYTES} bytes")
    return parse_pin(backend.read(name.file_name, 0, nbytes), name)


def read_pins(backend: Backend, names: Iterable[PinName]) -> Iterator[tuple[PinName, Pin]]:
    """Yield pins that were listed, in their order. Raises as `read_pin` does."""

    def range_of(name: PinName) -> Range:
        return Range(name.file_name, 0, backend.open(name.file_name).size())

    for name in announced(backend, names, range_of, _READ_AT_ONCE):
        yield name, read_pin(backend, name)


def encode_pin(pin: Pin) -> bytes:
    """Return the content of a pin."""
    import json

    values: dict[str, object] = {
        "format": "theta-pin",
        "version": VERSION,
        "url": pin.url,
        "commit": pin.commit,
        "refs": sorted(set(pin.refs)),
        "leans_on": sorted(set(pin.leans_on)),
        "manifests": [str(digest) for digest in sorted(set(pin.manifests))],
    }
    if pin.alive_s is not None:
        values["alive_s"] = pin.alive_s
    return json.dumps(values).encode() + b"\n"


def parse_pin(content: bytes, name: PinName) -> Pin:
    """Return the pin that a file holds.

    Raises:
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    import json

    where = f"the pin of commit '{name.commit}'"
    # As values, other text takes up to 30 times its length: 7 GB for the longest pin. Manifests take 68 bytes each,
    # commits 44; a ref takes more than a few.
    most = len(content) // 42 + 1000
    if content.count(b",") > most or content.count(b'"') > 2 * most or content.count(b"{") + content.count(b"[") > 100:
        raise MalformedError(f"{where} holds other things than manifests")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise MalformedError(f"{where} is not JSON") from None
    if not isinstance(values, dict) or values.get("format") != "theta-pin":
        raise MalformedError(f"{where} is not a pin: its format is another")
    version = values.get("version")
    if type(version) is not int or version not in _VERSIONS:
        raise UnsupportedError(
            f"{where} has version {version!r}, this thetastore reads version {VERSION}: a newer one is needed "
            "(pip install --upgrade thetastore)"
        )
    url = values.get("url")
    if not isinstance(url, str) or not is_url_of_repository(url):
        raise MalformedError(f"{where} does not say where its repository is")
    if (repository_of(url), values.get("commit")) != (name.repository, name.commit):
        raise MalformedError(f"{where} speaks of another commit or repository than its name")
    leans_on = _ascending(values.get("leans_on"), f"{where}: what it leans on")
    if not all(re.fullmatch(_OID, commit) for commit in leans_on) or name.commit in leans_on:
        raise MalformedError(f"{where} leans on what is no other commit")
    manifests = tuple(map(Digest.parse, _ascending(values.get("manifests"), f"{where}: its manifests")))
    refs = _ascending(values.get("refs"), f"{where}: its refs")
    alive_s = values.get("alive_s")
    if alive_s is not None and type(alive_s) is not int:
        raise MalformedError(f"{where}: the time at which its writer was alive is no whole number")
    return Pin(url, name.commit, manifests, leans_on, refs, name.is_partial, alive_s)


def _ascending(values: object, what: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise MalformedError(f"{what} are not a list of texts")
    if values != sorted(set(values)):
        raise MalformedError(f"{what} are not in order, or twice there")
    return tuple(values)
