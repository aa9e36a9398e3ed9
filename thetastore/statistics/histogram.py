"""How large the changes of single elements are: counts by powers of two."""

from __future__ import annotations

from typing import Any

from thetastore.statistics import Pair, Piece


class Histogram:
    """Counts of the magnitudes of changes. Memory: 16 KiB."""

    def __init__(self) -> None:
        import numpy

        self._counts = numpy.zeros(2048, "i8")

    @classmethod
    def of(cls, pair: Pair) -> Histogram | None:
        """Make one for a pair of tensors."""
        return cls()

    def feed(self, piece: Piece) -> None:
        """Count the exponents of a piece's changes."""
        import numpy

        exponents = piece.change.view("<i8") >> 52
        exponents &= 0x7FF
        self._counts += numpy.bincount(exponents, minlength=2048)

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self._counts += other._counts

    def result(self) -> dict[str, Any]:
        """Return `exponents`, a list of [e, count]: so many changes from 2^e up to 2^(e+1); zeros do not count."""
        import numpy

        (used,) = numpy.nonzero(self._counts[1:])
        return {"exponents": [[int(at) + 1 - 1023, int(self._counts[at + 1])] for at in used]}
