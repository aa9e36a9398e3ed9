"""A store is checked and mended by itself: levels, losses, sources, and nothing is ever deleted."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.backends.memory import MemoryBackend
from thetastore.checking.budget import Budget, Spending, parse_budget
from thetastore.checking.check import Check, Named
from thetastore.checking.repair import FileSource, StoreSource, repair
from thetastore.checking.report import finding_lines
from thetastore.cli.main import main
from thetastore.digest import Digest
from thetastore.errors import MalformedError
from thetastore.store import Store
from thetastore.upkeep.verify import Finding, Level, Problem

WORDS = [10_000_000, 600.0]


def model(seed: int, names: str = "ab") -> bytes:
    rng = np.random.default_rng(seed)
    return safetensors_bytes({name: rng.normal(0, 0.02, (600, 300)).astype(np.float32) for name in names})


def filled(*contents: bytes) -> tuple[MemoryBackend, list[Digest]]:
    backend = MemoryBackend()
    with Store.at(backend, create=True) as store:
        digests = []
        for content in contents:
            digests.append(store.put_file(io.BytesIO(content)).manifest_digest)
            store.seal()
    return backend, digests


def content(store: Store, digest: Digest) -> bytes:
    return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))


def flip(backend: MemoryBackend, name: str, at: int) -> None:
    stored = bytearray(backend.read(name))
    stored[at] ^= 1
    backend.delete(name)
    backend.create(name, bytes(stored))


def checked(backend: MemoryBackend, level: Level = Level.RAW) -> Check:
    check = Check(Store.at(backend), level)
    list(check.findings())
    return check


def test_a_listing_tells_what_is_gone_or_cut_off_without_reading_packs():
    backend, _ = filled(model(1), model(2))
    first, second = sorted(backend.list("packs"))
    whole = backend.read(first)
    backend.delete(first)
    backend.create(first, whole[:-1])
    backend.delete(second)

    found = checked(backend, Level.LISTING).found

    assert {finding.problem for finding in found} == {Problem.PACK}
    assert any(first == finding.file_name for finding in found)
    assert any(second in finding.reason for finding in found)


def test_rows_of_lost_chunks_are_named_and_neighbours_put_together():
    backend, _ = filled(safetensors_bytes({"w": np.random.default_rng(1).normal(0, 1, (5000, 300)), "s": np.ones(())}))
    (name,) = backend.list("packs")
    flip(backend, name, len(backend.read(name)) // 2)

    (lost,) = checked(backend).lost_files()

    (part,) = lost.parts
    assert (part.tensor, part.row_count) == ("w", 5000)
    assert part.stop_row - part.first_row == lost.raw_bytes // 2400
    assert str(part).startswith(f"tensor 'w', rows {part.first_row} to {part.stop_row - 1} of 5000")


def test_a_pack_that_vanished_is_known_by_the_index_and_comes_back_from_another_store():
    backend, digests = filled(model(1), model(2))
    twin, _ = filled(model(1), model(2))
    gone = sorted(backend.list("packs"))[0]
    backend.delete(gone)
    store = Store.at(backend)

    repaired = repair(store, None, [StoreSource("twin", lambda: Store.at(twin))])

    assert repaired.lost_count == 0
    assert repaired.brought[0].object_count > 0
    assert [content(Store.at(backend), digest) for digest in digests] == [model(1), model(2)]
    assert checked(backend).found == []


def test_what_is_lost_stays_known_after_the_index_was_made_anew():
    backend, digests = filled(model(1), model(2))
    backend.delete(sorted(backend.list("packs"))[1])

    repaired = repair(Store.at(backend), None, [], digests)
    later = checked(backend)

    assert repaired.lost_count > 0
    assert [file.manifest_digest for file in repaired.lost] == [digests[1]]
    assert later.found == []
    assert [file.manifest_digest for file in later.lost_files(digests)] == [digests[1]]


def test_differences_from_a_lost_base_are_kept_and_readable_once_it_is_back(tmp_path):
    tuned = safetensors_bytes(
        {name: (np.random.default_rng(1).normal(0, 0.02, (600, 300)) + 1e-6).astype(np.float32) for name in "a"}
    )
    backend, digests = filled(model(1, "a"))
    with Store.at(backend) as store:
        digests.append(store.put_file(io.BytesIO(tuned), digests[0]).manifest_digest)
        codecs = {store.objects.entry(chunk.digest).codec for chunk in store.get_manifest(digests[1]).chunks}
    assert "difference" in codecs
    name = sorted(backend.list("packs"))[0]
    flip(backend, name, len(backend.read(name)) // 2)
    (tmp_path / "old.safetensors").write_bytes(model(1, "a"))

    lost = checked(backend).lost_files()
    repaired = repair(Store.at(backend), None, [FileSource(str(tmp_path / "old.safetensors"))])

    assert {file.manifest_digest for file in lost} == set(digests)
    assert repaired.lost_count == 0
    assert [content(Store.at(backend), digest) for digest in digests] == [model(1, "a"), tuned]


def test_a_damaged_run_is_set_aside_and_the_index_made_anew():
    backend, digests = filled(model(1))
    (run,) = backend.list("index")
    flip(backend, run, 50)

    found = checked(backend, Level.TABLES).found
    repair(Store.at(backend), found, [])

    assert {finding.problem for finding in found} >= {Problem.INDEX}
    assert list(backend.list("damaged")) == [run.replace("index/", "damaged/")]
    assert checked(backend).found == []
    assert content(Store.at(backend), digests[0]) == model(1)


def test_every_lost_page_and_manifest_is_made_again_from_the_file(tmp_path):
    big = np.random.default_rng(3).bytes(40 << 20)  # more chunks than fit into the root
    path = tmp_path / "big.bin"
    path.write_bytes(big)
    backend = MemoryBackend()
    with Store.at(backend, create=True) as store, path.open("rb", buffering=0) as file:
        digest = store.put_file(file).manifest_digest
        pages = store.get_manifest(digest).pages
    place = next(Store.at(backend).objects.catalog.snapshot().find(pages[0].digest))
    flip(backend, place.file_name, place.offset + place.nbytes - 1)

    (lost,) = checked(backend).lost_files()
    repaired = repair(Store.at(backend), None, [FileSource(str(path))])

    assert lost.holes[0].raw_bytes == pages[0].raw_bytes
    assert repaired.lost_count == 0
    assert checked(backend).found == []


def test_weights_in_another_format_bring_back_what_they_share(tmp_path):
    backend, digests = filled(model(1))
    name = next(backend.list("packs"))
    flip(backend, name, len(backend.read(name)) // 2)
    arrays = {"b": None, "a": None}
    rng = np.random.default_rng(1)
    for one in "ab":
        arrays[one] = rng.normal(0, 0.02, (600, 300)).astype(np.float32)
    np.savez(tmp_path / "copy.npz", **arrays)

    repaired = repair(Store.at(backend), None, [FileSource(str(tmp_path / "copy.npz"))])

    assert repaired.lost_count == 0
    assert content(Store.at(backend), digests[0]) == model(1)


def test_a_source_that_lies_or_is_not_there_brings_nothing_and_hurts_nothing(tmp_path):
    backend, _ = filled(model(1))
    name = next(backend.list("packs"))
    flip(backend, name, len(backend.read(name)) // 2)
    (tmp_path / "other").write_bytes(model(1)[:-5] + b"wrong")
    liar, _ = filled(model(1))
    flip(liar, next(liar.list("packs")), len(liar.read(next(liar.list("packs")))) // 2)

    sources = [
        FileSource(str(tmp_path / "nowhere")),
        StoreSource("closed", lambda: None),
        StoreSource("liar", lambda: Store.at(liar)),
    ]
    repaired = repair(Store.at(backend), None, sources)

    assert [one.object_count for one in repaired.brought] == [0, 0, 0]
    assert "nowhere" in repaired.brought[0].failure
    assert repaired.lost_count == 1


def test_budgets_are_read_as_people_write_them():
    assert parse_budget("10MB/10min") == Budget(*WORDS)
    assert parse_budget("2h") == Budget(None, 7200.0)
    assert parse_budget("1.5GiB") == Budget(3 << 29, None)
    for text in ("", "/", "10", "10 parsecs", "1s/2s", "0GB"):
        with pytest.raises(MalformedError):
            parse_budget(text)


def test_a_budget_allows_one_pack_at_least_and_then_what_it_says():
    times = iter([0.0, 0.0, 5.0, 11.0])
    spending = Spending(Budget(100, 10.0), lambda: next(times))

    assert [spending.allows(60), spending.allows(30), spending.allows(9), spending.allows(1)] == [
        True,
        True,
        True,
        False,
    ]


def test_a_check_in_parts_meets_every_pack_and_then_begins_anew():
    backend, _ = filled(*(model(seed) for seed in range(4)))
    seen = []
    for _ in range(5):
        check = Check(Store.at(backend), Level.RAW, Budget(1))
        assert list(check.findings()) == []
        seen.append((check.skipped_count, check.done_count, check.is_whole))

    assert seen == [(0, 1, False), (1, 1, False), (2, 1, False), (3, 1, True), (0, 1, False)]


def test_the_commands_of_a_store_without_git_check_and_mend_it(tmp_path, capsys):
    store, twin = str(tmp_path / "store"), str(tmp_path / "twin")
    (tmp_path / "m.st").write_bytes(model(1))
    for place in (store, twin):
        with Store.open(place, create=True) as opened, (tmp_path / "m.st").open("rb", buffering=0) as file:
            opened.put_file(file)
    (pack,) = (tmp_path / "store" / "packs").iterdir()
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    capsys.readouterr()

    assert main(["verify", store]) == 1
    assert "tensor 'a'" in (said := capsys.readouterr().out) or "tensor 'b'" in said
    assert main(["mend", store, "--from", twin]) == 1
    assert "brought back: 1 object" in capsys.readouterr().out
    assert main(["verify", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lost"] == []
    assert main(["mend", store]) == 0
    assert "nothing is damaged" in capsys.readouterr().err


def test_of_many_findings_alike_the_first_ones_are_listed_and_the_others_counted():
    """A pack that is gone, with the bases of a chain of fine-tunes, is a finding for every difference."""
    objects = [Digest(bytes([number]) * 32) for number in range(9)]
    found = [Finding("packs/a.pack", None, "it is cut off", Problem.PACK)]
    found += [Finding("packs/b.pack", one, "its base cannot be had", Problem.BASE) for one in objects]
    found += [Finding("packs/c.pack", one, "wrong", Problem.RECORD) for one in objects[:5]]

    lines = list(finding_lines(found))

    assert lines[0] == "packs/a.pack: it is cut off"
    assert lines[1:6] == [str(one) for one in found[1:6]]
    assert lines[6] == "packs/b.pack: 4 more objects that stand on what cannot be had (--json names each)"
    assert lines[7:] == [str(one) for one in found[10:]]


def test_findings_are_told_as_they_come():
    asked = []

    def slowly():
        for number in range(3):
            asked.append(number)
            yield Finding(f"packs/{number}.pack", None, "it is cut off", Problem.PACK)

    lines = finding_lines(slowly())

    assert next(lines).startswith("packs/0")
    assert asked == [0]


def swap(backend: MemoryBackend, *names: str) -> None:
    stored = [backend.read(name) for name in names]
    for name, body in zip(names, reversed(stored), strict=True):
        backend.delete(name)
        backend.create(name, body)


def test_two_packs_under_each_others_names_are_found_and_cost_nothing():
    backend, digests = filled(model(1), model(2, "abc"))
    swap(backend, *sorted(backend.list("packs")))

    check = checked(backend)
    list(check.missing([Named(digest, "a model") for digest in digests]))  # goes on though manifests are not found
    lost = check.lost_files(digests)
    repaired = repair(Store.at(backend), check.found, [], digests)

    assert {file.manifest_digest for file in lost} == set(digests)
    assert repaired.lost == []
    assert checked(backend).found == []
    assert content(Store.at(backend), digests[0]) == model(1)
    assert content(Store.at(backend), digests[1]) == model(2, "abc")


def test_a_damaged_manifest_is_a_finding_by_its_name_and_not_the_end_of_the_check():
    backend, (digest,) = filled(model(1))
    (name,) = backend.list("packs")
    with Store.at(backend) as store:
        place = next(iter(store.objects.catalog.snapshot().find(digest)))
    flip(backend, name, place.offset + place.nbytes - 1)

    check = checked(backend, Level.TABLES)
    list(check.missing([Named(digest, "'model' of commit 1")]))

    assert [finding.digest for finding in check.found] == [digest]
    assert "'model' of commit 1 needs it" in check.found[0].reason
    assert [str(part) for file in check.lost_files([digest]) for part in file.parts] == [
        "all of it, as its manifest is lost"
    ]


def test_a_pack_that_the_system_refuses_to_read_is_a_finding(tmp_path):
    with Store.open(str(tmp_path), create=True) as store:
        digest = store.put_file(io.BytesIO(model(1))).manifest_digest
    (pack,) = (tmp_path / "packs").iterdir()
    pack.rename(tmp_path / "elsewhere")
    pack.symlink_to(tmp_path / "elsewhere")

    with Store.open(str(tmp_path)) as store:
        check = Check(store, Level.RAW)
        found = list(check.findings())
        lost = check.lost_files([digest])

    assert {finding.file_name for finding in found} == {f"packs/{pack.name}"}
    assert all("cannot be read" in finding.reason for finding in found)
    assert len(lost) == 1
