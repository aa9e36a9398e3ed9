"""Differences and copies that no writer makes, in a project's store: what Git and the commands say of them."""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes
from work_place import WorkPlace, environment_in

from thetastore import codecs
from thetastore.backends.directory import DirectoryBackend
from thetastore.codecs.copies import LITERAL_CODECS
from thetastore.digest import Buffer, Kind, checksum_of, digest_of
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.packs.upkeep import Upkeep
from thetastore.packs.writer import PackWriter

SHAPE = (512, 256)
ROW_BYTES = 4 * SHAPE[1]

Record = tuple[Entry, bytes]


def weights(seed: int, rows: int = SHAPE[0]) -> bytes:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, SHAPE[1])).astype(np.float32).tobytes()


def moved(raw: bytes) -> bytes:
    return (np.frombuffer(raw, np.float32) * np.float32(1.0001)).tobytes()


def record(raw: bytes, codec: str, stored: Buffer, bases: tuple[bytes, ...] = (), depth: int = 0) -> Record:
    """Return a record as it would be made by somebody without limits; `bases` are their bytes."""
    stored = bytes(stored)
    names = tuple(map(digest_of, bases))
    entry = Entry(Kind.CHUNK, digest_of(raw), codec, b"", len(raw), len(stored), names, depth, checksum_of(stored))
    return entry, stored


def alone(raw: bytes) -> Record:
    coded = codecs.encode(raw, "float32")
    return record(raw, coded.codec, coded.stored)


def delta(raw: bytes, base: bytes, depth: int = 1, named: bytes | None = None) -> Record:
    """Return a difference between two chunks, under the name of another one if that is given."""
    coded = codecs.encode_difference(raw, base, "float32")
    assert coded is not None
    entry, stored = record(raw, coded.codec, coded.stored, (base,), depth)
    return entry._replace(params=coded.params, digest=digest_of(named or raw)), stored


def copies(raw: bytes, ranges: list[tuple[int, int, int, int]], patches: list[tuple[int, int]], base: bytes) -> Record:
    """Return copies as they are written down, whatever they say."""
    literals = b"".join(raw[start : start + nbytes] for start, nbytes in patches)
    coded = codecs.encode(literals, "float32")
    header = struct.pack(
        "<BBBBHHI", 0, min(len(ranges), 255), LITERAL_CODECS.index(coded.codec), 0, len(patches), 0, len(raw)
    )
    rows = b"".join(struct.pack("<IIII", *one) for one in ranges) + b"".join(
        struct.pack("<II", *one) for one in patches
    )
    return record(raw, "copies", header + rows + bytes(coded.stored), (base,), 1)


def ranges_of(count: int, nbytes: int = 4096) -> list[tuple[int, int, int, int]]:
    return [(number * nbytes, nbytes, 0, number * nbytes) for number in range(count)]


def chain(raw: bytes, length: int) -> list[Record]:
    """Return a chunk on top of so many others, each as deep as may be written down."""
    raws = [alter(raw, number) for number in reversed(range(length + 1))]
    records = [alone(raws[0])]
    for depth, (base, top) in enumerate(itertools.pairwise(raws), 1):
        records.append(delta(top, base, min(depth, MAX_DEPTH)))
    return records


def alter(raw: bytes, number: int) -> bytes:
    """Return a chunk nearby; itself for 0."""
    values = np.frombuffer(raw, np.uint32).copy()
    values[:100] += np.uint32(number)
    return values.tobytes()


def damaged(made: Record) -> Record:
    entry, stored = made
    return entry, stored[:-1] + bytes([stored[-1] ^ 1])


RAW, BASE = weights(1), weights(2)
TOO_DEEP = "too deep or too long"
"""What a check says where a read says which depth."""
CASES: dict[str, tuple[Callable[[bytes], list[Record]], str]] = {
    "a base that is gone": (lambda raw: [delta(raw, moved(raw))], "is not in"),
    "a base that is corrupt": (
        lambda raw: [damaged(alone(moved(raw))), delta(raw, moved(raw))], "do not have their checksum",
    ),
    "a base that gives other bytes": (
        lambda raw: [(alone(BASE)[0]._replace(digest=digest_of(moved(raw))), alone(BASE)[1]), delta(raw, moved(raw))],
        "have another digest",
    ),
    "a base of another length": (lambda raw: with_base_of(raw, moved(raw)[: -ROW_BYTES]), "bytes"),
    "a cycle": (lambda raw: [delta(moved(raw), raw, 1), delta(raw, moved(raw), 2)], "not below 1"),
    "a base as deep": (
        lambda raw: [alone(alter(raw, 2)), delta(alter(raw, 1), alter(raw, 2), 3), delta(raw, alter(raw, 1), 3)],
        "not below 3",
    ),
    "too deep a chain": (lambda raw: chain(raw, MAX_DEPTH + 1), f"not below {MAX_DEPTH}"),
    "a difference that gives other bytes": (
        lambda raw: [alone(moved(raw)), delta(alter(raw, 5), moved(raw), named=raw)], "another digest",
    ),
    "copies out of range": (
        lambda raw: [alone(raw[:8192]), copies(raw, [(0, 8192, 0, 4096)], [(8192, len(raw) - 8192)], raw[:8192])],
        "which has 8192",
    ),
    "copies that overlap": (
        lambda raw: [alone(BASE), copies(raw, [(0, 8192, 0, 0), (4096, len(raw) - 4096, 0, 4096)], [], BASE)],
        "a range of",
    ),
    "copies that leave a hole": (
        lambda raw: [alone(moved(raw)), copies(raw, [(0, 8192, 0, 0)], [], moved(raw))], "do not say what",
    ),
    "a hundred ranges": (
        lambda raw: [alone(moved(raw)), copies(raw, ranges_of(100), [(409600, len(raw) - 409600)], moved(raw))],
        "100 ranges",
    ),
    "a thousand patches of one byte": (
        lambda raw: [
            alone(BASE), copies(raw, [(0, len(raw), 0, 0)], [(2 * n, 1) for n in range(1000)], BASE),
        ],
        "1000 patches",
    ),
}  # fmt: skip
"""What stands in the store instead of the model's chunk, and what is said of it."""


def with_base_of(raw: bytes, base: bytes) -> list[Record]:
    entry, stored = delta(raw, moved(raw))
    return [alone(base), (entry._replace(bases=(digest_of(base),)), stored)]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> WorkPlace:
    path = tmp_path_factory.mktemp("hostile")
    home, repository = path / "home", path / "project"
    home.mkdir()
    repository.mkdir()
    work = WorkPlace(repository, environment_in(home))
    work.git("init", "-q")
    work.theta("track", "*.safetensors")
    values = np.frombuffer(RAW, np.float32).reshape(SHAPE)
    work.write("model.safetensors", safetensors_bytes({"layer.weight": values}))
    work.git("add", ".")
    work.git("commit", "-q", "-m", "a model")
    return work


@pytest.fixture
def hostile(project, tmp_path) -> Callable[[list[Record]], WorkPlace]:
    """Return what makes a project whose store holds these records, in this order, instead of the model's chunk."""

    def make(records: list[Record]) -> WorkPlace:
        work = WorkPlace(Path(shutil.copytree(project.path, tmp_path / "project")), project.environment)
        store = work.path / ".git/theta"
        with Objects(DirectoryBackend(str(store))) as objects:
            held = [
                one.entry for name in objects.catalog.snapshot().packs for one in records_of(objects.packs.get(name))
            ]
            others = [objects.representations.stored(entry.digest) for entry in held if entry.digest != digest_of(RAW)]
            others = [(entry, bytes(stored)) for entry, stored in others]
        shutil.rmtree(store / "packs")
        shutil.rmtree(store / "index")
        backend = DirectoryBackend(str(store))
        writer = PackWriter.new(backend)
        for entry, stored in others + records:
            writer.append(entry, stored)
        with Objects(backend) as objects:
            Upkeep(backend, objects.catalog, objects.packs, 1 << 30).settle([writer])
        writer.close()
        (work.path / "model.safetensors").unlink()
        return work

    return make


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_the_object_the_file_and_the_tensor_named(case, hostile) -> None:
    make, words = CASES[case]
    work = hostile(make(RAW))

    checkout = work.run("git", "checkout", "--", "model.safetensors", check=False)
    fsck = work.theta("fsck", check=False)
    verify = work.run("thetastore", "verify", ".git/theta", check=False)
    print(
        f"== {case}",
        checkout.returncode,
        checkout.stderr,
        "== fsck",
        fsck.returncode,
        fsck.stdout,
        fsck.stderr,
        "== verify",
        verify.returncode,
        verify.stdout,
        verify.stderr,
        sep="\n",
    )

    assert (checkout.returncode, fsck.returncode, verify.returncode) == (128, 1, 1)
    for said in (checkout.stderr, fsck.stdout, verify.stdout):
        assert str(digest_of(RAW))[:16] in said
        assert "layer.weight" in said
        assert words in said or (TOO_DEEP in said and "not below" in words)
    assert "'model.safetensors'" in checkout.stderr
    assert "'model.safetensors'" in fsck.stdout


@pytest.mark.parametrize("case", CASES)
def test_where_another_representation_exists_it_is_used(case, hostile) -> None:
    work = hostile([*CASES[case][0](RAW), alone(RAW)])

    work.git("checkout", "--", "model.safetensors")

    assert RAW in (work.path / "model.safetensors").read_bytes()
