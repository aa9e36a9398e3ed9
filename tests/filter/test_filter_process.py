"""The filter as git sees it: packets in, packets out."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gitbridge.pktline import PacketReader, PacketWriter
from gitbridge.pointers import is_pointer, parse_pointer
from thetastore.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Worktree


class Filter:
    """A filter process, and the packets of git's side."""

    def __init__(self, worktree: Worktree) -> None:
        self.process = subprocess.Popen(
            ["git-theta", "filter-process"],
            cwd=worktree.path,
            env=worktree.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.reader = PacketReader(self.process.stdout.fileno())
        self.writer = PacketWriter(self.process.stdin.fileno())

    def shake_hands(self) -> list[bytes]:
        self.writer.lines(b"git-filter-client", b"version=2")
        assert self.reader.lines() == [b"git-filter-server", b"version=2"]
        self.writer.lines(b"capability=clean", b"capability=smudge", b"capability=delay", b"capability=new")
        return self.reader.lines()

    def ask(self, command: str, path: str, content: bytes, *fields: bytes) -> tuple[list[bytes], bytes]:
        """Send a request; return the status, after content where there is some, and the content."""
        self.writer.lines(b"command=" + command.encode(), b"pathname=" + path.encode(), *fields)
        self.writer.content(content)
        self.writer.end_of_content()
        status = self.reader.lines()
        if status != [b"status=success"]:
            return status, b""
        answer = self.reader.content().read(1 << 30)
        return self.reader.lines() or status, answer

    def available(self) -> list[bytes]:
        self.writer.lines(b"command=list_available_blobs")
        paths = self.reader.lines()
        assert self.reader.lines() == [b"status=success"]
        return paths

    def end(self) -> str:
        """Close the pipe; return what the filter has to say."""
        if not self.process.stdin.closed:
            _, words = self.process.communicate()
            self.words = words.decode()
        return self.words


@pytest.fixture
def filter_of(versions: Worktree) -> Iterator[Filter]:
    found = Filter(versions)
    assert found.shake_hands() == [b"capability=clean", b"capability=smudge", b"capability=delay"]
    yield found
    found.end()


def test_an_empty_input_is_no_error_and_imports_nothing_heavy(plain: Worktree) -> None:
    script = (
        "import sys\nfrom gitbridge.cli.main import main\nsys.argv[1:] = ['filter-process']\n"
        "status = main(['filter-process'])\nprint(status, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=plain.path,
        env=plain.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )

    status, *modules = done.stderr.decode().split()
    assert status == "0"
    assert done.stdout == b""
    heavy = {"numpy", "subprocess", "zarr", "fsspec", "numcodecs", "pygit2", "asyncio", "argparse", "logging", "json"}
    assert not heavy & {name.split(".")[0] for name in modules}


def test_pointers_in_and_out_need_no_numpy(versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")
    fields = b"".join(b"%04x%b\n" % (len(line) + 5, line) for line in (b"command=clean", b"pathname=x.bin"))
    hello = b"0016git-filter-client\n000eversion=2\n0000" + b"0015capability=clean\n0000"
    script = (
        "import sys\nfrom gitbridge.filter_process import run\nrun()\n"
        "assert not {'numpy', 'zarr', 'fsspec', 'numcodecs', 'pygit2', 'asyncio'} & set(sys.modules), 'heavy'"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=versions.path,
        env=versions.environment,
        input=hello + fields + b"0000" + b"%04x%b0000" % (len(text) + 4, text),
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert text in done.stdout


def test_adding_weights_imports_nothing_of_taking_them_out_or_sending_them(versions: Worktree) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1000,1000],"data_offsets":[0,4000000]}}'
    raw = len(header).to_bytes(8, "little") + header + os.urandom(4_000_000)
    fields = b"".join(b"%04x%b\n" % (len(line) + 5, line) for line in (b"command=clean", b"pathname=x.safetensors"))
    hello = b"0016git-filter-client\n000eversion=2\n0000" + b"0015capability=clean\n0000"
    pieces = (raw[start : start + 65_516] for start in range(0, len(raw), 65_516))
    content = b"".join(b"%04x%b" % (len(piece) + 4, piece) for piece in pieces)
    script = (
        "import sys\nfrom gitbridge.filter_process import run\nassert run() == 0\n"
        "assert 'numpy' in sys.modules\n"
        "found = {'logging', 'concurrent.futures', 'gitbridge.materialize'}\n"
        "found |= {'gitbridge.fetching', 'gitbridge.pushing'}\n"
        "found &= set(sys.modules)\n"
        "assert not found, found"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=versions.path,
        env=versions.environment,
        input=hello + fields + b"0000" + content + b"0000",
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert b"status=success" in done.stdout


def test_one_bad_file_does_not_spoil_the_next(filter_of: Filter, versions: Worktree) -> None:
    damaged = versions.blob("v1:m.bin")[:-1] + b"x" * 5_000_000

    assert filter_of.ask("clean", "bad.bin", damaged) == ([b"status=error"], b"")
    status, text = filter_of.ask("clean", "good.bin", b"good")

    assert status == [b"status=success"]
    assert parse_pointer(text).file_digest == digest_of(b"good")
    assert "git theta: 'bad.bin': " in filter_of.end()


def test_what_is_no_pointer_passes_unchanged(filter_of: Filter) -> None:
    for size in (0, 1, 100_000, 5_000_000):
        content = os.urandom(size)
        assert filter_of.ask("smudge", "raw.bin", content, b"can-delay=1", b"blob=" + b"0" * 40)[1] == content


def test_what_only_begins_as_a_pointer_passes_unchanged(filter_of: Filter, versions: Worktree) -> None:
    conflict = versions.blob("v1:m.bin").replace(b"size", b"<<<<<<< ours\nsize") + b"x" * 3_000_000

    assert filter_of.ask("smudge", "m.bin", conflict)[1] == conflict
    assert "git theta: 'm.bin': " in filter_of.end()


def test_a_pointer_of_a_newer_version_is_an_error_where_bytes_are_wanted(filter_of: Filter, versions: Worktree) -> None:
    newer = versions.blob("v1:m.bin").replace(b"pointer-1", b"pointer-2")

    assert filter_of.ask("smudge", "m.bin", newer)[0] == [b"status=error"]
    assert filter_of.ask("smudge", "m.bin", newer, b"blob=" + b"0" * 40)[1] == newer
    assert "a newer one is needed" in filter_of.end()


def test_nothing_at_all_about_the_context_gets_bytes(filter_of: Filter, versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")

    assert filter_of.ask("smudge", "m.bin", text)[1] == versions.weights_1
    assert (
        filter_of.ask("smudge", "m.bin", text, b"treeish=" + b"0" * 40, b"blob=" + b"0" * 40)[1] == versions.weights_1
    )


def test_a_delayed_file_is_ready_before_git_hears_of_its_pointer(filter_of: Filter, versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")
    (versions.path / "m.bin").unlink()
    fields = [b"treeish=" + b"0" * 40, b"blob=" + versions.git("rev-parse", "v1:m.bin").encode()]

    assert filter_of.ask("smudge", "m.bin", text, *fields, b"can-delay=1") == ([b"status=delayed"], b"")
    assert filter_of.available() == [b"pathname=m.bin"]
    temporary = next(versions.path.glob(".m.bin.theta-*"))
    assert temporary.read_bytes() == versions.weights_1
    assert len(os.listdir(versions.path / ".git/theta/pending")) == 1
    assert filter_of.ask("smudge", "m.bin", b"", *fields) == ([b"status=success"], text)
    assert filter_of.available() == []

    assert filter_of.end() == ""
    assert not temporary.exists()
    assert not (versions.path / "m.bin").exists()


def test_a_file_that_is_asked_for_twice_is_filled_once(filter_of: Filter, versions: Worktree) -> None:
    """A rebase checks out the same path again and again in one process."""
    for tag in ("v2", "v1"):
        text = versions.blob(f"{tag}:m.bin")
        fields = [b"blob=" + versions.git("rev-parse", f"{tag}:m.bin").encode()]
        assert filter_of.ask("smudge", "m.bin", text, *fields, b"can-delay=1")[0] == [b"status=delayed"]
        assert filter_of.available() == [b"pathname=m.bin"]
        assert filter_of.ask("smudge", "m.bin", b"", *fields)[1] == text
    versions.write("m.bin", text)

    filter_of.end()

    assert versions.read("m.bin") == versions.weights_1
    assert list(versions.path.glob(".*theta-*")) == []


def test_records_can_be_read_by_others_before_git_has_its_answer(filter_of: Filter, versions: Worktree) -> None:
    """And after kill -9."""
    content = os.urandom(3_000_000)
    _, text = filter_of.ask("clean", "new.bin", content)
    filter_of.process.kill()

    done = subprocess.run(
        ["git-theta", "smudge", "--", "new.bin"],
        cwd=versions.path,
        env=versions.environment,
        input=text,
        capture_output=True,
        check=True,
    )

    assert done.stdout == content


def test_what_is_not_the_protocol_is_refused(plain: Worktree) -> None:
    done = subprocess.run(
        ["git-theta", "filter-process"], cwd=plain.path, env=plain.environment, input=b"hello\n", capture_output=True
    )

    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def one_shot(worktree: Worktree, command: str, path: str, content: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git-theta", command, "--", path],
        cwd=worktree.path,
        env=worktree.environment,
        input=content,
        capture_output=True,
        check=False,
    )


def test_the_one_shot_filter_does_the_same(versions: Worktree) -> None:
    text = one_shot(versions, "clean", "m.bin", versions.weights_1).stdout

    assert text == versions.blob("v1:m.bin")
    assert one_shot(versions, "clean", "m.bin", text).stdout == text
    assert one_shot(versions, "clean", "m.bin", b"").stdout == b""
    assert one_shot(versions, "smudge", "m.bin", text).stdout == versions.weights_1
    assert one_shot(versions, "smudge", "m.bin", b"raw").stdout == b"raw"


def test_the_one_shot_filter_fails_with_a_message(versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")
    manifest = next(line for line in text.splitlines() if line.startswith(b"manifest "))
    lost = text.replace(manifest, b"manifest " + b"0" * 64)

    refused = one_shot(versions, "smudge", "m.bin", lost)

    assert refused.returncode == 1
    assert b"git theta: 'm.bin': " in refused.stderr
    assert is_pointer(lost)
    assert one_shot(versions, "clean", "m.bin", text + b"x").returncode == 1


def test_the_one_shot_filter_gives_no_pointer_of_a_newer_version_for_bytes(versions: Worktree) -> None:
    newer = versions.blob("v1:m.bin").replace(b"pointer-1", b"pointer-2")

    refused = one_shot(versions, "smudge", "m.bin", newer)

    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"a newer one is needed" in refused.stderr
