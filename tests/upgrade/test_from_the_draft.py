"""A real store of the draft, made by the draft's own code, becomes one of version 1, in place, whatever happens.

And the Git history that names its manifests goes on: what was committed is read, what has not changed stays as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest
from golden import FILES, MAKER, archive_of, check_files, check_names, unpack
from work_place import WorkPlace, environment_in

from migrations.upgrading import known_steps, plan, upgrade
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.collecting.roots import roots_of
from thetastore.descriptor import DESCRIPTOR, NEW, encode_descriptor, read_descriptor
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.pins import leanable, list_pins, read_pin
from thetastore.store import Store
from thetastore.testing.faults import Fault, FaultyBackend, FaultyRequests, MemoryRequests

RECORD = "upgrades/0001"


@pytest.fixture
def draft(tmp_path):
    return unpack(archive_of(0), tmp_path)


def far(files, faults=None):
    requests = FaultyRequests(MemoryRequests(files), faults)
    return requests, RemoteBackend(requests, "test://", pause=lambda seconds: None)


def content_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def check(backend, expected) -> None:
    with Store.at(backend) as store:
        check_files(store, expected)


def without_pins(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: body for name, body in files.items() if not name.startswith("pins/")}


def pinned_by_the_draft(files: dict[str, bytes]) -> tuple[str, str, list[str]]:
    """Return project, commit and manifests of the pin in the golden store."""
    (name,) = [name for name in files if name.startswith("pins/")]
    _, project, last = name.split("/")
    return project, last.removesuffix(".json"), json.loads(files[name])["manifests"]


def test_nothing_but_descriptor_and_pins_changes_and_the_store_has_what_it_had(draft):
    before = content_of(draft.store)
    backend = DirectoryBackend(str(draft.store))

    planned = plan(backend, known_steps())
    done = upgrade(backend, known_steps())

    assert (planned.start, planned.stop, planned.file_count) == (0, 1, 1)
    assert (done.start, done.stop, done.file_count) == (0, 1, 1)
    after = content_of(draft.store)
    assert after.pop(RECORD) == before.pop(DESCRIPTOR)
    assert after.pop(DESCRIPTOR) == encode_descriptor(NEW)
    assert without_pins(after) == without_pins(before)
    check(backend, draft.expected)
    check_names(str(draft.store))


def test_what_pins_of_the_draft_kept_is_kept_and_nobody_leans_on_it(draft):
    project, commit, manifests = pinned_by_the_draft(content_of(draft.store))
    backend = DirectoryBackend(str(draft.store))

    upgrade(backend, known_steps())

    listing = list_pins(backend)
    (name,) = listing.names
    pin = read_pin(backend, name)
    assert listing.unknown == ()
    assert (pin.url, pin.commit, [*map(str, pin.manifests)]) == (f"draft:{project}", commit, manifests)
    assert leanable(backend, pin.repository) == set()
    assert {str(root.manifest_digest) for root in roots_of(backend)} >= set(manifests)


def test_a_damaged_pin_of_the_draft_stops_the_upgrade_and_is_named(draft):
    backend = DirectoryBackend(str(draft.store))
    (name,) = backend.list("pins")
    sound = backend.read(name)
    for damaged in (
        sound[:-9],
        sound.replace(b"theta-pin", b"theta-bin"),
        b"",
        b"[" * 10_000,
        sound.replace(b": [", b": [{}, "),
    ):
        backend.delete(name)
        backend.create(name, damaged)
        with pytest.raises(MalformedError, match=f"'{name}' is no pin of the draft"):
            upgrade(backend, known_steps())
        assert backend.read(name) == damaged

    backend.delete(name)
    backend.create(name, sound)
    upgrade(backend, known_steps())

    check(backend, draft.expected)


def test_the_draft_is_refused_until_then_and_nothing_of_it_is_touched(draft):
    before = content_of(draft.store)

    with pytest.raises(UnsupportedError, match=f"has version 0; .* reads version 1: thetastore upgrade {draft.store}"):
        Store.open(str(draft.store), create=True)

    assert content_of(draft.store) == before


def test_an_upgrade_takes_as_many_requests_however_long_the_store_is(draft):
    counts = []
    for extra in (0, 1000):
        files = content_of(draft.store)
        files |= {f"locators/{number:064x}": b"" for number in range(extra)}
        requests, backend = far(files)
        upgrade(backend, known_steps())
        counts.append(len(requests.operations))

    assert counts[0] == counts[1] <= 20


@pytest.mark.parametrize(
    "fault", [Fault.DEAD, Fault.REQUEST_LOST, Fault.RESPONSE_LOST, Fault.DUPLICATED, Fault.SERVER_ERROR]
)
def test_in_a_bucket_whatever_happens_at_any_request_the_next_upgrade_ends_well(draft, fault):
    made = content_of(draft.store)
    whole = dict(made)
    requests, backend = far(whole)
    upgrade(backend, known_steps())

    for number in range(len(requests.operations)):
        files = dict(made)
        try:
            upgrade(far(files, {number: fault})[1], known_steps())
        except BackendError:
            assert fault is Fault.DEAD, "one lost request must not stop it"
            refuse_or_read(far(files)[1])
        upgrade(far(files)[1], known_steps())
        assert without_pins(files) == without_pins(whole)
        assert [*filter(is_pin, files)] == [*filter(is_pin, whole)]
        Store.at(far(files)[1]).close()
    check(backend, draft.expected)


def is_pin(name: str) -> bool:
    return name.startswith("pins/")


def refuse_or_read(backend) -> None:
    """Who opens the store now finds the draft, the new version, or is told of the upgrade; never an empty place."""
    said = ""
    try:
        Store.at(backend, create=True).close()
    except UnsupportedError as error:
        said = str(error)
    assert "thetastore upgrade" in said or read_descriptor(backend).version == 1


def test_in_a_directory_a_kill_in_any_call_loses_nothing(draft, tmp_path):
    for number in range(100):
        place = unpack(archive_of(0), tmp_path / str(number))
        backend = DirectoryBackend(str(place.store))
        mortal = FaultyBackend(backend, fails_at=number, number=errno.EIO, dies=True)
        try:
            upgrade(mortal, known_steps())
        except BackendError:
            refuse_or_read(backend)
            upgrade(backend, known_steps())
            check(backend, place.expected)
            assert len(list_pins(backend).names) == 1
            assert list_pins(backend).unknown == ()
            continue
        break

    assert 5 < number < 99
    check(backend, place.expected)


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_newer_than_this_is_refused_with_what_is_needed(draft, version):
    backend = DirectoryBackend(str(draft.store))
    backend.delete(DESCRIPTOR)
    backend.create(DESCRIPTOR, encode_descriptor(NEW._replace(version=version, needs="thetastore 2.5")))

    for opening in (lambda: Store.at(backend), lambda: upgrade(backend, known_steps())):
        with pytest.raises(
            UnsupportedError, match=rf"has version {version}; .* reads version 1: thetastore 2\.5 is needed \(pip"
        ):
            opening()


# With Git


@pytest.fixture
def work(draft, tmp_path):
    """A clone of the draft's history, whose remote store was upgraded."""
    home = tmp_path / "home"
    home.mkdir()
    place = WorkPlace(tmp_path, environment_in(home))
    place.run("thetastore", "upgrade", str(draft.store))
    return cloned(place, "clone", draft.bundle, draft.store)


def cloned(place: WorkPlace, name: str, origin: Path, store: Path) -> WorkPlace:
    place.git("clone", "-q", "-b", "main", "-c", f"theta.url={store}", str(origin), name)
    return WorkPlace(place.path / name, place.environment)


def digests(work: WorkPlace, paths) -> dict[str, str]:
    return {path: hashlib.sha256(work.read(path)).hexdigest() for path in paths}


def pointer(work: WorkPlace, name: str) -> str:
    return work.git("cat-file", "blob", name).splitlines()[0].rpartition("#")[2]


def test_a_history_of_the_draft_is_checked_out_and_checked_after_the_upgrade(work, draft):
    first, second = draft.expected["commits"]

    assert digests(work, second) == second
    work.git("checkout", "-q", "HEAD~1")
    assert digests(work, first) == first
    work.git("checkout", "-q", "main")
    assert work.status() == ""
    assert pointer(work, "main:rows.safetensors") == "pointer-0"
    for words in (("fsck",), ("fsck", "--remote"), ("status",), ("check",)):
        done = work.run("git", "theta", *words, check=False)
        assert (words, done.returncode) == (words, 0), done


def test_a_file_that_nobody_changed_does_not_look_changed(work):
    for path in FILES.keys() & set(work.git("ls-files").split()):
        raw = work.read(path)
        (work.path / path).unlink()
        (work.path / path).write_bytes(raw)

    assert work.status() == ""
    work.git("add", "--renormalize", ".")
    assert work.status() == ""


def test_what_is_new_is_version_1_and_what_comes_back_is_what_it_was(work):
    changed = MAKER.safetensors({"a": MAKER.weights(3)["w"]})
    old = work.read("model.safetensors")
    (work.path / "model.safetensors").write_bytes(changed)
    work.git("commit", "-q", "-am", "changed with version 1")

    assert pointer(work, "HEAD:model.safetensors") == "pointer-1"
    assert pointer(work, "HEAD:many.safetensors") == "pointer-0"
    (work.path / "model.safetensors").write_bytes(old)
    work.git("commit", "-q", "-am", "as before")
    assert work.git("diff", "--stat", "HEAD~2", "HEAD") == "", "the same bytes are the same pointer"
    assert work.status() == ""


def test_old_and_new_commits_are_pushed_merged_and_cloned_together(work, draft, tmp_path):
    changed = MAKER.safetensors({"a": MAKER.weights(3)["w"]})
    work.git("switch", "-q", "-c", "side", "main~1")
    (work.path / "model.safetensors").write_bytes(changed)
    work.git("commit", "-q", "-am", "side")
    work.git("switch", "-q", "main")
    work.git("merge", "-q", "-s", "ours", "-m", "both", "side")
    work.git("init", "-q", "--bare", "../new.git")
    work.git("push", "-q", "../new.git", "main", "side")

    other = cloned(WorkPlace(tmp_path, work.environment), "other", tmp_path / "new.git", draft.store)

    assert digests(other, draft.expected["commits"][1]) == draft.expected["commits"][1]
    other.git("checkout", "-q", "origin/side")
    assert other.read("model.safetensors") == changed
    assert other.git("theta", "fsck") is not None
    pins = [json.loads(path.read_text()) for path in (draft.store / "pins").rglob("*.json")]
    assert {pin["version"] for pin in pins} == {1}
    assert sorted(pin["url"].partition(":")[0] for pin in pins) == ["draft", "file"]


def test_a_local_store_of_the_draft_says_what_to_do_and_then_works(work, draft, tmp_path):
    local = unpack(archive_of(0), tmp_path / "local").store
    work.git("config", "theta.storage", str(local))
    (work.path / "model.safetensors").write_bytes(MAKER.safetensors({"a": MAKER.weights(3)["w"]}))

    refused = work.run("git", "add", "model.safetensors", check=False)
    work.run("thetastore", "upgrade", str(local))
    work.git("add", "model.safetensors")

    assert refused.returncode == 128
    assert f"thetastore upgrade {local}" in refused.stderr
    assert work.status() == "M  model.safetensors"


def test_a_model_by_its_name_that_has_not_changed_makes_no_new_version(draft):
    from thetastore.named_models import Models

    upgrade(DirectoryBackend(str(draft.store)), known_steps())
    path = draft.store.parent / "model.safetensors"
    path.write_bytes(FILES["longer.safetensors"])

    models = Models(str(draft.store))
    models.put(MAKER.MODEL, path)
    assert len(models.log(MAKER.MODEL)) == 2
    path.write_bytes(FILES["half.safetensors"][:-2])
    models.put(MAKER.MODEL, path)
    assert len(models.log(MAKER.MODEL)) == 3
