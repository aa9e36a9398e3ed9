"""What an entry of a ref says, and which names there are: `docs/format/refs.md`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from thetastore.digest import Digest, digest_of
from thetastore.errors import MalformedError, UnsupportedError

T = TypeVar("T")

VERSION = 1
_VERSIONS = (0, VERSION)
"""Those that are read; they differ in nothing but the number, and entries are never written anew."""
MAX_ENTRY_BYTES = 16 << 20
MAX_FILES = 100_000
_MOST_BRACKETS = 100_000
"""In a message, and for what a later version may add."""
MAX_MESSAGE_LENGTH = 1 << 16
MAX_NAME_LENGTH = 400
NUMBER_DIGITS = 12
_MAX_PARTS, _MAX_PART_LENGTH, _MAX_PATH_BYTES = 6, 128, 4096
_DIGITS = frozenset("0123456789")
_HEXADECIMAL = frozenset("0123456789abcdef")
_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_OTHERS = _FIRST | frozenset(".-")


class RefFile(NamedTuple):
    """A file of a version."""

    path: str
    """Where it goes, below the directory that a model is written to."""
    file_bytes: int
    manifest_digest: Digest


class Draft(NamedTuple):
    """What a writer decides of an entry."""

    files: tuple[RefFile, ...]
    """None: the entry keeps nothing itself."""
    message: str = ""
    author: str = ""
    metadata: Mapping[str, str] = {}
    oldest: int | None = None
    """From this number on files are wanted; None for what was so before. It never becomes less."""
    is_tombstone: bool = False
    """Whether the ref is deleted: then there are no files, and nothing is wanted any more."""


class Entry(NamedTuple):
    """One number of a ref."""

    name: str
    number: int
    write_id: str
    """Tells entries of the same content apart: who created this one."""
    oldest: int
    time_ms: int
    """Since 1970, by the clock of the writer."""
    author: str
    message: str
    files: tuple[RefFile, ...]
    metadata: Mapping[str, str]

    @property
    def is_tombstone(self) -> bool:
        """Whether the ref is deleted here."""
        return self.oldest > self.number

    @property
    def file_bytes(self) -> int:
        """Length of all files together."""
        return sum(file.file_bytes for file in self.files)


def next_entry(name: str, before: Entry | None, draft: Draft) -> Entry:
    """Return the entry that comes next."""
    number = before.number + 1 if before else 1
    least = before.oldest if before else 1
    wanted = number + 1 if draft.is_tombstone else max(least, draft.oldest or 1)
    files = () if draft.is_tombstone else tuple(sorted(draft.files))
    write_id = os.urandom(16).hex()
    now_ms = time.time_ns() // 1_000_000
    entry = Entry(name, number, write_id, wanted, now_ms, draft.author, draft.message, files, dict(draft.metadata))
    return _checked(entry, f"a new entry of '{name}'")


def check_ref_name(name: str) -> None:
    """Refuse what is not the name of a ref, or of the first parts of some.

    Raises:
        MalformedError: it could lead out of the store, or be taken for another.
    """
    parts = name.split("/")
    if len(name) > MAX_NAME_LENGTH or len(parts) > _MAX_PARTS or not all(map(_is_part, parts)):
        raise MalformedError(
            f"'{name[:MAX_NAME_LENGTH]}' is no name: it has at most {_MAX_PARTS} parts with '/' between, of letters, "
            "digits, '.', '_' and '-', which begin with a letter, a digit or '_', and are not 12 digits"
        )


def _is_part(part: str) -> bool:
    return (
        0 < len(part) <= _MAX_PART_LENGTH
        and part[0] in _FIRST
        and _OTHERS.issuperset(part)
        and not (len(part) == NUMBER_DIGITS and _DIGITS.issuperset(part))
    )


def check_path(path: str) -> None:
    """Refuse what is not the path of a file below a directory that a model is written to.

    Raises:
        MalformedError: it could lead out of the directory, or be no name on some system.
    """
    encoded = path.encode("utf-8", "surrogatepass")
    is_sound = len(encoded) <= _MAX_PATH_BYTES and path.isprintable() and "\\" not in path
    for part in encoded.split(b"/"):
        is_sound = is_sound and 0 < len(part) <= 255 and part not in (b".", b"..")
    if not is_sound:
        raise MalformedError(f"{path[:200]!a} is not a path that a file can be written to")


def encode_entry(entry: Entry) -> bytes:
    """Return the file of an entry."""
    import json

    values = {
        "format": "theta-ref",
        "version": VERSION,
        **entry._asdict(),
        "files": [{"path": path, "bytes": size, "manifest": str(digest)} for path, size, digest in entry.files],
        "metadata": dict(sorted(entry.metadata.items())),
    }
    line = json.dumps(values).encode() + b"\n"
    encoded = line + f"{digest_of(line)}\n".encode()
    if len(encoded) > MAX_ENTRY_BYTES:
        raise MalformedError(f"an entry of '{entry.name}' has {len(encoded)} bytes: {MAX_ENTRY_BYTES} are allowed")
    return encoded


def parse_entry(encoded: bytes, name: str, number: int) -> Entry:
    """Return the entry that a file holds.

    Raises:
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    import json

    where = f"entry {number} of the ref '{name}'"
    line, newline, rest = encoded[: MAX_ENTRY_BYTES + 1].partition(b"\n")
    if len(encoded) > MAX_ENTRY_BYTES or rest != f"{digest_of(line + newline)}\n".encode():
        raise MalformedError(f"{where} is damaged: it does not have the digest that it says")
    # As values, other text takes up to 30 times its length.
    if line.count(b"{") > MAX_FILES + _MOST_BRACKETS or line.count(b"[") > _MOST_BRACKETS:
        raise MalformedError(f"{where} holds more than {MAX_FILES} files")
    try:
        values = json.loads(line)
        if values["format"] != "theta-ref":
            raise MalformedError(f"{where} is not an entry of a ref: its format is another")
        version = values["version"]
        if type(version) is not int or version not in _VERSIONS:
            raise UnsupportedError(
                f"{where} has version {version!r}, this thetastore reads version {VERSION}: a newer one is needed "
                "(pip install --upgrade thetastore)"
            )
        entry = _from_values(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"{where} lacks something, or has it of another type") from None
    if (entry.name, entry.number) != (name, number):
        raise MalformedError(f"{where} says that it is entry {entry.number} of '{entry.name[:80]}'")
    return _checked(entry, where)


def _from_values(values: dict[str, Any]) -> Entry:
    files = tuple(
        RefFile(_typed(file["path"], str), _typed(file["bytes"], int), Digest.parse(_typed(file["manifest"], str)))
        for file in _typed(values["files"], list)
    )
    texts = {_typed(name, str): _typed(text, str) for name, text in values["metadata"].items()}
    return Entry(
        name=_typed(values["name"], str),
        number=_typed(values["number"], int),
        write_id=_typed(values["write_id"], str),
        oldest=_typed(values["oldest"], int),
        time_ms=_typed(values["time_ms"], int),
        author=_typed(values["author"], str),
        message=_typed(values["message"], str),
        files=files,
        metadata=texts,
    )


def _typed(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


def _checked(entry: Entry, where: str) -> Entry:
    """Return an entry that keeps the rules. Raises `MalformedError` for others."""
    if not 0 < entry.number < 10**NUMBER_DIGITS or not 0 < entry.oldest <= entry.number + 1:
        raise MalformedError(f"{where} keeps what is older than {entry.oldest}")
    if len(entry.write_id) != 32 or not _HEXADECIMAL.issuperset(entry.write_id):
        raise MalformedError(f"{where} has no write id")
    if len(entry.message) > MAX_MESSAGE_LENGTH or len(entry.author) > MAX_NAME_LENGTH:
        raise MalformedError(
            f"{where} has a message of {len(entry.message)} characters: {MAX_MESSAGE_LENGTH} are allowed"
        )
    _check_files(entry.files, where)
    return entry


def _check_files(files: tuple[RefFile, ...], where: str) -> None:
    if len(files) > MAX_FILES:
        raise MalformedError(f"{where} has {len(files)} files: {MAX_FILES} are allowed")
    paths = [file.path for file in files]
    known = set(paths)
    if len(known) != len(paths) or paths != sorted(paths) or any(file.file_bytes < 0 for file in files):
        raise MalformedError(f"{where} has its files out of order, or one of them twice")
    for path in paths:
        check_path(path)
        parts = path.split("/")
        above = known.intersection("/".join(parts[:length]) for length in range(1, len(parts)))
        if above:
            raise MalformedError(f"{where} has a file below {above.pop()!a}, which is a file itself")
