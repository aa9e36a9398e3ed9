"""Small stores with committed versions, and what is done to them."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy

from migrations.upgrading import Step, upgrade
from thetastore.backends import Backend
from thetastore.backends.memory import MemoryBackend
from thetastore.checking.repair import StoreSource, repair
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.descriptor import DESCRIPTOR, VERSION, encode_descriptor, read_descriptor
from thetastore.digest import Digest
from thetastore.errors import BackendError, MalformedError
from thetastore.packs.index import Run
from thetastore.packs.reader import Pack
from thetastore.packs.upkeep import stored_bytes_of
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store
from thetastore.upkeep.repack import repack
from thetastore.versions.history import Versions

WORLD_S = 1.8e9
"""When it all begins, by the clock of the place."""
DAY_S = 86400.0


def model(seed: int, rows: int = 18) -> bytes:
    """Return a small checkpoint; all of them are near each other."""
    weights = numpy.random.default_rng(0).normal(0, 0.02, (rows, 64)).astype(numpy.float32)
    weights[seed % rows] += numpy.float32(seed)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": list(weights.shape), "data_offsets": [0, weights.nbytes]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + weights.tobytes()


class Clock:
    """The clock of a place."""

    def __init__(self) -> None:
        self.now_s = WORLD_S

    def __call__(self) -> float:
        return self.now_s


class World:
    """A store, what was committed to it, and the clock of its place."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend = backend
        self.clock = clock
        self.committed: dict[str, bytes] = {}
        """By ref: the file of its newest version."""

    def commit(self, name: str, content: bytes) -> None:
        """Make a file the newest version of a model, without faults."""
        put(self.backend, name, content)
        self.committed[name] = content


def put(backend: Backend, name: str, content: bytes) -> None:
    """Make a file the newest version of a model, as `thetastore put` does."""
    with Store.at(backend) as store:
        Versions(store).put_stream(name, "model", io.BytesIO(content), Draft(()))


def name_it(store: Store, name: str, digest: Digest) -> None:
    """Let a file be the newest version of a model; nothing where it is that already."""
    refs, files = Refs(store.backend), (RefFile("model", 0, digest),)
    latest = refs.latest(f"models/{name}")
    if latest is None or latest.files != files:
        refs.append(f"models/{name}", lambda _: Draft(files))


def forget(backend: Backend, name: str) -> None:
    """Delete a model, so that a collector may take what it alone needs."""
    Refs(backend).append(f"models/{name}", lambda _: Draft((), is_tombstone=True))


def newest(backend: Backend, name: str) -> Digest | None:
    """Return the manifest of a model's newest version."""
    latest = Refs(backend).latest(f"models/{name}")
    return latest.files[0].manifest_digest if latest is not None and latest.files else None


class Deed(NamedTuple):
    """Something that is done to a store, and tried with faults."""

    name: str
    prepare: Callable[[World], None]
    """Without faults, before."""
    act: Callable[[World, Backend], None]
    """Through a backend that has the faults."""
    is_readable: bool = True
    """Whether the store can be read where it failed: else only once it was done again."""
    brings: Mapping[str, bytes] = MappingProxyType({})
    """What is committed once it reported success."""


def _commit(world: World, backend: Backend) -> None:
    put(backend, "new", model(7))


def _push(world: World, backend: Backend) -> None:
    source = Store.at(MemoryBackend(), create=True)
    digest = source.put_file(io.BytesIO(model(7))).manifest_digest
    source.seal()
    with Store.at(backend) as target:
        target.begin_session()
        source.send_to(target, [digest])
        name_it(target, "new", digest)


def _fetch(world: World, backend: Backend) -> None:
    """Read everything by way of another store, as a clone does; wrong bytes raise."""
    for name, content in world.committed.items():
        with Store.at(backend) as source:
            digest = newest(backend, name)
            assert digest is not None, f"ref {name} is gone, and no error said so"
            here = Store.at(MemoryBackend(), create=True)
            source.send_to(here, [digest])
            here.seal()
            got = b"".join(map(bytes, here.read_file(here.get_manifest(digest), digest)))
            assert got == content, "wrong bytes"


def _repack(world: World, backend: Backend) -> None:
    with Store.at(backend) as store:
        repack(store.objects, store.pool)


def _without_bases(world: World) -> None:
    """Commit models that do not know of each other, so that there is something to repack."""
    for seed in (3, 4, 5):
        world.commit(f"m{seed}", model(seed))
        for directory in ("families", "anchors"):
            for name in list(world.backend.list(directory)):
                world.backend.delete(name)


def _garbage(world: World) -> None:
    """Leave something to collect, at the end of its grace."""
    world.commit("old", model(9))
    forget(world.backend, "old")
    del world.committed["old"]
    world.clock.now_s += 30 * DAY_S
    with Store.at(world.backend) as store:
        collect(store.objects, lambda: roots_of(world.backend), Terms(DAY_S, DAY_S))
    world.clock.now_s += 2 * DAY_S


def _collect(world: World, backend: Backend) -> None:
    with Store.at(backend) as store:
        collect(store.objects, lambda: roots_of(backend), Terms(DAY_S, 0.0))


def _rot(world: World) -> None:
    """Damage the oldest pack, and lose an index run."""
    name = min(world.backend.list("packs"))
    stored = bytearray(world.backend.read(name))
    stored[len(stored) // 2] ^= 1
    world.backend.delete(name)
    world.backend.create(name, bytes(stored))
    world.backend.delete(min(world.backend.list("index")))


def _mend(world: World, backend: Backend) -> None:
    with Store.at(backend) as store:
        repaired = repair(store, None, [StoreSource("a twin", twin)])
        if repaired.lost_count:
            raise BackendError(errno.EIO, "it says that something is still lost", store.url)


def twin() -> Store:
    """Return a store that has what `world_of` commits."""
    return Store.at(world_of(MemoryBackend(), Clock()).backend)


_OLD_DIRECTORIES = {"old-packs": "packs", "old-index": "index"}


def _age(world: World) -> None:
    """Make of the store one of a version that never was, in which packs and runs have other directories."""
    backend = world.backend
    for old, new in _OLD_DIRECTORIES.items():
        for name in list(backend.list(new)):
            backend.create(old + name[len(new) :], backend.read(name))
            backend.delete(name)
    descriptor = read_descriptor(backend)
    backend.delete(DESCRIPTOR)
    backend.create(DESCRIPTOR, encode_descriptor(descriptor._replace(version=VERSION - 1)))


def _pending(backend: Backend) -> Iterator[str]:
    for directory in _OLD_DIRECTORIES:
        yield from sorted(backend.list(directory))


def _proven(name: str, content: bytes) -> bytes:
    """Return what was read, once it has all of its checksums: the older file is about to be deleted."""
    place = MemoryBackend()
    place.create(name, content)
    if name.startswith("packs/"):
        pack = Pack(place.open(name), name)
        for record in pack.table():
            stored_bytes_of(pack, record)
    elif not Run(place.view(name), name).is_intact():
        raise MalformedError(f"'{name}' does not have its checksum")
    return content


def _convert(backend: Backend, name: str) -> None:
    directory, _, rest = name.partition("/")
    new_name = f"{_OLD_DIRECTORIES[directory]}/{rest}"
    try:
        backend.create(new_name, _proven(new_name, backend.read(name)))
    except FileNotFoundError:
        return
    except FileExistsError:
        pass
    backend.delete(name)


def _upgrade(world: World, backend: Backend) -> None:
    upgrade(backend, {VERSION - 1: Step("packs and runs have other directories", "this", _pending, _convert)})


def world_of(backend: Backend, clock: Clock) -> World:
    """Return a store with two versions of one model, and another one, one of them stored as a difference."""
    Store.at(backend, create=True).close()
    world = World(backend, clock)
    world.commit("a", model(1))
    world.commit("a", model(2))
    world.commit("b", b"no tensors at all")
    return world


def _nothing(world: World) -> None:
    pass


BRINGS = {"new": model(7)}
COMMIT = Deed("commit", _nothing, _commit, brings=BRINGS)
PUSH = Deed("push", _nothing, _push, brings=BRINGS)
FETCH = Deed("fetch", _nothing, _fetch)
REPACK = Deed("repack", _without_bases, _repack)
COLLECT = Deed("collect", _garbage, _collect)
MEND = Deed("mend", _rot, _mend, is_readable=False)
UPGRADE = Deed("upgrade", _age, _upgrade, is_readable=False)
NEAR = (COMMIT, PUSH, FETCH, REPACK, COLLECT, MEND, UPGRADE)
FAR = (COMMIT, PUSH, FETCH, COLLECT, UPGRADE)
