"""The errors of the store, shaped by what a handler would do.

    ThetaError
    ├── MalformedError(ValueError)      bytes are not what their format says: nothing was taken from them
    │   └── NotThisFormat               a format plug-in declines a file; the file is kept as opaque bytes
    ├── ObjectCorruptError              stored bytes do not decode to their digest: repair or fetch again
    ├── ObjectMissingError(KeyError)    no representation of a digest is in the store: fetch it
    ├── NoSuchTensorError(KeyError)     a file has no tensor of this name: the message has near ones
    ├── NoSuchModelError(KeyError)      a store has no such model, or the model no such version: the message has others
    ├── OutOfRangeError(IndexError)     a part of a tensor was asked for that it does not have
    ├── StoreMissingError(FileNotFoundError)  there is no store at this place: create it, or mend the URL
    ├── UnsupportedError                written by a newer version, or by a plug-in that is not installed
    │   └── PackageMissingError(ImportError)  a package that only some need is not installed: the message says how
    ├── HintedError                     keeps the way out apart: `MergeError`, `UpdateError`, all of the bridge's
    └── BackendError(OSError)           the place where files live said no: full disk, permission, network
        └── FileUnreadableError         of one file, and not of others: a failing disk, or whose file it is

Every class has a stable `code` for programs; codes are appended, never reused. A bug of ours is an
assertion, not one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ThetaError(Exception):
    """Base of every error that the store or the bridge raises on purpose."""

    code = "theta"


class HintedError(ThetaError):
    """Base of errors that keep the way out apart from what is wrong."""

    code = "hinted"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        """What is wrong: lower case, no full stop."""
        self.hint = hint
        """The way out, preferably a command that can be pasted; empty where there is none."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class MalformedError(ThetaError, ValueError):
    """Bytes break the rules of their format: truncated, out of range, wrong magic, wrong checksum."""

    code = "malformed"


class NotThisFormat(MalformedError):  # noqa: N818 - an answer to a question, not a failure
    """A format plug-in declines a file: it is malformed, hostile or simply something else."""

    code = "not-this-format"


class ObjectCorruptError(ThetaError):
    """What is stored for a digest cannot be turned into bytes with that digest."""

    code = "object-corrupt"

    def __init__(self, digest: str, place: str, reason: str) -> None:
        super().__init__(digest, place, reason)
        self.digest = digest
        """Hexadecimal digest of the object."""
        self.place = place
        """Name of the file, in the store, that holds the damaged representation."""
        self.reason = reason
        self.tensor: str | None = None
        """Name of a tensor that needs the object, where the reader knew it."""
        self.remedy = ""
        """The command that mends it, where the reader knew of which store it is."""

    @property
    def message(self) -> str:
        """What is wrong, without the remedy."""
        return f"object '{self.digest[:16]}…'{_of(self.tensor)} is corrupt: in '{self.place}' {self.reason}"

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ObjectMissingError(ThetaError, KeyError):
    """No representation of a digest is in the store."""

    code = "object-missing"

    def __init__(self, digest: str, store: str) -> None:
        super().__init__(digest, store)
        self.digest = digest
        """Hexadecimal digest of the object."""
        self.store = store
        """Where it was looked for."""
        self.tensor: str | None = None
        """Name of a tensor that needs the object, where the reader knew it."""

    def __str__(self) -> str:
        return f"object '{self.digest[:16]}…'{_of(self.tensor)} is not in the store '{self.store}'"


def _of(tensor: str | None) -> str:
    return f" of tensor '{tensor}'" if tensor else ""


class NoSuchTensorError(ThetaError, KeyError):
    """A file has no tensor of a name, or none that a pattern matches."""

    code = "no-such-tensor"

    def __init__(self, name: str, names: Sequence[str] = (), is_pattern: bool = False) -> None:
        near = _near_pattern(name, names) if is_pattern else near_names(name, names)
        super().__init__(name, near)
        self.name = name
        """What was asked for."""
        self.near = near
        """At most three names that are there and look like it."""
        self.is_pattern = is_pattern
        """Whether any of many names would have done."""
        others = f"there are {len(names)}, such as" if len(names) > 1 else "the only one is"
        self._others = "" if near or not names else f"; {others} '{min(names)}'"

    def __str__(self) -> str:
        if not self.is_pattern:
            return f"there is no tensor '{self.name}'{did_you_mean(self.near)}{self._others}"
        shown = ", ".join(f"'{one}'" for one in self.near)
        return f"no tensor matches '{self.name}'" + (f"; near names: {shown}" if shown else self._others)

    def __reduce__(self) -> tuple[type[NoSuchTensorError], tuple[str, Sequence[str], bool], dict[str, str]]:
        return NoSuchTensorError, (self.name, self.near, self.is_pattern), {"_others": self._others}


_MOST_COMPARED = 20_000


def near_names(name: str, names: Sequence[str], most: int = 3, likeness: float = 0.6) -> tuple[str, ...]:
    """Return the names that were probably meant, the nearest first; `likeness` is of 0 to 1, as difflib has it."""
    from difflib import get_close_matches

    last = name.rpartition(".")[2]
    compared = names if len(names) <= _MOST_COMPARED else [other for other in names if other.endswith(last)]
    return tuple(get_close_matches(name, compared[:_MOST_COMPARED], most, likeness))


def _near_pattern(pattern: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return names with a part that looks like what a glob or a regular expression spells out at most."""
    import re

    spelled = max(re.split(r"[^\w.]+", pattern.replace("\\", "")), key=len).strip(".")
    if not spelled:
        return ()
    compared = names[:_MOST_COMPARED]
    if not any(spelled in name for name in compared):
        length = spelled.count(".") + 1
        parts = {part for name in compared for part in _runs(name, length)}
        parts |= {part[: len(spelled)] for part in parts}
        spelled = next(iter(near_names(spelled, sorted(parts), 1)), "")
    return tuple(name for name in compared if spelled and spelled in name)[:3]


def _runs(name: str, length: int) -> Iterator[str]:
    """Yield what so many parts of a dotted name, one after the other, are together."""
    parts = name.split(".")
    return (".".join(parts[at : at + length]) for at in range(len(parts) - length + 1))


def did_you_mean(near: Sequence[str]) -> str:
    """Return what near names add to a message; empty where there are none."""
    quoted = " or ".join(f"'{one}'" for one in near)
    return f"; did you mean {quoted}?" if near else ""


class NoSuchModelError(ThetaError, KeyError):
    """A store has no model of a name, or a model no such version; the message says which there are."""

    code = "no-such-model"

    def __str__(self) -> str:
        return str(self.args[0])


class OutOfRangeError(ThetaError, IndexError):
    """An index or a range of bytes lies outside of a tensor."""

    code = "out-of-range"


class StoreMissingError(ThetaError, FileNotFoundError):
    """There is no store at the place that was named."""

    code = "store-missing"


class DescriptorMissingError(HintedError):
    """There are packs at the place that was named, and nothing that says of which store."""

    code = "descriptor-missing"


class UnsupportedError(ThetaError):
    """Something valid that this version cannot read; the message names what is needed."""

    code = "unsupported"


class PackageMissingError(UnsupportedError, ImportError):
    """Something needs a package that is not installed; the message has the command that installs it."""

    code = "package-missing"

    @classmethod
    def of(cls, error: ImportError, what: str, extra: str = "") -> PackageMissingError:
        """Return the error for an import that failed.

        Args:
            error: what the import raised.
            what: what needs the package.
            extra: of ours, which brings it; empty for none.
        """
        package = (error.name or "a package").partition(".")[0]
        wanted = f"'thetastore[{extra}]'" if extra else package
        return cls(f"{what} needs {package}, which is not installed: pip install {wanted}")


class BackendError(ThetaError, OSError):
    """The place where the store's files live refused an operation."""

    code = "backend"


class FileUnreadableError(BackendError):
    """A near place is there and does not give one of its files: what is wrong is about that file alone."""

    code = "file-unreadable"
