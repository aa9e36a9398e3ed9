"""Ctrl-C, which a terminal sends to git and to all that it runs, in the middle of add, checkout and push."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHARES = [pytest.param(0.0, marks=pytest.mark.deep), 0.3, pytest.param(0.8, marks=pytest.mark.deep)]


def interrupted(work, command: tuple[str, ...], when) -> subprocess.CompletedProcess[bytes]:
    """Run git in a process group of its own, and interrupt the group as soon as `when()` is true."""
    process = subprocess.Popen(
        ["git", *command],
        cwd=work.path,
        env=work.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and not when():
        assert time.monotonic() < deadline, "it never came that far"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def grown(directory: Path, at_least: int):
    """What tells whether files with so many bytes lie in a directory."""

    def tell() -> bool:
        total = 0
        for root, _, names in os.walk(directory):
            for name in names:
                try:
                    total += os.stat(os.path.join(root, name)).st_size
                except FileNotFoundError:
                    continue
        return total >= at_least

    return tell


def size_of(directory: Path) -> int:
    return sum(os.stat(os.path.join(root, name)).st_size for root, _, names in os.walk(directory) for name in names)


@pytest.fixture
def big(work):
    """Forty megabytes in eight files, not yet added."""
    for number in range(8):
        work.write(f"big/{number}.safetensors", work.checkpoint(f"big{number}", nbytes=5_000_000))
    return work


@pytest.mark.parametrize("share", SHARES)
def test_an_interrupted_add_can_be_repeated(big, share: float) -> None:
    store = big.path / ".git" / "theta"

    done = interrupted(big, ("add", "big"), grown(store, size_of(store) + int(share * 40_000_000) + 1))

    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert not (big.path / ".git" / "index.lock").exists()
    big.git("add", "big")
    big.git("commit", "-q", "-m", "big")
    assert big.is_whole()
    assert big.run("thetastore", "verify", str(store)).returncode == 0


@pytest.mark.parametrize("share", SHARES)
def test_an_interrupted_checkout_can_be_repeated(big, share: float) -> None:
    big.commit("big")
    big.git("checkout", "-q", "v1")
    before = size_of(big.path) - size_of(big.path / ".git")

    def tell() -> bool:
        return grown(big.path / "big", int(share * 40_000_000) + 1)()

    done = interrupted(big, ("checkout", "-q", "main"), tell)

    assert b"Traceback" not in done.stderr
    assert before > 0
    left = [name for _, _, names in os.walk(big.path) for name in names if ".theta-" in name]
    big.git("checkout", "-q", "-f", "main")
    big.theta("checkout")
    assert big.is_whole()
    assert [name for _, _, names in os.walk(big.path / "big") for name in names if ".theta-" in name] == [], left
    assert os.listdir(big.path / ".git" / "theta" / "pending") == []


@pytest.mark.parametrize("share", SHARES)
def test_an_interrupted_push_can_be_repeated(big, share: float) -> None:
    big.commit("big")
    remote = big.path.parent / "weights"

    done = interrupted(
        big, ("push", "-q", "origin", "main"), grown(remote, size_of(remote) + int(share * 36_000_000) + 1)
    )

    assert b"Traceback" not in done.stderr
    big.git("push", "-q", "origin", "main")
    clone = big.clone(f"file://{big.path.parent}/host.git", big.path.parent / "clone")
    assert clone.is_whole()
    assert big.run("thetastore", "verify", str(remote)).returncode == 0


@pytest.mark.parametrize("program", ["gitbridge", "thetastore"])
def test_an_interrupt_while_a_program_starts_ends_it_without_a_traceback(program: str) -> None:
    begins = (
        f"import os, signal, sys\nimport {program}.cli.start\n"
        "assert 'argparse' not in sys.modules\nos.kill(os.getpid(), signal.SIGINT)"
    )

    def done(ignores: bool) -> tuple[int, bytes]:
        action = signal.SIG_IGN if ignores else signal.SIG_DFL
        ended = subprocess.run(
            [sys.executable, "-c", begins], capture_output=True, preexec_fn=lambda: signal.signal(signal.SIGINT, action)
        )
        return ended.returncode, ended.stderr

    assert done(ignores=False) == (-signal.SIGINT, b"")
    assert done(ignores=True) == (0, b"")


@pytest.mark.parametrize("package", ["gitbridge", "thetastore"])
def test_what_is_imported_before_an_interrupt_is_silent_imports_nothing(package: str) -> None:
    program = f"import sys; before = set(sys.modules); import {package}; print(*sorted(set(sys.modules) - before))"

    found = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True).stdout

    assert set(found.split()) <= {"__future__", package}


@pytest.mark.parametrize("package", ["gitbridge", "thetastore"])
def test_an_interrupt_that_became_another_error_on_its_way_is_no_bug(package: str, tmp_path: Path) -> None:
    program = (
        f"import os, signal, sys\nimport {package}.cli.main as program\n"
        "def turned(arguments):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n        raise ImportError('as numpy does')\n"
        "program._dispatch = turned\nsys.exit(program.run())"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip

    assert done.returncode == 130
    assert done.stderr in ("git theta: interrupted\n", "thetastore: interrupted\n")
