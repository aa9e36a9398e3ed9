"""A base that the user names: `git theta add --base`, `theta.base` in .gitattributes and in configuration."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess

import numpy as np
import pytest

from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

BASE, TUNE = "model.safetensors", "tuned/fine-tune.safetensors"


def checkpoint(version: int, seed: int = 0) -> bytes:
    """A model of 480 kB; versions of a seed differ from its first by a little in every weight."""
    values = np.random.default_rng(seed).normal(0, 0.02, (400, 300)).astype(np.float32)
    if version:
        values += np.random.default_rng(100 + version).normal(0, 1e-8, values.shape).astype(np.float32)
    header = {"w": {"dtype": "F32", "shape": [400, 300], "data_offsets": [0, values.nbytes]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values.tobytes()


def stored_bytes(work) -> int:
    return sum(path.stat().st_size for path in (work.path / ".git" / "theta" / "packs").iterdir())


def write(work, name: str, content: bytes) -> None:
    place = work.path / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)


def cost(work, *command: str) -> int:
    """Run a command of git; return what it added to the store."""
    shutil.rmtree(work.path / ".git" / "theta" / "families", ignore_errors=True)  # so that no base is found unnamed
    before = stored_bytes(work)
    work.git(*command)
    return stored_bytes(work) - before


def added_bytes(work, base: str, name: str = TUNE, cwd: str = ".") -> int:
    shutil.rmtree(work.path / ".git" / "theta" / "families", ignore_errors=True)
    before = stored_bytes(work)
    done = work.theta("add", "--base", base, name, cwd=cwd)
    assert done.status == 0, done.err
    return stored_bytes(work) - before


def check_comes_back(work, name: str, content: bytes) -> None:
    work.commit("add it")
    (work.path / name).unlink()
    work.git("checkout", "-q", "--", name)
    assert (work.path / name).read_bytes() == content
    with Store.open(str(work.path / ".git" / "theta")) as store:
        assert list(verify(store.objects, Level.RAW)) == []


@pytest.fixture
def model(make_work):
    """A work tree with one model that is committed and tagged; the next files are not like it by name."""
    work = make_work()
    assert work.theta("install").status == 0
    assert work.theta("track", "*.safetensors").status == 0
    write(work, BASE, checkpoint(0))
    work.git("add", ".")
    work.commit("model")
    work.git("tag", "v1")
    return work


WHOLE = len(checkpoint(0))


def test_without_a_base_it_is_stored_whole(model):
    write(model, TUNE, checkpoint(1))

    assert cost(model, "add", TUNE) > 0.7 * WHOLE


@pytest.mark.parametrize("base", [f"v1:{BASE}", f"HEAD:{BASE}", f":{BASE}", f"v1:./{BASE}"])
def test_a_fine_tune_at_another_path_is_a_small_difference_and_comes_back(model, base):
    write(model, TUNE, checkpoint(1))

    assert added_bytes(model, base) < 0.3 * WHOLE
    check_comes_back(model, TUNE, checkpoint(1))


def test_a_path_and_a_file_count_from_where_one_is(model):
    write(model, TUNE, checkpoint(1))

    assert added_bytes(model, f"v1:../{BASE}", "fine-tune.safetensors", cwd="tuned") < 0.3 * WHOLE
    assert added_bytes(model, "v1:" + BASE, ".", cwd="tuned") == 0


def test_a_revision_alone_means_the_same_path_there(model):
    write(model, BASE, checkpoint(0, seed=1))
    model.git("commit", "-qam", "another model")
    write(model, BASE, checkpoint(1))

    assert added_bytes(model, "v1", BASE) < 0.3 * WHOLE  # what the path holds now would be no base for it
    check_comes_back(model, BASE, checkpoint(1))


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("v2", "'v2' is not a commit, tag or tree"),
        ("v1:other.safetensors", "there is no 'other.safetensors' in 'v1'"),
        ("v1:.gitattributes", "not a file that git theta tracks"),
        ("v1", f"'v1' tracks no '{TUNE}'"),
        ("--all", "expected one argument"),
    ],
)
def test_a_bad_name_is_an_error_and_adds_nothing(model, base, words):
    write(model, TUNE, checkpoint(1))

    done = model.theta("add", "--base", base, TUNE)

    assert done.status == (129 if base == "--all" else 2)
    assert words in done.err
    assert TUNE not in model.git("ls-files").out


def test_a_file_that_git_would_take_whole_is_not_added(model):
    write(model, "notes.txt", b"text")

    done = model.theta("add", "--base", f"v1:{BASE}", "notes.txt")

    assert done.status == 2
    assert "git theta track 'notes.txt'" in done.err
    assert "notes.txt" not in model.git("ls-files").out


def test_a_base_whose_weights_are_elsewhere_is_fetched(model, make_work):
    clone = make_work("clone", "--no-checkout", clone=model.path)
    clone.git("reset", "-q")
    clone.theta("install", "--local")
    clone.git("config", "theta.url", str(model.path / ".git" / "theta"))
    (clone.path / ".gitattributes").write_text("*.safetensors filter=theta -text\n")
    write(clone, TUNE, checkpoint(1))

    done = clone.theta("add", "--base", f"v1:{BASE}", TUNE)

    assert done.status == 0, done.err
    assert stored_bytes(clone) < 1.3 * stored_bytes(model)


def test_the_attribute_of_a_path(model):
    with open(model.path / ".gitattributes", "a") as stream:
        stream.write(f"tuned/* theta.base=v1:{BASE}\n")
    write(model, TUNE, checkpoint(1))
    write(model, "other.safetensors", checkpoint(2))

    assert cost(model, "add", TUNE) < 0.3 * WHOLE
    assert cost(model, "add", "other.safetensors") > 0.7 * WHOLE
    check_comes_back(model, TUNE, checkpoint(1))


def test_the_attribute_may_stand_beside_the_file(model):
    write(model, TUNE, checkpoint(1))
    write(model, "tuned/.gitattributes", f"*.safetensors theta.base=v1:{BASE}\n".encode())

    assert cost(model, "add", TUNE) < 0.3 * WHOLE


def test_the_setting_is_for_files_that_git_does_not_hold_yet(model):
    model.git("config", "theta.base", f"v1:{BASE}")
    write(model, TUNE, checkpoint(1))
    assert cost(model, "add", TUNE) < 0.3 * WHOLE
    write(model, "other.safetensors", checkpoint(0, seed=1))
    assert cost(model, "add", "other.safetensors") > 0.7 * WHOLE

    write(model, "other.safetensors", checkpoint(1, seed=1))

    assert cost(model, "add", "other.safetensors") < 0.3 * WHOLE


def test_a_setting_that_names_nothing_is_remarked_on_once_and_costs_no_more(model):
    model.git("config", "theta.base", "v7:gone")
    for number in (1, 2):
        write(model, f"{number}.safetensors", checkpoint(0, seed=number))

    done = model.git("add", ".")

    assert done.err.count("v7:gone") == 2  # the name, and git's word for it, in one line
    assert done.err.count("no base is taken from theta.base") == 1
    check_comes_back(model, "1.safetensors", checkpoint(0, seed=1))


def test_a_revision_that_does_not_have_the_path_is_nothing_to_remark_on(model):
    model.git("config", "theta.base", "v1")
    write(model, TUNE, checkpoint(1))

    assert model.git("add", TUNE).err == ""


def test_a_setting_with_a_newline_or_blanks_breaks_nothing(model):
    model.git("config", "theta.base", "v1:a b\nHEAD")
    write(model, TUNE, checkpoint(1))

    model.git("add", TUNE)

    check_comes_back(model, TUNE, checkpoint(1))


def test_git_is_asked_for_attributes_only_where_some_name_a_base(model, tmp_path):
    log = tmp_path / "trace"
    write(model, TUNE, checkpoint(1))

    subprocess.run(["env", f"GIT_TRACE={log}", "git", "add", TUNE], cwd=model.path, check=True)

    assert "check-attr" not in log.read_text()
    assert "cat-file" in log.read_text()
