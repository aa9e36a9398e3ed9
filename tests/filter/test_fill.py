"""What goes wrong while files are put in their places: nothing is lost, and the next command mends it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitbridge.pointers import is_pointer

if TYPE_CHECKING:
    from conftest import Worktree


def with_sabotage(worktree: Worktree, code: str) -> list[str]:
    """Options for git: a filter in whose process `code` runs first, and no hooks that fill before it comes to that."""
    script = worktree.path.parent / "sabotaged.py"
    script.write_text(f"import os, signal, sys\n{code}\nfrom gitbridge.filter_process import run\nsys.exit(run())\n")
    return ["-c", f"filter.theta.process='{sys.executable}' '{script}'", "-c", "core.hooksPath=/nowhere"]


KILL_AT_THE_END = """
from gitbridge.fill import Filling
Filling.finish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_BEFORE_THE_INDEX = """
from gitbridge import fill
fill.patch_index_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_WHILE_WRITING = """
from thetastore.store import Store
def die(self, manifest, digest, fd):
    os.write(fd, b"half")
    os.kill(os.getpid(), signal.SIGKILL)
Store.write_file = die
"""


def journals(worktree: Worktree) -> list[str]:
    directory = worktree.path / ".git/theta/pending"
    return os.listdir(directory) if directory.exists() else []


def strays(worktree: Worktree) -> list[str]:
    return [str(path) for path in worktree.path.rglob(".*.theta-*")]


def is_as_if_nothing_happened(worktree: Worktree) -> bool:
    return not journals(worktree) and not strays(worktree) and worktree.status_reads_no_weights()


# Killed


@pytest.mark.parametrize("mender", ["theta status", "add --renormalize .", "theta checkout"])
def test_the_next_command_completes_what_a_killed_filter_left(versions: Worktree, mender: str) -> None:
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "v1")
    assert is_pointer(versions.read("m.bin"))
    assert len(journals(versions)) == 1

    versions.run(*mender.split(), check=False)

    assert versions.read("m.bin") == versions.weights_1
    assert versions.read("d/n.bin") == versions.weights_1 + b"n"
    assert is_as_if_nothing_happened(versions)


def test_after_a_kill_before_the_index_was_patched_the_next_command_patches_it(versions: Worktree) -> None:
    versions.git(*with_sabotage(versions, KILL_BEFORE_THE_INDEX), "checkout", "-q", "v1")
    assert versions.read("m.bin") == versions.weights_1
    assert not versions.status_reads_no_weights()

    versions.theta("status")

    assert is_as_if_nothing_happened(versions)


def test_a_kill_while_a_file_is_made_fails_the_checkout_and_leaves_no_half_file(versions: Worktree) -> None:
    failed = versions.run(*with_sabotage(versions, KILL_WHILE_WRITING), "checkout", "-q", "v1", check=False)
    assert failed.returncode == 128
    assert len(strays(versions)) == 1

    versions.git("checkout", "-q", "-f", "v1")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


def test_a_file_that_the_user_has_put_there_since_is_never_touched(versions: Worktree) -> None:
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "v1")
    pointer = versions.read("m.bin")
    versions.write("m.bin", pointer + b"\n")
    (versions.path / "d/n.bin").unlink()

    versions.theta("status", check=False)

    assert versions.read("m.bin") == pointer + b"\n"
    assert not (versions.path / "d/n.bin").exists()
    assert journals(versions) == []
    assert strays(versions) == []


def test_after_another_boot_the_bytes_come_from_the_store(versions: Worktree) -> None:
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "v1")
    journal = versions.path / ".git/theta/pending" / journals(versions)[0]
    content = bytearray(journal.read_bytes())
    content[8] ^= 1
    journal.write_bytes(content)
    for stray in strays(versions):
        Path(stray).write_bytes(b"zeros, after a power failure")

    versions.theta("status")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


def test_a_temporary_file_that_was_tampered_with_is_not_used(versions: Worktree) -> None:
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "v1")
    for stray in strays(versions):
        Path(stray).write_bytes(b"something else")

    versions.theta("status")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


def test_a_rebase_that_was_killed_can_be_continued(versions: Worktree) -> None:
    versions.git("checkout", "-q", "side")
    versions.run(*with_sabotage(versions, KILL_WHILE_WRITING), "rebase", "main", check=False)

    versions.run("rebase", "--abort", check=False)
    versions.git("reset", "-q", "--hard", "side")

    assert versions.read("d/n.bin") == versions.weights_2 + b"side"
    versions.theta("status")
    assert strays(versions) == []


def test_a_stray_temporary_file_is_never_added(versions: Worktree) -> None:
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "v1")
    assert len(strays(versions)) == 1

    versions.git("add", "-A")

    assert versions.status() == ""


# Weights that are not to be had


def hide_packs(worktree: Worktree) -> None:
    os.rename(worktree.path / ".git/theta/packs", worktree.path / ".git/theta/hidden")
    os.rename(worktree.path / ".git/theta/index", worktree.path / ".git/theta/hidden-index")


def bring_packs_back(worktree: Worktree) -> None:
    for name, hidden in (("packs", "hidden"), ("index", "hidden-index")):
        shutil.rmtree(worktree.path / ".git/theta" / name, ignore_errors=True)
        os.rename(worktree.path / ".git/theta" / hidden, worktree.path / ".git/theta" / name)


def test_a_file_that_cannot_be_had_makes_git_fail_and_name_it(versions: Worktree) -> None:
    hide_packs(versions)

    failed = versions.run("checkout", "v1", check=False)

    assert failed.returncode == 128
    assert "m.bin" in failed.stderr
    assert not (versions.path / "m.bin").exists()
    assert versions.git("rev-parse", "HEAD") == versions.git("rev-parse", "v2")
    assert strays(versions) == []

    bring_packs_back(versions)
    versions.git("checkout", "-q", "-f", "v1")
    assert versions.read("m.bin") == versions.weights_1
    assert versions.read("small.bin") == versions.small
    assert is_as_if_nothing_happened(versions)


def test_archive_of_what_cannot_be_had_fails(versions: Worktree, tmp_path: Path) -> None:
    hide_packs(versions)

    failed = versions.run("archive", "-o", str(tmp_path / "out.tar"), "v1", check=False)

    assert failed.returncode == 128
    assert "git theta: '" in failed.stderr


def damage_packs(worktree: Worktree) -> None:
    for pack in (worktree.path / ".git/theta/packs").iterdir():
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.chmod(0o644)
        pack.write_bytes(content)


def test_a_flipped_byte_is_never_checked_out(versions: Worktree) -> None:
    damage_packs(versions)

    done = versions.run("checkout", "v1", check=False)

    if done.returncode == 0:
        assert versions.read("m.bin") == versions.weights_1
    else:
        assert done.returncode == 128
        assert "is corrupt" in done.stderr
        assert not (versions.path / "m.bin").exists() or versions.read("m.bin") in (
            versions.weights_1,
            versions.weights_2,
        )
    assert strays(versions) == []


# Nowhere to put them


def test_a_locked_index_is_reported_and_patched_by_the_next_command(versions: Worktree) -> None:
    lock = versions.path / ".git/index.lock"
    sabotage = f"""
from gitbridge import fill
patch = fill.patch_index_of
def locked(repository, filled):
    open({str(lock)!r}, "x").close()
    return patch(repository, filled)
fill.patch_index_of = locked
fill.update_index.__defaults__ = (0.01,)
"""
    done = versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1")
    assert done.stderr.count("index.lock' is there") == 1
    assert versions.read("m.bin") == versions.weights_1
    assert len(journals(versions)) == 1

    lock.unlink()
    versions.theta("status")

    assert is_as_if_nothing_happened(versions)


@pytest.mark.parametrize(
    "broken", ["work_files.exchange = full", "work_files.exchange = no; work_files.os.rename = full"]
)
def test_a_rename_that_fails_is_reported_and_made_up_for(versions: Worktree, broken: str) -> None:
    sabotage = f"""
from gitbridge import work_files
def no(*_):
    return False
def full(*_, **__):
    raise OSError(28, "No space left on device")
{broken}
"""
    done = versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1")
    assert "'m.bin': " in done.stderr
    assert "No space left on device" in done.stderr
    assert is_pointer(versions.read("m.bin"))

    versions.theta("status")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


def test_where_files_cannot_change_names_a_rename_does(versions: Worktree) -> None:
    sabotage = "from gitbridge import work_files; work_files.exchange = lambda *_: False"

    versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


def test_a_file_that_is_put_there_at_the_last_moment_stays(versions: Worktree) -> None:
    sabotage = """
import os
from gitbridge import work_files
really = work_files.exchange
def raced(directory, one, other):
    if not os.path.exists("was-raced"):
        open("was-raced", "x").close()
        with open("saved-by-user", "xb") as file:
            file.write(b"training went on")
        os.rename("saved-by-user", "m.bin")
    return really(directory, one, other)
work_files.exchange = raced
"""
    versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1")

    assert versions.read("m.bin") == b"training went on"
    assert strays(versions) == []


def test_a_full_disk_while_a_file_is_made_makes_git_fail(versions: Worktree) -> None:
    sabotage = """
from thetastore.store import Store
def full(self, manifest, digest, fd):
    os.write(fd, b"half")
    raise OSError(28, "No space left on device")
Store.write_file = full
"""
    done = versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1", check=False)

    assert done.returncode == 128
    assert "No space left on device" in done.stderr
    assert strays(versions) == []
    versions.git("checkout", "-q", "-f", "v1")
    assert versions.read("m.bin") == versions.weights_1


def test_a_symlink_in_place_of_a_directory_is_not_followed(versions: Worktree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    versions.git(*with_sabotage(versions, KILL_AT_THE_END), "checkout", "-q", "side")
    pointer = versions.read("d/n.bin")
    temporary = next(Path(stray) for stray in strays(versions) if "/d/" in stray)
    (outside / "n.bin").write_bytes(pointer)
    os.rename(temporary, outside / temporary.name)
    shutil.rmtree(versions.path / "d")
    os.symlink(outside, versions.path / "d")

    versions.theta("status", check=False)

    assert (outside / "n.bin").read_bytes() == pointer
    assert (outside / temporary.name).exists()
    assert versions.read("m.bin") == versions.weights_1


def test_a_split_index_is_left_to_git(versions: Worktree) -> None:
    versions.git("config", "core.splitIndex", "true")
    versions.git("update-index", "--split-index")

    versions.git("checkout", "-q", "v1")

    assert versions.read("m.bin") == versions.weights_1
    assert versions.status() == ""
    assert journals(versions) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("index.version", "4"), ("index.skipHash", "true"), ("core.untrackedCache", "true"), ("index.sparse", "true")],
)
def test_every_kind_of_index_is_kept_up_to_date(versions: Worktree, name: str, value: str) -> None:
    versions.git("config", name, value)
    if name == "index.version":
        versions.git("update-index", "--index-version", value)

    versions.git("checkout", "-q", "v1")

    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)


# On request


def as_pointers(worktree: Worktree) -> None:
    """Check out pointers, as a clone without git theta does."""
    for path in ("m.bin", "d/n.bin", "small.bin"):
        (worktree.path / path).unlink()
    worktree.git("-c", "filter.theta.process=", "-c", "filter.theta.smudge=", "-c", "filter.theta.clean=",
                 "-c", "filter.theta.required=false", "checkout", "--", ".")  # fmt: skip
    assert is_pointer(worktree.read("m.bin"))


def test_git_theta_checkout_fills_pointers(versions: Worktree) -> None:
    as_pointers(versions)

    versions.theta("checkout", "d")
    assert versions.read("d/n.bin") == versions.weights_1 + b"n"
    assert is_pointer(versions.read("m.bin"))

    versions.theta("checkout")
    assert versions.read("m.bin") == versions.weights_2
    assert versions.read("small.bin") == versions.small
    assert is_as_if_nothing_happened(versions)


def test_git_theta_checkout_fills_only_tracked_files(versions: Worktree) -> None:
    as_pointers(versions)
    text = versions.read("m.bin")
    versions.write("example.txt", text)
    versions.git("add", "example.txt")

    versions.theta("checkout", "example.txt", "m.bin", check=False)

    assert versions.read("example.txt") == text
    assert versions.read("m.bin") == versions.weights_2


def test_git_theta_checkout_names_what_it_cannot_fill_and_fills_the_rest(versions: Worktree) -> None:
    as_pointers(versions)
    text = versions.read("m.bin")
    versions.write("m.bin", text.replace(b"manifest ", b"manifest 0", 1))

    done = versions.theta("checkout", check=False)

    assert done.returncode != 0
    assert "'m.bin'" in done.stderr
    assert versions.read("d/n.bin") == versions.weights_1 + b"n"
    assert strays(versions) == []


def test_a_pointer_whose_tensors_were_edited_is_refused(versions: Worktree) -> None:
    """Its text is well formed, and still not what its manifest says."""
    text = versions.blob("v1:m.bin").replace(b"size 300000", b"size 300001")
    versions.write("edited", text)
    oid = versions.git("hash-object", "-w", "--no-filters", "edited")
    versions.git("update-index", "--cacheinfo", f"100644,{oid},m.bin")
    (versions.path / "m.bin").unlink()

    failed = versions.run("checkout", "--", "m.bin", check=False)

    assert failed.returncode == 128
    assert "edited" in failed.stderr
    assert not (versions.path / "m.bin").exists()


# Interrupted


def test_an_interrupt_leaves_whole_files_or_pointers(versions: Worktree) -> None:
    """Ctrl-C reaches git and the filter at once."""
    sabotage = """
from gitbridge.fill import Filling
prepare = Filling.prepare
def interrupted(self, wanted, store):
    prepare(self, wanted, store)
    os.kill(os.getpid(), signal.SIGINT)
Filling.prepare = interrupted
"""
    versions.run(*with_sabotage(versions, sabotage), "checkout", "-q", "v1", check=False)

    assert strays(versions) == []
    versions.git("checkout", "-q", "-f", "v1")
    assert versions.read("m.bin") == versions.weights_1
    assert is_as_if_nothing_happened(versions)
