"""`git theta add --update-type`: the work tree has the merged file, the store the update, and every clone the bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from git_work import GitWork, home_in, read_model, weights, write_model

ROWS, COLUMNS, RANK = 400, 300, 4
FACTOR_BYTES = 4 * RANK * (ROWS + COLUMNS)
MODEL = "model.safetensors"


def base_model() -> dict[str, np.ndarray]:
    return {"a.w1": weights(1, ROWS, COLUMNS), "a.w10": weights(2, ROWS, COLUMNS), "a.bias": weights(3, ROWS)}


def low_rank(seed: int = 5, name: str = "a.w1") -> dict[str, np.ndarray]:
    return {f"{name}/R": weights(seed, ROWS, RANK), f"{name}/C": weights(seed + 1, RANK, COLUMNS)}


def added(base: np.ndarray, side: dict[str, np.ndarray], name: str = "a.w1") -> np.ndarray:
    """Add a product as everybody does, by a library."""
    return base + side[f"{name}/R"] @ side[f"{name}/C"]


@pytest.fixture(name="work")
def work_with_a_model(tmp_path: Path) -> GitWork:
    work = GitWork(tmp_path / "work", home_in(tmp_path / "home")).ready("*.safetensors", "*.gguf")
    write_model(work.path / MODEL, base_model())
    work.git("add", "-A")
    work.git("commit", "-qm", "base")
    return work


def snapshot(work: GitWork) -> tuple[str, bytes, str]:
    return work.git("ls-files", "-s"), (work.path / MODEL).read_bytes(), work.git("status", "--porcelain")


def test_a_low_rank_update_is_written_to_the_work_tree_and_stored_as_its_factors(work: GitWork, tmp_path: Path) -> None:
    side = low_rank()
    write_model(tmp_path / "side.safetensors", side)
    before = work.stored_bytes()

    done = work.theta("add", MODEL, "--update-type", "low-rank", "--update-path", str(tmp_path / "side.safetensors"))

    assert done.status == 0, done.err
    assert "low-rank, 1 of 3 tensors" in done.out
    assert work.stored_bytes() - before < FACTOR_BYTES + 6000
    assert work.git("status", "--porcelain") == f"M  {MODEL}\n"
    made = read_model(work.path / MODEL)
    assert np.allclose(made["a.w1"], added(base_model()["a.w1"], side), rtol=1e-5, atol=1e-7)
    assert np.array_equal(made["a.w10"], base_model()["a.w10"])
    raw = (work.path / MODEL).read_bytes()
    work.git("commit", "-qm", "update")
    clone = GitWork(tmp_path / "clone", work.environment, work.path)
    clone.git("theta", "install", "--local")
    clone.git("theta", "pull")
    assert (clone.path / MODEL).read_bytes() == raw
    assert clone.stored_bytes() < work.stored_bytes() + 4096
    assert clone.theta("fsck").status == 0


def test_a_file_that_the_user_merged_stays_as_it_is_and_takes_little(work: GitWork, tmp_path: Path) -> None:
    side = low_rank()
    write_model(tmp_path / "side.safetensors", side)
    write_model(work.path / MODEL, base_model() | {"a.w1": added(base_model()["a.w1"], side)})
    raw = (work.path / MODEL).read_bytes()
    before = work.stored_bytes()

    done = work.theta("add", MODEL, "--update-type", "low-rank", "--update-path", str(tmp_path / "side.safetensors"))

    assert done.status == 0, done.err
    assert (work.path / MODEL).read_bytes() == raw
    assert work.stored_bytes() - before < 4 * FACTOR_BYTES
    work.git("commit", "-qm", "update")
    work.git("checkout", "-q", "HEAD~1")
    work.git("checkout", "-q", "main")
    assert (work.path / MODEL).read_bytes() == raw


def test_the_base_may_be_another_file_of_another_revision(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())

    work.git("tag", "v1")
    done = work.theta(
        "add", "--base", f"v1:{MODEL}", "--update-path", str(tmp_path / "side.safetensors"), "tuned.safetensors"
    )
    assert done.status == 0, done.err
    assert not np.array_equal(read_model(work.path / "tuned.safetensors")["a.w1"], base_model()["a.w1"])


def test_a_directory_that_holds_nothing_of_the_update_is_refused(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())
    write_model(work.path / "other.safetensors", {"x": weights(30, 50, 50)})
    work.git("add", "-A")
    work.git("commit", "-qm", "other")

    done = work.theta("add", "--update-path", str(tmp_path / "side.safetensors"), MODEL, "other.safetensors")

    assert (done.status, "no tensor of 'other.safetensors'" in done.err) == (2, True)


def test_auto_finds_a_product_and_scales_by_itself(work: GitWork) -> None:
    model = base_model()
    model["a.w1"] = added(model["a.w1"], low_rank())
    model["a.w10"] = model["a.w10"] * (1 + weights(8, ROWS, 1))
    write_model(work.path / MODEL, model)
    raw = (work.path / MODEL).read_bytes()
    before = work.stored_bytes()

    done = work.theta("add", "--update-type", "auto", "--json", MODEL)

    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["schema"] == 1
    assert report["files"][0]["changed_count"] == 2
    assert work.stored_bytes() - before < 100_000
    work.git("commit", "-qm", "found")
    work.git("checkout", "-q", "HEAD~1")
    work.git("checkout", "-q", "main")
    assert (work.path / MODEL).read_bytes() == raw


def test_auto_on_a_dense_change_stores_it_as_ever(work: GitWork) -> None:
    write_model(
        work.path / MODEL, {name: array + weights(9, *array.shape, scale=1e-3) for name, array in base_model().items()}
    )

    done = work.theta("add", "--update-type", "auto", MODEL)

    assert done.status == 0, done.err
    assert "0 of 3 tensors" in done.out


BAD = {
    "another model": (low_rank(name="b.w1"), "2 of its keys found no tensor: 'b.w1/C', 'b.w1/R'"),
    "shapes": ({"a.w1/R": weights(1, ROWS, 3), "a.w1/C": weights(2, RANK, COLUMNS)}, "make no [400, 300]"),
    "a part is missing": ({"a.w1/R": weights(1, ROWS, RANK)}, "but not 'a.w1/C'"),
    "NaN": (low_rank() | {"a.w1/R": np.full((ROWS, RANK), np.nan, "f4")}, "1600 elements that are NaN"),
    "nothing": ({}, "changes no tensor"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_update_is_an_error_and_changes_neither_work_tree_nor_index(
    what: str, work: GitWork, tmp_path: Path
) -> None:
    side, message = BAD[what]
    write_model(tmp_path / "side.safetensors", side)
    before = snapshot(work)

    done = work.theta("add", MODEL, "--update-type", "low-rank", "--update-path", str(tmp_path / "side.safetensors"))

    assert done.status == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert snapshot(work) == before


def test_what_is_no_update_in_the_store_says_as_what_it_is_stored(work: GitWork, tmp_path: Path) -> None:
    key = "a.w1"
    parts = {"data": np.ones(2, "f4"), "indices": np.array([5, 9]), "indptr": np.array([0, 2])}
    write_model(
        tmp_path / "side.safetensors",
        {f"{key}/{part}": array for part, array in (parts | {"shape": np.array([ROWS, COLUMNS])}).items()},
    )

    done = work.theta("add", MODEL, "--update-type", "sparse", "--update-path", str(tmp_path / "side.safetensors"))

    assert done.status == 0, done
    assert ", as differences\n" in done.out


def test_a_missing_base_side_file_or_type_is_an_error_that_says_what_there_is(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())
    side, before = str(tmp_path / "side.safetensors"), snapshot(work)
    cases = {
        ("--base", "v9", "--update-path", side): "'v9' is not a commit",
        ("--base", "HEAD:none", "--update-path", side): "no base 'HEAD:none'",
        ("--update-path", str(tmp_path / "none")): f"there is no '{tmp_path / 'none'}' to read an update from",
        ("--update-type", "spectral", "--update-path", side): "(dense, sparse, low-rank, ia3, auto)",
        ("--update-type", "lowrank", "--update-path", side): "did you mean 'low-rank'?",
        ("--update-type", "low-rank",): "needs --update-path",
        ("--update-type", "auto",): "no update to be found",
    }  # fmt: skip

    for words, message in cases.items():
        done = work.theta("add", MODEL, *words)
        assert (done.status, message in done.err) == (2, True), (words, done)
    assert snapshot(work) == before


def test_a_work_tree_file_that_is_something_else_is_not_overwritten(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())
    write_model(work.path / MODEL, {name: array + 1 for name, array in base_model().items()})
    before = snapshot(work)

    done = work.theta("add", MODEL, "--update-path", str(tmp_path / "side.safetensors"))

    assert done.status == 2
    assert "neither" in done.err
    assert snapshot(work) == before


def test_a_file_that_cannot_be_written_is_an_error_that_leaves_nothing_behind(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())
    before, files = snapshot(work), sorted(work.path.iterdir())

    add = f"git theta add {MODEL} --update-path {tmp_path / 'side.safetensors'}"
    done = work.run("bash", "-c", f"ulimit -f 300; {add}")

    assert (done.status, "ulimit -f" in done.err, "Traceback" in done.err) == (2, True, False), done
    assert (snapshot(work), sorted(work.path.iterdir())) == (before, files)
    assert work.run("bash", "-c", add).status == 0


def test_what_a_killed_update_leaves_is_gone_after_the_next_one(work: GitWork, tmp_path: Path) -> None:
    write_model(tmp_path / "side.safetensors", low_rank())
    files = sorted(work.path.iterdir())
    words = ["git-theta", "add", MODEL, "--update-path", str(tmp_path / "side.safetensors")]
    update = subprocess.Popen(words, cwd=work.path, env=work.environment, stdout=subprocess.DEVNULL)
    while sorted(work.path.iterdir()) == files and update.poll() is None:
        pass
    update.kill()
    update.wait()

    assert work.theta(*words[1:]).status == 0
    assert sorted(work.path.iterdir()) == files


def test_an_adapter_may_be_for_a_model_of_several_files(work: GitWork, tmp_path: Path) -> None:
    for number, name in enumerate(("b.w1", "c.w1")):
        write_model(work.path / f"part-{number}.safetensors", {name: weights(number + 20, ROWS, COLUMNS)})
    work.git("add", "-A")
    work.git("commit", "-qm", "parts")
    write_model(tmp_path / "side.safetensors", low_rank(name="b.w1") | low_rank(name="c.w1"))

    done = work.theta(
        "add", "--update-path", str(tmp_path / "side.safetensors"), "part-0.safetensors", "part-1.safetensors"
    )

    assert done.status == 0, done.err
    assert done.out.count("1 of 1 tensor,") == 2
