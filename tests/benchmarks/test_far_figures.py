"""What is counted of stores far away, by the code that makes the figures, in small."""

from __future__ import annotations

from benchmarks import far_store, index_at_scale


def test_in_a_billion_chunks_one_is_found_by_some_30_kib_of_the_index():
    rows = {row["what"]: row for row in index_at_scale.measure(1_000_000_000, questions=5, batches=(50,))}

    opened, there, absent = (rows[what] for what in ("open", "one that is there", "one that is not there"))
    assert opened["bytes"] <= 1 << 20
    assert opened["round_trips"] == 1
    assert there["bytes"] <= 5 * (40 << 10)
    assert there["round_trips"] <= 2 * 5
    assert absent["round_trips"] == 5
    assert rows["50 at once"]["round_trips"] == 1


def test_what_a_push_and_a_fetch_take_grows_with_the_new_work_and_not_with_the_store():
    small, large = ({row["what"]: row for row in far_store.measure(objects)} for objects in (0, 100_000))

    for what in ("fetch", "fetch of 2 tensors"):
        assert large[what]["read_bytes"] <= 1.01 * small[what]["read_bytes"]
        assert large[what]["requests"] == small[what]["requests"]
    for what in ("push of a model", "push of its next version"):
        assert large[what]["round_trips"] <= small[what]["round_trips"] + 4
        assert large[what]["read_bytes"] <= small[what]["read_bytes"] + (2 << 20)  # the whole index has 5 MB
        assert large[what]["listings"] == small[what]["listings"] <= 10 + 35  # of these 35 at once, for relatives
    assert small["fetch of 2 tensors"]["round_trips"] == 2


def test_merging_takes_memory_for_a_piece_and_not_for_all_rows() -> None:
    row = index_at_scale.merging(400_000)

    assert row["chunks"] == 400_000
    assert row["bytes_a_row"] < 100
