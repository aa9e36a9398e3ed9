"""`git theta migrate import --from huggingface PLACE`: a model of Hugging Face's cache, or any directory, as commits.

A cache keeps a model as `models--<owner>--<name>`: `blobs/`, and under `snapshots/<commit>/` links to them. Each
snapshot becomes a commit, oldest first, on the branch that is checked out; a file that several have is read once.
Links are followed as far as they stay inside of the model, and never elsewhere.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gitbridge.attributes import ATTRIBUTES, FILE_NAME
from gitbridge.cli.opening import make_ready
from gitbridge.errors import UsageError
from gitbridge.large_files import LargeFile, is_large_checkpoint
from gitbridge.pointers import render_pointer
from gitbridge.render import Progress, count_text, size_text
from gitbridge.repository import Repository
from migrations.attribute_rules import filter_of, lines_of, rules_of
from migrations.conversions import LFS, OURS, Change, attributes_line
from migrations.git_objects import NewObjects
from migrations.landing import Move, land, next_number
from migrations.migrating import literal_pattern
from migrations.refs import check_is_clean
from thetastore.digest import Digest
from thetastore.store import Store

_PREFIX = "models--"
_SKIPPED = (".git", ".cache", ".huggingface")
_AT_LEAST_BYTES = 1 << 20


class Snapshot(NamedTuple):
    """One version of a model."""

    directory: str
    inside: str
    """Where links may lead to."""
    name: str


class File(NamedTuple):
    """A file of a snapshot."""

    path: str
    """In the snapshot, `/` between parts."""
    place: str
    """Where its bytes are: links are followed."""
    nbytes: int


def run(repository: Repository, options: argparse.Namespace) -> int:
    """Commit the snapshots that are there; return the exit status."""
    if len(options.refs) != 1:
        raise UsageError("name the directory of one model", "git theta migrate import --from huggingface ~/models/x")
    if repository.work_tree is None:
        raise UsageError("this needs a work tree, and there is none here")
    check_is_clean(repository)
    place = os.path.abspath(os.path.expanduser(options.refs[0]))
    snapshots = snapshots_of(place)
    into = options.into if options.into is not None else _name_of(snapshots[0])
    _check_target(repository, into)
    files = {snapshot: [*files_of(snapshot)] for snapshot in snapshots}
    nbytes = sum({file.place: file.nbytes for found in files.values() for file in found}.values())
    print(f"{count_text(len(snapshots), 'snapshot')}, {size_text(nbytes)}, into '{into}/'")
    if options.dry_run:
        print("nothing was changed; without --dry-run it will be")
        return 0
    make_ready(repository)
    _commit_all(repository, files, into, nbytes)
    return 0


def snapshots_of(place: str) -> list[Snapshot]:
    """Return the versions at a place, the oldest first.

    Raises:
        UsageError: there are none, or several models.
    """
    if not os.path.isdir(place):
        raise UsageError(f"'{place}' is not a directory", "huggingface-cli scan-cache lists what is there")
    if os.path.isdir(os.path.join(place, "snapshots")):
        inside = os.path.realpath(place)
        names = [name for name in os.listdir(os.path.join(place, "snapshots")) if not name.startswith(".")]
        found = [Snapshot(os.path.join(place, "snapshots", name), inside, name) for name in names]
        if not found:
            raise UsageError(f"'{place}' holds no snapshot: nothing of this model was fetched")
        return sorted(found, key=lambda one: (os.stat(one.directory).st_mtime_ns, one.name))
    models = sorted(name for name in os.listdir(place) if name.startswith(_PREFIX))
    if models:
        count = count_text(len(models), "model")
        raise UsageError(f"'{place}' holds {count}", f"name one: {os.path.join(place, models[0])}")
    above = os.path.dirname(place)
    inside = os.path.dirname(above) if os.path.basename(above) == "snapshots" else place
    return [Snapshot(place, os.path.realpath(inside), os.path.basename(place))]


def _name_of(snapshot: Snapshot) -> str:
    name = os.path.basename(snapshot.inside)
    return name.rpartition("--")[2] if name.startswith(_PREFIX) else name


def _check_target(repository: Repository, into: str) -> None:
    parts = into.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts) or "\0" in into or "\n" in into:
        raise UsageError(f"'{into}' is not a directory below the top of the work tree", "--into models/x")
    other = repository.git("--literal-pathspecs", "ls-files", "-z", "--others", "--", into).split(b"\0")[0]
    if other:
        raise UsageError(f"'{os.fsdecode(other)}' is in the way and not committed", "--into ANOTHER-DIRECTORY")


def files_of(snapshot: Snapshot) -> Iterator[File]:
    """Yield the files of a snapshot.

    Raises:
        UsageError: a link leads out of the model, or to nothing.
    """
    for directory, below, names in os.walk(snapshot.directory):
        below[:] = sorted(name for name in below if name not in _SKIPPED)
        for name in sorted(names):
            path = os.path.join(directory, name)
            place = os.path.realpath(path)
            if os.path.commonpath([place, snapshot.inside]) != snapshot.inside or not os.path.isfile(place):
                raise UsageError(f"'{path}' leads to '{place}', which is no file of this model")
            yield File(os.path.relpath(path, snapshot.directory), place, os.stat(place).st_size)


def _commit_all(repository: Repository, files: dict[Snapshot, list[File]], into: str, nbytes: int) -> None:
    before = repository.git("rev-parse", "-q", "--verify", "HEAD", check=False).decode().strip()
    head = before
    progress = Progress("storing files")
    with repository.open_store() as store:
        importer = _Importer(repository, store, into, lambda done_bytes: progress.of_bytes(done_bytes, nbytes))
        try:
            for snapshot, found in files.items():
                head = importer.commit(head, snapshot, found)
        finally:
            progress.done()
    if head == before:
        print("git theta: all of it is committed already")
        return
    _land(repository, before, head)
    print(f"{count_text(importer.commit_count, 'commit')} added; '{into}/' is at {[*files][-1].name}")


def _land(repository: Repository, before: str, head: str) -> None:
    if before:
        branch = repository.git("symbolic-ref", "-q", "HEAD", check=False).decode("utf-8", "surrogateescape").strip()
        land(repository, next_number(repository), [Move(branch or "HEAD", before, head)], [], {})
        print("to take it back: git theta migrate undo", file=sys.stderr)
    else:
        repository.git("update-ref", "-m", "git theta migrate", "HEAD", head)
        repository.git("read-tree", "--reset", "HEAD")
        repository.git("checkout", "-q", "-f", "--", ":/")


class _Importer:
    def __init__(self, repository: Repository, store: Store, into: str, report: Callable[[int], None]) -> None:
        self._repository = repository
        self._store = store
        self._into = into
        self._report = report
        self._objects = NewObjects(repository)
        self._blobs: dict[tuple[str, bool], str] = {}
        self._latest: dict[str, Digest] = {}
        self._done_bytes = 0
        self.commit_count = 0

    def commit(self, head: str, snapshot: Snapshot, files: list[File]) -> str:
        """Make a commit on top of another, or of none; return it, or the other where nothing is different."""
        lines = self._attributes(files)
        rules = rules_of(lines, "")
        listed = {FILE_NAME: self._objects.add("blob", "".join(lines).encode("utf-8", "surrogateescape"))}
        for file in files:
            if file.path != FILE_NAME:
                listed[file.path] = self._blob(file, filter_of(rules, file.path) == OURS)
        self._store.seal()
        self._objects.flush()
        tree = self._tree(head, listed)
        if head and tree == self._repository.git("rev-parse", f"{head}^{{tree}}").decode().strip():
            return head
        self.commit_count += 1
        parents = ["-p", head] if head else []
        message = f"Import {self._into} at {snapshot.name}\n"
        return self._repository.git("commit-tree", tree, *parents, "-F", "-", input=message.encode()).decode().strip()

    def _attributes(self, files: list[File]) -> list[str]:
        """Return the model's own attributes with our filter for that of Git LFS, and lines for what they leave out."""
        own = next((file for file in files if file.path == FILE_NAME), None)
        lines: list[str] = []
        if own is not None:
            with open(own.place, "rb") as stream:
                change = Change(LFS, OURS)
                lines = [changed for line in lines_of(stream.read()) if (changed := change.line(line))]
        for file in files:
            is_large = is_large_checkpoint(file.path, file.nbytes, _AT_LEAST_BYTES)
            if is_large and filter_of(rules_of(lines, ""), file.path) != OURS:
                pattern = LargeFile(file.path, file.nbytes, False).pattern
                pattern = pattern if pattern.startswith("*") else literal_pattern(file.path)
                lines = [line if line.endswith("\n") else line + "\n" for line in lines]
                lines.append(attributes_line(pattern, ATTRIBUTES))
        return lines

    def _blob(self, file: File, is_ours: bool) -> str:
        key = (file.place, is_ours)
        if key not in self._blobs:
            self._blobs[key] = self._stored(file) if is_ours and file.nbytes else self._hashed(file)
            self._done_bytes += file.nbytes
            self._report(self._done_bytes)
        return self._blobs[key]

    def _stored(self, file: File) -> str:
        with open(file.place, "rb", buffering=0) as stream:
            stored = self._store.put_file(stream, self._latest.get(file.path))
        self._latest[file.path] = stored.manifest_digest
        return self._objects.add("blob", render_pointer(stored.manifest, stored.manifest_digest))

    def _hashed(self, file: File) -> str:
        return self._repository.git("hash-object", "-w", "--no-filters", "--", file.place).decode().strip()

    def _tree(self, head: str, listed: dict[str, str]) -> str:
        """Return the tree of a commit with these files, and no others, in the model's directory."""
        with tempfile.TemporaryDirectory(dir=self._repository.git_dir, prefix="theta-index-") as scratch:
            environment = dict(self._repository.environment or os.environ)
            environment["GIT_INDEX_FILE"] = os.path.join(scratch, "index")
            inside = Repository(self._repository.git_dir, self._repository.work_tree, environment)
            if head:
                inside.git("read-tree", head)
                inside.git("--literal-pathspecs", "rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", self._into)
            text = b"".join(
                b"100644 %b\t%b/%b\0" % (oid.encode(), os.fsencode(self._into), os.fsencode(path))
                for path, oid in listed.items()
            )
            inside.git("update-index", "-z", "--add", "--index-info", input=text)
            return inside.git("write-tree").decode().strip()
