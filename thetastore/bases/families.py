"""The family table: which manifests of a store have mostly the same tensors, by name, dtype and shape.

It answers one question, at a cost that does not depend on how many models a store has: against which models might
a new one be a difference? A model is filed under two keys, the smallest and the largest checksum among its tensors'
descriptions, so two models share a key with the probability that a tensor of either is in both (MinHash): an
extended vocabulary changes two tensors of some hundreds, and is still found. A key keeps its first few models only:
of a thousand fine-tunes the first and its like are as good a base as any. A third key leaves the names out: it is for
where the others lead nowhere, since whoever saved the file may call everything otherwise.

Everything here is a hint. What is wrong, missing or hostile in it costs a guess; `docs/format/store.md` has the names.

Source: A. Broder, "On the resemblance and containment of documents" (1997).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from math import prod
from typing import Protocol

import xxhash

from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.dtypes import raw_bytes_of
from thetastore.errors import BackendError, MalformedError
from thetastore.packs.writer import new_id
from thetastore.pool import Pool

MOST_KEYS = 7
"""Under which a model is filed."""
MOST_MEMBERS = 8
"""A key's models; above that, nothing is added."""
LEAST_FAMILY_BYTES = 256 << 10
"""Smaller models are not worth the two files."""
LEAST_TENSOR_BYTES = 4096
"""Shorter tensors say little."""
_NAME_LENGTH = 32 + 1 + 64


class Described(Protocol):
    """A tensor, of a layout or of a manifest."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> str:
        """Name of its element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""


def nbytes_of(tensor: Described) -> int:
    """Return the length of a tensor."""
    return raw_bytes_of(tensor.dtype, prod(tensor.shape))


def family_keys(tensors: Iterable[Described]) -> tuple[str, ...]:
    """Return the keys of a model; none where it is too small. 1.5 us a tensor."""
    checksums = _checksums(tensors, lambda tensor: f"{tensor.dtype} {tensor.shape} {tensor.name}")
    return tuple(sorted({min(checksums), max(checksums)})) if checksums else ()


def form_keys(tensors: Iterable[Described]) -> tuple[str, ...]:
    """Return the key of a model whatever its tensors are called; none where it is too small."""
    checksums = _checksums(tensors, lambda tensor: f"{tensor.dtype} {tensor.shape}")
    return (min(checksums),) if checksums else ()


def _checksums(tensors: Iterable[Described], describe: Callable[[Described], str]) -> list[str]:
    """Return those of what describes each tensor that counts; none for a model that is too small."""
    total_bytes = 0
    checksums = []
    for tensor in tensors:
        raw_bytes = nbytes_of(tensor)
        if raw_bytes >= LEAST_TENSOR_BYTES:
            total_bytes += raw_bytes
            checksums.append(xxhash.xxh3_128_hexdigest(describe(tensor).encode("utf-8", "surrogateescape")))
    return checksums if total_bytes >= LEAST_FAMILY_BYTES else []


def find_relatives(backend: Backend, keys: Iterable[str]) -> list[Digest]:
    """Return manifests that were filed under these keys: under most of them first, then the oldest."""
    return find_each(backend, (tuple(keys),))[0]


def find_each(backend: Backend, groups: Sequence[Sequence[str]]) -> list[list[Digest]]:
    """Return what `find_relatives` does for each of several groups of keys; from a far store all come at once."""
    _expect(backend, chain.from_iterable(groups))
    return [_found(backend, keys) for keys in groups]


def _found(backend: Backend, keys: Sequence[str]) -> list[Digest]:
    ages: dict[Digest, str] = {}
    shared: dict[Digest, int] = {}
    for key in keys:
        for name in _members(backend, key):
            try:
                digest = Digest.parse(name[33:])
            except MalformedError:
                continue
            shared[digest] = shared.get(digest, 0) + 1
            ages[digest] = min(ages.get(digest, name), name)
    return sorted(shared, key=lambda digest: (-shared[digest], ages[digest]))


def register(backend: Backend, keys: Iterable[str], manifest_digest: Digest) -> None:
    """File a manifest under its keys, where there is room; a store that cannot be written to is no error."""
    keys = tuple(keys)
    _expect(backend, keys)
    names = [
        f"families/{key}/{new_id()}-{manifest_digest}"
        for key in keys
        if _has_room(_members(backend, key), manifest_digest)
    ]
    with Pool(MOST_KEYS) as pool:  # far away, each is a round trip
        for _ in pool.map_bounded(partial(_create, backend), names, lambda _: not backend.is_remote):
            pass


def _has_room(members: Sequence[str], manifest_digest: Digest) -> bool:
    """Tell whether a manifest may be filed beside others, and is not among them."""
    return len(members) < MOST_MEMBERS and not any(name.endswith(str(manifest_digest)) for name in members)


def _create(backend: Backend, name: str) -> None:
    try:
        # Waiting until the disk has it would take 5 ms and more, for a thousand models a thousand times.
        backend.create(name, b"", durable=False)
    except (BackendError, FileExistsError):
        pass


def _expect(backend: Backend, keys: Iterable[str]) -> None:
    """Have a far store begin to list the members of all keys."""
    for key in keys:
        backend.expect_list(f"families/{key}")


def _members(backend: Backend, key: str) -> list[str]:
    """Return the names filed under a key, the oldest first."""
    names = (name.rpartition("/")[2] for name in backend.list(f"families/{key}"))
    return sorted(name for name in names if len(name) == _NAME_LENGTH)[:MOST_MEMBERS]
