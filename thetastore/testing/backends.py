"""The contract of `thetastore.backends.Backend` as tests.

class TestMyBackend(BackendConformance):        # NearBackendConformance, where `is_remote` is False
    @pytest.fixture
    def backend(self, tmp_path): return MyBackend(tmp_path)

    @pytest.fixture
    def peer(self, backend): return MyBackend(backend.url)   # as another process would open it
"""

from __future__ import annotations

import threading

import pytest

from thetastore.backends import Appender, Backend, Range
from thetastore.errors import BackendError, MalformedError

_BAD_NAMES = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "a\\b",
    "a b",
    "a\0b",
    "a\nb",
    "é",
    "~a",
    "x" * 256,
]


class BackendConformance:
    """What every backend does. Subclass it, with the fixtures `backend` and `peer`: two handles on one empty place."""

    @pytest.fixture
    def backend(self) -> Backend:
        """Return a handle on an empty place."""
        raise NotImplementedError

    @pytest.fixture
    def peer(self, backend: Backend) -> Backend:
        """Return another handle on the same place, as another process has it."""
        raise NotImplementedError

    def test_a_created_file_is_read_by_everybody(self, backend: Backend, peer: Backend) -> None:
        backend.create("a/b/c.bin", b"hello")

        assert peer.read("a/b/c.bin") == b"hello"
        assert peer.size("a/b/c.bin") == 5
        assert bytes(peer.view("a/b/c.bin")) == b"hello"

    def test_an_empty_file_is_a_file(self, backend: Backend) -> None:
        backend.create("empty", b"")

        assert backend.read("empty") == b""
        assert backend.size("empty") == 0
        assert len(backend.view("empty")) == 0
        assert list(backend.list("")) == ["empty"]

    def test_any_buffer_can_be_written(self, backend: Backend) -> None:
        backend.create("a", bytearray(b"hello"))
        backend.create("b", memoryview(b"hello")[1:3])

        assert (backend.read("a"), backend.read("b")) == (b"hello", b"el")

    @pytest.mark.parametrize(
        ("offset", "nbytes", "expected"),
        [
            (0, 3, b"012"),
            (3, 4, b"3456"),
            (8, 100, b"89"),
            (10, 5, b""),
            (99, 5, b""),
            (4, None, b"456789"),
            (2, 0, b""),
        ],
    )
    def test_a_range_is_shorter_only_at_the_end(
        self, backend: Backend, offset: int, nbytes: int | None, expected: bytes
    ) -> None:
        backend.create("digits", b"0123456789")

        assert backend.read("digits", offset, nbytes) == expected

    def test_an_absurd_range_takes_no_memory(self, backend: Backend) -> None:
        backend.create("digits", b"0123456789")

        assert backend.read("digits", 5, 1 << 60) == b"56789"

    def test_an_open_file_is_read_into_the_callers_memory(self, backend: Backend) -> None:
        backend.create("digits", b"0123456789")
        out = memoryview(bytearray(4))

        assert backend.open("digits").read_into(3, out) == 4
        assert bytes(out) == b"3456"
        assert backend.open("digits").read_into(8, out) == 2
        assert bytes(out[:2]) == b"89"

    def test_what_is_not_there_is_file_not_found(self, backend: Backend) -> None:
        for act in (backend.read, lambda name: backend.open(name).size(), backend.view, backend.size, backend.reopen):
            with pytest.raises(FileNotFoundError):
                act("not/there")

    def test_a_deleted_file_is_gone_for_everybody(self, backend: Backend, peer: Backend) -> None:
        backend.create("a", b"1")
        assert peer.read("a") == b"1"

        backend.delete("a")

        with pytest.raises(FileNotFoundError):
            peer.read("a")
        assert list(peer.list("")) == []

    def test_deleting_what_is_not_there_is_no_error(self, backend: Backend) -> None:
        backend.delete("not/there")
        backend.delete("nothing")

    def test_a_taken_name_stays_as_it_was(self, backend: Backend, peer: Backend) -> None:
        backend.create("a", b"first")

        for content in (b"second", b"first"):
            with pytest.raises(FileExistsError):
                peer.create("a", content)
        assert backend.read("a") == b"first"

    def test_a_file_tells_when_it_was_written_by_one_clock_for_all(self, backend: Backend, peer: Backend) -> None:
        backend.create("clock/1", b"")
        backend.create("clock/2", b"")

        first_s, second_s = peer.written_s("clock/1"), peer.written_s("clock/2")

        assert 0 <= second_s - first_s < 600
        assert first_s > 1.7e9, "seconds since 1970"
        with pytest.raises(FileNotFoundError):
            peer.written_s("clock/3")

    def test_of_many_creators_one_wins(self, backend: Backend, peer: Backend) -> None:
        won: list[int] = []
        start = threading.Barrier(8)

        def create(number: int) -> None:
            start.wait()
            try:
                (backend if number % 2 else peer).create("race/a", bytes([number]) * 1000)
            except FileExistsError:
                return
            won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(won) == 1
        assert backend.read("race/a") == bytes(won) * 1000
        assert list(backend.list("race")) == ["race/a"]

    def test_a_moved_file_is_what_it_was_under_another_name(self, backend: Backend, peer: Backend) -> None:
        backend.create("packs/a", b"content")

        backend.move("packs/a", "damaged/a")

        assert list(peer.list("")) == ["damaged/a"]
        assert peer.read("damaged/a") == b"content"

    def test_moving_replaces_nothing(self, backend: Backend, peer: Backend) -> None:
        backend.create("packs/a", b"one")
        backend.create("damaged/a", b"two")

        with pytest.raises(FileExistsError):
            backend.move("packs/a", "damaged/a")

        assert (peer.read("packs/a"), peer.read("damaged/a")) == (b"one", b"two")

    def test_listing_is_recursive_and_by_directory(self, backend: Backend) -> None:
        for name in ("packs/a", "packs/deep/er/b", "packs2/c", "d"):
            backend.create(name, b"")

        assert sorted(backend.list("packs")) == ["packs/a", "packs/deep/er/b"]
        assert sorted(backend.list("")) == ["d", "packs/a", "packs/deep/er/b", "packs2/c"]
        assert list(backend.list("nothing")) == []

    @pytest.mark.parametrize("name", _BAD_NAMES)
    def test_names_that_could_leave_the_store_are_refused(self, backend: Backend, name: str) -> None:
        for act in (
            backend.read,
            lambda name: backend.open(name).size(),
            backend.view,
            backend.size,
            backend.delete,
            backend.appender,
        ):
            with pytest.raises(MalformedError):
                act(name)
        with pytest.raises(MalformedError):
            backend.create(name, b"")
        with pytest.raises(MalformedError):
            backend.try_lock(name).__enter__()

    def test_sealing_never_replaces(self, backend: Backend) -> None:
        backend.create("packs/a", b"first")
        appender = backend.appender("incoming/a")
        appender.write(b"second")

        with pytest.raises(FileExistsError):
            appender.seal("packs/a")

        assert backend.read("packs/a") == b"first"
        assert backend.read("incoming/a") == b"second"
        appender.close()

    def test_a_discarded_file_is_gone(self, backend: Backend, peer: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"content")

        appender.discard()

        assert list(peer.list("")) == []

    def test_an_appender_that_was_let_go_writes_no_more(self, backend: Backend) -> None:
        appender: Appender = backend.appender("incoming/a")
        appender.close()
        appender.close()

        with pytest.raises(BackendError):
            appender.write(b"late")

    def test_a_lock_is_had_by_one(self, backend: Backend, peer: Backend) -> None:
        with backend.try_lock("locks/merge") as first, peer.try_lock("locks/merge") as second:
            assert (first, second) == (True, False)

        with peer.try_lock("locks/merge") as third, backend.try_lock("locks/other") as other:
            assert (third, other) == (True, True)

    def test_what_was_announced_is_read_as_ever(self, backend: Backend, peer: Backend) -> None:
        body = bytes(range(256)) * 40
        backend.create("packs/a", body)
        ranges = [Range("packs/a", start, 100) for start in (0, 100, 250, 9000)]

        assert list(peer.list("packs")) == ["packs/a"]
        peer.expect([*ranges, Range("not/there", 0, 10), Range("packs/a", 10_200, 1000)])

        reader = peer.open("packs/a")
        out = memoryview(bytearray(100))
        for _, offset, nbytes in ranges:
            assert reader.read_into(offset, out) == nbytes
            assert out == body[offset : offset + nbytes]
        assert reader.read_into(10_200, out) == 40
        with pytest.raises(FileNotFoundError):
            peer.open("not/there").read_into(0, out)

    def test_a_file_that_need_not_last_is_there_all_the_same(self, backend: Backend, peer: Backend) -> None:
        backend.create("families/a", b"", durable=False)

        assert list(peer.list("families")) == ["families/a"]

    def test_a_file_in_the_making_is_read_by_its_own_process(self, backend: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"one", b"", memoryview(b"two"))
        reader = backend.open("incoming/a")
        assert backend.read("incoming/a") == b"onetwo"

        appender.write(b"three")

        assert reader.size() == backend.size("incoming/a") == appender.size() == 11
        assert backend.read("incoming/a", 6) == b"three"
        appender.discard()
        with pytest.raises(FileNotFoundError):
            backend.read("incoming/a")

    def test_a_sealed_file_is_there_for_everybody_at_once(self, backend: Backend, peer: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"content")
        appender.sync()

        appender.seal("packs/a")

        assert peer.read("packs/a") == backend.read("incoming/a") == b"content"
        appender.close()
        assert list(peer.list("incoming")) == list(backend.list("incoming")) == []
        assert peer.read("packs/a") == b"content"

    def test_a_file_in_the_making_can_be_cut(self, backend: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"whole|torn")
        appender.truncate(5)
        appender.write(b"|more")
        appender.seal("packs/a")
        appender.close()

        assert backend.read("packs/a") == b"whole|more"

    def test_an_empty_file_can_be_sealed(self, backend: Backend, peer: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.seal("packs/a")
        appender.close()

        assert peer.read("packs/a") == b""

    def test_a_lock_can_be_had_again_and_again(self, backend: Backend, peer: Backend) -> None:
        for holder in (backend, peer, backend, peer):
            with holder.try_lock("locks/merge") as is_ours:
                assert is_ours


class NearBackendConformance(BackendConformance):
    """What a backend that is not remote does besides."""

    def test_an_open_file_outlives_its_name(self, backend: Backend, peer: Backend) -> None:
        backend.create("digits", b"0123456789")
        reader = backend.open("digits")
        view = backend.view("digits")

        peer.delete("digits")

        out = memoryview(bytearray(10))
        assert reader.read_into(0, out) == 10
        assert bytes(out) == b"0123456789"
        assert bytes(view) == b"0123456789"

    def test_an_appended_file_is_read_while_it_grows(self, backend: Backend, peer: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"one", b"", memoryview(b"two"))
        reader = peer.open("incoming/a")
        assert peer.read("incoming/a") == b"onetwo"

        appender.write(b"three")

        assert reader.size() == appender.size() == 11
        assert peer.read("incoming/a", 6) == b"three"
        appender.discard()

    def test_a_sealed_file_has_its_new_name_at_once_and_loses_the_old_on_close(
        self, backend: Backend, peer: Backend
    ) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"content")
        appender.sync()

        appender.seal("packs/a")

        assert peer.read("packs/a") == peer.read("incoming/a") == b"content"
        appender.close()
        assert list(peer.list("incoming")) == []
        assert peer.read("packs/a") == b"content"

    def test_an_appender_needs_a_new_name(self, backend: Backend, peer: Backend) -> None:
        backend.create("incoming/a", b"")

        with pytest.raises(FileExistsError):
            peer.appender("incoming/a")

    def test_a_file_in_the_making_is_locked_while_its_writer_lives(self, backend: Backend, peer: Backend) -> None:
        appender = backend.appender("incoming/a")
        appender.write(b"whole|torn")

        with pytest.raises(BlockingIOError):
            peer.reopen("incoming/a")
        appender.close()
        heir = peer.reopen("incoming/a")
        with pytest.raises(BlockingIOError):
            backend.reopen("incoming/a")
        heir.truncate(5)
        heir.write(b"|more")
        heir.seal("packs/a")
        heir.close()

        assert backend.read("packs/a") == b"whole|more"
        assert list(backend.list("incoming")) == []
