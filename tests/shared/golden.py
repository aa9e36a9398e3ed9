"""Golden stores: where they are, and what they must hold."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from thetastore.digest import Digest
from thetastore.named_models import Models
from thetastore.publishing.subscriber import Subscriber
from thetastore.store import Store

HERE = Path(__file__).parents[1] / "golden_stores"


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden_stores", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()
FILES: dict[str, bytes] = MAKER.files()


class Golden(NamedTuple):
    """An unpacked golden store."""

    store: Path
    bundle: Path
    expected: dict[str, Any]


def archive_of(version: int) -> Path:
    return HERE / f"v{version:03d}.zip"


def unpack(archive: Path, place: Path) -> Golden:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(place)
        expected = json.loads(opened.read(MAKER.EXPECTED))
    return Golden(place / "store", place / MAKER.BUNDLE, expected)


def check_files(store: Store, expected: dict[str, Any]) -> None:
    """Compare every byte of every file with what was written down, and with what is made anew."""
    assert sorted(expected["files"].values()) == sorted(hashlib.sha256(raw).hexdigest() for raw in FILES.values())
    for text, sha256 in expected["files"].items():
        digest = Digest.parse(text)
        raw = b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest))
        assert hashlib.sha256(raw).hexdigest() == sha256


def check_names(url: str) -> None:
    """Read models by their names, and follow the one that was published."""
    models = Models(url)
    name = MAKER.MODEL
    assert sorted(models) == [name, MAKER.PUBLISHED]
    assert [version.name for version in models.log(name)] == [f"{name}@v2", f"{name}@v1"]
    assert models.tags(name) == {"stable": "v1"}
    first = np.frombuffer(FILES["model.safetensors"][-2 * 16 * 64 * 4 :], np.float32).reshape(2, 16, 64)
    for version, names in (("v1", "ab"), ("stable", "ab"), ("v2", "a")):
        for tensor in names:
            assert np.array_equal(models[f"{name}@{version}"][tensor].numpy(), first["ab".index(tensor)])
    with Subscriber(url, MAKER.PUBLISHED) as subscriber:
        subscriber.update()
        assert np.array_equal(subscriber.tensors["w"], MAKER.weights(2)["w"])
