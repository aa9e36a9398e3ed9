"""Which files a version is made of: files, directories, and what Hugging Face's tools leave in their cache.

Directories are taken with all that is in them, but for what is hidden (`.git`, `.cache`) and names no tensors (as
`.metadata` of torch does). Links are followed where they lead to a file: the cache of Hugging Face consists of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from thetastore.errors import MalformedError
from thetastore.formats.registry import table_called
from thetastore.ref_entries import check_path

_CACHED = "models--"


class NewFile(NamedTuple):
    """A file that is to be in a version."""

    path: str
    """In the version."""
    source: str
    """On this machine; `-` for standard input."""


class Sources(NamedTuple):
    """What some arguments mean."""

    files: list[NewFile]
    left_out: list[str]
    """Of directories: what is hidden, or no file."""
    origin: str = ""
    """`org/name@revision` of a model in a cache of Hugging Face's; else empty."""


def sources_of(paths: Sequence[str], name: str | None = None) -> Sources:
    """Return the files that make up a version.

    Args:
        paths: files, and directories. One directory alone is the model; one among several keeps its name.
        name: what a single file is called in the version; None for what it is called here.

    Raises:
        FileNotFoundError: there is no such file.
        MalformedError: two files would have one path; there is nothing in a directory; a name cannot be kept.
    """
    files: list[NewFile] = []
    left_out: list[str] = []
    origin = ""
    for path in paths:
        if path != "-" and os.path.isdir(path):
            snapshot = _snapshot_of(path)
            origin = snapshot.origin if snapshot else origin
            prefix = "" if len(paths) == 1 else os.path.basename(os.path.abspath(path)) + "/"
            for entry, is_wanted in _walk(snapshot.directory if snapshot else path):
                if is_wanted:
                    files.append(NewFile(prefix + entry, os.path.join(snapshot.directory if snapshot else path, entry)))
                else:
                    left_out.append(prefix + entry)
        else:
            _check_is_file(path)
            files.append(NewFile(name or ("stdin" if path == "-" else os.path.basename(path)), path))
    return Sources(_checked(files, paths), left_out, origin)


class Snapshot(NamedTuple):
    """One revision of a model in Hugging Face's cache."""

    model: str
    revision: str
    directory: str

    @property
    def origin(self) -> str:
        """What it is called there."""
        return f"{self.model}@{self.revision}"


def cached_models(path: str) -> list[Snapshot]:
    """Return the models in a directory that is a cache of Hugging Face's, each as its main revision."""
    try:
        names = sorted(name for name in os.listdir(path) if name.startswith(_CACHED))
    except OSError:
        return []
    found = (_snapshot_of(os.path.join(path, name)) for name in names)
    return [snapshot for snapshot in found if snapshot is not None]


def _snapshot_of(path: str) -> Snapshot | None:
    """Return the main revision of a model's directory in the cache; None where it is no such directory."""
    name = os.path.basename(os.path.abspath(path))
    snapshots = os.path.join(path, "snapshots")
    if not name.startswith(_CACHED) or not os.path.isdir(snapshots):
        return None
    model = name.removeprefix(_CACHED).replace("--", "/")
    try:
        with open(os.path.join(path, "refs", "main"), encoding="ascii") as stream:
            revision = stream.read(200).strip()
    except (OSError, ValueError):
        revision = ""
    if not revision or "/" in revision or not os.path.isdir(os.path.join(snapshots, revision)):
        known = sorted(os.listdir(snapshots), key=lambda one: os.path.getmtime(os.path.join(snapshots, one)))
        if not known:
            return None
        revision = known[-1]
    return Snapshot(model, revision, os.path.join(snapshots, revision))


def _walk(directory: str) -> Iterator[tuple[str, bool]]:
    """Yield paths below a directory, and whether they are files to be taken."""
    for above, directories, names in os.walk(directory):
        inside = os.path.relpath(above, directory)
        prefix = "" if inside == os.curdir else inside + "/"
        for name in [name for name in directories if name.startswith(".") or os.path.islink(os.path.join(above, name))]:
            directories.remove(name)
            yield f"{prefix}{name}/", False
        directories.sort()
        for name in sorted(names):
            is_shown = not name.startswith(".") or table_called(name) is not None
            yield prefix + name, is_shown and os.path.isfile(os.path.join(above, name))


def _check_is_file(path: str) -> None:
    if path != "-" and not stat.S_ISREG(os.stat(path).st_mode):
        raise MalformedError(f"'{path}' is neither a file nor a directory")


def _checked(files: list[NewFile], paths: Sequence[str]) -> list[NewFile]:
    if not files:
        raise MalformedError(f"there is no file in '{paths[0]}'" if paths else "no file was named")
    known: dict[str, str] = {}
    for file in files:
        check_path(file.path)
        if file.path in known:
            raise MalformedError(f"'{known[file.path]}' and '{file.source}' are both called '{file.path}'")
        known[file.path] = file.source
    return sorted(files)
