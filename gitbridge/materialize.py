"""Pointers in the work tree become whole files: on request, and after a process that died over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gitbridge.blobs import blob_oid
from gitbridge.contexts import is_rebasing
from gitbridge.errors import BridgeError, PointerError, words_for
from gitbridge.fetching import Fetched, fetch_what_there_is
from gitbridge.fill import Failure, Filling, Wanted, patch_index_of, place
from gitbridge.journal import FoundJournal, Placement, Records, found_journals, journal_directory
from gitbridge.pointers import MAX_POINTER_BYTES, MIN_POINTER_BYTES, is_pointer
from gitbridge.profile import Profile, profile_of
from gitbridge.render import Progress as Shown
from gitbridge.repository import Repository
from gitbridge.space import no_room_to_fill, remark_on_fetch
from gitbridge.work_files import UnsafePathError, WorkFiles
from thetastore.errors import ThetaError
from thetastore.store import Store

_HEAD_BYTES = 64


class Report(NamedTuple):
    """What came of it."""

    filled: tuple[str, ...]
    """Paths from the top of the work tree."""
    raw_bytes: int
    """Of the filled files, together."""
    failures: tuple[Failure, ...]
    kept: tuple[str, ...] = ()
    """Paths that stay pointers, because this clone is not set to keep all of their weights."""
    fetched: Fetched = Fetched()
    """What had to come from remote stores for it."""


Progress = Callable[[int, int], None]
"""Called with the bytes filled so far and the bytes to fill."""


def materialize(
    repository: Repository,
    paths: list[str] | None,
    report: Progress | None = None,
    profile: Profile | None = None,
) -> Report:
    """Turn pointer files of the work tree into the files that they stand for.

    Args:
        repository: whose work tree.
        paths: pathspecs, relative to the current directory; None for the whole work tree.
        report: see `Progress`.
        profile: which files to fill, and how much of them to fetch; None for all, and what this clone is set to keep.

    Raises:
        BridgeError: there is no work tree, or git refuses a pathspec. What concerns one file is in the report.
    """
    if repository.work_tree is None:
        raise BridgeError(f"'{repository.git_dir}' has no work tree, so there is nothing to check out")
    complete_pending(repository)
    wanted, failures = _pointers_in(repository, repository.work_tree, _listed(repository, paths))
    if profile is not None:
        wanted = [one for one in wanted if profile.wants_path(one.path)]
    if not wanted:
        return Report((), 0, tuple(failures))
    with repository.open_store() as store:
        return fill_all(repository, repository.work_tree, store, wanted, failures, report, profile)


def fill_all(
    repository: Repository,
    work_tree: str,
    store: Store,
    wanted: list[Wanted],
    failures: list[Failure],
    report: Progress | None = None,
    profile: Profile | None = None,
) -> Report:
    """Fetch what is missing, and fill pointers that are in the work tree already."""
    profile = profile_of(repository) if profile is None else profile
    fetched = _fetched(repository, store, wanted, None, profile)
    kept = tuple(one.path for one in wanted if profile.keeps_pointer(store, one.path, one.manifest_digest))
    wanted = [one for one in wanted if one.path not in kept] if kept else wanted
    crowded = no_room_to_fill(work_tree, [one.file_bytes for one in wanted])
    if crowded is not None:
        return Report((), 0, (*failures, Failure(wanted[0].path, crowded)), kept, fetched)
    filling = Filling(repository, work_tree)
    done, total_bytes, done_bytes = [], sum(one.file_bytes for one in wanted), 0
    for one in wanted:
        try:
            filling.prepare(one, store)
            done.append(one)
        except (ThetaError, OSError) as error:
            failures.append(Failure(one.path, fetched.error or error))
        done_bytes += one.file_bytes
        if report is not None:
            report(done_bytes, total_bytes)
    failures += filling.finish()
    failed = {failure.path for failure in failures}
    filled = [one for one in done if one.path not in failed]
    filled_bytes = sum(one.file_bytes for one in filled)
    return Report(tuple(one.path for one in filled), filled_bytes, tuple(failures), kept, fetched)


def fetch(repository: Repository, store: Store, wanted: list[Wanted], treeish: str | None = None) -> Exception | None:
    """Bring what files need into the local store; return why that could not be done for all of them.

    The files that could be had, can be filled all the same.
    """
    return _fetched(repository, store, wanted, treeish, profile_of(repository)).error


def _fetched(
    repository: Repository, store: Store, wanted: list[Wanted], treeish: str | None, profile: Profile
) -> Fetched:
    remark_on_fetch(store, repository.store_path(), wanted)
    progress = Shown("fetching weights")
    try:
        if not profile.tensors:
            return fetch_what_there_is(repository, store, wanted, None, treeish, progress, profile)
        from gitbridge.kept_tensors import fetch_kept

        return fetch_kept(repository, store, wanted, None, [treeish or ""], profile, progress, treeish)
    except (ThetaError, OSError) as error:
        return Fetched(error=error)
    finally:
        progress.done()


def _listed(repository: Repository, paths: list[str] | None) -> list[bytes]:
    """Return the paths of the index that may be ours."""
    specs = [":(top,attr:filter=theta)"] if paths is None else paths
    where = repository.work_tree if paths is None else os.getcwd()
    listing = repository.git("ls-files", "-z", "--full-name", "--deduplicate", "--", *specs, cwd=where)
    return listing.split(b"\0")[:-1]


def _pointers_in(repository: Repository, work_tree: str, paths: list[bytes]) -> tuple[list[Wanted], list[Failure]]:
    """Read the pointers that lie at tracked paths."""
    wanted: list[Wanted] = []
    failures: list[Failure] = []
    with WorkFiles(work_tree) as files:
        candidates = [path for path in paths if _begins_as_pointer(files, path)]
        for path in _tracked(repository, candidates):
            try:
                text = _read_at_most(files, path, MAX_POINTER_BYTES + 1)
                wanted.append(Wanted.of(path, blob_oid(text, repository.object_format).hex(), text))
            except (PointerError, OSError) as error:
                failures.append(Failure(os.fsdecode(path), error))
    return wanted, failures


def _begins_as_pointer(files: WorkFiles, path: bytes) -> bool:
    try:
        found = files.stat_of(path)
        if found is None or not MIN_POINTER_BYTES <= found.st_size <= MAX_POINTER_BYTES:
            return False
        return is_pointer(_read_at_most(files, path, _HEAD_BYTES))
    except (OSError, UnsafePathError):
        return False


def _read_at_most(files: WorkFiles, path: bytes, nbytes: int) -> bytes:
    with open(files.open(path), "rb") as stream:
        return stream.read(nbytes)


def _tracked(repository: Repository, paths: list[bytes]) -> Iterator[bytes]:
    """Yield the paths that our filter is for; an example of a pointer in the documentation is none."""
    if not paths:
        return
    listing = repository.git("check-attr", "-z", "--stdin", "filter", input=b"\0".join(paths) + b"\0")
    words = listing.split(b"\0")
    for path, value in zip(words[0::3], words[2::3], strict=False):
        if value == b"theta":
            yield path


def complete_pending(repository: Repository) -> int:
    """Finish what dead processes of ours left ready in this work tree; return how many files were filled."""
    if repository.work_tree is None:
        return 0
    filled_count = 0
    for journal in found_journals(journal_directory(repository.theta_dir)):
        records = journal.read() if journal.is_dead else None
        if records is not None:
            filled_count += _complete_dead(repository, repository.work_tree, journal, records)
    return filled_count


def complete_living(repository: Repository) -> int:
    """Put in place what living processes of ours have ready; return how many files were filled.

    For our hooks, which git runs while its filter process is still waiting, before the user's. Nothing is
    removed, and nothing happens in a rebase: there git goes on with the index that it has in memory, and would
    take a filled file for one that the user has changed. (`contexts` sends bytes where that would matter.)
    """
    if repository.work_tree is None or is_rebasing(repository):
        return 0
    filled_count = 0
    for journal in found_journals(journal_directory(repository.theta_dir)):
        records = None if journal.is_dead else journal.read()
        if records is not None:
            placed = place(repository.work_tree, records.ready.values())
            patch_index_of(repository, placed.filled)
            filled_count += len(placed.filled)
    return filled_count


def _complete_dead(repository: Repository, work_tree: str, journal: FoundJournal, records: Records) -> int:
    """Put in place what was ready; take from the store again what cannot be believed; remove what is left."""
    placed = place(work_tree, records.ready.values() if records.is_of_this_boot else ())
    failures = placed.failures + patch_index_of(repository, placed.filled)
    kept = {os.fsencode(failure.path) for failure in failures}
    _remove_leftovers(work_tree, records, kept)
    lost = {path: one for path, one in records.ready.items() if path not in placed.filled and path not in kept}
    filled_count = len(placed.filled) + _fill_again(repository, work_tree, lost)
    if failures:
        complain_all(failures)
    else:
        journal.remove()
    return filled_count


def _remove_leftovers(work_tree: str, records: Records, kept: set[bytes]) -> None:
    with WorkFiles(work_tree) as files:
        for temporary, path in records.temporaries.items():
            try:
                if path not in kept:
                    files.remove_temporary(path, temporary)
            except (OSError, UnsafePathError):
                continue


def _fill_again(repository: Repository, work_tree: str, lost: dict[bytes, Placement]) -> int:
    """Fill from the store what still is the very pointer that the journal names."""
    pointers, failures = _pointers_in(repository, work_tree, list(lost))
    wanted = [one for one in pointers if lost[os.fsencode(one.path)].pointer_digest == one.pointer_digest]
    if not wanted:
        return 0
    with repository.open_store() as store:
        report = fill_all(repository, work_tree, store, wanted, failures)
    complain_all(report.failures)
    return len(report.filled)


def complain_all(failures: Iterable[Failure]) -> None:
    """Say on stderr which files could not be filled, and why."""
    for failure in failures:
        complain(failure.path, failure.error)


def complain(path: str, error: Exception) -> None:
    """Say on stderr what is wrong with a file, and the way out if there is one."""
    import sys

    message, hint = words_for(error)
    text = f"git theta: '{path}': {message}\n" + (f"hint: {hint}\n" if hint else "")
    sys.stderr.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stderr.flush()
