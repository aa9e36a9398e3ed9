"""Named models with versions, from Python."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

import thetastore
from thetastore.errors import MalformedError, NoSuchModelError, StoreMissingError, UnsupportedError


@pytest.fixture
def models(tmp_path: Path) -> thetastore.Models:
    return thetastore.Models(tmp_path / "zoo", create=True)


def weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((40, 50), np.float32) for name in ("a", "b")}


def test_versions_are_read_by_number_by_tag_and_the_newest_without(models) -> None:
    for seed in (1, 2):
        models.put("org/bert", weights(seed), f"seed {seed}", author="ada", metadata={"seed": str(seed)})
    models.tag("org/bert@v1", "stable")

    for name, seed in (("org/bert@v1", 1), ("org/bert@stable", 1), ("org/bert@2", 2), ("org/bert", 2)):
        assert np.array_equal(models[name]["b"][:], weights(seed)["b"])
    assert list(models) == ["org/bert"]
    assert "org/bert@v2" in models
    assert "org/bert@v3" not in models
    log = models.log("org/bert")
    assert [(version.name, version.message) for version in log] == [
        ("org/bert@v2", "seed 2"),
        ("org/bert@v1", "seed 1"),
    ]
    assert log[0].metadata == {"seed": "2"}
    assert models.tags("org/bert") == {"stable": "v1"}


def test_a_pin_means_the_same_bytes_when_the_name_has_moved_on(models) -> None:
    models.put("bert", weights(1))
    pinned = models.pin("bert")

    models.put("bert", weights(2))

    model = thetastore.open(pinned)
    assert np.array_equal(model["a"][:], weights(1)["a"])
    assert isinstance(model, thetastore.NamedModel)
    assert (model.name, model.version, model.pin()) == ("bert", "v1", pinned)
    assert [version.number for version in model.log()] == [1]


def test_handles_travel_by_pickle_and_the_whole_mapping_too(models) -> None:
    model = models.put("bert", weights(1))

    again, mapping = pickle.loads(pickle.dumps((model, models)))

    assert np.array_equal(again["a"][:], weights(1)["a"])
    assert list(mapping) == ["bert"]
    assert np.array_equal(pickle.loads(pickle.dumps(model["b"]))[:], weights(1)["b"])


def test_the_same_weights_again_are_the_same_version(models) -> None:
    models.put("bert", weights(1))

    assert models.put("bert", weights(1)).version == "v1"


def test_a_directory_with_the_same_weights_twice_opens_as_the_safetensors(models, tmp_path: Path) -> None:
    source = models.put("bert", weights(1))
    (tmp_path / "model").mkdir()
    np.savez(tmp_path / "model" / "other.npz", x=np.arange(3))
    with thetastore.Store.open(models.url) as store:
        manifest = source.origin.manifest_digests[0]
        content = b"".join(store.read_file(store.get_manifest(manifest), manifest))
    (tmp_path / "model" / "model.safetensors").write_bytes(content)

    model = models.put("both", tmp_path / "model")

    assert list(model) == ["a", "b"]
    assert len(models.log("both")[0].files) == 2


def test_threads_put_versions_of_one_model_and_none_is_lost(models) -> None:
    def put(seed: int) -> None:
        models.put("bert", weights(seed), f"{seed}")

    threads = [threading.Thread(target=put, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = models.log("bert")
    assert [version.number for version in log] == [6, 5, 4, 3, 2, 1]
    assert {version.message for version in log} == {"0", "1", "2", "3", "4", "5"}
    for version in log:
        assert np.array_equal(models[version.name]["a"][:], weights(int(version.message))["a"])


def test_what_is_not_there_is_said_by_errors_that_are_builtins(models, tmp_path: Path) -> None:
    models.put("org/bert", weights(1))

    with pytest.raises(KeyError, match=r"did you mean 'org/bert'\?"):
        _ = models["org/brt"]
    with pytest.raises(NoSuchModelError, match="it has v1"):
        thetastore.open(f"{models.url}/org/bert@v2")
    with pytest.raises(FileNotFoundError):
        thetastore.Models(tmp_path / "nowhere")
    with pytest.raises(StoreMissingError):
        thetastore.open(tmp_path / "nowhere" / "x")
    with pytest.raises(ValueError, match="is a store"):
        thetastore.open(models.url)
    with pytest.raises(MalformedError):
        models.put("../x", weights(1))
    models.put("org/bert", weights(2))
    models.tag("org/bert@v1", "t")
    with pytest.raises(MalformedError, match="the tag 't' names org/bert@v1 already"):
        models.tag("org/bert@v2", "t")
    with pytest.raises(UnsupportedError, match="no array of numbers"):
        models.put("x", {"w": object()})
    assert "x" not in models


def test_a_deleted_model_is_no_longer_there(models) -> None:
    models.put("bert", weights(1))

    models.delete("bert")

    assert list(models) == []
    with pytest.raises(NoSuchModelError, match="was deleted"):
        _ = models["bert"]
