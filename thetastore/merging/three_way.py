"""Which tensors of two sides go into the result as they are, and which conflict: by names and digests alone.

docs/merge.md has the truth table. A tensor that one side renamed without changing it is followed: the other side's
change goes to the new name. What is no rename for certain is an addition and a deletion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from thetastore.digest import Digest


class Content(NamedTuple):
    """What makes a tensor the same on two sides: an equal shape and dtype, and equal bytes."""

    digest: Digest
    dtype: str
    shape: tuple[int, ...]


class Found(NamedTuple):
    """A tensor on one side."""

    name: str
    content: Content


Table = Mapping[str, Content]
"""The tensors of one file by name."""


class Decision(NamedTuple):
    """What becomes of one tensor."""

    base: Found | None
    ours: Found | None
    theirs: Found | None
    taken: str | None
    """The side that has the result (`ours`, `theirs`), or None for a conflict. That side may lack it: deleted."""
    name: str
    """Its name in the result; in a conflict, ours, else theirs, else the base's."""
    conflict: str = ""
    """`both changed`, `both added`, `deleted by ours`, `deleted by theirs`, `renamed twice`, or empty."""

    @property
    def result(self) -> Found | None:
        """What is taken, under its name in the result; None where that is nothing, or the two conflict."""
        found = self.side(self.taken) if self.taken else None
        return found and found._replace(name=self.name)

    def side(self, name: str) -> Found | None:
        """Return the tensor on the side `base`, `ours` or `theirs`."""
        return {"base": self.base, "ours": self.ours, "theirs": self.theirs}[name]


def decide(base: Table, ours: Table, theirs: Table) -> list[Decision]:
    """Return one decision for each tensor of any side, ordered by name."""
    our_names = renames(base, ours, theirs)
    their_names = renames(base, theirs, ours)
    _drop_clashes(base, ours, theirs, our_names, their_names)
    decisions = [
        _decided(
            Found(name, content),
            _found(ours, our_names.get(name, name)),
            _found(theirs, their_names.get(name, name)),
        )
        for name, content in base.items()
    ]
    ours_followed, theirs_followed = set(our_names.values()), set(their_names.values())
    for name in {*ours, *theirs} - base.keys():
        here = None if name in ours_followed else _found(ours, name)
        there = None if name in theirs_followed else _found(theirs, name)
        if here or there:
            decisions.append(_decided(None, here, there))
    return sorted(decisions, key=lambda one: (one.name, one.base is None))


def _found(table: Table, name: str) -> Found | None:
    content = table.get(name)
    return None if content is None else Found(name, content)


def _decided(base: Found | None, ours: Found | None, theirs: Found | None) -> Decision:
    """Apply the truth table to one tensor. Names and contents are merged apart, since a rename changes no content."""
    known = ours or theirs or base
    assert known is not None, "a tensor is on some side"
    if ours is None or theirs is None:
        return _with_one_absent(base, ours, theirs, known.name)
    name = _merged_name(base, ours, theirs)
    taken = _taken_content(base, ours, theirs)
    if taken and name is not None:
        return Decision(base, ours, theirs, taken, name)
    if base is None:
        return Decision(base, ours, theirs, None, known.name, "both added")
    return Decision(base, ours, theirs, None, name or known.name, "both changed" if not taken else "renamed twice")


def _with_one_absent(base: Found | None, ours: Found | None, theirs: Found | None, name: str) -> Decision:
    if ours == theirs or theirs == base:
        return Decision(base, ours, theirs, "ours", name)
    if ours == base:
        return Decision(base, ours, theirs, "theirs", name)
    return Decision(base, ours, theirs, None, name, f"deleted by {'ours' if ours is None else 'theirs'}")


def _merged_name(base: Found | None, ours: Found, theirs: Found) -> str | None:
    if ours.name == theirs.name or (base and theirs.name == base.name):
        return ours.name
    return theirs.name if base and ours.name == base.name else None


def _taken_content(base: Found | None, ours: Found, theirs: Found) -> str | None:
    if ours.content == theirs.content or (base and theirs.content == base.content):
        return "ours"
    return "theirs" if base and ours.content == base.content else None


# Renames


def renames(base: Table, side: Table, other: Table) -> dict[str, str]:
    """Return the names of the base that a side has under another name, and that name.

    A tensor was renamed if the side lacks its name and has exactly its content under a name that is new. Of several
    tensors with one content (biases of zeros) each goes to the new name that is most like it, if that is mutual.
    """
    gone = _by_content((name, content) for name, content in base.items() if name not in side)
    new = _by_content((name, content) for name, content in side.items() if name not in base)
    found: dict[str, str] = {}
    left = _MAX_COMPARISONS
    for content, old_names in gone.items():
        new_names = new.get(content, [])
        left -= len(old_names) * len(new_names)
        if left >= 0 or len(old_names) == len(new_names) == 1:
            found.update(_paired(old_names, new_names))
    return found


def _by_content(tensors: Iterable[tuple[str, Content]]) -> dict[Content, list[str]]:
    found: dict[Content, list[str]] = {}
    for name, content in tensors:
        found.setdefault(content, []).append(name)
    return found


_MAX_COMPARISONS = 1_000_000
"""Of names, to pair tensors with one content: 2 s. What is beyond is an addition and a deletion."""


def _paired(old_names: list[str], new_names: list[str]) -> Iterator[tuple[str, str]]:
    if len(old_names) == len(new_names) == 1:
        yield old_names[0], new_names[0]
        return
    if not new_names:
        return
    for old in old_names:
        new = _likeliest(old, new_names)
        if new is not None and _likeliest(new, old_names) == old:
            yield old, new


def _likeliest(name: str, names: list[str]) -> str | None:
    """Return the name that shares the longest end and start with another; None where two share as much."""
    scores = sorted(((_likeness(name, other), other) for other in names), reverse=True)
    is_clear = len(scores) == 1 or scores[0][0] > scores[1][0]
    return scores[0][1] if is_clear else None


def _likeness(one: str, other: str) -> int:
    start = _shared(one, other)
    shorter = min(len(one), len(other)) - start
    return start + min(shorter, _shared(one[::-1], other[::-1]))


def _shared(one: str, other: str) -> int:
    """Return how many leading characters two texts share."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _drop_clashes(
    base: Table, ours: Table, theirs: Table, our_names: dict[str, str], their_names: dict[str, str]
) -> None:
    """Do not follow a rename to a name that the other side, too, has for something new that is not the same rename."""
    for names, other_side, other_names in ((our_names, theirs, their_names), (their_names, ours, our_names)):
        for old, new in list(names.items()):
            if new in other_side and new not in base and other_names.get(old) != new:
                del names[old]
                for other_old in [one for one, other_new in other_names.items() if other_new == new]:
                    del other_names[other_old]
