"""What Git-Theta's end-to-end tests do, with our command: commit, checkout, smudge, sparse, low-rank, ia3.

The side files are made as its helpers make them: `TENSOR/data` and so on, values of numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from git_work import GitWork, home_in, read_model, weights, write_model

MODEL = "model.safetensors"
SHAPES = {"encoder.w1": (64, 48), "encoder.w10": (64, 48), "encoder.b": (64,), "head": (10, 64)}


def model(seed: int) -> dict[str, np.ndarray]:
    return {name: weights(seed + number, *shape) for number, (name, shape) in enumerate(SHAPES.items())}


@pytest.fixture(name="work")
def work_with_a_committed_model(tmp_path: Path) -> GitWork:
    work = GitWork(tmp_path / "work", home_in(tmp_path / "home")).ready(MODEL)
    write_model(work.path / MODEL, model(1))
    work.git("add", "-A")
    work.git("commit", "-qm", "first")
    return work


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_commit_keeps_a_pointer_in_git_and_the_weights_in_the_store(work: GitWork) -> None:
    text = work.git("show", f"HEAD:{MODEL}")

    assert len(text) < 2000
    assert all(name in text for name in SHAPES)
    assert work.git("status", "--porcelain") == ""


def test_checkout_brings_back_each_version(work: GitWork) -> None:
    write_model(work.path / MODEL, model(100))
    raw = (work.path / MODEL).read_bytes()
    work.git("commit", "-qam", "second")

    work.git("checkout", "-q", "HEAD~1")
    assert same(read_model(work.path / MODEL), model(1))
    work.git("checkout", "-q", "main")
    assert (work.path / MODEL).read_bytes() == raw


def test_smudge_gives_a_fresh_clone_the_model(work: GitWork, tmp_path: Path) -> None:
    clone = GitWork(tmp_path / "clone", work.environment, work.path)
    clone.git("theta", "install", "--local")
    clone.git("theta", "pull")

    assert same(read_model(clone.path / MODEL), model(1))
    assert clone.git("status", "--porcelain") == ""


def sparse_update(base: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    places = np.sort(np.random.default_rng(7).choice(64 * 48, 30, replace=False)).astype("i4")
    values = weights(8, 30)
    side = {
        "encoder.w1/data": values,
        "encoder.w1/indices": places,
        "encoder.w1/indptr": np.array([0, 30], "i4"),
        "encoder.w1/shape": np.array([64, 48]),
    }
    after = base["encoder.w1"].copy()
    after.ravel()[places] += values
    return side, base | {"encoder.w1": after}


def low_rank_update(base: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    left, right = weights(8, 64, 1), weights(9, 1, 48)
    return {"encoder.w1/R": left, "encoder.w1/C": right}, base | {"encoder.w1": base["encoder.w1"] + left @ right}


def ia3_update(base: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    scale = 1 + weights(8, 64, 1)
    return {"encoder.w1/ia3": scale}, base | {"encoder.w1": base["encoder.w1"] * scale}


@pytest.mark.parametrize("how", ["option", "option of the code", "environment"])
@pytest.mark.parametrize("kind", ["sparse", "low-rank", "ia3"])
def test_an_update_by_a_side_file_is_applied_committed_and_checked_out(
    kind: str, how: str, work: GitWork, tmp_path: Path
) -> None:
    side, wanted = {"sparse": sparse_update, "low-rank": low_rank_update, "ia3": ia3_update}[kind](model(1))
    path = str(tmp_path / "update.safetensors")
    write_model(Path(path), side)

    if how == "environment":
        done = work.theta("add", MODEL, GIT_THETA_UPDATE_TYPE=kind, GIT_THETA_UPDATE_DATA_PATH=path)
    else:
        name = "--update-path" if how == "option" else "--update-data"
        done = work.theta("add", MODEL, "--update-type", kind, name, path, "--checkpoint-type", "safetensors")

    assert done.status == 0, done.err
    assert same(read_model(work.path / MODEL), wanted)
    assert work.git("status", "--porcelain") == f"M  {MODEL}\n"
    work.git("commit", "-qm", "update")
    work.git("checkout", "-q", "HEAD~1")
    assert same(read_model(work.path / MODEL), model(1))
    work.git("checkout", "-q", "main")
    assert same(read_model(work.path / MODEL), wanted)


def test_a_dense_update_replaces_tensors_and_leaves_names_that_begin_alike_alone(work: GitWork, tmp_path: Path) -> None:
    after = weights(50, 64, 48)
    write_model(tmp_path / "update.safetensors", {"encoder.w1": after})

    done = work.theta("add", MODEL, "--update-type", "dense", "--update-path", str(tmp_path / "update.safetensors"))

    assert done.status == 0, done.err
    assert same(read_model(work.path / MODEL), model(1) | {"encoder.w1": after})


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (("add", MODEL, "--checkpoint-type", "pytorch"), {}, "--checkpoint-type is not needed"),
        (("add", MODEL), {"GIT_THETA_UPDATE_TYPE": "sparse"}, "GIT_THETA_UPDATE_DATA_PATH is not set"),
        (("env",), {"GIT_THETA_CHECKPOINT_TYPE": "pytorch"}, "seen from its bytes"),
        (("env",), {"GIT_THETA_MANUAL_MERGE": "True"}, "git theta mergetool"),
    ],
)
def test_what_it_has_and_we_need_not_says_what_replaces_it(
    words: tuple[str, ...], environment: dict[str, str], said: str, work: GitWork
) -> None:
    done = work.theta(*words, **environment)

    assert said in done.out + done.err


def test_a_plain_add_says_that_it_knows_nothing_of_an_update(work: GitWork) -> None:
    write_model(work.path / MODEL, model(60))

    done = work.run("git", "add", MODEL, GIT_THETA_UPDATE_TYPE="low-rank")

    assert done.status == 0
    assert "git theta add FILE applies the update" in done.err


def test_the_scope_of_install_is_taken_as_it_names_it(work: GitWork) -> None:
    assert "this repository" in work.theta("install", "--scope", "local").out
    assert work.theta("install", "--scope", "universe").status == 129


def test_models_are_saved_and_loaded_by_the_names_of_its_api(work: GitWork, monkeypatch: pytest.MonkeyPatch) -> None:
    from gitbridge.errors import UsageError
    from gitbridge.git_theta_api import load, load_from_git, save, save_to_git

    monkeypatch.chdir(work.path)
    for name in ("HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, work.environment[name])

    first = save_to_git(model(200), MODEL, "from memory", tag="v2")
    second = save(model(300), MODEL)

    assert work.git("rev-parse", "HEAD", "v2^{commit}").split() == [second, first]
    assert work.git("status", "--porcelain") == ""
    assert same(read_model(work.path / MODEL), model(300))
    assert same(load_from_git("v2", MODEL, "safetensors"), model(200))
    assert same(load("HEAD~2", MODEL, "safetensors", checkout=True), model(1))
    assert same(read_model(work.path / MODEL), model(1))
    with pytest.raises(UsageError, match="no branch is checked out"):
        save_to_git(model(1), MODEL, "detached")
    with pytest.raises(UsageError, match="known are pytorch"):
        load_from_git("v2", MODEL, "tensorflow")
