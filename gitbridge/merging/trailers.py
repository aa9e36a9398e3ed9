"""What the message of a merge's commit says of how weights were mixed: a trailer for each file.

    Theta-Merge: model.safetensors: ties density=0.5 (12 tensors)

Git writes the message of a merge after its drivers have run, so a driver can only leave a note. The hook
`prepare-commit-msg`, into which our lines are put when the first note is left, makes a trailer of it. Where that cannot
be, or must not, `git theta mergetool` writes into the message that git has ready, and other merges go without.
"""

from __future__ import annotations

import os

from gitbridge.blobs import blob_oid
from gitbridge.errors import GitError
from gitbridge.hooks import install_for_messages
from gitbridge.repository import Repository
from thetastore.digest import digest_of

KEY = "Theta-Merge"
_MOST_RULES = 5


def trailer_text(path: str, rules: dict[tuple[str, str], list[str]]) -> str:
    """Return the value of a trailer: one line, whatever the path and the rules."""
    parts = [f"{rule} ({len(names)} tensor{'s' if len(names) > 1 else ''})" for (rule, _), names in rules.items()]
    if len(parts) > _MOST_RULES:
        parts = [*parts[:_MOST_RULES], f"and {len(parts) - _MOST_RULES} more"]
    text = f"{path}: {', '.join(parts)}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def leave_note(repository: Repository, path: str, pointer: bytes, text: str) -> bool:
    """Write down a trailer for the commit that will hold a pointer at a path; tell whether a hook will put it in."""
    directory = _directory(repository)
    os.makedirs(directory, exist_ok=True)
    oid = blob_oid(pointer, repository.object_format).hex()
    place = os.path.join(directory, str(digest_of(os.fsencode(path)))[:32])
    temporary = f"{place}.{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(f"{oid}\n".encode() + os.fsencode(path) + b"\0" + os.fsencode(text))
    os.replace(temporary, place)
    return install_for_messages(repository)


def append_to(repository: Repository, message: str) -> int:
    """Put the trailers of what a commit brings into its message; forget all notes; return how many were put in.

    An empty message stays empty, and the notes stay, so that git can refuse it.

    Args:
        repository: whose index.
        message: path of the file with the message.
    """
    count = 0
    if not _has_text(repository, message):
        return count
    is_merge = os.path.exists(os.path.join(repository.git_dir, "MERGE_HEAD"))
    for oid, path, text in _notes(repository):
        if _oid_in_index(repository, path) == oid and (is_merge or _oid_in_head(repository, path) != oid):
            _end_line(message)
            trailer = f"{KEY}: {os.fsdecode(text)}"
            repository.git(
                "interpret-trailers", "--in-place", "--if-exists", "addIfDifferent", "--trailer", trailer, message
            )
            count += 1
    return count


_SCISSORS = b" ------------------------ >8 ------------------------"


def _has_text(repository: Repository, message: str) -> bool:
    with open(message, "rb") as stream:
        written = stream.read().partition(_SCISSORS)[0]
    return bool(repository.git("stripspace", "--strip-comments", input=written).strip())


def _end_line(message: str) -> None:
    """End the last line of a message: after `git merge -m` it has no end, and a trailer would become part of it."""
    with open(message, "r+b") as stream:
        if not stream.read().endswith(b"\n"):
            stream.write(b"\n")


def _notes(repository: Repository) -> list[tuple[str, bytes, bytes]]:
    found = []
    directory = _directory(repository)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    for name in names:
        place = os.path.join(directory, name)
        with open(place, "rb") as stream:
            head, _, rest = stream.read(1 << 20).partition(b"\n")
        path, _, text = rest.partition(b"\0")
        found.append((head.decode("ascii", "replace"), path, text))
        os.unlink(place)
    return found


def _oid_in_index(repository: Repository, path: bytes) -> str | None:
    listed = repository.git("--literal-pathspecs", "ls-files", "-z", "--stage", "--", os.fsdecode(path))
    for item in listed.split(b"\0")[:-1]:
        _, oid, stage = item.partition(b"\t")[0].split()
        if stage == b"0":
            return oid.decode()
    return None


def _oid_in_head(repository: Repository, path: bytes) -> str | None:
    try:
        listed = repository.git("ls-tree", "-z", "--full-tree", "HEAD", "--", os.fsdecode(path))
    except GitError:  # no commit yet
        return None
    return listed.split(b"\t")[0].split()[2].decode() if listed else None


def _directory(repository: Repository) -> str:
    return os.path.join(repository.theta_dir, "merged")
