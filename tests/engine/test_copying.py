"""Weights that were moved, joined or split take next to nothing in a store, and come back as they were."""

from __future__ import annotations

import io
import json
import os
import struct

import numpy as np
import pytest

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.codecs import encode_copies
from thetastore.codecs.copies import Patch, Range, Recipe
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError
from thetastore.objects import Objects
from thetastore.packs.records import Entry
from thetastore.representations.copying import MISSES_A_LOOK
from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

WIDTH = 712
Weights = dict[str, np.ndarray]


def drawn(*shape: int, seed: int = 1) -> np.ndarray:
    bits = (np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def file_of(weights: Weights) -> bytes:
    """Return bfloat16 weights as safetensors."""
    header, offset = {}, 0
    for name, tensor in weights.items():
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in weights.values())


def bytes_below(path: str) -> int:
    return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(path) for name in names)


def put(path: str, raw: bytes) -> Digest:
    """Store a file, as a process of its own would."""
    with Store.open(path, create=True) as store:
        return store.put_file(io.BytesIO(raw)).manifest_digest


def got(path: str, digest: Digest) -> bytes:
    with Store.open(path) as store:
        return b"".join(bytes(view) for view in store.read_file(store.get_manifest(digest), digest))


def entries_of(path: str, digest: Digest) -> list[Entry]:
    with Store.open(path) as store:
        chunks = iter_chunks(store.objects, store.get_manifest(digest))
        return [store.objects.entry(placed.chunk.digest) for placed in chunks]


def base() -> Weights:
    names = ["q", "k", "v", "o"]
    return {"embed": drawn(3001, WIDTH)} | {name: drawn(WIDTH, WIDTH, seed=ord(name)) for name in names}


def with_rows(weights: Weights, row: int, rows: int) -> Weights:
    parts = [weights["embed"][:row], drawn(rows, WIDTH, seed=77), weights["embed"][row:]]
    return weights | {"embed": np.concatenate(parts)}


CASES = {
    "a row inserted": lambda weights: with_rows(weights, 1700, 1),
    "rows put before": lambda weights: with_rows(weights, 0, 3),
    "fused": lambda weights: {"qkv": np.concatenate([weights[name] for name in "qkv"])},
    "split": lambda weights: {f"embed {n}": part for n, part in enumerate(np.array_split(weights["embed"], 2))},
    "flat": lambda weights: {"flat": np.concatenate([tensor.reshape(-1) for tensor in weights.values()])},
}


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "store")


@pytest.mark.parametrize("case", CASES)
def test_what_was_moved_joined_or_split_takes_a_fiftieth_and_comes_back(case, path) -> None:
    put(path, file_of(base()))
    before = bytes_below(path)
    raw = file_of(CASES[case](base()))

    digest = put(path, raw)

    assert bytes_below(path) - before < 0.02 * len(raw) + 4096
    assert got(path, digest) == raw
    entries = entries_of(path, digest)
    assert any(entry.codec == "copies" for entry in entries)
    assert max(entry.depth for entry in entries) <= 2


def test_a_file_finds_copies_in_one_that_was_stored_just_before(path) -> None:
    raws = [file_of(base()), file_of(CASES["flat"](base()))]
    with Store.open(path, create=True) as store:
        digests = [store.put_file(io.BytesIO(raw)).manifest_digest for raw in raws]

    assert [got(path, digest) for digest in digests] == raws
    assert bytes_below(path) < 0.72 * len(raws[0])


def test_copies_that_begin_late_in_a_long_new_file_are_found_nevertheless(path) -> None:
    put(path, file_of(base()))
    new = {f"new {n}": drawn(80, WIDTH, seed=1000 + n) for n in range(40)}
    parts = {f"part {n}": part for n, part in enumerate(np.array_split(base()["embed"], 20))}

    digest = put(path, file_of(new | parts))

    codecs = [entry.codec for entry in entries_of(path, digest)]
    assert codecs[1:41] == ["planes"] * 40
    assert codecs[41:].count("copies") >= 20 - MISSES_A_LOOK
    assert codecs[-10:] == ["copies"] * 10
    assert got(path, digest) == file_of(new | parts)


def test_after_many_new_chunks_the_one_copy_of_a_file_is_found_since_the_chunks_before_it_are_there(path) -> None:
    stranger = {f"new {n}": drawn(80, WIDTH, seed=1000 + n) for n in range(33)}
    raws = [file_of(weights) for weights in (base(), stranger, with_rows(base(), 3001, 16))]
    with Store.open(path, create=True) as store:
        digest = [store.put_file(io.BytesIO(raw)).manifest_digest for raw in raws][-1]

    assert [entry.codec for entry in entries_of(path, digest)].count("copies") == 1
    assert got(path, digest) == raws[-1]


def test_copies_of_copies_stay_within_the_depth(path) -> None:
    weights = base()
    for step in range(5):
        weights = with_rows(weights, 100 * step, 1)
        raw = file_of(weights)
        digest = put(path, raw)

        assert got(path, digest) == raw
        assert max(entry.depth for entry in entries_of(path, digest)) <= 2


def damaged_anchors(path: str) -> list[str]:
    folder = os.path.join(path, "anchors")
    return [os.path.join(folder, name) for name in os.listdir(folder)]


@pytest.mark.parametrize("damage", [b"", b"rubbish" * 100, None])
def test_a_damaged_or_missing_table_costs_copies_and_nothing_else(damage, path) -> None:
    first = file_of(base())
    digests = [put(path, first)]
    for name in damaged_anchors(path):
        os.chmod(name, 0o600)
        if damage is None:
            os.remove(name)
        else:
            with open(name, "wb") as file:
                file.write(damage)
    second = file_of(CASES["flat"](base()))

    digests.append(put(path, second))

    assert [got(path, digest) for digest in digests] == [first, second]
    assert not any(entry.codec == "copies" for entry in entries_of(path, digests[1]))


def test_a_table_that_cannot_be_written_fails_nothing(path) -> None:
    Store.open(path, create=True).close()
    with open(os.path.join(path, "anchors"), "wb"):
        pass  # a file where the directory should be
    raw = file_of(base())

    assert got(path, put(path, raw)) == raw


def test_another_store_gets_what_copies_need_or_gets_them_coded_again(path, tmp_path) -> None:
    raws = [file_of(base()), file_of(CASES["fused"](base()))]
    digests = [put(path, raw) for raw in raws]
    for name, wanted in {"both": digests, "the second": digests[1:]}.items():
        other = str(tmp_path / name)
        with Store.open(path) as store, Store.open(other, create=True) as target:
            store.send_to(target, wanted)

        assert [got(other, digest) for digest in wanted] == [raws[digests.index(digest)] for digest in wanted]
        with Store.open(other) as target:
            assert not target.missing_objects(wanted)


def test_a_store_finds_copies_in_what_it_got_from_another(path, tmp_path) -> None:
    first, second = file_of(base()), file_of(CASES["fused"](base()))
    digest = put(path, first)
    other = str(tmp_path / "other")
    with Store.open(path) as store, Store.open(other, create=True) as target:
        store.send_to(target, [digest])
        store.send_to(target, [digest])
    before = bytes_below(other)

    assert got(other, put(other, second)) == second
    assert bytes_below(other) - before < 0.02 * len(second) + 4096
    assert len(os.listdir(os.path.join(other, "anchors"))) == 1


def test_small_and_opaque_chunks_need_no_table(path) -> None:
    put(path, np.random.default_rng(1).bytes(300_000))
    put(path, file_of({"small": drawn(100, 10)}))

    assert not os.path.exists(os.path.join(path, "anchors"))


def record_of(raw: bytes, stored: bytes, bases: list[bytes], depth: int = 1) -> Entry:
    digests = tuple(digest_of(base) for base in bases)
    return Entry(Kind.CHUNK, digest_of(raw), "copies", b"", len(raw), len(stored), digests, depth, checksum_of(stored))


def hostile_records() -> dict[str, tuple[list[bytes], bytes]]:
    one, other = drawn(8192, seed=3).tobytes(), drawn(8192, seed=4).tobytes()

    def stored(recipe: Recipe) -> bytes:
        coded = encode_copies(one, recipe)
        assert coded is not None
        return bytes(coded.stored)

    whole = (Range(0, len(one), 0, 0),)
    return {
        "another base than it was made of": ([other], stored(Recipe(whole, ()))),
        "a base too many": ([other, one], stored(Recipe(whole, ()))),
        "a range beyond the base": ([other[:-1]], stored(Recipe(whole, ()))),
        "a patch that is not so": ([other], stored(Recipe(whole, (Patch(0, 5),)))),
        "a base that is the object itself, by way of nothing": ([b"gone"], stored(Recipe(whole, ()))),
    }


@pytest.mark.parametrize("name", hostile_records())
def test_a_record_that_does_not_give_its_object_is_refused_by_name(name, path) -> None:
    bases, stored = hostile_records()[name]
    raw = drawn(8192, seed=5).tobytes()
    with Store.open(path, create=True) as store:
        objects: Objects = store.objects
        for base_bytes in bases:
            if base_bytes != b"gone":
                objects.put(Kind.CHUNK, base_bytes)
        objects.add_representation(record_of(raw, stored, bases), stored)

        with pytest.raises(ObjectCorruptError, match=str(digest_of(raw))[:16]):
            objects.get(Kind.CHUNK, digest_of(raw))
        assert [finding.digest for finding in verify(objects, Level.RAW)] == [digest_of(raw)]
