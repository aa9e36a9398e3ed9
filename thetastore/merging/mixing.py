"""One tensor of the result: copied from a side, or mixed by a method, in pieces.

Everything that can be known without reading numbers is judged in `plan`, so that a merge that cannot work fails before
anything is read: dtypes that have no numbers, shapes that do not fit, a base that is needed and not there. What only
the numbers say (NaN, infinities, a result beyond its dtype) is found while pieces are made.

Vocabularies: where shapes differ only in the first axis, the rows that all have are mixed, and the rows behind them
are copied if one side alone has any. Where two sides have added rows, row n of one is another word than row n of the
other, and nothing is mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from thetastore.digest import Buffer
from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.layout import Tensor
from thetastore.merging import BASE, FROM_BASE, Inputs, MergeError, Method, numbers
from thetastore.merging.checkpoints import Checkpoint, row_bytes
from thetastore.merging.registry import parameter_values

if TYPE_CHECKING:
    from thetastore.merging import Array

PIECE_ELEMENTS = 1 << 18
"""Elements at a time of an elementwise method: with two sides, 3 MiB in float32, about a core's second-level cache."""


class Rule(NamedTuple):
    """How tensors are mixed."""

    method: Method
    given: Mapping[str, Any]
    """Parameters as they were given, by name."""
    seed: int = 0
    source: str = ""
    """Who says so: `.thetamerge, line 3`."""
    importances: tuple[Checkpoint, ...] = ()
    """For methods that need them, one for each side."""

    def text(self) -> str:
        """Return the rule as a line of a recipe has it."""
        words = [self.method.name, *(f"{name}={_spelled(value)}" for name, value in self.given.items())]
        return " ".join([*words, *([f"seed={self.seed}"] if self.seed else [])])


class Part(NamedTuple):
    """A tensor of one side."""

    checkpoint: Checkpoint
    name: str

    @property
    def tensor(self) -> Tensor:
        """Its dtype, shape and place."""
        return self.checkpoint.tensors[self.name]

    def read(self, start: int, stop: int) -> Buffer:
        """Return bytes `[start, stop)` of it."""
        return self.checkpoint.read(self.name, start, stop)


class Result(NamedTuple):
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Buffer]]
    """Gives its bytes in C order. Raises `MergeError` where the numbers do not allow what was planned."""
    key: Any
    """Equal keys have equal bytes."""

    @property
    def raw_bytes(self) -> int:
        """Length in bytes."""
        return raw_bytes_of(self.dtype, math.prod(self.shape))


def copied(name: str, part: Part, key: Any) -> Result:
    """Return the tensor of a side as it is, under a name."""
    tensor = part.tensor
    return Result(name, tensor.dtype, tensor.shape, lambda: _blocks(part, 0, tensor.raw_bytes), ("copied", key))


def plan(
    name: str,
    rule: Rule,
    base: Part | None,
    sides: Sequence[Part],
    importances: Sequence[Part] = (),
    dtype: str | None = None,
) -> Result:
    """Return what a method makes of a tensor; nothing is read before its pieces are asked for.

    Args:
        name: in the result; chance depends on it.
        rule: the method.
        base: None where there is none.
        sides: those that have the tensor. The result has the dtype of the first.
        importances: for methods that need them, one for each side.
        dtype: of the result, where it is not to be the first side's.

    Raises:
        MergeError: this cannot be mixed so.
    """
    method = rule.method
    _check_sides(method, len(sides))
    values = parameter_values(method, rule.given, len(sides))
    shape_before = base.tensor.shape if base is not None else None
    if not (method.needs_base or values.get(FROM_BASE)):
        base = None
    elif base is None:
        raise MergeError(
            f"method '{method.name}' needs the base, and there is none: no common ancestor has this tensor"
        )
    number = _copied_side(method, values, len(sides), base is not None)
    key = (name, rule.text(), [(id(part.checkpoint), part.name) for part in (*sides, *([base] if base else []))])
    if number is not None:
        chosen = base if number == BASE else sides[number]
        assert chosen is not None, "checked above"
        if dtype is None or dtype == chosen.tensor.dtype:
            return copied(name, chosen, (id(chosen.checkpoint), chosen.name))
        method = method._replace(merge=lambda inputs: inputs.sides[0], is_elementwise=True)
        base, sides = None, [chosen]
    mixing = _Mixing(name, method, values, rule.seed, base, tuple(sides), tuple(importances))
    mixing = mixing._replace(dtype=dtype or sides[0].tensor.dtype, shape_before=shape_before)
    shape = mixing.checked_shape()
    return Result(name, mixing.dtype, shape, mixing.pieces, ("mixed", str(key)))


def _copied_side(method: Method, values: Mapping[str, Any], count: int, has_base: bool) -> int | None:
    """Return which side a method copies, None if it mixes; what a plug-in says is checked."""
    if method.copies is None:
        return None
    try:
        number = method.copies(values)
    except (Exception, SystemExit) as error:
        raise MergeError(f"method '{method.name}' failed: {type(error).__name__}: {error}"[:500]) from error
    if number is None and method.merge is not None:
        return None
    if type(number) is not int or not (0 <= number < count or (number == BASE and has_base)):
        raise MergeError(f"method '{method.name}' copies side {number!r:.20}, and there are {count} sides")
    return number


def _check_sides(method: Method, count: int) -> None:
    if count < method.least_sides or (method.most_sides is not None and count > method.most_sides):
        most = method.most_sides
        wanted = f"{method.least_sides}" if most == method.least_sides else f"{method.least_sides} or more"
        if most is not None and most != method.least_sides:
            wanted = f"{method.least_sides} to {most}"
        raise MergeError(f"method '{method.name}' takes {wanted} sides, and {count} have this tensor")


class _Mixing(NamedTuple):
    """One tensor of several sides on its way through a method."""

    name: str
    method: Method
    values: Mapping[str, Any]
    seed: int
    base: Part | None
    sides: tuple[Part, ...]
    importances: tuple[Part, ...]
    dtype: str = ""
    shape_before: tuple[int, ...] | None = None
    """Of the base, whether its numbers are needed or not."""

    def parts(self) -> tuple[Part, ...]:
        """Return everything that is read."""
        used_base = (self.base,) if self.base is not None else ()
        return (*used_base, *self.sides, *self.importances)

    def checked_shape(self) -> tuple[int, ...]:
        """Return the shape of the result.

        Raises:
            MergeError: the tensors cannot be mixed.
        """
        for part in self.parts():
            dtype = part.tensor.dtype
            if not numbers.can_mix(dtype):
                raise MergeError(
                    f"{dtype} of '{part.checkpoint.label}' can be copied, not mixed", "take ours or theirs"
                )
        is_complex = {numbers.is_complex(part.tensor.dtype) for part in self.parts()} | {numbers.is_complex(self.dtype)}
        if len(is_complex) > 1 or (True in is_complex and not self.method.is_elementwise):
            raise MergeError(f"method '{self.method.name}' does not mix complex numbers, nor these with others")
        shapes = self._shapes()
        return shapes.pop() if len(shapes) == 1 else self._checked_vocabulary()

    def _shapes(self) -> set[tuple[int, ...]]:
        """Return the shapes that have to fit each other; the base's counts if it is that of a smaller vocabulary."""
        shapes = {part.tensor.shape for part in self.parts()}
        before = self.shape_before
        if before and all(shape[1:] == before[1:] and len(shape) == len(before) for shape in shapes):
            shapes.add(before)
        return shapes

    def _checked_vocabulary(self) -> tuple[int, ...]:
        shapes = [part.tensor.shape for part in self.parts()]
        spelled = ", ".join(f"{list(part.tensor.shape)} of {part.checkpoint.label}" for part in self.parts())
        if len({shape[1:] for shape in shapes}) > 1 or any(not shape for shape in shapes):
            raise MergeError(f"the shapes do not fit: {spelled}", "take ours or theirs")
        if any(row_bytes(part.tensor) is None for part in self.parts()):
            raise MergeError(f"the shapes do not fit: {spelled}", "take ours or theirs")
        shared = self._shared_rows()
        if self.shape_before in self._shapes() and self.shape_before and shared < self.shape_before[0]:
            raise MergeError(f"a side has fewer rows than the base: {spelled}", "take ours or theirs")
        longer = [part for part in self.sides if part.tensor.shape[0] > shared]
        if len(longer) > 1:
            raise MergeError(
                f"more than one side has added rows, and whose row {shared} is which word cannot be known: {spelled}",
                "take ours or theirs",
            )
        if longer and longer[0].tensor.dtype != self.dtype:
            raise MergeError(f"the rows that only {longer[0].checkpoint.label} has are not {self.dtype}")
        return (max(shape[0] for shape in (part.tensor.shape for part in self.sides)), *shapes[0][1:])

    def _shared_rows(self) -> int:
        return min(shape[0] for shape in self._shapes())

    def pieces(self) -> Iterator[Buffer]:
        """Yield the bytes of the result."""
        shapes = self._shapes()
        shape = self.sides[0].tensor.shape
        longest = max(self.sides, key=lambda part: part.tensor.shape[:1])
        if len(shapes) > 1:
            shape = (self._shared_rows(), *shape[1:])
        yield from self._mixed(shape)
        if len(shapes) > 1:
            rows = row_bytes(longest.tensor)
            assert rows is not None, "checked when it was planned"
            yield from _blocks(longest, shape[0] * rows, longest.tensor.raw_bytes)

    def _mixed(self, shape: tuple[int, ...]) -> Iterator[Buffer]:
        count = math.prod(shape)
        shape = shape or (1,)
        # What lies by strides is gathered whole for each reading, so it is read once.
        in_pieces = self.method.is_elementwise and all(part.tensor.strides is None for part in self.parts())
        step = PIECE_ELEMENTS if in_pieces else max(count, 1)
        for start in range(0, max(count, 1), step):
            stop = min(count, start + step)
            try:
                yield self._piece(start, stop, (stop - start,) if self.method.is_elementwise else shape)
            except MergeError as error:
                raise MergeError(f"tensor '{self.name}': {error.message}", error.hint) from error

    def _piece(self, start: int, stop: int, shape: tuple[int, ...]) -> Buffer:
        pairs = 2 if numbers.is_complex(self.dtype) else 1
        shape = (shape[0] * 2,) if pairs == 2 else shape
        inputs = Inputs(
            self.name,
            None if self.base is None else self._numbers(self.base, start, stop, shape),
            tuple(self._numbers(part, start, stop, shape) for part in self.sides),
            self.values,
            self.seed,
            tuple(self._numbers(part, start, stop, shape) for part in self.importances),
        )
        return numbers.encode(self._called(inputs, shape), self.dtype)

    def _numbers(self, part: Part, start: int, stop: int, shape: tuple[int, ...]) -> Array:
        """Return a part of a tensor, as numbers.

        Raises:
            MergeError: some of them are not finite: nobody can say what they were to mean.
        """
        width = raw_bytes_of(part.tensor.dtype, 1)
        raw = part.read(start * width, stop * width)
        found = numbers.decode(raw, part.tensor.dtype, numbers.work_dtype(self.dtype)).reshape(shape)
        if not numbers.is_finite(found):
            raise MergeError(
                f"{part.checkpoint.label} has elements that are NaN or infinite, which cannot be mixed",
                "take the other side, or mend that one",
            )
        found.flags.writeable = False
        return found

    def _called(self, inputs: Inputs, shape: tuple[int, ...]) -> Array:
        """Call the method; whatever it does, what comes back is an array of the right shape and dtype."""
        import numpy as np

        assert self.method.merge is not None, "a method that only copies was asked to mix"
        try:
            with np.errstate(all="ignore"):
                found = self.method.merge(inputs)
        except MergeError:
            raise
        except (Exception, SystemExit) as error:
            raise MergeError(f"method '{self.method.name}' failed: {type(error).__name__}: {error}"[:500]) from error
        wanted = inputs.sides[0].dtype
        if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != wanted:
            what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise MergeError(f"method '{self.method.name}' returned {what}, expected {wanted} {shape}")
        return found


def _blocks(part: Part, start: int, stop: int, block_bytes: int = 1 << 20) -> Iterator[Buffer]:
    """Yield bytes of a tensor as they are. A strided one is gathered once, not for each block."""
    if part.tensor.strides is not None or DTYPES[part.tensor.dtype].kind == "block":
        yield memoryview(part.read(0, part.tensor.raw_bytes))[start:stop]
        return
    for at in range(start, stop, block_bytes):
        yield part.read(at, min(stop, at + block_bytes))


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_spelled, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
