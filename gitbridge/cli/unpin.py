"""`git theta unpin`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import add_progress_options
from gitbridge.errors import UsageError
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, painter, print_values, quietly, wants_values

if TYPE_CHECKING:
    from gitbridge.remotes import Place
    from gitbridge.repository import Repository
    from thetastore.collecting.unpinning import Unpinned
    from thetastore.pins import Pin

_EPILOG = """\
Whatever was pushed is pinned in the remote store, and stays though its branch is deleted or was overwritten. This asks
the Git remote for all its refs, pins what they reach and is not pinned yet, and marks the pins of commits that none of
them reaches. When the grace is over (24 hours in a directory, 7 days in a bucket, by the store's own clock), the next
run looks again, and deletes them. Then 'git theta gc --remote' frees what nothing else needs.

Pins of other Git repositories in the same store stay. If the remote cannot be read, or this clone is shallow, all stay.
Run it as somebody who may see all refs of the remote: a commit that only hidden refs reach counts as gone.
"""
_ROWS = Rows("repositories", ("url", "pin_count", "kept_count", "marked_count"))
_MOST_NAMED = 20


def unpin(arguments: list[str]) -> int:
    """Let go of pins of commits that the Git remote has no more."""
    parser = Parser(
        prog="git theta unpin",
        description="Let go of pins in the remote store: of commits that no ref of the Git remote reaches any more.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git push uses")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be let go of")
    parser.add_argument("-l", "--list", action="store_true", help="list the Git repositories that have pins there")
    parser.add_argument("--forget", metavar="URL", help="let go of all pins of a Git repository that is gone for good")
    parser.add_argument("--grace", metavar="TIME", help="wait so long between marking and deleting: 12h, 7d, 0")
    add_listing_options(parser, _ROWS)
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    if options.list and (options.forget or options.dry_run):
        raise UsageError("--list changes nothing, and goes with no other option", "git theta unpin --help")
    with open_repository() as repository, quietly(options):
        if options.list:
            return _list(repository, options)
        return _unpin(repository, options)


def _unpin(repository: Repository, options: argparse.Namespace) -> int:
    from gitbridge.render import Progress
    from gitbridge.unpinning import unpin_for_good, unpin_what_is_gone
    from thetastore.cli.gc import seconds_of

    grace_s = None if options.grace is None else seconds_of(options.grace, "--grace")
    if options.forget is not None:
        place, done = unpin_for_good(repository, options.remote, options.forget, grace_s, options.dry_run)
    else:
        progress = Progress("sending weights")
        try:
            place, done = unpin_what_is_gone(repository, options.remote, grace_s, options.dry_run, progress)
        finally:
            progress.done()
    if wants_values(options):
        print_values(
            options, {"dry_run": options.dry_run, "store": place.url, "repositories": [_values(*one) for one in done]}
        )
    else:
        sys.stdout.write("".join(_text(place, url, unpinned, options.dry_run) for url, unpinned in done))
    return 0


def _values(url: str, unpinned: Unpinned) -> dict[str, Any]:
    steps = {"marked": unpinned.marked, "waiting": unpinned.waiting, "deleted": unpinned.deleted}
    return {
        "url": url,
        **unpinned._asdict(),
        "marked_count": len(unpinned.marked),
        **{step: [{"commit": pin.commit, "refs": list(pin.refs)} for pin in pins] for step, pins in steps.items()},
    }


def _text(place: Place, url: str, unpinned: Unpinned, is_dry: bool) -> str:
    from thetastore.collecting.report import span_text
    from thetastore.tables import count_text, printable, table

    lines = [f"{count_text(unpinned.pin_count, 'pin')} of {printable(url)} in '{printable(place.url)}'\n"]
    would = "would be " if is_dry else ""
    rows = [(str(unpinned.kept_count), "stay: refs reach their commits, or other pins lean on them")]
    if unpinned.young_count:
        rows.append((str(unpinned.young_count), "stay for now: they are young, and a push may be under way"))
    steps = (
        (unpinned.marked, f"{would}marked: nobody leans on them any more"),
        (unpinned.waiting, "marked before, and waiting"),
        (unpinned.deleted, f"{would}deleted"),
    )
    for pins, words in steps:
        if pins:
            rows.append((str(len(pins)), f"{words} ({_refs_text(pins)})"))
    lines.append(table(rows, right=(0,)))
    if unpinned.manifest_count:
        versions = count_text(unpinned.manifest_count, "version of a file", "versions of files")
        lines.append(f"no other pin names {versions}: git theta gc --remote frees what nothing else needs\n")
    if unpinned.held_by:
        lines.append(f"waiting for whoever is at work: {', '.join(unpinned.held_by)}\n")
    if unpinned.next_s is not None and unpinned.next_s > 0:
        lines.append(f"the next step can be taken in {span_text(unpinned.next_s)}: run this again then\n")
    return "".join(lines)


def _refs_text(pins: tuple[Pin, ...]) -> str:
    from thetastore.tables import printable

    names = {name: None for pin in pins for name in (pin.refs or (pin.commit[:12],))}
    shown = [printable(name.removeprefix("refs/heads/")) for name in names][:_MOST_NAMED]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")


def _list(repository: Repository, options: argparse.Namespace) -> int:
    from gitbridge.remotes import open_place
    from gitbridge.unpinning import place_of
    from thetastore.collecting.roots import pins_of
    from thetastore.tables import count_text, printable, table

    place = place_of(repository, options.remote)
    with open_place(place) as store:
        found = pins_of(store.backend)
    urls: dict[str, list[bool]] = {}
    for name, pin in found.items():
        urls.setdefault(pin.url, []).append(name.is_going)
    rows = [{"url": url, "pin_count": len(marks), "marked_count": sum(marks)} for url, marks in sorted(urls.items())]
    if wants_values(options):
        print_values(options, {"store": place.url, "repositories": rows})
    elif rows:
        paint = painter(options)
        texts = [
            (
                paint(printable(str(row["url"])), "bold"),
                count_text(len(urls[str(row["url"])]), "pin"),
                f"{row['marked_count']} marked",
            )
            for row in rows
        ]
        sys.stdout.write(table(texts, right=(1,)))
    else:
        print(f"git theta: '{place.url}' has no pins", file=sys.stderr)
    return 0
