"""`git theta merge-file` and `git theta merge-models`: merges outside of git's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Work

Model = dict[str, Any]
Make = Callable[..., Model]


@pytest.fixture
def files(work: Work, model: Make, changed: Make) -> Model:
    """Three checkpoints that nobody tracks, and the base."""
    work.theta("untrack", "*.safetensors")
    base = model()
    work.write(base, "base.safetensors")
    work.write(changed(base, 8, 1, 2), "ours.safetensors")
    work.write(changed(base, 4, 0, 1), "theirs.safetensors")
    return base


THREE = ("ours.safetensors", "base.safetensors", "theirs.safetensors")


def moved(work: Work, base: Model, name: str) -> list[float]:
    return [
        round(float(np.mean(array.astype("f4") - base[key])), 3) for key, array in sorted(work.tensors(name).items())
    ]


def test_merge_file_replaces_ours_or_writes_elsewhere(work: Work, files: Model) -> None:
    before = work.read("ours.safetensors")
    done = work.theta("merge-file", *THREE, check=False)
    assert (done.status, done.out) == (1, "layers.1.weight: both changed\n")
    assert work.read("ours.safetensors") == before

    work.theta("merge-file", "--method", "average", "--output", "out.safetensors", *THREE)
    assert moved(work, files, "out.safetensors") == [4, 6, 8, 0]
    assert work.read("ours.safetensors") == before

    work.theta("merge-file", "--theirs", *THREE)
    assert moved(work, files, "ours.safetensors") == [4, 4, 8, 0]
    assert not list(work.path.glob("*.theta-*"))


def test_merge_file_takes_revisions_and_pointers(work: Work, model: Make, changed: Make) -> None:
    base = model()
    work.commit(base, tag="base")
    work.branch("theirs", changed(base, 4, 0, 1))
    work.branch("ours", changed(base, 8, 1))
    pointer = work.git("show", "ours:model.safetensors").out
    (work.path / "pointer").write_text(pointer)

    work.theta(
        "merge-file", "--ours", "--output", "out", "pointer", "base:model.safetensors", "theirs:./model.safetensors"
    )

    assert moved(work, base, "out") == [4, 8, 0, 0]
    assert work.status() == ""


def test_merge_file_outside_of_a_repository(work: Work, files: Model, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    names = [str(work.path / name) for name in THREE]

    done = subprocess.run(
        [Path(sys.executable).parent / "git-theta", "merge-file", "--ours", "--output", "out", *names],
        cwd=place, env=work.environment | {"GIT_CEILING_DIRECTORIES": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (place / "out").exists()


RECIPE = """\
merge_method: {method}
base_model: base.safetensors
models:
  - model: ours.safetensors
    parameters: {{weight: 1.0}}
  - model: theirs.safetensors
    parameters:
      weight:
        - filter: layers.1
          value: 0.5
        - value: 1
parameters: {{normalize: false}}
dtype: {dtype}
"""


def models(work: Work, recipe: str, *options: str, check: bool = True) -> Any:
    (work.path / "recipe.yaml").write_text(recipe)
    return work.theta("merge-models", "recipe.yaml", "--output", "out.safetensors", *options, check=check)


def test_merge_file_follows_a_recipe_with_importances_and_refuses_a_rule_for_nothing(
    work: Work, files: Model, changed: Make
) -> None:
    for name, value in (("much", 3), ("little", 1)):
        work.write({key: np.full_like(array, value) for key, array in files.items()}, f"{name}.safetensors")
    (work.path / "recipe").write_text("* fisher fisher=much.safetensors,little.safetensors\n")
    sides = ("ours.safetensors", "base.safetensors", "theirs.safetensors")
    by_file = work.theta("merge-file", "--recipe", "recipe", "--output", "one", *sides)
    by_option = "fisher fisher=much.safetensors,little.safetensors"
    work.theta("merge-file", "--method", by_option, "--output", "two", *sides)

    assert "decided" in by_file.out
    assert work.read("one") == work.read("two")

    (work.path / "recipe").write_text("* ours\nno.such.* theirs\n")
    done = work.theta("merge-file", "--recipe", "recipe", *sides, check=False)
    assert done.status == 2
    assert "recipe, line 2: 'no.such.*' matches no tensor of 'ours.safetensors'\nhint: " in done.err


def test_merge_models_follows_a_recipe_of_mergekits(work: Work, files: Model) -> None:
    done = models(work, RECIPE.format(method="task_arithmetic", dtype="float32"))

    assert "task_arithmetic of 2 models and a base, 4 tensors" in done.out
    assert moved(work, files, "out.safetensors") == [4, 10, 8, 0]
    again = models(work, RECIPE.format(method="task_arithmetic", dtype="bfloat16"), "--force")
    assert again.status == 0
    assert {array.dtype.name for array in work.tensors("out.safetensors").values()} == {"bfloat16"}


def test_merge_models_reads_directories_and_is_reproducible(work: Work, files: Model, changed: Make) -> None:
    (work.path / "sharded").mkdir()
    for number, names in enumerate((("layers.0.weight", "layers.1.weight"), ("layers.2.weight", "layers.3.weight"))):
        shard = {name: changed(files, 1, 0, 1, 2, 3)[name] for name in names}
        work.write(shard, f"sharded/model-{number}.safetensors")
    recipe = RECIPE.format(method="dare_ties", dtype="float32").replace("theirs.safetensors", "sharded")
    recipe = recipe.replace("{normalize: false}", "{normalize: false, density: 0.5}")

    models(work, recipe)
    first = work.read("out.safetensors")
    models(work, recipe, "--force")
    assert work.read("out.safetensors") == first
    models(work, recipe, "--force", "--seed", "1")
    assert work.read("out.safetensors") != first


def test_slerp_goes_from_the_base_to_the_other_model(work: Work, files: Model) -> None:
    recipe = (
        "merge_method: slerp\nbase_model: base.safetensors\nmodels:\n  - model: ours.safetensors\nparameters: {t: 0}\n"
    )

    models(work, recipe)

    assert moved(work, files, "out.safetensors") == [0, 0, 0, 0]


def values_of(work: Work, name: str = "out.safetensors") -> dict[str, float]:
    return {key: float(array.flat[0]) for key, array in work.tensors(name).items()}


@pytest.fixture
def stacks(work: Work) -> None:
    """Two models of four layers, whose values say where they are from: 10 and 20, and the layer's number."""
    work.theta("untrack", "*.safetensors")
    for name, value in (("a", 10.0), ("b", 20.0)):
        tensors = {"embed_tokens.weight": value + 8, "norm.weight": value + 9}
        tensors |= {f"layers.{n}.{part}.weight": value + n for n in range(4) for part in ("attn", "mlp")}
        work.write({key: np.full(4, number, "f4") for key, number in tensors.items()}, f"{name}.safetensors")


@pytest.mark.usefixtures("stacks")
def test_a_gradient_goes_from_the_first_layer_to_the_last_and_what_is_in_none_is_at_its_beginning(work: Work) -> None:
    models(
        work,
        """\
merge_method: linear
models:
  - {model: a.safetensors, parameters: {weight: [3, 0]}}
  - {model: b.safetensors, parameters: {weight: 1}}
parameters: {int8_mask: true}
""",
    )

    found = values_of(work)
    assert [round(found[f"layers.{n}.mlp.weight"], 3) for n in range(4)] == [12.5, 14.333, 17, 23]
    assert found["embed_tokens.weight"] == 20.5


@pytest.mark.usefixtures("stacks")
def test_gradients_have_filters_and_slices_parameters_of_their_own(work: Work) -> None:
    models(
        work,
        """\
slices:
  - sources:
      - {model: a.safetensors, layer_range: [0, 4]}
      - {model: b.safetensors, layer_range: [0, 4]}
    parameters:
      t:
        - {filter: attn, value: [0, 1]}
merge_method: slerp
base_model: a.safetensors
parameters:
  t:
    - {filter: mlp, value: [1, 0.5, 0]}
    - value: 0.5
""",
    )

    found = values_of(work)
    assert [round(found[f"layers.{n}.attn.weight"], 3) for n in range(4)] == [10, 14.333, 18.667, 23]
    assert [round(found[f"layers.{n}.mlp.weight"], 3) for n in range(4)] == [20, 17.667, 15.333, 13]
    assert found["norm.weight"] == 24


@pytest.mark.usefixtures("stacks")
def test_slices_of_layers_follow_each_other(work: Work) -> None:
    done = models(work, SLICES)

    found = values_of(work)
    assert "passthrough of 2 models, 14 tensors" in done.out
    assert [found[f"layers.{n}.attn.weight"] for n in range(6)] == [10, 11, 12, 21, 22, 23]
    assert (found["embed_tokens.weight"], found["norm.weight"]) == (18, 29)


SLICES = """\
merge_method: passthrough
slices:
  - sources:
      - {model: a.safetensors, layer_range: [0, 3]}
  - sources:
      - {model: b.safetensors, layer_range: [1, 4]}
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[1, 4]", "[1, 5]"), "line 6: 'b.safetensors' has 4 layers, layer_range ends at 5"),
        (("[1, 4]", "[4, 4]"), "line 6: there are no layers in [4, 4]"),
        (("[1, 4]", "[1, 4, 5]"), "line 6: expected two numbers of layers"),
        ((", layer_range: [1, 4]", ""), "line 6: 'layer_range' is missing"),
        (("  - sources:\n      - {model: b", "      - {model: b"), "line 5: passthrough takes one model"),
        (("[0, 3]}\n  - sources:", "[0, 2]}"), "line 3: all sources of a slice have as many layers"),
        (("b.safetensors", "c.safetensors"), "layers of 'a.safetensors' are 'layers.N', of 'c.safetensors' 'h.N'"),
        (("b.safetensors", "d.safetensors"), "slices need one stack of layers; 'd.safetensors' has 'decoder.N' and"),
        (("passthrough", "ties\nbase_model: d"), "line 4: base_model 'd' is no source of this slice"),
        (
            ("  - sources:\n      - {model: b", "    residual_weight: 1\n  - sources:\n      - {model: b"),
            "residual_weight",
        ),
    ],
)
@pytest.mark.usefixtures("stacks")
def test_slices_that_do_not_fit_are_named(work: Work, change: tuple[str, str], said: str) -> None:
    one = {"w": np.ones(3, "f4")}
    work.write({f"h.{n}.w": one["w"] for n in range(4)}, "c.safetensors")
    work.write({f"{part}.{n}.w": one["w"] for n in range(4) for part in ("encoder", "decoder")}, "d.safetensors")

    done = models(work, SLICES.replace(*change), check=False)

    assert done.status == 2
    assert said in done.err
    assert not (work.path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("task_arithmetic", "task_aritmetic"), "recipe.yaml, line 1: there is no merge method"),
        (("normalize", "normalise"), "has no parameter 'normalise'"),
        (("{weight: 1.0}", "{wieght: 1.0}"), "line 4: method 'task_arithmetic' has no parameter 'wieght'"),
        (("{weight: 1.0}", "{weight: [{value: [[1]]}]}"), "line 5: expected one value"),
        (("{weight: 1.0}", "{weight: [1, {value: 1}]}"), "line 5: expected a filter and a value"),
        (("{weight: 1.0}", "{weight: heavy}"), "expected a number"),
        (("models:", "slices:"), "line 4: 'model' is not followed here"),
        (("models:", "modules:"), "line 3: 'modules' is not followed here"),
        (("dtype: float32", "tokenizer_source: union"), "line 13: 'tokenizer_source' is not followed here"),
        (("dtype: float32", "slices: []"), "either 'models' or 'slices' is needed, not both"),
        (("base_model: base.safetensors\n", ""), "needs a base_model"),
        (("ours.safetensors", "nowhere.safetensors"), "there is no file 'nowhere.safetensors'"),
        (("dtype: float32", "dtype: float31"), "line 13: 'float31' is no dtype"),
        (("dtype: float32", "dtype: &a float32"), "aliases, anchors and tags"),
        (("dtype: float32", "dtype: 'float32"), "this is not one recipe in YAML"),
        (("dtype: float32", "---\nname: two"), "expected a single document in the stream, but found another"),
        (("dtype: float32", "dtype: float32\ndtype: float16"), "'dtype' is there twice"),
    ],
)
def test_a_recipe_that_cannot_be_followed_names_its_line_and_writes_nothing(
    work: Work, files: Model, change: tuple[str, str], said: str
) -> None:
    done = models(work, RECIPE.format(method="task_arithmetic", dtype="float32").replace(*change), check=False)

    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (work.path / "out.safetensors").exists()


def test_models_that_do_not_fit_each_other_are_named(work: Work, files: Model, model: Make) -> None:
    work.write(model(layers=3), "theirs.safetensors")
    done = models(work, RECIPE.format(method="linear", dtype="float32"), check=False)
    assert done.status == 2
    assert "'theirs.safetensors' has no tensor 'layers.3.weight'" in done.err

    work.write(model(shape=(8, 5)), "theirs.safetensors")
    done = models(work, RECIPE.format(method="linear", dtype="float32"), check=False)
    assert "the shapes do not fit: [8, 6] of ours.safetensors, [8, 5] of theirs.safetensors" in done.err


def test_a_nan_found_half_way_leaves_nothing_behind(work: Work, files: Model) -> None:
    bad = {name: array.copy() for name, array in files.items()}
    bad["layers.3.weight"][0, 0] = np.nan
    work.write(bad, "theirs.safetensors")

    done = models(work, RECIPE.format(method="linear", dtype="float32"), check=False)

    assert done.status == 2
    assert "tensor 'layers.3.weight': theirs.safetensors has elements that are NaN" in done.err
    assert not list(work.path.glob("out.safetensors*"))
    work.write(files, "out.safetensors")
    before = work.read("out.safetensors")
    models(work, RECIPE.format(method="linear", dtype="float32"), "--force", check=False)
    assert work.read("out.safetensors") == before


def test_a_checkpoint_that_is_none_is_named(work: Work, files: Model) -> None:
    (work.path / "theirs.safetensors").write_bytes(b"no checkpoint at all" * 10)

    done = work.theta("merge-file", *THREE, check=False)

    assert done.status == 2
    assert "'theirs.safetensors' is not a checkpoint of a format that is known here" in done.err


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.merging", "--size-mb", "1", "--hidden", "64", "--repeats", "1"]

    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "linear           git-theta" in done.stdout
