"""An interrupt between any two steps of writing leaves a store that is sound, and that can be written again."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from thetastore.backends import directory
from thetastore.packs import writer
from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

CONTENT = random.Random(5).randbytes(3_000_000)


def interrupting(function: Callable[..., object], at: int, after: bool) -> Callable[..., object]:
    """The same function, interrupted in its call number `at`: before it does its work, or after it."""
    calls = 0

    def called(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at and not after:
            raise KeyboardInterrupt
        result = function(*args)
        if calls == at:
            raise KeyboardInterrupt
        return result

    return called


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, *(pytest.param(at, marks=pytest.mark.deep) for at in range(3, 9))])
@pytest.mark.parametrize("place", [(directory, "_write_all"), (writer, "encode_head"), (writer, "_footer")])
def test_an_interrupted_writer_leaves_a_sound_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[object, str], at: int, after: bool
) -> None:
    module, name = place
    with monkeypatch.context() as patched:
        patched.setattr(module, name, interrupting(getattr(module, name), at, after))
        try:
            with Store.open(str(tmp_path / "store"), create=True) as store:
                store.put_file(io.BytesIO(CONTENT))
        except KeyboardInterrupt:
            pass

    with Store.open(str(tmp_path / "store"), create=True) as store:
        digest, manifest = store.put_file(io.BytesIO(CONTENT))
    with Store.open(str(tmp_path / "store")) as store:
        assert b"".join(map(bytes, store.read_file(manifest, digest))) == CONTENT
        assert [str(finding) for finding in verify(store.objects, Level.RAW)] == []
