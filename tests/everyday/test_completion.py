"""Completion, as bash itself does it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = os.path.dirname(sys.executable)
GITS_OWN = "/usr/share/bash-completion/completions/git"

# What bash does at a TAB: words and position in variables, then the function that `complete` registered.
_DRIVER = """
source "$1"
[ -z "$GITS" ] || source "$GITS"
shift; function=$1; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
COMPREPLY=()
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("completion")
    for program in ("git-theta", "thetastore"):
        made = subprocess.run([f"{PROGRAMS}/{program}", "completion", "bash"], capture_output=True, check=True)
        (directory / program).write_bytes(made.stdout)
    return directory


@pytest.fixture
def complete(scripts: Path, tmp_path: Path):
    subprocess.run(["git", "init", "-q", "-b", "trunk", tmp_path], check=True)
    subprocess.run(["git", "remote", "add", "upstream", "x"], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path, check=True)
    (tmp_path / "model one.pt").write_bytes(b"")

    def run(program: str, function: str, *words: str, gits: str = "") -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", _DRIVER, "bash", scripts / program, function, *words],
            cwd=tmp_path,
            env={**os.environ, "GITS": gits},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.strip() for line in done.stdout.splitlines() if line.strip()]

    return run


def test_commands_options_and_arguments_are_completed(complete) -> None:
    def typed(*words: str) -> list[str]:
        return complete("git-theta", "_git_theta", "git-theta", *words)

    assert typed("stat") == ["status"]
    assert "ls-files" in typed("")
    assert "filter-process" not in typed("")
    assert typed("status", "--js") == ["--json"]
    assert typed("push", "up") == ["upstream"]
    assert typed("fetch", "upstream", "tr") == ["trunk"]
    assert typed("checkout", "mod") == ["model one.pt"]
    assert typed("help", "unt") == ["untrack"]
    assert typed("add", "--base", "tr") == ["trunk"]
    assert typed("add", "--base", "=", "tr") == ["trunk"]


@pytest.mark.skipif(not os.path.exists(GITS_OWN), reason="git's own completion is not here")
def test_gits_own_completion_asks_us(complete) -> None:
    def typed(*words: str) -> list[str]:
        return complete("git-theta", "__git_wrap__git_main", "git", *words, gits=GITS_OWN)

    assert typed("theta", "stat") == ["status"]
    assert typed("theta", "status", "--js") == ["--json"]
    assert typed("-C", ".", "theta", "push", "up") == ["upstream"]


def test_the_store_alone_is_completed(complete) -> None:
    assert complete("thetastore", "_thetastore", "thetastore", "ver") == ["verify", "version"]
    assert complete("thetastore", "_thetastore", "thetastore", "verify", "--level", "ta") == ["tables"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_names_every_command(shell: str) -> None:
    made = subprocess.run([f"{PROGRAMS}/git-theta", "completion", shell], capture_output=True, text=True, check=True)
    syntax = subprocess.run([shell, "-n"], input=made.stdout, text=True, check=False) if shutil.which(shell) else None

    assert syntax is None or syntax.returncode == 0
    assert "ls-files" in made.stdout
    assert "filter-process" not in made.stdout
