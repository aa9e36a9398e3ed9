"""`git theta cat`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gitbridge.cli.opening import open_repository
from gitbridge.errors import UsageError
from gitbridge.render import Progress
from gitbridge.revisions import FileName, parse_name
from thetastore.command_line import Parser

if TYPE_CHECKING:
    from gitbridge.repository import Repository


def cat(arguments: list[str]) -> int:
    """Write the bytes of a file, or of one tensor, to standard output."""
    parser = Parser(
        prog="git theta cat",
        usage="git theta cat [--] [REV:]PATH[//TENSOR]",
        description="Write a file of the index or of a revision to standard output, byte for byte; or the bytes of one "
        "tensor, in C order. Only the chunks needed are fetched. The last bytes are written after everything was "
        "verified; a file that was cut off ends with exit status 2.",
    )
    parser.add_argument("name", metavar="[REV:]PATH[//TENSOR]", help="v1.2:model.safetensors//lm_head.weight")
    options = parser.parse_args(arguments)
    if sys.stdout.isatty():
        raise UsageError("weights are not for a terminal", "git theta cat … > FILE, or git theta show --stats …")
    name = parse_name(options.name)
    with open_repository() as repository:
        pieces = _pieces_of_file if name.tensor is None else _pieces_of_tensor
        for piece in _held_back(pieces(repository, name)):
            _print(piece)
    return 0


def _print(raw: bytes) -> None:
    try:
        sys.stdout.buffer.write(raw)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk behind a `>`
        raise OSError(error.errno, error.strerror, "standard output") from error


def _pieces_of_file(repository: Repository, name: FileName) -> Iterator[memoryview]:
    from gitbridge.fetching import fetch_manifests
    from gitbridge.profile import EVERYTHING
    from gitbridge.revisions import tracked_file

    file = tracked_file(repository, name, os.getcwd())
    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            fetch_manifests(repository, store, [file], None, report=progress, profile=EVERYTHING)
        finally:
            progress.done()
        yield from store.read_file(store.get_manifest(file.manifest_digest), file.manifest_digest)


def _pieces_of_tensor(repository: Repository, name: FileName) -> Iterator[memoryview]:
    from gitbridge.joining import named_model, open_tensors
    from thetastore.errors import NoSuchTensorError

    model = named_model(repository, name, os.getcwd())
    tensor, names = name.tensor or "", tuple(one.name for one in model.tensors(repository))
    if tensor not in names:
        raise NoSuchTensorError(tensor, names)
    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            reader = open_tensors(repository, store, model, [tensor], progress)[tensor]
        finally:
            progress.done()
        yield from (piece for _, piece in reader.pieces(tensor))


def _held_back(pieces: Iterator[memoryview]) -> Iterator[bytes]:
    """Yield pieces one late, so that the last one comes after the digest of the whole was checked."""
    before = b""
    for piece in pieces:
        if before:
            yield before
        before = bytes(piece)
    yield before
