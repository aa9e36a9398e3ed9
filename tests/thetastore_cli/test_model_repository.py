"""A model repository without Git, by its command line."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thetastore.arrays import read_array
from thetastore.checkpoints.tensors import TensorReader
from thetastore.store import Store

PROGRAMS = Path(sys.executable).parent


def same(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


def test_versions_are_put_listed_and_got_back_byte_for_byte(run, place) -> None:
    first = run("put", "zoo/org/bert", "a.safetensors", "-m", "first try")
    second = run("put", "zoo/org/bert", "b.safetensors", "-m", "longer", "--as", "a.safetensors")

    assert (first.out, second.out) == ("org/bert@v1\n", "org/bert@v2\n")
    log = run("log", "zoo/org/bert").out.splitlines()
    assert [line.split()[0] for line in log] == ["v2", "v1"]
    assert "ada" in log[0]
    assert log[1].endswith("first try")
    assert run("ls", "zoo").out.split()[0] == "org/bert@v2"
    for version, source in (("@v1", "a"), ("@1", "a"), ("@v2", "b"), ("", "b")):
        assert run("get", f"zoo/org/bert{version}", "--to", "back", "--force").status == 0
        assert same(place / "back", place / f"{source}.safetensors")


def test_what_is_nearly_the_same_is_stored_as_the_difference(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")
    before = sum(path.stat().st_size for path in (place / "zoo" / "packs").iterdir())
    run("put", "zoo/bert", "b.safetensors")
    after = sum(path.stat().st_size for path in (place / "zoo" / "packs").iterdir())

    assert after - before < (place / "b.safetensors").stat().st_size / 20


def test_the_same_files_again_make_no_new_version(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")

    again = run("put", "zoo/bert", "a.safetensors", "-m", "again")

    assert again.out == "bert@v1\n"
    assert "nothing has changed" in again.err
    assert len(run("log", "zoo/bert").out.splitlines()) == 1


def test_a_directory_is_one_model_without_what_is_hidden(run, place) -> None:
    model = place / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / ".cache").mkdir()
    (model / ".cache" / "x").write_text("x")
    (model / ".gitattributes").write_text("x")
    (model / "config.json").write_text("{}")
    (model / "1_Pooling" / "config.json").write_text("[]")
    os.link(place / "a.safetensors", model / "model-00001-of-00002.safetensors")
    os.link(place / "b.safetensors", model / "model-00002-of-00002.safetensors")

    put = run("put", "zoo/bert", "model")
    got = run("get", "zoo/bert")

    assert "left out, as hidden or no files: .cache/, .gitattributes" in put.err
    assert got.status == 0
    found = sorted(str(path.relative_to(place / "bert")) for path in (place / "bert").rglob("*") if path.is_file())
    assert found == [
        *("1_Pooling/config.json", "config.json", "model-00001-of-00002.safetensors"),
        "model-00002-of-00002.safetensors",
    ]
    assert all(same(place / "bert" / path, model / path) for path in found)
    only = run("get", "zoo/bert", "--to", "only", "-I", "*.json")
    assert sorted(path.name for path in (place / "only").rglob("*.*")) == ["config.json", "config.json"]
    assert "1_Pooling/config.json" in only.out


def hugging_face_cache(place: Path) -> Path:
    hub = place / "hub"
    for name, seed in (("org--bert", "a"), ("gpt2", "b")):
        model = hub / f"models--{name}"
        (model / "blobs").mkdir(parents=True)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("aaaa")
        os.link(place / f"{seed}.safetensors", model / "blobs" / "123")
        for revision in ("aaaa", "bbbb"):
            (model / "snapshots" / revision).mkdir(parents=True)
            (model / "snapshots" / revision / "model.safetensors").symlink_to("../../blobs/123")
        (model / "snapshots" / "bbbb" / "more.txt").write_text("x")
    return hub


def test_the_cache_of_hugging_face_is_taken_in_one_command(run, place) -> None:
    hub = hugging_face_cache(place)

    done = run("put", "zoo", hub)

    assert done.out == "gpt2@v1\norg/bert@v1\n"
    assert run("log", "zoo/org/bert").out.rstrip().endswith("Hugging Face org/bert@aaaa")
    run("get", "zoo/org/bert", "--to", "back")
    assert same(place / "back", place / "a.safetensors")
    assert run("put", "zoo", hub, "--json").values["models"][0]["is_new"] is False
    assert run("put", "zoo/copies/bert", hub / "models--org--bert").out == "copies/bert@v1\n"


def test_some_tensors_are_had_as_a_smaller_checkpoint(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")

    done = run("get", "zoo/bert", "--tensors", "layers.[01].*", "--tensors", "layers.7.weight")

    assert done.out.startswith("bert.safetensors")
    assert done.out.endswith("3 of 8 tensors\n")
    with Store.open("zoo") as store, (place / "bert.safetensors").open("rb") as stream:
        digest, manifest = store.put_file(stream)
        part = TensorReader(store.objects, store.pool, manifest, digest)
        with (place / "a.safetensors").open("rb") as whole_stream:
            whole_digest, whole_manifest = store.put_file(whole_stream)
        whole = TensorReader(store.objects, store.pool, whole_manifest, whole_digest)
        assert [tensor.name for tensor in manifest.tensors] == [f"layers.{n}.weight" for n in (0, 1, 7)]
        for tensor in manifest.tensors:
            assert (read_array(part, tensor.name) == read_array(whole, tensor.name)).all()


def test_tags_name_versions_and_move_only_by_force(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")
    run("put", "zoo/bert", "b.safetensors")

    assert run("tag", "zoo/bert@v1", "prod").out == "bert@prod  bert@v1\n"
    assert run("tag", "zoo/bert@v1", "prod").status == 0
    refused = run("tag", "zoo/bert@v2", "prod")
    assert refused.status == 2
    assert "the tag 'prod' names bert@v1 already" in refused.err
    assert run("tag", "zoo/bert", "prod", "--force").out == "bert@prod  bert@v2\n"
    assert run("tag", "zoo/bert").out == "prod  v2\n"
    assert "(prod)" in run("log", "zoo/bert").out.splitlines()[0]
    assert run("tag", "-d", "zoo/bert", "prod").status == 0
    assert run("tag", "zoo/bert").out == ""
    assert "has no tag 'prod'" in run("tag", "-d", "zoo/bert", "prod").err
    assert "cannot be a tag" in run("tag", "zoo/bert", "v7").err


def test_a_removed_model_is_gone_but_for_tagged_versions_and_its_numbers_go_on(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")
    run("tag", "zoo/bert", "kept")

    gone = run("rm", "zoo/bert")

    assert "kept by tags: kept" in gone.err
    assert run("ls", "zoo").out == ""
    missing = run("get", "zoo/bert")
    assert missing.status == 2
    assert "was deleted" in missing.err
    assert run("get", "zoo/bert@kept", "--to", "back").status == 0
    assert run("put", "zoo/bert", "a.safetensors").out == "bert@v3\n"
    assert [line.split()[0] for line in run("log", "zoo/bert").out.splitlines()] == ["v3"]


def test_a_version_is_copied_to_another_store_and_only_what_lacks_is_sent(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors", "-m", "first")
    run("put", "zoo/bert", "b.safetensors")
    run("init", "other")

    first = run("cp", "zoo/bert@v1", "other", "--json").values
    second = run("cp", "zoo/bert@v2", "other/renamed", "--json").values

    assert (first["name"], first["version"], second["name"]) == ("bert", 1, "renamed")
    assert second["stored_bytes"] < first["stored_bytes"] / 10
    assert run("log", "other/bert").out.rstrip().endswith("first")
    run("get", "other/renamed", "--to", "back")
    assert same(place / "back", place / "b.safetensors")
    assert "newest version there already" in run("cp", "zoo/bert@v1", "other").err
    assert run("cp", "zoo/bert", "zoo/alias", "--json").values["object_count"] == 0
    assert run("verify", "other").status == 0


def test_a_store_is_synced_with_all_versions_and_tags_and_a_second_time_sends_nothing(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")
    run("put", "zoo/bert", "b.safetensors")
    run("put", "zoo/gpt", "b.safetensors")
    run("tag", "zoo/bert@v1", "prod")
    run("put", "zoo/gone", "b.safetensors")
    run("rm", "zoo/gone")
    run("init", "other")

    dry = run("sync", "-n", "zoo", "other")
    assert dry.out == "bert: v1 to v2\ngone: v1 to v2\ngpt: v1\ntag bert/prod\n"
    assert run("ls", "other").out == ""
    assert run("sync", "zoo", "other").out == dry.out

    assert run("ls", "other", "--json").values["models"] == run("ls", "zoo", "--json").values["models"]
    assert run("log", "other/bert", "--json").values["versions"] == run("log", "zoo/bert", "--json").values["versions"]
    run("get", "other/bert@prod", "--to", "back")
    assert same(place / "back", place / "a.safetensors")
    again = run("sync", "zoo", "other", "--json").values
    assert again["object_count"] == 0
    assert run("sync", "zoo", "other").out == ""
    run("put", "zoo/bert", "a.safetensors")
    assert run("sync", "zoo", "other").out == "bert: v3\n"


def test_a_sync_leaves_alone_what_the_other_store_has_of_its_own(run, place) -> None:
    run("init", "other")
    run("put", "zoo/bert", "a.safetensors")
    run("put", "zoo/gpt", "a.safetensors")
    run("put", "other/bert", "b.safetensors")

    done = run("sync", "zoo", "other")

    assert done.status == 1
    assert done.out == "bert: left alone: the other store has its own v1\ngpt: v1\n"
    run("get", "other/bert", "--to", "back")
    assert same(place / "back", place / "b.safetensors")
    ahead = run("sync", "other", "zoo", "gpt")
    assert ahead.status == 0
    run("put", "other/gpt", "b.safetensors")
    assert run("sync", "zoo", "other", "gpt").out == "gpt: left alone: the other store has its own v2\n"
    assert run("sync", "other", "zoo", "gpt").out == "gpt: v2\n"


def test_a_sync_gives_no_tag_to_a_version_that_is_another_in_the_other_store(run, place) -> None:
    run("init", "other")
    run("put", "zoo/bert", "a.safetensors")
    run("sync", "zoo", "other")
    run("put", "zoo/bert", "b.safetensors")
    run("put", "other/bert", "a.safetensors", "b.safetensors")
    run("tag", "zoo/bert@v1", "first")
    run("tag", "zoo/bert@v2", "prod")

    done = run("sync", "zoo", "other")

    assert done.status == 1
    assert done.out == (
        "bert: left alone: the other store has its own v2\n"
        "tag bert/first\n"
        "tag bert/prod: left alone: the other store has its own v2\n"
    )
    assert run("tag", "other/bert", "--json").values["tags"].keys() == {"first"}
    run("get", "other/bert@first", "--to", "back")
    assert same(place / "back", place / "a.safetensors")


def test_a_get_that_was_broken_off_goes_on_and_replaces_other_files_only_by_force(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors", "b.safetensors")
    run("get", "zoo/bert")
    (place / "bert" / "b.safetensors").unlink()

    again = run("get", "zoo/bert").out.splitlines()

    assert again[0].endswith("was there")
    assert not again[1].endswith("was there")
    (place / "bert" / "a.safetensors").write_bytes(b"mine")
    refused = run("get", "zoo/bert")
    assert refused.status == 2
    assert "it exists with other bytes: --force replaces it" in refused.err
    assert (place / "bert" / "a.safetensors").read_bytes() == b"mine"
    assert run("get", "zoo/bert", "--force").status == 0
    assert same(place / "bert" / "a.safetensors", place / "a.safetensors")


def test_a_file_does_not_go_out_of_the_directory_through_a_link(run, place) -> None:
    (place / "model" / "sub").mkdir(parents=True)
    (place / "model" / "sub" / "x").write_text("x")
    (place / "model" / "y").write_text("y")
    run("put", "zoo/bert", "model")
    (place / "elsewhere").mkdir()
    (place / "bert").mkdir()
    (place / "bert" / "sub").symlink_to(place / "elsewhere")

    refused = run("get", "zoo/bert")

    assert refused.status == 2
    assert "leads out of 'bert'" in refused.err
    assert not list((place / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("get", "zoo/brt"), "there is no model 'brt' in '{place}/zoo'; did you mean 'bert'?"),
        (("get", "zoo/bert@v9"), "'bert' has no version 'v9' in '{place}/zoo': it has v1 and the tags 'prod'"),
        (("get", "zoo/bert@prd"), "did you mean 'prod'?"),
        (("get", "zoo/bert@v0"), "has no version 'v0'"),
        (("get", "zoo/bert", "--tensors", "layer.0.*"), "near names: 'layers.0.weight'"),
        (("get", "zoo/bert", "-I", "*.json"), "no file matches '*.json'; there are 'a.safetensors'"),
        (("get", "zoo"), "'zoo' is a store: name a model in it: zoo/NAME (thetastore ls zoo)"),
        (("get", "nowhere/bert"), "there is no thetastore at 'nowhere/bert', nor at one of the places above it"),
        (("put", "zoo/bert", "nothing"), "'nothing': No such file or directory"),
        (("put", "zoo/../x", "a.safetensors"), "'../x' is no name of a model"),
        (("put", "zoo/bert@v3", "a.safetensors"), "a new one gets the next number"),
        (("put", "zoo/bert", "a.safetensors", "--base", "x"), "there is no model 'x'"),
        (("put", "zoo/bert", "a.safetensors", "a.safetensors"), "are both called 'a.safetensors'"),
        (("put", "zoo/bert", "a.safetensors", "b.safetensors", "--as", "x"), "--as is for a single file"),
        (("put", "zoo/bert", "a.safetensors", "--as", "../x"), "'../x' is not a path"),
        (("put", "zoo/bert", "empty"), "there is no file in 'empty'"),
        (("log", "zoo/brt"), "did you mean 'bert'?"),
        (("show", "zoo/bert//layers.0.wieght"), "did you mean 'layers.0.weight'"),
        (("show", "zoo/bert", "--stats"), "--stats is of one tensor"),
        (("rm", "zoo/bert@v1"), "only whole models are removed"),
        (("cp", "zoo/brt", "zoo/x"), "did you mean 'bert'?"),
        (("sync", "zoo", "zoo", "brt"), "there is no model 'brt'"),
    ],
)
def test_errors_name_what_was_meant(run, place, arguments: tuple[str, ...], words: str) -> None:
    run("put", "zoo/bert", "a.safetensors")
    run("tag", "zoo/bert", "prod")
    (place / "empty").mkdir()
    before = sorted(place.iterdir())

    done = run(*arguments)

    assert done.status == 2
    assert done.out == ""
    assert words.format(place=place) in done.err
    assert sorted(place.iterdir()) == before


def test_a_tensor_is_shown_with_what_its_numbers_look_like(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")

    shown = run("show", "zoo/bert")
    figures = run("show", "zoo/bert@v1//layers.0.weight", "--stats", "--json").values

    assert "bert@v1" in shown.out
    assert "layers.7.weight" in shown.out
    assert figures["shape"] == [64, 256]
    assert figures["nan_count"] == 0
    assert len(run("show", "zoo/bert", "--json").values["files"][0]["tensors"]) == 8


def test_a_version_comes_from_standard_input(place) -> None:
    program = str(PROGRAMS / "thetastore")
    with (place / "a.safetensors").open("rb") as stream:
        command = [program, "put", "zoo/bert", "-", "--as", "model.safetensors"]
        done = subprocess.run(command, stdin=stream, capture_output=True, text=True, check=True)

    assert done.stdout == "bert@v1\n"
    subprocess.run([program, "get", "zoo/bert"], capture_output=True, check=True)
    assert same(place / "model.safetensors", place / "a.safetensors")


def test_names_are_short_inside_of_a_store(run, place, monkeypatch) -> None:
    monkeypatch.chdir(place / "zoo")

    assert run("put", "bert", place / "a.safetensors").out == "bert@v1\n"
    assert run("ls", ".").out.startswith("bert@v1")


def test_a_version_that_was_let_go_of_and_collected_says_so(run, place) -> None:
    run("put", "zoo/bert", "a.safetensors")
    run("rm", "zoo/bert")
    for pack in (place / "zoo" / "packs").iterdir():
        pack.unlink()

    done = run("get", "zoo/bert@v1")

    assert done.status == 2
    assert "bert@v1 was let go of" in done.err


@pytest.mark.parametrize("command", ["du", "stats", "verify", "gc", "repack", "undelete", "mend"])
def test_a_command_about_a_whole_store_says_so_where_a_model_is_named(run, place, command: str) -> None:
    run("put", "zoo/bert", "a.safetensors")

    done = run(command, "zoo/bert")

    assert done.status == 2
    assert "'zoo/bert' is below a store, which this command looks at as a whole: " in done.err
    assert done.err.rstrip().endswith("/zoo")
