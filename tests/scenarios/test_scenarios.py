"""Three people's work, as they would type it: a fine-tuning project, a team's model zoo, a researcher who merges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pages
import pytest

HERE = Path(__file__).parent
SCENARIOS = sorted(path.name for path in HERE.glob("*.sh") if path.name != "begin.sh")


def run(name: str, directory: Path, model: Path, rounds: int) -> str:
    home = directory / "home"
    work = directory / "work"
    home.mkdir()
    work.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "XDG_", "THETASTORE_"))}
    env = kept | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true", "LC_ALL": "C.UTF-8"}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PAGER": "cat"}
    env |= {"MODEL": str(model), "ROUNDS": str(rounds)}
    done = subprocess.run(
        ["bash", HERE / name], cwd=work, env=env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def check(printed: str) -> None:
    """Nothing may be said that only we understand."""
    for word in ("Traceback", "bug in git theta", "Error:", "SCENARIO FAILED"):
        assert word not in printed


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_in_short(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(pages.small_model())

    check(run(name, tmp_path, model, rounds=1))


@pytest.mark.deep
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_with_real_weights_and_whole(tmp_path: Path, name: str) -> None:
    if not pages.real_model().exists():
        pytest.skip("needs the weights that `make demo` fetches")

    check(run(name, tmp_path, pages.real_model(), rounds=6))
