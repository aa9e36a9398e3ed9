"""The lines of `.gitattributes` that track files.

A line is ours if it sets `filter=theta`. Only such lines are changed or removed; comments, order and every
other line of the file stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.errors import UsageError
from gitbridge.repository import Repository

FILE_NAME = ".gitattributes"
ATTRIBUTES = ("filter=theta", "diff=theta", "merge=theta", "-text")
_KEPT_IN_GIT = (".gitattributes", ".gitignore", ".gitmodules", ".thetaconfig", ".mailmap")
"""Files that git, or we, read from blobs: as pointers they would mean nothing."""


class TrackedPattern(NamedTuple):
    """A pattern that tracks files, and where that is said."""

    pattern: str
    source: str
    """Path of the file, from the top of the work tree."""


def split_line(line: str) -> tuple[str, list[str]]:
    """Return the pattern and the attributes of a line; an empty pattern for a blank line or a comment."""
    text = line.strip(" \t\r\n")
    if not text or text.startswith("#"):
        return "", []
    if text.startswith('"'):
        unquoted = _unquote(text)
        if unquoted is not None:
            pattern, rest = unquoted
            return pattern, rest.split()
    pattern, *attributes = text.split()
    return pattern, attributes


def render_line(pattern: str) -> str:
    """Return the line that tracks a pattern, quoted where git needs it."""
    escaped = "\\" + pattern if pattern.startswith(("!", "[attr]")) else pattern
    if escaped.startswith(("#", '"')) or any(ch in ' \t\r\n\v\f"' or ch < " " or ch == "\x7f" for ch in escaped):
        escaped = _quote(escaped)
    return " ".join((escaped, *ATTRIBUTES))


def normalise(pattern: str, directory: str, top: str) -> str:
    """Return a pattern as it has to stand in the `.gitattributes` of `directory`.

    Raises:
        UsageError: it can match nothing there.
    """
    if os.path.isabs(pattern) and pattern.startswith(top + "/"):
        pattern = os.path.relpath(pattern, directory)
        if not pattern.startswith(".."):
            pattern = "/" + pattern
    while pattern.startswith("./"):
        pattern = pattern[2:]
    if not pattern.strip() or pattern in (".", "/"):
        raise UsageError(f"'{pattern}' is not a pattern of files", "git theta track '*.safetensors'")
    if pattern.startswith("../") or "\n" in pattern or "\0" in pattern:
        raise UsageError(f"'{pattern}' reaches out of this directory", "run it in the directory of the files")
    if pattern.endswith("/") or os.path.isdir(os.path.join(directory, pattern)):
        pattern = pattern.rstrip("/") + "/**"  # git gives a directory's attributes to nothing in it
    return pattern


def read_lines(path: str) -> list[str]:
    """Return the lines of a file with their ends, none where it does not exist; bytes survive as surrogates."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
            text = stream.read()
    except FileNotFoundError:
        return []
    # Not splitlines: it would also break lines at form feeds and the like, which git takes as text.
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def is_ours(attributes: Iterable[str]) -> bool:
    """Tell whether a line's attributes track files."""
    return "filter=theta" in attributes


def escaped(name: str) -> str:
    """Return the pattern that a name matches, and nothing else with other characters in their places."""
    return "".join("\\" + character if character in "*?[]\\" else character for character in name)


def absent_patterns(path: str, patterns: list[str]) -> list[str]:
    """Return the patterns that a file lacks."""
    present = {pattern for pattern, attributes in map(split_line, read_lines(path)) if is_ours(attributes)}
    return [pattern for pattern in dict.fromkeys(patterns) if stored_pattern(pattern) not in present]


def add_patterns(path: str, patterns: list[str]) -> list[str]:
    """Append the patterns that a file lacks; return those."""
    lines = read_lines(path)
    added = absent_patterns(path, patterns)
    if added:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
        write_lines(path, [*lines, *(render_line(pattern) + end for pattern in added)])
    return added


def stored_pattern(pattern: str) -> str:
    """Return a pattern as `split_line` gives it back after `render_line`."""
    return split_line(render_line(pattern))[0]


def remove_patterns(path: str, patterns: list[str], keep_file: bool = False) -> list[str]:
    """Remove the patterns' lines, keeping attributes that are not ours; return the patterns that were there.

    Args:
        path: the file.
        patterns: what is to go.
        keep_file: leave an empty file where no line is left. Git takes the index's lines for a file that is gone.
    """
    wanted = {stored_pattern(pattern): pattern for pattern in patterns}
    kept, removed = [], []
    for line in read_lines(path):
        pattern, attributes = split_line(line)
        if pattern not in wanted or not is_ours(attributes):
            kept.append(line)
            continue
        removed.append(wanted[pattern])
        others = [attribute for attribute in attributes if attribute not in ATTRIBUTES]
        if others:
            head = _quote(pattern) if line.lstrip().startswith('"') else line.split()[0]
            kept.append(" ".join((head, *others)) + ("\r\n" if line.endswith("\r\n") else "\n"))
    if removed:
        if kept or keep_file:
            write_lines(path, kept)
        else:
            os.unlink(path)
    return list(dict.fromkeys(removed))


def tracked_patterns(repository: Repository) -> list[TrackedPattern]:
    """Return every pattern that tracks files, from the attributes of the work tree and of `info/attributes`."""
    listed = repository.git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*" + FILE_NAME)
    names = {os.fsdecode(name) for name in listed.split(b"\0")[:-1]}
    assert repository.work_tree is not None
    sources = [(name, os.path.join(repository.work_tree, name)) for name in sorted(names)]
    sources = [(name, path) for name, path in sources if os.path.basename(name) == FILE_NAME]
    sources.append((".git/info/attributes", os.path.join(repository.common_dir, "info", "attributes")))
    found = []
    for name, path in sources:
        lines = map(split_line, read_lines(path))
        found += [TrackedPattern(pattern, name) for pattern, attributes in lines if is_ours(attributes)]
    return found


def paths_with_filter(repository: Repository, paths: Iterable[str]) -> list[str]:
    """Return those paths (from the top of the work tree) that git would give to our filter."""
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    if not asked:
        return []
    answer = repository.git("check-attr", "-z", "--stdin", "filter", input=asked).split(b"\0")
    pairs = zip(answer[0::3], answer[2::3], strict=False)
    return [os.fsdecode(path) for path, value in pairs if value == b"theta"]


def files_that_match(repository: Repository, directory: str, pattern: str) -> list[str]:
    """Return the files below a directory that a pattern of its `.gitattributes` would match, as seen from there.

    Those that git ignores are left out. No attribute has to be set for it.
    """
    if "/" in pattern:  # it counts from the directory, and git takes what we ask with from the top
        assert repository.work_tree is not None
        prefix = os.path.relpath(os.path.realpath(directory), os.path.realpath(repository.work_tree))
        pattern = "/" + os.path.normpath(os.path.join(escaped(prefix), pattern.lstrip("/")))
    matching = ("ls-files", "-z", "--ignored", f"--exclude={pattern}")
    listed = repository.git(*matching, "--cached", cwd=directory).split(b"\0")[:-1]
    others = repository.git(*matching, "--others", cwd=directory).split(b"\0")[:-1]
    ignored = repository.git("check-ignore", "-z", "--stdin", input=b"\0".join(others), cwd=directory, check=False)
    return sorted(map(os.fsdecode, {*listed, *others}.difference(ignored.split(b"\0"))))


def swallowed_files(repository: Repository, directory: str) -> list[str]:
    """Return the files in a directory that git must be able to read, and that attributes now give to us."""
    assert repository.work_tree is not None
    prefix = os.path.relpath(directory, repository.work_tree)
    names = [os.path.normpath(os.path.join(prefix, name)) for name in _KEPT_IN_GIT]
    return paths_with_filter(repository, names)


def write_lines(path: str, lines: list[str]) -> None:
    """Replace a file in one step; a link stays a link."""
    temporary = f"{path}.theta-{os.getpid()}"
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        stream.write("".join(lines))
    if os.path.exists(path):
        os.chmod(temporary, os.stat(path).st_mode & 0o7777)
    os.replace(temporary, os.path.realpath(path))


_ESCAPES = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", '"': '"', "\\": "\\"}
_UNESCAPES = {letter: character for character, letter in _ESCAPES.items()}


def _quote(text: str) -> str:
    """Quote as git's `quote_c_style` does."""
    return '"' + "".join("\\" + _ESCAPES[ch] if ch in _ESCAPES else ch for ch in text) + '"'


def _unquote(text: str) -> tuple[str, str] | None:
    """Return the value of a leading quoted string and what follows it; None if it is malformed."""
    value = bytearray()
    position = 1
    while position < len(text):
        character = text[position]
        position += 1
        if character == '"':
            return value.decode("utf-8", "surrogateescape"), text[position:]
        if character != "\\":
            value += character.encode("utf-8", "surrogateescape")
            continue
        escape = text[position : position + 1]
        if escape in _UNESCAPES and escape:
            value += _UNESCAPES[escape].encode()
            position += 1
        elif len(digits := text[position : position + 3]) == 3 and set(digits) <= set("01234567"):
            value.append(int(digits, 8) & 0xFF)
            position += 3
        else:
            return None
    return None
