"""What git configuration must say for git to call us, put in and taken out setting by setting.

Nothing but our own settings is touched: `theta.url` and whatever else the user wrote into our sections stays.
"""

from __future__ import annotations

import os
import sys

from gitbridge.errors import ConfigError
from gitbridge.repository import Repository, parse_config

PROGRAM = "git-theta"


def settings(program: str) -> dict[str, str]:
    """Return the settings of an installation, by name.

    Args:
        program: what to run, as a path or a name on PATH, not quoted.
    """
    from shlex import quote

    run = quote(program)
    return {
        "filter.theta.process": f"{run} filter-process",
        "filter.theta.clean": f"{run} clean -- %f",
        "filter.theta.smudge": f"{run} smudge -- %f",
        "filter.theta.required": "true",
        "diff.theta.textconv": f"{run} textconv",
        "diff.theta.cachetextconv": "true",
        "merge.theta.name": "model weights, by tensor",
        "merge.theta.driver": f"{run} merge-driver %O %A %B %L %P",
        "theta.program": program,
    }


def program() -> str:
    """Return what git should run: the name where PATH has it for good, else the absolute path.

    A virtual environment is on PATH only while it is active, and git is run when it is not.

    Raises:
        ConfigError: this is not running from an installed program.
    """
    import shutil

    found = shutil.which(PROGRAM)
    if found and not _is_in_virtual_environment(found):
        return PROGRAM
    for candidate in (sys.argv[0], os.path.join(os.path.dirname(sys.executable), PROGRAM), found or ""):
        if os.path.basename(candidate) == PROGRAM and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    raise ConfigError("the program 'git-theta' is not installed, so git could not call it", "pip install thetastore")


def _is_in_virtual_environment(path: str) -> bool:
    return os.path.exists(os.path.join(os.path.dirname(os.path.dirname(path)), "pyvenv.cfg"))


def is_configured(repository: Repository) -> bool:
    """Tell whether git would call us in this repository."""
    return repository.config("filter.theta.process") is not None


def configure(repository: Repository | None, scope: str, force: bool = False) -> list[str]:
    """Write our settings; return the names of those that changed.

    Args:
        repository: needed for the scopes `--local` and `--worktree`.
        scope: as `git config` has it: `--global`, `--local`, `--worktree`, `--system`, `--file=PATH`.
        force: overwrite a filter of this name that is not ours.

    Raises:
        ConfigError: another program has taken a setting, or the file cannot be written.
    """
    present = _listing(repository, scope)
    wanted = settings(program())
    if not force:
        for name in wanted:
            _check_is_ours(name, present.get(name, []), scope)
    changed = [name for name, value in wanted.items() if present.get(name) != [value]]
    for name in changed:
        _git_config(repository, scope, "--replace-all", name, wanted[name])
    return changed


def skip_smudge(repository: Repository | None, scope: str, is_on: bool) -> bool:
    """Have checkouts leave pointers in the work tree, or not any more; return whether that is new.

    Raises:
        ConfigError: the file cannot be written.
    """
    present = _listing(repository, scope).get(_SKIP_SMUDGE.lower())
    if is_on and present != ["true"]:
        _git_config(repository, scope, "--replace-all", _SKIP_SMUDGE, "true")
    elif not is_on and present:
        _git_config(repository, scope, "--unset-all", _SKIP_SMUDGE)
    else:
        return False
    return True


_SKIP_SMUDGE = "theta.skipSmudge"


def unconfigure(repository: Repository | None, scope: str) -> list[str]:
    """Remove our settings; return the names of those that were there. A filter that is not ours stays.

    Raises:
        ConfigError: the file cannot be written.
    """
    present = _listing(repository, scope)
    names = [name for name in settings(PROGRAM) if name in present and _is_ours(name, present[name])]
    for name in names:
        _git_config(repository, scope, "--unset-all", name)
    return names


_COMMANDS = ("filter.theta.process", "filter.theta.clean", "filter.theta.smudge", "diff.theta.textconv")


def _is_ours(name: str, values: list[str]) -> bool:
    is_command = name in _COMMANDS or name == "merge.theta.driver"
    return not is_command or all(PROGRAM in value for value in values)


def _check_is_ours(name: str, values: list[str], scope: str) -> None:
    if not _is_ours(name, values):
        raise ConfigError(
            f"'{name}' is set to '{values[-1]}', which is not ours", f"git theta install {scope} --force overwrites it"
        )


def _listing(repository: Repository | None, scope: str) -> dict[str, list[str]]:
    # No includes: what another file says is not in the file that we write.
    return parse_config(_git_config(repository, scope, "--no-includes", "-z", "--list", check=False))


def _git_config(repository: Repository | None, scope: str, *args: str, check: bool = True) -> bytes:
    import subprocess

    done = subprocess.run(
        ["git", "config", scope, *args],
        cwd=(repository.work_tree or repository.git_dir) if repository else None,
        env=repository.environment if repository else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if check and done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
        hint = "git config --show-origin --list says which files there are; a lock that a dead git left can be deleted"
        raise ConfigError(f"git configuration cannot be written: {words}", hint)
    return done.stdout
