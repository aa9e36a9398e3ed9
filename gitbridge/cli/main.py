"""Find the command and run it; turn every error into words.

Git starts this for each file operation, so nothing is imported before the command is known: argparse only by
commands that people type, the store only by those that open one. Exit status: 0 done, 1 found problems, 2
failed, 129 not understood (as git's), 130 interrupted, 141 nobody reads our output.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from thetastore import interrupts, standard_streams

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLUGIN_GROUP = "gitbridge.commands"
"""Entry points of other packages: name -> `function(arguments) -> exit status`."""
_KEPT_LOGS = 20
_USAGE = 129
_INTERRUPTED = 130
_GARBAGE_AFTER = 50_000
"""Objects; everything that is imported for a `git add` makes 40,000."""


class Command(NamedTuple):
    """Where a command lives: `function(arguments) -> exit status` of a module."""

    module: str
    function: str
    summary: str
    """One line for the list of commands; empty for what git runs."""


COMMANDS = {
    "install": Command("gitbridge.cli.install", "install", "tell git about us: filter, diff and merge drivers, hooks"),
    "uninstall": Command("gitbridge.cli.install", "uninstall", "take all of that out again"),
    "track": Command("gitbridge.cli.track", "track", "keep the weights of matching files in the store; list patterns"),
    "untrack": Command("gitbridge.cli.track", "untrack", "stop that for a pattern"),
    "add": Command("gitbridge.cli.add", "add", "git add, storing differences from a file that --base names"),
    "status": Command("gitbridge.cli.status", "status", "what is changed, not here, not stored, not pushed"),
    "diff": Command("gitbridge.cli.diff", "diff", "which tensors changed, by how much, and what it looks like"),
    "log": Command("gitbridge.cli.log", "log", "which commits changed which tensors of a file"),
    "blame": Command("gitbridge.cli.blame", "blame", "which commit last changed each tensor of a file"),
    "ls-files": Command("gitbridge.cli.ls_files", "ls_files", "list tracked files, their tensors, where weights are"),
    "ls": Command("gitbridge.cli.ls", "ls", "list the tensors of a file of any revision"),
    "show": Command("gitbridge.cli.show", "show", "what a file or a tensor is; --stats: what its numbers look like"),
    "cat": Command("gitbridge.cli.cat", "cat", "write a file or a tensor of any revision to standard output"),
    "du": Command("gitbridge.cli.du", "du", "what takes how many bytes: files, tensors, commits, codecs"),
    "fetch": Command("gitbridge.cli.fetch", "fetch", "bring weights from the remote store into the local one"),
    "pull": Command("gitbridge.cli.fetch", "pull", "fetch, and fill the work tree"),
    "push": Command("gitbridge.cli.push", "push", "send weights to the remote store (git push does it too)"),
    "checkout": Command(
        "gitbridge.cli.checkout",
        "checkout",
        "fill pointers in the work tree; --to: a file or a part of it",
    ),
    "mergetool": Command("gitbridge.cli.mergetool", "mergetool", "decide about tensors that a merge left in conflict"),
    "merge-file": Command(
        "gitbridge.cli.merge_file", "merge_file", "merge three checkpoints by tensor, outside of git"
    ),
    "merge-models": Command(
        "gitbridge.cli.merge_models", "merge_models", "merge many models by a recipe of mergekit's"
    ),
    "doctor": Command("gitbridge.cli.doctor", "doctor", "what is wrong here, and the command that mends it"),
    "check": Command("gitbridge.cli.check", "check", "look through what is new: in a hook, and in CI"),
    "fsck": Command("gitbridge.cli.fsck", "run", "check that all stored weights are right; repair them"),
    "repack": Command("gitbridge.cli.repack", "run", "store everything here anew, where that takes fewer bytes"),
    "prune": Command("gitbridge.cli.prune", "prune", "free the local store of what the remote store has"),
    "unpin": Command("gitbridge.cli.unpin", "unpin", "let go of pins of commits that the git remote has no more"),
    "gc": Command("gitbridge.cli.gc", "gc", "let go of what no push has pinned in the remote store"),
    "migrate": Command("migrations.cli", "migrate", "bring a history in from git, Git LFS, Git-Theta, or back out"),
    "logs": Command("gitbridge.cli.logs", "logs", "what was written down of failures that are bugs"),
    "completion": Command("gitbridge.cli.completion", "completion", "print what completes git theta in your shell"),
    "env": Command("gitbridge.cli.about", "env", "what is used here: programs, settings, stores"),
    "version": Command("gitbridge.cli.about", "version", "print the version"),
    "filter-process": Command("gitbridge.cli.plumbing", "filter_process", ""),
    "clean": Command("gitbridge.cli.plumbing", "clean", ""),
    "smudge": Command("gitbridge.cli.plumbing", "smudge", ""),
    "textconv": Command("gitbridge.cli.plumbing", "textconv", ""),
    "merge-driver": Command("gitbridge.cli.plumbing", "merge_driver", ""),
    "hook": Command("gitbridge.cli.plumbing", "hook", ""),
}


def run() -> NoReturn:
    """Run the command that the process was started with, and end the process."""
    if os.name != "posix":
        # Locks, renames of open files and descriptors of directories are what nothing is lost by: docs/platforms.md.
        _say("this needs a POSIX system: Linux, macOS, or WSL on Windows", "in WSL: pip install thetastore")
        os._exit(2)
    # No linear algebra is done here, and starting its threads takes 30 ms of each process that imports numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What imports make stays: looking through it for garbage takes 7 ms of a `git add`.
    gc.set_threshold(_GARBAGE_AFTER)
    try:
        interrupts.raise_it()
        status = main(sys.argv[1:])
        interrupts.let_it_kill()
    except KeyboardInterrupt:  # while an error was put into words
        status = _INTERRUPTED
    try:
        sys.stdout.flush()
    except OSError:
        pass
    # Everything is written and closed; taking the interpreter down in good order would keep git waiting 10 ms.
    os._exit(status)


def main(arguments: list[str]) -> int:
    """Run a command; return the exit status. No exception leaves this function."""
    try:
        standard_streams.prepare()
        try:
            status = _dispatch(arguments)
        except SystemExit as stop:  # the parser: 0 after --help, 129 for usage
            status = stop.code if isinstance(stop.code, int) else 2
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has left; Python must not try to flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.has_come():
            _say("interrupted", "")
            return _INTERRUPTED
        return _explain(error, arguments)


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "help"
    command = COMMANDS.get(name)
    if command is None:
        return _without_command(name, arguments[1:])
    module = __import__(command.module, fromlist=[command.function])
    status: int = getattr(module, command.function)(arguments[1:])
    return status


def _without_command(name: str, rest: list[str]) -> int:
    if name in ("help", "-h", "--help"):
        if not rest:
            sys.stdout.write(_overview())
            return 0
        if rest[0] in COMMANDS and COMMANDS[rest[0]].summary:
            return _dispatch([*rest, "--help"])
        name = rest[0]
    if name in ("--version", "-V", "-v"):
        return _dispatch(["version"])
    offered = _offered()
    if name in offered:
        return _run_offered(name, offered[name], rest)
    from gitbridge.cli.git_lfs import command_of
    from thetastore.errors import near_names

    known_there = command_of(name)
    if known_there is not None:
        _say(f"'{name}' is a command of git-lfs, and not here: {known_there.words}", known_there.instead)
        return _USAGE
    near = near_names(name, [*(known for known, command in COMMANDS.items() if command.summary), *offered], 1)
    hint = f"did you mean: git theta {near[0]}" if near else "git theta help lists the commands"
    _say(f"unknown option '{name}'" if name.startswith("-") else f"'{name}' is not a command", hint)
    return _USAGE


def _offered() -> dict[str, EntryPoint]:
    """Return the commands that other packages offer; 40 ms, paid only where nothing built in is meant."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=PLUGIN_GROUP)}


def _run_offered(name: str, point: EntryPoint, arguments: list[str]) -> int:
    """Run a command of another package: a function of its arguments that returns an exit status."""
    from thetastore.errors import ThetaError

    try:
        status = point.load()(arguments)
    except (ThetaError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        _say(f"the plug-in '{name}' ({point.value}) failed: {type(error).__name__}: {error}"[:500], "")
        return 2
    if type(status) is not int or not 0 <= status <= 255:
        _say(f"the plug-in '{name}' ({point.value}) returned {status!r:.60}, not an exit status", "")
        return 2
    return status


def groups() -> list[tuple[str, list[str]]]:
    """Return the commands for people under the headings of the overview; those under no heading come last."""
    grouped = {name for _, names in _GROUPS for name in names}
    rest = [name for name, command in COMMANDS.items() if command.summary and name not in grouped]
    return [*((heading, list(names)) for heading, names in _GROUPS), ("more", rest)]


_GROUPS = (
    ("to start", ("install", "uninstall", "track", "untrack", "add")),
    ("to look", ("status", "ls-files", "ls", "show", "cat", "diff", "log", "blame", "du")),
    ("to move weights", ("fetch", "pull", "push", "checkout")),
    ("to merge", ("mergetool", "merge-file", "merge-models")),
    ("to take care", ("doctor", "fsck", "check", "repack", "prune", "unpin", "gc")),
)


def _overview() -> str:
    width = max(len(name) for name, command in COMMANDS.items() if command.summary)
    text = ""
    for heading, names in groups():
        lines = [f"  {name.ljust(width)}  {COMMANDS[name].summary}\n" for name in names]
        text += f"\n{heading}\n" + "".join(lines) if lines else ""
    offered = sorted(_offered().items())
    if offered:
        text += "\nof other packages\n" + "".join(f"  {name.ljust(width)}  {point.value}\n" for name, point in offered)
    return (
        f"git theta: model weights under plain git\n\nusage: git theta <command> [<options>]\n{text}\n"
        "First: git theta install; git theta track '*.safetensors'; then git add, commit, push as ever.\n"
        "'git theta help <command>' explains a command.\n"
    )


def _explain(error: Exception, arguments: list[str]) -> int:
    from gitbridge.errors import words_for
    from thetastore.command_line import failure_of, failure_values, tell_programs
    from thetastore.errors import ThetaError

    error, values = failure_of(error)
    if isinstance(error, ThetaError | OSError):
        message, hint = words_for(error)
    else:
        message, hint = f"this is a bug in git theta: {type(error).__name__}: {error}"[:500], _where_to_report(error)
    _say(message, hint)
    command = COMMANDS.get(arguments[0])
    ran = None
    if command is not None and command.summary:  # git calls the others
        ran = getattr(sys.modules.get(command.module), command.function, None)
    has_progress = os.environ.get("GIT_THETA_PROGRESS") == "json"
    tell_programs(ran, arguments[1:], values, failure_values(error, message, hint), has_progress)
    return 2


def _where_to_report(error: Exception) -> str:
    try:
        place = _save_traceback(error)
    except OSError as trouble:
        place = f"(it could not be saved: {trouble})"
    return f"please report it with {place}"


def _say(message: str, hint: str) -> None:
    text = f"git theta: {message}\n" + (f"hint: {hint}\n" if hint else "")
    try:
        sys.stderr.write(text.encode("utf-8", "backslashreplace").decode())
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # nobody listens


def _save_traceback(error: Exception) -> str:
    """Write the traceback of an error below the git directory, keep the newest few; return the file's path."""
    import tempfile

    from gitbridge.errors import BridgeError
    from gitbridge.repository import Repository
    from thetastore.command_line import save_traceback
    from thetastore.sharing import share_as_above

    try:
        directory = os.path.join(Repository.discover().theta_dir, "logs")
        os.makedirs(directory, exist_ok=True)
        share_as_above(directory)
    except (BridgeError, OSError):
        directory = tempfile.gettempdir()
    else:
        logs = sorted((os.path.join(directory, name) for name in os.listdir(directory)), key=os.path.getmtime)
        for old in logs[: max(0, len(logs) - _KEPT_LOGS + 1)]:
            os.unlink(old)
    return save_traceback(directory, error)


if __name__ == "__main__":
    run()
