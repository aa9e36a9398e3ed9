"""Do all of it, and write docs/reliability.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.reliability.crowds import GRACE_S, crowd
from benchmarks.reliability.damage import CUT, FLIPPED, KINDS, damaged
from benchmarks.reliability.document import write_page
from benchmarks.reliability.injecting import REFUSALS, misled, refused
from benchmarks.reliability.memory import taken
from benchmarks.reliability.serving import EVERY, SERVED, Misdeed, misserved, served
from benchmarks.reliability.tally import Tally
from benchmarks.reliability.worlds import FAR, NEAR
from thetastore.testing import Fault

CROWDS = (
    (2, False, False),
    (4, False, False),
    (4, True, False),
    (4, False, True),
    (8, True, True),
    (16, False, False),
    (16, True, True),
)


def tallies(every: int) -> Iterator[Tally]:
    """Do one run in so many of each kind."""
    for deed in NEAR:
        for refusal in REFUSALS:
            yield refused(deed, refusal, every)
    for deed in FAR:
        for fault in Fault:
            yield misled(deed, fault, every)
    with served() as server:
        for deed in SERVED.values():
            for number, misdeed in enumerate(Misdeed):
                yield misserved(server, deed, misdeed, every * EVERY[deed.name], number * 2)
    for kind in KINDS:
        for how in (CUT, FLIPPED):
            yield damaged(kind, how, every)
    for number, (writer_count, stops, skews) in enumerate(CROWDS):
        if number % every == 0:
            with TemporaryDirectory() as directory:
                yield crowd(Path(directory), writer_count, stops, skews)


def main() -> int:
    """Count, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one run in so many; writes no page")
    options = parser.parse_args()
    found = []
    for tally in tallies(options.every):
        found.append(tally)
        print(f"{tally.what}; {tally.fault}: {tally.runs} runs, {tally.bad} bad {tally.example}", flush=True)
    bad = sum(tally.bad for tally in found)
    if options.every == 1:
        write_page(
            {
                "every": 1,
                "when": time.strftime("%Y-%m-%d, Python " + sys.version.split()[0]),
                "grace_s": GRACE_S,
                "tallies": [tally.values() for tally in found],
                "memory": [one._asdict() for one in taken()],
            }
        )
    print(f"{sum(tally.runs for tally in found)} runs, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
