"""Concurrency, in this one place: a bounded pool of threads over synchronous code, and work for other executors.

Threads pay because the bulk of the work (BLAKE3, zstandard, numpy on large arrays, `pread`) releases the
GIL. Nothing else in the store or the bridge starts a thread for work. Bulk work, in items that stand for
themselves, goes to any `concurrent.futures.Executor` by `spread`.
"""

from __future__ import annotations

import _thread
import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from thetastore.errors import BackendError, ThetaError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from queue import SimpleQueue
    from threading import Thread
    from typing import Self

T = TypeVar("T")
R = TypeVar("R")

MAX_WORKERS = 8
SPREAD_WINDOW = 64
"""Enough to keep a cluster busy with items of seconds."""


def default_workers() -> int:
    """Return how many threads to use: the processors this process may run on, at most `MAX_WORKERS`."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    return min(count, MAX_WORKERS)


class _Task(Generic[T, R]):
    """A piece of work and, once it is done, what came of it."""

    __slots__ = ("_done", "_error", "_function", "_item", "_value")

    def __init__(self, function: Callable[[T], R], item: T) -> None:
        self._function = function
        self._item = item
        self._error: BaseException | None = None
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def run(self) -> None:
        """Do it; in one thread, once."""
        try:
            self._value = self._function(self._item)
        except BaseException as error:  # the caller's to handle, who asks for the result
            self._error = error
        finally:
            self._done.release()

    def result(self) -> R:
        """Wait until it is done; return what the function returned, or raise what it raised."""
        with self._done:
            pass
        if self._error is None:
            return self._value
        try:
            raise self._error
        finally:
            del self  # else the error's traceback would keep itself alive


class _Threads:
    """Threads that do one task after the other. To import concurrent.futures, which imports logging, takes 13 ms."""

    def __init__(self, most: int) -> None:
        from queue import SimpleQueue

        self._most = most
        self._waiting: SimpleQueue[_Task[Any, Any] | None] = SimpleQueue()
        self._started: list[Thread] = []

    def submit(self, function: Callable[[T], R], item: T) -> Callable[[], R]:
        """Have work done; return what waits for its result. In one thread at a time."""
        task = _Task(function, item)
        self._waiting.put(task)
        if len(self._started) < self._most:
            from threading import Thread

            # They hold nothing that has to be put in order when the process ends.
            thread = Thread(target=_work_off, args=(self._waiting,), name="thetastore", daemon=True)
            thread.start()
            self._started.append(thread)
        return task.result

    def end(self) -> None:
        """Have the threads end when there is no more work."""
        for _ in self._started:
            self._waiting.put(None)

    def join(self) -> None:
        """Wait until they have ended."""
        for thread in self._started:
            thread.join()


def _work_off(waiting: SimpleQueue[_Task[Any, Any] | None]) -> None:
    while (task := waiting.get()) is not None:
        task.run()
        del task  # else its memory would be held until the next one comes


class Pool:
    """Threads that are started at the first piece of work worth one. May be used by several threads."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or default_workers()
        self.is_forkable = False
        """Whether long work may be done by copies of the process, too (`thetastore.forks`)."""
        self.window = 2 * self.workers + 1
        """How many items `map_bounded` holds at once, finished or not: what bounds its memory."""
        self._threads: _Threads | None = None
        self._executor: Executor | None = None
        self._lock = _thread.allocate_lock()

    def allow_forks(self) -> None:
        """Let copies of the process do long work: for a program that knows its threads, where that is safe at all."""
        self.is_forkable = sys.platform == "linux"  # frameworks of macOS do not outlive a fork

    def map_bounded(self, function: Callable[[T], R], items: Iterable[T], is_small: Callable[[T], bool]) -> Iterator[R]:
        """Apply a function to each item in threads, and yield the results in the order of the items.

        Items are pulled, and small ones worked on, in the caller's thread: handing over costs about 10
        microseconds. At most `window` items are in flight. If the function or the iterable raises, what is
        in flight is waited for, then the error of the earliest item is raised. An interrupt waits for nothing.
        """
        flying: deque[Callable[[], R]] = deque()
        try:
            for item in items:
                if not is_small(item):
                    flying.append(self._submit(function, item))
                elif flying:
                    flying.append(_constant(function(item)))
                else:
                    yield function(item)
                if len(flying) >= self.window:
                    yield flying.popleft()()
            while flying:
                yield flying.popleft()()
        except KeyboardInterrupt:
            flying.clear()  # nobody wants to wait any more, least of all for a network
            raise
        finally:
            for waiting in flying:
                _settle(waiting)

    def start(self, function: Callable[[T], R], item: T) -> Future[R]:
        """Begin work in a thread and return at once; whoever starts it bounds how much is under way.

        It is done to its end even if the process has nothing else left to do.
        """
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix="thetastore")
            return self._executor.submit(function, item)

    def _submit(self, function: Callable[[T], R], item: T) -> Callable[[], R]:
        with self._lock:
            if self._threads is None:
                self._threads = _Threads(self.workers)
            return self._threads.submit(function, item)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if is_interrupt(kind):
            self.abandon()
        else:
            self.close()

    def __del__(self) -> None:
        if self._threads is not None:
            self._threads.end()

    def close(self) -> None:
        """Wait for the threads and end them."""
        threads, self._threads = self._threads, None
        executor, self._executor = self._executor, None
        if threads is not None:
            threads.end()
            threads.join()
        if executor is not None:
            executor.shutdown()

    def abandon(self) -> None:
        """End the threads when they are done with what they are at; nobody waits for that."""
        threads, self._threads = self._threads, None
        executor, self._executor = self._executor, None
        if threads is not None:
            threads.end()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def is_interrupt(kind: type[BaseException] | None) -> bool:
    """Tell whether what a block of code is left by is Ctrl-C: nobody wants to wait any more."""
    return kind is not None and issubclass(kind, KeyboardInterrupt)


def briefly(act: Callable[[], object], most_s: float = 3.0) -> None:
    """Do what would be good to have done, and wait for it for some seconds at most; it may fail."""
    from threading import Thread

    thread = Thread(target=_quietly, args=(act,), name="thetastore-brief", daemon=True)
    thread.start()
    thread.join(most_s)


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except (ThetaError, OSError):
        pass


def import_beside(name: str) -> None:
    """Begin to import a module in a thread, unless that was done before; whoever imports it waits for it."""
    if name not in sys.modules:
        from threading import Thread

        Thread(target=_import, args=(name,), name="thetastore-import", daemon=True).start()


def _import(name: str) -> None:
    try:
        __import__(name)
    except Exception:  # whoever needs the module will be told
        pass


def processes(count: int) -> Executor:
    """Return an executor of so many processes of this machine; a context manager.

    They begin afresh instead of being forked: a fork takes over locks that other threads held.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


def spread(
    executor: Executor | None, function: Callable[[T], R], items: Iterable[T], window: int = SPREAD_WINDOW
) -> Iterator[R]:
    """Apply a function to each item by any executor, and yield the results in the order of the items.

    This is how bulk work leaves this process: threads, processes, or the machines of a cluster. So function, items and
    results have to be picklable, whatever the executor; items should take seconds, not microseconds.

    Args:
        executor: who does the work; its owner shuts it down. None for the caller's own thread.
        function: a function of a module, or a `partial` of one.
        items: pulled as they are needed.
        window: how many items are in flight at most.

    Raises:
        BackendError: a worker died (`ECHILD`).
        Exception: what the function raised, of the earliest item; what is in flight is cancelled or waited for.
    """
    if executor is None:
        yield from map(function, items)
        return
    from concurrent.futures import BrokenExecutor

    flying: deque[Future[R]] = deque()
    try:
        for item in items:
            flying.append(executor.submit(function, item))
            if len(flying) >= window:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    except BrokenExecutor as error:
        raise BackendError(errno.ECHILD, f"a worker died, maybe for lack of memory: {error}", "the executor") from error
    finally:
        for waiting in flying:
            if not waiting.cancel():
                _settle(waiting.result)


def _constant(value: R) -> Callable[[], R]:
    return lambda: value


def _settle(waiting: Callable[[], R]) -> None:
    """Wait until an item that nobody will ask for is done, so that its buffers are free."""
    try:
        waiting()
    except Exception:  # an earlier error is on its way; this one would hide it
        pass
