"""Which commits changed which tensors of a file: what `git theta log` and `blame` print.

Git walks the history of the path, simplified as `git log` does it: a merge whose file equals one parent's is that
parent's affair. What it names are blobs; all are read through one `git cat-file --batch`, and two versions of a pointer
are compared line by line as bytes, so that only lines that differ are parsed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple, Protocol

from gitbridge.errors import PathMissingError, UsageError
from gitbridge.joined_versions import JoinedModels, Opened, settled
from gitbridge.joining import INDEX_SUFFIX, ModelFiles, files_of, tracked_files
from gitbridge.pointers import PointerTensor, is_pointer, parse_tensor_line, tensor_lines
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from thetastore.comparing.changes import ADDED, Change, Entry, changes_between
from thetastore.comparing.sides import Side
from thetastore.digest import Digest
from thetastore.selection import NameTest

_LOG = (
    "-c", "log.follow=false", "--literal-pathspecs", "log", "-z", "--topo-order", "--parents", "--raw", "-c",
    "--no-abbrev", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-show-signature", "--encoding=UTF-8",
    "--format=%H%x00%P%x00%an%x00%aI%x00%s",
)  # fmt: skip
"""`--parents` has git rewrite parents to the nearest ancestors that changed the path; `-c` says what merges did that
equal no parent."""


class Commit(NamedTuple):
    """A commit that changed a file, among those that did."""

    oid: str
    short: str
    """The oid, as short as git would have the newest one."""
    parents: tuple[str, ...]
    """The nearest ancestors that changed the file, too: what git calls rewritten parents."""
    author: str
    date: str
    """Of authorship, as ISO 8601."""
    subject: str
    blob: str
    """The file in this commit, by git's name; empty where it is gone."""
    parent_blobs: tuple[str, ...]
    """The file in each of the commit's own parents; empty where it is not there."""


class Changed(NamedTuple):
    """A commit and what it changed."""

    commit: Commit
    changes: tuple[Change, ...]
    """Against every parent: what a merge took from one of them is not its own. In the order of names."""


class Blamed(NamedTuple):
    """A tensor and the commit that it comes from."""

    entry: Entry
    commit: Commit
    change: Change
    """What that commit did."""


class History:
    """The history of one path up to a revision. For one thread."""

    def __init__(self, repository: Repository, revision: str, path: str, follow: bool = False) -> None:
        """Ask git for the commits.

        Args:
            repository: whose history it is.
            revision: where it ends.
            path: from the top of the work tree.
            follow: go on with the file that this one was renamed from, as `git log --follow` does.

        Raises:
            RevisionError: there is no such revision.
            PathMissingError: no commit up to there has a file at this path; or it names shards that are not there.
        """
        oid = resolve(repository, revision, "commit")
        self._models = JoinedModels(repository)
        model = self._models.named(oid, path)
        self.path = model.path if model else path
        """Of the file; of a model of several files, of the one that names the tensors."""
        if model is not None:
            self.commits = _of_model(_commits(repository, oid, model.path, [file.path for file in model.files]))
            self._blobs: _Tables = _States(self._models, self.path, self.commits)
            return
        shards = _shards_at(repository, oid, path)
        if shards is not None:
            self.commits = _of_model(_commits(repository, oid, path, [file.path for file in shards.files]))
            self._blobs = _Shards(repository, self._models, path)
            return
        self.commits = list(_commits(repository, oid, path))
        if not self.commits:
            raise PathMissingError(
                f"no commit up to '{revision}' has a file '{path}'",
                f"git theta ls-files {revision} lists what it tracks",
            )
        source: str | None = path
        while follow and source is not None:
            source = _continue_before_rename(repository, self.commits, source)
        self._blobs = _Blobs(repository, self.commits)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._models.__exit__()

    def side(self, blob: str) -> Side | None:
        """Return what reads a version of a model of several files, by what its commit has as its blob.

        Returns:
            None for a pointer, which names what reads it.
        """
        return self._blobs.side(blob)

    def changed(self, wants: NameTest) -> Iterator[Changed]:
        """Yield the commits that changed tensors whose names are wanted, the newest first. To be called once.

        Raises:
            UsageError: the file was no pointer in any of them; raised at the end.
        """
        was_pointer = False
        for commit in self.commits:
            changes = self._changes(commit)
            was_pointer = was_pointer or self._blobs.is_pointer(commit.blob)
            self._blobs.forget(commit)
            found = tuple(change for change in changes if _is_wanted(change, wants))
            if found:
                yield Changed(commit, found)
        if not was_pointer:
            raise self._untracked()

    def blamed(self, wants: NameTest) -> list[Blamed]:
        """Return where each tensor of the newest version comes from, in the order of names. To be called once.

        Raises:
            UsageError: the file is gone at the revision, or is no pointer there.
        """
        newest = self.commits[0]
        if not self._blobs.is_pointer(newest.blob):
            raise self._untracked()
        lines = {line for line in self._blobs.lines(newest.blob) if wants(parse_tensor_line(line.decode()).name)}
        waiting = {newest.oid: lines}
        blob_of = {commit.oid: commit.blob for commit in self.commits}
        found: list[Blamed] = []
        for commit in self.commits:
            own = waiting.pop(commit.oid, set())
            for parent in commit.parents if own else ():
                passed = own & self._blobs.lines(blob_of[parent])
                own -= passed
                waiting.setdefault(parent, set()).update(passed)
            if own:
                found += self._blamed_on(commit, own)
            self._blobs.forget(commit)
            if not any(waiting.values()):
                break
        return sorted(found, key=lambda one: one.entry.name)

    def _untracked(self) -> UsageError:
        return UsageError(f"'{self.path}' is not a file that git theta tracks there", "git theta ls-files lists them")

    def _blamed_on(self, commit: Commit, lines: set[bytes]) -> Iterator[Blamed]:
        changes = {change.name: change for change in self._changes(commit)}
        for entry in _entries(lines):
            yield Blamed(entry, commit, changes.get(entry.name) or Change(ADDED, None, entry))

    def _changes(self, commit: Commit) -> list[Change]:
        """Return what a commit changed against all of its parents; a version before is the first parent's."""
        now = self._blobs.lines(commit.blob)
        parents = [self._blobs.lines(blob) for blob in commit.parent_blobs] or [frozenset()]
        come = now.difference(*parents)
        gone = parents[0] - now
        if len(parents) > 1 and gone:
            # What another parent lacks, or brought in another version, is not this commit's doing.
            names = frozenset(map(_name_in, now - come))
            kept = [frozenset(map(_name_in, other)) for other in parents[1:]]
            gone = frozenset(line for line in gone if _is_own(_name_in(line), names, kept))
        return changes_between(_entries(gone), _entries(come)) if come or gone else []


_READ_AT_ONCE = 32
"""Pointers asked of git at once, and held: some megabytes."""


def _is_own(name: bytes, taken: frozenset[bytes], others: Sequence[frozenset[bytes]]) -> bool:
    return name not in taken and all(name in other for other in others)


def _is_wanted(change: Change, wants: NameTest) -> bool:
    return any(wants(entry.name) for entry in (change.before, change.after) if entry is not None)


def _name_in(line: bytes) -> bytes:
    """Return the name in a line as it stands there: a JSON string, which is canonical."""
    return line.split(b" ", 3)[-1]


def _entries(lines: Iterable[bytes]) -> list[Entry]:
    parsed = (parse_tensor_line(line.decode("ascii", "replace")) for line in lines)
    return [
        Entry(name, dtype, shape, Digest() if digest == _UNKNOWN else digest) for digest, dtype, shape, name in parsed
    ]


class _Tables(Protocol):
    """The tables of tensors that commits have, as lines of pointers."""

    def lines(self, blob: str) -> frozenset[bytes]:
        """Return the lines of a version; none where it is no pointer, or not there."""

    def is_pointer(self, blob: str) -> bool:
        """Tell whether a version lists tensors at all."""

    def forget(self, commit: Commit) -> None:
        """Let go of what only this commit, and those before it in the list, have needed."""

    def side(self, blob: str) -> Side | None:
        """Return what reads a version that no pointer names; None for others."""


class _States:
    """The tables of a model of several files, whose version is that of a whole commit. All are read at once."""

    def __init__(self, models: JoinedModels, path: str, commits: Sequence[Commit]) -> None:
        self._models = models
        self._path = path
        self._oids = list(dict.fromkeys(oid for commit in commits for oid in (commit.oid, *commit.parents)))

    @cached_property
    def _opened(self) -> dict[str, Opened]:
        found = {oid: self._models.at(oid).get(self._path) for oid in self._oids}
        opened = {oid: self._models.open(model, oid[:12]) for oid, model in found.items() if model}
        return {oid: one for oid, one in opened.items() if one}

    @cached_property
    def _lines(self) -> dict[str, frozenset[bytes]]:
        tables = settled(list(self._opened.values()))
        return {oid: _lines_in(table) for oid, table in zip(self._opened, tables, strict=True)}

    def lines(self, blob: str) -> frozenset[bytes]:
        """See `_Tables.lines`."""
        return self._lines.get(blob, frozenset())

    def is_pointer(self, blob: str) -> bool:
        """See `_Tables.is_pointer`."""
        return blob in self._opened

    def forget(self, commit: Commit) -> None:
        """Do nothing: whether a tensor has to be read depends on all versions."""

    def side(self, blob: str) -> Side | None:
        """Return what reads the model in a commit."""
        return self._opened[blob].side if blob in self._opened else None


class _Shards:
    """The tables of a model whose shards a list names, in whole commits: what the pointers of its shards say together.

    No weights are needed for them, nor manifests: those of each shard would take longer than all pointers.
    """

    def __init__(self, repository: Repository, models: JoinedModels, path: str) -> None:
        self._repository = repository
        self._models = models
        self._path = path
        self._found: dict[str, ModelFiles | None] = {}
        self._lines: dict[str, frozenset[bytes]] = {}
        """Of pointers, by their blobs: those of all commits in `_found`."""

    def lines(self, blob: str) -> frozenset[bytes]:
        """See `_Tables.lines`."""
        model = self._model(blob)
        blobs = [file.oid for file in model.files] if model else []
        missing = [oid for oid in dict.fromkeys(blobs) if oid not in self._lines]
        for found in self._repository.read_objects(missing):
            self._lines[found.oid] = _lines_of(found.content) or frozenset()
        return frozenset().union(*(self._lines[oid] for oid in blobs))

    def is_pointer(self, blob: str) -> bool:
        """See `_Tables.is_pointer`."""
        return self._model(blob) is not None

    def forget(self, commit: Commit) -> None:
        """See `_Tables.forget`."""
        self._found.pop(commit.blob, None)
        kept = {file.oid for model in self._found.values() if model for file in model.files}
        self._lines = {oid: lines for oid, lines in self._lines.items() if oid in kept}

    def side(self, blob: str) -> Side | None:
        """Return what reads the model in a commit."""
        model = self._model(blob)
        opened = self._models.open(model, blob[:12]) if model else None
        return opened.side if opened else None

    def _model(self, oid: str) -> ModelFiles | None:
        if oid and oid not in self._found:
            try:
                self._found[oid] = _shards_at(self._repository, oid, self._path)
            except PathMissingError:
                self._found[oid] = None
        return self._found.get(oid)


def _shards_at(repository: Repository, oid: str, path: str) -> ModelFiles | None:
    """Return the model that a list of shards names in a commit; None where a path is none that such a list has.

    Raises:
        PathMissingError: there is no such list, or a shard is not there.
    """
    if not path.endswith(INDEX_SUFFIX):
        return None
    tracked = tracked_files(repository, oid)
    return None if path in tracked else files_of(repository, oid, path, tracked)


def _of_model(commits: Iterable[Commit]) -> list[Commit]:
    """Return commits whose blobs stand for all that is in them, and in the nearest ancestors that changed the model."""
    return [commit._replace(blob=commit.oid, parent_blobs=commit.parents or ("",)) for commit in commits]


_UNKNOWN = Digest(bytes(32))
"""Stands in a line for a digest that nothing has to know, as all versions have the same."""


def _lines_in(table: Iterable[Entry]) -> frozenset[bytes]:
    lines = tensor_lines(PointerTensor(one.digest or _UNKNOWN, one.dtype, one.shape, one.name) for one in table)
    return frozenset(line.rstrip("\n").encode() for line in lines)


class _Blobs:
    """The lines of tensors in pointers, read in the order of commits and forgotten after their last use."""

    def __init__(self, repository: Repository, commits: Sequence[Commit]) -> None:
        self._repository = repository
        self._uses = Counter(blob for commit in commits for blob in _blobs_of(commit))
        self._names = iter(list(self._uses))
        self._lines: dict[str, frozenset[bytes] | None] = {}

    def lines(self, blob: str) -> frozenset[bytes]:
        """Return the lines of a blob; none where it is no pointer, or not there."""
        while blob and blob not in self._lines:
            names = list(islice(self._names, _READ_AT_ONCE))
            for found in self._repository.read_objects(names):
                self._lines[found.oid] = _lines_of(found.content)
        return self._lines.get(blob) or frozenset()

    def is_pointer(self, blob: str) -> bool:
        """Tell whether a blob lists tensors at all."""
        self.lines(blob)
        return self._lines.get(blob) is not None

    def side(self, blob: str) -> Side | None:
        """Return None: pointers name what reads them."""
        return None

    def forget(self, commit: Commit) -> None:
        """Let go of what only this commit, and those before it in the list, have needed."""
        for blob in _blobs_of(commit):
            self._uses[blob] -= 1
            if not self._uses[blob]:
                self._lines.pop(blob, None)


def _blobs_of(commit: Commit) -> set[str]:
    return {blob for blob in (commit.blob, *commit.parent_blobs) if blob}


def _lines_of(content: bytes) -> frozenset[bytes] | None:
    """Return the lines of a pointer's tensors as bytes; None where the content is no pointer."""
    _, mark, rest = content.partition(b"\ntensors ")
    if not mark or not is_pointer(content[:256]):
        return None
    return frozenset(rest.split(b"\n")[1:-1])


def _commits(repository: Repository, oid: str, path: str, others: Sequence[str] = ()) -> Iterator[Commit]:
    # Git abbreviates all names of a listing alike, those of blobs too, which have to be whole.
    short_length = len(repository.git("rev-parse", "--short", oid).strip())
    tokens = iter(repository.git(*_LOG, oid, "--", path, *others).split(b"\0")[:-1])
    pending = next(tokens, None)
    while pending is not None:
        name = pending.decode()
        parents, author, date, subject = (next(tokens).decode("utf-8", "replace") for _ in range(4))
        blob = ""
        parent_blobs: tuple[str, ...] = ()
        pending = next(tokens, None)
        if pending == b"":  # before what merges did, git puts a NUL where it has a newline otherwise
            pending = next(tokens, None)
        while pending is not None and pending.lstrip(b"\n").startswith(b":"):
            if os.fsdecode(next(tokens)) == path:
                blob, parent_blobs = _blobs_in(pending.decode())
            pending = next(tokens, None)
        yield Commit(name, name[:short_length], tuple(parents.split()), author, date, subject, blob, parent_blobs)


def _continue_before_rename(repository: Repository, commits: list[Commit], path: str) -> str | None:
    """Put the history of the file that another was renamed from behind that of the other; return its path.

    Returns:
        None where the file did not begin as another one, in one commit, as git tells renames.
    """
    roots = [at for at, commit in enumerate(commits) if not commit.parents and commit.blob]
    if len(roots) != 1:
        return None
    root = commits[roots[0]]
    words = repository.git(
        "diff-tree", "-r", "-M", "-z", "--name-status", "--no-commit-id", "--diff-filter=R", root.oid
    )
    fields = list(map(os.fsdecode, words.split(b"\0")[:-1]))
    source = next((old for old, new in zip(fields[1::3], fields[2::3], strict=True) if new == path), None)
    if source is None:
        return None
    older = list(_commits(repository, f"{root.oid}^", source))
    commits[roots[0]] = root._replace(parents=(older[0].oid,), parent_blobs=(older[0].blob,))
    commits += older
    return source


def _blobs_in(raw: str) -> tuple[str, tuple[str, ...]]:
    """Return the blob of a commit and those of its parents, from a line of `--raw`; absent ones as empty."""
    colons = raw.lstrip("\n")
    parent_count = len(colons) - len(colons.lstrip(":"))
    words = colons[parent_count:].split(" ")
    oids = [oid if oid.strip("0") else "" for oid in words[parent_count + 1 : 2 * parent_count + 2]]
    return oids[-1], tuple(oids[:-1])
