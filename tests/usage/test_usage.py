"""Every figure of `usage`, against what arithmetic on the inputs and the packs themselves say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.cli import main as cli
from thetastore.digest import Digest, Kind, digest_of
from thetastore.packs.records import encode_head
from thetastore.store import Store
from thetastore.upkeep.usage import Amount, File, Group, Usage

Weights = dict[str, "np.ndarray"]


def array(seed: int, rows: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, 300)).astype(np.float32)


def tuned(values: np.ndarray, seed: int = 1) -> np.ndarray:
    return (values + np.random.default_rng(seed).normal(0, 1e-8, values.shape)).astype(np.float32)


def put(store: Store, weights: Weights) -> File:
    content = safetensors_bytes(weights)
    return File(store.put_file(io.BytesIO(content)).manifest_digest, len(content))


def skeleton_bytes(weights: Weights) -> int:
    return len(safetensors_bytes(weights)) - sum(values.nbytes for values in weights.values())


def record_bytes(store: Store, *digests: Digest) -> int:
    entries = [store.objects.entry(digest) for digest in digests]
    return sum(len(encode_head(entry)) + entry.stored_bytes for entry in entries)


def packed_bytes(store: Store) -> int:
    """All records: the packs without their preambles and footers."""
    snapshot = store.objects.catalog.snapshot()
    return sum(r.nbytes for name in snapshot.packs for r in store.objects.packs.get(name).records())


def chunk(values: np.ndarray) -> Digest:
    return digest_of(values.tobytes())


def skeleton(weights: Weights) -> Digest:
    return digest_of(safetensors_bytes(weights)[: skeleton_bytes(weights)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store"), create=True) as opened:
        yield opened


def test_versions_that_share_a_tensor(store: Store) -> None:
    one = {"a": array(1), "b": array(2)}
    two = {"a": array(1), "b": array(3, rows=100)}
    files = [put(store, one), put(store, two)]
    store.seal()

    usage = Usage(store.objects)
    first, second = usage.rows([Group("one", [files[0]]), Group("two", [files[1]])])
    totals = usage.totals(files)

    unique_one = one["b"].nbytes + skeleton_bytes(one)
    unique_two = two["b"].nbytes + skeleton_bytes(two)
    objects_one = [files[0].manifest_digest, skeleton(one), chunk(one["a"]), chunk(one["b"])]
    objects_two = [files[1].manifest_digest, skeleton(two), chunk(two["b"])]
    assert first[2:] == (
        1, len(safetensors_bytes(one)), unique_one, one["a"].nbytes, record_bytes(store, *objects_one),
        record_bytes(store, *objects_one),
    )  # fmt: skip
    assert second[2:] == (
        1, len(safetensors_bytes(two)), unique_two, two["a"].nbytes, record_bytes(store, *objects_two, chunk(two["a"])),
        record_bytes(store, *objects_two),
    )  # fmt: skip
    assert totals == (
        2, len(safetensors_bytes(one)) + len(safetensors_bytes(two)), unique_one + unique_two, one["a"].nbytes,
        packed_bytes(store), 0,
    )  # fmt: skip
    assert usage.held_only_as_base() == Amount(0, 0, 0)


def test_a_row_with_several_files_shares_nothing_with_itself(store: Store) -> None:
    one = {"a": array(1), "b": array(2)}
    two = {"a": array(1), "b": array(3)}
    files = [put(store, one), put(store, two)]

    [row] = Usage(store.objects).rows([Group("both", files)])

    distinct = 3 * one["a"].nbytes + skeleton_bytes(one)  # the headers are equal
    assert (row.file_count, row.unique_bytes, row.shared_bytes) == (2, distinct, 0)


def test_a_file_that_is_named_twice_counts_twice_in_the_logical_bytes_only(store: Store) -> None:
    weights = {"a": array(1)}
    file = put(store, weights)

    totals = Usage(store.objects).totals([file, file])

    assert totals[:4] == (1, 2 * len(safetensors_bytes(weights)), len(safetensors_bytes(weights)), 0)


def test_an_object_held_only_as_base(store: Store) -> None:
    values = array(1)
    root, middle, top = values, tuned(values), tuned(tuned(values), 2)
    for now, base in ((root, ()), (middle, [chunk(root)]), (top, [chunk(middle)])):
        store.objects.put(Kind.CHUNK, now.tobytes(), "float32", base)
    assert [store.objects.entry(chunk(each)).depth for each in (root, middle, top)] == [0, 1, 2]
    stray = store.objects.put(Kind.CHUNK, b"stray" * 1000)
    file = put(store, {"w": top})
    store.seal()

    usage = Usage(store.objects)
    contents = usage.scan()
    totals = usage.totals(contents.manifests)

    held = record_bytes(store, chunk(root), chunk(middle))
    named = record_bytes(store, file.manifest_digest, skeleton({"w": top}), chunk(top))
    assert contents.manifests == [file]
    assert usage.held_only_as_base() == Amount(2, 2 * values.nbytes, held)
    assert (totals.unique_bytes, totals.stored_bytes) == (len(safetensors_bytes({"w": top})), named)
    assert usage.unreached() == Amount(1, 5000, record_bytes(store, stray))
    assert held + named + record_bytes(store, stray) == packed_bytes(store) == contents.everything.stored_bytes
    codecs = dict(usage.codecs())
    assert codecs["difference"] == Amount(2, 2 * values.nbytes, record_bytes(store, chunk(middle), chunk(top)))
    assert codecs["planes"] == Amount(1, values.nbytes, record_bytes(store, chunk(root)))
    assert sum(amount.stored_bytes for amount in codecs.values()) == held + named


def test_a_base_that_another_version_names_is_held_only_where_that_version_does_not_count(store: Store) -> None:
    values = array(1, rows=400)  # 480 kB: enough for a family
    base, tune = put(store, {"w": values}), put(store, {"w": tuned(values)})
    assert store.objects.entry(chunk(tuned(values))).bases == (chunk(values),)

    both, alone = Usage(store.objects), Usage(store.objects)
    both.totals([base, tune])
    alone.totals([tune])

    assert both.held_only_as_base().object_count == 0
    assert alone.held_only_as_base() == Amount(1, values.nbytes, record_bytes(store, chunk(values)))


def test_tensors(store: Store) -> None:
    one = {"a": array(1), "b": array(2)}
    two = {"a": array(1), "b": array(3)}
    groups = [Group("one", [put(store, one)]), Group("two", [put(store, two)])]

    rows = {(row.name, row.tensor): row for row in Usage(store.objects).tensor_rows(groups)}

    nbytes = one["a"].nbytes
    a, b = record_bytes(store, chunk(one["a"])), record_bytes(store, chunk(one["b"]))
    assert list(rows) == [("one", "a"), ("one", "b"), ("one", None), ("two", "a"), ("two", "b"), ("two", None)]
    assert rows["one", "a"][3:] == (nbytes, 0, nbytes, a, a)
    assert rows["one", "b"][3:] == (nbytes, nbytes, 0, b, b)
    assert rows["two", "a"][3:] == (nbytes, 0, nbytes, a, 0)
    assert rows["two", None].shared_bytes == skeleton_bytes(one)


def test_a_record_that_is_stored_twice_is_said_to_be(store: Store) -> None:
    weights = {"a": array(1)}
    with Store.open(store.url) as late:
        late.objects.begin()
        late.objects.catalog.snapshot()  # from now on it does not see what others write
        put(store, weights)
        put(late, weights)
    store.seal()
    usage = Usage(store.objects)

    contents = usage.scan()

    assert contents.everything.stored_bytes == contents.duplicate_bytes == packed_bytes(store) // 2
    assert usage.totals(contents.manifests).stored_bytes == contents.duplicate_bytes


def test_what_is_missing_is_counted_and_not_guessed(store: Store, tmp_path: Path) -> None:
    weights = {"a": array(1)}
    file = put(store, weights)
    with Store.open(str(tmp_path / "other"), create=True) as other:
        other.objects.put(Kind.MANIFEST, store.objects.get(Kind.MANIFEST, file.manifest_digest))

        with_manifest = Usage(other.objects).totals([file])
        without = Usage(other.objects).totals([File(Digest(bytes(32)), 77)])

        kept = record_bytes(other, file.manifest_digest)
    assert with_manifest == (1, len(safetensors_bytes(weights)), len(safetensors_bytes(weights)), 0, kept, 2)
    assert without == (1, 77, 0, 0, 0, 1)


def test_pages_of_a_long_chunk_list_are_stored_bytes_too(store: Store) -> None:
    content = np.random.default_rng(4).bytes(9 << 20)
    weights = {f"{number:04}": np.frombuffer(content[number * 9000 :][:9000], np.float32) for number in range(1000)}
    file = put(store, weights)
    store.seal()
    assert store.get_manifest(file.manifest_digest).pages

    totals = Usage(store.objects).totals([file])

    assert totals == (1, len(safetensors_bytes(weights)), len(safetensors_bytes(weights)), 0, packed_bytes(store), 0)


@pytest.mark.parametrize("command", ["du", "stats"])
def test_the_command_says_the_same(store: Store, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"a": array(1), "b": array(2)}
    two = {"a": array(1), "b": array(3)}
    files = [put(store, one), put(store, two)]
    store.seal()
    more = ["--tensors"] if command == "du" else []

    assert cli.main([command, store.url, "--json", *more]) == 0

    values = json.loads(capsys.readouterr().out)
    usage = Usage(store.objects)
    assert values["schema"] == 1
    assert values["totals"] == usage.totals(files)._asdict()
    assert values["totals"]["stored_bytes"] == packed_bytes(store)
    assert values["unreached"] == {"object_count": 0, "raw_bytes": 0, "stored_bytes": 0}
    assert values["duplicate_bytes"] == 0
    assert values["pack_bytes"] == sum(path.stat().st_size for path in Path(store.url, "packs").iterdir())
    if command == "du":
        assert {row["file"] for row in values["files"]} == {str(file.manifest_digest) for file in files}
        assert [row["tensor"] for row in values["tensors"]] == ["a", "b", None] * 2
    else:
        assert "files" not in values

    assert cli.main([command, store.url, *more]) == 0
    assert capsys.readouterr().out.startswith("logical ")


def test_an_empty_store_has_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stats", store.url]) == 0

    assert "0 versions" in capsys.readouterr().out


def test_differences_are_counted_by_what_they_lean_on(store: Store) -> None:
    base, other = {"a": array(1), "b": array(2)}, {"a": array(1), "c": array(7)}
    later = {"a": tuned(array(1)), "b": tuned(array(2))}
    files = [put(store, other), put(store, base)]
    last = File(store.put_file(io.BytesIO(safetensors_bytes(later)), files[1].manifest_digest).manifest_digest, 0)
    usage = Usage(store.objects)
    usage.totals([*files, last])

    found = usage.by_base([Group("other", [files[0]]), Group("base", [files[1]]), Group("later", [last])])
    alone = Usage(store.objects)
    alone.totals([last])
    held = alone.by_base([Group("later", [last])])

    of_a, of_b = (record_bytes(store, chunk(later[name])) for name in "ab")
    assert dict(found) == {"other": Amount(1, array(1).nbytes, of_a), "base": Amount(1, array(2).nbytes, of_b)}
    assert held == [(None, Amount(2, 2 * array(1).nbytes, of_a + of_b))]
