"""Names of tensors that are paths to them, made unique.

Two paths can spell one name (`a` within `b.c`, `c` within `a.b`). The first keeps it.
"""

from __future__ import annotations


class Names:
    """The names that are taken."""

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}

    def claim(self, name: str) -> str:
        """Return the name, or the first free one of `name#2`, `name#3`, ...; it is taken from now on."""
        claims = self._claims
        free = name
        while free in claims:
            claims[name] += 1
            free = f"{name}#{claims[name]}"
        claims[free] = 1
        return free
