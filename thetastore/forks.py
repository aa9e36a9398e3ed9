"""Copies of this process that work beside it, for work that threads would only pass the interpreter around for.

A chunk of weights is coded in about a hundred calls of 10 to 100 us; threads lose more by waking each other after each
than they gain (docs/decisions/031, 032). A copy has all that its function needs, since it is forked when that is known:
what comes and goes is a short head for each piece of work, through pipes, and bytes, in shared memory.

Forking copies what other threads hold in the middle of something. So only a program of ours does it, on Linux, where it
knows all threads of its process: `Pool.allow_forks`. A copy ignores Ctrl-C, and ends when nobody can give it work any
more, for whatever reason; when a copy dies, its work is done by whoever asked.
"""

from __future__ import annotations

import mmap
import os
import select
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from thetastore.digest import Buffer

_DEPTH = 2
"""Pieces that a copy has at once: one to work on, and one that is there when it is done."""
_JOB = struct.Struct("<III")
"""Slot, bytes of the head, bytes in the slot."""
_ANSWER = struct.Struct("<III")
"""Whether there is one, bytes of the head, bytes in the slot."""

Work = Callable[[bytes, memoryview], tuple[bytes, Buffer] | None]
"""Head and bytes of a piece to head and bytes of its answer; None, or any exception, to have the caller do it."""


class Answer(NamedTuple):
    """What came of a piece of work."""

    head: bytes
    raw: bytes


class Forks:
    """Copies of this process. For one thread, which calls `end`."""

    def __init__(self, count: int, work: Work, most_bytes: int) -> None:
        """Fork.

        Args:
            count: how many copies.
            work: is called in them.
            most_bytes: as long is what goes and what comes at most; longer answers are none.

        Where there is no room for another process, there are fewer, or none.
        """
        self._copies: list[_Copy] = []
        for _ in range(count):
            try:
                self._copies.append(_Copy.forked(work, most_bytes, self._copies))
            except OSError:
                break

    def end(self) -> None:
        """Let the copies end, and wait for it: they finish what they are at."""
        for copy in self._copies:
            copy.end()

    @property
    def window(self) -> int:
        """Of how many pieces at once it makes sense to wait for the first one."""
        return 2 * _DEPTH * (len(self._copies) + 1)

    def submit(self, head: bytes, raw: memoryview) -> Promise | None:
        """Have a copy do a piece of work; None where all have enough to do."""
        copy = self._idlest()
        if copy is not None and len(copy.waiting) == _DEPTH:
            for one in self._copies:
                one.take_answers(wait=False)
            copy = self._idlest()
        return None if copy is None else copy.submit(head, raw)

    def _idlest(self) -> _Copy | None:
        living = (one for one in self._copies if not one.is_dead)
        return min(living, key=lambda one: len(one.waiting), default=None)


class Promise:
    """An answer that comes."""

    def __init__(self, copy: _Copy) -> None:
        self._copy = copy
        self.answer: Answer | None = None
        self.is_settled = False

    def is_there(self) -> bool:
        """Tell whether `result` returns at once."""
        if not self.is_settled:
            self._copy.take_answers(wait=False)
        return self.is_settled

    def result(self) -> Answer | None:
        """Wait for the answer; None where the caller has to do the work itself."""
        while not self.is_settled:
            self._copy.take_answers(wait=True)
        return self.answer


class _Copy:
    """A copy, as its maker sees it."""

    def __init__(self, pid: int, jobs: int, answers: int, memory: mmap.mmap, most_bytes: int) -> None:
        self._pid = pid
        self._jobs = jobs
        self._answers = answers
        self._slots = [_Slot(memory, number, most_bytes) for number in range(_DEPTH)]
        self._free = list(range(_DEPTH))
        self.waiting: deque[tuple[Promise, int]] = deque()
        """What was given to it and not answered, with the slots, the oldest first."""
        self.is_dead = False

    @classmethod
    def forked(cls, work: Work, most_bytes: int, others: Sequence[_Copy]) -> _Copy:
        memory = mmap.mmap(-1, 2 * _DEPTH * most_bytes)
        job_in, job_out = os.pipe()
        answer_in, answer_out = os.pipe()
        try:
            pid = _fork()
        except OSError:
            for descriptor in (job_in, job_out, answer_in, answer_out):
                os.close(descriptor)
            raise
        if pid:
            os.close(job_in)
            os.close(answer_out)
            return cls(pid, job_out, answer_in, memory, most_bytes)
        try:
            for descriptor in (job_out, answer_in, *(other._jobs for other in others)):
                os.close(descriptor)  # or a copy would keep itself, and the others, alive
            _work_off(job_in, answer_out, [_Slot(memory, number, most_bytes) for number in range(_DEPTH)], work)
        finally:
            os._exit(0)

    def submit(self, head: bytes, raw: memoryview) -> Promise | None:
        if self.is_dead or not self._free or raw.nbytes > self._slots[0].question.nbytes:
            return None
        number = self._free.pop()
        self._slots[number].question[: raw.nbytes] = raw
        try:
            _write_whole(self._jobs, _JOB.pack(number, len(head), raw.nbytes) + head)
        except BrokenPipeError:
            self._die()
            return None
        promise = Promise(self)
        self.waiting.append((promise, number))
        return promise

    def take_answers(self, wait: bool) -> None:
        """Settle what is answered; with `wait`, one at least."""
        while self.waiting and (wait or select.select([self._answers], [], [], 0)[0]):
            wait = False
            try:
                is_one, head_bytes, nbytes = _ANSWER.unpack(_read_whole(self._answers, _ANSWER.size))
                head = _read_whole(self._answers, head_bytes)
            except EOFError:
                self._die()
                return
            promise, number = self.waiting.popleft()
            if is_one:
                promise.answer = Answer(head, bytes(self._slots[number].answer[:nbytes]))
            promise.is_settled = True
            self._free.append(number)

    def _die(self) -> None:
        """Give what it has not answered back to those who asked."""
        self.is_dead = True
        while self.waiting:
            self.waiting.popleft()[0].is_settled = True

    def end(self) -> None:
        os.close(self._jobs)
        os.close(self._answers)
        os.waitpid(self._pid, 0)


class _Slot:
    """Shared memory for a piece of work and its answer."""

    def __init__(self, memory: mmap.mmap, number: int, most_bytes: int) -> None:
        start = 2 * number * most_bytes
        self.question = memoryview(memory)[start : start + most_bytes]
        self.answer = memoryview(memory)[start + most_bytes : start + 2 * most_bytes]


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        # Of threads that may hold locks: those of numpy's BLAS do not, and ours wait for work.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _work_off(jobs: int, answers: int, slots: Sequence[_Slot], work: Work) -> None:
    """Do one piece of work after the other, in a copy, until there can be no more."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever gives out the work decides
    while True:
        try:
            number, head_bytes, nbytes = _JOB.unpack(_read_whole(jobs, _JOB.size))
            head = _read_whole(jobs, head_bytes)
        except EOFError:
            return
        try:
            answer = work(head, slots[number].question[:nbytes])
        except Exception:  # the caller will meet it too, and knows what to say
            answer = None
        _answer(answers, slots[number], answer)


def _answer(answers: int, slot: _Slot, answer: tuple[bytes, Buffer] | None) -> None:
    raw = memoryview(b"" if answer is None else answer[1]).cast("B")
    if answer is None or raw.nbytes > slot.answer.nbytes:
        head, raw, is_one = b"", memoryview(b""), 0
    else:
        head, is_one = answer[0], 1
        slot.answer[: raw.nbytes] = raw
    _write_whole(answers, _ANSWER.pack(is_one, len(head), raw.nbytes) + head)


def _write_whole(descriptor: int, raw: bytes) -> None:
    left = memoryview(raw)
    while left:
        left = left[os.write(descriptor, left) :]


def _read_whole(descriptor: int, nbytes: int) -> bytes:
    """Read so many bytes.

    Raises:
        EOFError: the other side is gone.
    """
    read = bytearray()
    while len(read) < nbytes:
        piece = os.read(descriptor, nbytes - len(read))
        if not piece:
            raise EOFError
        read += piece
    return bytes(read)
