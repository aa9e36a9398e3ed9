"""`git theta version` and `env`."""

from __future__ import annotations

import os
import sys

from gitbridge.cli.options import refuse_git_lfs_options
from gitbridge.errors import BridgeError, RepositoryMissingError
from gitbridge.repository import Repository
from gitbridge.settings import PREFIXES
from thetastore.command_line import Parser, installed_version, print_json
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values


def version(arguments: list[str]) -> int:
    """Print the version."""
    parser = Parser(prog="git theta version", description="Print the version.")
    parser.add_argument("--json", action="store_true", help="for programs; schema 1: those of Python and of git, too")
    refuse_git_lfs_options(parser, "version")
    options = parser.parse_args(arguments)
    number = installed_version()
    if options.json:
        print_json({"version": number, "python": sys.version.split()[0], "git": _git().removeprefix("git version ")})
    else:
        print(f"git-theta {number}")
    return 0


def env(arguments: list[str]) -> int:
    """Print what is used here."""
    parser = Parser(prog="git theta env", description="Print what is used here.")
    add_listing_options(parser, Rows("rows", ("name", "value")))
    options = parser.parse_args(arguments)
    rows = [
        ("git-theta", installed_version()),
        ("python", f"{sys.version.split()[0]} ({sys.executable})"),
        ("git", _git()),
    ]
    try:
        rows += _repository_rows(Repository.discover())
    except RepositoryMissingError:
        rows.append(("repository", "none here"))
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIXES):
            rows.append((name, "(set)" if name == "THETASTORE_OPTIONS" else value))
    from gitbridge.git_theta_names import REPLACED

    rows += [(name, f"{os.environ[name]} ({what})") for name, what in REPLACED.items() if os.environ.get(name)]
    if wants_values(options):
        print_values(options, {"rows": [{"name": name, "value": value} for name, value in rows]})
        return 0
    from gitbridge.render import table

    paint = painter(options)
    sys.stdout.write(table([(paint(name, "bold"), value) for name, value in rows]))
    return 0


def _repository_rows(repository: Repository) -> list[tuple[str, str]]:
    from gitbridge import hooks
    from gitbridge.remotes import places

    absent = hooks.missing(repository)
    rows = [
        ("work tree", repository.work_tree or "none"),
        ("git directory", repository.git_dir),
        ("object format", repository.object_format),
        ("filter", repository.config("filter.theta.process") or "not installed: git theta install"),
        ("hooks", f"missing: {', '.join(absent)} (git theta install)" if absent else hooks.hooks_dir(repository)),
        ("local store", repository.store_path()),
        ("stored there", _stored(repository)),
    ]
    try:
        found = [(place.url, place.source) for place in places(repository, None)]
    except BridgeError as error:
        found = [(str(error), "error")]
    rows += [("remote store", f"{url} ({source})") for url, source in found or [("none is known", "theta.url")]]
    return rows + [(name, _shown(repository, name)) for name in repository.config_names() if name.startswith("theta.")]


def _stored(repository: Repository) -> str:
    """Return how much the local store holds, and what it may hold."""
    from gitbridge.render import size_text

    limit = repository.config("theta.storageLimit")
    most = f" (git theta prune brings it down to {limit})" if limit else ""
    try:
        with os.scandir(os.path.join(repository.store_path(), "packs")) as packs:
            return size_text(sum(pack.stat().st_size for pack in packs)) + most
    except FileNotFoundError:
        return "nothing yet"


def _shown(repository: Repository, name: str) -> str:
    """Return the values of a setting; those that may open somebody's store are not shown."""
    return "(set)" if "://" in name else ", ".join(repository.config_all(name))


def _git() -> str:
    import subprocess

    return subprocess.run(["git", "--version"], capture_output=True, check=False).stdout.decode().strip()
