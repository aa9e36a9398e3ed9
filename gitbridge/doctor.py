"""Look for what keeps weights from being stored, found, sent and checked out, and say how each is mended.

A finding is a problem if weights are lost, wrong or in git itself because of it, or would be by the next command; a
note is worth knowing and may be as it is meant. Nothing is changed, and no weights are read.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gitbridge import attributes, hooks, setup
from gitbridge.absent import RESTORE_ALL, WITHOUT_WEIGHTS, nothing_is_checked_out
from gitbridge.errors import ConfigError, RemoteError, words_for
from gitbridge.large_files import LargeFile
from gitbridge.profile import fetch_all_the_same, profile_of
from gitbridge.remotes import (
    COMMITTED_NAME,
    Place,
    committed_values,
    default_remote,
    is_local_store,
    open_place,
    places,
    store_location,
)
from gitbridge.render import count_text, size_text
from gitbridge.repository import Repository, parse_config
from gitbridge.settings import CONFIGURATION, truth, unknown_settings, unknown_variables, without_effect
from gitbridge.space import free_bytes
from gitbridge.states import FULL, MISSING
from gitbridge.status import FileStatus, Status, status
from gitbridge.trees import tracked_in_tree
from thetastore.errors import BackendError, StoreMissingError, ThetaError

GOOD, NOTE, PROBLEM = "good", "note", "problem"
_OLDEST_GIT = (2, 31)
_LITTLE_BYTES = 1 << 30
_NAMED_COUNT = 3
_NEWEST_COUNT = 10


class Finding(NamedTuple):
    """What one check found."""

    check: str
    """A released name: `git`, `program`, `filter`, `settings`, `hooks`, `attributes`, ..."""
    level: str
    """`good`, `note` or `problem`."""
    message: str
    mend: str = ""
    """A command that can be pasted, or the words that come nearest to one; empty where nothing is to be done."""


def examine(repository: Repository | None) -> Iterator[Finding]:
    """Yield what each check finds, the installation first; without a repository that is all."""
    yield from _git()
    yield from _program(repository)
    yield from _variables()
    if repository is None:
        yield Finding("repository", NOTE, "there is no Git repository here, so only the installation was looked at")
        return
    checks: list[Callable[[Repository], Iterator[Finding]]] = [_filter, _settings, _local_store, _remote_store]
    if repository.work_tree is not None:
        checks += [_checkout] if nothing_is_checked_out(repository) else [_committed, _hooks, _attributes, _files]
    for check in checks:
        try:
            yield from check(repository)
        except (ThetaError, OSError) as error:
            message, hint = words_for(error)
            yield Finding(check.__name__.strip("_").replace("_", "-"), PROBLEM, message, hint)


# The installation


def _git() -> Iterator[Finding]:
    words = subprocess.run(["git", "--version"], capture_output=True, check=False).stdout.decode().split()
    version = words[2] if len(words) > 2 else "unknown"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_GIT:
        yield Finding("git", PROBLEM, f"git {version} is too old, expected 2.31 or newer", "install a newer git")
    else:
        yield Finding("git", GOOD, f"git {version}")


def _program(repository: Repository | None) -> Iterator[Finding]:
    """Ask for the program where git would find it: git puts its own directories first on PATH."""
    found = _as_git_runs("command -v git-theta", repository).strip()
    if not found:
        yield Finding(
            "program",
            NOTE,
            "'git theta' cannot be typed: 'git-theta' is not on the PATH that git has",
            "pipx install thetastore (or activate the environment that it is installed in)",
        )
    configured = _configured_program(repository)
    if configured is None:
        return
    answer = _as_git_runs(f"{configured} version 2>&1", repository).strip()
    if not answer.startswith("git-theta "):
        yield Finding(
            "program",
            PROBLEM,
            f"git is set to run {configured}, and that fails: {answer.splitlines()[-1] if answer else 'no answer'}",
            "git theta install --force",
        )
    else:
        yield Finding("program", GOOD, f"git runs {configured}: {answer}")


def _configured_program(repository: Repository | None) -> str | None:
    """Return the program in the filter's command, quoted as it stands there."""
    command = ["git", "config", "filter.theta.process"]
    where = (repository.work_tree or repository.git_dir) if repository else None
    value = subprocess.run(command, cwd=where, capture_output=True, check=False).stdout.decode("utf-8", "replace")
    return value.strip().removesuffix(" filter-process") or None


def _as_git_runs(command: str, repository: Repository | None) -> str:
    """Run a shell command with the environment that git gives to what it runs; return its output."""
    where = (repository.work_tree or repository.git_dir) if repository else None
    done = subprocess.run(
        ["git", "-c", f"alias.theta-doctor=!{command}", "theta-doctor"],
        cwd=where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace")


def _variables() -> Iterator[Finding]:
    for name, near in unknown_variables(os.environ):
        said = f"the variable {name} means nothing" + (f"; did you mean {near}" if near else "")
        yield Finding("settings", NOTE, said, f"unset {name}")


# Configuration


def _filter(repository: Repository) -> Iterator[Finding]:
    if repository.config("filter.theta.process") is None:
        yield Finding(
            "filter", PROBLEM, "git does not call us here: git add would put weights into git", "git theta install"
        )
        return
    program = _configured_program(repository) or setup.PROGRAM
    wanted = setup.settings(next(iter(shlex.split(program)), setup.PROGRAM))
    wrong = [name for name, value in wanted.items() if repository.config(name) != value]
    if wrong:
        is_local = any(name in _local_names(repository) for name in wanted)
        mend = f"git theta install {'--local ' if is_local else ''}--force"
        yield Finding("filter", PROBLEM, f"not as git theta install sets it: {', '.join(wrong)}", mend)
    else:
        yield Finding("filter", GOOD, "filter, diff and merge drivers are set")


def _local_names(repository: Repository) -> dict[str, list[str]]:
    return parse_config(repository.git("config", "--local", "-z", "--list", check=False))


def _settings(repository: Repository) -> Iterator[Finding]:
    for name, near in unknown_settings(repository.config_names()):
        said = f"the setting {name} means nothing" + (f"; did you mean {near}" if near else "")
        yield Finding("settings", NOTE, said, f"git config --unset-all {name}")
    for setting in CONFIGURATION:
        value = repository.config(setting.name)
        if setting.default in ("true", "false") and value is not None and truth(value) is None:
            said = f"{setting.name} is '{value}', expected true or false"
            yield Finding("settings", PROBLEM, said, f"git config {setting.name} {setting.default}")


def _checkout(_: Repository) -> Iterator[Finding]:
    """Say what is to be done after the rest is mended, where what clones go by is not here yet either."""
    said = "nothing of HEAD is checked out: a clone that failed"
    yield Finding("checkout", PROBLEM, said, f"{RESTORE_ALL} (without weights: {WITHOUT_WEIGHTS} {RESTORE_ALL})")


def _committed(repository: Repository) -> Iterator[Finding]:
    """Look at `.thetaconfig`: what clones go by."""
    path = os.path.join(repository.work_tree or "", COMMITTED_NAME)
    if os.path.exists(path):
        names = parse_config(repository.git("config", "-z", "--no-includes", "--file", path, "--list"))
        for name in without_effect(names):
            said = f"{name} in {COMMITTED_NAME} is not read from there: others write that file"
            yield Finding("committed", NOTE, said, f"git config {name} <value> (each clone for itself)")
        if not repository.git("ls-files", "--", COMMITTED_NAME):
            said = f"{COMMITTED_NAME} is not added, so no clone will have it"
            yield Finding("committed", PROBLEM, said, f"git add :/{COMMITTED_NAME}")
        yield from _two_places(repository)
        return
    url = repository.config("theta.url")
    if url and repository.config("remote.origin.url"):
        written = f"git config --file {_committed_path(repository)} theta.url {shlex.quote(url)}"
        yield Finding(
            "committed",
            NOTE,
            "only this clone's configuration says where the weights are: other clones have to be told",
            f"{written} && git add :/{COMMITTED_NAME}",
        )


def _two_places(repository: Repository) -> Iterator[Finding]:
    """Tell where pushes from here and clones of it go to different stores: what one has, the other lacks."""
    ours, theirs = repository.config("theta.url"), committed_values(repository, "", "theta.url")
    if not ours or not theirs or not theirs[-1]:
        return
    try:
        is_same = len({store_location(url, repository.root) for url in (ours, theirs[-1])}) == 1
    except ConfigError:
        return  # `_remote_store` says what is wrong with it
    if not is_same:
        said = f"weights go to '{ours}' from here (theta.url in git config); clones look in '{theirs[-1]}'"
        yield Finding("committed", NOTE, f"{said} ({COMMITTED_NAME})", "git config --unset theta.url")


def _committed_path(repository: Repository) -> str:
    """Return the committed file as a command here has to name it."""
    return shlex.quote(os.path.relpath(os.path.join(repository.work_tree or repository.git_dir, COMMITTED_NAME)))


def _hooks(repository: Repository) -> Iterator[Finding]:
    absent = hooks.missing(repository)
    directory = hooks.hooks_dir(repository)
    if absent and not repository.config_bool("theta.installHooks", True):
        said = f"no {', '.join(absent)} hook sends weights (theta.installHooks is false)"
        yield Finding("hooks", NOTE, said, "git theta push before each git push")
    elif absent and not attributes.tracked_patterns(repository):
        return  # the filter puts them in when the first file comes
    elif absent:
        yield Finding("hooks", PROBLEM, f"our lines are missing from: {', '.join(absent)}", "git theta install")
    else:
        yield Finding("hooks", GOOD, f"hooks are in {directory}")


# Stores


def _local_store(repository: Repository) -> Iterator[Finding]:
    path = repository.store_path()
    try:
        store = repository.open_store(create=False)
    except StoreMissingError:
        yield Finding("local-store", NOTE, f"nothing is stored yet: '{path}' will be made by the first add or fetch")
        return
    from thetastore.upkeep.losses import lost_objects
    from thetastore.upkeep.verify import Level, verify

    with store:
        damaged = [str(found) for found in verify(store.objects, Level.TABLES)]
        if not damaged:
            damaged = [f"object '{one}' cannot be read" for one in sorted(lost_objects(store.objects))]
    if damaged:
        yield Finding("local-store", PROBLEM, f"it is damaged: {_some(damaged)}", "git theta fsck --repair")
    yield from _writable(path)
    free = free_bytes(path)
    if free < _LITTLE_BYTES:
        said = f"only {size_text(free)} are free where '{path}' is"
        yield Finding("space", NOTE, said, "git config theta.storage /path/on/another/disk, or make room")
    if not damaged:
        yield Finding("local-store", GOOD, f"'{path}' has whole tables; {size_text(free)} are free there")


def _writable(path: str) -> Iterator[Finding]:
    """Look whether we may write to a store, and those with whom it is shared to all of it."""
    mode = os.stat(path).st_mode
    is_shared = bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)
    closed = [one for one in _directories(path) if not os.access(one, os.W_OK | os.X_OK)]
    if not closed and is_shared:
        closed = [one for one in _directories(path) if not os.stat(one).st_mode & stat.S_IWGRP]
    if not closed:
        return
    quoted = shlex.quote(path)
    ours = f"chmod -R u+w {quoted}"
    shared = f"chmod -R g+rwX {quoted} && find {quoted} -type d -exec chmod g+s {{}} +"
    if os.stat(closed[0]).st_uid == os.geteuid():
        what = "cannot be written by all who share it" if is_shared else "cannot be written"
        yield Finding("local-store", PROBLEM, f"'{closed[0]}' {what}", shared if is_shared else ours)
    else:
        said = f"'{closed[0]}' belongs to somebody else, and you may not write to it"
        yield Finding("local-store", PROBLEM, said, f"its owner, for a group that has both of you: {shared}")


def _directories(path: str) -> list[str]:
    """Return a store's directory and those in it that every writer has to write to, as far as they are there."""
    below = [os.path.join(path, name) for name in ("incoming", "index", "packs")]
    return [path, *(one for one in below if os.path.isdir(one))]


def _remote_store(repository: Repository) -> Iterator[Finding]:
    found = places(repository, None)
    is_waiting = repository.work_tree is not None and os.path.exists(os.path.join(repository.work_tree, COMMITTED_NAME))
    if not found and not is_waiting:  # to be added, which `_committed` says
        yield Finding(
            "remote-store",
            NOTE,
            "none is known: git push has nowhere to send weights",
            f"git config --file {_committed_path(repository)} theta.url /path/to/store && git add :/{COMMITTED_NAME}",
        )
    for place in found:
        try:
            with open_place(place) as store:
                any(store.backend.list("retired"))  # the shortest of those that each reader lists
            yield _can_be_read(repository, place, is_first=place is found[0])
        except RemoteError as error:
            yield _cannot_be_read(repository, place, error, is_first=place is found[0])
        except BackendError as error:
            yield Finding("remote-store", PROBLEM, *words_for(error))


def _can_be_read(repository: Repository, place: Place, is_first: bool) -> Finding:
    if not is_first or not is_local_store(repository, place):
        return Finding("remote-store", GOOD, f"'{place.url}' (from {place.source}) can be read")
    said = f"'{place.url}' (from {place.source}) is the local store as well: a push makes no second copy of weights"
    return Finding("remote-store", NOTE, said, f"git config {place.setting} /path/to/another/store")


def _cannot_be_read(repository: Repository, place: Place, error: RemoteError, is_first: bool) -> Finding:
    """Tell a store that the first push will make from one that was there and is gone."""
    if not is_first or place.directory is None or os.path.exists(place.directory):
        return Finding("remote-store", PROBLEM, error.message, error.hint)
    where = f"'{place.url}' (from {place.source})"
    remote = default_remote(repository)
    if remote is None or not _has_pointers(repository, remote):
        return Finding("remote-store", NOTE, f"{where} is not there; the first push makes it", error.hint)
    again = f"if it is lost, what is in the local store goes to a new one: git theta push --all {shlex.quote(remote)}"
    said = f"{where} is gone, and '{remote}' has commits whose weights were sent there"
    return Finding("remote-store", PROBLEM, said, f"mount it, or move it back; {again}")


def _has_pointers(repository: Repository, remote: str) -> bool:
    """Tell whether a branch of a Git remote, as it was last seen, holds files of ours: one of the newest, that is."""
    listed = repository.git(
        "for-each-ref",
        "--sort=-committerdate",
        f"--count={_NEWEST_COUNT}",
        "--format=%(refname)",
        f"refs/remotes/{remote}",
    )
    return any(tracked_in_tree(repository, ref) for ref in listed.decode().split())


# Files


def _attributes(repository: Repository) -> Iterator[Finding]:
    found = attributes.tracked_patterns(repository)
    if not found:
        yield Finding("attributes", NOTE, "nothing is tracked here", "git theta track '*.safetensors'")
        return
    for source in dict.fromkeys(one.source for one in found):
        if source.startswith(".git/"):
            continue
        if not repository.git("--literal-pathspecs", "ls-files", "--", source):
            said = f"'{source}' is not added, so clones will not know what is tracked"
            yield Finding("attributes", PROBLEM, said, f"git add {shlex.quote(':/' + source)}")
    incomplete = list(_incomplete_lines(repository))
    for source, pattern, lacking in incomplete:
        quoted = shlex.quote(pattern)
        yield Finding(
            "attributes",
            PROBLEM,
            f"'{pattern}' in '{source}' lacks {' '.join(lacking)}: git would merge or convert pointers as text",
            f"git theta untrack {quoted} && git theta track {quoted} (in the directory of that file)",
        )
    if not incomplete:
        yield Finding("attributes", GOOD, "tracked: " + _some([one.pattern for one in found]))


def _incomplete_lines(repository: Repository) -> Iterator[tuple[str, str, list[str]]]:
    assert repository.work_tree is not None
    for source in dict.fromkeys(one.source for one in attributes.tracked_patterns(repository)):
        base = repository.common_dir if source.startswith(".git/") else repository.work_tree
        path = os.path.join(base, source.removeprefix(".git/") if base is repository.common_dir else source)
        for pattern, words in map(attributes.split_line, attributes.read_lines(path)):
            lacking = [word for word in attributes.ATTRIBUTES if word not in words]
            if attributes.is_ours(words) and lacking:
                yield source, pattern, lacking


def _files(repository: Repository) -> Iterator[Finding]:
    found = status(repository)
    yield from _plain(found)
    yield from _untracked_pointers(repository, found)
    yield from _large(found.large)
    left = [row for row in found.files if row.state != FULL and row.is_here]
    lost = [row for row in found.files if row.state == MISSING]
    if lost:
        said = f"{count_text(len(lost), 'file')} in no store that can be reached: {_paths(lost)}"
        yield Finding("weights", PROBLEM, said, "git theta fetch (once their store can be reached; see remote-store)")
    only_here = [row for row in found.files if row.state == FULL and not row.is_stored and not row.is_pushed]
    if only_here:
        said = f"{count_text(len(only_here), 'file')} in the work tree alone, and in no store that can be reached: "
        yield Finding("weights", PROBLEM, said + _paths(only_here), f"git add --renormalize {_from_top(only_here)}")
    rest = [row for row in left if row not in lost]
    if rest:
        said = f"{count_text(len(rest), 'file')} in the work tree only as pointers: {_paths(rest)}"
        if profile_of(repository).is_whole:
            yield Finding("weights", NOTE, said, "git theta pull")
        else:
            said += ", as this clone keeps only a part of the weights"
            yield Finding("weights", NOTE, said, f"if that is not meant: {fetch_all_the_same('pull')}")
    waiting = [row for row in found.files if row.is_pushed is False and row.is_stored]
    if waiting:
        said = f"{count_text(len(waiting), 'file')} not in the remote store: {_paths(waiting)}"
        yield Finding("unpushed", NOTE, said, "git push (or, weights alone: git theta push)")
    if not left and not lost and not only_here and found.files:
        yield Finding("weights", GOOD, f"{count_text(len(found.files), 'tracked file')}, all weights are here")


def _from_top(rows: list[FileStatus]) -> str:
    """Return files as git takes them in any directory; all of them instead of many."""
    return " ".join(shlex.quote(":/" + row.file.path) for row in rows) if len(rows) <= _NAMED_COUNT else ":/"


def _plain(found: Status) -> Iterator[Finding]:
    if found.plain:
        names = " ".join(shlex.quote(":/" + path) for path in found.plain[:_NAMED_COUNT])
        if len(found.plain) > _NAMED_COUNT:
            names = ":/"
        yield Finding(
            "plain-files",
            PROBLEM,
            f"tracked, but in git as plain files (somebody committed without git theta): {_some(found.plain)}",
            f"git add --renormalize {names} && git commit",
        )


def _untracked_pointers(repository: Repository, found: Status) -> Iterator[Finding]:
    ours = set(attributes.paths_with_filter(repository, [row.file.path for row in found.files]))
    loose = [row for row in found.files if row.file.path not in ours]
    if loose:
        yield Finding(
            "attributes",
            PROBLEM,
            f"pointers that no pattern tracks, so git never fills them: {_paths(loose)}",
            f"git theta track {shlex.quote('/' + loose[0].file.path)}",
        )


def _large(found: list[LargeFile]) -> Iterator[Finding]:
    if found:
        names = _some([f"{file.path} ({size_text(file.nbytes)})" for file in found])
        patterns = " ".join(shlex.quote(one) for one in dict.fromkeys(file.pattern for file in found))
        mend = f"git theta track {patterns}"
        if any(file.is_in_git for file in found):
            mend += " && git add --renormalize :/"
        yield Finding("large-files", NOTE, f"not tracked, so git itself takes them whole: {names}", mend)


def _paths(rows: list[FileStatus]) -> str:
    return _some([row.file.path for row in rows])


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_COUNT
    return ", ".join(names[:_NAMED_COUNT]) + (f" and {more} more" if more > 0 else "")
