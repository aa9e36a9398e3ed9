"""`git theta fsck`: what is wrong is found, named in Git's words, and mended from wherever the weights still are."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from checkpoints import safetensors_bytes

WIDTH = 256


def model(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return safetensors_bytes(
        {name: rng.normal(0, 0.02, (1500, WIDTH)).astype(np.float32) for name in ("wte.weight", "lm_head.weight")}
    )


def rot(work, tensor: str, row: int, name: str = "model.st") -> None:
    """Flip a bit of the chunk that holds a row of a tensor."""
    with work.repository() as repository, repository.open_store() as store:
        digest = work.manifests[name]
        manifest = store.get_manifest(digest)
        wanted = next(one for one in manifest.tensors if one.name == tensor).offset + row * WIDTH * 4
        at = 0
        for chunk in manifest.chunks:
            if at <= wanted < at + chunk.raw_bytes:
                place = store.objects.catalog.snapshot().first(chunk.digest)
                path = f"{store.url}/{place.file_name}"
                break
            at += chunk.raw_bytes
    with open(path, "rb") as file:
        stored = bytearray(file.read())
    stored[place.offset + place.nbytes // 2] ^= 16
    with open(path, "wb") as file:
        file.write(stored)


@pytest.fixture
def model_repository(work):
    """Return a work tree with a committed model, of which only the pointer lies there."""
    work.manifests = {"model.st": work.put("model.st", model(1))}
    work.commit("the first one")
    return work


def test_a_sound_store_has_no_problems_at_any_level(model_repository):
    for level in ("listing", "tables", "stored", "raw"):
        done = model_repository.theta("fsck", "--level", level)

        assert (done.status, done.out) == (0, "")
        assert "no problems" in done.err


def test_what_is_lost_is_named_down_to_path_commit_tensor_and_rows(model_repository):
    rot(model_repository, "lm_head.weight", 1200)

    done = model_repository.theta("fsck")

    assert done.status == 1
    commit = model_repository.git("rev-parse", "--short", "HEAD").out.strip()
    assert f"lost: 'model.st' of commit {commit}" in done.out
    assert "tensor 'lm_head.weight', rows 1024 to 1499 of 1500" in done.out
    assert "wte" not in done.out
    assert "hint: git theta fsck --repair" in done.err
    assert model_repository.theta("fsck", "--level", "tables").status == 0
    values = json.loads(model_repository.theta("fsck", "--json").out)
    [lost] = values["lost"]
    assert values["schema"] == 1
    assert lost["parts"][0] == {"tensor": "lm_head.weight", "first_row": 1024, "stop_row": 1500, "raw_bytes": 487424}


def test_repair_brings_back_what_a_checked_out_file_has(model_repository):
    rot(model_repository, "lm_head.weight", 1200)
    (model_repository.path / "model.st").write_bytes(model(1))

    done = model_repository.theta("fsck", "--repair")

    assert done.status == 0, done.out + done.err
    assert "brought back: 1 object from '" in done.out
    assert model_repository.theta("fsck").status == 0
    assert list((model_repository.path / ".git/theta/damaged").iterdir())


def test_what_was_set_aside_is_deleted_as_is_said(model_repository):
    rot(model_repository, "lm_head.weight", 1200)
    (model_repository.path / "model.st").write_bytes(model(1))
    repaired = model_repository.theta("fsck", "--repair")
    aside = model_repository.path / ".git/theta/damaged"

    said = [line for line in repaired.err.splitlines() if "set aside" in line]
    assert "1 damaged file (" in said[0]
    assert said[0].endswith(": git theta fsck --delete-damaged")
    done = model_repository.theta("fsck", "--delete-damaged")

    assert (done.status, done.out.startswith("deleted 1 damaged file ("), done.err) == (0, True, "")
    assert not [*aside.iterdir()]
    assert model_repository.theta("fsck", "--delete-damaged").out == "nothing is set aside\n"
    assert "set aside" not in model_repository.theta("fsck").err
    assert model_repository.theta("fsck", "--repair", "--delete-damaged").status == 129


@pytest.mark.parametrize(("option", "begins"), [("--porcelain", "deleted\tdamaged/"), ("-q", "")])
def test_what_is_deleted_is_told_to_scripts_and_not_to_who_wants_quiet(model_repository, option, begins):
    rot(model_repository, "lm_head.weight", 1200)
    (model_repository.path / "model.st").write_bytes(model(1))
    model_repository.theta("fsck", "--repair")

    done = model_repository.theta("fsck", "--delete-damaged", option)

    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(begins)
    assert len(done.out.splitlines()) == bool(begins)


def test_what_cannot_be_had_stays_named_and_comes_from_a_clone_later(model_repository, tmp_path):
    shutil.copytree(model_repository.path, tmp_path / "copy")
    rot(model_repository, "wte.weight", 0)

    first = model_repository.theta("fsck", "--repair")
    again = model_repository.theta("fsck", "--level", "tables")
    mended = model_repository.theta("fsck", "--repair", "--from", str(tmp_path / "copy"))

    assert first.status == again.status == 1
    assert "tensor 'wte.weight', rows 0 to 1023 of 1500" in first.out
    assert "tensor 'wte.weight', rows 0 to 1023 of 1500" in again.out
    assert "--from" in first.err
    assert mended.status == 0, mended.out
    assert model_repository.theta("fsck").status == 0


def test_a_lost_manifest_is_made_again_from_a_copy_of_the_file(model_repository, tmp_path):
    (tmp_path / "backup").write_bytes(model(1))
    shutil.rmtree(model_repository.path / ".git/theta/packs")

    lost = model_repository.theta("fsck")
    done = model_repository.theta("fsck", "--repair", "--from", str(tmp_path / "backup"))

    assert lost.status == 1
    assert "all of it, as its manifest is lost" in lost.out
    assert done.status == 0, done.out + done.err
    assert model_repository.theta("fsck").status == 0


def test_a_remote_store_is_held_to_its_pins_and_repaired_from_the_local_one(model_repository, tmp_path):
    work = model_repository
    work.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    work.git("remote", "add", "origin", str(tmp_path / "bare.git"))
    work.git("config", "theta.url", str(tmp_path / "store"))
    assert work.theta("push", "origin", "main").status == 0
    assert work.theta("fsck", "--remote").status == 0
    shutil.rmtree(tmp_path / "store/packs")
    shutil.rmtree(tmp_path / "store/index")

    found = work.theta("fsck", "--remote", "origin")
    done = work.theta("fsck", "--remote", "--repair")

    assert found.status == 1
    assert "a file that was pushed up to commit" in found.out
    assert "all of it, as its manifest is lost" in found.out
    assert "from 'the local store'" in done.out
    assert done.status == 0, done.out + done.err
    assert work.theta("fsck", "--remote").status == 0


def test_rot_in_a_remote_store_is_met_and_mended_by_the_command_that_is_named(model_repository, tmp_path):
    work = model_repository
    work.git("config", "theta.url", str(tmp_path / "store"))
    assert work.theta("push").status == 0
    pack = max((tmp_path / "store" / "packs").iterdir(), key=lambda path: path.stat().st_size)
    stored = bytearray(pack.read_bytes())
    stored[len(stored) // 2] ^= 16
    pack.chmod(0o644)
    pack.write_bytes(stored)

    found = work.theta("fsck", "--remote", "--level", "stored")
    command = found.err.rpartition("hint: git theta ")[2].split()
    done = work.theta(*command)

    assert (found.status, command) == (1, ["fsck", "--remote", "--repair"])
    assert "brought back: 1 object from " in done.out
    assert done.status == 0, done.out + done.err
    assert work.theta("fsck", "--remote", "--level", "raw").status == 0


def test_with_a_budget_every_run_goes_on_where_the_last_one_stopped(model_repository):
    for seed in range(2, 5):
        model_repository.put(f"{seed}.st", model(seed))
    runs = [model_repository.theta("fsck", "--budget", "1KB") for _ in range(4)]
    again = model_repository.theta("fsck", "--budget", "1KB")

    assert [run.status for run in runs] == [0] * 4
    assert ["of 4 packs" in run.err for run in runs] == [True, True, True, False]
    assert "2 of 4 packs" in runs[1].err
    assert "1 of 4 packs" in again.err


@pytest.mark.parametrize("budget", ["", "ten", "10GB/10GB", "5 light-years", "-1s"])
def test_what_is_no_budget_is_refused_with_an_example(model_repository, budget):
    done = model_repository.theta("fsck", f"--budget={budget or ' '}")

    assert done.status == 2
    assert "10GB/10min" in done.err


def test_without_a_store_it_names_the_way_to_one(work):
    done = work.theta("fsck")

    assert done.status == 2
    assert "nothing is stored here" in done.err


@pytest.mark.parametrize("what", ["packs", "store"])
def test_where_no_remote_store_answers_what_is_checked_out_has_to_be_here_and_is_stored_again(
    model_repository, tmp_path, what
):
    work = model_repository
    (work.path / "model.st").write_bytes(model(1))
    work.git("config", "theta.url", str(tmp_path / "unmounted"))
    shutil.rmtree(work.path / ".git/theta" / ("packs" if what == "packs" else ""))

    done = work.theta("fsck", "--repair")

    assert done.status == 0, done.out + done.err
    assert "brought back:" in done.out
    assert f"could not be asked: there is no store at '{tmp_path / 'unmounted'}'" in done.err
    assert work.theta("fsck").status == 0
    assert work.theta("status").status == 0


def test_older_versions_that_a_clone_never_had_are_not_asked_for_where_no_remote_store_answers(
    model_repository, tmp_path
):
    work = model_repository
    work.put("model.st", model(2))
    work.commit("the second one")
    work.git("config", "theta.url", str(tmp_path / "store"))
    assert work.theta("push").status == 0
    shutil.rmtree(work.path / ".git/theta")
    assert work.theta("fetch").status == 0
    (tmp_path / "store").rename(tmp_path / "unmounted")

    done = work.theta("fsck")
    (tmp_path / "unmounted").rename(tmp_path / "store")

    assert done.status == 0, done.out + done.err
