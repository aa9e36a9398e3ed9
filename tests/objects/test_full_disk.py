"""A disk that is full: what fits stays, what does not is an error, and room mends it."""

from __future__ import annotations

import errno
import os
import random
import subprocess

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Kind
from thetastore.errors import BackendError
from thetastore.objects import Objects
from thetastore.upkeep.verify import Level, verify


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield str(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)  # maps of runs may still be alive


def fill(objects: Objects, nbytes: int) -> list[tuple[bytes, bytes]]:
    """Put objects until the disk is full."""
    stored = []
    number = 0
    while True:
        raw = random.Random(number).randbytes(nbytes)
        try:
            stored.append((objects.put(Kind.CHUNK, raw), raw))
        except BackendError as error:
            if error.errno != errno.ENOSPC:
                raise
            return stored
        number += 1


def test_a_full_disk_keeps_what_fitted_and_room_mends_the_rest(small_disk):
    ballast = os.path.join(small_disk, "ballast")
    with open(ballast, "wb") as file:
        file.write(bytes(100_000))
    objects = Objects(DirectoryBackend(os.path.join(small_disk, "store")))
    stored = fill(objects, 50_000) + fill(objects, 10)

    for _ in range(2):
        with pytest.raises(BackendError) as caught:
            objects.seal()
        assert caught.value.errno == errno.ENOSPC
    for reader in (objects, Objects(DirectoryBackend(objects.backend.url))):
        assert all(reader.get(Kind.CHUNK, digest) == raw for digest, raw in stored)

    os.unlink(ballast)
    objects.seal()
    after = Objects(DirectoryBackend(objects.backend.url))
    assert all(after.get(Kind.CHUNK, digest) == raw for digest, raw in stored)
    assert list(verify(after, Level.RAW)) == []
    assert list(after.backend.list("incoming")) == []


def test_a_disk_that_is_full_for_the_index_keeps_the_packs(small_disk):
    """The run cannot be written: the packs are durable, and the next seal covers them."""
    objects = Objects(DirectoryBackend(os.path.join(small_disk, "store")))
    raws = [random.Random(number).randbytes(20) for number in range(3500)]
    digests = [objects.put(Kind.CHUNK, raw) for raw in raws]
    ballast = os.path.join(small_disk, "ballast")
    footer_bytes = len(raws) * 112 + 8192
    with open(ballast, "wb") as file:
        free = os.statvfs(small_disk)
        file.write(bytes(free.f_bavail * free.f_frsize - footer_bytes))

    with pytest.raises(BackendError):
        objects.seal()

    assert len(list(objects.backend.list("packs"))) == 1
    assert list(objects.backend.list("index")) == []
    other = Objects(DirectoryBackend(objects.backend.url))
    assert all(other.get(Kind.CHUNK, digest) == raw for digest, raw in zip(digests, raws, strict=True))
    os.unlink(ballast)
    objects.seal()
    assert list(verify(Objects(DirectoryBackend(objects.backend.url)), Level.RAW)) == []
