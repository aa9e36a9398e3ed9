"""The rules, what breaks them, and what is allowed to."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from gitbridge.errors import UsageError
from gitbridge.settings import parse_size
from thetastore.errors import near_names

RULES = {
    "raw": "weights in git itself under a path that is tracked: committed without the filter",
    "large": "a checkpoint in git itself that nothing tracks",
    "pointer": "a pointer that was edited, cut or merged as text, or that no pattern tracks",
    "missing": "weights that no store has: a commit was pushed without them",
    "pickle": "a file that can run code when it is loaded",
    "opaque": "a file that is called safetensors and is none: cut, or with bytes behind its last tensor",
    "not-finite": "NaN or infinity in a tensor",
    "dtype": "a tensor that has another dtype than in the base",
    "size": "a file, or all that is new, is over its budget",
}
"""What is looked for, by its released name."""

_EVERYTHING = "*"


class Problem(NamedTuple):
    """Something that breaks a rule."""

    rule: str
    """One of `RULES`."""
    path: str
    """From the top of the work tree; empty where all files together break it."""
    tensor: str
    """Empty where the file as a whole breaks it."""
    message: str
    mend: str
    """A command that can be pasted, or the words that come nearest to one."""


class Budget(NamedTuple):
    """How many bytes are allowed, before compression; None for any number."""

    file_bytes: int | None = None
    """Of one file."""
    new_bytes: int | None = None
    """Of all tensors and opaque files together that the base does not have."""


class Allowed:
    """What may break rules: `RULE`, or `RULE:GLOB` of paths, or of `PATH//TENSOR`; `*` matches slashes, too."""

    def __init__(self, words: Iterable[str]) -> None:
        """Take words apart.

        Raises:
            UsageError: there is no such rule.
        """
        self._globs: list[tuple[str, str]] = []
        for word in words:
            rule, _, glob = word.partition(":")
            if rule not in RULES:
                near = near_names(rule, list(RULES), 1)
                hint = f"did you mean '{near[0]}'" if near else f"one of {', '.join(RULES)}"
                raise UsageError(f"'{rule}' is not a rule of git theta check", hint)
            self._globs.append((rule, glob or _EVERYTHING))

    def everywhere(self, rule: str) -> bool:
        """Tell whether a rule is switched off."""
        return (rule, _EVERYTHING) in self._globs

    def __call__(self, rule: str, path: str, tensor: str = "") -> bool:
        """Tell whether a file, or a tensor of it, may break a rule."""
        names = (path, f"{path}//{tensor}") if tensor else (path,)
        return any(rule == one and any(fnmatchcase(name, glob) for name in names) for one, glob in self._globs)


def size_of(text: str, name: str) -> int:
    """Return a number of bytes that somebody wrote (`500m`, `2g`) as the value of `name`.

    Raises:
        UsageError: it is none.
    """
    nbytes = parse_size(text)
    if nbytes is None:
        raise UsageError(f"{name} is '{text}', expected a number of bytes like 500m or 2g")
    return nbytes
