"""A version costs what changed: bases are found by themselves, whole files come back, and copies never lose a base."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.backends.memory import MemoryBackend
from thetastore.bases import families
from thetastore.bases.candidates import TensorMap
from thetastore.bases.families import MOST_MEMBERS, family_keys, find_relatives, form_keys, register
from thetastore.bases.finding import Bases
from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.digest import Digest, Kind, digest_of
from thetastore.errors import BackendError
from thetastore.layout import Tensor
from thetastore.packs.records import Entry
from thetastore.pool import Pool
from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

Weights = dict[str, "np.ndarray"]


def model(seed: int = 0, vocabulary: int = 3000) -> Weights:
    rng = np.random.default_rng(seed)
    shapes = {"embed": (vocabulary, 128), "layer.0": (256, 300), "layer.1": (300, 256), "bias": (100,)}
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}


def tuned(weights: Weights, seed: int = 1, by: float = 1e-8) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: (array + rng.normal(0, by, array.shape)).astype(np.float32) for name, array in weights.items()}


def put(store: Store, weights: Weights, base: Digest | None = None) -> Digest:
    return store.put_file(io.BytesIO(safetensors_bytes(weights)), base).manifest_digest


def content(store: Store, digest: Digest) -> bytes:
    return b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest))


def entries(store: Store, digest: Digest) -> list[Entry]:
    chunks = iter_chunks(store.objects, store.get_manifest(digest))
    return [store.objects.entry(placed.chunk.digest) for placed in chunks]


def delta_count(store: Store, digest: Digest) -> int:
    return sum(bool(entry.bases) for entry in entries(store, digest))


def stored_bytes(store: Store, digest: Digest) -> int:
    return sum(entry.stored_bytes for entry in entries(store, digest))


def check_whole(store: Store) -> None:
    """No delta is without its bases."""
    assert list(verify(store.objects, Level.RAW)) == []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store"), create=True) as store:
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "other"), create=True) as store:
        yield store


def bfloat16(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(ml_dtypes.bfloat16)


def with_steps(array: np.ndarray, rows: float, elements: float) -> np.ndarray:
    """Move a share of the elements of a share of the rows by a unit in their last place."""
    rng = np.random.default_rng(4)
    moved = (rng.random((len(array), 1)) < rows) & (rng.random(array.shape) < elements)
    return (array.view(np.uint16) + moved).astype(np.uint16).view(ml_dtypes.bfloat16)


def test_a_difference_that_is_chosen_for_another_store_is_as_small_as_one_that_was_added_there(
    store, other, tmp_path
) -> None:
    matrix = bfloat16((900, 512))
    base, version = {"w": matrix}, {"w": with_steps(matrix, rows=0.25, elements=0.3)}
    digest = put(store, version)  # by itself: the base is not in this store
    put(other, base)

    store.send_to(other, [digest])

    with Store.open(str(tmp_path / "local"), create=True) as local:
        put(local, base)
        added = put(local, version)
        assert added == digest
        assert delta_count(local, added) == delta_count(other, digest) == 1
        assert stored_bytes(other, digest) == stored_bytes(local, added)
    assert content(other, digest) == safetensors_bytes(version)


@pytest.mark.parametrize(("elements", "is_difference"), [(255, False), (256, True), (384, True), (2048, True)])
def test_a_small_tensor_is_a_difference_from_512_bytes_on(elements, is_difference, store) -> None:
    before = bfloat16((elements,))
    after = before.copy()
    after[elements // 2] += 1
    base = put(store, {"norm": before})

    digest = put(store, {"norm": after}, base)

    (entry,) = [entry for entry in entries(store, digest) if entry.raw_bytes == 2 * elements]
    assert (entry.codec == "difference") is is_difference
    if is_difference:
        assert entry.stored_bytes + 32 < entry.raw_bytes / 2


def test_a_small_tensor_of_which_everything_changed_stands_alone(store) -> None:
    base = put(store, {"norm": bfloat16((384,), seed=3)})

    digest = put(store, {"norm": bfloat16((384,), seed=8)}, base)

    assert delta_count(store, digest) == 0


def without_families(store: Store) -> None:
    for name in list(store.backend.list("families")):
        store.backend.delete(name)


def test_the_next_version_is_stored_as_differences_from_the_one_before(store):
    first = put(store, model())
    without_families(store)

    second = put(store, tuned(model()), first)

    assert delta_count(store, second) == 4  # two chunks of the embedding, two layers; not the bias
    assert stored_bytes(store, second) < 0.4 * stored_bytes(store, first)
    assert content(store, second) == safetensors_bytes(tuned(model()))
    store.seal()
    check_whole(store)


def test_the_parent_is_asked_for_only_where_there_are_new_chunks_worth_a_difference(store):
    asked = []

    def parent() -> Digest:
        asked.append(1)
        return first

    first = put(store, model())
    for raw in (b"opaque" * 5000, safetensors_bytes(model()), safetensors_bytes({"bias": np.ones(100, np.float32)})):
        store.put_file(io.BytesIO(raw), parent)
    assert asked == []

    store.put_file(io.BytesIO(safetensors_bytes(tuned(model()))), parent)
    assert asked == [1]


@pytest.mark.parametrize("harm", ["missing", "no manifest", "corrupt"])
def test_a_parent_that_cannot_be_read_is_none(store, harm):
    first = put(store, model())
    without_families(store)
    base = first
    if harm == "missing":
        base = digest_of(b"nowhere")
    elif harm == "no manifest":
        base = store.objects.put(Kind.CHUNK, b"a chunk")
    else:
        raw = b"THMR but malformed"
        base = store.objects.put(Kind.MANIFEST, raw)

    second = put(store, tuned(model()), base)

    assert delta_count(store, second) == 0
    assert content(store, second) == safetensors_bytes(tuned(model()))


def test_pages_of_the_parent_are_read_as_they_are_needed(store):
    rng = np.random.default_rng(5)
    many = {f"w{number:05}": rng.normal(0, 0.02, (1100,)).astype(np.float32) for number in range(1500)}
    first = put(store, many)
    assert store.get_manifest(first).pages
    changed = dict(many)
    for name in ("w00001", "w00700", "w01499"):
        changed[name] = tuned({name: many[name]})[name]

    second = put(store, changed, first)

    assert delta_count(store, second) == 3
    assert content(store, second) == safetensors_bytes(changed)


def test_a_fine_tune_finds_its_family_by_itself(store):
    put(store, model())

    second = put(store, tuned(model()))

    assert delta_count(store, second) == 4
    assert content(store, second) == safetensors_bytes(tuned(model()))


def test_an_extended_vocabulary_does_not_hide_the_family(store):
    put(store, model())
    extended = model()
    extended["embed"] = np.concatenate([extended["embed"], model(7)["embed"][:40]])

    second = put(store, tuned(extended))

    assert delta_count(store, second) >= 2  # the layers


@pytest.mark.parametrize("rows", [2990, 3040])
def test_rows_at_the_end_of_a_tuned_embedding_do_not_hide_the_rows_before(store, rows):
    put(store, model())
    weights = {**model(), "embed": np.concatenate([model()["embed"], model(7)["embed"]])[:rows]}

    second = put(store, tuned(weights))

    assert delta_count(store, second) >= 3  # the first chunk of the embedding, two layers
    assert content(store, second) == safetensors_bytes(tuned(weights))


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("rename", ["model.{}", "{}.kernel", "in words of its own"])
def test_a_fine_tune_whose_tensors_have_other_names_finds_its_base(store, rename, is_named):
    own = {name: rename.format(name) for name in model()}
    if rename == "in words of its own":
        own = dict(zip(model(), ("wte", "h.000.weight", "h.1.weight", "h.0.bias"), strict=True))
    first = put(store, model(1))
    renamed = {own[name]: array for name, array in tuned(model(1)).items()}

    second = put(store, renamed, first if is_named else None)

    assert delta_count(store, second) == 4
    assert content(store, second) == safetensors_bytes(renamed)


def test_what_was_trained_from_one_of_many_models_of_one_architecture_finds_it(store):
    for seed in range(100, 112):
        put(store, model(seed))
    store.pool = Pool(1)  # of several threads, another may guess before the first tensor has led to the model

    second = put(store, tuned(model(111)))

    assert delta_count(store, second) == 4


def test_a_tensor_that_another_model_has_among_others_is_found_by_its_numbers_alone(store):
    first = {"embed": model(1)["embed"], "head": model(1)["layer.1"][:, :100].copy(), "other": model(5)["layer.0"]}
    put(store, first)
    layers = {
        f"new.{at}": np.random.default_rng(at).normal(0, 0.02, (100 + at, 300)).astype(np.float32) for at in (1, 2)
    }
    second = {**layers, "text.wte": tuned(first)["embed"], "text.head": tuned(first)["head"]}

    added = put(store, second)

    assert delta_count(store, added) >= 3  # the chunks of the embedding, the head
    assert content(store, added) == safetensors_bytes(second)


def test_of_many_tensors_of_one_form_those_with_the_same_numbers_are_found_whatever_their_order(store):
    shape = (64, 256)
    first = {f"layer.{at}": model(at)["layer.1"].reshape(-1)[: 64 * 256].reshape(shape) for at in range(8)}
    put(store, {**first, "left.out": model(9)["embed"][:64, :].repeat(2, axis=1)})
    renamed = {f"block.{(at + 3) % 8}.w": array for at, array in enumerate(tuned(first).values())}

    second = put(store, renamed)

    assert delta_count(store, second) == 8
    assert content(store, second) == safetensors_bytes(renamed)


def test_names_in_another_order_do_not_hide_tensors_that_lie_in_the_same_one(store):
    first = {f"layer.{at:02}": model(at)["layer.1"][:64].copy() for at in range(40)}
    put(store, first)
    shuffled = np.random.default_rng(0).permutation(40)
    renamed = {f"block.{at:02}": array for at, array in zip(shuffled, tuned(first).values(), strict=True)}

    second = put(store, renamed)

    assert delta_count(store, second) == 40


def test_a_model_that_only_has_the_form_of_others_costs_no_bytes_and_few_comparisons(store, other, monkeypatch):
    def layers(prefix: str, seed: int) -> Weights:
        return {f"{prefix}{at}": model(seed + at)["layer.1"][:64] for at in range(40)}

    compared = []
    seen = Bases._resembles
    monkeypatch.setattr(Bases, "_resembles", lambda *given: compared.append(1) or seen(*given))
    put(store, layers("a", 100))

    alone, beside = put(other, layers("b", 200)), put(store, layers("b", 200))

    assert stored_bytes(store, beside) == stored_bytes(other, alone)
    assert 0 < len(compared) <= 24


def test_a_model_finds_each_of_its_tensors_in_the_part_of_a_family_that_has_it(store):
    weights = model()
    for part in (("embed", "layer.0"), ("layer.1", "bias")):
        put(store, {name: weights[name] for name in part})

    second = put(store, tuned(weights))

    assert delta_count(store, second) == 4


def test_of_several_models_of_a_family_the_nearest_is_the_base(store):
    models = [put(store, model(seed)) for seed in range(3)]

    last = put(store, tuned(model(1)))

    bases = {base for entry in entries(store, last) for base in entry.bases}
    assert len(bases) == 4
    assert bases <= {entry.digest for entry in entries(store, models[1])}


def test_of_two_that_are_about_as_near_the_one_that_stands_alone_is_the_base(store):
    first = model()
    put(store, first)
    beside = tuned(first, seed=1, by=1e-9)
    assert max(entry.depth for entry in entries(store, put(store, beside))) == 1

    version = put(store, tuned(beside, seed=2, by=3e-8))

    assert max(entry.depth for entry in entries(store, version)) == 1


def test_models_of_one_family_that_have_nothing_in_common_cost_no_bytes(store, other):
    put(store, model(1))

    alone, beside = put(other, model(2)), put(store, model(2))

    assert stored_bytes(store, beside) == stored_bytes(other, alone)


def test_guessing_ends_where_it_is_useless(store):
    first = store.get_manifest(put(store, model(1)))
    bases = Bases(store.objects, first.tensors, put(store, model(1)))
    tensor = first.tensors[1]
    raw = memoryview(model(2)[tensor.name].tobytes())[: 1 << 20]
    chunk = next(placed for placed in iter_chunks(store.objects, first) if placed.offset == tensor.offset)
    raw = raw[: chunk.chunk.raw_bytes]

    guesses = [len(list(bases.guess(tensor.offset, raw, "float32"))) for _ in range(100)]

    assert guesses[0] == 1
    assert guesses[-1] == 0


def test_a_version_of_a_version_is_not_filed_again(store):
    first = put(store, model())
    filed = sorted(store.backend.list("families"))

    put(store, tuned(model()), first)

    assert len(filed) == 5
    assert sorted(store.backend.list("families")) == filed


def test_keys_keep_their_first_models_and_looking_up_does_not_grow():
    backend = MemoryBackend()
    digests = [digest_of(b"%d" % number) for number in range(20)]
    for digest in digests:
        register(backend, ("0" * 32, "1" * 32), digest)
        register(backend, ("0" * 32, "1" * 32), digest)
    register(backend, ("1" * 32, "2" * 32), digests[-1])

    assert set(find_relatives(backend, ("0" * 32, "1" * 32))) == set(digests[:MOST_MEMBERS])
    assert find_relatives(backend, ("2" * 32,)) == [digests[-1]]


def test_what_others_put_into_the_family_table_is_ignored():
    backend = MemoryBackend()
    for name in ("x", "z" * 97, f"{'0' * 32}-{'A' * 64}"):
        backend.create(f"families/{'0' * 32}/{name}", b"")

    assert find_relatives(backend, ("0" * 32,)) == []


def test_family_keys_are_those_of_the_document():
    tensors = [Tensor("w", "float32", (512, 384), 0), Tensor("b", "float32", (384,), 0), Tensor("s", "float32", (), 0)]
    document = (Path(__file__).parents[2] / "docs" / "format" / "store.md").read_text()

    (key,) = family_keys(tensors)
    (form_key,) = form_keys(tensors)

    assert f"`float32 (512, 384)` it is `{form_key}`" in " ".join(document.split())
    assert form_keys(tensors[1:]) == ()
    assert f"`float32 (512, 384) w` it is `{key}`" in " ".join(document.split())
    assert family_keys(tensors[1:]) == ()


def test_a_tensor_map_finds_the_longest_tensor_around_a_place():
    tensors = [
        Tensor("whole", "uint8", (100,), 10),
        Tensor("part", "uint8", (20,), 10),
        Tensor("inside", "uint8", (20,), 50),
        Tensor("next", "uint8", (10,), 110),
        Tensor("strided", "uint8", (2, 2), 130, (1, 2)),
        Tensor("empty", "uint8", (0,), 140),
    ]
    found = TensorMap(tensors)

    def name(offset: int, nbytes: int) -> str | None:
        tensor = found.at(offset, nbytes)
        return None if tensor is None else tensor.name

    assert name(10, 100) == name(10, 5) == name(50, 20) == "whole"
    assert name(110, 10) == "next"
    assert name(0, 5) is name(105, 10) is name(130, 4) is name(140, 1) is None


def test_a_difference_travels_with_its_base_where_both_are_wanted(store, other):
    first = put(store, model())
    second = put(store, tuned(model()), first)

    store.send_to(other, [second, first])

    assert delta_count(other, second) == 4
    assert content(other, second) == safetensors_bytes(tuned(model()))
    assert content(other, first) == safetensors_bytes(model())
    check_whole(other)


def test_a_base_that_nobody_wants_stays_behind(store, other):
    first = put(store, model())
    second = put(store, tuned(model()), first)

    store.send_to(other, [second])

    assert delta_count(other, second) == 0
    assert not any(other.objects.contains(entry.digest) for entry in entries(store, first) if entry.raw_bytes > 4096)
    assert stored_bytes(other, second) < 1.01 * stored_bytes(store, first)  # coded as floats, not as opaque bytes
    assert content(other, second) == safetensors_bytes(tuned(model()))
    check_whole(other)


def test_a_difference_goes_alone_where_its_base_is_already(store, other):
    first = put(store, model())
    second = put(store, tuned(model()), first)
    store.send_to(other, [first])

    report = store.send_to(other, [second])

    assert delta_count(other, second) == 4
    assert report.stored_bytes < 0.4 * stored_bytes(store, first)
    check_whole(other)


def test_of_ten_fine_tunes_whose_base_stays_behind_one_is_whole(store, other):
    base = put(store, model())
    fine_tunes = [put(store, tuned(model(), seed), base) for seed in range(1, 11)]

    report = store.send_to(other, fine_tunes)

    assert sum(delta_count(other, digest) for digest in fine_tunes) == 9 * 4
    assert report.stored_bytes < 0.5 * 10 * stored_bytes(store, base)
    for seed, digest in enumerate(fine_tunes, 1):
        assert content(other, digest) == safetensors_bytes(tuned(model(), seed))
    check_whole(other)


def test_the_end_of_a_chain_travels_without_its_beginning(store, other):
    weights, digests = model(), [put(store, model())]
    for seed in range(1, 6):
        weights = tuned(weights, seed, 1e-9)
        digests.append(put(store, weights, digests[-1]))
    assert max(entry.depth for entry in entries(store, digests[-1])) == 2

    store.send_to(other, [digests[-1], digests[-2]])

    assert content(other, digests[-1]) == safetensors_bytes(weights)
    check_whole(other)
    store.send_to(other, digests)
    for digest in digests:
        assert content(other, digest) == content(store, digest)
    check_whole(other)


def test_bases_that_are_deeper_in_the_target_are_no_obstacle(store, other):
    """Here the second version stands on the first; there the first already stands on the second."""
    first = put(store, model())
    second = put(store, tuned(model()), first)
    there = put(other, tuned(model()))
    put(other, model(), there)
    third = put(store, tuned(tuned(model()), 2), second)
    assert delta_count(other, first) == 4

    store.send_to(other, [second, third])

    assert content(other, third) == content(store, third)
    check_whole(other)


def test_a_model_arrives_as_differences_from_the_base_that_only_the_target_has(store, other):
    put(other, model())
    fine_tune = put(store, tuned(model()))
    assert delta_count(store, fine_tune) == 0

    report = store.send_to(other, [fine_tune])

    assert delta_count(other, fine_tune) == 4
    assert report.stored_bytes < 0.5 * stored_bytes(store, fine_tune)
    assert content(other, fine_tune) == safetensors_bytes(tuned(model()))
    check_whole(other)


def test_what_is_no_difference_from_the_targets_models_arrives_as_it_was(store, other):
    put(other, model(1))
    digest = put(store, model(2))

    store.send_to(other, [digest])

    assert entries(other, digest) == entries(store, digest)


def test_what_was_sent_finds_its_family_there(store, other):
    store.send_to(other, [put(store, model())])

    second = put(other, tuned(model()))

    assert delta_count(other, second) == 4


@pytest.mark.parametrize("how", ["put", "sent"])
def test_where_the_base_was_lost_a_version_is_stored_again(tmp_path, other, how):
    path = tmp_path / "store"
    with Store.open(str(path), create=True) as store:
        first = put(store, model())
    packs = set((path / "packs").iterdir())
    with Store.open(str(path)) as store:
        second = put(store, tuned(model()), first)
        assert delta_count(store, second) == 4
    put(other, tuned(model()))
    for pack in packs:
        pack.unlink()

    with Store.open(str(path)) as store:
        assert store.missing_objects([second])
        if how == "put":
            put(store, tuned(model()))
        else:
            other.send_to(store, [second])
    with Store.open(str(path)) as store:
        assert store.missing_objects([second]) == []
        assert content(store, second) == safetensors_bytes(tuned(model()))


def test_a_store_that_cannot_be_written_to_is_no_error_for_the_family_table(monkeypatch):
    backend = MemoryBackend()

    def refuse(name: str, stored: bytes, durable: bool) -> None:
        raise BackendError(28, "No space left on device", name)

    monkeypatch.setattr(backend, "create", refuse)
    families.register(backend, ("0" * 32,), digest_of(b"any"))

    assert find_relatives(backend, ("0" * 32,)) == []
