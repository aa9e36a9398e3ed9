"""Make `v001-more.zip`, what `v001.zip` lacks of version 1: `python tests/golden_stores/make_more.py [DIRECTORY]`.

A store as it lies in a bucket, so with locators; with updates (one in several chunks, with what these share; factors of
rows and columns; a fix-up), a difference in the layout that came last, a file of each format that has a small one, pins
that lean on others and one that is let go of, a recipe of a merge, a suspicion, a pack in the trash, and the session of
a writer that was killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from thetastore.backends.remote import RemoteBackend
from thetastore.checkpoints.updating import RecipeUpdates
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.digest import Digest
from thetastore.merge_records import put_record
from thetastore.pins import Pin, write_pin
from thetastore.store import Store
from thetastore.testing import MemoryRequests
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import Recipe

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
NAME = "v001-more.zip"
URL = "https://example.org/models"
COMMITS = ("a" * 40, "b" * 40, "c" * 40)
RECORD = {"schema": 1, "kind": "three-way", "path": "model.safetensors", "taken_from_theirs": 1, "rules": []}
OF_OTHERS = (
    "torch/model.pt",
    "torch/legacy.pt",
    "gguf/aligned.gguf",
    "flax/state.msgpack",
    "onnx/model.onnx",
    "onnx/external.onnx",
    "tensorflow/checkpoint.index",
)
"""Files that frameworks wrote, of `tests/fixtures`."""
ROWS, COLUMNS = 1024, 320


def safetensors(**arrays: np.ndarray) -> bytes:
    """Return a file by the format's document; no code of ours takes part in what is compared."""
    header, at = {}, 0
    for name, array in arrays.items():
        dtype = {"float32": "F32", "uint16": "BF16"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def of_numpy(array: np.ndarray, is_packed: bool) -> bytes:
    """Return a file as numpy writes it; `np.savez` is as Python's patch level has its zip files."""
    out, packed = io.BytesIO(), io.BytesIO()
    np.save(out, array)
    if not is_packed:
        return out.getvalue()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("w.npy"), out.getvalue())
    return packed.getvalue()


def random(seed: int, *shape: int) -> np.ndarray:
    """Return numbers, always the same."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def recipes() -> dict[str, tuple[np.ndarray, Recipe]]:
    """Return what updates are made of: the base, and what is done to it."""
    wide = Recipe(COLUMNS, random(1, ROWS, 1), random(2, 1, COLUMNS) / 8, 0.5)
    small = Recipe(64, row_factors=1 + random(4, 48) / 8, column_factors=1 + random(5, 64) / 8)
    return {"wide": (np.zeros((ROWS, COLUMNS), np.float32), wide), "small": (random(3, 48, 64), small)}


def made(base: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Apply a recipe by the code of the store, whose arithmetic is specified."""
    out = np.empty_like(base)
    window = recipe.window(0, base.size)
    assert window is not None
    apply(window, memoryview(base.view("u1").ravel().data), "float32", memoryview(out.view("u1").ravel().data))
    return out


def turned() -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix of bfloat16, and one of which some rows have moved, this way or that by row, column and sign."""
    chance = np.random.default_rng(6)
    before = (random(7, 256, 64).view(np.uint32) >> 16).astype(np.uint16)
    rows = np.flatnonzero(chance.random(256) < 0.1)
    ways = chance.integers(0, 2, (256, 1)) ^ chance.integers(0, 2, (1, 64)) ^ (before >> 15)
    after = before.copy()
    after[rows] += np.where(ways[rows] == 0, 1, 0xFFFF).astype(np.uint16)
    return before, after


def files() -> dict[str, bytes]:
    """Return the files by their names, in the order in which they are stored."""
    bases = {name: base for name, (base, _) in recipes().items()}
    results = {name: made(base, recipe) for name, (base, recipe) in recipes().items()}
    results["small"] = results["small"].copy()
    results["small"].view(np.uint32)[7, [3, 9]] += 1  # what the recipe does not make
    before, after = turned()
    found = {
        "base.safetensors": safetensors(**bases),
        "updated.safetensors": safetensors(**results),
        "before.safetensors": safetensors(h=before),
        "after.safetensors": safetensors(h=after),
        "array.npy": of_numpy(random(8, 40, 30), is_packed=False),
        "arrays.npz": of_numpy(random(9, 40, 30), is_packed=True),
    }
    return found | {name: (FIXTURES / name).read_bytes() for name in OF_OTHERS}


def far(stored: dict[str, bytes]) -> tuple[MemoryRequests, RemoteBackend]:
    """Return a bucket with these files."""
    requests = MemoryRequests(stored)
    return requests, RemoteBackend(requests, "test://golden", pause=lambda seconds: None)


def make(directory: Path) -> Path:
    """Make the store in a directory; return its file.

    Raises:
        FileExistsError: there is one: a golden store is never made anew.
    """
    target = directory / NAME
    stored: dict[str, bytes] = {}
    manifests = _fill(stored)
    with zipfile.ZipFile(target, "x") as archive:
        for name in sorted(stored):
            archive.writestr(zipfile.ZipInfo(f"store/{name}"), stored[name], zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo("expected.json"), json.dumps(manifests, indent=1))
    return target


def _fill(stored: dict[str, bytes]) -> dict[str, list[str]]:
    """Fill a bucket; return, by name, the manifest of each file and its SHA-256."""
    requests, backend = far(stored)
    requests.clock = lambda: 1.8e9
    digests: dict[str, Digest] = {}
    before = {"updated.safetensors": "base.safetensors", "after.safetensors": "before.safetensors"}
    for name, raw in files().items():
        with Store.at(backend, create=True) as store:
            base, updates = digests.get(before.get(name, "")), None
            if name == "updated.safetensors" and base is not None:
                known = {tensor: recipe for tensor, (_, recipe) in recipes().items()}
                updates = RecipeUpdates(store.objects, store.get_manifest(base), known.get)
            digests[name] = store.put_file(io.BytesIO(raw), base, updates).manifest_digest
    with Store.at(backend) as store:
        store.put_file(io.BytesIO(b"nothing names this"))
    write_pin(backend, Pin(URL, COMMITS[0], (digests["base.safetensors"],), refs=("refs/heads/main",)))
    rest = tuple(sorted(digest for name, digest in digests.items() if name != "base.safetensors"))
    write_pin(backend, Pin(URL, COMMITS[1], rest, (COMMITS[0],)))
    going = write_pin(backend, Pin(URL, COMMITS[2], (digests["array.npy"],), is_partial=True))
    backend.create(going.mark_name, b"")
    put_record(backend, digests["updated.safetensors"], RECORD)
    backend.create(f"suspects/{digests['array.npy']}", b"")
    with Store.at(backend) as store:
        collect(store.objects, lambda: roots_of(backend), Terms(0.0, 3600.0))
    Store.at(backend).begin_session()
    return {name: [str(digests[name]), hashlib.sha256(raw).hexdigest()] for name, raw in files().items()}


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
