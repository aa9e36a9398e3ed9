"""Conflicts that git has left in the index are decided and become one entry again, and one file in the work tree.

First the result is durable in the store. Then its pointer is put in the place of the work-tree file, in one step; then
the entry of the index; then the file is filled. Whoever dies in between leaves a file that is still in conflict, or the
pointer of the result with its entry, which `git theta checkout` fills.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from gitbridge.errors import BridgeError, GitError, UsageError
from gitbridge.materialize import complain_all, materialize
from gitbridge.merge_states import remove_state
from gitbridge.merging.driver import Texts
from gitbridge.merging.results import Merged, rules_used, store_result
from gitbridge.merging.sides import open_sides
from gitbridge.merging.trailers import append_to, leave_note, trailer_text
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer
from gitbridge.repository import Repository
from gitbridge.work_files import WorkFiles, temporary_name
from thetastore.merging import MergeError
from thetastore.merging.merge import Merge, RuleFor, three_way_merge
from thetastore.store import Store


class Unmerged(NamedTuple):
    """A file that the index has on several stages."""

    path: str
    oids: dict[int, str]
    """By stage: 1 base, 2 ours, 3 theirs."""
    mode: str
    """Of ours, else of theirs."""

    @property
    def deleted_by(self) -> str | None:
        """The side that has no such file; None where both have it."""
        return "ours" if 2 not in self.oids else "theirs" if 3 not in self.oids else None


def unmerged_files(repository: Repository, paths: list[str]) -> list[Unmerged]:
    """Return the unmerged files of the index that are tracked by us.

    Args:
        repository: whose index.
        paths: pathspecs from the current directory; empty for all.
    """
    listed = repository.git("ls-files", "-u", "-z", "--full-name", "--", *paths, cwd=os.getcwd())
    if not paths:
        listed = repository.git("ls-files", "-u", "-z")
    found: dict[str, Unmerged] = {}
    for item in listed.split(b"\0")[:-1]:
        head, _, name = item.partition(b"\t")
        mode, oid, stage = head.decode().split()
        path = os.fsdecode(name)
        one = found.setdefault(path, Unmerged(path, {}, mode))
        one.oids[int(stage)] = oid
        if stage == "2":
            found[path] = one._replace(mode=mode)
    return [one for one in found.values() if _is_ours(repository, one)]


def _is_ours(repository: Repository, file: Unmerged) -> bool:
    heads = repository.cat_file().read_heads(file.oids.values(), 64)
    return any(is_pointer(blob.head) for blob in heads)


def texts_of(repository: Repository, file: Unmerged) -> Texts:
    """Return what git has of a file on the three sides.

    Raises:
        UsageError: a side deleted it.
    """
    if file.deleted_by is not None:
        raise UsageError(f"'{file.path}' was deleted by {file.deleted_by}, which is not a question of tensors")
    return Texts(*(repository.read_object(file.oids[stage]) if stage in file.oids else b"" for stage in (1, 2, 3)))


def merge_unmerged(repository: Repository, store: Store, file: Unmerged, rule_for: RuleFor) -> Merge:
    """Merge a file again, with rules for what conflicts. Nothing is changed."""
    return three_way_merge(open_sides(repository, store, file.path, *texts_of(repository, file)), rule_for)


def finish(
    repository: Repository, store: Store, file: Unmerged, merge: Merge, force: bool, say: Callable[[str], None]
) -> Merged:
    """Make a decided merge the file of index and work tree.

    Args:
        repository: whose index and work tree.
        store: the local store.
        file: what is unmerged.
        merge: without conflicts.
        force: replace a work-tree file that is no side of the merge.
        say: told about what is not an error.

    Raises:
        MergeError: the numbers do not allow it; nothing was changed.
        BridgeError: the work-tree file was edited.
    """
    if merge.conflicts:
        raise MergeError(f"{len(merge.conflicts)} tensors of '{file.path}' are not decided")
    if not force:
        _check_work_file(repository, file)
    merged = store_result(repository, store, merge, file.path)
    place_pointer(repository, file.path, file.mode, merged.pointer)
    remove_state(repository, file.path)
    report = materialize(repository, [f":(top,literal){file.path}"])
    complain_all(report.failures)
    used = rules_used(merge)
    if used:
        _say_in_message(repository, file.path, merged, trailer_text(file.path, used), say)
    return merged


def _check_work_file(repository: Repository, file: Unmerged) -> None:
    top = repository.work_tree
    assert top is not None, "there is an index"
    if not os.path.lexists(os.path.join(top, file.path)):
        return
    if not _is_side(repository, file, top) and not _is_merged_by_lines(os.path.join(top, file.path)):
        raise BridgeError(
            f"'{file.path}' in the work tree is neither side of the merge, so it would be lost",
            f"move it away, or git checkout --ours -- '{file.path}', or use --force",
        )


def _is_side(repository: Repository, file: Unmerged, top: str) -> bool:
    try:
        oid = repository.git("hash-object", "--", file.path, cwd=top).decode().strip()
    except GitError:  # a pointer that was edited, or weights that no store takes
        return False
    return oid in file.oids.values()


def _is_merged_by_lines(path: str) -> bool:
    """Tell whether a file is what an octopus leaves: pointers with marks of conflicts, and nothing of anybody's."""
    with open(path, "rb") as stream:
        text = stream.read(MAX_POINTER_BYTES + 1)
    return is_pointer(text) and all(b"\n" + mark * 7 in text for mark in (b"<", b"=", b">"))


def place_pointer(repository: Repository, name: str, mode: str, pointer: bytes) -> None:
    """Put a pointer in the place of a work-tree file, in one step; then in the index."""
    assert repository.work_tree is not None, "there is an index"
    path = os.fsencode(name)
    temporary = temporary_name(path)
    with WorkFiles(repository.work_tree) as files:
        descriptor = files.create_temporary(path, temporary)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(pointer)
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(stream.fileno(), (0o777 if mode == "100755" else 0o666) & ~mask)
            parent = files.parent(path)
            os.rename(temporary, path.rpartition(b"/")[2], src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            files.remove_temporary(path, temporary)
            raise
    oid = repository.git("hash-object", "-w", "-t", "blob", "--stdin", input=pointer).decode().strip()
    entry = f"{mode} {oid} 0\t".encode() + path + b"\0"
    repository.git("update-index", "--add", "-z", "--index-info", input=entry)


def _say_in_message(repository: Repository, path: str, merged: Merged, text: str, say: Callable[[str], None]) -> None:
    """Put a trailer into the message of the commit that is being made, where there is one already."""
    has_hook = leave_note(repository, path, merged.pointer, text)
    message = os.path.join(repository.git_dir, "MERGE_MSG")
    if os.path.exists(message) and (has_hook or append_to(repository, message)):
        say(f"the commit's message will say: {text}")
