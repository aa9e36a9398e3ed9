"""From pointers to files, in the long-running filter.

What git is answered, `contexts` decides. Large files are answered `delayed` at first, so that everything that is
missing is fetched at once, and so that a file that cannot be had makes git fail: at the end of input it is too
late, git has exit status 0 by then. What is not yet there is remembered in a few words for each file, and the
pointer's text, which git sends only once, is made anew from its manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from gitbridge.contexts import Answer, Contexts, Request
from gitbridge.errors import PointerError, PointerVersionError
from gitbridge.fill import Failure, Filling, Wanted
from gitbridge.materialize import complain, fill_all
from gitbridge.pktline import Content, PacketWriter
from gitbridge.pointers import MAX_POINTER_BYTES, claim_of, is_pointer, render_pointer
from gitbridge.session import Session
from gitbridge.space import SpaceError, no_room_to_fill
from gitbridge.work_files import WorkFiles
from thetastore.digest import Digest, digest_of
from thetastore.errors import ObjectMissingError, ThetaError

DIRECT_BYTES = 256 << 10
"""Shorter files are sent through git at once: cheaper than a delay, a temporary file and a rename."""
_READY_BYTES = 512 << 20
"""About how much is made ready before git hears of it, so that its progress display moves."""
_SPOOL_BYTES = 1 << 20
_HEAD_BYTES = 64


class _Delayed(NamedTuple):
    """A file that git will ask for again."""

    wanted: Wanted
    answer: Answer
    treeish: str | None


def _is_filled(delayed: _Delayed) -> bool:
    """Tell whether a file is put in its place by us, rather than sent through git."""
    return delayed.answer is Answer.FILL and delayed.wanted.file_bytes >= DIRECT_BYTES


class Smudger:
    """Smudges the files of one git command."""

    def __init__(self, session: Session, writer: PacketWriter) -> None:
        self._session = session
        self._writer = writer
        self._contexts = Contexts(session.repository)
        self._filling: Filling | None = None
        self._delayed: dict[bytes, _Delayed] = {}
        self._available: dict[bytes, _Delayed | Exception] = {}
        self._asked: list[Wanted] = []
        self._kept: list[Wanted] = []
        self._why_not_fetched: Exception | None = None
        self._is_fetched = False
        self._no_room: SpaceError | None = None

    def smudge(self, request: Request, content: Content) -> None:
        """Answer one request.

        Raises:
            ThetaError, OSError: it cannot be answered; nothing was written.
        """
        head = content.read(_HEAD_BYTES)
        if not head and not request.can_delay and request.path in self._available:
            content.drain()
            self._answer_again(request.path)
            return
        start = head + (content.read(MAX_POINTER_BYTES + 1 - len(head)) if is_pointer(head) else b"")
        if content.ended and is_pointer(start):
            self._smudge_pointer(request, start)
        else:
            self._pass_through(start, content)

    def _smudge_pointer(self, request: Request, text: bytes) -> None:
        answer = self._contexts.answer(request)
        if answer is not Answer.POINTER and not self._session.skips_smudge and self._was_sent_unparsed(text):
            return
        try:
            wanted = Wanted.of(request.path, request.blob or "", text)
        except PointerError as error:
            if isinstance(error, PointerVersionError) and answer is not Answer.POINTER:
                raise
            # A conflict that git wrote into it, say. It is what Git holds, so it is what the work tree gets.
            complain(os.fsdecode(request.path), error)
            self._writer.answer(text)
            return
        if self._session.skips_smudge:
            self._writer.answer(text)
        elif answer is Answer.POINTER:
            self._answer_pointer_for_now(wanted, text)
        elif (request.can_delay or not request.treeish) and self._session.keeps_pointer(wanted):
            self._kept.append(wanted)
            self._writer.answer(text)
        elif request.can_delay:
            self._delayed[request.path] = _Delayed(wanted, answer, request.treeish)
            self._is_fetched = False
            self._writer.lines(b"status=delayed")
        else:
            self._send(wanted, self._session.fetched_pieces(wanted, request.treeish))

    # Bytes through git

    def _was_sent_unparsed(self, text: bytes) -> bool:
        """Send a short file whose pointer turns out to say just what its manifest says: nothing is left to check."""
        claim = claim_of(text)
        if claim is None or claim.file_bytes >= DIRECT_BYTES:
            return False
        return self._was_sent_from_store(claim.manifest_digest, digest_of(text))

    def _was_sent_from_store(self, manifest_digest: Digest, pointer_digest: Digest) -> bool:
        """Send a short file, if all of it is in the local store and its pointer has this digest."""
        store = self._session.store
        if not store.objects.contains(manifest_digest):
            return False  # `get` would look for what others have stored in the meantime: 0.2 ms for each file
        try:
            manifest = store.get_manifest(manifest_digest)
            if digest_of(render_pointer(manifest, manifest_digest)) != pointer_digest:
                return False
            content = bytearray()
            for piece in store.read_file(manifest, manifest_digest):
                content += piece  # at once: it is valid until the next one only
        except ObjectMissingError:
            return False
        self._writer.answer(content)
        return True

    def _send(self, wanted: Wanted, pieces: Iterator[memoryview]) -> None:
        """Send a file's bytes as they are decoded; git drops them if the last word is an error."""
        self._writer.lines(b"status=success")
        status: tuple[bytes, ...] = ()
        try:
            for piece in pieces:
                self._writer.content(piece)
        except BrokenPipeError:
            raise
        except (ThetaError, OSError) as error:
            complain(wanted.path, error)
            status = (b"status=error",)
        self._writer.end_of_content()
        self._writer.lines(*status)

    def _pass_through(self, head: bytes, content: Content) -> None:
        """Give back what is no pointer, as it came. Git writes all of it before it reads any."""
        start = head + content.read(_SPOOL_BYTES)
        if content.ended:
            self._writer.answer(start)
            return
        import tempfile

        buffer = memoryview(bytearray(_SPOOL_BYTES))
        with tempfile.TemporaryFile(dir=self._session.repository.git_dir) as spool:
            spool.write(start)
            while count := content.readinto(buffer):
                spool.write(buffer[:count])
            spool.seek(0)
            self._writer.lines(b"status=success")
            while count := spool.readinto(buffer):
                self._writer.content(buffer[:count])
        self._writer.end_of_content()
        self._writer.lines()

    # Delayed answers

    def list_available(self) -> None:
        """Tell git what can be had now: everything is fetched, and some of it made ready."""
        self._fetch_delayed()
        listed: list[bytes] = []
        ready_bytes = 0
        while self._delayed and ready_bytes < _READY_BYTES:
            path = next(iter(self._delayed))
            delayed = self._delayed.pop(path)
            self._available[path] = outcome = self._made_ready(delayed)
            listed.append(b"pathname=" + path)
            ready_bytes += delayed.wanted.file_bytes
            if isinstance(outcome, Exception):
                break  # git gives up when it hears of it: the rest would be made ready for nothing
        self._writer.lines(*listed)
        self._writer.lines(b"status=success")

    def _fetch_delayed(self) -> None:
        if self._is_fetched or not self._delayed:
            return
        by_treeish: dict[str | None, list[Wanted]] = {}
        for delayed in self._delayed.values():
            by_treeish.setdefault(delayed.treeish, []).append(delayed.wanted)
        for treeish, wanted in by_treeish.items():
            self._why_not_fetched = self._session.fetch(wanted, treeish) or self._why_not_fetched
        self._is_fetched = True
        work_tree = self._session.repository.work_tree
        if work_tree is not None:
            filled = [one.wanted.file_bytes for one in self._delayed.values() if _is_filled(one)]
            self._no_room = no_room_to_fill(work_tree, filled)

    def _made_ready(self, delayed: _Delayed) -> _Delayed | Exception:
        if not _is_filled(delayed):
            return delayed
        if self._no_room is not None:
            return self._no_room
        try:
            self._started_filling().prepare(delayed.wanted, self._session.store)
        except ObjectMissingError as error:
            return self._why_not_fetched or error
        except (ThetaError, OSError) as error:
            return error
        return delayed

    def _started_filling(self) -> Filling:
        if self._filling is None:
            repository = self._session.repository
            assert repository.work_tree is not None, "the contexts fill nothing without a work tree"
            self._filling = Filling(repository, repository.work_tree)
        return self._filling

    def _answer_again(self, path: bytes) -> None:
        """Answer the second request for a delayed file.

        Raises:
            ThetaError, OSError: it cannot be had.
        """
        outcome = self._available.pop(path)
        if isinstance(outcome, Exception):
            raise outcome
        wanted = outcome.wanted
        is_short = wanted.file_bytes < DIRECT_BYTES
        if is_short and self._was_sent_from_store(wanted.manifest_digest, wanted.pointer_digest):
            return
        if is_short and self._why_not_fetched is not None:
            raise self._why_not_fetched
        if outcome.answer is Answer.FILL and not is_short:
            _, text = wanted.manifest(self._session.store)
            self._writer.answer(text)
        else:
            self._send(wanted, self._session.pieces(wanted))

    # Pointers that may land in the work tree

    def _answer_pointer_for_now(self, wanted: Wanted, text: bytes) -> None:
        """Answer the pointer, and remember to look whether it came to lie in the work tree."""
        if not self._lies_in_work_tree(wanted):
            self._asked.append(wanted)
        self._writer.answer(text)

    def _lies_in_work_tree(self, wanted: Wanted) -> bool:
        """Tell whether the file at the path is exactly the pointer now."""
        work_tree = self._session.repository.work_tree
        if work_tree is None:
            return False
        try:
            with WorkFiles(work_tree) as files:
                path = os.fsencode(wanted.path)
                return files.pointer_at(path, wanted.pointer_bytes, wanted.pointer_digest) is not None
        except (ThetaError, OSError):
            return False

    def finish(self) -> list[Failure]:
        """Put files in their places; return those for which that failed."""
        failures = self._filling.finish() if self._filling is not None else []
        landed = [wanted for wanted in self._asked if self._lies_in_work_tree(wanted)]
        repository = self._session.repository
        why_not = self._session.fetch(self._kept, None) if self._kept else None
        if why_not is not None:
            complain(self._kept[0].path, why_not)
        if landed and repository.work_tree is not None:
            failures += fill_all(repository, repository.work_tree, self._session.store, landed, []).failures
        return failures
