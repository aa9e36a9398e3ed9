from __future__ import annotations

import io
from functools import partial

import pytest
from collectable import Place, model

from thetastore.collecting.collect import Collected, Terms, collect
from thetastore.collecting.explaining import explain
from thetastore.collecting.roots import roots_of
from thetastore.collecting.undeleting import list_let_go, undelete
from thetastore.errors import BackendError, MalformedError, ObjectCorruptError, ObjectMissingError, ThetaError
from thetastore.packs.catalog import id_of
from thetastore.packs.retirement_notes import Stage, write_note
from thetastore.packs.writer import sealed_name
from thetastore.pins import Pin, write_pin
from thetastore.store import Store
from thetastore.testing.faults import FaultyBackend
from thetastore.upkeep.losses import lost_objects
from thetastore.upkeep.verify import Level, verify


def gc(place: Place, terms: Terms | None = None, is_dry: bool = False, may_be_none: bool = True) -> Collected:
    with place.open() as store:
        return collect(store.objects, lambda: roots_of(place.backend, may_be_none), terms, is_dry)


def step_after(place: Place, days: float) -> Collected:
    place.clock.wait(days)
    return gc(place)


def test_what_has_no_name_goes_in_three_steps_and_what_has_one_stays(place: Place) -> None:
    kept, dead = place.put(1, "kept"), place.put(2)
    before = place.names("packs")

    condemned = step_after(place, 2)
    readable_while_condemned = place.read(dead)
    trashed = step_after(place, 1.1)
    in_trash = place.names("packs")
    deleted = step_after(place, 1.1)

    assert condemned.condemned.pack_count == 1
    assert condemned.condemned.nbytes > 200_000
    assert readable_while_condemned == model(2)
    assert trashed.trashed == condemned.condemned
    assert in_trash == before
    assert deleted.deleted == condemned.condemned
    assert place.names("packs") == [name for name in before if name in place.names("packs")]
    assert len(place.names("packs")) == 1
    assert place.read(kept) == model(1)
    with pytest.raises(ObjectMissingError):
        place.read(dead)
    assert not place.names("retired")
    assert gc(place).unneeded_bytes == 0


def test_nothing_is_condemned_before_its_writer_has_had_time_to_name_it(place: Place) -> None:
    place.put(1, "kept")
    dead = place.put(2)

    collected = gc(place)

    assert collected.condemned.pack_count == 0
    assert collected.staying_bytes == collected.unneeded_bytes > 200_000
    assert collected.next_s == 24 * 3600
    assert place.read(dead) == model(2)


def test_the_grace_is_counted_by_the_clock_of_the_place_and_by_nothing_else(place: Place) -> None:
    place.put(1, "kept")
    place.put(2)
    step_after(place, 2)

    early = step_after(place, 0.99)
    late = step_after(place, 0.02)

    assert early.waiting.pack_count == 1
    assert early.trashed.pack_count == 0
    assert 0 < (early.next_s or 0) < 900
    assert late.trashed.pack_count == 1


def test_what_is_named_again_during_the_grace_is_stored_again_or_kept(place: Place) -> None:
    place.put(1, "kept")
    digest = place.put(2)
    step_after(place, 2)

    place.name("again", digest)  # without storing it: the writer knew only the manifest
    stored_again = place.put(3)
    step_after(place, 1.1)
    step_after(place, 1.1)

    assert place.read(digest) == model(2)
    assert stored_again != digest


def test_a_writer_does_not_rely_on_what_is_condemned(place: Place) -> None:
    place.put(1, "kept")
    dead = place.put(2)
    step_after(place, 2)
    before = place.names("packs")

    again = place.put(2)

    assert again == dead
    assert len(place.names("packs")) == len(before) + 1
    with place.open() as store:
        assert not store.missing_objects([dead])


def test_what_lies_in_the_trash_is_not_read_and_comes_back_whole(place: Place) -> None:
    place.put(1, "kept")
    dead = place.put(2)
    step_after(place, 2)
    step_after(place, 1.1)
    with pytest.raises(ObjectMissingError):
        place.read(dead)

    with place.open() as store:
        (listed,) = list_let_go(store.objects)
        taken_back = undelete(store.objects, listed.id)

    assert taken_back == [listed]
    assert place.read(dead) == model(2)
    with place.open() as store:
        assert not list_let_go(store.objects)


def test_what_is_needed_and_lies_in_the_trash_comes_back_by_itself(place: Place) -> None:
    place.put(1, "kept")
    digest = place.put(2)
    step_after(place, 2)
    step_after(place, 1.1)

    place.name("late", digest)
    collected = step_after(place, 0.1)

    assert collected.returned.pack_count == 1
    assert place.read(digest) == model(2)


def test_what_is_needed_of_a_pack_that_goes_is_copied_first(place: Place) -> None:
    with place.open() as store:
        kept = store.put_file(io.BytesIO(model(1, 128))).manifest_digest
        dead = store.put_file(io.BytesIO(model(2, 512))).manifest_digest
    place.name("kept", kept)

    condemned = step_after(place, 2)
    step_after(place, 1.1)
    step_after(place, 1.1)

    assert condemned.copied_bytes > 100_000
    assert place.read(kept) == model(1, 128)
    with pytest.raises(ObjectMissingError):
        place.read(dead)


def test_a_pack_most_of_which_is_needed_stays(place: Place) -> None:
    with place.open() as store:
        kept = store.put_file(io.BytesIO(model(1, 1024))).manifest_digest
        store.put_file(io.BytesIO(model(2, 64)))
    place.name("kept", kept)

    collected = step_after(place, 2)

    assert collected.condemned.pack_count == 0
    assert 0 < collected.staying_bytes < 100_000


def test_bases_of_what_is_needed_stay_when_their_model_is_deleted(place: Place) -> None:
    base = place.put(1, "base", 1024)
    with place.open() as store:
        tuned = store.put_file(io.BytesIO(model(1, 1024, 1e-4)), base).manifest_digest
    place.name("tuned", tuned)
    with place.open() as store:
        leans = [store.objects.entry(digest).bases for digest in store.iter_objects(tuned)]
    assert any(leans), "or the test shows nothing"
    place.delete("base")

    first = step_after(place, 2)
    step_after(place, 1.1)
    step_after(place, 1.1)

    assert first.base_count >= 1
    assert place.read(tuned) == model(1, 1024, 1e-4)


def test_old_versions_go_when_a_ref_lets_go_of_them(place: Place) -> None:
    dead = place.put(1, "model")
    place.put(2, "other")
    place.delete("model")

    for days in (2, 1.1, 1.1):
        step_after(place, days)

    with pytest.raises(ObjectMissingError):
        place.read(dead)


def test_what_pins_name_stays(place: Place) -> None:
    pinned = place.put(1)
    write_pin(place.backend, Pin("https://example.org/m", "b" * 40, (pinned,)))

    for days in (2, 1.1, 1.1):
        step_after(place, days)

    assert place.read(pinned) == model(1)


@pytest.mark.parametrize(
    "name",
    [
        "refs/models/kept/000000000001",
        "refs/models/kept/000000000002",
        "refs/something-new",
        f"pins/{'a' * 40}/{'b' * 40}.{'c' * 32}.json",
        f"pins/{'a' * 40}/{'b' * 40}.{'c' * 32}.new",
        "sessions/what-is-this",
    ],
)
def test_a_root_that_cannot_be_read_or_is_unknown_keeps_everything(place: Place, name: str) -> None:
    place.put(1, "kept")
    dead = place.put(2)
    place.clock.wait(2)
    place.backend.delete(name)
    place.backend.create(name, b"what is this?")
    before = place.names("")

    with pytest.raises(ThetaError):
        gc(place)

    assert place.names("") == before + [found for found in place.names("") if found.startswith("locks/")]
    assert place.read(dead) == model(2)


def test_a_manifest_that_cannot_be_read_keeps_everything(place: Place) -> None:
    place.put(1, "kept")
    dead = place.put(2)
    missing = type(dead)(bytes(32))
    place.name("wrong", missing)
    place.clock.wait(2)

    with pytest.raises(ObjectMissingError):
        gc(place)

    assert place.read(dead) == model(2)


def test_what_is_needed_and_damaged_is_not_let_go_of(place: Place) -> None:
    with place.open() as store:
        kept = store.put_file(io.BytesIO(model(1, 128))).manifest_digest
        store.put_file(io.BytesIO(model(2, 512)))
    place.name("kept", kept)
    place.clock.wait(2)
    (pack,) = place.names("packs")
    place.backend._files[pack][2000] ^= 1  # in a chunk that is needed

    with pytest.raises(ObjectCorruptError):
        gc(place)

    assert place.names("packs")[0] == pack
    assert not place.names("retired")


def test_a_store_without_any_name_is_left_alone_unless_that_is_meant(place: Place) -> None:
    dead = place.put(1)
    place.clock.wait(2)

    with pytest.raises(MalformedError, match="--everything"):
        gc(place, may_be_none=False)
    meant = gc(place)

    assert meant.condemned.pack_count == 1
    assert place.read(dead) == model(1)


def test_the_local_store_of_git_repositories_is_left_to_them(place: Place) -> None:
    place.put(1, "kept")
    place.backend.create("repositories/somebody", b"")

    with pytest.raises(MalformedError, match="git theta prune"):
        gc(place)


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(place: Place) -> None:
    place.put(1, "kept")
    place.put(2)
    place.clock.wait(2)
    before = place.names("")

    would = gc(place, is_dry=True)

    assert place.names("") == before
    assert would.condemned.pack_count == 1
    assert would.condemned == gc(place).condemned


def test_a_session_that_began_before_is_waited_for_and_one_that_began_later_is_not(place: Place) -> None:
    place.put(1, "kept")
    place.put(2)
    place.clock.wait(2)
    with place.open() as writer:
        writer.begin_session()
        gc(place)
        place.clock.wait(0.5)
        writer.objects._session._renew()  # type: ignore[union-attr]
        waiting = step_after(place, 0.6)
        (session,) = waiting.held_by
    with place.open() as later:
        later.begin_session()
        done = gc(place)

    assert waiting.trashed.pack_count == 0
    assert session.startswith("sessions/")
    assert done.trashed.pack_count == 1


def test_a_session_without_a_sign_of_life_is_revoked_and_its_writer_finds_out(place: Place) -> None:
    place.put(1, "kept")
    digest = place.put(2)
    place.clock.wait(2)
    writer = place.open()
    writer.begin_session()
    assert not writer.missing_objects([digest])
    gc(place)
    for days in (1.1, 1.1):
        step_after(place, days)

    place.name("late", digest)
    lost = writer.lost_meanwhile([digest])
    writer.put_file(io.BytesIO(model(2)))
    writer.seal()
    lost_then = writer.lost_meanwhile([digest])
    writer.close()

    assert lost
    assert lost_then == []
    assert place.read(digest) == model(2)
    assert not place.names("sessions")


def test_a_writer_at_work_near_by_is_waited_for(place: Place) -> None:
    place.put(1, "kept")
    place.put(2)
    place.clock.wait(2)
    writer = place.open()
    writer.objects.begin()
    gc(place)

    waiting = step_after(place, 1.1)
    writer.close()
    done = gc(place)

    assert waiting.trashed.pack_count == 0
    assert [who.partition("/")[0] for who in waiting.held_by] == ["incoming"]
    assert done.trashed.pack_count == 1


def test_without_a_grace_all_steps_are_taken_at_once(place: Place) -> None:
    kept, dead = place.put(1, "kept"), place.put(2)

    collected = gc(place, Terms(0, 0))

    assert collected.deleted.pack_count == 1
    assert len(place.names("packs")) == 1
    assert place.read(kept) == model(1)
    with pytest.raises(ObjectMissingError):
        place.read(dead)


def test_two_collectors_do_not_work_at_once(place: Place) -> None:
    with place.backend.try_lock("locks/merge"), pytest.raises(BackendError, match="another process"):
        gc(place)


def test_an_object_is_explained_by_the_names_that_lead_to_it(place: Place) -> None:
    kept, dead = place.put(1, "kept"), place.put(2)
    with place.open() as store:
        chunk = next(digest for digest in store.iter_objects(kept) if digest != kept)
        explained = explain(store.objects, roots_of(place.backend), [chunk])
        unneeded = explain(store.objects, roots_of(place.backend), [dead])

    assert [root.name for root in explained.named_by] == ["refs/models/kept/000000000001"]
    assert explained.is_kept
    assert not unneeded.is_kept
    assert unneeded.places


def test_what_belongs_to_manifests_that_are_gone_goes_too(place: Place) -> None:
    kept, dead = place.put(1, "kept", 8192), place.put(2, None, 8192)
    assert any(str(dead) in name for name in place.names("families"))

    for days in (2, 1.1, 1.1):
        step_after(place, days)

    assert not any(str(dead) in name for name in place.names("families"))
    assert any(str(kept) in name for name in place.names("families"))


def test_a_collector_killed_after_any_of_its_calls_loses_nothing_and_the_next_one_goes_on(place: Place) -> None:
    calls = 0
    while True:
        here = Place()
        kept, dead = here.put(1, "kept", 64), here.put(2, None, 64)
        here.clock.wait(2)
        faulty = FaultyBackend(here.backend, fails_at=calls)
        for days in (0, 1.1, 1.1):
            here.clock.wait(days)
            try:
                store = Store.at(faulty)
                collect(store.objects, partial(roots_of, faulty))
                store.close()
            except ThetaError:
                here.backend.crash()
            if days == 0:
                assert here.read(dead) == model(2, 64)
            assert here.read(kept) == model(1, 64)
        here.backend.crash()
        for days in (0, 1.1, 1.1, 1.1):
            step_after(here, days)
        assert here.read(kept) == model(1, 64)
        with pytest.raises(ObjectMissingError):
            here.read(dead)
        assert len(here.names("packs")) == 1
        assert not here.names("retired")
        if calls >= len(faulty.operations):
            break
        calls += 7


def test_packs_in_the_trash_that_a_killed_collector_left_in_the_index_are_no_damage(place: Place) -> None:
    kept = place.put(1, "kept")
    before = set(place.names("packs"))
    place.put(2)
    (dead,) = set(place.names("packs")) - before
    write_note(place.backend, [id_of(dead)], (), Stage.TRASH)  # the index would have been next

    with place.open() as store:
        covered = {sealed_name(pack.id) for run in store.objects.catalog.snapshot().runs for pack in run.packs}
        found, lost = list(verify(store.objects, Level.RAW)), lost_objects(store.objects)

    assert dead in covered
    assert (found, lost) == ([], set())
    assert place.read(kept) == model(1)
