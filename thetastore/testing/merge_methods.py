"""The conformance suite of merge methods.

Subclass `MergeMethodConformance` in a test module, say which method, and run pytest:

    class TestMyMethod(MergeMethodConformance):
        def make_method(self) -> Method:
            return METHOD
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from thetastore.merging import BASE, Inputs, MergeError, Method
from thetastore.merging.registry import parameter_values

SHAPES: tuple[tuple[int, ...], ...] = ((6, 5), (1, 7), (7, 1), (12,), (2, 3, 4), (1,))


class MergeMethodConformance:
    """What a merge relies on of every method. Override `make_method`, and `parameters` where it needs any."""

    shapes = SHAPES
    """Shapes of tensors that the method must take."""

    def make_method(self) -> Method:
        """Return the method."""
        raise NotImplementedError

    def parameters(self) -> Mapping[str, Any]:
        """Return parameters as a recipe would give them; what has a default may be left out."""
        return {}

    def inputs(self, shape: tuple[int, ...], dtype: str = "f8", count: int | None = None, seed: int = 1) -> Inputs:
        """Return random sides around a random base."""
        method = self.make_method()
        sides = count or max(2, method.least_sides)
        if method.most_sides is not None:
            sides = min(sides, method.most_sides)
        draw = np.random.default_rng(seed)
        base = draw.standard_normal(shape).astype(dtype)
        arrays = [np.asarray(base + 0.1 * draw.standard_normal(shape), dtype=dtype) for _ in range(sides)]
        weights = (
            [np.asarray(draw.random(shape), dtype=dtype) for _ in range(sides)] if method.needs_importances else []
        )
        for array in (base, *arrays, *weights):
            array = np.asarray(array)
            array.flags.writeable = False
        values = parameter_values(method, self.parameters(), sides)
        return Inputs("layer.weight", np.asarray(base), tuple(map(np.asarray, arrays)), values, seed, tuple(weights))

    def result(self, inputs: Inputs) -> Any:
        """Call the method."""
        method = self.make_method()
        if method.copies is not None:
            number = method.copies(inputs.values)
            if number is not None:
                return inputs.base if number == BASE else inputs.sides[number]
        assert method.merge is not None, "a method that copies nothing mixes"
        with np.errstate(all="ignore"):
            return method.merge(inputs)

    def test_the_name_can_stand_in_a_recipe(self) -> None:
        name = self.make_method().name

        assert name
        assert not any(letter.isspace() or letter in ";=#[]\"'" for letter in name)

    def test_every_parameter_has_a_default_or_is_given(self) -> None:
        method = self.make_method()
        names = [parameter.name for parameter in method.parameters]

        assert len(set(names)) == len(names)
        parameter_values(method, self.parameters(), max(2, method.least_sides))

    def test_an_unknown_parameter_is_refused(self) -> None:
        with pytest.raises(MergeError):
            parameter_values(self.make_method(), {"no_such_parameter": 1}, 2)

    def test_every_shape_comes_back_in_shape_and_dtype(self) -> None:
        for shape in self.shapes:
            for dtype in ("f4", "f8"):
                found = self.result(self.inputs(shape, dtype))

                assert isinstance(found, np.ndarray), shape
                assert (found.shape, found.dtype) == (shape, np.dtype(dtype)), shape

    def test_the_inputs_stay_as_they_were(self) -> None:
        inputs = self.inputs((6, 5))
        before = [array.tobytes() for array in (inputs.base, *inputs.sides) if array is not None]

        self.result(inputs)

        assert [array.tobytes() for array in (inputs.base, *inputs.sides) if array is not None] == before

    def test_two_calls_agree_bit_for_bit(self) -> None:
        one, other = (np.asarray(self.result(self.inputs((6, 5)))) for _ in range(2))

        assert one.tobytes() == other.tobytes()

    def test_finite_numbers_give_finite_numbers(self) -> None:
        for shape in self.shapes:
            assert np.isfinite(self.result(self.inputs(shape))).all(), shape

    def test_sides_without_a_difference_give_something_finite(self) -> None:
        inputs = self.inputs((6, 5))
        assert inputs.base is not None
        same = inputs._replace(sides=(inputs.base,) * len(inputs.sides))

        assert np.isfinite(self.result(same)).all()

    def test_zeros_give_something_finite(self) -> None:
        inputs = self.inputs((6, 5))
        zeros = np.zeros((6, 5))

        assert np.isfinite(self.result(inputs._replace(base=zeros, sides=(zeros,) * len(inputs.sides)))).all()

    def test_an_elementwise_method_gives_the_same_in_parts(self) -> None:
        if not self.make_method().is_elementwise:
            pytest.skip("this method sees whole tensors")
        inputs = self.inputs((64,))
        whole = np.asarray(self.result(inputs))

        def part(at: slice) -> Any:
            return self.result(
                inputs._replace(
                    base=None if inputs.base is None else inputs.base[at],
                    sides=tuple(side[at] for side in inputs.sides),
                    importances=tuple(one[at] for one in inputs.importances),
                )
            )

        assert np.concatenate([part(slice(0, 20)), part(slice(20, 64))]).tobytes() == whole.tobytes()
