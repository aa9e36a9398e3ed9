"""What every command ends with: 0 done, 1 found something, 2 failed, 129 usage, 130 interrupted, 141 nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitbridge.cli.main import COMMANDS as BRIDGE
from thetastore.cli.main import COMMANDS as STORE
from thetastore.command_line import options_of, parser_of

PROGRAMS = Path(sys.executable).parent

IN_A_PROJECT = {
    "install": ["--local"], "uninstall": ["--local"], "track": [], "untrack": ["*.safetensors"],
    "add": ["m.safetensors"], "status": [], "diff": [], "log": ["m.safetensors"], "blame": ["m.safetensors"],
    "ls-files": [], "ls": ["m.safetensors"], "show": ["m.safetensors"], "cat": ["m.safetensors"], "du": [],
    "fetch": [], "pull": [], "push": [], "checkout": [], "doctor": [],
    "check": ["--allow", "not-finite"], "fsck": [], "repack": ["-n"],
    "prune": ["-n"], "gc": ["--remote", "-n"], "unpin": ["-n"], "migrate": ["info"], "logs": [], "completion": ["bash"],
    "env": [], "version": [], "mergetool": ["--list"],
    "merge-file": ["--output", "out", "m.safetensors", "m.safetensors", "m.safetensors"],
}  # fmt: skip
"""Arguments with which a command has something to do in a sound project, and nothing to complain of."""
NEEDS_MORE = {"merge-models"}
FAILING = {
    "install": ["--local"], "uninstall": ["--local"], "track": [], "untrack": ["x"], "add": ["x"], "status": [],
    "diff": [], "log": ["x"], "blame": ["x"], "ls-files": [], "ls": ["x"], "show": ["x"], "cat": ["x"], "du": [],
    "fetch": [], "pull": [], "push": [], "checkout": [], "check": [], "fsck": [], "repack": [], "prune": [],
    "gc": ["--remote"], "unpin": [], "migrate": ["info"], "logs": [], "mergetool": [], "merge-file": ["x", "y", "z"],
    "merge-models": ["x", "--output", "y"],
}  # fmt: skip
"""Arguments with which a command cannot do anything outside of a repository."""
CANNOT_FAIL = {"doctor", "completion", "env", "version"}
STORE_FAILING = {
    "put": ["none/m", "x"], "get": ["none/m"], "show": ["none/m"], "log": ["none/m"], "tag": ["none/m"],
    "rm": ["none/m"], "cp": ["none/m", "none"], "sync": ["none", "none"],
}  # fmt: skip
"""The others take a store, and nothing else."""


def people_type(commands) -> list[str]:
    return [name for name, command in commands.items() if command.summary]


def test_the_tables_have_every_command() -> None:
    names = set(people_type(BRIDGE))
    assert set(IN_A_PROJECT) | NEEDS_MORE >= names
    assert set(FAILING) | CANNOT_FAIL >= names


@pytest.mark.parametrize("name", [name for name in people_type(BRIDGE) if name not in NEEDS_MORE])
def test_in_a_sound_project_a_command_is_done_with_0(work, name: str) -> None:
    done = work.theta(name, *IN_A_PROJECT[name], check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in people_type(BRIDGE) if name not in CANNOT_FAIL])
def test_outside_of_a_repository_a_command_fails_with_2_and_in_words(place, name: str) -> None:
    done = place.theta(name, *FAILING[name], check=False, GIT_CEILING_DIRECTORIES=str(place.path.parent))

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("git theta: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", people_type(STORE))
def test_the_store_alone_has_the_same(place, name: str) -> None:
    usage = place.run("thetastore", name, "--no-such-option", check=False)
    assert usage.returncode == 129
    assert "usage: thetastore" in usage.stderr
    if name in ("init", "completion", "version"):
        return

    failed = place.run("thetastore", name, *STORE_FAILING.get(name, ["none"]), check=False)

    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert failed.stderr.startswith("thetastore: ")
    assert "Traceback" not in failed.stderr


FOUND = {
    "status": "rm -r ../weights .git/theta/packs .git/theta/index",
    "doctor": "git config theta.installHooks nonsense",
    "check": "git status",  # the weights here are random bytes, and some of them NaN
    "fsck": "rm -r .git/theta/packs",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_looks_for_something_ends_with_1_where_it_finds_it(work, name: str) -> None:
    work.run("sh", "-c", FOUND[name])

    done = work.theta(name, check=False)

    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize("program", ["git-theta", "thetastore"])
def test_a_reader_that_leaves_ends_it_with_141(program: str) -> None:
    gone, out = os.pipe()
    os.close(gone)
    try:
        done = subprocess.run([PROGRAMS / program, "help"], stdout=out, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(out)

    assert (done.returncode, done.stderr) == (141, b"")


LISTS = [
    "status",
    "ls-files",
    "ls",
    "show",
    "log",
    "blame",
    "du",
    "doctor",
    "track",
    "env",
    "version",
    "cat",
    "completion",
]


@pytest.mark.parametrize("name", LISTS)
def test_a_command_whose_reader_has_left_ends_with_141(work, name: str) -> None:
    gone, out = os.pipe()
    os.close(gone)
    command = [PROGRAMS / "git-theta", name, *IN_A_PROJECT[name]]
    try:
        done = subprocess.run(
            command, cwd=work.path, env=work.environment, stdout=out, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(out)

    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_ends_it_with_130(place) -> None:
    place.run("thetastore", "init", "zoo")
    process = subprocess.Popen(
        [PROGRAMS / "thetastore", "put", "zoo/m", "-"],
        cwd=place.path, env=place.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"x" * (1 << 20))  # more than a pipe holds: somebody is reading

    process.send_signal(signal.SIGINT)
    _, said = process.communicate()

    assert (process.returncode, said) == (130, b"thetastore: interrupted\n")


def takes_json(commands, name: str) -> bool:
    command = commands[name]
    function = getattr(__import__(command.module, fromlist=["run"]), getattr(command, "function", "run"))
    return "--json" in options_of(parser_of(function))


def error_in(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    values = json.loads(done.stdout)
    assert (done.returncode, values["schema"]) == (2, 1)
    assert values["error"]["message"] in done.stderr
    assert values["error"]["code"] not in ("", "bug")
    return values["error"]


@pytest.mark.parametrize("name", [name for name in FAILING if takes_json(BRIDGE, name) and name != "migrate"])
def test_what_fails_and_is_asked_for_json_says_so_in_json(place, name: str) -> None:
    error = error_in(place.theta(name, "--json", *FAILING[name], check=False))

    assert error["code"] == ("repository-missing" if name != "add" else "usage")


@pytest.mark.parametrize("name", [name for name in people_type(STORE) if takes_json(STORE, name) and name != "version"])
def test_the_store_says_in_json_what_failed_too(place, name: str) -> None:
    error = error_in(place.run("thetastore", name, "--json", *STORE_FAILING.get(name, ["none"]), check=False))

    assert "none" in error["message"]


def test_a_push_that_cannot_begin_says_so_to_programs(work) -> None:
    done = work.theta("push", "--json", "--progress=json", "origni", check=False)

    assert "did you mean 'origin'?" in error_in(done)["message"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert json.loads(lines[-1])["error"] == json.loads(done.stdout)["error"]
    assert work.theta("push", "origni", check=False).stdout == ""


def test_what_a_fetch_found_before_it_failed_is_told_with_the_error_in_one_object(work) -> None:
    work.run("sh", "-ec", "rm -rf .git/theta/packs .git/theta/index ../weights/packs ../weights/index")

    for command in (["fetch", "--json"], ["fetch", "--dry-run", "--json"], ["pull", "--json"]):
        done = work.theta(*command, check=False)
        assert error_in(done)["code"] == "remote"
        assert json.loads(done.stdout)["missing"] == ["d/n.safetensors", "m.safetensors"]
