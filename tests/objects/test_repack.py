"""Repacking makes a store smaller and never poorer: beside readers, writers and other repacks, and killed anywhere."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore import codecs
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.bases.families import form_keys
from thetastore.cli import main as cli
from thetastore.codecs.copies import Patch, Range, Recipe
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import BackendError
from thetastore.objects import Objects
from thetastore.packs import upkeep
from thetastore.packs.index import Run, write_run
from thetastore.packs.records import Entry
from thetastore.packs.writer import PackWriter, SealedPack
from thetastore.store import Store
from thetastore.upkeep.holdings import Holdings
from thetastore.upkeep.repack import AGGRESSIVE, HOT, Effort, Repacked, repack
from thetastore.upkeep.repack_report import repack_text
from thetastore.upkeep.verify import Level, verify


def model(seed: int = 0, rows: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"layer.{at}": rng.normal(0, 0.02, (rows, 500)).astype(np.float32) for at in range(4)}


def tuned(weights: dict[str, np.ndarray], seed: int, by: float = 1e-8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: (each + rng.normal(0, by, each.shape)).astype(np.float32) for name, each in weights.items()}


def put_unrelated(path: str, models: list[dict[str, np.ndarray]]) -> dict[Digest, bytes]:
    """Store models that do not find each other: by writers that all looked at the store before the others wrote."""
    stores = [Store.open(path, create=True) for _ in models]
    for store in stores:
        store.objects.begin()
        store.objects.catalog.snapshot()
    stored = {}
    for store, weights in zip(stores, models, strict=True):
        stored[store.put_file(io.BytesIO(safetensors_bytes(weights))).manifest_digest] = safetensors_bytes(weights)
    for store in stores:
        store.close()
    return stored


def form_keys_of(weights: dict[str, np.ndarray]) -> tuple[str, ...]:
    with Store.at(MemoryBackend(), create=True) as store:
        return form_keys(store.put_file(io.BytesIO(safetensors_bytes(weights))).manifest.tensors)


def content(store: Store, digest: Digest) -> bytes:
    return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))


def check(path: str, stored: dict[Digest, bytes]) -> None:
    with Store.open(path) as store:
        assert list(verify(store.objects, Level.RAW)) == []
        for digest, raw in stored.items():
            assert content(store, digest) == raw


def run(path: str, effort: Effort = HOT, is_dry: bool = False) -> Repacked:
    with Store.open(path) as store:
        return repack(store.objects, store.pool, effort, is_dry)


def files(path: str) -> dict[str, int]:
    backend = DirectoryBackend(path)
    return {name: backend.size(name) for name in backend.list("") if not name.startswith("locks/")}


def family(count: int) -> list[dict[str, np.ndarray]]:
    return [model(), *(tuned(model(), seed) for seed in range(1, count))]


def chain(count: int) -> list[dict[str, np.ndarray]]:
    found = [model()]
    while len(found) < count:
        found.append(tuned(found[-1], len(found), 3e-9))
    return found


def test_models_that_did_not_know_each_other_become_differences(store_path):
    stored = put_unrelated(store_path, family(4))

    repacked = run(store_path)

    assert repacked.is_swept
    assert set(repacked.before.by_codec) == {"planes", "zstd"}
    assert repacked.after.by_codec["difference"].object_count == 12
    assert repacked.after.pack_bytes < 0.55 * repacked.before.pack_bytes
    assert repacked.after.duplicate_bytes == 0
    assert max(repacked.after.by_depth) <= 2
    names = files(store_path)
    assert repacked.after.pack_bytes == sum(size for name, size in names.items() if name.startswith("packs/"))
    assert len([name for name in names if name.startswith("packs/")]) == 1
    assert {name.split("/")[0] for name in names} <= {"thetastore.json", "packs", "index", "families", "anchors"}
    check(store_path, stored)


@pytest.mark.parametrize("effort", [HOT, AGGRESSIVE])
def test_a_fine_tune_whose_tensors_have_other_names_becomes_differences(store_path, effort):
    own = tuned(model(), 1)
    renamed = {f"model.block.{number}.weight": own[name] for number, name in enumerate(sorted(own))}
    stored = put_unrelated(store_path, [model(), renamed, tuned(model(), 2)])

    repacked = run(store_path, effort)

    assert repacked.after.by_codec["difference"].object_count == 8
    check(store_path, stored)


def test_models_that_share_neither_names_nor_all_forms_are_joined_by_their_numbers(store_path):
    own = tuned(model(), 1)
    embedding = np.random.default_rng(7).normal(0, 0.02, (100, 700)).astype(np.float32)
    first = {**model(), "vocabulary": embedding}
    second = {f"text.{name}": array for name, array in own.items()} | {
        f"other.{n}": embedding[:, n:] for n in range(1, 4)
    }
    stored = put_unrelated(store_path, [first, second])
    assert not set(form_keys_of(first)) & set(form_keys_of(second))

    repacked = run(store_path)

    assert repacked.after.by_codec["difference"].object_count >= 4
    check(store_path, stored)


def test_a_second_repack_finds_nothing_to_do(store_path):
    put_unrelated(store_path, family(4))
    run(store_path)
    before = files(store_path)

    repacked = run(store_path)

    assert repacked.rewritten_count == 0
    assert files(store_path) == before


def test_an_aggressive_repack_goes_deeper_and_no_deeper_than_readers_go(store_path):
    stored = put_unrelated(store_path, chain(12))
    hot = run(store_path)

    repacked = run(store_path, AGGRESSIVE)

    assert max(hot.after.by_depth) == 2
    assert 2 < max(repacked.after.by_depth) <= 8
    assert repacked.after.pack_bytes < hot.after.pack_bytes
    check(store_path, stored)
    assert run(store_path).rewritten_count == 0  # and a hot one leaves it as it is


def test_a_dry_run_says_about_what_would_come_out_and_changes_nothing(store_path):
    put_unrelated(store_path, family(3))
    before = files(store_path)

    expected = run(store_path, is_dry=True)

    assert files(store_path) == before
    came_out = run(store_path)
    assert expected.rewritten_count == came_out.rewritten_count
    assert expected.after.by_codec == came_out.after.by_codec
    assert abs(expected.after.pack_bytes - came_out.after.pack_bytes) < 4000


def test_what_is_stored_twice_is_kept_once(store_path):
    stored = put_unrelated(store_path, [model(), model()])

    repacked = run(store_path)

    assert repacked.before.duplicate_bytes > 0.4 * repacked.before.pack_bytes
    assert repacked.after.duplicate_bytes == 0
    assert repacked.after.pack_bytes < 0.51 * repacked.before.pack_bytes
    check(store_path, stored)


def test_what_the_index_has_forgotten_is_found_again(store_path):
    place = DirectoryBackend(store_path)
    raws = [random.Random(number).randbytes(3 << 20) for number in range(3)]
    with Objects(place) as objects:
        for raw in raws:
            objects.put(Kind.CHUNK, raw)
    (name,) = place.list("index")
    (pack,) = (SealedPack(info.id, info.file_bytes, []) for info in Run(place.view(name), name).packs)
    write_run(place, [pack._replace(rows=[row for _, row in Run(place.view(name), name).rows()][1:])])
    place.delete(name)
    assert sum(Objects(place).contains(digest_of(raw)) for raw in raws) == 2

    Store.open(store_path, create=True).close()
    run(store_path)

    assert all(Objects(place).get(Kind.CHUNK, digest_of(raw)) == raw for raw in raws)
    assert list(verify(Objects(place), Level.RAW)) == []


def test_of_two_records_the_smaller_is_not_kept_if_it_is_wrong(store_path):
    raw = model()["layer.0"].tobytes()
    right, wrong = (Objects(DirectoryBackend(store_path)) for _ in range(2))
    for objects in (right, wrong):
        objects.begin()
        objects.catalog.snapshot()
    forged = Entry(Kind.CHUNK, digest_of(raw), "constant", b"", len(raw), 1, (), 0, checksum_of(b"x"))
    wrong.add_representation(forged, b"x")
    right.put(Kind.CHUNK, raw, "float32")
    wrong.close()
    right.close()

    with Store.open(store_path, create=True) as store:
        repacked = repack(store.objects, store.pool)

    assert repacked.after.by_codec.keys() == {"planes"}
    assert Objects(DirectoryBackend(store_path)).get(Kind.CHUNK, digest_of(raw)) == raw


def test_a_writer_that_leaned_on_what_was_repacked_meanwhile_loses_nothing(store_path):
    """It made a difference from a whole copy, which then became a difference itself, as deep as the writer's."""
    stored = put_unrelated(store_path, family(3))
    writer = Objects(DirectoryBackend(store_path))
    olds = {digest_of(each.tobytes()): each for weights in family(3) for each in weights.values()}
    news = {base: tuned({"": each}, 9)[""].tobytes() for base, each in olds.items()}
    prepared = [writer.prepare(Kind.CHUNK, raw, "float32", [base]) for base, raw in news.items()]
    assert all(each.entry is not None and each.entry.depth == 1 for each in prepared)

    repacked = run(store_path)
    for each in prepared:
        writer.add(each)

    assert not repacked.is_swept
    late = Objects(DirectoryBackend(store_path))
    assert all(late.get(Kind.CHUNK, digest_of(raw)) == raw for raw in news.values())
    assert list(verify(late, Level.RAW)) == []
    writer.seal()
    check(store_path, stored)
    assert not [name for name in files(store_path) if name.startswith("retired/")]
    objects = Objects(DirectoryBackend(store_path))
    assert all(objects.get(Kind.CHUNK, digest_of(raw)) == raw for raw in news.values())
    run(store_path)
    check(store_path, stored)
    assert all(objects.get(Kind.CHUNK, digest_of(raw)) == raw for raw in news.values())


def test_what_a_writer_made_of_copies_meanwhile_gets_a_record_without_bases(store_path):
    """What it counted as the price of its bases may not be their price any more."""
    stored = put_unrelated(store_path, family(3))
    run(store_path)
    with Objects(DirectoryBackend(store_path)) as seen:
        deep = next(digest for digest, held in Holdings(seen) if held.depth == 1)
    put_unrelated(store_path, [tuned(model(), seed) for seed in (8, 9)])
    writer = Objects(DirectoryBackend(store_path))
    assert writer.begin()
    base = bytes(writer.get(Kind.CHUNK, deep))
    raw = base[4096:] + b"1234" * 16
    recipe = Recipe((Range(0, len(base) - 4096, 0, 4096),), (Patch(len(base) - 4096, 64),))
    coded = codecs.encode_copies(raw, recipe, "float32")
    assert coded is not None
    payload = bytes(coded.stored)
    entry = Entry(Kind.CHUNK, digest_of(raw), "copies", b"", len(raw), len(payload), (deep,), 2, checksum_of(payload))

    assert not run(store_path).is_swept
    writer.add_representation(entry, payload)
    writer.seal()

    late = Objects(DirectoryBackend(store_path))
    assert not late.catalog.snapshot().notes
    assert late.representations.shallowest(digest_of(raw)).depth == 0
    assert late.get(Kind.CHUNK, digest_of(raw)) == raw
    check(store_path, stored)
    repacked = run(store_path)
    assert repacked.after.duplicate_bytes == 0
    assert Objects(DirectoryBackend(store_path)).get(Kind.CHUNK, digest_of(raw)) == raw


def test_what_is_retired_becomes_nobodys_base_again(store_path):
    put_unrelated(store_path, family(3))
    with Store.open(store_path) as other:
        assert other.objects.begin()
        assert not run(store_path).is_swept
        objects = Objects(DirectoryBackend(store_path))
        depths = set()
        for number, weights in enumerate(family(3)):
            raw = weights["layer.0"]
            later = tuned({"": raw}, 20 + number)[""].tobytes()
            entry = objects.prepare(Kind.CHUNK, later, "float32", [digest_of(raw.tobytes())]).entry
            assert entry is not None
            depths.add(entry.depth)
        assert depths == {1, 2}
        objects.close()
    assert Objects(DirectoryBackend(store_path)).catalog.snapshot().notes


def test_a_reader_that_looked_before_a_repack_reads_everything_after_it(store_path):
    stored = put_unrelated(store_path, family(4))
    run(store_path)
    with Store.open(store_path) as reader, Store.open(store_path) as other:
        for objects in (reader.objects, other.objects):
            objects.catalog.snapshot()
        more = put_unrelated(store_path, chain(4)[1:])

        assert run(store_path, AGGRESSIVE).is_swept

        assert {digest: content(reader, digest) for digest in stored | more} == stored | more
        assert other.missing_objects(stored) == []


def test_a_writer_that_has_old_packs_open_leans_on_what_is_there_now(store_path):
    stored = put_unrelated(store_path, family(3))
    objects = Objects(DirectoryBackend(store_path))
    olds = {digest_of(each.tobytes()): each for weights in family(3) for each in weights.values()}
    assert all(objects.get(Kind.CHUNK, digest) == each.tobytes() for digest, each in olds.items())

    assert run(store_path).is_swept
    news = {base: tuned({"": each}, 9)[""].tobytes() for base, each in olds.items()}
    digests = [objects.put(Kind.CHUNK, raw, "float32", [base]) for base, raw in news.items()]

    late = Objects(DirectoryBackend(store_path))
    assert [late.get(Kind.CHUNK, digest) for digest in digests] == list(news.values())
    objects.close()
    check(store_path, stored)


def test_a_reader_that_finds_a_base_gone_looks_for_the_delta_again_too(store_path):
    """Its pack is still open, so the old delta can be read; but its base has become too deep for that."""
    one, two, three = (weights["layer.0"].tobytes() for weights in chain(3))
    for raw, base in ((one, None), (two, None), (three, two)):
        with Objects(DirectoryBackend(store_path)) as objects:
            objects.put(Kind.CHUNK, raw, "float32", [] if base is None else [digest_of(base)])
    old_packs = sorted(name for name in files(store_path) if name.startswith("packs/"))
    reader = Objects(DirectoryBackend(store_path))
    assert reader.get(Kind.CHUNK, digest_of(one)) == one
    reader.packs.get(old_packs[2])
    deltas = {}
    for raw, base in ((two, one), (three, two)):
        entry, stored = reader.representation(digest_of(raw))
        coded = codecs.encode_difference(raw, base, "float32")
        assert coded is not None
        stored = bytes(coded.stored)
        deltas[raw] = (
            entry._replace(
                codec="difference",
                bases=(digest_of(base),),
                depth=len(deltas) + 1,
                stored_bytes=len(stored),
                checksum=checksum_of(stored),
            ),
            stored,
        )
    reader.packs.keep(frozenset(old_packs[2:]))

    writer = PackWriter.new(DirectoryBackend(store_path))
    for entry, stored in deltas.values():
        writer.append(entry, stored)
    writer.seal()
    writer.close()
    for name in old_packs[1:]:
        DirectoryBackend(store_path).delete(name)

    assert reader.get(Kind.CHUNK, digest_of(three)) == three


def test_a_damaged_pack_stays_for_repair_and_the_rest_is_repacked(store_path):
    stored = put_unrelated(store_path, family(3))
    rotten = sorted(name for name in files(store_path) if name.startswith("packs/"))[1]
    path = os.path.join(store_path, rotten)
    with open(path, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))

    run(store_path)

    assert rotten in files(store_path)
    readable = 0
    with Store.open(store_path) as store:
        for digest, raw in stored.items():
            try:
                assert content(store, digest) == raw
                readable += 1
            except Exception as error:
                assert "corrupt" in str(error)  # noqa: PT017
    assert readable >= 2


def hostile(raw: bytes, codec: str, bases: list[bytes], depth: int) -> tuple[Entry, bytes]:
    names = tuple(digest_of(base) for base in bases)
    return Entry(Kind.CHUNK, digest_of(raw), codec, b"", len(raw), 4, names, depth, checksum_of(b"abcd")), b"abcd"


def test_records_in_a_ring_and_crowds_of_bases_do_no_harm(store_path):
    stored = put_unrelated(store_path, family(3))
    small, large = [bytes([number]) * 5000 for number in range(16)], bytes(2 << 20)
    with Objects(DirectoryBackend(store_path)) as objects:
        objects.add_representation(*hostile(small[0], "difference", [small[1]], 1))
        objects.add_representation(*hostile(small[1], "difference", [small[0]], 2))
        objects.add_representation(*hostile(large, "copies", [small[0], small[1]], 2))
        objects.add_representation(*hostile(b"no bases", "difference", [], 0))
        level = small[2:]
        for depth in range(1, 9):
            raws = [bytes([depth, number]) * 3000 for number in range(14)]
            for raw in raws:
                objects.add_representation(*hostile(raw, ("copies", "difference")[depth % 2], level, depth))
            level = raws

    repacked = run(store_path, AGGRESSIVE)

    assert repacked.after.object_count == repacked.before.object_count
    with Store.open(store_path) as store:
        assert {digest: content(store, digest) for digest in stored} == stored


def test_while_another_process_repacks_it_says_so(store_path):
    put_unrelated(store_path, family(2))
    with DirectoryBackend(store_path).try_lock(upkeep.MERGE_LOCK) as is_ours:
        assert is_ours
        with pytest.raises(BackendError, match="another process"):
            run(store_path)


def test_the_command_reports_before_and_after(store_path, capsys):
    put_unrelated(store_path, family(3))
    assert cli.main(["repack", store_path, "-n"]) == 0
    assert "would save about" in capsys.readouterr().out

    assert cli.main(["repack", store_path, "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1
    assert report["saved_bytes"] == report["before"]["pack_bytes"] - report["after"]["pack_bytes"] > 0
    assert cli.main(["repack", store_path, "--aggressive", "-n"]) == 0
    assert "nothing to save" in capsys.readouterr().out


def test_where_others_wrote_more_than_was_saved_the_report_says_that_the_store_grew(store_path):
    put_unrelated(store_path, family(2))
    repacked = run(store_path)
    grown = repacked._replace(after=repacked.after._replace(pack_bytes=repacked.before.pack_bytes + 5_000_000))

    summary = repack_text(grown, False, 1.0).splitlines()[-1]

    assert (
        summary == "4 objects stored anew in 1.0 s; the store grew by 5.00 MB meanwhile, as somebody else wrote to it"
    )


CHILD = """
import os, signal, sys
from thetastore.upkeep.repack import AGGRESSIVE, HOT, repack
from thetastore.store import Store

path, last = sys.argv[1], int(sys.argv[2])
done = 0

def counted(name):
    call = getattr(os, name)
    def counting(*arguments, **options):
        global done
        done += 1
        if done == last:
            if name == "pwritev":
                fd, parts, offset = arguments
                whole = b"".join(parts)
                os.pwrite(fd, whole[: len(whole) * 2 // 3], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    setattr(os, name, counting)

for name in ("pwritev", "fsync", "link", "unlink", "open", "mkdir", "ftruncate"):
    counted(name)
store = Store.open(path)
repack(store.objects, store.pool, AGGRESSIVE if "deep" in sys.argv else HOT)
print(done)
"""


def kill_everywhere(tmp_path, step: int, effort: str) -> int:
    template = str(tmp_path / "template")
    stored = put_unrelated(template, [*chain(4), model()])
    last = 1
    while True:
        path = str(tmp_path / str(last))
        subprocess.run(["cp", "-r", template, path], check=True)
        arguments = [sys.executable, "-c", CHILD, path, str(last), effort]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False)
        assert done.returncode in (0, -9)
        with Store.open(path) as store:
            assert {digest: content(store, digest) for digest in stored} == stored
        heir = run(path, AGGRESSIVE if effort == "deep" else HOT)
        assert heir.is_swept
        assert heir.after.duplicate_bytes == 0
        check(path, stored)
        names = files(path)
        assert not [name for name in names if name.startswith(("retired/", "incoming/"))]
        assert len([name for name in names if name.startswith("packs/")]) == 1
        if done.returncode == 0:
            return last
        last += step


def test_nothing_is_lost_when_a_repack_is_killed_at_some_of_its_calls(tmp_path):
    assert kill_everywhere(tmp_path, step=13, effort="hot") > 50


@pytest.mark.deep
@pytest.mark.parametrize("effort", ["hot", "deep"])
def test_nothing_is_lost_wherever_a_repack_is_killed(tmp_path, effort):
    assert kill_everywhere(tmp_path, step=1, effort=effort) > 50


LIFE = """
import io, itertools, sys
sys.path[:0] = sys.argv[4:]
from checkpoints import safetensors_bytes
from test_repack import content, model, tuned
from thetastore.errors import BackendError
from thetastore.digest import Digest
from thetastore.upkeep.repack import AGGRESSIVE, HOT, repack
from thetastore.store import Store

role, path, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
if role == "repack":
    for turn in itertools.count():
        with Store.open(path) as store:
            try:
                repack(store.objects, store.pool, (HOT, AGGRESSIVE)[(seed + turn) % 2])
            except BackendError as error:
                assert "another process" in str(error), error
if role == "write":
    before = None
    for turn in range(5):
        raw = safetensors_bytes(tuned(model(seed % 2, 40), 100 * seed + turn, 2e-9))
        with Store.open(path) as store:
            before = store.put_file(io.BytesIO(raw), before if turn % 2 else None).manifest_digest
            assert content(store, before) == raw
        print(before, flush=True)
if role == "read":
    store = Store.open(path)
    for line in sys.stdin:
        digest = Digest.parse(line.strip())
        content(store, digest)
        print("read", flush=True)
"""


def start(role: str, path: str, seed: int) -> subprocess.Popen[str]:
    here = os.path.dirname(__file__)
    shared = os.path.join(os.path.dirname(here), "shared")
    return subprocess.Popen(
        [sys.executable, "-c", LIFE, role, path, str(seed), here, shared],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def live(path: str, writers: int, kills: int) -> None:
    """Writers, a reader as old as the store, and two repacks of which one or the other is killed now and then."""
    rng = random.Random(7)
    Store.open(path, create=True).close()
    digests: list[Digest] = []
    reader = start("read", path, 0)
    repacks = [start("repack", path, seed) for seed in range(2)]
    working = [start("write", path, seed) for seed in range(writers)]
    left = kills
    while working:
        for writer in list(working):
            line = writer.stdout.readline()
            if not line:
                writer.communicate()
                assert writer.returncode == 0
                working.remove(writer)
                continue
            digests.append(Digest.parse(line.strip()))
            reader.stdin.write(f"{rng.choice(digests)}\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "read\n"
            if left and rng.random() < 0.6:
                left -= 1
                victim = rng.randrange(2)
                repacks[victim].kill()
                repacks[victim].communicate()
                repacks[victim] = start("repack", path, victim + left)
    for each in repacks:
        assert each.poll() is None  # none of them has failed
        each.kill()
        each.communicate()
    reader.communicate()
    assert reader.returncode == 0

    expected = {
        digest_of(raw): raw
        for seed in range(writers)
        for turn in range(5)
        if (raw := safetensors_bytes(tuned(model(seed % 2, 40), 100 * seed + turn, 2e-9)))
    }
    with Store.open(path) as store:
        found = {digest_of(content(store, digest)) for digest in digests}
        assert found == expected.keys()
        store.objects.seal()
        assert list(verify(store.objects, Level.RAW)) == []
    final = run(path)
    assert final.is_swept
    assert final.after.duplicate_bytes == 0
    with Store.open(path) as store:
        assert list(verify(store.objects, Level.RAW)) == []
        assert {digest_of(content(store, digest)) for digest in digests} == expected.keys()


def test_readers_writers_and_repacks_that_are_killed_lose_nothing(store_path):
    live(store_path, writers=2, kills=4)


@pytest.mark.deep
def test_many_writers_and_repacks_that_are_killed_lose_nothing(store_path):
    live(store_path, writers=6, kills=25)
