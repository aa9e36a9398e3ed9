"""The example of a format plug-in, installed as anybody would: by pip, into a place of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "format-plugin"
NRRD = (
    b"NRRD0005\ntype: float\ndimension: 1\nsizes: 4\nencoding: raw\nendian: little\ncontent: weights\n\n"
    + b"\0\0\x80?" * 4
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the plug-in; nothing is written into the sources."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return os.environ | {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_the_plugin_passes_its_own_tests(environment: dict[str, str], tmp_path: Path) -> None:
    test = shutil.copy(EXAMPLE / "test_thetastore_nrrd.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def thetastore(environment: dict[str, str], folder: Path, *arguments: object) -> str:
    command = [Path(sys.executable).parent / "thetastore", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_store_sees_the_tensors_of_a_file_that_only_the_plugin_knows(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "scan.nrrd").write_bytes(NRRD)
    thetastore(environment, tmp_path, "init", "store")
    thetastore(environment, tmp_path, "put", "store/scan", "scan.nrrd")

    shown = thetastore(environment, tmp_path, "show", "store/scan")
    without = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    thetastore(without, tmp_path, "get", "store/scan@v1", "--to", "back.nrrd")

    assert "nrrd" in shown
    assert "weights" in shown
    assert (tmp_path / "back.nrrd").read_bytes() == NRRD, "without the plug-in, too"
