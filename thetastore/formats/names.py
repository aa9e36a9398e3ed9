"""Names of tensors that are paths to them: made unique, and kept from growing without bound.

Two paths can spell one name (`a` within `b.c`, `c` within `a.b`). The first keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence

from thetastore.errors import NotThisFormat
from thetastore.layout import MAX_NAME_BYTES, MAX_TABLE_BYTES


class Names:
    """The names that are taken."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._claims: dict[str, int] = {}
        self._room_bytes = MAX_TABLE_BYTES

    def claim(self, path: Sequence[str]) -> str:
        """Return the path's name, or the first free one of `name#2`, `name#3`, ...; it is taken from now on.

        Raises:
            NotThisFormat: the name, or all names together, are too long. Nested containers share the keys around them,
                so names can take the square of a file's bytes.
        """
        length = sum(map(len, path)) + len(path)
        self._room_bytes -= length
        if length > MAX_NAME_BYTES or self._room_bytes < 0:
            raise NotThisFormat(f"a tensor whose name has {length} characters, or too many of such")
        name = free = self._separator.join(path)
        claims = self._claims
        while free in claims:
            claims[name] += 1
            free = f"{name}#{claims[name]}"
        claims[free] = 1
        return free
