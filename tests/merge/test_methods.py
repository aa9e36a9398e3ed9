"""Every built-in method passes the suite for plug-ins; what a plug-in may do wrong harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from thetastore.merging import Inputs, MergeError, Method
from thetastore.merging.methods.sparsifying import chance, keep_between, keep_largest
from thetastore.merging.registry import BUILT_IN, find_method, method_names, parameter_values
from thetastore.testing.merge_methods import MergeMethodConformance

if TYPE_CHECKING:
    from conftest import Work

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "merge-method"
SPARSE = {"density": 0.5}
PARAMETERS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs_ties"), SPARSE),
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "passthrough": {"scale": 0.5},
    "sce": {"select_topk": 0.5},
}


def suite(name: str) -> type[MergeMethodConformance]:
    class Suite(MergeMethodConformance):
        def make_method(self) -> Method:
            return find_method(name)

        def parameters(self) -> Mapping[str, Any]:
            return PARAMETERS.get(name, {})

    return Suite


for _name in BUILT_IN:
    globals()[f"Test_{_name}"] = suite(_name)


def test_the_example_passes_its_own_tests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=EXAMPLE, env=os.environ | {"PYTHONPATH": f"{EXAMPLE}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Make a merge method a plug-in, as pip would; return what PYTHONPATH has to say."""

    def make(name: str, source: str) -> str:
        place = tmp_path / "installed"
        described = place / f"{name}-1.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (described / "entry_points.txt").write_text(f"[thetastore.merge_methods]\n{name} = {name}_module:METHOD\n")
        (place / f"{name}_module.py").write_text(source)
        monkeypatch.syspath_prepend(str(place))
        return str(place)

    return make


_HEAD = "import numpy as np\nfrom thetastore.merging import Method\n"


def test_a_plug_in_is_found_by_its_name_and_listed(install: Callable[[str, str], str]) -> None:
    install("median", (EXAMPLE / "theta_median.py").read_text())

    assert find_method("median").name == "median"
    assert method_names()[-1] == "median"


def test_an_unknown_name_lists_what_is_installed() -> None:
    with pytest.raises(MergeError, match="did you mean slerp") as caught:
        find_method("slrep")
    assert all(name in str(caught.value) for name in BUILT_IN)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("METHOD = 3", "is not a thetastore.merging.Method"),
        ("raise RuntimeError('no')", "cannot be loaded"),
        ("from nowhere import METHOD", "cannot be loaded"),
        ("raise SystemExit(0)", "cannot be loaded"),
    ],
)
def test_a_plug_in_that_is_none_is_refused(install: Callable[[str, str], str], source: str, said: str) -> None:
    name = f"bad{abs(hash(source)) % 10**6}"
    install(name, source)

    with pytest.raises(MergeError, match=said):
        find_method(name)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("lambda inputs: 1 / 0", "ZeroDivisionError"),
        ("lambda inputs: None", "returned NoneType"),
        ("lambda inputs: inputs.sides[0][:1]", "expected float64 (8, 6)"),
        ("lambda inputs: inputs.sides[0].astype('f2')", "returned float16"),
        ("lambda inputs: inputs.sides[0] * np.nan", "not finite"),
        ("lambda inputs: inputs.sides[0].fill(0)", "read-only"),
        ("lambda inputs: sys.exit(0)", "SystemExit"),
    ],
)
def test_a_plug_in_that_misbehaves_leaves_ours_whole(
    work: Work, sides: Any, install: Callable[[str, str], str], body: str, said: str
) -> None:
    path = install("wild", f"import sys\n{_HEAD}METHOD = Method('wild', {body})\n")
    before = work.read()

    done = work.git("merge", "theirs", check=False, PYTHONPATH=path, GIT_THETA_MERGE_METHOD="wild")

    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err
    assert work.read() == before
    assert work.status() == "UU model.safetensors\n"


@pytest.mark.parametrize(
    "copies", ["lambda values: 7", "lambda values: 'ours'", "lambda values: -1", "lambda values: 1 / 0"]
)
def test_a_plug_in_that_copies_a_side_that_is_not_there_is_named(
    install: Callable[[str, str], str], copies: str
) -> None:
    from thetastore.layout import Tensor
    from thetastore.merging.mixing import Part, Rule, plan

    class Side:
        label, format, tensors = "side", "", {"w": Tensor("w", "float32", (2,), 0)}

    name = f"copier{abs(hash(copies)) % 10**6}"
    install(name, f"{_HEAD}METHOD = Method('{name}', None, copies={copies})\n")
    part = Part(Side(), "w")  # type: ignore[arg-type]

    with pytest.raises(MergeError, match=f"method '{name}'"):
        plan("w", Rule(find_method(name), {}), None, [part, part])


def test_a_merge_that_is_killed_leaves_ours_and_can_be_undone(
    work: Work, sides: Any, install: Callable[[str, str], str]
) -> None:
    path = install("last", f"{_HEAD}import os\nMETHOD = Method('last', lambda inputs: os.kill(os.getpid(), 9))\n")
    before, index = work.read(), work.git("ls-files", "--stage").out

    done = work.git("merge", "theirs", check=False, PYTHONPATH=path, GIT_THETA_MERGE_METHOD="last")

    assert work.read() == before
    if done.status == 1:  # a conflict to git 2.39; newer gits stop the merge, and nothing is left of it
        work.theta("mergetool", "--method", "last", "*", check=False, PYTHONPATH=path)
        assert work.read() == before
        assert work.status() == "UU model.safetensors\n"
        work.git("merge", "--abort")
    assert done.status in (1, 2)
    assert work.status() == ""
    assert work.read() == before
    assert work.git("ls-files", "--stage").out == index
    assert work.status() == ""
    work.git("merge", "-m", "merge", "theirs", GIT_THETA_MERGE_METHOD="average")


def test_chance_is_the_same_everywhere_and_depends_on_name_seed_and_side() -> None:
    draws = chance("layers.0.weight", 7, 0, 4)

    assert draws.tolist() == [1814837968, 3839782827, 1700702888, 3464550406]
    others = [
        chance("layers.1.weight", 7, 0, 4),
        chance("layers.0.weight", 8, 0, 4),
        chance("layers.0.weight", 7, 1, 4),
    ]
    assert len({draws.tobytes(), *(other.tobytes() for other in others)}) == 4


def test_masks_keep_exactly_the_share_that_was_asked_for_even_among_equals() -> None:
    equal = np.ones((10, 10))

    assert keep_largest(equal, 0.37).sum() == 37
    assert keep_between(equal, 0.5, 0.1).sum() == 50
    assert keep_largest(np.arange(10.0), 0.2).tolist() == [False] * 8 + [True] * 2
    assert keep_between(np.arange(10.0), 0.2, 0.3).tolist() == [False] * 5 + [True] * 2 + [False] * 3
    assert keep_largest(equal, 1e-9).sum() == 1


def test_fisher_weighs_each_element_by_its_importance() -> None:
    method = find_method("fisher")
    ours, theirs = np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0])
    importances = (np.array([1.0, 3.0, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert method.merge is not None

    found = method.merge(Inputs("w", None, (ours, theirs), parameter_values(method, {}, 2), 0, importances))

    assert found.tolist() == [2.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("average", {"weights": [1, 2, 3]}, "3 values for 2 sides"),
        ("average", {"weight": 1, "weights": 2}, "given twice"),
        ("slerp", {"t": "x"}, "expected a number from 0 to 1"),
        ("slerp", {"t": True}, "expected a number"),
        ("slerp", {"t": float("nan")}, "expected a number"),
        ("linear", {"normalize": "maybe"}, "expected true or false"),
        ("ties", {"density": "0.5,1.5"}, "expected a number from 0 to 1"),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(method: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(MergeError, match=said):
        parameter_values(find_method(method), given, 2)


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    method = find_method("average")
    assert method.merge is not None
    inputs = Inputs("w", None, (np.ones(2), np.ones(2)), parameter_values(method, {"weight": [1, -1]}, 2))

    with pytest.raises(MergeError, match="add up to 0"):
        method.merge(inputs)
