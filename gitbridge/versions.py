"""Versions of tracked files: in a revision, in the index, in the work tree, or in any file; and which two to compare.

The table of tensors is read from pointers, so that a version can be compared by name without its weights. A file of the
work tree that git takes for unchanged is the version in the index; any other is looked at as it lies there. Of a file
in conflict the index has up to three: base, ours, theirs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from gitbridge.errors import PathMissingError, RevisionError, UsageError
from gitbridge.joined_versions import JoinedModels, Opened, settled
from gitbridge.joining import ModelFiles, named_model, with_shards
from gitbridge.merging.finishing import Unmerged, unmerged_files
from gitbridge.pointers import MAX_POINTER_BYTES, Pointer, is_pointer, parse_pointer
from gitbridge.repository import Repository
from gitbridge.revisions import FileName, parse_name, path_from_top, resolve, tracked_file
from gitbridge.states import select
from gitbridge.trees import TrackedFile, tracked_blob, tracked_in_index, tracked_in_tree
from thetastore.checkpoints.joining import names_others
from thetastore.comparing.changes import Entry
from thetastore.comparing.sides import OPAQUE, FileSide, Side
from thetastore.digest import Digest

INDEX, WORK_TREE = "index", "work tree"
SIDES = {1: "base", 2: "ours", 3: "theirs"}
"""What the index has of a file in conflict, by stage."""
NO_REVISIONS = frozenset({INDEX, WORK_TREE, *SIDES.values(), ""})
"""What `Version.where` says of versions that are in no revision."""


class Version(NamedTuple):
    """One version of a file."""

    path: str
    """From the top of the work tree; of a file outside, as it was named."""
    where: str
    """What a person calls it: a revision as it was given, or one of `NO_REVISIONS`; empty for a plain file."""
    format: str
    file_bytes: int
    file_digest: Digest | None
    """None where it was not computed: two plain files are compared tensor by tensor."""
    manifest_digest: Digest | None
    """None where the weights are read through `side`, or are those of several files."""
    entries: tuple[Entry, ...]
    side: Side | None = None
    parts: tuple[Version, ...] = ()
    """The files that make up the model, where several are taken for one."""


class Two(NamedTuple):
    """Two versions of one file; None where it is not there."""

    before: Version | None
    after: Version | None
    is_moved: bool = False
    """It went at one path and came at another, with the same bytes or most of the tensors."""

    @property
    def sides(self) -> tuple[Version | None, Version | None]:
        """Before and after."""
        return self.before, self.after

    @property
    def path(self) -> str:
        """The path now, or what it was."""
        version = self.after or self.before
        assert version is not None, "one of two versions is there"
        return version.path


class Versions:
    """Finds versions in a repository, or without one. A context manager: it holds files open."""

    def __init__(self, repository: Repository | None) -> None:
        self._repository = repository
        self._open = ExitStack()
        self._models: JoinedModels | None = None

    def __enter__(self) -> Versions:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def of_names(self, names: Sequence[str], cached: bool, paths: Sequence[str]) -> list[Two]:
        """Return what to compare for the arguments of a command line.

        Args:
            names: none, one or two revisions, `A..B`, `A...B`, or two of `REV:PATH` and files.
            cached: compare with the index rather than with the work tree.
            paths: only these, from the current directory; empty for all.

        Raises:
            UsageError: arguments that make no sense together, or name nothing.
            RevisionError: there is no such revision.
        """
        repository = self._repository
        if len(names) == 2 and (repository is None or any(self._is_file_name(name) for name in names)):
            if cached or paths:
                raise UsageError("two files are compared as they are: leave --cached and paths out")
            return [self._models_named(names) or Two(self._named(names[0]), self._named(names[1]))]
        if repository is None:
            raise UsageError("there is no Git repository here: name two files", "git theta diff A B")
        if len(names) == 1 and ".." in names[0] and not self._is_file_name(names[0]):
            if cached:
                raise UsageError("--cached compares the index with one revision")
            names = self._range(names[0])
        if len(names) > 2 or (cached and len(names) > 1):
            raise UsageError(f"'{names[-1]}' is one revision too many", "paths go behind --")
        if len(names) == 2:
            return self._between_trees(names[0], names[1], paths)
        if cached:
            base = names[0] if names else "HEAD"
            found = self._paired(self._tree(base, not names), base, tracked_in_index(repository), INDEX, paths)
            return self._with_models(found, base, INDEX)
        return self._with_work_tree(names[0] if names else None, paths)

    # Which two

    def _range(self, name: str) -> list[str]:
        assert self._repository is not None, "a range is of revisions"
        dots = "..." if "..." in name else ".."
        first, _, second = name.partition(dots)
        first, second = first or "HEAD", second or "HEAD"
        if dots == "...":
            one, other = resolve(self._repository, first, "commit"), resolve(self._repository, second, "commit")
            found = self._repository.git("merge-base", one, other, check=False).decode().strip()
            found = found and self._repository.git("rev-parse", "--short", found).decode().strip()
            if not found:
                raise RevisionError(
                    f"'{first}' and '{second}' have no common ancestor", f"git theta diff {first} {second}"
                )
            first = found
        return [first, second]

    def _between_trees(self, before: str, after: str, paths: Sequence[str]) -> list[Two]:
        found = self._paired(self._tree(before), before, self._tree(after), after, paths)
        return self._with_models(found, before, after)

    def _tree(self, revision: str, may_be_unborn: bool = False) -> list[TrackedFile]:
        assert self._repository is not None, "a tree is of a repository"
        try:
            return tracked_in_tree(self._repository, resolve(self._repository, revision, "tree"))
        except RevisionError:
            if may_be_unborn:
                return []
            raise

    def _with_work_tree(self, revision: str | None, paths: Sequence[str]) -> list[Two]:
        repository = self._repository
        assert repository is not None, "a work tree is a repository's"
        if repository.work_tree is None:
            raise UsageError("there is no work tree here: name two revisions", "git theta diff HEAD~1 HEAD")
        index = tracked_in_index(repository)
        before = index if revision is None else self._tree(revision)
        touched = self._touched()
        in_conflict = {file.path: file for file in unmerged_files(repository, [])} if revision is None else {}
        # Only what is not as the index says has to be looked at; with a revision, the index stands for the rest.
        chosen = {file.path for file in self._selected([*before, *index], paths)}
        old, new = {file.path: file for file in before}, {file.path: file for file in index}
        found = []
        for path in sorted(chosen):
            if path in in_conflict:
                file = in_conflict[path]
                found.append(Two(self._side(file, 2), self._side(file, 3)))
                continue
            if path in touched:
                after = self._on_disk(path) if path in new else None
            elif revision is None or (path in old and path in new and old[path].oid == new[path].oid):
                continue
            else:
                after = self._version(new[path], WORK_TREE) if path in new else None
            two = Two(self._version(old[path], revision or INDEX) if path in old else None, after)
            if _differ(two):
                found.append(two)
        return self._with_models(_with_renames(found), revision or INDEX, WORK_TREE, touched)

    def _touched(self) -> set[str]:
        """Return the paths whose files git does not know to be as the index says."""
        assert self._repository is not None, "an index is a repository's"
        listed = self._repository.git("diff-files", "--name-only", "-z", "--ignore-submodules")
        return set(map(os.fsdecode, listed.split(b"\0")[:-1]))

    def _paired(
        self, before: list[TrackedFile], where: str, after: list[TrackedFile], there: str, paths: Sequence[str]
    ) -> list[Two]:
        old, new = {file.path: file for file in before}, {file.path: file for file in after}
        found = []
        for path in sorted({file.path for file in self._selected([*before, *after], paths)}):
            if path in old and path in new and old[path].oid == new[path].oid:
                continue
            found.append(
                Two(
                    self._version(old[path], where) if path in old else None,
                    self._version(new[path], there) if path in new else None,
                )
            )
        return _with_renames(found)

    # Models of several files

    def _with_models(
        self, found: list[Two], where: str, there: str, touched: Container[str] = frozenset()
    ) -> list[Two]:
        """Take the files of a model of several files for one, where any of them changed."""
        if not any(_may_be_in_model(version) for two in found for version in two.sides):
            return found
        old, new = self._models_at(where), self._models_at(there)
        for path in sorted(old.keys() | new.keys()):
            sides = old.get(path), new.get(path)
            paths = {path, *(file.path for model in sides if model for file in model.files)}
            changed = [two for two in found if any(version and version.path in paths for version in two.sides)]
            is_on_disk = any(one in touched for one in paths)
            if changed and (two := self._model(sides, where, there, is_on_disk)):
                found = [one for one in found if one not in changed] + [two]
        return sorted(found, key=lambda two: two.path)

    def _model(
        self, sides: tuple[ModelFiles | None, ModelFiles | None], where: str, there: str, is_on_disk: bool
    ) -> Two | None:
        """Return two versions of a model; None where the files of one do not belong together."""
        models = self._opened_models()
        before, after = sides
        opened = (
            models.open(before, where) if before else None,
            (models.open_on_disk if is_on_disk else models.open)(after, there) if after else None,
        )
        if any(model and not one for model, one in zip(sides, opened, strict=True)):
            return None
        two = [one and _of_model(one, entries) for one, entries in zip(opened, settled(opened), strict=True)]
        return Two(two[0], two[1])

    def _models_named(self, names: Sequence[str]) -> Two | None:
        """Return the models that two names stand for; None where neither is of several files, or one is on disk."""
        repository = self._repository
        parsed = [parse_name(name)._replace(tensor=None) for name in names]
        if repository is None or any(
            name.revision is None or os.path.lexists(text) or name.path[:2] in _STAGES
            for name, text in zip(parsed, names, strict=True)
        ):
            return None
        found = [named_model(repository, name, os.getcwd()) for name in parsed]
        if not any(model.outside for model in found):
            return None
        where, there = (name.revision or INDEX for name in parsed)
        return self._model((found[0], found[1]), where, there, is_on_disk=False)

    def _models_at(self, where: str) -> dict[str, ModelFiles]:
        """Return the models of several files of a revision; for the work tree, those of the index."""
        assert self._repository is not None, "a tree is of a repository"
        if where == "HEAD" and self._repository.head_oid() is None:
            return {}
        return self._opened_models().at("" if where in NO_REVISIONS else resolve(self._repository, where, "tree"))

    def _opened_models(self) -> JoinedModels:
        if self._models is None:
            assert self._repository is not None, "models are of a repository"
            self._models = self._open.enter_context(JoinedModels(self._repository))
        return self._models

    def _selected(self, files: list[TrackedFile], paths: Sequence[str]) -> list[TrackedFile]:
        assert self._repository is not None, "paths are of a repository"
        return select(self._repository, files, with_shards(self._repository, paths, os.getcwd()))

    # Versions

    def _version(self, file: TrackedFile, where: str) -> Version:
        assert self._repository is not None, "a tracked file is of a repository"
        return version_of_pointer(file.path, where, file.pointer(self._repository))

    def _side(self, file: Unmerged, stage: int) -> Version | None:
        """Return a side of a file in conflict; None where it is no file of ours there."""
        assert self._repository is not None, "an index is a repository's"
        if stage not in file.oids:
            return None
        tracked = tracked_blob(self._repository, file.path, file.oids[stage])
        return None if tracked is None else self._version(tracked, SIDES[stage])

    def _is_file_name(self, name: str) -> bool:
        """Tell a file, or a file of a revision, from a revision."""
        return ":" in name or (os.path.isfile(name) and not (self._repository and is_revision(self._repository, name)))

    def _named(self, name: str) -> Version:
        """Return the version that `REV:PATH`, `:PATH` or a path of any file names."""
        parsed = parse_name(name)
        if os.path.lexists(name) or self._repository is None or parsed.revision is None:
            return self.of_file(name)
        if not parsed.revision and parsed.path[:2] in _STAGES:
            return self._of_stage(parsed, name)
        file = tracked_file(self._repository, parsed._replace(tensor=None), os.getcwd())
        return self._version(file, parsed.revision or INDEX)

    def _of_stage(self, name: FileName, text: str) -> Version:
        """Return the version that `:1:PATH`, `:2:PATH` or `:3:PATH` names."""
        assert self._repository is not None, "an index is a repository's"
        stage = int(name.path[0])
        path = path_from_top(self._repository, name._replace(path=name.path[2:]), os.getcwd())
        file = next((one for one in unmerged_files(self._repository, []) if one.path == path), None)
        version = None if file is None else self._side(file, stage)
        if version is None:
            what = "is not in conflict" if file is None else f"has no {SIDES[stage]} that git theta tracks"
            raise PathMissingError(f"there is no '{text}': '{path}' {what}", "git theta mergetool --list")
        return version

    def of_file(self, path: str, name: str = "", where: str = "") -> Version:
        """Return the version that a file holds: weights, or a pointer.

        Raises:
            PathMissingError: there is no such file.
        """
        if not os.path.isfile(path):
            raise PathMissingError(f"there is no file '{path}'", "a file of a revision is named REV:PATH")
        with open(path, "rb") as stream:
            head = stream.read(256)
            if is_pointer(head):
                return version_of_pointer(name or path, where, parse_pointer(head + stream.read(MAX_POINTER_BYTES)))
        side = self._open.enter_context(FileSide(path))
        entries = tuple(Entry(t.name, t.dtype, t.shape, t.digest) for t in side.named_tensors())
        digest = side.file_digest()
        return Version(name or path, where, side.layout.format, side.file.size, digest, None, entries, side)

    def _on_disk(self, path: str) -> Version | None:
        assert self._repository is not None, "a work tree is a repository's"
        assert self._repository.work_tree is not None, "it was checked"
        place = os.path.join(self._repository.work_tree, path)
        return self.of_file(place, path, WORK_TREE) if os.path.isfile(place) and not os.path.islink(place) else None


_MOST_OWNERS = 16
"""Of a tensor that more files have, only so many are asked whether they are what was renamed."""

_IN_MODELS = ("torch-dcp", "torch-zip")
"""Formats that list tensors by other names than those of the model."""

_STAGES = tuple(f"{stage}:" for stage in SIDES)


def version_of_pointer(path: str, where: str, pointer: Pointer) -> Version:
    """Return the version that a pointer stands for."""
    entries = tuple(Entry(t.name, t.dtype, t.shape, t.digest) for t in pointer.tensors)
    return Version(
        path, where, pointer.format, pointer.file_bytes, pointer.file_digest, pointer.manifest_digest, entries
    )


def _of_model(model: Opened, entries: tuple[Entry, ...]) -> Version:
    return Version(model.path, model.where, model.format, model.file_bytes, None, None, entries, model.side)


def _may_be_in_model(version: Version | None) -> bool:
    """Tell whether a file may hold tensors that another one names, or be that one."""
    return version is not None and (
        version.format in (OPAQUE, *_IN_MODELS) or names_others(version.format, version.path)
    )


def _differ(two: Two) -> bool:
    if two.before is None or two.after is None:
        return two.before is not two.after
    return two.before.file_digest != two.after.file_digest


def _with_renames(found: Iterable[Two]) -> list[Two]:
    """Put together what went at one path and came at another: byte for byte, or with most tensors as they were."""
    rows = list(found)
    gone = {two.path: two.before for two in rows if two.after is None and two.before is not None}
    came = {two.path: two.after for two in rows if two.before is None and two.after is not None}
    pairs = _equal_files(gone, came)
    left = {path: version for path, version in gone.items() if path not in set(pairs.values())}
    pairs |= _alike_files(left, {path: version for path, version in came.items() if path not in pairs})
    taken = set(pairs.values())
    moved = {path: Two(gone[old], came[path], is_moved=True) for path, old in pairs.items()}
    return [moved.get(two.path, two) for two in rows if two.path not in taken or two.after is not None]


def _equal_files(gone: Mapping[str, Version], came: Mapping[str, Version]) -> dict[str, str]:
    """Return where files with the same bytes were, by where they are."""
    paths = {version.file_digest: path for path, version in gone.items()}
    found: dict[str, str] = {}
    for path, version in came.items():
        old = paths.pop(version.file_digest, None)
        if old is not None:
            found[path] = old
    return found


def _alike_files(gone: Mapping[str, Version], came: Mapping[str, Version]) -> dict[str, str]:
    """Return where files were of which more than half of the tensors stayed the same; the most alike go first."""
    owners: dict[Entry, list[str]] = {}
    for path, version in gone.items():
        for entry in version.entries:
            owners.setdefault(entry, []).append(path)
    shared = Counter(
        (path, old)
        for path, version in came.items()
        for entry in version.entries
        for old in owners.get(entry, ())[:_MOST_OWNERS]
    )
    found: dict[str, str] = {}
    for (path, old), count in shared.most_common():
        total = max(len(gone[old].entries), len(came[path].entries))
        if 2 * count > total and path not in found and old not in found.values():
            found[path] = old
    return found


def joined(twos: Sequence[Two]) -> list[Two]:
    """Return versions of several files as two of one model: what moves from file to file stays the same tensor.

    Raises:
        UsageError: two files of one version have a tensor of the same name.
    """
    if len(twos) < 2:
        return list(twos)
    return [Two(_joined([two.before for two in twos]), _joined([two.after for two in twos]))]


def _joined(versions: Iterable[Version | None]) -> Version | None:
    parts = tuple(version for version in versions if version is not None)
    if not parts:
        return None
    owners: dict[str, str] = {}
    for version in parts:
        for entry in version.entries:
            other = owners.setdefault(entry.name, version.path)
            if other != version.path:
                raise UsageError(f"'{other}' and '{version.path}' both have '{entry.name}': they are not one model")
    formats = {version.format for version in parts}
    return Version(
        f"{len(parts)} files" if len(parts) > 1 else parts[0].path,
        parts[0].where,
        formats.pop() if len(formats) == 1 else "several",
        sum(version.file_bytes for version in parts),
        None,
        None,
        tuple(entry for version in parts for entry in version.entries),
        parts=parts,
    )


def is_revision(repository: Repository, name: str) -> bool:
    """Tell whether a name stands for something in a repository."""
    try:
        resolve(repository, name)
    except RevisionError:
        return False
    return True


def revision_and_path(repository: Repository, names: Sequence[str]) -> tuple[str, str]:
    """Return what `[REV] PATH` or `REV:PATH` names: a revision, HEAD by default, and a path from the top.

    Raises:
        UsageError: these are other arguments.
    """
    if len(names) > 2:
        raise UsageError(f"'{names[2]}' is one name too many: one file at a time", "[REV] PATH")
    name = parse_name(names[-1])
    if len(names) == 2:
        if name.revision is not None:
            raise UsageError(f"'{names[0]}' and '{names[1]}' both name a revision", f"leave one out: {names[1]}")
        return names[0], path_from_top(repository, name, os.getcwd())
    return name.revision or "HEAD", path_from_top(repository, name, os.getcwd())
