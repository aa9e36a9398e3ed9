"""The contract of `thetastore.adapters.UpdateType` as tests.

class TestMyUpdates(UpdateTypeConformance):
    update_type = MY_TYPE
    base = staticmethod(my_base)            # () -> dict of name: numpy array, the model that is updated
    write = staticmethod(my_writer)         # (path, base) writes an update of at least one of its tensors there
    write_for_another = staticmethod(...)   # (path) writes an update of tensors that the base has not
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest

from thetastore.adapters import Adapter, Change, UpdateType
from thetastore.dtypes import raw_bytes_of
from thetastore.layout import Tensor
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import UpdateError

Array = numpy.ndarray[Any, numpy.dtype[Any]]


class ArraysBase:
    """Arrays in memory as a base."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._raw = {name: numpy.ascontiguousarray(array).tobytes() for name, array in arrays.items()}
        self.tensors = {name: Tensor(name, array.dtype.name, array.shape, 0, None) for name, array in arrays.items()}

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes of an array."""
        return self._raw[name][start:stop]


class UpdateTypeConformance:
    """What every update type does. Subclass it, and say what it reads."""

    update_type: ClassVar[UpdateType]
    base: ClassVar[Callable[[], dict[str, Array]]]
    write: ClassVar[Callable[[str, Mapping[str, Array]], None]]
    write_for_another: ClassVar[Callable[[str], None]]

    @pytest.fixture
    def opened(self, tmp_path: Path) -> tuple[Adapter, ArraysBase]:
        """Return an update of the base, and the base."""
        arrays = type(self).base()
        path = str(tmp_path / "update")
        type(self).write(path, arrays)
        base = ArraysBase(arrays)
        return self.update_type.open(path, base), base

    def test_it_has_a_name_and_a_summary(self) -> None:
        assert isinstance(self.update_type, UpdateType)
        assert self.update_type.name
        assert self.update_type.summary

    def test_it_changes_something_under_the_names_of_the_base(self, opened: tuple[Adapter, ArraysBase]) -> None:
        adapter, _ = opened
        assert isinstance(adapter, Adapter)
        assert adapter.changes
        assert not adapter.unused
        assert all(isinstance(change, Change) and change.name == name for name, change in adapter.changes.items())

    def test_a_result_has_as_many_bytes_as_its_shape_says(self, opened: tuple[Adapter, ArraysBase]) -> None:
        for change in opened[0].changes.values():
            raw = _bytes(change)
            assert len(raw) == raw_bytes_of(change.dtype, math.prod(change.shape))

    def test_what_the_base_has_keeps_its_type_and_shape(self, opened: tuple[Adapter, ArraysBase]) -> None:
        adapter, base = opened
        for name in adapter.changes.keys() & base.tensors.keys():
            tensor, change = base.tensors[name], adapter.changes[name]
            assert (change.dtype, change.shape) == (tensor.dtype, tensor.shape)

    def test_the_same_bytes_come_each_time_in_any_order(self, opened: tuple[Adapter, ArraysBase]) -> None:
        changes = list(opened[0].changes.values())
        first = [_bytes(change) for change in changes]

        assert [_bytes(change) for change in reversed(changes)][::-1] == first

    def test_a_recipe_makes_the_bytes_that_come_without_it(self, opened: tuple[Adapter, ArraysBase]) -> None:
        adapter, base = opened
        for name, change in adapter.changes.items():
            if change.recipe is None:
                continue
            raw = memoryview(base.read(name, 0, base.tensors[name].raw_bytes))
            window = change.recipe().window(0, math.prod(change.shape))
            assert window is not None
            out = memoryview(bytearray(raw.nbytes))
            apply(window, raw, change.dtype, out)
            assert bytes(out) == _bytes(change)

    def test_the_base_is_not_changed(self, opened: tuple[Adapter, ArraysBase]) -> None:
        adapter, base = opened
        for change in adapter.changes.values():
            _bytes(change)

        before = ArraysBase(type(self).base())
        for name, tensor in base.tensors.items():
            assert base.read(name, 0, tensor.raw_bytes) == before.read(name, 0, tensor.raw_bytes)

    def test_an_update_of_another_model_names_what_found_no_tensor_or_is_refused(self, tmp_path: Path) -> None:
        path = str(tmp_path / "other")
        type(self).write_for_another(path)
        try:
            adapter = self.update_type.open(path, ArraysBase(type(self).base()))
        except UpdateError:
            return
        assert adapter.unused

    def test_what_is_no_update_is_refused(self, tmp_path: Path) -> None:
        for name, raw in (("empty", b""), ("noise", bytes(range(256)) * 8)):
            (tmp_path / name).write_bytes(raw)
            with pytest.raises(UpdateError):
                self.update_type.open(str(tmp_path / name), ArraysBase(type(self).base()))
        with pytest.raises(UpdateError):
            self.update_type.open(str(tmp_path / "missing"), ArraysBase(type(self).base()))


def _bytes(change: Change) -> bytes:
    return b"".join(bytes(piece) for piece in change.pieces())
