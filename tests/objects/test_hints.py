"""The tables that adding looks into can be made anew, and then find what they found before."""

from __future__ import annotations

import io

import numpy as np
from checkpoints import safetensors_bytes

from thetastore.cli import main as cli
from thetastore.digest import Digest, Kind
from thetastore.packs.locator import read_locator
from thetastore.store import Store


def rows(seed: int, count: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (count, 300)).astype(np.float32)


def put(store: Store, weights: dict[str, np.ndarray]) -> set[str]:
    """Store a model; return the codecs of the chunks of its tensors."""
    digest = store.put_file(io.BytesIO(safetensors_bytes(weights))).manifest_digest
    chunks = store.get_manifest(digest).chunks
    return {store.objects.entry(chunk.digest).codec for chunk in chunks if chunk.raw_bytes > 4096}


def names(store: Store, directory: str) -> list[str]:
    return sorted(name.rpartition("-")[2] for name in store.backend.list(directory))


def test_families_and_anchors_are_made_anew_from_what_is_stored(store_path, capsys):
    shifted = np.concatenate([rows(7, 10), rows(2)])
    with Store.open(store_path, create=True) as store:
        put(store, {"a": rows(1), "b": rows(2)})
        put(store, {"b and more": shifted})
        store.seal()
        families = names(store, "families")
        for directory in ("families", "anchors"):
            for name in list(store.backend.list(directory)):
                store.backend.delete(name)
    with Store.open(store_path) as store:
        assert put(store, {"other": np.concatenate([rows(8, 10), rows(1)])}) == {"planes"}

    assert cli.main(["mend", "--hints", store_path]) == 0

    assert "3 models filed" in capsys.readouterr().out
    with Store.open(store_path) as store:
        assert set(families) <= set(names(store, "families"))
        assert put(store, {"a": rows(1) + np.float32(1e-9), "b": rows(2)}) == {"difference", "planes"}
        assert "copies" in put(store, {"again": np.concatenate([rows(9, 10), rows(2)])})


def test_hints_of_an_empty_store_are_none(store_path, capsys):
    Store.open(store_path, create=True).close()

    assert cli.main(["mend", "--hints", store_path]) == 0

    assert "0 models filed, 0 anchors" in capsys.readouterr().out


def test_a_model_is_filed_once_however_often_the_tables_are_made(store_path):
    with Store.open(store_path, create=True) as store:
        put(store, {"a": rows(1)})
    for _ in range(2):
        assert cli.main(["mend", "--hints", store_path]) == 0

    with Store.open(store_path) as store:
        filed = names(store, "families")
        assert len(filed) == 4  # by its name, its form, and two halves of a sketch
        assert len(set(map(Digest.parse, filed))) == 1


def test_locators_of_a_store_that_may_be_published_are_made_with_the_other_hints(store_path, capsys):
    with Store.open(store_path, create=True) as store:
        digest = store.put_file(io.BytesIO(safetensors_bytes({"a": rows(1)}))).manifest_digest
        store.seal()
        assert names(store, "locators") == []

    for _ in range(2):
        assert cli.main(["mend", "--hints", store_path]) == 0
        assert "1 locators written" in capsys.readouterr().out

    with Store.open(store_path) as store:
        found = read_locator(store.backend, digest, 8 << 20)
        assert found.manifest == bytes(store.objects.get(Kind.MANIFEST, digest))
        for chunk, located in found.objects.items():
            assert located.place in store.objects.catalog.snapshot().find(chunk)
