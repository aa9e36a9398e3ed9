"""Find the command and run it. Only the standard library is imported before that.

Exit status: 0 done, 1 found problems, 2 failed, 129 not understood (as git's), 130 interrupted, 141 nobody reads our
output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from thetastore import interrupts, standard_streams

if TYPE_CHECKING:
    from argparse import ArgumentParser

_USAGE = 129
_FAILED = 2
_INTERRUPTED = 130


class Command(NamedTuple):
    """Where a command lives: `run(arguments) -> exit status` of a module."""

    module: str
    summary: str


COMMANDS = {
    "init": Command("thetastore.cli.init", "make a store in a directory or bucket"),
    "put": Command("thetastore.cli.put", "store files as the next version of a model"),
    "get": Command("thetastore.cli.get", "write the files of a version, or some of its tensors"),
    "show": Command("thetastore.cli.show", "show what a version is, or a tensor of it"),
    "ls": Command("thetastore.cli.ls", "list the models of a store, or the files of a version"),
    "log": Command("thetastore.cli.log", "list the versions of a model"),
    "tag": Command("thetastore.cli.tag", "give a version a name; list names"),
    "rm": Command("thetastore.cli.rm", "remove a model"),
    "cp": Command("thetastore.cli.cp", "copy a version to another store, or to another name"),
    "sync": Command("thetastore.cli.sync", "send all versions that a store has to another one"),
    "verify": Command("thetastore.cli.verify", "check what is stored"),
    "mend": Command("thetastore.cli.mend", "set damaged packs aside, so that what is lost can be stored again"),
    "repack": Command("thetastore.cli.repack", "store everything anew where that takes fewer bytes"),
    "upgrade": Command("migrations.upgrade_cli", "bring a store to the version that this thetastore writes"),
    "gc": Command("thetastore.cli.gc", "let go of what nothing needs any more, in steps that can be undone"),
    "undelete": Command("thetastore.cli.undelete", "take back what gc has let go of"),
    "du": Command("thetastore.cli.du", "say what takes how many bytes, file by file"),
    "stats": Command("thetastore.cli.stats", "say the same of the whole store, by codec"),
    "completion": Command("thetastore.cli.completion", "print what completes thetastore in a shell"),
    "version": Command("thetastore.cli.version", "print the version"),
}


def run() -> int:
    """Run the command line of this process; return the exit status."""
    if os.name != "posix":
        print("thetastore: this needs a POSIX system: Linux, macOS, or WSL on Windows", file=sys.stderr)
        return _FAILED
    try:
        interrupts.raise_it()
        status = main(sys.argv[1:])
        interrupts.let_it_kill()
    except KeyboardInterrupt:  # while an error was put into words
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        sys.stderr.flush()
        os._exit(status)  # without waiting for requests that are under way
    return status


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name.

    Returns:
        The exit status.
    """
    try:
        standard_streams.prepare()
        try:
            status = _dispatch(arguments)
        except SystemExit as stop:  # the parser: 0 after --help, 129 for usage
            status = stop.code if isinstance(stop.code, int) else _FAILED
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.has_come():
            print("thetastore: interrupted", file=sys.stderr)
            return _INTERRUPTED
        return _explain(error, arguments)
    return status


def _dispatch(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else "help"
    rest = list(arguments[1:])
    if name in ("help", "-h", "--help"):
        if not rest:
            sys.stdout.write(_overview())
            return 0
        name, rest = rest[0], ["--help"]
    if name in ("--version", "-V"):
        name = "version"
    if name not in COMMANDS:
        return _unknown(name)
    module = __import__(COMMANDS[name].module, fromlist=["run"])
    status: int = module.run(rest)
    return status


def all_parsers() -> dict[str, tuple[str, ArgumentParser]]:
    """Return summary and parser of each command by name. Imports the module of every command."""
    from thetastore.command_line import parser_of

    return {
        name: (command.summary, parser_of(__import__(command.module, fromlist=["run"]).run))
        for name, command in COMMANDS.items()
    }


def _unknown(name: str) -> int:
    from thetastore.errors import near_names

    near = near_names(name, list(COMMANDS), 1)
    hint = f"did you mean: {near[0]}" if near else "thetastore help lists the commands"
    what = f"unknown option '{name}'" if name.startswith("-") else f"'{name}' is not a command"
    print(f"thetastore: {what}\nhint: {hint}", file=sys.stderr)
    return _USAGE


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "".join(f"  {name.ljust(width)}  {command.summary}\n" for name, command in COMMANDS.items())
    return (
        "thetastore: models with versions, in a directory or a bucket\n\nusage: thetastore <command> [<options>]\n\n"
        f"{lines}\nFirst: thetastore init PLACE; thetastore put PLACE/NAME FILE...; then get PLACE/NAME[@VERSION].\n"
        "'thetastore help <command>' explains a command.\n"
    )


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    from thetastore.command_line import failure_of, failure_values, tell_programs
    from thetastore.errors import ThetaError

    error, values = failure_of(error)
    hint = ""
    if isinstance(error, ThetaError | OSError):
        message = _words(error)
    else:
        message = f"this is a bug in thetastore: {type(error).__name__}: {error}"[:500]
        hint = _where_to_report(error)
    print(f"thetastore: {message}" + (f"\nhint: {hint}" if hint else ""), file=sys.stderr)
    command = COMMANDS.get(arguments[0]) if arguments else None
    ran = getattr(sys.modules.get(command.module), "run", None) if command is not None else None
    has_progress = os.environ.get("THETASTORE_PROGRESS") == "json"
    tell_programs(ran, arguments[1:], values, failure_values(error, message, hint), has_progress)
    return _FAILED


def _where_to_report(error: Exception) -> str:
    import tempfile

    from thetastore.command_line import save_traceback

    try:
        place = save_traceback(tempfile.gettempdir(), error)
    except OSError as trouble:
        place = f"(it could not be saved: {trouble})"
    return f"please report it with {place}"


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"'{error.filename}': {error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(run())
