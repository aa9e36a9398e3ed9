"""A commit that was begun in the background ends well, whatever happens to the program that began it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import gitbridge
from thetastore.errors import UnsupportedError

PROGRAM = """
import sys, threading, gitbridge, numpy
saver = gitbridge.Saver(sys.argv[1], "run", sys.argv[2])
saver.save({"w": numpy.arange(6.0)}, "the last")
"""
WAITING = PROGRAM + "threading.Event().wait()\n"


@pytest.fixture
def repo(make_work):
    work = make_work()
    work.commit("start")
    return work


def on_prepared(repo, script):
    """Have the hook that git calls when it is about to move a branch do something."""
    hook = repo.path / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n[ $1 = prepared ] || exit 0\n{script}\n")
    hook.chmod(0o755)


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )


def test_an_interrupt_from_the_terminal_ends_the_program_and_not_its_commit(repo):
    on_prepared(repo, "kill -INT 0")

    done = run(WAITING, "m.safetensors", repo.path)

    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert repo.git("log", "-1", "--format=%s", "run").out == "the last\n"
    assert (gitbridge.open(repo.path, "run")["w"].numpy() == np.arange(6.0)).all()


def test_a_failure_that_nobody_asks_about_is_told_when_the_program_ends(repo):
    done = run(PROGRAM, "m.pt", repo.path)

    assert done.returncode == 0
    assert done.stderr.startswith("gitbridge: 'the last' was not committed to 'run': 'm.pt' has the name of another")
    assert done.stderr.count("\n") == 1


def test_a_failure_that_was_raised_is_not_told_again(repo):
    done = run(PROGRAM + "try: saver.close()\nexcept Exception as error: print(error)\n", "m.pt", repo.path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("'m.pt' has the name of another")


def test_a_wait_that_is_interrupted_can_be_taken_up_again(repo, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    on_prepared(repo, f"kill -USR1 {os.getpid()}; read line < '{gate}'")

    def save_and_wait(saver):
        saver.save({"w": np.zeros(1000)}, "one")
        saver.wait()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with gitbridge.Saver("m.safetensors", "run", repo.path) as saver:
            with pytest.raises(KeyboardInterrupt):
                save_and_wait(saver)
            assert repo.git("branch", "--list", "run").out == ""
            gate.write_text("go\n")
            oid = saver.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert oid == repo.git("rev-parse", "run").out.strip()


class Shard(np.ndarray):
    """A part of a tensor, as torch's `DTensor` is one: what has all of it has to be asked of all processes."""

    def full_tensor(self):
        raise AssertionError("one process alone would wait for the others for ever")


def test_a_tensor_in_pieces_is_refused_before_anything_is_copied_or_committed(repo):
    state = {"whole": np.arange(3.0), "part": np.arange(6.0).view(Shard)}

    with gitbridge.Saver("m.safetensors", "run", repo.path) as saver:
        with pytest.raises(UnsupportedError, match=r"'part' is in pieces .*\(Shard\).*full_state_dict=True"):
            saver.save(state, "step 1")
        saver.save({"whole": np.arange(3.0)}, "step 2")
    with pytest.raises(UnsupportedError, match="'part' is in pieces"):
        gitbridge.commit(state, path="m.safetensors", message="step 3", branch="run", repository=repo.path)

    assert repo.git("log", "--format=%s", "run").out.splitlines()[0] == "step 2"
