"""A process is killed with SIGKILL before each of its system calls in turn; nothing that it spoke of is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Digest, Kind
from thetastore.objects import Objects
from thetastore.upkeep.verify import Level, verify

CHILD = """
import os, random, signal, sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Kind
from thetastore.objects import Objects
from thetastore.packs import upkeep

path, last, tears = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "tears"
upkeep.MOST_SMALL_PACKS = upkeep.MOST_RUNS = 3
done = 0

def counted(name):
    call = getattr(os, name)
    def counting(*arguments, **options):
        global done
        done += 1
        if done == last:
            if name == "pwritev" and tears:
                fd, parts, offset = arguments
                whole = b"".join(parts)
                os.pwrite(fd, whole[: len(whole) * 2 // 3], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    setattr(os, name, counting)

for name in ("pwritev", "fsync", "link", "unlink", "open", "mkdir", "ftruncate"):
    counted(name)
for number in range(5):
    with Objects(DirectoryBackend(path)) as objects:
        for part in range(2):
            digest = objects.put(Kind.CHUNK, random.Random(number * 2 + part).randbytes(300))
            os.write(1, f"added {digest}\\n".encode())
        objects.seal()
        os.write(1, b"sealed\\n")
"""


def killed_at(store_path: str, last: int, tears: bool) -> tuple[bool, list[Digest]]:
    """Run the child up to its `last` call; return whether it was killed, and what it said that it had added."""
    arguments = [sys.executable, "-c", CHILD, store_path, str(last), "tears" if tears else ""]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, check=False)
    assert done.returncode in (0, -9)
    lines = done.stdout.decode().splitlines()
    return done.returncode == -9, [Digest.parse(line[6:]) for line in lines if line.startswith("added")]


def check_after_death(store_path: str, added: list[Digest]) -> None:
    backend = DirectoryBackend(store_path)
    raws = {digest: bytes(Objects(backend).get(Kind.CHUNK, digest)) for digest in added}

    with Objects(backend) as heir:
        heir.put(Kind.CHUNK, b"life goes on")

    after = Objects(DirectoryBackend(store_path))
    assert {digest: bytes(after.get(Kind.CHUNK, digest)) for digest in added} == raws
    assert list(verify(after, Level.RAW)) == []
    assert list(backend.list("incoming")) == []
    assert len(after.catalog.snapshot().loose) == 0


def kill_everywhere(tmp_path, step: int, tears: bool) -> int:
    last = 1
    while True:
        path = str(tmp_path / str(last))
        was_killed, added = killed_at(path, last, tears)
        check_after_death(path, added)
        if not was_killed:
            assert len(added) == 10
            return last
        last += step


def test_nothing_is_lost_when_a_process_is_killed_at_some_of_its_calls(tmp_path):
    assert kill_everywhere(tmp_path, step=7, tears=True) > 100


@pytest.mark.deep
@pytest.mark.parametrize("tears", [True, False])
def test_nothing_is_lost_wherever_a_process_is_killed(tmp_path, tears):
    assert kill_everywhere(tmp_path, step=1, tears=tears) > 100


def test_what_a_process_added_is_readable_after_it_was_killed_without_any_mending(store_path):
    script = """
import os, signal, sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Kind
from thetastore.objects import Objects
objects = Objects(DirectoryBackend(sys.argv[1]))
for number in range(50):
    os.write(1, f"{objects.put(Kind.CHUNK, bytes([number]) * 5000)}\\n".encode())
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, store_path], stdout=subprocess.PIPE, check=False)
    digests = [Digest.parse(line) for line in done.stdout.decode().split()]

    objects = Objects(DirectoryBackend(store_path))
    assert [bytes(objects.get(Kind.CHUNK, digest)) for digest in digests] == [bytes([n]) * 5000 for n in range(50)]
    assert len(os.listdir(os.path.join(store_path, "incoming"))) == 1


def test_a_pack_that_grows_under_a_reader_is_followed(store_path):
    script = """
import random, sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Kind
from thetastore.objects import Objects
objects = Objects(DirectoryBackend(sys.argv[1]))
for line in sys.stdin:
    print(objects.put(Kind.CHUNK, random.Random(int(line)).randbytes(1000)), flush=True)
"""
    reader = Objects(DirectoryBackend(store_path))
    with subprocess.Popen(
        [sys.executable, "-c", script, store_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        for number in range(30):
            writer.stdin.write(f"{number}\n")
            writer.stdin.flush()
            digest = Digest.parse(writer.stdout.readline().strip())
            assert reader.get(Kind.CHUNK, digest) == random.Random(number).randbytes(1000)
        writer.kill()
