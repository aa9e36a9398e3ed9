"""Progress on a terminal, without one, and for programs."""

from __future__ import annotations

import io
import json
import subprocess

import pytest

from gitbridge.render import Progress, has_colours
from thetastore import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("GIT_THETA_PROGRESS", raising=False)
    return now


def test_a_terminal_has_one_line_that_goes_away(clock: list[float]) -> None:
    stream = Terminal()
    shown = Progress("fetching weights", stream)
    clock[0] += 4
    shown.of_bytes(25_000_000, 100_000_000)
    shown.done()

    assert stream.getvalue().startswith("\rfetching weights: 25 % of 100 MB, 12 s left")
    assert stream.getvalue().endswith(" \r")
    assert "\n" not in stream.getvalue()


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("sending weights", stream)
    for _ in range(100):
        clock[0] += 0.3
        shown(7, 3_000_000)
    shown.done()

    assert stream.getvalue().splitlines() == [
        "git theta: sending weights: 7 objects, 3.00 MB, 294 kB/s",
        "git theta: sending weights: 7 objects, 3.00 MB, 147 kB/s",
    ]


def test_what_is_quick_says_nothing_without_a_terminal(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("sending weights", stream)
    shown(7, 3_000_000)
    shown.done()

    assert stream.getvalue() == ""


def test_json_lines_end_with_one_that_says_done(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_THETA_PROGRESS", "json")
    stream = Terminal()
    shown = Progress("sending weights", stream)
    shown(1, 10)
    shown(2, 20)
    shown.done()
    shown.done()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["objects"] for line in lines] == [1, 2]
    assert lines[-1] == {
        "schema": 1,
        "progress": "sending weights",
        "elapsed_s": 0.0,
        "objects": 2,
        "stored_bytes": 20,
        "done": True,
    }


def test_quiet_commands_say_nothing_and_others_what_they_did(work) -> None:
    clone = work.clone(f"file://{work.path.parent}/host.git", work.path.parent / "clone", GIT_THETA_SKIP_SMUDGE="1")

    quiet = clone.theta("pull", "-q")
    lines = [json.loads(line) for line in clone.theta("fetch", "--all", "--progress=json").stderr.splitlines()]

    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert clone.is_whole()
    assert lines[-1]["done"] is True
    assert clone.theta("push", "-q").stdout == ""


def test_what_is_had_from_a_store_shows_how_far_it_is(work) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        where, known = work.path.parent, work.environment
        return subprocess.run(["thetastore", *words], cwd=where, env=known, capture_output=True, text=True, check=True)

    run("init", "zoo")
    run("put", "zoo/m", "work/m.safetensors")

    whole = run("get", "zoo/m", "--to", "whole.safetensors", "--progress", "json")
    part = run("get", "zoo/m", "--to", "part.safetensors", "--tensors", "layer.0", "--progress", "json")
    quiet = run("get", "zoo/m", "--to", "quiet.safetensors", "-q")

    for done, nbytes in ((whole, len(work.v2)), (part, 300_000)):
        last = json.loads(done.stderr.splitlines()[-1])
        assert (last["progress"], last["done"], last["done_bytes"], last["total_bytes"]) == (
            "getting",
            True,
            nbytes,
            nbytes,
        )
    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert (work.path.parent / "quiet.safetensors").read_bytes() == work.v2


def test_colours_are_for_terminals_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert has_colours("auto", Terminal())
    assert not has_colours("auto", io.StringIO())
    assert has_colours("always", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "")

    assert not has_colours("auto", Terminal())
