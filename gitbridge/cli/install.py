"""`git theta install` and `uninstall`."""

from __future__ import annotations

import argparse

from gitbridge import hooks, setup
from gitbridge.errors import RepositoryMissingError
from gitbridge.repository import Repository
from thetastore.command_line import Parser


def install(arguments: list[str]) -> int:
    """Write our settings, and our hooks if there is a repository."""
    parser = _parser(
        "install", "Tell git about us: the filter, the diff and merge drivers, and this repository's hooks."
    )
    parser.add_argument("--force", action="store_true", help="overwrite a filter of this name that is not ours")
    parser.add_argument(
        "-s", "--skip-smudge", action="store_true", help="leave pointers on checkout; git theta pull fills them"
    )
    options = parser.parse_args(arguments)
    scope = options.scope or "--global"
    repository = _repository(needed=scope == "--local")
    changed = setup.configure(repository, scope, options.force)
    is_told = setup.skip_smudge(repository, scope, options.skip_smudge)
    where = "this repository" if scope == "--local" else "all your repositories"
    print(f"git theta is {'installed' if changed else 'already installed'} for {where}")
    if is_told:
        print(f"a checkout {'leaves pointers: git theta pull fills them' if options.skip_smudge else 'fills files'}")
    if repository is not None:
        repository.forget_config()
        names = hooks.install(repository)
        if names:
            print(f"hooks: {', '.join(names)} (in {hooks.hooks_dir(repository)})")
    return 0


def uninstall(arguments: list[str]) -> int:
    """Remove our settings and this repository's hooks; leave everything else."""
    parser = _parser("uninstall", "Remove our settings and hooks. Weights, pointers and .gitattributes stay.")
    options = parser.parse_args(arguments)
    repository = _repository(needed=options.scope == "--local")
    removed = []
    for scope in [options.scope] if options.scope else ["--global", "--local"]:
        if scope == "--global" or repository is not None:
            removed += setup.unconfigure(repository, scope)
    names = hooks.uninstall(repository) if repository is not None else []
    if not removed and not names:
        print("git theta was not installed here: nothing to remove")
        return 0
    what = [noun for noun, found in (("settings", removed), ("hooks", names)) if found]
    where = "this repository" if options.scope == "--local" else "all your repositories"
    print(f"git theta is uninstalled for {where}: {' and '.join(what)} removed")
    if repository is not None:
        repository.forget_config()
        _warn(repository)
    return 0


def _warn(repository: Repository) -> None:
    """Say what git does from now on with the files that are tracked here."""
    from gitbridge.attributes import tracked_patterns

    if repository.work_tree is None or setup.is_configured(repository):
        return
    patterns = [one.pattern for one in tracked_patterns(repository)]
    if patterns:
        print(f"{', '.join(patterns[:5])}: still in .gitattributes, but git add now puts such files into git itself")
        print("to go on with them later: git theta install")


def _parser(name: str, description: str) -> Parser:
    parser = Parser(prog=f"git theta {name}", description=description)
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--global", dest="scope", action="store_const", const="--global", help="for all repositories")
    scope.add_argument("--local", dest="scope", action="store_const", const="--local", help="for this repository only")
    scope.add_argument("--scope", type=_scope, metavar="global|local", help=argparse.SUPPRESS)  # as Git-Theta has it
    return parser


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
