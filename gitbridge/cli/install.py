"""`git theta install` and `uninstall`."""

from __future__ import annotations

import argparse
import os

from gitbridge import hooks, setup
from gitbridge.errors import RepositoryMissingError
from gitbridge.repository import Repository
from thetastore.command_line import Parser
from thetastore.output import add_quiet_option, quietly


def install(arguments: list[str]) -> int:
    """Write our settings, and our hooks if there is a repository."""
    parser = _parser(
        "install", "Tell git about us: the filter, the diff and merge drivers, and this repository's hooks."
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite a filter of this name that is not ours")
    parser.add_argument(
        "-s", "--skip-smudge", action="store_true", help="leave pointers on checkout; git theta pull fills them"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--skip-repo",
        action="store_true",
        help="settings only, no hooks; the filter puts those in when it runs, but with theta.installHooks false",
    )
    mode.add_argument("-m", "--manual", action="store_true", help="print what belongs into hooks, for you to put in")
    options = parser.parse_args(arguments)
    with quietly(options):
        _install(options)
    return 0


def _install(options: argparse.Namespace) -> None:
    scope = options.scope or "--global"
    repository = _repository(needed=scope in _OF_A_REPOSITORY)
    changed = setup.configure(repository, scope, options.force)
    is_told = setup.skip_smudge(repository, scope, options.skip_smudge)
    print(f"git theta is {'installed' if changed else 'already installed'} for {_reach(scope)}")
    if is_told:
        print(f"a checkout {'leaves pointers: git theta pull fills them' if options.skip_smudge else 'fills files'}")
    if repository is not None and not options.skip_repo:
        repository.forget_config()
        _say_how_to_hook(repository) if options.manual else _put_hooks_in(repository)


def _put_hooks_in(repository: Repository) -> None:
    names = hooks.install(repository)
    if names:
        print(f"hooks: {', '.join(names)} (in {hooks.hooks_dir(repository)})")


def _say_how_to_hook(repository: Repository) -> None:
    """Print what hooks lack; those that have our lines already need nothing."""
    directory, missing = hooks.hooks_dir(repository), hooks.missing(repository)
    if not missing:
        print(f"hooks: all are in place (in {directory})")
        return
    for name in missing:
        print(f"\nin '{os.path.join(directory, name)}', executable, behind a first line #!/bin/sh:\n")
        print("".join(f"  {line}\n" for line in hooks.hook_lines(name).decode().splitlines()), end="")
    print("\nso that the filter does not put them in by itself: git config theta.installHooks false")


def uninstall(arguments: list[str]) -> int:
    """Remove our settings and this repository's hooks; leave everything else."""
    parser = _parser("uninstall", "Remove our settings and hooks. Weights, pointers and .gitattributes stay.")
    parser.add_argument("--skip-repo", action="store_true", help="settings only; hooks stay")
    options = parser.parse_args(arguments)
    with quietly(options):
        _uninstall(options)
    return 0


def _uninstall(options: argparse.Namespace) -> None:
    repository = _repository(needed=options.scope in _OF_A_REPOSITORY)
    removed = []
    for scope in [options.scope] if options.scope else ["--global", "--local"]:
        if scope not in _OF_A_REPOSITORY or repository is not None:
            removed += setup.unconfigure(repository, scope)
    names = hooks.uninstall(repository) if repository is not None and not options.skip_repo else []
    if not removed and not names:
        print("git theta was not installed here: nothing to remove")
        return
    what = [noun for noun, found in (("settings", removed), ("hooks", names)) if found]
    print(f"git theta is uninstalled for {_reach(options.scope or '--global')}: {' and '.join(what)} removed")
    if repository is not None:
        repository.forget_config()
        _warn(repository)


def _warn(repository: Repository) -> None:
    """Say what git does from now on with the files that are tracked here."""
    from gitbridge.attributes import tracked_patterns

    if repository.work_tree is None or setup.is_configured(repository):
        return
    patterns = [one.pattern for one in tracked_patterns(repository)]
    if patterns:
        print(f"{', '.join(patterns[:5])}: still in .gitattributes, but git add now puts such files into git itself")
        print("to go on with them later: git theta install")


_OF_A_REPOSITORY = ("--local", "--worktree")
_REACHES = {
    "--global": "all your repositories",
    "--local": "this repository",
    "--worktree": "this work tree",
    "--system": "all repositories on this machine",
}


def _reach(scope: str) -> str:
    """Return for which repositories a scope is."""
    return _REACHES.get(scope) or f"whoever reads '{scope.partition('=')[2]}'"


def _parser(name: str, description: str) -> Parser:
    parser = Parser(prog=f"git theta {name}", description=description)
    add_quiet_option(parser)
    group = parser.add_mutually_exclusive_group()

    def add(*spellings: str, words: str) -> None:
        group.add_argument(*spellings, dest="scope", action="store_const", const=spellings[-1], help=words)

    add("--global", words="for all repositories of yours")
    add("-l", "--local", words="for this repository only")
    add("-w", "--worktree", words="for this work tree only, where extensions.worktreeConfig is on")
    add("--system", words="for all users of this machine")
    group.add_argument("--file", dest="scope", type=_file, metavar="FILE", help="in this configuration file")
    group.add_argument("--scope", type=_scope, metavar="global|local", help=argparse.SUPPRESS)  # as Git-Theta has it
    return parser


def _file(path: str) -> str:
    return f"--file={os.path.abspath(path)}"  # git runs at the top of the work tree


def _scope(name: str) -> str:
    if name not in ("global", "local"):
        raise argparse.ArgumentTypeError(f"'{name}' is neither 'global' nor 'local'")
    return f"--{name}"


def _repository(needed: bool) -> Repository | None:
    try:
        return Repository.discover()
    except RepositoryMissingError:
        if needed:
            raise
        return None
