"""A store of a synthetic older version becomes one of today's, whatever happens meanwhile.

It is today's, but for packs and runs that lie in other directories, and says the version before. So files have to be
converted, which the step from the real draft does not ask for (`test_from_the_draft.py`), and whatever an upgrade makes
of them can be opened and read by today's code.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from migrations.upgrading import Step, known_steps, plan, upgrade
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.descriptor import DESCRIPTOR, VERSION, Descriptor, encode_descriptor, read_descriptor
from thetastore.errors import BackendError, MalformedError, StoreMissingError, UnsupportedError
from thetastore.store import Store
from thetastore.testing.faults import Fault, FaultyRequests, MemoryRequests

OLD = VERSION - 1
DIRECTORIES = {"old-packs": "packs", "old-index": "index"}
NEEDS = "thetastore 0.1"
WEIGHTS = safetensors_bytes({"w": np.arange(300_000, dtype=np.float32)})


def pending(backend):
    for directory in DIRECTORIES:
        yield from sorted(backend.list(directory))


def convert(backend, name):
    directory, _, rest = name.partition("/")
    try:
        stored = backend.read(name)
    except FileNotFoundError:
        return  # another upgrade was faster
    try:
        backend.create(f"{DIRECTORIES[directory]}/{rest}", stored)
    except FileExistsError:
        pass
    backend.delete(name)


STEPS = {OLD: Step("packs and runs have other directories", NEEDS, pending, convert)}


def make_old(backend, version=OLD):
    """Store a file, and make of the store one of the older version; return the file's manifest."""
    with Store.at(backend, create=True) as store:
        digest = store.put_file(io.BytesIO(WEIGHTS)).manifest_digest
    for old, new in DIRECTORIES.items():
        for name in [*backend.list(new)]:
            backend.create(old + name[len(new) :], backend.read(name))
            backend.delete(name)
    writers = read_descriptor(backend).writers
    backend.delete(DESCRIPTOR)
    backend.create(DESCRIPTOR, encode_descriptor(Descriptor(version, writers=writers)))
    return digest


def is_whole(backend, digest):
    with Store.at(backend) as store:
        assert b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest)) == WEIGHTS
    return True


def far(files, faults=None):
    requests = FaultyRequests(MemoryRequests(files), faults)
    return requests, RemoteBackend(requests, "test://", pause=lambda seconds: None)


@pytest.fixture
def directory(tmp_path):
    return DirectoryBackend(str(tmp_path / "store"))


def test_an_older_store_is_refused_with_the_command_that_upgrades_it(directory):
    make_old(directory)

    with pytest.raises(UnsupportedError, match=f"has version {OLD}.*thetastore upgrade {directory.url}"):
        Store.at(directory)


def test_an_upgraded_store_has_what_it_had(directory):
    digest = make_old(directory)

    done = upgrade(directory, STEPS)

    assert (done.start, done.stop, done.file_count) == (OLD, VERSION, 2)
    assert is_whole(directory, digest)
    assert [*pending(directory)] == []


def test_a_dry_run_changes_nothing(directory):
    make_old(directory)
    before = sorted(directory.list(""))

    planned = plan(directory, STEPS)

    assert sorted(directory.list("")) == before
    assert (planned.start, planned.stop, planned.file_count) == (OLD, VERSION, 2)
    assert planned.summaries == ["packs and runs have other directories"]
    assert planned.stored_bytes == sum(map(directory.size, pending(directory)))


def test_an_upgraded_store_is_left_alone(directory):
    digest = make_old(directory)
    upgrade(directory, STEPS)
    before = sorted(directory.list(""))

    assert upgrade(directory, STEPS).file_count == 0
    assert sorted(directory.list("")) == before
    assert is_whole(directory, digest)


FAULTS = [Fault.DEAD, Fault.RESPONSE_LOST, Fault.REQUEST_LOST, Fault.DUPLICATED, Fault.SERVER_ERROR]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_at_any_operation_the_next_upgrade_ends_well(fault):
    made = {}
    digest = make_old(far(made)[1])
    requests, backend = far(dict(made))
    upgrade(backend, STEPS)

    for number in range(len(requests.operations)):
        files = dict(made)
        try:
            upgrade(far(files, {number: fault})[1], STEPS)
        except BackendError:
            assert fault is Fault.DEAD, "one lost request must not stop it"
            check_nobody_takes_it_for_older_or_empty(files)
        upgrade(far(files)[1], STEPS)
        assert is_whole(far(files)[1], digest)
        assert not any(name.startswith("old-") for name in files)


def check_nobody_takes_it_for_older_or_empty(files):
    """A reader finds the older version, the newer one, or is told of the upgrade; never an empty place."""
    said = ""
    try:
        Store.at(far(files)[1], create=True).close()
    except UnsupportedError as error:
        said = str(error)
    assert "thetastore upgrade" in said or read_descriptor(far(files)[1]).version == VERSION


def test_a_kill_at_any_operation_of_a_directory_loses_nothing(tmp_path):
    class Killed(BaseException):
        pass

    class Mortal(DirectoryBackend):
        left = 1 << 30

        def _count(self):
            type(self).left -= 1
            if type(self).left < 0:
                raise Killed

        def create(self, name, stored, durable=True):
            self._count()
            super().create(name, stored, durable)
            self._count()

        def delete(self, name):
            self._count()
            super().delete(name)
            self._count()

    for number in range(40):
        backend = Mortal(str(tmp_path / str(number)))
        digest = make_old(DirectoryBackend(backend.url))
        Mortal.left = number
        try:
            upgrade(backend, STEPS)
        except Killed:
            Mortal.left = 1 << 30
            upgrade(backend, STEPS)
            assert is_whole(backend, digest)
            continue
        break
    assert number > 10
    assert is_whole(backend, digest)


def test_a_store_without_a_descriptor_is_no_empty_place_while_it_is_upgraded(directory):
    make_old(directory)
    upgrade(directory, STEPS)
    directory.delete(DESCRIPTOR)

    with pytest.raises(UnsupportedError, match="is being upgraded to version 1"):
        Store.at(directory, create=True)
    with pytest.raises(UnsupportedError, match="is being upgraded to version 1"):
        Store.at(directory)


def test_a_writer_that_had_the_store_open_is_refused_before_anything_counts(directory):
    store = Store.at(directory, create=True)
    store.put_file(io.BytesIO(WEIGHTS))
    directory.delete(DESCRIPTOR)
    directory.create(DESCRIPTOR, encode_descriptor(Descriptor(VERSION + 1, needs="thetastore 9.9")))

    with pytest.raises(UnsupportedError, match="has version 2.*: thetastore 9.9 is needed"):
        store.seal()

    with pytest.raises(UnsupportedError):
        store.close()
    assert [*directory.list("packs")] == []


def test_a_process_that_writes_keeps_a_store_on_this_machine_from_being_upgraded(directory):
    make_old(directory)
    appender = directory.appender("incoming/" + "0" * 32 + ".pack")

    with pytest.raises(BackendError, match="a process writes to the store"):
        upgrade(directory, STEPS)

    assert read_descriptor(directory).version == OLD
    appender.discard()
    assert upgrade(directory, STEPS).file_count == 2


def test_what_came_late_is_converted_too():
    files = {}
    digest = make_old(far(files)[1])
    [late] = [name for name in files if name.startswith("old-packs/")]
    stored = files.pop(late)

    class Late(MemoryRequests):
        """Gives a file of the older version as soon as the store says the newer one: its writer was slow."""

        def put_new(self, name, body):
            super().put_new(name, body)
            if (
                name == DESCRIPTOR
                and json.loads(bytes(body))["version"] == VERSION
                and not json.loads(bytes(body))["required_features"]
            ):
                self.files[late] = stored

    upgrade(RemoteBackend(Late(files), "test://", pause=lambda seconds: None), STEPS)

    assert late not in files
    assert is_whole(far(files)[1], digest)


def test_several_upgrades_at_once_end_well(directory):
    digest = make_old(directory)
    failures = []

    def run():
        try:
            upgrade(DirectoryBackend(directory.url), STEPS)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert is_whole(directory, digest)


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [
        (
            Descriptor(7, needs="thetastore 2.3"),
            "has version 7; this thetastore reads version 1: thetastore 2.3 is needed",
        ),
        (Descriptor(7), "a newer thetastore is needed"),
        (Descriptor(1, ("sealed-envelopes",)), "requires sealed-envelopes; this thetastore reads version 1"),
        (Descriptor(1, ("upgrading-to-2",)), "is being upgraded to version 2"),
        (Descriptor(7, needs="\x1b[2J" + "x" * 500), r"\[2Jx{77} is needed"),
    ],
)
def test_what_is_newer_is_refused_with_what_is_needed(directory, descriptor, words):
    directory.create(DESCRIPTOR, encode_descriptor(descriptor))

    with pytest.raises(UnsupportedError, match=words):
        Store.at(directory)
    if descriptor.upgrading_to is None or descriptor.upgrading_to > VERSION:
        with pytest.raises(UnsupportedError):
            upgrade(directory, STEPS)


def test_optional_features_and_unknown_keys_are_ignored(directory):
    text = {"format": "thetastore", "version": 1, "required_features": [], "optional_features": ["x"], "y": {}}
    directory.create(DESCRIPTOR, json.dumps(text).encode())

    Store.at(directory).close()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"format": "thetastore", "version": "0", "required_features": []}',
        b'{"format": "thetastore", "version": 0, "required_features": "x"}',
        b'{"format": "thetastore", "version": 0, "required_features": [1]}',
        b'{"format": "other", "version": 0, "required_features": []}',
        b"[" * 70_000,
    ],
)
def test_what_is_no_descriptor_is_refused(directory, text):
    directory.create(DESCRIPTOR, text)

    with pytest.raises(MalformedError, match="is not the descriptor of a thetastore"):
        Store.at(directory)
    with pytest.raises(MalformedError):
        upgrade(directory, STEPS)


def test_a_version_without_a_step_is_told(directory):
    make_old(directory, VERSION - 2)

    with pytest.raises(UnsupportedError, match="knows no way from there"):
        upgrade(directory, STEPS)


def test_an_empty_place_is_no_store(directory):
    with pytest.raises(StoreMissingError):
        upgrade(directory, STEPS)


def test_there_is_a_step_to_every_version():
    assert sorted(known_steps()) == [*range(VERSION)]


def test_the_command_says_what_it_does(tmp_path, directory):
    Store.at(directory, create=True).close()
    command = [sys.executable, "-m", "thetastore.cli.main", "upgrade", directory.url]

    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    said = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == {"schema": 1, "from": 1, "to": 1, "steps": [], "dry_run": False}
    assert "has version 1, the newest that this thetastore knows" in said.stdout
