"""Room is looked for before files are filled, and before weights are fetched."""

from __future__ import annotations

import pytest

from gitbridge import space
from gitbridge.cli.main import main


def host(work) -> str:
    return f"file://{work.path.parent}/host.git"


@pytest.fixture
def crowded(work, monkeypatch: pytest.MonkeyPatch):
    """A clone with pointers, on a disk with a megabyte left, and this process in it."""
    clone = work.clone(host(work), work.path.parent / "clone", GIT_THETA_SKIP_SMUDGE="1")
    for name, value in clone.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(clone.path)
    monkeypatch.setattr(space, "free_bytes", lambda directory: 1_000_000)
    return clone


def test_files_that_do_not_fit_are_left_and_a_part_of_them_can_be_had(crowded, capsys) -> None:
    assert main(["checkout"]) == 2

    said = capsys.readouterr().err
    assert "filling 2 files takes 1.20 MB, and 1.00 MB are free" in said
    assert "hint: make room" in said
    assert "git theta: fetching takes up to 1.20 MB, and 1.00 MB are free" in said
    assert crowded.read("m.safetensors").startswith(b"version ")

    assert main(["checkout", "m.safetensors"]) == 0
    assert crowded.read("m.safetensors") == crowded.v2


def test_fetching_alone_is_remarked_on_too(crowded, capsys) -> None:
    assert main(["fetch"]) == 0

    assert "git theta: fetching takes up to 1.20 MB, and 1.00 MB are free" in capsys.readouterr().err


def test_the_filter_refuses_a_checkout_that_does_not_fit(work, tmp_path) -> None:
    """The program with one function replaced, as git starts it."""
    import sys

    script = tmp_path / "git-theta-crowded"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom gitbridge import space\n"
        "space.free_bytes = lambda directory: 1000\n"
        "sys.argv[0] = 'git-theta'\nfrom gitbridge.cli.main import run\nrun()\n"
    )
    script.chmod(0o755)
    work.git("config", "filter.theta.process", f"{script} filter-process")

    failed = work.run("git", "checkout", "v1", check=False)

    assert failed.returncode == 128
    assert "filling 1 file takes 600 kB, and 1.00 kB are free where" in failed.stderr
    work.git("config", "--unset", "filter.theta.process")
    work.git("checkout", "-q", "-f", "main")
    assert work.is_whole()
