"""What nobody wants to merge is named, and nothing else: the rules, one by one, and who may break them."""

from __future__ import annotations

import io
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import safetensors_bytes

VALUES = np.random.default_rng(5).standard_normal((3, 200, 100)).astype(np.float32)


def model(**changed: np.ndarray[Any, Any]) -> bytes:
    return safetensors_bytes({f"layer.{i}": VALUES[i] for i in range(3)} | changed)


@pytest.fixture
def project(place):
    """A repository with one model in it, and a store beside it."""
    place.git("init", "-q", "project")
    project = place.at(place.path / "project")
    project.theta("track", "*.safetensors", "*.npy", "*.pt", "*.pkl")
    project.git("config", "-f", ".thetaconfig", "theta.url", "../weights")
    project.commit("first", m_safetensors=model())
    return project


def broken(project, *options: str) -> list[tuple[str, str, str]]:
    """The rule, path and tensor of each problem; the exit status must go with them."""
    done = project.theta("check", "--json", *options, check=False)
    problems = json.loads(done.stdout)["problems"]
    assert done.returncode == (1 if problems else 0), done.stderr
    return [(one["rule"], one["path"], one["tensor"]) for one in problems]


def test_a_model_as_it_should_be_passes(project) -> None:
    done = project.theta("check", "--max-size", "1m", "--max-new", "1m")

    assert done.stdout == ""
    assert done.stderr == "no problems (3 files, numbers of 3 tensors read)\n"


def test_before_the_first_commit_everything_is_new_to_head(place) -> None:
    place.git("init", "-q", ".")
    place.theta("track", "*.safetensors")
    place.write("m.safetensors", model(bad=np.array([np.nan], np.float32)))
    place.git("add", ".")

    assert broken(place, "--base", "HEAD") == [("not-finite", "m.safetensors", "bad")]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "complex64"])
def test_what_is_not_finite_is_found_in_every_floating_type(project, value: float, dtype: str) -> None:
    bad = VALUES[0].astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    bad[-1, -1] = value
    project.write("new.safetensors", model(bad=bad, whole=np.arange(10)))
    project.git("add", ".")

    assert broken(project, "--base", "HEAD") == [("not-finite", "new.safetensors", "bad")]


def test_only_numbers_that_the_base_does_not_have_are_read(project) -> None:
    nan = np.full((200, 100), np.nan, np.float32)
    project.commit("with NaN", m_safetensors=model(nan=nan))
    changed = VALUES[0] + np.float32(1)
    project.write("m.safetensors", model(nan=nan, **{"layer.0": changed}))
    project.git("add", ".")

    assert broken(project, "--base", "HEAD") == []
    assert json.loads(project.theta("check", "--json", "--base", "HEAD").stdout)["tensors_read"] == 1
    assert broken(project) == [("not-finite", "m.safetensors", "nan")]


def test_another_dtype_than_in_the_base_is_named(project) -> None:
    project.write("m.safetensors", model(**{"layer.1": VALUES[1].astype(np.float16)}))
    project.git("add", ".")

    assert broken(project, "--base", "HEAD") == [("dtype", "m.safetensors", "layer.1")]


def test_budgets_are_of_one_file_and_of_all_that_is_new(project) -> None:
    project.write("m.safetensors", model(**{"layer.1": VALUES[1] * 2}))
    project.git("add", ".")

    assert broken(project, "--base", "HEAD", "--max-size", "240k", "--max-new", "78k") == [("size", "", "")]
    assert broken(project, "--base", "HEAD", "--max-size", "230k", "--max-new", "80k") == [
        ("size", "m.safetensors", "")
    ]


def test_a_budget_that_is_no_number_of_bytes_is_an_error(project) -> None:
    done = project.theta("check", "--max-size", "lots", check=False)

    assert done.returncode == 2
    assert "--max-size is 'lots', expected a number of bytes like 500m or 2g" in done.stderr


def test_pickles_are_found_by_format_name_and_first_bytes(project) -> None:
    import pickle
    import zipfile

    torch_file = io.BytesIO()
    with zipfile.ZipFile(torch_file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/version", "3\n")
    project.write("t.pt", torch_file.getvalue())
    project.write("scaler.pkl", pickle.dumps([1, 2]))
    project.write("plain.dat", pickle.dumps([1, 2], 4))
    project.write("text.dat", b"no pickle\n")
    project.write("tracked.pt", pickle.dumps({"a": 1}))
    project.write("text.pt", b"no pickle\n" * 100)
    project.git("add", ".")

    found = broken(project, "--base", "HEAD")

    assert [path for rule, path, _ in found if rule == "pickle"] == ["plain.dat", "scaler.pkl", "t.pt", "tracked.pt"]
    assert "tracked.pt" not in project.theta("check", "--allow", "pickle:*.pt", check=False).stdout


@pytest.mark.parametrize("change", [lambda whole: whole + b"x", lambda whole: whole[:-1]])
def test_a_file_that_is_called_safetensors_and_is_none_is_found(project, change) -> None:
    project.write("m.safetensors", change(model()))
    project.git("add", ".")

    assert broken(project, "--base", "HEAD") == [("opaque", "m.safetensors", "")]
    assert broken(project, "--base", "HEAD", "--allow", "opaque:m.*") == []


def test_weights_that_a_teammate_committed_without_the_filter_are_found(project) -> None:
    project.write("raw.safetensors", model())
    project.git("add", "raw.safetensors", GIT_CONFIG_GLOBAL="/dev/null")
    project.write("large.gguf", bytes(11 << 20))
    project.git("add", "large.gguf")

    assert broken(project, "--base", "HEAD") == [("large", "large.gguf", ""), ("raw", "raw.safetensors", "")]


def test_a_pointer_that_was_edited_or_lies_where_nothing_tracks_it_is_found(project) -> None:
    pointer = project.git("cat-file", "blob", "HEAD:m.safetensors") + "\n"
    oid = project.run("git", "hash-object", "-w", "--stdin", text=pointer.replace("size 24", "size 25")).stdout.strip()
    project.git("update-index", "--add", "--cacheinfo", f"100644,{oid},edited.safetensors")
    loose = project.git("rev-parse", "HEAD:m.safetensors")
    project.git("update-index", "--add", "--cacheinfo", f"100644,{loose},loose.bin")

    found = broken(project, "--base", "HEAD")

    assert ("pointer", "loose.bin", "") in found
    assert ("pointer", "edited.safetensors", "") in found
    oid = project.run("git", "hash-object", "-w", "--stdin", text=pointer[:-80]).stdout.strip()
    project.git("update-index", "--cacheinfo", f"100644,{oid},edited.safetensors")
    assert ("pointer", "edited.safetensors", "") in broken(project, "--base", "HEAD")


def test_a_commit_that_was_pushed_without_its_weights_is_found_in_a_clone(project) -> None:
    project.git("init", "-q", "--bare", "../host.git")
    project.git("push", "-q", "--no-verify", "../host.git", "main")
    clone = project.clone("../host.git", project.path.parent / "clone", GIT_THETA_SKIP_SMUDGE="1")

    assert broken(clone) == [("missing", "m.safetensors", "")]
    assert broken(clone, "--allow", "missing", "--allow", "not-finite") == []
    project.theta("push")
    assert broken(clone) == []


def test_a_clone_fetches_only_what_is_new(project) -> None:
    project.git("init", "-q", "--bare", "../host.git")
    project.git("remote", "add", "origin", "../host.git")
    project.git("checkout", "-q", "-b", "topic")
    project.commit("one tensor", m_safetensors=model(**{"layer.2": VALUES[2] * 3}))
    project.git("push", "-q", "origin", "main", "topic")
    clone = project.clone("../host.git", project.path.parent / "clone", GIT_THETA_SKIP_SMUDGE="1")

    assert broken(clone, "--base", "origin/main", "origin/topic") == []

    stored = sum(path.stat().st_size for path in (clone.path / ".git" / "theta").rglob("*") if path.is_file())
    assert stored < 2 * VALUES[2].nbytes


def test_what_left_the_base_long_ago_is_compared_with_where_it_left(project) -> None:
    project.git("branch", "topic")
    project.commit("main goes on", m_safetensors=model(**{"layer.0": VALUES[0].astype(np.float16)}))
    project.git("checkout", "-q", "topic")
    project.commit("topic, too", n_safetensors=model())

    assert broken(project, "--base", "main", "topic") == []


def test_a_rule_may_be_broken_where_that_is_allowed(project) -> None:
    mask = np.full((4, 4), -np.inf, np.float32)
    project.write("m.safetensors", model(mask=mask, other=mask * 1))
    project.write("n.safetensors", model(other=mask))
    project.git("add", ".")

    assert broken(project, "--allow", "not-finite:*//mask") == [("not-finite", "m.safetensors", "other")]
    assert broken(project, "--allow", "not-finite:[mn].*") == []
    assert broken(project, "--allow", "not-finite") == []


def test_what_is_allowed_can_be_committed_and_a_clone_may_say_otherwise(project) -> None:
    project.write("m.safetensors", model(mask=np.full(4, np.inf, np.float32)))
    project.git("config", "-f", ".thetaconfig", "--add", "theta.checkAllow", "not-finite:*//mask")
    project.git("config", "-f", ".thetaconfig", "theta.checkMaxSize", "10k")
    project.git("add", ".")

    assert broken(project) == [("size", "m.safetensors", "")]
    project.git("config", "theta.checkMaxSize", "1m")
    assert broken(project) == []
    assert "checkAllow" not in project.theta("doctor", check=False).stdout


def test_a_rule_that_there_is_not_is_named_with_the_one_that_was_meant(project) -> None:
    done = project.theta("check", "--allow", "pickel:*.pt", check=False)

    assert done.returncode == 2
    assert done.stderr == "git theta: 'pickel' is not a rule of git theta check\nhint: did you mean 'pickle'\n"


def test_annotations_for_github_hold_a_problem_in_one_line_each(project) -> None:
    name = "a,b:100%.safetensors"
    project.write(name, model(**{"evil\n::add-mask::x": np.array([np.nan], np.float32)}))
    project.git("add", ".")

    lines = project.theta("check", "--format", "github", check=False).stdout.splitlines()

    assert len(lines) == 1
    assert lines[0].startswith(
        "::error file=a%2Cb%3A100%25.safetensors,title=git theta check%3A not-finite::a,b:100%25."
    )
