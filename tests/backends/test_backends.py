"""The backends against their contract, and what is particular to a directory."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.errors import BackendError
from thetastore.testing import NearBackendConformance


class TestDirectory(NearBackendConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        return DirectoryBackend(str(tmp_path / "store"))

    @pytest.fixture
    def peer(self, backend):
        return DirectoryBackend(backend.url)


class TestMemory(NearBackendConformance):
    @pytest.fixture
    def backend(self):
        return MemoryBackend()

    @pytest.fixture
    def peer(self, backend):
        return backend


def test_the_locks_of_a_crashed_memory_process_are_free_and_its_appender_is_dead():
    backend = MemoryBackend()
    appender = backend.appender("incoming/a")
    appender.write(b"one")

    backend.crash()

    heir = backend.reopen("incoming/a")
    with pytest.raises(BackendError):
        appender.write(b"two")
    appender.close()
    with pytest.raises(BlockingIOError):
        backend.reopen("incoming/a")
    heir.discard()


def test_links_and_pipes_in_a_hostile_directory_are_neither_followed_nor_waited_for(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    backend = DirectoryBackend(str(tmp_path / "store"))
    backend.create("packs/real", b"")
    os.symlink(secret, tmp_path / "store/packs/link")
    os.mkfifo(tmp_path / "store/packs/pipe")
    os.mkdir(tmp_path / "store/packs/directory")

    for name in ("packs/link", "packs/pipe", "packs/directory"):
        for act in (backend.read, backend.open, backend.view, backend.reopen):
            with pytest.raises((BackendError, BlockingIOError)):
                act(name).write(b"x")
    assert secret.read_bytes() == b"secret"


def test_temporary_files_are_never_listed(tmp_path):
    backend = DirectoryBackend(str(tmp_path))
    (tmp_path / "~abandoned").write_bytes(b"half")

    assert list(backend.list("")) == []


def test_a_directory_that_may_not_be_written_is_a_backend_error(tmp_path):
    (tmp_path / "store").write_bytes(b"a file where a directory should be")
    backend = DirectoryBackend(str(tmp_path / "store"))

    acts = (
        lambda: backend.create("a/b", b""),
        lambda: backend.appender("a"),
        lambda: backend.read("a"),
        lambda: list(backend.list("a")),
    )
    for act in acts:
        with pytest.raises(BackendError) as caught:
            act()
        assert caught.value.errno
        assert pickle.loads(pickle.dumps(caught.value)).errno == caught.value.errno


def test_what_does_not_fit_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for a full disk: the same call fails half-way."""
    script = """
import resource, sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.errors import BackendError
backend = DirectoryBackend(sys.argv[1])
appender = backend.appender("incoming/a")
appender.write(b"x" * 60_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for _ in range(2):
    try:
        appender.write(b"y" * 30_000, b"z" * 30_000)
        sys.exit("it was written")
    except BackendError as error:
        assert error.errno == 27, error
assert appender.size() == backend.size("incoming/a") == 60_000
appender.write(b"w" * 40_000)
try:
    backend.create("big", bytes(200_000))
    sys.exit("it was written")
except BackendError:
    pass
appender.seal("packs/a")
appender.close()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)

    backend = DirectoryBackend(str(tmp_path))
    assert backend.read("packs/a") == b"x" * 60_000 + b"w" * 40_000
    assert sorted(os.listdir(tmp_path)) == ["incoming", "packs"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = """
import sys
from thetastore.backends.directory import DirectoryBackend
appender = DirectoryBackend(sys.argv[1]).appender("incoming/a")
appender.write(b"one")
print("ready", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    backend = DirectoryBackend(str(tmp_path))
    with child:
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError):
            backend.reopen("incoming/a")
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()

    heir = backend.reopen("incoming/a")
    assert heir.size() == 3
    heir.discard()


def test_a_failed_fsync_is_remembered(tmp_path, monkeypatch):
    """Linux reports a failed write-back once; the next fsync would say that all is well."""
    backend = DirectoryBackend(str(tmp_path))
    appender = backend.appender("incoming/a")
    appender.write(b"one")

    def fail(fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("thetastore.backends.directory._sync_data", fail)
        with pytest.raises(BackendError):
            appender.sync()

    for act in (lambda: appender.seal("packs/a"), lambda: appender.write(b"two"), appender.sync):
        with pytest.raises(BackendError):
            act()
    appender.close()
    assert list(backend.list("packs")) == []


def test_many_files_can_be_open_without_a_leak(tmp_path):
    backend = DirectoryBackend(str(tmp_path))
    backend.create("a", b"1")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    for _ in range(min(soft, 4096) + 10):
        backend.open("a")
        backend.view("a")


def test_what_the_system_refuses_names_the_file_with_its_store(tmp_path: Path) -> None:
    backend = DirectoryBackend(str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "packs").write_text("a file where a directory belongs")

    with pytest.raises(BackendError) as refused:
        backend.create("packs/x", b"x")
    assert str(refused.value.filename).startswith(str(tmp_path / "store" / "packs"))
