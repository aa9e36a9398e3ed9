"""The filter that git runs: one process for all files of a git command, or (one-shot) one for each file.

Standard output belongs to the protocol; whatever else is printed goes to standard error. A file that cannot be
served is an error for this file: git hears of it, and the process serves the next one. What costs time to import
is imported when the first file comes.

Source: gitattributes(5), "Long Running Filter Process" and "Delay".
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gitbridge.pktline import Content, PacketReader, PacketWriter, ProtocolError, widen_pipe
from thetastore.errors import ThetaError

if TYPE_CHECKING:
    from gitbridge.repository import Repository
    from gitbridge.session import Session
    from gitbridge.smudging import Smudger

_READ_BYTES = 1 << 20


class _Process:
    """The long-running filter."""

    def __init__(self, reader: PacketReader, writer: PacketWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._session: Session | None = None
        self._smudger: Smudger | None = None

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
            if command == b"list_available_blobs":
                self._started_smudger().list_available()
            elif command in (b"clean", b"smudge") and b"pathname" in fields:
                self._serve_file(fields)
            else:
                raise ProtocolError(f"git asked for {command!r}, which is not of this protocol")

    def _serve_file(self, fields: dict[bytes, bytes]) -> None:
        """Serve one file; if that fails, git hears so, and the next file has its chance."""
        content = self._reader.content()
        try:
            if fields[b"command"] == b"clean":
                self._writer.answer(self._started_session().cleaner.clean(fields[b"pathname"], content))
            else:
                self._smudge(fields, content)
        except (ProtocolError, BrokenPipeError):
            raise
        except (ThetaError, OSError) as error:
            content.drain()
            _complain(os.fsdecode(fields[b"pathname"]), error)
            self._writer.lines(b"status=error")

    def _smudge(self, fields: dict[bytes, bytes], content: Content) -> None:
        from gitbridge.contexts import Request

        self._started_smudger().smudge(Request.parse(fields), content)

    def _started_session(self) -> Session:
        if self._session is None:
            from gitbridge.session import Session

            self._session = Session()
        return self._session

    def _started_smudger(self) -> Smudger:
        if self._smudger is None:
            from gitbridge.smudging import Smudger

            self._smudger = Smudger(self._started_session(), self._writer)
        return self._smudger

    def finish(self) -> int:
        """Put files in their places, complete what others left, make everything durable; return the exit status."""
        if self._session is None:
            return 0
        is_filled = self._fill(self._session.repository)
        try:
            self._session.close()
        except (ThetaError, OSError) as error:
            print(f"git theta: what was added may not survive a power failure: {error}", file=sys.stderr)
            return 1
        return 0 if is_filled else 1

    def _fill(self, repository: Repository) -> bool:
        """Put files in their places, and complete what others left; tell whether that could be done."""
        from gitbridge.journal import has_journals, journal_directory

        if self._smudger is None and not has_journals(journal_directory(repository.theta_dir)):
            return True  # what the rest imports takes 15 ms of every `git add`
        from gitbridge import materialize

        failures = self._smudger.finish() if self._smudger is not None else []
        materialize.complain_all(failures)
        if not failures:  # what stood in the way, still does
            materialize.complete_pending(repository)
        return not failures


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
    from gitbridge.session import Session

    output = _own_output()
    widen_pipe(0)
    try:
        session = Session()
        try:
            text = session.cleaner.clean(os.fsencode(path), _PlainInput(0))
        finally:
            session.close()
    except (ThetaError, OSError) as error:
        _complain(path, error)
        return 1
    _write_whole(output, memoryview(text))
    return 0


def smudge_once(path: str) -> int:
    """Smudge standard input, as the file `path`, to standard output; return the exit status."""
    from gitbridge.errors import PointerError, PointerVersionError
    from gitbridge.fill import Wanted
    from gitbridge.session import Session

    output = _own_output()
    widen_pipe(output)
    text = sys.stdin.buffer.read()
    try:
        wanted = Wanted.of(os.fsencode(path), "", text)
    except PointerVersionError as error:
        _complain(path, error)  # what is wanted here is always bytes
        return 1
    except PointerError:
        _write_whole(output, memoryview(text))
        return 0
    try:
        session = Session()
        try:
            for piece in [memoryview(text)] if session.skips_smudge else session.fetched_pieces(wanted, None):
                _write_whole(output, piece)
        finally:
            session.close()
    except (ThetaError, OSError) as error:
        _complain(path, error)
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
        while len(pieces) < max_bytes and (piece := os.read(self._fd, min(max_bytes - len(pieces), _READ_BYTES))):
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


def _complain(path: str, error: Exception) -> None:
    from gitbridge.materialize import complain

    complain(path, error)
