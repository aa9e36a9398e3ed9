"""A model repository without Git in a real bucket, by the command line and from Python."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import thetastore
from thetastore.cli.main import main
from thetastore.publishing.publisher import Publisher
from thetastore.publishing.subscriber import Subscriber


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    found = capsys.readouterr()
    assert status == 0, found.err
    return found.out


def weights(seed: int) -> dict[str, np.ndarray]:
    state = {f"layers.{n}": np.random.default_rng(n).standard_normal((300, 500), np.float32) for n in range(4)}
    state[f"layers.{seed % 4}"][seed] += 1
    return state


@pytest.fixture(
    params=[
        pytest.param("moto", marks=pytest.mark.xdist_group("moto")),
        pytest.param("seaweedfs", marks=pytest.mark.xdist_group("seaweedfs")),
    ]
)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    place = request.getfixturevalue(request.param).fresh()
    bucket = "/".join(place.url.split("/")[:3])
    monkeypatch.setenv("THETASTORE_OPTIONS", json.dumps({bucket: place.options}))
    return place


def test_models_are_put_listed_tagged_and_got_by_their_urls(place, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    url = place.url
    run(capsys, "init", url)
    models = thetastore.Models(url, storage_options=place.options)
    for seed in (1, 2):
        models.put("org/bert", weights(seed), f"seed {seed}")

    assert run(capsys, "ls", url).startswith("org/bert@v2")
    assert run(capsys, "tag", f"{url}/org/bert@v1", "prod") == "org/bert@prod  org/bert@v1\n"
    assert [line.split()[0] for line in run(capsys, "log", f"{url}/org/bert").splitlines()] == ["v2", "v1"]
    run(capsys, "get", f"{url}/org/bert@prod", "--to", "first.safetensors")
    run(capsys, "get", f"{url}/org/bert", "--tensors", "layers.[01]", "--to", "part.safetensors")
    assert run(capsys, "put", f"{url}/copy", "first.safetensors", "--as", "model.safetensors") == "copy@v1\n"
    copy, first = models["copy"], models["org/bert@v1"]
    assert [copy[name].digest for name in copy] == [first[name].digest for name in first]
    assert (tmp_path / "part.safetensors").stat().st_size < (tmp_path / "first.safetensors").stat().st_size * 0.6
    opened = thetastore.open(f"{url}/org/bert@prod", storage_options=place.options)
    assert np.array_equal(opened["layers.1"][:], weights(1)["layers.1"])
    with pytest.raises(KeyError, match="did you mean 'org/bert'"):
        thetastore.open(f"{url}/org/brt", storage_options=place.options)


def test_a_bucket_is_synced_into_a_directory_and_back_into_another_bucket(place, tmp_path, capsys) -> None:
    url, other = place.url, place.fresh().url.replace(place.url, place.url + "x")
    for store in (url, other, tmp_path / "zoo"):
        run(capsys, "init", store)
    models = thetastore.Models(url, storage_options=place.options)
    for seed in (1, 2, 3):
        models.put("bert", weights(seed))
    models.tag("bert@v2", "prod")

    first = run(capsys, "sync", url, tmp_path / "zoo")
    second = run(capsys, "sync", tmp_path / "zoo", other)
    run(capsys, "cp", f"{url}/bert@v1", f"{other}/alias")

    assert first == second == "bert: v1 to v3\ntag bert/prod\n"
    there = thetastore.Models(other, storage_options=place.options)
    for name, seed in (("bert@v1", 1), ("bert@prod", 2), ("bert", 3), ("alias", 1)):
        assert all(np.array_equal(there[name][key][:], value) for key, value in weights(seed).items())
    assert run(capsys, "sync", url, other) == ""


def test_writers_of_one_model_in_a_bucket_lose_no_version(place, capsys) -> None:
    run(capsys, "init", place.url)

    def put(seed: int) -> None:
        thetastore.Models(place.url, storage_options=place.options).put("bert", weights(seed), str(seed))

    threads = [threading.Thread(target=put, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = thetastore.Models(place.url, storage_options=place.options).log("bert")
    assert [version.number for version in log] == [4, 3, 2, 1]
    assert {version.message for version in log} == {"0", "1", "2", "3"}


def test_published_weights_are_followed_through_a_bucket(place, capsys) -> None:
    run(capsys, "init", place.url)
    state = weights(0)
    with (
        Publisher(place.url, "policy", anchor_every=3, storage_options=place.options) as publisher,
        Subscriber(place.url, "policy", storage_options=place.options) as subscriber,
    ):
        for number in range(1, 6):
            publisher.publish(state)
            update = subscriber.update()
            assert update is not None
            assert (update.number, update.is_whole) == (number, number == 1)
            assert all(np.array_equal(subscriber.tensors[name], state[name]) for name in state)
            state["layers.2"][::7, ::9] += 0.25
    with Subscriber(place.url, "policy", storage_options=place.options) as late:
        update = late.update()
        assert update is not None
        assert (update.number, update.is_whole, update.difference_count) == (5, True, 1)
