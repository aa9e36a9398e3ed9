"""The errors of the store, shaped by what a handler would do.

    ThetaError
    ├── MalformedError(ValueError)      bytes are not what their format says: nothing was taken from them
    │   └── NotThisFormat               a format plug-in declines a file; the file is kept as opaque bytes
    ├── ObjectCorruptError              stored bytes do not decode to their digest: repair or fetch again
    ├── ObjectMissingError(KeyError)    no representation of a digest is in the store: fetch it
    ├── StoreMissingError(FileNotFoundError)  there is no store at this place: create it, or mend the URL
    ├── UnsupportedError                written by a newer version, or by a plug-in that is not installed
    └── BackendError(OSError)           the place where files live said no: full disk, permission, network

Every class has a stable `code` for programs; codes are appended, never reused. A bug of ours is an
assertion, not one of these.
"""

from __future__ import annotations


class ThetaError(Exception):
    """Base of every error that the store or the bridge raises on purpose."""

    code = "theta"


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

    def __str__(self) -> str:
        return f"object '{self.digest[:16]}…'{_of(self.tensor)} is corrupt: in '{self.place}' {self.reason}"


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


class StoreMissingError(ThetaError, FileNotFoundError):
    """There is no store at the place that was named."""

    code = "store-missing"


class UnsupportedError(ThetaError):
    """Something valid that this version cannot read; the message names what is needed."""

    code = "unsupported"


class BackendError(ThetaError, OSError):
    """The place where the store's files live refused an operation."""

    code = "backend"
