"""`thetastore gc`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, add_json_option, open_store, store_parser
from thetastore.command_line import print_json
from thetastore.output import add_quiet_option

if TYPE_CHECKING:
    from thetastore.collecting.collect import Terms
    from thetastore.store import Store

EPILOG = """\
What no ref, pin or session leads to goes in three steps, each by a run of this command: it is condemned; when the
grace is over (24 hours in a directory, 7 days in a bucket, by the store's own clock) and still nothing needs it, it is
put into the trash; after the same time again it is deleted. Until then 'thetastore undelete' takes it back. If anything
cannot be read that could name something, nothing is let go of.
"""


def run(arguments: list[str]) -> int:
    """Let go of what nothing needs, or say why something is kept."""
    parser = store_parser("gc", "Let go of what nothing needs any more, in steps that can be undone.", EPILOG)
    add_gc_options(parser)
    parser.add_argument("--everything", action="store_true", help="go on even if nothing at all has a name")
    add_json_option(parser)
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    with open_store(options) as store:
        return collect_in(store, options, options.everything)


def add_gc_options(parser: argparse.ArgumentParser) -> None:
    """Give a command what all that collect have in common."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done, and how many bytes")
    parser.add_argument(
        "--explain",
        metavar="DIGEST",
        help="say what a digest is of, what needs it, and where it lies; so many digits as tell it from others will do",
    )
    parser.add_argument("--grace", metavar="TIME", help="wait so long before anything leaves the index: 12h, 7d, 0")
    parser.add_argument("--trash", metavar="TIME", help="keep it in the trash for so long; default: as --grace")


def collect_in(store: Store, options: argparse.Namespace, may_be_none: bool = False) -> int:
    """Do what the options of `gc` say, and print what came out."""
    import time

    from thetastore.collecting.collect import collect
    from thetastore.collecting.remembered import Remembered
    from thetastore.collecting.report import collected_text, collected_values
    from thetastore.collecting.roots import roots_of

    backend = store.backend
    terms = _terms(store, options)
    if options.explain is not None:
        return _explain(store, options)
    started = time.monotonic()
    remembered = Remembered(_remembered_at(backend.url))
    collected = collect(store.objects, lambda: roots_of(backend, may_be_none), terms, options.dry_run, remembered)
    elapsed_s = time.monotonic() - started
    if options.json:
        print_json(collected_values(collected, options.dry_run, elapsed_s))
    elif not options.quiet:
        sys.stdout.write(collected_text(collected, options.dry_run, elapsed_s))
    return EXIT_DONE


def _remembered_at(url: str) -> str:
    """Return where what is read of a store is kept for the next time: a file for each address, which may be secret."""
    import hashlib
    import os

    from thetastore.user_cache import cache_directory

    return os.path.join(cache_directory(), "collecting", hashlib.sha256(os.fsencode(url)).hexdigest()[:32])


def _terms(store: Store, options: argparse.Namespace) -> Terms:
    from thetastore.collecting.collect import Terms, usual_terms

    usual = usual_terms(store.backend)
    grace_s = usual.grace_s if options.grace is None else seconds_of(options.grace, "--grace")
    return Terms(grace_s, grace_s if options.trash is None else seconds_of(options.trash, "--trash"))


def seconds_of(text: str, option: str) -> float:
    """Return a length of time in seconds.

    Raises:
        MalformedError: it is none.
    """
    from thetastore.errors import MalformedError

    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}.get(text[-1:], 0)
    number = text[:-1] if factor else text
    if not number.isascii() or not number.isdigit() or (not factor and int(number)) or len(number) > 9:
        raise MalformedError(f"{option} takes a number with s, m, h, d or w behind it, not '{text[:40]}'")
    return float(int(number) * factor)


def _explain(store: Store, options: argparse.Namespace) -> int:
    from thetastore.collecting.explaining import explain
    from thetastore.collecting.meaning import meaning_of
    from thetastore.collecting.report import explained_text, explained_values
    from thetastore.collecting.roots import roots_of

    store.objects.count_only_durable()
    store.objects.catalog.refresh()
    roots = roots_of(store.backend, True)
    meaning = meaning_of(store.objects, roots, options.explain)
    if meaning is None:
        if options.json:
            print_json({"digest": None, "is": [], "is_kept": False, "places": [], "named_by": [], "base_of": []})
        print(
            f"nothing in '{store.url}' has a digest that begins with '{options.explain}': no object, and no file or "
            "tensor of what has a name",
            file=sys.stderr,
        )
        return EXIT_FOUND
    explained = explain(store.objects, roots, meaning.objects)
    if options.json:
        print_json(explained_values(meaning, explained))
    else:
        sys.stdout.write(explained_text(meaning, explained))
    return EXIT_DONE if explained.places else EXIT_FOUND
