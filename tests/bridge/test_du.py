"""`git theta du`: what history, or a revision, takes in the local store."""

from __future__ import annotations

import json
import struct

import numpy as np

NBYTES = 240_000


def weights(*seeds: int) -> bytes:
    """A model with one tensor of `NBYTES` bytes for each seed."""
    arrays = [np.random.default_rng(seed).normal(size=NBYTES // 4).astype(np.float32) for seed in seeds]
    header = {
        f"t{place}": {
            "dtype": "F32",
            "shape": [NBYTES // 4],
            "data_offsets": [place * NBYTES, (place + 1) * NBYTES],
        }
        for place in range(len(seeds))
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays)


def head_bytes(*seeds: int) -> int:
    return len(weights(*seeds)) - NBYTES * len(seeds)


def values(work, *args: str) -> dict:
    done = work.theta("du", "--json", *args)
    assert done.status == 0, done.err
    return json.loads(done.out)


def stored_in_packs(work) -> int:
    with work.repository() as repository, repository.open_store() as store:
        packs = store.objects.catalog.snapshot().packs
        return sum(record.nbytes for name in packs for record in store.objects.packs.get(name).records())


def history(work) -> list[str]:
    """Three commits: a model; its second tensor replaced; a copy under another name."""
    work.put("m.st", weights(1, 2))
    commits = [work.commit("one")]
    work.put("m.st", weights(1, 3))
    commits.append(work.commit("two"))
    work.put("sub/ä.st", weights(1, 3))
    commits.append(work.commit("three"))
    return commits


def test_the_history(work):
    commits = history(work)
    whole = len(weights(1, 2))

    found = values(work, "--tensors")

    assert found["schema"] == 1
    assert found["totals"] == {
        "file_count": 2,
        "logical_bytes": 3 * whole,  # the copy is named once more
        "unique_bytes": 2 * NBYTES,
        "shared_bytes": NBYTES + head_bytes(1, 2),
        "stored_bytes": stored_in_packs(work),
        "missing_object_count": 0,
    }
    model, copy = found["files"]
    assert (model["file"], model["file_count"], model["logical_bytes"]) == ("m.st", 2, 2 * whole)
    assert (model["unique_bytes"], model["shared_bytes"]) == (NBYTES, whole)
    assert (model["stored_bytes"], model["added_bytes"]) == (stored_in_packs(work), stored_in_packs(work))
    assert (copy["file"], copy["unique_bytes"], copy["shared_bytes"]) == ("sub/ä.st", 0, whole)
    assert [row["commit"] for row in found["commits"]] == commits
    assert [row["logical_bytes"] for row in found["commits"]] == [whole] * 3
    assert [row["unique_bytes"] for row in found["commits"]] == [NBYTES, 0, 0]
    assert [row["added_bytes"] > 0 for row in found["commits"]] == [True, True, False]
    assert sum(row["added_bytes"] for row in found["commits"]) == stored_in_packs(work)
    assert sum(codec["stored_bytes"] for codec in found["codecs"]) == stored_in_packs(work)
    assert [(row["file"], row["tensor"], row["logical_bytes"]) for row in found["tensors"]] == [
        ("m.st", "t0", 2 * NBYTES),
        ("m.st", "t1", 2 * NBYTES),
        ("m.st", None, 2 * head_bytes(1, 2)),
        ("sub/ä.st", "t0", NBYTES),
        ("sub/ä.st", "t1", NBYTES),
        ("sub/ä.st", None, head_bytes(1, 2)),
    ]


def test_revisions(work):
    first, second, _ = history(work)

    one, two = values(work, first), values(work, first, second)

    assert one["totals"]["logical_bytes"] == one["totals"]["unique_bytes"] == len(weights(1, 2))
    assert one["totals"]["stored_bytes"] < stored_in_packs(work) == two["totals"]["stored_bytes"]
    assert [(row["commit"], row["unique_bytes"]) for row in two["commits"]] == [(first, NBYTES), (second, NBYTES)]


def test_a_version_that_only_a_merge_made_is_counted_with_the_merge(work):
    work.put("m.st", weights(1))
    work.commit("base")
    work.git("checkout", "-q", "-b", "side")
    work.put("m.st", weights(2))
    work.commit("theirs")
    work.git("checkout", "-q", "main")
    work.put("m.st", weights(3))
    work.commit("ours")
    work.git("merge", "-q", "--no-commit", "side", check=False)
    work.put("m.st", weights(4))
    merge = work.commit("merged by hand")

    found = values(work)

    assert found["files"][0]["file_count"] == 4
    assert found["commits"][-1]["commit"] == merge
    assert found["totals"]["stored_bytes"] == stored_in_packs(work)


def test_what_other_branches_and_a_detached_head_hold_counts(work):
    work.put("m.st", weights(1))
    work.commit("one")
    work.git("checkout", "-q", "--detach")
    work.put("m.st", weights(2))
    work.commit("on no branch")

    assert values(work)["files"][0]["file_count"] == 2


def test_weights_that_are_not_here_are_missing(work, make_work):
    history(work)
    clone = make_work("clone", clone=work.path)
    with clone.repository() as repository:
        repository.open_store().close()

    found = values(clone)

    assert found["totals"]["logical_bytes"] == 3 * len(weights(1, 2))
    assert (found["totals"]["stored_bytes"], found["totals"]["missing_object_count"]) == (0, 2)


def test_output_for_people(work):
    history(work)

    done = work.theta("du")

    assert done.status == 0
    assert done.out.startswith("logical  1.44 MB  2 versions\n")
    assert "three" in done.out
    assert "sub/ä.st" in done.out
    assert all(len(line) < 120 for line in done.out.splitlines())


def test_where_there_is_nothing(work, make_work):
    with work.repository() as repository:
        repository.open_store().close()

    empty = work.theta("du")
    without_store = make_work("other").theta("du")
    unknown = work.theta("du", "no-such-revision")

    assert (empty.status, empty.out) == (0, "")
    assert "no commit looked at holds a tracked file" in empty.err
    assert (without_store.status, "git theta fetch" in without_store.err) == (2, True)
    assert (unknown.status, "no-such-revision" in unknown.err) == (2, True)
