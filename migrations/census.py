"""`git theta migrate info`: what of a history would gain, by patterns that can be pasted into an import."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gitbridge.errors import UsageError
from gitbridge.render import Progress, count_text, printable, size_text, table
from gitbridge.repository import Repository
from gitbridge.settings import parse_size
from migrations import lfs
from migrations.conversions import GIT, LFS
from migrations.importing import bytes_before, measure
from migrations.incoming import Finder, Wanted
from migrations.refs import refs_of
from thetastore.output import Paint, painter, print_values, wants_values

_LEAST_POINTER_BYTES = 100
_GIT_THETA = "git-theta"


class Group(NamedTuple):
    """The files of one pattern, in one place."""

    source: str
    pattern: str
    wanted: list[Wanted]
    path_count: int
    raw_bytes: int
    before_bytes: int
    after_bytes: int | None
    """None where nobody has measured it."""


def run(repository: Repository, options: argparse.Namespace) -> int:
    """Say what could be imported; return the exit status."""
    above = parse_size(options.above)
    if above is None:
        raise UsageError(f"'{options.above}' is not a size", "--above 500k, --above 10m")
    tips = [ref.oid for ref in refs_of(repository, options.refs, not options.refs)]
    finder = Finder(repository)
    for path, oid in _blobs(repository, tips, above):
        finder(path, oid)
    groups = sorted(_groups(repository, finder, above, options.measure), key=lambda group: -group.raw_bytes)
    if wants_values(options):
        print_values(options, {"groups": [_values(group) for group in groups]})
    else:
        _print(groups[: options.top], len(groups), len(finder.missing), options.above, painter(options))
    return 0


def _blobs(repository: Repository, tips: Sequence[str], above: int) -> Iterator[tuple[str, str]]:
    """Yield paths and oids of blobs that are long enough, or so short that they may be pointers."""
    if not tips:
        return
    directory = repository.work_tree or repository.git_dir
    lister = subprocess.Popen(
        ["git", "rev-list", "--objects", *tips, "--"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env=repository.environment,
    )
    checker = subprocess.Popen(
        ["git", "cat-file", "--batch-check=%(objecttype) %(objectname) %(objectsize) %(rest)", "--buffer"],
        stdin=lister.stdout,
        stdout=subprocess.PIPE,
        cwd=directory,
        env=repository.environment,
    )
    assert lister.stdout is not None
    assert checker.stdout is not None
    lister.stdout.close()
    with checker.stdout as listing:
        for line in listing:
            kind, oid, nbytes, path = line.rstrip(b"\n").split(b" ", 3)
            size = int(nbytes)
            may_be_pointer = _LEAST_POINTER_BYTES < size < lfs.MAX_POINTER_BYTES
            if kind == b"blob" and path and not path.endswith(b".gitattributes") and (may_be_pointer or size >= above):
                yield os.fsdecode(path), oid.decode()
    checker.wait()
    lister.wait()


def _groups(repository: Repository, finder: Finder, above: int, measures: bool) -> Iterator[Group]:
    found: dict[tuple[str, str], list[Wanted]] = {}
    for one in finder.found.values():
        source = LFS if one.lfs_pointer else _GIT_THETA if one.is_git_theta else GIT
        if one.nbytes >= above:
            found.setdefault((source, _pattern(one.path)), []).append(one)
    for (source, pattern), wanted in found.items():
        yield Group(
            source,
            pattern,
            wanted,
            len({one.path for one in wanted}),
            sum(one.nbytes for one in wanted),
            bytes_before(repository, wanted),
            _measured(repository, wanted) if measures else None,
        )


def _measured(repository: Repository, wanted: list[Wanted]) -> int:
    progress = Progress("measuring")
    try:
        return measure(repository, wanted)
    finally:
        progress.done()


def _pattern(path: str) -> str:
    suffix = os.path.splitext(path)[1]
    return f"*{suffix}" if suffix else path


def _values(group: Group) -> dict[str, object]:
    return {
        "from": group.source,
        "pattern": group.pattern,
        "files": group.path_count,
        "versions": len(group.wanted),
        "raw_bytes": group.raw_bytes,
        "before_bytes": group.before_bytes,
        "after_bytes": group.after_bytes,
    }


def _print(groups: list[Group], count: int, missing_count: int, above: str, paint: Paint) -> None:
    if not groups:
        print(f"git theta: no file of the history has {above} or more, but for what is in the store already")
        return
    heads = ["from", "pattern", "files", "versions", "size", "on disk now"]
    rows = [
        [
            group.source,
            printable(group.pattern),
            str(group.path_count),
            str(len(group.wanted)),
            size_text(group.raw_bytes),
            size_text(group.before_bytes),
            *([] if group.after_bytes is None else [size_text(group.after_bytes)]),
        ]
        for group in groups
    ]
    if groups[0].after_bytes is not None:
        heads.append("in a store")
    sys.stdout.write(table([[paint(head, "bold") for head in heads], *rows]))
    if count > len(groups):
        print(f"… and {count - len(groups)} more: --top {count}", file=sys.stderr)
    if missing_count:
        print(
            f"{count_text(missing_count, 'object')} of Git LFS not here and not counted: git lfs fetch --all",
            file=sys.stderr,
        )
    best = groups[0]
    include = f" --include '{best.pattern}'" if best.source == GIT else ""
    print(
        f"to begin with the first line: git theta migrate import --from {best.source}{include} --dry-run",
        file=sys.stderr,
    )
