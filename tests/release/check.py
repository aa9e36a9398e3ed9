"""Build wheel and sdist, install each into its own environment, run the demo from there: `make release-check`.

    python tests/release/check.py path/to/model.safetensors

What is built comes from a copy of the committed and the new files, as a release would. The exit status is 1 if anything
is missing or fails; a line is printed for each thing that holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("s3", "gcs", "azure", "sftp", "torch", "hdf5", "dask", "all")


class ReleaseError(Exception):
    """The release would be broken; the message says how."""


def run(*command: str | Path, cwd: Path, home: Path) -> str:
    """Run a command without any of our variables; return what it printed.

    Raises:
        ReleaseError: it failed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    env = kept | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def copy_of_project(target: Path) -> Path:
    """Copy what git knows, or would take, and nothing that was built; return where."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in map(os.fsdecode, listed.split(b"\0")[:-1]):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def build(scratch: Path) -> list[Path]:
    """Return the sdist and the wheel that is built from the sdist."""
    project = copy_of_project(scratch / "project")
    run(sys.executable, "-m", "build", "--outdir", scratch / "dist", cwd=project, home=scratch)
    return sorted((scratch / "dist").iterdir())


def names_in(archive: Path) -> list[str]:
    """Return the names of what is in an archive, from the top of the project."""
    if archive.suffix == ".whl":
        return zipfile.ZipFile(archive).namelist()
    with tarfile.open(archive) as tar:
        return [name.partition("/")[2] for name in tar.getnames()]


def look_at(archive: Path) -> None:
    """Compare what an archive holds with what it should.

    Raises:
        ReleaseError: something is missing, or does not belong there.
    """
    names = names_in(archive)
    for package in ("thetastore", "gitbridge", "migrations"):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        if missing := modules - set(names):
            raise ReleaseError(f"{archive.name} lacks {sorted(missing)}")
    for wanted in ("LICENSE", "py.typed", "git-theta.1", "thetastore.1"):
        if not any(name.endswith(wanted) for name in names):
            raise ReleaseError(f"{archive.name} lacks {wanted}")
    if archive.suffix == ".whl":
        strays = [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/", "examples/"))]
        if strays:
            raise ReleaseError(f"{archive.name} holds {strays[:3]}")
        _look_at_metadata(archive)


def _look_at_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    for line in ("License-Expression: Apache-2.0", *(f"Provides-Extra: {extra}" for extra in EXTRAS)):
        if line not in metadata.splitlines():
            raise ReleaseError(f"{wheel.name}: its metadata lacks '{line}'")


def try_out(archive: Path, weights: Path, scratch: Path) -> str:
    """Install an archive into an environment of its own, run the demo there; return its last line.

    Raises:
        ReleaseError: something of that failed.
    """
    venv = scratch / f"venv-{archive.suffix.strip('.')}"
    run(sys.executable, "-m", "venv", venv, cwd=scratch, home=scratch)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", archive, cwd=scratch, home=scratch)
    where = run(python, "-c", "import thetastore; print(thetastore.__file__)", cwd=scratch, home=scratch).strip()
    if not where.startswith(str(venv)):
        raise ReleaseError(f"thetastore was imported from {where}, not from {venv}")
    if not (venv / "share" / "man" / "man1" / "git-theta.1").exists():
        raise ReleaseError(f"{archive.name} does not bring its manual page along")
    run(venv / "bin" / "git-theta", "version", cwd=scratch, home=scratch)
    run(venv / "bin" / "thetastore", "--help", cwd=scratch, home=scratch)
    return run(python, "-m", "gitbridge.demo", weights.resolve(), cwd=scratch, home=scratch).strip().splitlines()[-1]


def main(weights: Path) -> int:
    """Build, look, install and run; say what holds."""
    with tempfile.TemporaryDirectory(prefix="theta-release-") as directory:
        scratch = Path(directory)
        try:
            for archive in build(scratch):
                look_at(archive)
                print(f"{archive.name}: {archive.stat().st_size / 1000:.0f} kB, has what belongs there", flush=True)
                print(f"{archive.name}: installed; {try_out(archive, weights, scratch)}", flush=True)
        except ReleaseError as error:
            print(f"release-check: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
