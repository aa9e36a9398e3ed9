"""What is released installs and runs elsewhere, brings its licence along, and names the extra that is missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("s3", "gcs", "azure", "sftp", "torch", "hdf5", "dask", "all")


def collector() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("collect", ROOT / "changes" / "collect.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without(packages: list[str], program: str) -> str:
    """Run a program in a Python that lacks some packages; return the last line that it writes to standard error."""
    lack = f"import sys\nsys.modules.update(dict.fromkeys({packages!r}))\n"
    done = subprocess.run([sys.executable, "-c", lack + program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.deep
def test_wheel_and_sdist_install_into_clean_environments_and_pass_the_demo() -> None:
    weights = ROOT / ".venv" / "minilm" / "model.safetensors"
    if not weights.exists():
        pytest.skip("needs the weights that `make demo` fetches")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "build>=1.2"], check=True)

    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "release" / "check.py", weights], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Every SHA-256 was equal") == 2


def test_the_licence_is_the_one_that_the_metadata_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_there_is_every_extra_and_all_brings_each_of_them() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]

    assert set(EXTRAS) <= set(extras)
    assert set(everything.removeprefix("thetastore[").removesuffix("]").split(",")) >= set(EXTRAS) - {"all"}


@pytest.mark.parametrize(
    ("extra", "packages", "url"),
    [
        ("s3", ["s3fs"], "s3://bucket/prefix"),
        ("gcs", ["gcsfs"], "gs://bucket/prefix"),
        ("azure", ["adlfs"], "abfs://container/prefix"),
        ("sftp", ["sshfs"], "sftp://user@host/path"),
        ("http", ["aiohttp"], "https://host/path"),
    ],
)
def test_a_place_whose_package_is_missing_names_the_extra(extra: str, packages: list[str], url: str) -> None:
    said = without(packages, f"import thetastore\nthetastore.Store.open({url!r})")

    assert said.startswith("thetastore.errors.PackageMissingError: ")
    assert said.endswith(f"pip install 'thetastore[{extra}]'")


@pytest.mark.parametrize(
    ("wanted", "packages", "program"),
    [
        ("'thetastore[torch]'", ["torch"], "from thetastore.arrays import torch_form; torch_form('float32', None)"),
        ("jax", ["jax"], "from thetastore.arrays import jax_form; jax_form(None)"),
        ("'thetastore[zarr]'", ["zarr"], "import thetastore.zarr_view"),
    ],
)
def test_an_interface_whose_package_is_missing_says_how_to_get_it(
    wanted: str, packages: list[str], program: str
) -> None:
    said = without(packages, program)

    assert said.startswith("thetastore.errors.PackageMissingError: ")
    assert said.endswith(f"which is not installed: pip install {wanted}")


@pytest.mark.parametrize("package", ["thetastore", "gitbridge"])
def test_a_shell_that_completes_sees_the_public_names_before_they_are_imported(package: str) -> None:
    program = f"import {package}\nraise SystemExit(not set({package}.__all__) <= set(dir({package})))"

    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == 0


def test_a_recipe_in_yaml_without_its_package_is_an_error_that_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("merge_method: linear\n")
    program = (
        "import os, gitbridge.cli.main as m\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "raise SystemExit(m.main(['merge-models', 'recipe.yaml', '--output', 'out']) == 2)"
    )

    assert without(["yaml"], program) == "hint: pip install 'thetastore[merge]'"


def test_the_core_needs_four_packages() -> None:
    names = {requirement.partition(">")[0] for requirement in PROJECT["dependencies"]}

    assert names == {"blake3", "numpy", "xxhash", "zstandard"}


def test_notes_become_a_changelog_under_the_version_that_is_released(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "changes", tmp_path / "changes")
    shutil.copy2(ROOT / "CHANGELOG.md", tmp_path)
    (tmp_path / "changes" / "990.fixed.md").write_text("- What was broken works.\n")

    assert collector().main(tmp_path, "1.2.3") == 0

    text = (tmp_path / "CHANGELOG.md").read_text()
    assert "## 1.2.3 (" in text
    assert text.index("### Added") < text.index("### Fixed") < text.index("- What was broken works.")
    assert "- GGUF, npy and npz files are understood" in text
    assert not list((tmp_path / "changes").glob("*.md"))
    assert collector().main(tmp_path, "1.2.4") == 1


def test_every_note_is_of_a_kind_that_there_is() -> None:
    assert len(collector().notes(ROOT / "changes")) >= 10
