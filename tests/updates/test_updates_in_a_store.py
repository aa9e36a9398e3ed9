"""Files stored as updates of others: exact, small, and at home in every other part of a store."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.checkpoints.updating import RecipeUpdates
from thetastore.digest import Digest
from thetastore.store import Store
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import Recipe
from thetastore.upkeep.repack import AGGRESSIVE, HOT, repack

ROWS, COLUMNS, RANK = 1536, 384, 8


def weights(seed: int, *shape: int, scale: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("f4")


def file_of(**arrays: np.ndarray) -> bytes:
    source = safetensors_source([new_tensor(name, array) for name, array in arrays.items()])
    out = bytearray(source.file_bytes)
    source.readinto(memoryview(out))
    return bytes(out)


def recipe(seed: int = 2) -> Recipe:
    return Recipe(COLUMNS, weights(seed, ROWS, RANK), weights(seed + 1, RANK, COLUMNS, scale=0.01), 2.0)


def merged(base: np.ndarray, by: Recipe) -> np.ndarray:
    out = np.empty_like(base)
    window = by.window(0, base.size)
    assert window is not None
    apply(window, memoryview(base.view("u1").ravel().data), "float32", memoryview(out.view("u1").ravel().data))
    return out


def put(store: Store, raw: bytes, base: Digest | None = None, by: Recipe | None = None):
    updates = None
    if base is not None and by is not None:
        updates = RecipeUpdates(store.objects, store.get_manifest(base), lambda name: by if name == "w" else None)
    return store.put_file(io.BytesIO(raw), base, updates), updates


def read(store: Store, digest: Digest) -> bytes:
    return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))


def stored_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*.pack"))


@pytest.fixture(name="base")
def base_array() -> np.ndarray:
    return weights(1, ROWS, COLUMNS)


def test_a_matrix_of_several_chunks_takes_little_more_than_its_factors(tmp_path: Path, base: np.ndarray) -> None:
    by = recipe()
    new = file_of(w=merged(base, by), other=weights(9, 50))
    with Store.open(str(tmp_path / "s"), create=True) as store:
        first, _ = put(store, file_of(w=base, other=weights(9, 50)))
        store.seal()
        before = stored_bytes(tmp_path)
        second, updates = put(store, new, first.manifest_digest, by)

    assert updates is not None
    assert (updates.update_count, updates.fixed_count, updates.other_count) == (3, 0, 0)
    assert stored_bytes(tmp_path) - before < 4 * RANK * (ROWS + COLUMNS) + 4000
    with Store.open(str(tmp_path / "s")) as store:
        assert read(store, second.manifest_digest) == new


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (600, COLUMNS)], ids=["several chunks", "one chunk"])
def test_elements_that_an_update_does_not_make_are_counted_and_kept(shape: tuple[int, int], tmp_path: Path) -> None:
    by = recipe()._replace(left=weights(2, shape[0], RANK), row_factors=weights(5, shape[0], scale=1))
    base = weights(1, *shape)
    own = merged(base, by)
    own.view("u4").ravel()[[0, 7, 200_000, own.size - 1]] += 1
    with Store.open(str(tmp_path / "s"), create=True) as store:
        first, _ = put(store, file_of(w=base))
        second, updates = put(store, file_of(w=own), first.manifest_digest, by)

        assert updates is not None
        assert (updates.differing_count, updates.other_count) == (4, 0)
        assert read(store, second.manifest_digest) == file_of(w=own)


def test_updates_go_to_another_store_and_back_as_they_are(tmp_path: Path, base: np.ndarray) -> None:
    by = recipe()
    new = file_of(w=merged(base, by))
    with Store.open(str(tmp_path / "a"), create=True) as store, Store.open(str(tmp_path / "b"), create=True) as other:
        first, _ = put(store, file_of(w=base))
        second, _ = put(store, new, first.manifest_digest, by)
        store.send_to(other, [first.manifest_digest])
        report = store.send_to(other, [second.manifest_digest])

        assert report.stored_bytes < 4 * RANK * (ROWS + COLUMNS) + 4000
        assert read(other, second.manifest_digest) == new
        codecs = {other.objects.entry(chunk.digest).codec for chunk in second.manifest.chunks}
        assert codecs == {"update", "zstd"} or codecs == {"update", "literal"}


def test_an_update_whose_base_stays_behind_is_coded_again(tmp_path: Path, base: np.ndarray) -> None:
    by = recipe()
    new = file_of(w=merged(base, by))
    with Store.open(str(tmp_path / "a"), create=True) as store, Store.open(str(tmp_path / "b"), create=True) as other:
        first, _ = put(store, file_of(w=base))
        second, _ = put(store, new, first.manifest_digest, by)
        store.send_to(other, [second.manifest_digest])

        assert read(other, second.manifest_digest) == new


def test_a_chain_of_updates_is_read_back_and_ends_at_its_limit(tmp_path: Path, base: np.ndarray) -> None:
    files = []
    with Store.open(str(tmp_path / "s"), create=True) as store:
        array, digest, depths = base, put(store, file_of(w=base))[0].manifest_digest, []
        for number in range(6):
            by = recipe(10 * number)
            array = merged(array, by)
            stored, _ = put(store, file_of(w=array), digest, by)
            digest = stored.manifest_digest
            files.append((digest, file_of(w=array)))
            depths.append(max(store.objects.entry(chunk.digest).depth for chunk in stored.manifest.chunks))
        store.seal()

        assert depths[:4] == [1, 2, 3, 4]
        assert max(depths) == 4
        for digest, raw in files:
            assert read(store, digest) == raw


@pytest.mark.parametrize("aggressive", [False, True])
def test_repacking_keeps_updates_readable_and_no_larger(tmp_path: Path, base: np.ndarray, aggressive: bool) -> None:
    by = recipe()
    new = file_of(w=merged(base, by))
    with Store.open(str(tmp_path / "s"), create=True) as store:
        first, _ = put(store, file_of(w=base))
        store.seal()
        second, _ = put(store, new, first.manifest_digest, by)
    before = stored_bytes(tmp_path)
    with Store.open(str(tmp_path / "s")) as store:
        repack(store.objects, store.pool, AGGRESSIVE if aggressive else HOT)

    assert stored_bytes(tmp_path) <= before + 4096
    with Store.open(str(tmp_path / "s")) as store:
        assert read(store, second.manifest_digest) == new
        assert read(store, first.manifest_digest) == file_of(w=base)


def test_a_damaged_shared_part_is_an_error_and_never_other_bytes(tmp_path: Path, base: np.ndarray) -> None:
    from thetastore.errors import ObjectCorruptError

    by = recipe()
    with Store.open(str(tmp_path / "s"), create=True) as store:
        first, _ = put(store, file_of(w=base))
        store.seal()
        second, _ = put(store, file_of(w=merged(base, by)), first.manifest_digest, by)
        store.seal()
        chunk = next(c for c in second.manifest.chunks if len(store.objects.entry(c.digest).bases) == 2)
        shared = store.objects.entry(chunk.digest).bases[1]
        place = store.objects.catalog.snapshot().first(shared)
    pack = next(tmp_path.rglob(place.file_name.rpartition("/")[2]))
    pack.chmod(0o644)
    damaged = bytearray(pack.read_bytes())
    damaged[place.offset + place.nbytes - 100] ^= 1
    pack.write_bytes(damaged)

    with Store.open(str(tmp_path / "s")) as store, pytest.raises(ObjectCorruptError):
        read(store, second.manifest_digest)


def test_what_was_stored_without_knowing_how_it_was_made_becomes_an_update(tmp_path: Path, base: np.ndarray) -> None:
    by = recipe()
    new = file_of(w=merged(base, by))
    with Store.open(str(tmp_path / "s"), create=True) as store:
        first, _ = put(store, file_of(w=base))
        store.seal()
        without = stored_bytes(tmp_path)
        put(store, new, first.manifest_digest)
    with Store.open(str(tmp_path / "s")) as store:
        second, updates = put(store, new, first.manifest_digest, by)
        assert updates is not None
        assert updates.update_count == 3
    with Store.open(str(tmp_path / "s")) as store:
        repack(store.objects, store.pool)

    assert stored_bytes(tmp_path) - without < 4 * RANK * (ROWS + COLUMNS) + 8000
    with Store.open(str(tmp_path / "s")) as store:
        assert read(store, second.manifest_digest) == new


def test_a_base_that_is_itself_made_from_the_chunk_is_no_base(tmp_path: Path, base: np.ndarray) -> None:
    by = recipe()._replace(scale=1e-5)
    new = merged(base, by)
    with Store.open(str(tmp_path / "s"), create=True) as store:
        second, _ = put(store, file_of(w=new))
        first, _ = put(store, file_of(w=base), second.manifest_digest)
        leaning = [store.objects.entry(chunk.digest) for chunk in first.manifest.chunks]
        assert any(entry.bases for entry in leaning)
        _, updates = put(store, file_of(w=new), first.manifest_digest, by)

        assert updates is not None
        assert updates.update_count == 0
        assert read(store, second.manifest_digest) == file_of(w=new)
