"""Trees with some of their files converted: the same walk finds what will be converted, and puts it in its place.

Attributes decide, as they do for git: a file is converted if the new `.gitattributes` give it to another filter than
the old ones. So after a rewrite no file is a pointer that nothing fills, or weights that a filter would take for
changed. Each pair of a tree and of what holds in it is looked at once, however many commits share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gitbridge.attributes import FILE_NAME
from gitbridge.errors import UsageError
from gitbridge.repository import Repository
from migrations.attribute_rules import Rule, filter_of, lines_of, rules_of
from migrations.git_objects import (
    REGULAR_MODES,
    SUBMODULE_MODE,
    TREE_MODE,
    NewObjects,
    TreeEntry,
    parse_tree,
    render_tree,
)


class Conversion(Protocol):
    """What becomes of attributes and files."""

    top_lines: list[str]
    """Lines for the end of the top directory's attributes, wherever a tree has a file that is converted."""

    def line(self, line: str) -> str:
        """Return what takes the place of a line of attributes; empty for nothing."""

    def wants(self, old_filter: str | None, new_filter: str | None) -> bool:
        """Tell whether a file may have to be converted, by its filter before and after."""


class Converted(NamedTuple):
    """What takes the place of a blob."""

    oid: str
    renamed: Callable[[bytes], bytes] | None = None
    """Gives the file's new name; None where it keeps it."""


Blob = Callable[[str, str], Converted | None]
"""From a path and a blob's oid to what takes its place; None where it stays."""


class _Rules(NamedTuple):
    """What holds in a directory: the filters before and after."""

    old: tuple[Rule, ...]
    new: tuple[Rule, ...]


class _Seen(NamedTuple):
    oid: str
    is_touched: bool


class Trees:
    """Rewrites the trees of one repository. For one thread."""

    def __init__(self, repository: Repository, objects: NewObjects, conversion: Conversion, blob: Blob) -> None:
        self._repository = repository
        self._objects = objects
        self._conversion = conversion
        self._blob = blob
        self._seen: dict[tuple[str, str, int], _Seen] = {}
        self._rules: dict[_Rules, int] = {}
        self._wanted: dict[tuple[str, int], bool] = {}
        self._attributes: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        self.submodules: set[str] = set()
        """Paths of submodules that were met; they stay as they are."""

    def rewritten(self, oid: str) -> str:
        """Return the tree that takes the place of a commit's; the same where nothing in it is to change."""
        top = rules_of(self._conversion.top_lines, "")
        return self._directory(oid, "", _Rules((), ()), top).oid

    def _directory(self, oid: str, directory: str, rules: _Rules, top: tuple[Rule, ...] = ()) -> _Seen:
        key = (oid, directory, self._rules.setdefault(rules, len(self._rules)))
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = self._look(oid, directory, rules, top)
        return seen

    def _look(self, oid: str, directory: str, rules: _Rules, top: tuple[Rule, ...]) -> _Seen:
        entries = parse_tree(self._repository.cat_file().read(oid).content, self._objects.oid_bytes)
        own = next((entry for entry in entries if _is_attributes(entry)), None)
        old_lines, new_lines = self._lines(own.oid, directory) if own else ([], [])
        inner = _Rules(rules.old + rules_of(old_lines, directory), rules.new + rules_of(new_lines, directory) + top)
        new_entries, is_touched = [], False
        for entry in entries:
            new_entry, was_touched = self._entry(entry, directory, inner)
            is_touched = is_touched or was_touched
            new_entries.append(new_entry)
        _check_names(new_entries, directory)
        if not directory and is_touched:
            new_lines = _with_lines(new_lines, self._conversion.top_lines)
        if new_lines != old_lines:
            new_entries = self._with_attributes(new_entries, own, new_lines)
        if new_entries == entries:
            return _Seen(oid, is_touched)
        return _Seen(self._objects.add("tree", render_tree(new_entries)), is_touched)

    def _lines(self, oid: str, directory: str) -> tuple[list[str], list[str]]:
        """Return the lines of attributes before and after."""
        key = (oid, directory)
        if key not in self._attributes:
            old = lines_of(self._repository.read_object(oid))
            new = [text for text in map(self._conversion.line, old) if text]
            self._attributes[key] = old, new
        return self._attributes[key]

    def _with_attributes(self, entries: list[TreeEntry], own: TreeEntry | None, lines: list[str]) -> list[TreeEntry]:
        others = [entry for entry in entries if own is None or entry.name != own.name]
        if not lines:
            return others
        oid = self._objects.add("blob", "".join(lines).encode("utf-8", "surrogateescape"))
        return [*others, TreeEntry(own.mode if own else b"100644", FILE_NAME.encode(), oid)]

    def _entry(self, entry: TreeEntry, directory: str, rules: _Rules) -> tuple[TreeEntry, bool]:
        path = directory + os.fsdecode(entry.name)
        if entry.mode == TREE_MODE:
            seen = self._directory(entry.oid, path + "/", rules)
            return entry._replace(oid=seen.oid), seen.is_touched
        if entry.mode == SUBMODULE_MODE:
            self.submodules.add(path)
        if entry.mode not in REGULAR_MODES or _is_attributes(entry) or not self._wants(path, rules):
            return entry, False
        converted = self._blob(path, entry.oid)
        if converted is None:
            return entry, False
        name = converted.renamed(entry.name) if converted.renamed else entry.name
        return entry._replace(oid=converted.oid, name=name), True

    def _wants(self, path: str, rules: _Rules) -> bool:
        key = (path, self._rules.setdefault(rules, len(self._rules)))
        if key not in self._wanted:
            self._wanted[key] = self._conversion.wants(filter_of(rules.old, path), filter_of(rules.new, path))
        return self._wanted[key]


def _is_attributes(entry: TreeEntry) -> bool:
    return entry.name == FILE_NAME.encode() and entry.mode in REGULAR_MODES


def _check_names(entries: list[TreeEntry], directory: str) -> None:
    """Refuse a new name that another file has already.

    Raises:
        UsageError: which one.
    """
    names = set()
    for entry in entries:
        if entry.name in names:
            name = directory + os.fsdecode(entry.name)
            raise UsageError(
                f"a file would become '{name}', and a commit has another file of this name", "--exclude it"
            )
        names.add(entry.name)


def _with_lines(lines: list[str], more: list[str]) -> list[str]:
    """Return the lines with those of `more` at their end that do not stand there in this order already."""
    ended = [line if line.endswith("\n") else line + "\n" for line in lines]
    return ended if ended[len(ended) - len(more) :] == more else ended + more
