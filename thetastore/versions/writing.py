"""Files of a version onto a disk: whole ones, byte for byte, or some tensors as a safetensors file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from thetastore.digest import new_hasher
from thetastore.errors import BackendError, MalformedError, NoSuchTensorError
from thetastore.open_file import Replacing
from thetastore.ref_entries import Entry, RefFile, check_path
from thetastore.selection import Globs, glob_wants
from thetastore.store import Store
from thetastore.tables import size_text

if TYPE_CHECKING:
    from thetastore.checkpoints.compose import NewTensor
    from thetastore.checkpoints.tensors import TensorReader

_READ_BYTES = 1 << 20
Report = Callable[[int, int], None]


class Written(NamedTuple):
    """What became of a file."""

    place: str
    file_bytes: int
    is_new: bool
    """Whether it was written, and not there with the right bytes already."""


class Part(NamedTuple):
    """Some tensors, as a file."""

    place: str
    file_bytes: int
    tensor_count: int
    of_count: int


def chosen_files(entry: Entry, globs: Sequence[str]) -> list[RefFile]:
    """Return the files of a version whose paths match any of some globs; all where there are none.

    Raises:
        MalformedError: none matches.
    """
    wants = glob_wants(globs) if globs else None
    files = [file for file in entry.files if wants is None or wants(file.path)]
    if not files:
        paths = ", ".join(f"'{file.path}'" for file in entry.files[:5])
        raise MalformedError(f"no file matches '{globs[0]}'; there are {paths}")
    return files


def write_files(
    store: Store,
    files: Sequence[RefFile],
    places: Sequence[str],
    is_forced: bool,
    say: Callable[[Written], None] | None = None,
    report: Report | None = None,
) -> list[Written]:
    """Write files, each whole and verified or not at all. What is there with the right bytes stays as it is.

    Args:
        store: where they are.
        files: of a version.
        places: where each goes; see `places_below`.
        is_forced: whether files that have other bytes are replaced.
        say: called after each file.
        report: called with the bytes written so far and the bytes to write.

    Raises:
        FileExistsError: a file is there that has other bytes; nothing was written.
        BackendError: there is no room for them (`ENOSPC`); nothing was written.
        ObjectMissingError, ObjectCorruptError: a file cannot be had; those before it were written.
    """
    manifests = [store.get_manifest(file.manifest_digest) for file in files]
    kept = [
        os.path.lexists(place) and _has(place, manifest.file_bytes, manifest.file_digest)
        for place, manifest in zip(places, manifests, strict=True)
    ]
    for place, is_kept in zip(places, kept, strict=True):
        if not is_kept and not is_forced and os.path.lexists(place):
            raise FileExistsError(None, "it exists with other bytes: --force replaces it", place)
    missing = (manifest for manifest, is_kept in zip(manifests, kept, strict=True) if not is_kept)
    total_bytes = sum(manifest.file_bytes for manifest in missing)
    check_room(places[0] if places else os.curdir, total_bytes)
    counted = _counting(report, total_bytes)
    written = []
    for file, manifest, place, is_kept in zip(files, manifests, places, kept, strict=True):
        if not is_kept:
            os.makedirs(os.path.dirname(place) or os.curdir, exist_ok=True)
            with Replacing(place) as descriptor:
                store.write_file(manifest, file.manifest_digest, descriptor, counted)
        written.append(Written(place, manifest.file_bytes, not is_kept))
        if say:
            say(written[-1])
    return written


def check_room(place: str, nbytes: int) -> None:
    """Refuse what cannot fit: a store of some kilobytes may name a file of petabytes.

    Raises:
        BackendError: `ENOSPC`, before anything is written.
    """
    directory = os.path.dirname(os.path.abspath(place))
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    found = os.statvfs(directory)
    free_bytes = found.f_bavail * found.f_frsize
    if nbytes > free_bytes:
        words = f"there is no room: it takes {size_text(nbytes)}, and {size_text(free_bytes)} are free"
        raise BackendError(errno.ENOSPC, words, place)


def _counting(report: Report | None, total_bytes: int) -> Callable[[int], None]:
    """Return what takes the bytes of each piece, and reports the sum."""
    done_bytes = 0

    def count(nbytes: int) -> None:
        nonlocal done_bytes
        done_bytes += nbytes
        if report is not None:
            report(done_bytes, total_bytes)

    return count


def places_below(directory: str, files: Sequence[RefFile]) -> list[str]:
    """Return where files go, below a directory.

    Raises:
        MalformedError: one of them would come to lie outside, by its path or through a link.
    """
    root = os.path.realpath(directory)
    places = []
    for file in files:
        check_path(file.path)
        place = os.path.join(directory, file.path)
        if os.path.commonpath([root, os.path.realpath(place)]) != root:
            raise MalformedError(f"'{place}' leads out of '{directory}'")
        places.append(place)
    return places


def write_part(
    store: Store, files: Sequence[RefFile], globs: Sequence[str], place: str, report: Report | None = None
) -> Part:
    """Write the tensors that match any of some globs as one safetensors file; only their chunks are read.

    Types that safetensors lacks become bytes. `report` is called as by `write_files`.

    Raises:
        NoSuchTensorError: a glob matches none; says which names are near.
        BackendError: there is no room for them (`ENOSPC`).
    """
    from thetastore.checkpoints.compose import safetensors_source

    readers = readers_of(store, files)
    places: dict[str, TensorReader] = {}
    for reader in readers:
        for tensor in reader.manifest.tensors:
            places.setdefault(tensor.name, reader)
    wanted = {name for glob in globs for name in _matching(glob, tuple(places))}
    metadata = {"format": "pt", "theta.tensors": f"{len(wanted)} of {len(places)}"}
    counted = _counting(report, sum(places[name].tensor(name).raw_bytes for name in wanted))
    source = safetensors_source([_new_tensor(places[name], name, counted) for name in sorted(wanted)], metadata)
    check_room(place, source.file_bytes)
    with Replacing(place) as descriptor:
        source.write_to(descriptor)
    return Part(place, source.file_bytes, len(wanted), len(places))


def readers_of(store: Store, files: Sequence[RefFile]) -> list[TensorReader]:
    """Return what reads the tensors of each file; manifests come together where the store is far away.

    Files that name tensors in others are joined with these.

    Raises:
        MalformedError: they do not belong together, or one is missing.
    """
    from thetastore.checkpoints.joining import joined

    digests = [file.manifest_digest for file in files]
    manifests = store.pool.map_bounded(store.get_manifest, digests, lambda _: not store.backend.is_remote)
    readers = [store.tensors(manifest, digest) for manifest, digest in zip(manifests, digests, strict=True)]
    return joined(readers, [file.path for file in files])


def _matching(glob: str, names: tuple[str, ...]) -> list[str]:
    wants = Globs([glob])
    found = [name for name in names if name == glob or wants(name)]
    if not found:
        raise NoSuchTensorError(glob, names, is_pattern=True)
    return found


def _new_tensor(reader: TensorReader, name: str, counted: Callable[[int], None]) -> NewTensor:
    from thetastore.checkpoints.compose import NewTensor, nearest_type

    tensor = reader.tensor(name)

    def pieces() -> Iterator[memoryview]:
        for _, piece in reader.pieces(name):
            yield piece
            counted(len(piece))

    return NewTensor(name, *nearest_type(tensor.dtype, tensor.shape), pieces)


def _has(place: str, file_bytes: int, digest: bytes) -> bool:
    """Tell whether a file is there with these bytes."""
    if not os.path.isfile(place) or os.path.getsize(place) != file_bytes:
        return False
    hasher = new_hasher()
    with open(place, "rb") as stream:
        while piece := stream.read(_READ_BYTES):
            hasher.update(piece)
    return hasher.digest() == digest
