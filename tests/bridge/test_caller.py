"""Which git command started us."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gitbridge.caller import command_of


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("git cat-file --filters HEAD:a", "cat-file --filters HEAD:a"),
        ("git -c a.b=c -C cat-file --no-pager diff x", "diff x"),
        ("git --git-dir=cat-file --work-tree status log", "log"),
        ("git", ""),
        ("git -c", ""),
    ],
)
def test_options_of_git_itself_are_told_from_its_command(line, command):
    assert command_of(line.encode().split()) == command.encode().split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("ending", ["", "; exit $?"])
def test_the_command_is_found_whether_or_not_a_shell_stays_between(work, ending):
    code = "from gitbridge.caller import git_command; print(git_command())"

    said = work.git("-c", f"alias.x=!'{sys.executable}' -c '{code}'{ending}", "x", "1")

    assert said.out.strip() == "[b'x', b'1']"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_nothing_is_found_where_no_git_is_near():
    code = "from gitbridge.caller import git_command; print(git_command())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
