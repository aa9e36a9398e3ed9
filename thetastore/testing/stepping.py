"""Processes that stop before each step that others can see, over one place, by one clock.

A process is a thread with a `SteppedBackend`; who resumes it decides whether the step takes place, the process is
killed instead, or the answer is lost. What it draws by chance, and what time it sees, is the same in each run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from thetastore.backends import Appender, Range, Reader
from thetastore.backends.lease import Lease
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.spool import Spool
from thetastore.digest import Buffer
from thetastore.errors import BackendError

T = TypeVar("T")
BEGINNING_S = 1.8e9
"""What the clock of a world shows at first."""


class Killed(BaseException):
    """The process is no more."""


Body = Callable[["SteppedBackend"], None]
"""What a process does."""


class Process:
    """One process: its thread stops before each step."""

    def __init__(self, number: int, body: Body, world: World) -> None:
        self.number = number
        self.is_done = False
        self.is_killed = False
        self.failure: BaseException | None = None
        self.waiting_for = ""
        """The step that comes next, in words; empty when it is done."""
        self.history = hashlib.blake2b(digest_size=16)
        """Of all that it has seen."""
        self.chance = random.Random(number)
        self._go = threading.Lock()
        self._stopped = threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._event = "step"
        self._body = body
        self._world = world
        self._thread = threading.Thread(target=self._run, name=f"process-{number}", daemon=True)

    def start(self) -> None:
        """Run up to the first step."""
        self._thread.start()
        self._stopped.acquire()

    def resume(self, event: str) -> None:
        """Take the step that comes next, and go on to the one after it."""
        self._event = event
        self._go.release()
        self._stopped.acquire()
        if self.is_done:
            self._thread.join()

    def pause(self, step: str) -> str:
        """Wait, in the process's own thread, until it is its turn; return what is to happen."""
        if self.is_killed:
            raise Killed
        self.waiting_for = step
        self._stopped.release()
        self._go.acquire()
        if self._event == "kill":
            self.is_killed = True
            raise Killed
        return self._event

    def saw(self, *answer: object) -> None:
        """Note what the process was told."""
        self.history.update(repr(answer).encode())

    def _run(self) -> None:
        _here.process = self
        try:
            self._body(SteppedBackend(self._world, self))
        except Killed:
            pass
        except BaseException as error:  # what it means is for the test to say
            self.failure = error
        finally:
            self.is_done = True
            self.waiting_for = ""
            self._stopped.release()


class World:
    """Processes over one place, at one point of one schedule."""

    def __init__(self, is_remote: bool) -> None:
        """Make an empty place; see `Backend.is_remote`."""
        self.now_s = BEGINNING_S
        self.is_remote = is_remote
        self.backend = MemoryBackend(lambda: self.now_s)
        self.processes: list[Process] = []
        self.reported: dict[str, object] = {}
        """What processes have said that they did, before they ended."""

    def copy(self) -> World:
        """Return another world with the same files, before any process has begun."""
        other = World(self.is_remote)
        other.now_s = self.now_s
        other.backend._files = {name: bytearray(stored) for name, stored in self.backend._files.items()}
        other.backend._written_s = dict(self.backend._written_s)
        other.reported = dict(self.reported)
        return other

    def run(self, bodies: Sequence[Body]) -> None:
        """Begin with processes, up to the first step of each."""
        self.processes = [Process(number, body, self) for number, body in enumerate(bodies)]
        for process in self.processes:
            process.start()

    def alive(self) -> list[Process]:
        """Return the processes that are not done."""
        return [process for process in self.processes if not process.is_done]

    def stop(self) -> None:
        """Kill what is still running."""
        for process in self.alive():
            while not process.is_done:
                process.resume("kill")

    def state(self) -> bytes:
        """Return what the future depends on, as a digest."""
        whole = hashlib.blake2b(self.outcome(), digest_size=16)
        for process in self.processes:
            whole.update(process.history.digest() + process.waiting_for.encode() + bytes([process.is_done]))
        return whole.digest()

    def outcome(self) -> bytes:
        """Return what is left where all processes have ended, as a digest."""
        whole = hashlib.blake2b(digest_size=16)
        for name, body in sorted(self.backend._files.items()):
            whole.update(f"{name} {self.backend._written_s.get(name)} {len(body)}\n".encode())
            whole.update(body)
        whole.update(repr((self.now_s, sorted(self.backend._locked), sorted(self.reported.items()))).encode())
        return whole.digest()


_here = threading.local()


def _process_here() -> Process | None:
    return getattr(_here, "process", None)


@contextmanager
def chance_and_time_repeat() -> Iterator[None]:
    """Have processes draw the same numbers in each run, and see the clock of their world.

    Whoever is no process, and makes or checks a world, draws the same numbers too: names are made of them, and worlds
    whose files have other names are other worlds.
    """
    real = os.urandom, time.time_ns, time.monotonic
    chance = random.Random(0)

    def urandom(count: int) -> bytes:
        process = _process_here()
        return (chance if process is None else process.chance).randbytes(count)

    def time_ns() -> int:
        process = _process_here()
        return int((BEGINNING_S if process is None else process._world.now_s) * 1e9)

    def monotonic() -> float:
        process = _process_here()
        return real[2]() if process is None else process._world.now_s

    os.urandom, time.time_ns, time.monotonic = urandom, time_ns, monotonic
    try:
        yield
    finally:
        os.urandom, time.time_ns, time.monotonic = real


class SteppedBackend:
    """A place as one process sees it: each operation that others can see is a step. See `Backend`.

    What is read of a file that is there is no step of its own: files do not change. That it is gone is noticed.
    """

    def __init__(self, world: World, process: Process) -> None:
        self.url = world.backend.url
        self.is_remote = world.is_remote
        self.world = world
        self._inner = world.backend
        self._process = process
        self._spools: dict[str, Spool] = {}

    def step(self, verb: str, name: str, act: Callable[[], T]) -> T:
        """Do something as one step."""
        event = self._process.pause(f"{verb} {name}")
        try:
            result = act()
        except OSError as error:
            self._process.saw(verb, name, type(error).__name__)
            raise
        if event == "lose":
            self._process.saw(verb, name, "lost")
            raise BackendError(errno.ETIMEDOUT, "no answer", name)
        self._process.saw(verb, name, result if isinstance(result, list | float | bool) else None)
        return result

    def wait(self, span_s: float) -> None:
        """Let time go by for all."""
        self.step("wait", "", lambda: setattr(self.world, "now_s", self.world.now_s + span_s))

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See `Backend.read`."""
        return self._noticed("read", name, lambda: self._inner.read(name, offset, nbytes))

    def open(self, name: str) -> Reader:
        """See `Backend.open`."""
        if name in self._spools:
            return self._spools[name]
        file = self._inner.open(name)
        self._process.saw("open", name, file.size())
        return file

    def view(self, name: str) -> memoryview:
        """See `Backend.view`."""
        return memoryview(self._noticed("view", name, lambda: bytes(self._inner.view(name))))

    def size(self, name: str) -> int:
        """See `Backend.size`."""
        return self._noticed("size", name, lambda: self._inner.size(name))

    def written_s(self, name: str) -> float:
        """See `Backend.written_s`."""
        return self._noticed("written_s", name, lambda: self._inner.written_s(name))

    def _noticed(self, verb: str, name: str, act: Callable[[], T]) -> T:
        if self._process.is_killed:
            raise Killed
        try:
            result = act()
        except FileNotFoundError:
            self._process.saw(verb, name, None)
            raise
        self._process.saw(verb, name, result)
        return result

    def expect(self, ranges: Iterable[Range]) -> None:
        """See `Backend.expect`."""

    def expect_list(self, prefix: str) -> None:
        """See `Backend.expect_list`."""

    def list(self, prefix: str) -> Iterator[str]:
        """See `Backend.list`."""
        return iter(self.step("list", prefix, lambda: sorted(self._inner.list(prefix))))

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """See `Backend.create`."""
        self.step("create", name, lambda: self._inner.create(name, stored, durable))

    def look_before_creating(self) -> None:
        """See `Backend.look_before_creating`."""

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        self.step("delete", name, lambda: self._inner.delete(name))

    def move(self, name: str, new_name: str) -> None:
        """See `Backend.move`."""
        self.step("move", name, lambda: self._inner.move(name, new_name))

    def delete_litter(self, age_s: float) -> int:
        """See `Backend.delete_litter`."""
        return 0

    def appender(self, name: str) -> Appender:
        """See `Backend.appender`."""
        if self.is_remote:
            self._spools[name] = spool = Spool(name, self.create, lambda name: self._spools.__delitem__(name))
            return spool
        return _Appender(self.step("appender", name, lambda: self._inner.appender(name)), self)

    def reopen(self, name: str) -> Appender:
        """See `Backend.reopen`."""
        if self.is_remote:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return _Appender(self.step("reopen", name, lambda: self._inner.reopen(name)), self)

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """See `Backend.try_lock`."""
        return Lease(self, name) if self.is_remote else _Lock(self._inner.try_lock(name), self, name)


class _Lock:
    def __init__(self, inner: AbstractContextManager[bool], backend: SteppedBackend, name: str) -> None:
        self._inner = inner
        self._backend = backend
        self._name = name

    def __enter__(self) -> bool:
        return self._backend.step("lock", self._name, self._inner.__enter__)

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(None, None, None)  # the dead give up their locks, too


class _Appender:
    """A file in the making; of what is done to it, beginning and sealing are steps. Its process's death unlocks it."""

    def __init__(self, inner: Appender, backend: SteppedBackend) -> None:
        self.name = inner.name
        self._inner = inner
        self._backend = backend

    def size(self) -> int:
        return self._inner.size()

    def write(self, *parts: Buffer) -> None:
        self._inner.write(*parts)

    def truncate(self, keep_bytes: int) -> None:
        self._inner.truncate(keep_bytes)

    def sync(self) -> None:
        self._inner.sync()

    def seal(self, name: str) -> None:
        self._backend.step("seal", name, lambda: self._inner.seal(name))

    def close(self) -> None:
        if self._backend._process.is_killed:
            self._backend._inner._locked.discard(self.name)
        else:
            self._inner.close()

    def discard(self) -> None:
        if self._backend._process.is_killed:
            self._backend._inner._locked.discard(self.name)
        else:
            self._inner.discard()
