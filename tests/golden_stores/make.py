"""Make the golden store of the version that the code has: `python tests/golden_stores/make.py [DIRECTORY]`.

It holds what every version must be able to read: two versions of a checkpoint, the second a difference from the
first; one in another element type; a file of unknown format; an empty one. Which bytes these are is written down
beside them, by the manifest's digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from thetastore.descriptor import VERSION
from thetastore.store import Store

RELEASED: tuple[int, ...] = ()
"""Versions of stores that a release has written; append-only. The first is the one that the freeze makes."""
HERE = Path(__file__).parent
EXPECTED = "expected.json"


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a file by the format's document; no code of ours takes part in what is compared."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": {"float32": "F32", "uint16": "BF16"}[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def files() -> list[bytes]:
    """Return the files of a golden store, always the same."""
    random = np.random.default_rng(1)
    first = {name: random.standard_normal((40, 64)).astype(np.float32) for name in ("a", "b")}
    second = {**first, "b": first["b"] * np.float32(1.0001)}
    half = {"h": (random.standard_normal(4096).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)}
    return [safetensors(first), safetensors(second), safetensors(half), bytes(range(256)) * 8, b""]


def make(directory: Path) -> Path:
    """Make the golden store of the present version in a directory; return its file.

    Raises:
        FileExistsError: there is one: a golden store is never made anew.
    """
    target = directory / f"v{VERSION:03d}.zip"
    expected = {}
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        with Store.open(scratch + "/store", create=True) as store:
            previous = None
            for raw in files():
                previous = store.put_file(io.BytesIO(raw), previous).manifest_digest
                expected[str(previous)] = hashlib.sha256(raw).hexdigest()
        for path in sorted(Path(scratch, "store").rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(scratch))
        archive.writestr(EXPECTED, json.dumps(expected, indent=1))
    return target


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
