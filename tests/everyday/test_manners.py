"""Colours, and a system that is not one of ours."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_colours_come_when_they_are_asked_for_and_never_into_a_file(work) -> None:
    work.git("config", "theta.ulr", "x")

    assert "\x1b[33mnote" in work.theta("doctor", "--color").stdout
    assert "\x1b" not in work.theta("doctor").stdout
    assert "\x1b" not in work.theta("doctor", "--color=never").stdout
    work.write("m.safetensors", work.checkpoint("changed"))
    assert "\x1b[32mmodified\x1b[m" in work.theta("status", "--color=always").stdout
    assert "\x1b" not in work.theta("status").stdout


@pytest.mark.parametrize("module", ["gitbridge.cli.main", "thetastore.cli.main"])
def test_another_system_is_refused_in_words(module: str) -> None:
    program = f"import os, sys; import {module} as program; os.name = 'nt'; sys.exit(program.run())"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "POSIX" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_one_log_results_and_what_is_said_of_them_keep_their_order(work) -> None:
    work.commit("a pickle", x_pkl=b"\x80\x04N.")

    logged = work.run("sh", "-c", "git theta check --base HEAD~1 HEAD 2>&1", check=False).stdout

    assert logged.index("pickle: x.pkl") < logged.index("1 problem")


def test_thetastore_keeps_the_order_in_one_log_too(place) -> None:
    place.write("some.bin", b"x" * 1000)

    logged = place.run("sh", "-c", "thetastore init zoo 2>&1 && thetastore put zoo/some some.bin 2>&1").stdout

    assert logged.index("zoo\n") < logged.index("some@v1") < logged.index("1 file")
