"""Make the golden store of the version that the code has: `python tests/golden_stores/make.py [DIRECTORY]`.

A zip file of a store as it lies on disk (`store/`) and of a Git history whose pointers lead to it (`history.bundle`).
They hold what every version must be able to read: chunks in every representation that `put_file` chooses by itself
(coded, differences, copies, constants), a manifest with pages, models with versions and a tag, versions that were
published as differences, pins. Which bytes these are is written down beside them, in `expected.json`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from thetastore.descriptor import VERSION
from thetastore.named_models import Models
from thetastore.publishing.publisher import Publisher
from thetastore.store import Store

DRAFTS = (0,)
"""Versions that were never released. One store of the last draft is kept, as histories name its manifests for ever."""
RELEASED = (1,)
"""Versions of stores that a release has written; append-only."""
HERE = Path(__file__).parent
EXPECTED = "expected.json"
BUNDLE = "history.bundle"
MODEL = "org/tiny"
PUBLISHED = "policy"


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """Return a file by the format's document; no code of ours takes part in what is compared."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": {"float32": "F32", "uint16": "BF16", "uint8": "U8"}[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def files() -> dict[str, bytes]:
    """Return the files of a golden store by their names, always the same; `BEFORE` has their earlier versions."""
    random = np.random.default_rng(1)
    first = {name: random.standard_normal((16, 64)).astype(np.float32) for name in ("a", "b")}
    second = {**first, "b": first["b"] * np.float32(1.0001), "zeros": np.zeros((4, 64), np.float32)}
    values = random.standard_normal((64, 128)).astype(np.float32)
    half = (values.view(np.uint32) >> 16).astype(np.uint16)
    stepped = half + (random.random(half.shape) < np.where(np.abs(values) < 0.5, 0.6, 0.02))  # by exponents, one more
    rows = random.integers(1, 200, (1024, 32)).astype(np.float32)
    inserted = np.insert(rows, 100, rows[5] * 2, axis=0)
    many = {f"layer.{number:03d}": np.full(8, number % 7, np.uint8) for number in range(530)}
    changed = {**many, "layer.500": np.arange(8, dtype=np.uint8)}
    return {
        "model.safetensors": safetensors(first),
        "longer.safetensors": safetensors(second),
        "half.safetensors": safetensors({"h": half}),
        "stepped.safetensors": safetensors({"h": stepped.astype(np.uint16)}),
        "rows.safetensors": safetensors({"rows": rows}),
        "inserted.safetensors": safetensors({"rows": inserted}),
        "many.safetensors": safetensors(many),
        "changed.safetensors": safetensors(changed),
        "notes.bin": bytes(range(256)) * 8,
        "empty.bin": b"",
    }


BEFORE = {
    "longer.safetensors": "model.safetensors",
    "stepped.safetensors": "half.safetensors",
    "inserted.safetensors": "rows.safetensors",
    "changed.safetensors": "many.safetensors",
}
"""Which file is an earlier version of another."""


def commits() -> list[dict[str, bytes]]:
    """Return what each commit of the history has, by path."""
    made = files()
    model, rows, many = "model.safetensors", "rows.safetensors", "many.safetensors"
    first = {model: made[model], rows: made[rows], "notes.bin": made["notes.bin"], many: made[many]}
    later = {earlier: made[name] for name, earlier in BEFORE.items()}
    return [first, first | later]


def weights(number: int) -> dict[str, np.ndarray]:
    """Return the tensors of a published version."""
    values = np.random.default_rng(2).standard_normal((32, 32)).astype(np.float32)
    values[:number] *= np.float32(1.25)
    return {"w": values}


def make(directory: Path) -> Path:
    """Make the golden store of the present version in a directory; return its file.

    Raises:
        FileExistsError: there is one: a golden store is never made anew.
    """
    target = directory / f"v{VERSION:03d}.zip"
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        place = Path(scratch)
        manifests = _fill(place / "store")
        oids = _history(place, place / "store")
        expected = {"files": manifests, "commits": oids}
        for path in sorted((place / "store").rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(place))
        archive.write(place / BUNDLE, BUNDLE)
        archive.writestr(EXPECTED, json.dumps(expected, indent=1))
    return target


def _fill(store_path: Path) -> dict[str, str]:
    """Make the store; return the SHA-256 of what each manifest stands for."""
    found = {}
    with Store.open(str(store_path), create=True) as store:
        digests = {}
        for name, raw in files().items():
            digests[name] = store.put_file(io.BytesIO(raw), digests.get(BEFORE.get(name, ""))).manifest_digest
            found[str(digests[name])] = hashlib.sha256(raw).hexdigest()
    with tempfile.TemporaryDirectory() as scratch:
        for number in (1, 2):
            path = Path(scratch, "model.safetensors")
            path.write_bytes(files()["model.safetensors" if number == 1 else "longer.safetensors"])
            Models(str(store_path)).put(MODEL, path, f"version {number}")
    Models(str(store_path)).tag(f"{MODEL}@v1", "stable")
    with Publisher(str(store_path), PUBLISHED) as publisher:
        for number in range(3):
            publisher.publish(weights(number))
    return found


def _history(place: Path, store_path: Path) -> list[dict[str, str]]:
    """Commit files and push; return the SHA-256 of each file by its path, commit by commit."""
    home = place / "home"
    home.mkdir()
    (home / "gitconfig").write_text("[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n")
    programs = os.path.dirname(sys.executable)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))},
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "PATH": programs + os.pathsep + os.environ["PATH"],
    }

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=place / "work", env=environment, check=True, capture_output=True)

    (place / "work").mkdir()
    git("init", "-q", "--bare", "../origin.git")
    git("init", "-q")
    git("theta", "install", "--local")
    git("theta", "track", "*.safetensors", "*.bin")
    git("config", "theta.url", str(store_path))
    for number, wanted in enumerate(commits()):
        for path, raw in wanted.items():
            (place / "work" / path).write_bytes(raw)
        git("add", ".")
        git("commit", "-q", "-m", f"commit {number}")
    git("push", "-q", "../origin.git", "main")
    git("bundle", "create", "-q", f"../{BUNDLE}", "main")
    return [{path: hashlib.sha256(raw).hexdigest() for path, raw in wanted.items()} for wanted in commits()]


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
