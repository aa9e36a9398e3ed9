"""The command `thetastore`: a store without Git. Only the standard library is imported before a command runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thetastore.command_line import Parser, print_json

if TYPE_CHECKING:
    from thetastore.digest import Digest
    from thetastore.store import Store

_AsWritten = argparse.RawDescriptionHelpFormatter
_OPTIONS = "THETASTORE_OPTIONS"
_REPLACES = "creating a file there replaces one that is there"
EXIT_DONE, EXIT_FOUND, EXIT_FAILED = 0, 1, 2

_FIGURES = """\
figures:
  logical  bytes of the files
  unique   raw bytes of distinct chunks that one row needs and no other
  shared   raw bytes of distinct chunks that other rows need as well; unique + shared: a row's distinct chunks
  stored   what the records of these chunks, of their manifests and pages take in packs, each once
  added    the part of stored that no row above has
  base     objects held only as base: no manifest names them, but a difference needs them
  leaning on   differences and copies, by the file that they were taken from
  unused   objects that no manifest names and no difference needs
  twice    records of objects that have another one

A row is a manifest: one version of a file. No chunk is read.
"""


def run() -> int:
    """Run the command line of this process; return the exit status."""
    if os.name != "posix":
        print("thetastore: this needs a POSIX system: Linux, macOS, or WSL on Windows", file=sys.stderr)
        return EXIT_FAILED
    return main(sys.argv[1:])


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name.

    Returns:
        0 done, 1 found problems, 2 failed.
    """
    parser = make_parser()
    asked = [*arguments[1:], "--help"] if arguments[:1] == ["help"] else arguments
    options = parser.parse_args(asked)
    if options.command is None:
        parser.print_help()
        return EXIT_DONE
    from thetastore.errors import ThetaError

    try:
        status: int = options.function(options)
        sys.stdout.flush()
    except (ThetaError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 141
        print(f"thetastore: {_words(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return status


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"'{error.filename}': {error.strerror}"
    return str(error)


def make_parser() -> Parser:
    """Return the parser, with all subcommands."""
    parser = Parser(prog="thetastore", description="A content-addressed store for model weights.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    init = commands.add_parser("init", help="make a store in a directory or bucket")
    init.set_defaults(function=_init)
    put = commands.add_parser("put", help="store a file; print the digest of its manifest")
    put.add_argument("file", help="the file, or - for standard input")
    put.add_argument("--base", metavar="MANIFEST", help="digest of an earlier version, to store differences from")
    put.set_defaults(function=_put)
    get = commands.add_parser("get", help="write the file of a manifest")
    get.add_argument("manifest", help="digest of the manifest, as `put` printed it")
    get.add_argument("file", help="where to write it; must not exist")
    get.set_defaults(function=_get)
    show = commands.add_parser("show", help="list the tensors of a manifest")
    show.add_argument("manifest", help="digest of the manifest")
    show.set_defaults(function=_show)
    verify = commands.add_parser("verify", help="check what is stored")
    verify.add_argument("--level", choices=["tables", "stored", "raw"], default="raw", help="how deep (default: raw)")
    verify.set_defaults(function=_verify)
    mend = commands.add_parser("mend", help="set damaged packs aside, so that what is lost can be stored again")
    mend.add_argument("--hints", action="store_true", help="make the tables of families and anchors anew instead")
    mend.set_defaults(function=_mend)
    repack = commands.add_parser("repack", help="store everything anew where that takes fewer bytes")
    repack.add_argument("--aggressive", action="store_true", help="search longer; up to 8 bases deep, dearer to read")
    repack.add_argument("-n", "--dry-run", action="store_true", help="only say what would be saved")
    repack.add_argument("--json", action="store_true", help="for programs; schema 1")
    repack.set_defaults(function=_repack)
    du = commands.add_parser(
        "du", help="say what takes how many bytes, file by file", epilog=_FIGURES, formatter_class=_AsWritten
    )
    du.add_argument("--tensors", action="store_true", help="list the tensors of each file, too")
    stats = commands.add_parser(
        "stats", help="say the same of the whole store, by codec", epilog=_FIGURES, formatter_class=_AsWritten
    )
    stats.set_defaults(tensors=False)
    for command in (du, stats):
        command.add_argument("--json", action="store_true", help="for programs; schema 1")
        command.set_defaults(function=_usage)
    completion = commands.add_parser("completion", help="print what completes thetastore in a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    completion.set_defaults(function=_completion)
    for command in (init, put, get, show, verify, mend, repack, du, stats):
        command.add_argument("--store", required=True, metavar="PLACE", help="directory or URL of the store")
    return parser


def _store(options: argparse.Namespace, create: bool = False) -> Store:
    from thetastore.store import Store

    return Store.open(options.store, create=create, options=_storage_options(options.store))


def _storage_options(place: str) -> dict[str, object]:
    """Return what gets one in: of THETASTORE_OPTIONS, a JSON object by URL, what holds for this URL."""
    from thetastore.backends.urls import is_url, parse_url
    from thetastore.errors import MalformedError

    text = os.environ.get(_OPTIONS)
    if not text or not is_url(place):
        return {}
    import json

    url = parse_url(place)
    try:
        by_prefix = json.loads(text)
        below = [prefix for prefix in sorted(by_prefix, key=len) if url.is_below(prefix)]
        return {name: value for prefix in below for name, value in by_prefix[prefix].items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise MalformedError(f'{_OPTIONS} is not like {{"s3://bucket": {{"profile": "work"}}}}') from None


def _completion(options: argparse.Namespace) -> int:
    from thetastore.command_line import subcommands_of
    from thetastore.completion import script

    sys.stdout.write(script(options.shell, "thetastore", subcommands_of(make_parser())))
    return EXIT_DONE


def _init(options: argparse.Namespace) -> int:
    with _store(options, create=True) as store:
        print(store.url)
        if not store.is_for_many_writers:
            print(f"thetastore: '{store.url}' is for one writer at a time: {_REPLACES}", file=sys.stderr)
    return EXIT_DONE


def _put(options: argparse.Namespace) -> int:
    from thetastore.digest import Digest

    base = Digest.parse(options.base) if options.base else None
    with _store(options) as store:
        source: int | str = sys.stdin.fileno() if options.file == "-" else options.file
        with open(source, "rb", buffering=0) as file:
            ingested = store.put_file(file, base)
    print(ingested.manifest_digest)
    return EXIT_DONE


def _digest(options: argparse.Namespace) -> Digest:
    from thetastore.digest import Digest

    return Digest.parse(options.manifest)


def _get(options: argparse.Namespace) -> int:
    digest = _digest(options)
    with _store(options) as store:
        manifest = store.get_manifest(digest)
        temporary = f"{options.file}.theta-{os.getpid()}"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            store.write_file(manifest, digest, descriptor)
            os.link(temporary, options.file)
        finally:
            os.close(descriptor)
            os.unlink(temporary)
    return EXIT_DONE


def _show(options: argparse.Namespace) -> int:
    digest = _digest(options)
    with _store(options) as store:
        manifest = store.get_manifest(digest)
    print(
        f"{manifest.format} {manifest.file_bytes} bytes, {manifest.chunk_count} chunks, {len(manifest.tensors)} tensors"
    )
    for tensor in manifest.tensors:
        print(f"{tensor.digest} {tensor.dtype} {list(tensor.shape)} {tensor.name}")
    return EXIT_DONE


def _verify(options: argparse.Namespace) -> int:
    from thetastore.verify import Level, verify

    found = 0
    with _store(options) as store:
        for finding in verify(store.objects, Level[options.level.upper()]):
            print(finding)
            found += 1
    if not found:
        print(f"{store.url}: no problems found", file=sys.stderr)
    return EXIT_FOUND if found else EXIT_DONE


def _mend(options: argparse.Namespace) -> int:
    if options.hints:
        return _rebuild_hints(options)
    from thetastore.mending import set_aside_damage

    with _store(options) as store:
        found = set_aside_damage(store.objects)
    for pack in found:
        print(f"{pack.file_name}: set aside; {pack.kept_count} sound objects were kept")
        for digest in pack.lost:
            print(f"object {digest} is lost: fetch it, or store its file again")
    if not found:
        print(f"{store.url}: nothing is damaged", file=sys.stderr)
    return EXIT_FOUND if found else EXIT_DONE


def _rebuild_hints(options: argparse.Namespace) -> int:
    from thetastore.hints import rebuild_hints

    with _store(options) as store:
        rebuilt = rebuild_hints(store.objects, store.pool)
    print(f"{rebuilt.model_count} models filed, {rebuilt.anchor_count} anchors remembered")
    return EXIT_DONE


def _repack(options: argparse.Namespace) -> int:
    import time

    from thetastore.repack import AGGRESSIVE, HOT, repack
    from thetastore.repack_report import repack_text, repack_values

    started = time.monotonic()
    with _store(options) as store:
        repacked = repack(store.objects, store.pool, AGGRESSIVE if options.aggressive else HOT, options.dry_run)
    elapsed_s = time.monotonic() - started
    if options.json:
        print_json(repack_values(repacked, options.dry_run, elapsed_s))
    else:
        sys.stdout.write(repack_text(repacked, options.dry_run, elapsed_s))
    return EXIT_DONE


def _usage(options: argparse.Namespace) -> int:
    from thetastore.usage import Group, Usage
    from thetastore.usage_report import report_of, report_text, report_values

    with _store(options) as store:
        usage = Usage(store.objects)
        contents = usage.scan()
        totals = usage.totals(contents.manifests)
        groups = [Group(str(file.manifest_digest), [file]) for file in sorted(contents.manifests)]
        tables = {"files": usage.rows(groups)} if options.command == "du" else {}
        if options.tensors:
            tables["tensors"] = usage.tensor_rows(groups)
        report = report_of(usage, totals, tables, groups)._replace(contents=contents, unreached=usage.unreached())
    if options.json:
        print_json(report_values(report))
    else:
        sys.stdout.write(report_text(report))
    return EXIT_DONE
