"""Which way the weights of a matrix moved: a bit for each row and each column.

The gradient of a matrix is a sum of outer products, so a weight is likely to have moved up where its row and its column
agree, and down where they do not: of the steps of a fine-tune at 1e-6, 77 % did. A difference is *turned* (negated)
where its base's sign, its row's bit and its column's, taken together by XOR, are 1; then most are positive, and the
sign takes .77 bits instead of one.
"""

from __future__ import annotations

from math import log2
from typing import Any, Final, NamedTuple

import numpy as np

from thetastore.codecs.splitting import Bytes, Words
from thetastore.errors import MalformedError

_SIGN_AT: Final = 15
_LEAST_LENGTH: Final = 16
"""Shorter rows, or fewer, cost more bits than they tell."""
_LEAST_SAVED_BITS: Final = 0.02
"""For each changed element; less is not worth a reader's time."""
_ROUNDS: Final = 2
"""Of a sign each .791, .770, .766 and .764 bits are left after 1 to 4 rounds, and .765 without end."""
_MOST_LOOKED_AT: Final = 1 << 16


class Directions(NamedTuple):
    """Of a chunk."""

    columns: int
    """Elements of a row."""
    of_rows: Words
    """0 or 1 for each."""
    of_columns: Words

    def masks(self, places: Words, base: Words) -> Words:
        """Return all ones for elements whose difference is turned, else 0.

        Args:
            places: of these elements in the chunk.
            base: the elements of the base at these places.
        """
        rows = places // self.columns
        bits = np.right_shift(base, _SIGN_AT)
        bits ^= self.of_rows.take(rows)
        bits ^= self.of_columns.take(places - rows * self.columns)
        return np.negative(bits, out=bits)

    def packed(self) -> bytes:
        """Return a bit for each row, then one for each column."""
        bits: Bytes = np.concatenate((self.of_rows, self.of_columns)).astype(np.uint8)
        return np.packbits(bits, bitorder="little").tobytes()


def turn(differences: Words, masks: Words) -> Words:
    """Negate differences where a mask says so; doing it twice undoes it."""
    return (differences ^ masks) - masks


def packed_bytes(columns: int, element_count: int) -> int:
    """Return how many bytes the directions of so many elements take."""
    return (element_count // columns + columns + 7) // 8


def unpacked(stored: memoryview, columns: int, element_count: int) -> Directions:
    """Return the directions that `packed` gave, of as many bytes as `packed_bytes` says.

    Raises:
        MalformedError: bits that belong to no row or column are set.
    """
    row_count = element_count // columns
    bits = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")
    if bits[row_count + columns :].any():
        raise MalformedError("difference has directions of more rows and columns than there are")
    words: Words = bits.astype("<u2")
    return Directions(columns, words[:row_count], words[row_count : row_count + columns])


def none(columns: int, element_count: int) -> Directions:
    """Return directions that say nothing."""
    return Directions(columns, np.zeros(element_count // columns, "<u2"), np.zeros(columns, "<u2"))


def find(differences: Words, places: Words, base: Words, columns: int, element_count: int) -> Directions | None:
    """Return the directions in which elements moved, or None where telling them takes more than it saves.

    Args:
        differences: of the elements that changed.
        places: where these are in the chunk.
        base: the elements of the base there.
        columns: elements of a row; 0 if the chunk is no part of a matrix.
        element_count: of the chunk.
    """
    if columns < _LEAST_LENGTH or element_count < _LEAST_LENGTH * columns:
        return None
    row_count = element_count // columns
    if _LEAST_SAVED_BITS * places.size + row_count + columns > places.size:
        return None
    directions = _fitted(differences, places, base, columns, row_count)
    turned = np.right_shift(differences, _SIGN_AT) ^ (directions.masks(places, base) & 1)
    saved_bits = places.size * (1 - _entropy(np.count_nonzero(turned) / places.size))
    return directions if saved_bits >= _LEAST_SAVED_BITS * places.size + row_count + columns else None


def _fitted(differences: Words, places: Words, base: Words, columns: int, row_count: int) -> Directions:
    """Choose the bits of columns by rows and of rows by columns, by turns, beginning with the row that changed most."""
    step = -(-places.size // _MOST_LOOKED_AT)
    rows = places[::step] // columns
    within = places[::step] - rows * columns
    is_down = np.right_shift(differences[::step] ^ base[::step], _SIGN_AT)
    signs = 1.0 - 2.0 * is_down
    of_columns = np.ones(columns)
    in_first = rows == np.bincount(rows).argmax()
    of_columns[within[in_first]] = signs[in_first]
    for _ in range(_ROUNDS):
        of_rows = _signs_of_sums(rows, signs * of_columns.take(within), row_count)
        of_columns = _signs_of_sums(within, signs * of_rows.take(rows), columns)
    return Directions(columns, (of_rows < 0).astype("<u2"), (of_columns < 0).astype("<u2"))


def _signs_of_sums(of_what: Words, signs: Any, count: int) -> Any:
    return np.where(np.bincount(of_what, weights=signs, minlength=count) < 0, -1.0, 1.0)


def _entropy(share: float) -> float:
    return -sum(part * log2(part) for part in (share, 1 - share) if part)
