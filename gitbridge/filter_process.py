"""The filter that git runs: one process for all files of a git command, or (one-shot) one for each file.

Clean answers with pointers. Smudge answers with bytes, or with a pointer whose file is ready to take its place
(`fill`); `contexts` decides. Large files are answered `delayed` first, so that everything that is missing is
fetched at once, and so that a file that cannot be had makes git fail: at the end of input it is too late.

Standard output belongs to the protocol; whatever else is printed goes to standard error.

Source: gitattributes(5), "Long Running Filter Process" and "Delay".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.pktline import Content, PacketReader, PacketWriter, ProtocolError, widen_pipe
from thetastore.errors import ObjectMissingError, ThetaError

if TYPE_CHECKING:
    from gitbridge.cleaning import Cleaner, Input
    from gitbridge.contexts import Answer, Contexts, Request
    from gitbridge.fill import Failure, Filling, Wanted
    from gitbridge.repository import Repository
    from thetastore.store import Store

DIRECT_BYTES = 256 << 10
"""Shorter files are sent through git at once: cheaper than a delay, a temporary file and a rename."""
_ANSWER_BYTES = 512 << 20
"""About how much is made ready before git hears of it: its progress display then moves."""
_SPOOL_BYTES = 1 << 20
_HEAD_BYTES = 64


class _Delayed(NamedTuple):
    """A file that git will ask for again."""

    wanted: Wanted
    answer: Answer
    treeish: str | None


class _Session:
    """What both kinds of filter share: the repository, its store, and how files come out of it."""

    def __init__(self) -> None:
        from gitbridge import hooks
        from gitbridge.cleaning import Cleaner
        from gitbridge.repository import Repository

        self.repository: Repository = Repository.discover()
        self.cleaner: Cleaner = Cleaner(self.repository)
        if self.repository.work_tree is not None:
            hooks.install_missing(self.repository)

    @property
    def store(self) -> Store:
        return self.cleaner.store()

    def fetch(self, wanted: list[Wanted], treeish: str | None) -> Exception | None:
        """Bring files into the local store; return why that failed, if it did."""
        from gitbridge.materialize import fetch

        return fetch(self.repository, self.store, wanted, treeish)

    def pieces(self, wanted: Wanted) -> Iterator[memoryview]:
        """Yield a file's bytes; each piece is valid until the next. See `Store.read_file` for what is checked when."""
        manifest, _ = wanted.manifest(self.store)
        return self.store.read_file(manifest, wanted.manifest_digest)

    def fetched_pieces(self, wanted: Wanted, treeish: str | None) -> Iterator[memoryview]:
        """Yield a file's bytes, from the remote store if need be."""
        why_not = self.fetch([wanted], treeish)
        if why_not is not None:
            raise why_not
        return self.pieces(wanted)

    def close(self) -> None:
        """Make durable what was stored; say so if that fails."""
        try:
            self.cleaner.close()
        finally:
            self.repository.close()


class _Process:
    """The long-running filter."""

    def __init__(self, reader: PacketReader, writer: PacketWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._open_session: _Session | None = None
        self._contexts: Contexts | None = None
        self._filling: Filling | None = None
        self._delayed: dict[bytes, _Delayed] = {}
        self._available: dict[bytes, _Delayed | Exception] = {}
        self._asked: list[Wanted] = []
        self._why_not_fetched: Exception | None = None
        self._is_fetched = False

    # The protocol

    def shake_hands(self) -> bool:
        """Agree on the protocol; False where git closed the pipe without a word."""
        hello = self._reader.lines()
        if hello is None:
            return False
        if hello[:1] != [b"git-filter-client"] or b"version=2" not in hello:
            raise ProtocolError("what speaks on standard input is not git: expected 'git-filter-client', version 2")
        self._writer.lines(b"git-filter-server", b"version=2")
        offered = self._reader.lines() or []
        ours = (b"capability=clean", b"capability=smudge", b"capability=delay")
        self._writer.lines(*(capability for capability in ours if capability in offered))
        return True

    def serve(self) -> None:
        """Answer requests until git closes the pipe."""
        while (lines := self._reader.lines()) is not None:
            fields = dict(_field(line) for line in lines)
            command = fields.get(b"command")
            if command == b"clean":
                self._guarded(fields[b"pathname"], self._clean)
            elif command == b"smudge":
                self._smudge(fields)
            elif command == b"list_available_blobs":
                self._list_available()
            else:
                raise ProtocolError(f"git asked for {command!r}, which is not of this protocol")

    def _guarded(self, path: bytes, serve: Callable[[bytes, Content], None]) -> None:
        """Serve a request with content; if it fails, git hears so, and the next file has its chance."""
        content = self._reader.content()
        try:
            serve(path, content)
        except ProtocolError:
            raise
        except (ThetaError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            content.drain()
            self._refuse(path, error)

    def _refuse(self, path: bytes, error: Exception) -> None:
        _complain(path, error)
        self._writer.lines(b"status=error")

    def _session(self) -> _Session:
        if self._open_session is None:
            self._open_session = _Session()
        return self._open_session

    # Clean

    def _clean(self, path: bytes, content: Content) -> None:
        self._writer.answer(self._session().cleaner.clean(path, content))

    # Smudge

    def _smudge(self, fields: dict[bytes, bytes]) -> None:
        from gitbridge.contexts import Request

        request = Request.parse(fields)
        self._guarded(request.path, lambda _, content: self._smudge_content(request, content))

    def _smudge_content(self, request: Request, content: Content) -> None:
        from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer

        head = content.read(_HEAD_BYTES)
        if not head and not request.can_delay and request.path in self._available:
            self._answer_again(request.path)
        elif not is_pointer(head):
            self._pass_through(head, content)
        else:
            text = head + content.read(MAX_POINTER_BYTES + 1 - len(head))
            content.drain()
            self._smudge_pointer(request, text)

    def _smudge_pointer(self, request: Request, text: bytes) -> None:
        from gitbridge.contexts import Answer
        from gitbridge.errors import PointerError
        from gitbridge.fill import Wanted

        try:
            wanted = Wanted.of(request.path, request.blob or "", text)
        except PointerError as error:
            # A merge's conflict, say. It is what Git holds, so it is what the work tree gets.
            _complain(request.path, error)
            self._writer.answer(text)
            return
        answer = self._contexts_of_this_command().answer(request)
        if answer is Answer.POINTER:
            self._answer_pointer_for_now(wanted, text)
        elif not self._answered_directly(wanted, is_last_try=False):
            if request.can_delay:
                self._delay(request, wanted, answer)
            else:
                self._send(wanted, self._session().fetched_pieces(wanted, request.treeish))

    def _contexts_of_this_command(self) -> Contexts:
        if self._contexts is None:
            from gitbridge.contexts import Contexts

            self._contexts = Contexts(self._session().repository)
        return self._contexts

    def _answered_directly(self, wanted: Wanted, is_last_try: bool) -> bool:
        """Send a short file whose objects are all in the local store."""
        if wanted.file_bytes >= DIRECT_BYTES:
            return False
        try:
            content = b"".join(self._session().pieces(wanted))
        except ObjectMissingError:
            if is_last_try:
                raise
            return False
        self._writer.answer(content)
        return True

    def _send(self, wanted: Wanted, pieces: Iterator[memoryview]) -> None:
        """Send a file's bytes as they are decoded; git drops them if the last word is an error."""
        self._writer.lines(b"status=success")
        try:
            for piece in pieces:
                self._writer.content(piece)
        except BrokenPipeError:
            raise
        except (ThetaError, OSError) as error:
            _complain(os.fsencode(wanted.path), error)
            self._writer.end_of_content()
            self._writer.lines(b"status=error")
        else:
            self._writer.end_of_content()
            self._writer.lines()

    def _pass_through(self, head: bytes, content: Content) -> None:
        """Give back what is no pointer, as it came. Git writes all of it before it reads any."""
        start = head + content.read(_SPOOL_BYTES)
        if len(start) < _SPOOL_BYTES:
            self._writer.answer(start)
            return
        import tempfile

        with tempfile.TemporaryFile(dir=self._session().repository.git_dir) as spool:
            spool.write(start)
            buffer = memoryview(bytearray(_SPOOL_BYTES))
            while count := content.readinto(buffer):
                spool.write(buffer[:count])
            spool.seek(0)
            self._writer.lines(b"status=success")
            while count := spool.readinto(buffer):
                self._writer.content(buffer[:count])
        self._writer.end_of_content()
        self._writer.lines()

    # Delayed answers

    def _delay(self, request: Request, wanted: Wanted, answer: Answer) -> None:
        self._delayed[request.path] = _Delayed(wanted, answer, request.treeish)
        self._is_fetched = False
        self._writer.lines(b"status=delayed")

    def _list_available(self) -> None:
        """Tell git what can be had now: everything is fetched, and some of it made ready."""
        self._fetch_delayed()
        listed: list[bytes] = []
        ready_bytes = 0
        for path, delayed in list(self._delayed.items()):
            del self._delayed[path]
            outcome = self._made_ready(delayed)
            self._available[path] = outcome
            listed.append(b"pathname=" + path)
            ready_bytes += delayed.wanted.file_bytes
            # After an error git gives up, so the rest would be made ready for nothing.
            if ready_bytes >= _ANSWER_BYTES or isinstance(outcome, Exception):
                break
        self._writer.lines(*listed)
        self._writer.lines(b"status=success")

    def _fetch_delayed(self) -> None:
        if self._is_fetched or not self._delayed:
            return
        by_treeish: dict[str | None, list[Wanted]] = {}
        for delayed in self._delayed.values():
            by_treeish.setdefault(delayed.treeish, []).append(delayed.wanted)
        for treeish, wanted in by_treeish.items():
            self._why_not_fetched = self._session().fetch(wanted, treeish)
        self._is_fetched = True

    def _made_ready(self, delayed: _Delayed) -> _Delayed | Exception:
        from gitbridge.contexts import Answer

        if delayed.answer is not Answer.FILL or delayed.wanted.file_bytes < DIRECT_BYTES:
            return delayed
        try:
            self._filling_of_this_command().prepare(delayed.wanted, self._session().store)
        except ObjectMissingError as error:
            return self._why_not_fetched or error
        except (ThetaError, OSError) as error:
            return error
        return delayed

    def _filling_of_this_command(self) -> Filling:
        if self._filling is None:
            from gitbridge.fill import Filling

            repository = self._session().repository
            assert repository.work_tree is not None, "the contexts fill nothing without a work tree"
            self._filling = Filling(repository, repository.work_tree)
        return self._filling

    def _answer_again(self, path: bytes) -> None:
        """Answer the second request for a delayed file."""
        from gitbridge.contexts import Answer

        outcome = self._available.pop(path)
        if isinstance(outcome, Exception):
            self._refuse(path, outcome)
        elif self._answered_directly(outcome.wanted, is_last_try=True):
            return
        elif outcome.answer is Answer.FILL:
            _, text = outcome.wanted.manifest(self._session().store)
            self._writer.answer(text)
        else:
            self._send(outcome.wanted, self._session().pieces(outcome.wanted))

    # Pointers that may land in the work tree

    def _answer_pointer_for_now(self, wanted: Wanted, text: bytes) -> None:
        """Answer the pointer, and remember to look whether it came to lie in the work tree."""
        if not self._lies_in_work_tree(wanted):
            self._asked.append(wanted)
        self._writer.answer(text)

    def _lies_in_work_tree(self, wanted: Wanted) -> bool:
        from gitbridge.work_files import WorkFiles

        work_tree = self._session().repository.work_tree
        if work_tree is None:
            return True
        try:
            with WorkFiles(work_tree) as files:
                path = os.fsencode(wanted.path)
                return files.pointer_at(path, wanted.pointer_bytes, wanted.pointer_digest) is not None
        except (ThetaError, OSError):
            return True

    # The end

    def finish(self) -> int:
        """Put files in their places, complete what others left, make everything durable; return the exit status."""
        if self._open_session is None:
            return 0
        from gitbridge import materialize

        session = self._open_session
        failures = self._fill_asked() + (self._filling.finish() if self._filling is not None else [])
        materialize.complain_all(failures)
        materialize.complete_pending(session.repository)
        session.close()
        return 1 if failures else 0

    def _fill_asked(self) -> list[Failure]:
        from gitbridge.materialize import fill_all

        landed = [wanted for wanted in self._asked if self._lies_in_work_tree(wanted)]
        session = self._open_session
        if not landed or session is None or session.repository.work_tree is None:
            return []
        report = fill_all(session.repository, session.repository.work_tree, session.store, landed, [])
        return list(report.failures)


def run() -> int:
    """Serve git on standard input and output until it closes the pipe; return the exit status."""
    output = _own_output()
    widen_pipe(0)
    widen_pipe(output)
    process = _Process(PacketReader(0), PacketWriter(output))
    status = 0
    try:
        if not process.shake_hands():
            return 0
        process.serve()
    except BrokenPipeError:
        status = 1
    except KeyboardInterrupt:
        status = 130
        _ignore_interrupts()
    except ProtocolError as error:
        print(f"git theta: {error}", file=sys.stderr)
        status = 2
    return process.finish() or status


def clean_once(path: str) -> int:
    """Clean standard input, as the file `path`, to standard output; return the exit status."""
    output = _own_output()
    widen_pipe(0)
    try:
        session = _Session()
        try:
            text = session.cleaner.clean(os.fsencode(path), _PlainInput(0))
        finally:
            session.close()
    except (ThetaError, OSError) as error:
        _complain(os.fsencode(path), error)
        return 1
    _write_whole(output, memoryview(text))
    return 0


def smudge_once(path: str) -> int:
    """Smudge standard input, as the file `path`, to standard output; return the exit status."""
    from gitbridge.errors import PointerError
    from gitbridge.fill import Wanted

    output = _own_output()
    widen_pipe(output)
    text = sys.stdin.buffer.read()
    try:
        wanted = Wanted.of(os.fsencode(path), "", text)
    except PointerError:
        _write_whole(output, memoryview(text))
        return 0
    try:
        session = _Session()
        try:
            for piece in session.fetched_pieces(wanted, None):
                _write_whole(output, piece)
        finally:
            session.close()
    except (ThetaError, OSError) as error:
        _complain(os.fsencode(path), error)
        return 1
    return 0


class _PlainInput:
    """A descriptor that is read to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target` as far as the input reaches."""
        filled = 0
        while filled < len(target) and (count := os.readv(self._fd, (target[filled:],))):
            filled += count
        return filled

    def read(self, max_bytes: int, /) -> bytes:
        """Return up to `max_bytes` bytes, fewer only at the end."""
        pieces = bytearray()
        while len(pieces) < max_bytes and (piece := os.read(self._fd, min(max_bytes - len(pieces), _SPOOL_BYTES))):
            pieces += piece
        return bytes(pieces)


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b"=")
    return name, value


def _own_output() -> int:
    """Take standard output for the protocol, and point descriptor 1 to standard error for everybody else."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def _write_whole(fd: int, content: memoryview) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _ignore_interrupts() -> None:
    """Let what is ready be put in its place: git hands its own interrupt on to us a second time."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _complain(path: bytes, error: Exception) -> None:
    from gitbridge.materialize import complain

    complain(os.fsdecode(path), error)


if TYPE_CHECKING:
    from gitbridge import materialize

    _: type[Input] = _PlainInput
