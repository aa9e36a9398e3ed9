"""Who may import what: layers, third parties, and what the filter loads when git starts it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("thetastore", "gitbridge", "migrations")
OPTIONAL = {
    "numcodecs": ("thetastore/codecs/for_numcodecs.py", "migrations/git_theta.py"),
    "fsspec": ("thetastore/backends/", "gitbridge/filesystem.py"),
    "gcsfs": "thetastore/backends/gcs.py",
    "aiohttp": "thetastore/backends/fsspec_requests.py",
    "sshfs": "thetastore/backends/opening.py",
    "asyncssh": "thetastore/backends/sftp.py",
    "azure": "thetastore/backends/azure.py",
    "zarr": "thetastore/zarr_view.py",
    "jax": "thetastore/arrays.py",
    "lightning": "gitbridge/callbacks.py",
    "pytorch_lightning": "gitbridge/callbacks.py",
    "yaml": "thetastore/merging/mergekit_yaml.py",
    "ml_dtypes": "thetastore/arrays.py",
    "pytest": "thetastore/testing/",
    "torch": ("thetastore/arrays.py", "gitbridge/callbacks.py"),
    "safetensors": "gitbridge/drop_in.py",  # what it stands in for, where that is there
    "hypothesis": "thetastore/testing/",
}
"""What only one place may import, because nothing else needs it: an extra, or the conformance suites."""
NEVER_AT_START = {
    "asyncio",
    "concurrent.futures",
    "fsspec",
    "importlib.metadata",
    "json",
    "logging",
    "numcodecs",
    "numpy",
}
NEVER_AT_START |= {"argparse", "pathlib", "pygit2", "subprocess", "tempfile", "zarr"}


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [PROGRAMS / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_third_parties_are_only_those_that_are_declared() -> None:
    declared = {re.split(r"[>=<\[]", requirement)[0] for requirement in PROJECT["project"]["dependencies"]}
    for path in modules():
        for name in imported_by(path):
            top = name.split(".")[0]
            allowed = top in sys.stdlib_module_names or top in declared or top in PACKAGES
            here = str(path.relative_to(ROOT)).startswith(OPTIONAL.get(top, "nowhere"))
            assert allowed or here, f"{path} imports {name}"


def test_nothing_can_unpickle() -> None:
    for path in modules():
        assert not {"pickle", "shelve", "marshal", "dill"} & set(imported_by(path)), path


def test_a_filter_with_nothing_to_do_loads_little(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    command = [sys.executable, "-X", "importtime", PROGRAMS / "git-theta", "filter-process"]

    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0, done.stderr[-2000:]
    assert "gitbridge.filter_process" in loaded
    assert not NEVER_AT_START & loaded


def test_an_editable_install_is_a_plain_path_that_costs_no_start_up_time() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "pass"], capture_output=True, text=True, check=True
    )

    assert "__editable__" not in done.stderr


@pytest.mark.parametrize("package", ["thetastore", "gitbridge"])
def test_a_package_tells_type_checkers_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
