"""What a store has lost, and which tensors and rows of which files that is.

Three things tell of an object that it was there: a pack that holds a damaged record of it, an index run that covers a
pack which is gone, and a suspicion that somebody left (`suspects/`). What merely is not there is no loss: clones keep
parts of files, too.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple

from thetastore.bases.candidates import TensorMap
from thetastore.digest import Digest, Kind
from thetastore.errors import (
    FileUnreadableError,
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.manifest import Chunk, Manifest, Tensor, parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.packs.catalog import id_of, records_of
from thetastore.packs.writer import sealed_name
from thetastore.representations.suspects import list_suspects

_TIED = 8
"""So many tensors at one place are told as one run of rows each."""


class Hole(NamedTuple):
    """Bytes of a file that cannot be had."""

    manifest_digest: Digest
    offset: int
    raw_bytes: int
    digest: Digest
    kind: Kind
    """Chunk; or page, which is lost with all that it lists; or manifest, of which nothing is known then."""
    dtype: str | None
    """Of the tensor that a chunk is of."""


class LostPart(NamedTuple):
    """What is lost of one file, in the words of its user."""

    manifest_digest: Digest
    tensor: str | None
    """None for bytes between tensors, or for a file of which nothing is known."""
    first_row: int
    stop_row: int
    """Rows are along the first axis; both are 0 where there is none."""
    row_count: int
    raw_bytes: int

    def __str__(self) -> str:
        if not self.raw_bytes:
            return "all of it, as its manifest is lost"
        if self.tensor is None:
            return f"{self.raw_bytes} bytes that belong to no tensor"
        if (self.first_row, self.stop_row) == (0, self.row_count):
            return f"tensor '{self.tensor}'"
        last = self.stop_row - 1
        rows = f"row {last}" if last == self.first_row else f"rows {self.first_row} to {last}"
        return f"tensor '{self.tensor}', {rows} of {self.row_count}"


def lost_objects(objects: Objects, found: Iterable[Digest] = (), torn: Container[str] = frozenset()) -> set[Digest]:
    """Return the objects that were there and cannot be had any more, with all that stands on them.

    Args:
        objects: of the store, whose catalog is up to date.
        found: objects that may be lost: those that can be had are left out.
        torn: file names of packs that do not hold all that they held: what the index says of them may be lost.
    """
    snapshot = objects.catalog.snapshot()
    candidates = {*found, *list_suspects(objects.backend)}
    lost_packs = snapshot.lost - snapshot.in_trash
    for run in snapshot.runs:
        names = [sealed_name(pack.id) for pack in run.packs]
        numbers = {number for number, name in enumerate(names) if name in lost_packs or name in torn}
        if numbers:
            candidates.update(row.digest for number, row in run.rows() if number in numbers)
    lost = {digest for digest in candidates if not is_readable(objects, digest)}
    lost |= _below(objects, lost)
    return lost | _standing_on(objects, lost) if lost else lost


def _below(objects: Objects, lost: Iterable[Digest]) -> set[Digest]:
    """Return what lost objects that have a record stand on, and that is lost itself."""
    found: set[Digest] = set()
    waiting = list(lost)
    while waiting:
        try:
            bases = objects.entry(waiting.pop()).bases
        except ThetaError:
            continue
        new = {base for base in bases if base not in found and not is_readable(objects, base)}
        found |= new
        waiting += new
    return found


def is_readable(objects: Objects, digest: Digest) -> bool:
    """Tell whether some record gives an object, or may give it to a newer version.

    Raises:
        BackendError: nobody knows, as the place does not answer.
    """
    try:
        kind = objects.entry(digest).kind
        if isinstance(kind, Kind):
            objects.representations.get(kind, digest)
    except (ObjectMissingError, ObjectCorruptError, FileUnreadableError):
        return False
    except UnsupportedError:
        pass  # not ours to judge
    return True


def _standing_on(objects: Objects, lost: Collection[Digest]) -> set[Digest]:
    """Return what has only records that stand on lost objects, or on such that do."""
    standing: dict[Digest, list[tuple[Digest, ...]]] = {}
    snapshot = objects.catalog.snapshot()
    for name in sorted(snapshot.packs):
        try:
            entries = [record.entry for record in records_of(objects.packs.get(name))]
        except (FileNotFoundError, MalformedError, UnsupportedError, FileUnreadableError):
            continue
        for entry in entries:
            if entry.bases:
                standing.setdefault(entry.digest, []).append(entry.bases)
    gone = set(lost)
    while True:
        new = {
            digest
            for digest, ways in standing.items()
            if digest not in gone
            and all(not gone.isdisjoint(bases) for bases in ways)
            and not is_readable(objects, digest)
        }
        if not new:
            return gone
        gone |= new


def manifests_of(objects: Objects) -> list[Digest]:
    """Return the manifests that a store holds, in the order in which they were written."""
    found: dict[Digest, None] = {}
    snapshot = objects.catalog.snapshot()
    for name in sorted(snapshot.packs | snapshot.incoming, key=id_of):
        try:
            records = records_of(objects.packs.get(name))
        except (FileNotFoundError, MalformedError, UnsupportedError, FileUnreadableError):
            continue
        found.update((record.entry.digest, None) for record in records if record.entry.kind == Kind.MANIFEST)
    return list(found)


def holes_of(objects: Objects, manifest_digest: Digest, lost: Container[Digest]) -> Iterator[Hole]:
    """Yield what of a file is among lost objects; a manifest or page that cannot be read is one hole."""
    try:
        manifest = parse_manifest(objects.representations.get(Kind.MANIFEST, manifest_digest))
    except ThetaError:
        if manifest_digest in lost:
            yield Hole(manifest_digest, 0, 0, manifest_digest, Kind.MANIFEST, None)
        return
    offset, tensors = 0, TensorMap(manifest.tensors)
    for chunks, raw_bytes, page_digest in _pieces(objects, manifest):
        if chunks is None:
            if page_digest in lost:
                yield Hole(manifest_digest, offset, raw_bytes, page_digest, Kind.PAGE, None)
            offset += raw_bytes
            continue
        for chunk in chunks:
            if chunk.digest in lost:
                tensor = tensors.at(offset, chunk.raw_bytes)
                dtype = None if tensor is None else tensor.dtype
                yield Hole(manifest_digest, offset, chunk.raw_bytes, chunk.digest, Kind.CHUNK, dtype)
            offset += chunk.raw_bytes


def _pieces(objects: Objects, manifest: Manifest) -> Iterator[tuple[tuple[Chunk, ...] | None, int, Digest]]:
    """Yield the chunks of a manifest page by page, None for those of a page that cannot be read."""
    if manifest.chunks:
        yield manifest.chunks, 0, manifest.chunks[0].digest
    for page in manifest.pages:
        try:
            yield parse_page(objects.representations.get(Kind.PAGE, page.digest), page), page.raw_bytes, page.digest
        except ThetaError:
            yield None, page.raw_bytes, page.digest


def parts_lost(tensors: Iterable[Tensor], holes: Iterable[Hole]) -> list[LostPart]:
    """Return which rows of which tensors holes of one file take away, in order; neighbours are put together."""
    waiting = sorted(tensors, key=lambda tensor: tensor.offset, reverse=True)
    near: list[Tensor] = []
    parts: list[LostPart] = []
    for hole in sorted(holes, key=lambda hole: hole.offset):
        end = hole.offset + hole.raw_bytes
        while waiting and waiting[-1].offset < end:
            near.append(waiting.pop())
        near = [tensor for tensor in near if tensor.offset + _extent(tensor) > hole.offset]
        named = [_part(hole, tensor) for tensor in near]
        for part in named or [LostPart(hole.manifest_digest, None, 0, 0, 0, hole.raw_bytes)]:
            _take_in(parts, part)
    return parts


def _extent(tensor: Tensor) -> int:
    """Return how many bytes of the file a tensor reaches over, one at least."""
    if tensor.strides is None:
        return max(tensor.raw_bytes, 1)
    steps = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True) if n)
    element_count = 1
    for n in tensor.shape:
        element_count *= n
    return max((steps + 1) * (tensor.raw_bytes // max(element_count, 1)), 1)


def _part(hole: Hole, tensor: Tensor) -> LostPart:
    """Return the rows of a tensor that a hole touches: all of them where they do not lie one after the other."""
    rows = tensor.shape[0] if tensor.shape else 0
    start = max(hole.offset, tensor.offset)
    stop = min(hole.offset + hole.raw_bytes, tensor.offset + _extent(tensor))
    if not rows or tensor.strides is not None or not tensor.raw_bytes:
        return LostPart(hole.manifest_digest, tensor.name, 0, rows, rows, stop - start)
    first = (start - tensor.offset) * rows // tensor.raw_bytes
    last = -(-(stop - tensor.offset) * rows // tensor.raw_bytes)
    return LostPart(hole.manifest_digest, tensor.name, first, last, rows, stop - start)


def _take_in(parts: list[LostPart], part: LostPart) -> None:
    """Add a part, to one of the last ones where it goes on there; several tensors may lie at one place."""
    for at in range(len(parts) - 1, max(len(parts) - _TIED, 0) - 1, -1):
        before = parts[at]
        if before.tensor == part.tensor and (part.tensor is None or part.first_row <= before.stop_row):
            stop_row, raw_bytes = max(before.stop_row, part.stop_row), before.raw_bytes + part.raw_bytes
            parts[at] = before._replace(stop_row=stop_row, raw_bytes=raw_bytes)
            return
    parts.append(part)
