"""A migration that is killed leaves the old history or the new one, and the next one goes on."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

IMPORT = ["import", "--from", "git", "--include", "*.safetensors", "--everything", "--yes"]

# Kills the process at the n-th call of git or of the operating system that changes something that stays.
KILLER = """
import os, signal, sys
import gitbridge.repository as repository
from migrations import incoming, landing
left = int(sys.argv[1])
def counted(owner, name):
    real = getattr(owner, name)
    def call(*args, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)
    setattr(owner, name, call)
counted(repository.Repository, "git")
counted(os, "replace")
counted(incoming.Converter, "_pointer")
counted(landing, "_settle")
from gitbridge.cli.main import main
status = main(["migrate", *sys.argv[2:]])
print("calls left", left, file=sys.stderr)
os._exit(status)
"""


def killed_after(place, calls, *command):
    return subprocess.run(
        [sys.executable, "-c", KILLER, str(calls), *command],
        cwd=place.path,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refs_of(place):
    return place.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")


@pytest.mark.parametrize("undoes", [False, True])
def test_a_kill_anywhere_leaves_all_of_the_old_refs_or_all_of_the_new_ones(plain, undoes):
    old = refs_of(plain)
    if undoes:
        plain.migrate(*IMPORT)
        command, before = ["undo"], refs_of(plain)
        done = old
    else:
        command, before, done = IMPORT, old, None
    for calls in range(0, 200, 3):
        killed = killed_after(plain, calls, *command)
        if killed.returncode != -signal.SIGKILL:
            break
        now = refs_of(plain)
        done = done or (now if now != before else None)
        assert now in (before, done)
        assert plain.run("git", "fsck").returncode == 0
        if now != before:
            plain.migrate("info")  # any migration first completes what was left
            assert plain.status() == ""
            break
    else:
        raise AssertionError("it never ended")

    if refs_of(plain) == before:
        plain.migrate(*command)
    assert plain.status() == ""
    assert plain.bytes_at("main", "m.safetensors") == plain.weights(1, 5) if not undoes else refs_of(plain) == old


def test_what_was_converted_before_a_kill_is_not_converted_again(plain):
    log = plain.path / ".git" / "theta-migrate" / "blobs"
    for calls in range(8, 60, 2):
        assert killed_after(plain, calls, *IMPORT).returncode == -signal.SIGKILL
        if log.exists():
            break
    known = log.read_bytes()
    assert len(known.splitlines()) == 5

    plain.migrate(*IMPORT)

    assert log.read_bytes() == known
    assert plain.bytes_at("first", "m.safetensors") == plain.weights(1, 2)


def test_a_torn_line_and_a_lost_store_make_it_convert_again(plain):
    plain.migrate(*IMPORT)
    plain.migrate("undo")
    plain.run("rm", "-r", ".git/theta")
    with open(plain.path / ".git/theta-migrate/blobs", "ab") as stream:
        stream.write(b"0123 torn")

    plain.migrate(*IMPORT)

    assert plain.bytes_at("first", "m.safetensors") == plain.weights(1, 2)
    assert plain.status() == ""
