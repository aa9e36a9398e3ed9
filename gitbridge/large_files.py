"""Checkpoints that git itself would take whole, or has taken: large files that no filter is for.

Git keeps every version of such a file whole, for ever, in every clone, so they are named while it costs nothing to
change that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.repository import Repository
from gitbridge.settings import parse_size

_SUFFIXES = frozenset(
    (
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".gguf",
        ".ggml",
        ".npy",
        ".npz",
        ".h5",
        ".hdf5",
        ".keras",
        ".weights",
        ".msgpack",
        ".onnx",
        ".tflite",
        ".pb",
        ".pkl",
        ".joblib",
        ".mar",
        ".nemo",
        ".engine",
    )
)
_ANY_BYTES = 100 << 20
"""From here on a file is named whatever it is called: common Git hosts refuse it."""
_DEFAULT = "10m"
_SUBMODULE = b"160000"


class LargeFile(NamedTuple):
    """A file of the work tree."""

    path: str
    """From the top of the work tree."""
    nbytes: int
    is_in_git: bool
    """The index holds it already."""

    @property
    def pattern(self) -> str:
        """What to track so that this file and its likes go to the store."""
        suffix = os.path.splitext(self.path)[1]
        return f"*{suffix}" if suffix in _SUFFIXES else self.path


def is_large_checkpoint(path: str, nbytes: int, at_least: int) -> bool:
    """Tell whether a file is one that git itself should not keep, by its name and length."""
    return nbytes >= _ANY_BYTES or (nbytes >= at_least and os.path.splitext(path)[1].lower() in _SUFFIXES)


def warned_size(repository: Repository) -> int:
    """Return from which length on checkpoints are named; 0 for none."""
    return parse_size(repository.config("theta.warnSize") or _DEFAULT) or 0


def large_files(repository: Repository) -> list[LargeFile]:
    """Return the checkpoints of the work tree that no filter is for; what is ignored, or left to LFS, is none."""
    at_least = warned_size(repository)
    if not at_least or repository.work_tree is None:
        return []
    found = [*_large(repository, at_least, is_in_git=True)]
    if repository.config("status.showUntrackedFiles") != "no":
        found += _large(repository, at_least, is_in_git=False)
    filtered = _with_any_filter(repository, [file.path for file in found])
    return [file for file in found if file.path not in filtered]


def staged_large_files(repository: Repository) -> list[LargeFile]:
    """Return the checkpoints that the next commit adds to what git keeps whole; what is left to LFS is none."""
    at_least = warned_size(repository)
    staged = staged_blobs(repository)
    asked = "".join(f"{oid}\n" for _, oid in staged).encode()
    answers = repository.git("cat-file", "--batch-check=%(objectsize)", input=asked)
    sizes = [int(line) if line.isdigit() else 0 for line in answers.splitlines()]
    files = [LargeFile(path, size, True) for (path, _), size in zip(staged, sizes, strict=True)]
    large = [file for file in files if at_least and is_large_checkpoint(file.path, file.nbytes, at_least)]
    left_to_others = _with_any_filter(repository, [file.path for file in large], but="theta")
    return [file for file in large if file.path not in left_to_others]


def staged_blobs(repository: Repository) -> list[tuple[str, str]]:
    """Return path and oid of each file that the next commit adds or changes; a submodule is none."""
    head = repository.head_oid() or repository.git("hash-object", "-t", "tree", "--stdin").decode().strip()
    listed = repository.git("diff-index", "--cached", "-z", "--diff-filter=AM", "--no-renames", head).split(b"\0")
    changes = [line.split(b" ") for line in listed[0:-1:2]]
    named = zip(map(os.fsdecode, listed[1::2]), changes, strict=True)
    return [(path, change[3].decode()) for path, change in named if change[1] != _SUBMODULE]


def _large(repository: Repository, at_least: int, is_in_git: bool) -> Iterable[LargeFile]:
    kind = ["--cached"] if is_in_git else ["--others", "--exclude-standard"]
    for name in repository.git("ls-files", "-z", *kind).split(b"\0")[:-1]:
        path = os.fsdecode(name)
        try:
            nbytes = os.lstat(os.path.join(repository.work_tree or "", path)).st_size
        except OSError:
            continue
        if is_large_checkpoint(path, nbytes, at_least):
            yield LargeFile(path, nbytes, is_in_git)


def _with_any_filter(repository: Repository, paths: list[str], but: str = "") -> set[str]:
    if not paths:
        return set()
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    answer = repository.git("check-attr", "-z", "--stdin", "filter", input=asked).split(b"\0")
    pairs = zip(answer[0::3], answer[2::3], strict=False)
    return {os.fsdecode(path) for path, value in pairs if value not in (b"unspecified", b"unset", but.encode())}
