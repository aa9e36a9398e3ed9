"""docs/reliability.md, from what was counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RESULTS = Path(__file__).parents[1] / "results" / "reliability.json"

_INTRODUCTION = """\
# Reliability: every fault at every place, counted

This page is printed by `python -m benchmarks.reliability` (`make reliability`), which does what it says here, run by
run, on small stores: two versions of a model, the second as a difference from the first, and a file without tensors,
under refs. After each run the store is opened again, and everything that was committed before is read to its last
byte; where an error was reported, the same is done again without faults, and then all of it has to be there, and a
check of every digest to find nothing. `make test` runs a sample of it, `make test-deep` all.

Required, of every line: **0** silent wrong bytes, **0** committed versions lost, **0** live objects deleted, **0**
hangs, **0** successes reported that are none; and what failed can be done again (else it is *stuck*), and what is
damaged is found by a check (else it is *unfound*). The column *bad* is the sum of all of these.

`thetastore.testing` has what the faults are injected with: `FaultyBackend` numbers every call to a place, and lets one
be refused, or the process die in it (a write in which that happens is done in part); `FaultyRequests` numbers every
request to a bucket, and lets it be lost, repeated, delayed, refused, cut off, or answered with something else.
"""

_DAMAGE = """\
Each file of the store, in each way; then everything is read. *Succeeded*: all was read, and right, since the damage is
where nothing needs it, or what it hit is had from elsewhere. *Refused*: an error named what is lost. Of packs and index
runs every damage is found by a check, and each 97th is repaired from another store.
"""

_CROWDS = """\
Processes that commit models which share chunks, and delete some, beside a collector with a grace of {grace_s} s; a run
is a writer. *SIGSTOP*: some writers are stopped for four times the grace, somewhere in their work. *Clocks days off*: a
third of the processes lives nine days ahead, a third nine days behind. Sessions last a day, which none of these
outlives: what becomes of a writer whose session was revoked, the explorer of schedules tries (`tests/collect`).
"""

_MEMORY = """\
A record may stand for up to 128 MiB, whatever it takes itself (`constant`). Whoever reads a chunk of a file gives it
memory of the length that the manifest says, at most 2 MiB, and a record of another length is refused before it is
decoded; a check reads each record by itself, and one such at a time.
"""

_OUTRO = """\
## What is not in these tables

- Kills by `SIGKILL` before each system call of a process on a real file system are tests of their own
  (`tests/objects/test_kill.py`), as are a real full disk (`test_full_disk.py`), and git commands that are interrupted
  (`tests/everyday`).
- What a disk loses that has said that it is durable, no program can bring back: `git theta fsck` finds it, and
  `--repair` brings it from another store, a clone, or a file.
- Which status of HTTP means what (408, 409, 425, 429, 500, 502, 503, 504: tried again; 412: it is there) is decided in
  one place, which `tests/faults/test_statuses.py` tries with what client libraries raise.
"""

_SERVED = """\
A real server of S3 (moto, in a process of its own), and in front of it one that hands requests on and misbehaves at one
of them: one request in 5 of a push and of a fetch, one in 29 of a collection, others for each fault (`make test-deep`
tries all). The client is the one that people use. Silence is given up after 2 seconds here (else after 60); *503 from
here on* is a server that does not come back.
"""

_COLUMNS = ("runs", "succeeded", "failed", "wrong_bytes", "lost_refs", "lost_objects", "false_successes", "hangs")
_HEADS = ("runs", "succeeded", "refused", "wrong bytes", "lost versions", "lost objects", "false successes", "hangs")


def write_page(values: dict[str, Any]) -> None:
    """Write the figures and the page."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(values, indent=1) + "\n")
    PAGE.write_text(page(values))


def page(values: dict[str, Any]) -> str:
    """Return the page."""
    tallies = values["tallies"]
    runs, bad = sum(one["runs"] for one in tallies), sum(_bad(one) for one in tallies)
    share = "all, but for the server that misbehaves" if values["every"] == 1 else f"one in {values['every']}"
    parts = [
        _INTRODUCTION,
        f"**{runs:,} runs ({share}), {bad} bad.** {values['when']}\n",
        "## Processes killed, and calls refused\n",
        "Each call that the operation makes to a local store, in turn: the process dies in it, or it is refused.\n",
        _table(tallies, ", local"),
        "## Networks and servers\n",
        "Each request that the operation makes to a bucket, in turn.\n",
        _table(tallies, ", bucket"),
        "## A server that misbehaves\n",
        _SERVED,
        _table(tallies, ", over HTTP"),
        "## Damage\n",
        _DAMAGE,
        _table(tallies, "reading, "),
        "## Many at once\n",
        _CROWDS.format(grace_s=values["grace_s"]),
        _table(tallies, "commit and collect"),
        "## Memory of hostile input\n",
        "Peak resident memory above that of the process before, the input included, in a process of its own.\n",
        _memory(values["memory"]),
        _MEMORY,
        _OUTRO,
    ]
    return "\n".join(parts)


def _bad(one: dict[str, Any]) -> int:
    names = ("wrong_bytes", "lost_refs", "lost_objects", "false_successes", "hangs", "stuck", "unfound")
    return sum(one[name] for name in names)


def _table(tallies: Sequence[dict[str, Any]], mark: str) -> str:
    head = f"| what | fault | {' | '.join(_HEADS)} | bad |\n| --- | --- |{' ---: |' * (len(_HEADS) + 1)}\n"
    lines = [
        f"| {one['what']} | {one['fault']} | {' | '.join(f'{one[name]:,}' for name in _COLUMNS)} | {_bad(one)} |\n"
        for one in tallies
        if mark in one["what"]
    ]
    return head + "".join(lines)


def _memory(taken: Sequence[dict[str, Any]]) -> str:
    head = "| input | bytes | peak | peak by byte | outcome |\n| --- | ---: | ---: | ---: | --- |\n"
    lines = [
        f"| {one['what']} | {one['input_bytes']:,} | {one['peak_bytes'] / 1e6:.1f} MB | "
        f"{one['peak_bytes'] / max(one['input_bytes'], 1):,.1f} | {one['outcome']} |\n"
        for one in taken
    ]
    return head + "".join(lines)
