"""What both command lines share: how arguments are parsed and `--json` is printed, and a parser without its command.

Usage errors end with status 129, as git's do, name what was probably meant, and show the usage. Options cannot be
abbreviated: a later option would change what a script means.

A command is a function that takes arguments, builds its parser, and parses before it does anything else. So that the
reference, manual pages and completion can be generated, `parser_of` calls it with arguments that make the parser
itself come back; a command need not know of that.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from thetastore.errors import near_names

EXIT_USAGE = 129
_SCHEMA = 1
"""Of what `--json` prints: fields are added under the same number, and never change what they mean."""


class Parser(argparse.ArgumentParser):
    """An argument parser that fails as git does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # four overloads in typeshed
        """Parse, or hand out this parser where it is asked for."""
        if isinstance(args, _Asking):
            raise _FoundError(self)
        found, rest = super().parse_known_args(args, namespace)
        if getattr(found, "nul", False) and getattr(found, "json", False):
            self.error("argument -z: not allowed with argument --json")
        return found, rest

    def parse_known_intermixed_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Parse, or hand out this parser where it is asked for."""
        if isinstance(args, _Asking):
            raise _FoundError(self)
        return super().parse_known_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and what may have been meant; end the process with status 129."""
        said, near = _plainly(message, self)
        hint = f"hint: did you mean: {near}\n" if near else ""
        self.exit(EXIT_USAGE, f"{self.prog}: {said}\n{hint}{self.format_usage()}")


class _Asking(list[str]):
    """Arguments that make a parser come back instead of being parsed."""


class _FoundError(BaseException):
    """The way in which it comes back; no handler of a command may catch it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def add_progress_options(parser: argparse.ArgumentParser, variable: str) -> None:
    """Give a command `-q` and `--progress`.

    Args:
        parser: of the command.
        variable: of the environment, which says how progress is shown: to our own code and to what it runs.
    """
    parser.set_defaults(progress_variable=variable)
    parser.add_argument("-q", "--quiet", action=_Quiet, nargs=0, default=False, help="show no progress")
    parser.add_argument(
        "--progress",
        action=_Progress,
        choices=("auto", "json", "none"),
        default="auto",
        help="how progress is shown: on a terminal as git does, else a line every ten seconds; or as JSON lines",
    )


class _Progress(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, values)
        os.environ[namespace.progress_variable] = values


class _Quiet(argparse.Action):
    """The same as `--progress none`, and the command leaves out what only says that all went well."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        setattr(namespace, self.dest, True)
        os.environ[namespace.progress_variable] = "none"


def split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what is before a `--` and what is behind it: names only, however they begin.

    argparse takes the `--` away first and then looks for options in the rest, where options and names may be mixed.
    """
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def parser_of(function: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """Return the parser of a command without running the command.

    Raises:
        TypeError: it does not parse by `Parser`, or not first.
    """
    output = sys.stdout
    try:
        function(_Asking(["--help"]))  # a parser of another class prints its help and ends, and nothing is run
    except _FoundError as found:
        return found.parser
    except SystemExit:
        pass
    finally:
        sys.stdout = output
    raise TypeError(f"'{function.__module__}.{function.__name__}' does not begin by parsing with thetastore's Parser")


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return all spellings of a parser's options that are shown to people."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    return [spelling for action in actions for spelling in action.option_strings]


def subcommands_of(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return summary and parser of each subcommand by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (summaries[name], one) for name, one in action.choices.items() if name in summaries}
    return {}


def print_json(values: Mapping[str, Any]) -> None:
    """Print what a command found, for programs; no value may be NaN or infinite, for which JSON has no numbers."""
    import json

    json.dump({"schema": _SCHEMA, **values}, sys.stdout, indent=1, allow_nan=False)
    sys.stdout.write("\n")


class FailedAfterError(Exception):
    """A command failed, and `--json` has something to say all the same; the cause is what is told to people."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values


def failure_of(error: Exception) -> tuple[Exception, Mapping[str, Any]]:
    """Return what went wrong, and what a command had to say before."""
    if isinstance(error, FailedAfterError) and isinstance(error.__cause__, Exception):
        return error.__cause__, error.values
    return error, {}


def tell_programs(
    ran: Callable[[list[str]], int] | None,
    arguments: Sequence[str],
    values: Mapping[str, Any],
    failure: Mapping[str, Any],
    has_progress: bool,
) -> None:
    """Print an error for programs: on standard output where results are, as a line among those of progress.

    Args:
        ran: the command that failed; None where none was found.
        arguments: of it.
        values: what it had to say before.
        failure: see `failure_values`.
        has_progress: whether progress is told as JSON.
    """
    import json

    try:
        if has_progress:
            sys.stderr.write(json.dumps({"schema": 1, **failure}) + "\n")
        if ran is not None and _asks_for_json(ran, arguments):
            print_json({**values, **failure})
            sys.stdout.flush()
    except Exception:
        pass  # nobody listens, or what failed is the command's own list of options


def _asks_for_json(function: Callable[[list[str]], int], arguments: Sequence[str]) -> bool:
    """Tell whether a command that failed was to print JSON; its arguments have been understood once."""
    import contextlib
    import io

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            options, _ = parser_of(function).parse_known_args(arguments)
    except (SystemExit, TypeError):
        return False
    return bool(getattr(options, "json", False))


def failure_values(error: Exception, message: str, hint: str = "") -> dict[str, Any]:
    """Return an error as programs get it: `code` is a released name, `os` for what the system refuses."""
    code = getattr(error, "code", "os" if isinstance(error, OSError) else "bug")
    return {"error": {"code": code, "message": message, "hint": hint or None}}


def installed_version() -> str:
    """Return the version of the package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("thetastore")
    except PackageNotFoundError:
        return "0 (not installed)"


def save_traceback(directory: str, error: Exception) -> str:
    """Write down an exception that is a bug of ours; return the path of the file."""
    import tempfile
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="git-theta-", suffix=".log", dir=directory)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(f"{sys.argv}\n{sys.version}\n\n{''.join(traceback.format_exception(error))}")
    return path


def nearest(word: str, known: Sequence[str]) -> str:
    """Return the known word that was probably meant, or an empty text."""
    return next(iter(near_names(word, known, 1)), "")


def _plainly(message: str, parser: argparse.ArgumentParser) -> tuple[str, str]:
    """Put argparse's words into ours; return them with what was probably meant."""
    import re

    if message.startswith("unrecognized arguments: "):
        word = message.partition(": ")[2].split()[0]
        if not word.startswith("-"):
            return f"unexpected argument '{word}'", ""
        return f"unknown option '{word}'", nearest(word.partition("=")[0], options_of(parser))
    choice = re.fullmatch(r"argument (.*?): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
    if choice:
        what, word, listed = choice.groups()
        known = [name.strip(" '") for name in listed.split(",")]
        if what.split()[0].isupper():
            article = "an" if what[0] in "AEIOU" else "a"
            return f"'{word}' is not {article} {what.lower()}", nearest(word, known)
        return f"{what}: '{word}' is not one of {', '.join(known)}", nearest(word, known)
    if message.startswith("the following arguments are required: "):
        return f"missing: {message.partition(': ')[2]}", ""
    return message.removeprefix("argument "), ""
