"""Every git command gets what it needs: bytes where they are read, pointers where Git keeps them."""

from __future__ import annotations

import os
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitbridge.pointers import Pointer, is_pointer, parse_pointer, render_pointer
from thetastore.digest import Kind, digest_of
from thetastore.manifest import encode_manifest
from thetastore.store import Store

if TYPE_CHECKING:
    from conftest import Worktree


def pointer(worktree: Worktree, name: str) -> Pointer:
    return parse_pointer(worktree.blob(name))


def expect_version(worktree: Worktree, number: int) -> None:
    assert worktree.read("m.bin") == (worktree.weights_1, worktree.weights_2)[number - 1]
    assert worktree.read("d/n.bin") == worktree.weights_1 + b"n"
    assert worktree.read("small.bin") == worktree.small
    assert worktree.read("a.txt") == b"text %d\n" % number


def hook(worktree: Worktree, name: str, command: str) -> None:
    path = worktree.path / ".git" / "hooks" / name
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


# Adding


def test_git_keeps_a_pointer_that_names_the_bytes(versions: Worktree) -> None:
    found = pointer(versions, "v1:m.bin")

    assert found.file_bytes == len(versions.weights_1)
    assert found.file_digest == digest_of(versions.weights_1)
    assert is_pointer(versions.blob("v1:small.bin"))
    assert versions.blob("v1:a.txt") == b"text 1\n"


NAMES = ["with space.bin", "ünïcode ☃.bin", "-dash.bin", "new\nline.bin", "long" * 60 + ".bin", "deep/er/e.bin"]


def test_names_may_be_anything(tracked: Worktree) -> None:
    content = {name: tracked.weights_1 + os.fsencode(name) for name in [*NAMES, os.fsdecode(b"not-utf8-\xff.bin")]}
    for name, raw in content.items():
        tracked.write(name, raw)
    tracked.commit("v1")
    for name in content:
        (tracked.path / name).unlink()

    tracked.git("checkout", "--", ".")

    assert {name: tracked.read(name) for name in content} == content
    assert tracked.status_reads_no_weights()
    assert sorted(os.listdir(tracked.path)) == sorted({".git", ".gitattributes", *(n.split("/")[0] for n in content)})


def safetensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "no tensors": safetensors(b"{}"),
    "one tensor": safetensors(b'{"w":{"dtype":"F32","shape":[100000],"data_offsets":[0,400000]}}', bytes(400_000)),
    "no checkpoint": b"hello, world\n" * 50_000,
    "line ends": b"a\r\nb\n" * 100_000,
    "cut short": safetensors(b'{"w":{"dtype":"F32","shape":[100000],"data_offsets":[0,400000]}}', bytes(300_000)),
}


def test_any_content_comes_back(tracked: Worktree) -> None:
    for name, raw in CONTENTS.items():
        tracked.write(name + ".bin", raw)
    tracked.commit("v1")
    for name in CONTENTS:
        (tracked.path / (name + ".bin")).unlink()

    tracked.git("checkout", "--", ".")

    assert {name: tracked.read(name + ".bin") for name in CONTENTS} == CONTENTS
    assert tracked.blob("v1:empty.bin") == b""
    assert pointer(tracked, "v1:no tensors.bin").tensors == ()
    assert [tensor.name for tensor in pointer(tracked, "v1:one tensor.bin").tensors] == ["w"]


def test_a_pointer_that_is_added_stays_what_it_is(versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")
    versions.write("copy.bin", text)

    versions.git("add", "copy.bin")

    assert versions.blob(":copy.bin") == text


def test_hash_object_cleans_under_the_name_it_is_given(versions: Worktree) -> None:
    versions.write("elsewhere", versions.weights_1)

    oid = versions.git("hash-object", "--path=m.bin", "elsewhere")

    assert oid == versions.git("rev-parse", "v1:m.bin")


@pytest.mark.parametrize("place", ["index", "HEAD"])
def test_a_pointer_of_another_layout_version_is_kept(versions: Worktree, place: str) -> None:
    with Store.open(str(versions.path / ".git" / "theta")) as store:
        manifest = store.get_manifest(pointer(versions, ":m.bin").manifest_digest)._replace(layout_version=77)
        digest = store.objects.put(Kind.MANIFEST, encode_manifest(manifest))
    versions.write("earlier", render_pointer(manifest, digest))
    oid = versions.git("hash-object", "-w", "--no-filters", "earlier")
    versions.git("update-index", "--cacheinfo", f"100644,{oid},m.bin")
    if place == "HEAD":
        versions.git("commit", "-q", "-m", "earlier")
        versions.git("rm", "-q", "--cached", "m.bin")

    assert versions.git("hash-object", "--path=m.bin", "m.bin") == oid
    versions.write("m.bin", versions.weights_1)
    assert versions.git("hash-object", "--path=m.bin", "m.bin") == versions.git("rev-parse", "v1:m.bin")


def test_an_edited_pointer_is_refused_and_the_next_file_is_not(versions: Worktree) -> None:
    text = versions.blob("v1:m.bin")
    versions.write("edited.bin", text.replace(b"size 300000", b"size 300001"))
    versions.write("merged.bin", text.replace(b"size", b"<<<<<<< ours\nsize"))
    versions.write("z.bin", b"new")

    for name in ("edited.bin", "merged.bin"):
        refused = versions.run("add", name, check=False)
        assert refused.returncode == 128
        assert f"git theta: '{name}': the file begins as a pointer" in refused.stderr
    versions.run("add", "--ignore-errors", ".", check=False)
    versions.git("add", "z.bin")
    assert is_pointer(versions.blob(":z.bin"))


def test_a_damaged_pointer_that_git_holds_already_stops_nobody(versions: Worktree) -> None:
    damaged = versions.blob("v1:m.bin") + b"damage\n"
    versions.write("damaged.bin", damaged)
    oid = versions.git("hash-object", "-w", "--no-filters", "damaged.bin")
    versions.git("update-index", "--add", "--cacheinfo", f"100644,{oid},damaged.bin")
    versions.git("commit", "-q", "--no-verify", "-m", "damaged")
    (versions.path / "damaged.bin").unlink()

    versions.git("checkout", "--", "damaged.bin")

    assert versions.read("damaged.bin") == damaged
    os.utime(versions.path / "damaged.bin")
    assert versions.status() == ""


# Checking out


def test_checkout_switch_restore_and_reset_bring_the_bytes(versions: Worktree) -> None:
    for number, command in [
        (1, ["checkout", "-q", "v1"]),
        (2, ["switch", "-q", "main"]),
        (1, ["reset", "-q", "--hard", "v1"]),
        (2, ["reset", "-q", "--hard", "v2"]),
    ]:
        versions.git(*command)
        expect_version(versions, number)
        assert versions.status_reads_no_weights()
    versions.git("restore", "--source=v1", "m.bin")
    assert versions.read("m.bin") == versions.weights_1
    assert versions.status() == " M m.bin"


def test_nothing_is_left_beside_the_files(versions: Worktree) -> None:
    versions.git("checkout", "-q", "v1")

    assert sorted(os.listdir(versions.path)) == [".git", ".gitattributes", "a.txt", "d", "m.bin", "small.bin"]
    assert os.listdir(versions.path / "d") == ["n.bin"]
    assert os.listdir(versions.path / ".git/theta/pending") == []


def test_permissions_are_those_that_git_gives(versions: Worktree) -> None:
    versions.git("update-index", "--chmod=+x", "m.bin")
    versions.git("commit", "-q", "-m", "executable")
    (versions.path / "m.bin").unlink()
    (versions.path / "d/n.bin").unlink()

    umask = os.umask(0o027)
    try:
        versions.git("checkout", "--", ".")
    finally:
        os.umask(umask)

    assert os.stat(versions.path / "m.bin").st_mode & 0o777 == 0o750
    assert os.stat(versions.path / "d/n.bin").st_mode & 0o777 == 0o640
    assert versions.status_reads_no_weights()


def test_files_are_older_than_the_index_by_less_than_two_seconds(versions: Worktree) -> None:
    versions.git("checkout", "-q", "v1")

    index_s = os.stat(versions.path / ".git/index").st_mtime_ns // 10**9
    file_s = os.stat(versions.path / "m.bin").st_mtime_ns // 10**9
    assert index_s - 5 <= file_s < index_s


def test_stash_and_pop_leave_a_modified_file_modified(versions: Worktree) -> None:
    versions.write("m.bin", versions.weights_1 + b"mine")

    versions.git("stash")
    assert versions.read("m.bin") == versions.weights_2
    assert versions.status_reads_no_weights()

    versions.git("stash", "pop")
    assert versions.read("m.bin") == versions.weights_1 + b"mine"
    assert versions.status() == " M m.bin"


def test_stash_push_of_a_path_brings_the_bytes_back(versions: Worktree) -> None:
    versions.write("m.bin", versions.weights_1 + b"mine")

    versions.git("stash", "push", "--", "m.bin")

    assert versions.read("m.bin") == versions.weights_2
    assert versions.status() == ""


def test_archive_holds_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("archive", "-o", str(tmp_path / "v1.tar"), "v1")

    with tarfile.open(tmp_path / "v1.tar") as archive:
        assert archive.extractfile("m.bin").read() == versions.weights_1
        assert archive.extractfile("small.bin").read() == versions.small


def test_a_second_worktree_gets_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("worktree", "add", "-q", str(tmp_path / "second"), "v1")

    second = versions.at(tmp_path / "second")
    expect_version(second, 1)
    assert second.status_reads_no_weights()
    second.git("checkout", "-q", "v2")
    expect_version(second, 2)
    assert not (tmp_path / "second/.git").is_dir()


def test_a_clone_of_a_path_gets_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("clone", "-q", str(versions.path), str(tmp_path / "clone"))

    clone = versions.at(tmp_path / "clone")
    expect_version(clone, 2)
    assert clone.status_reads_no_weights()
    clone.git("checkout", "-q", "v1")
    expect_version(clone, 1)


def test_a_clone_fetches_what_it_lacks_from_the_remote_store(versions: Worktree, tmp_path: Path) -> None:
    versions.git("init", "-q", "--bare", str(tmp_path / "hub.git"))
    versions.git("remote", "add", "origin", str(tmp_path / "hub.git"))
    versions.git("config", "theta.url", str(tmp_path / "store"))
    versions.git("push", "-q", "origin", "main", "v1", "v2")

    url = f"theta.url={tmp_path / 'store'}"
    versions.git("clone", "-q", "-c", url, str(tmp_path / "hub.git"), str(tmp_path / "clone"))

    clone = versions.at(tmp_path / "clone")
    expect_version(clone, 2)
    assert clone.status_reads_no_weights()
    os.rename(tmp_path / "store", tmp_path / "gone")
    failed = clone.run("checkout", "v1", check=False)
    assert failed.returncode == 128
    assert "git theta: 'm.bin': " in failed.stderr
    os.rename(tmp_path / "gone", tmp_path / "store")
    clone.git("checkout", "-q", "-f", "v1")
    expect_version(clone, 1)


def test_a_submodule_gets_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    above = versions.at(tmp_path / "above")
    above.path.mkdir()
    above.git("init", "-q")

    above.git("submodule", "add", "-q", str(versions.path), "models")

    models = above.at(tmp_path / "above/models")
    expect_version(models, 2)
    assert models.status_reads_no_weights()


def test_a_sha256_repository_works(git_environment: dict[str, str], tracked: Worktree, tmp_path: Path) -> None:
    repository = tracked.at(tmp_path / "sha256")
    repository.path.mkdir()
    repository.git("init", "-q", "--object-format=sha256")
    repository.write(".gitattributes", tracked.read(".gitattributes"))
    for number, raw in enumerate((tracked.weights_1, tracked.weights_2), 1):
        repository.write("m.bin", raw)
        repository.commit(f"v{number}")

    repository.git("checkout", "-q", "v1")

    assert repository.read("m.bin") == tracked.weights_1
    assert repository.status_reads_no_weights()


# Reading without a work tree


def test_diff_shows_pointers(versions: Worktree) -> None:
    assert f"-blake3 {digest_of(versions.weights_1)}" in versions.git("diff", "v1", "v2", "--", "m.bin")
    assert f"+blake3 {digest_of(versions.weights_2)}" in versions.git("log", "-1", "-p", "--", "m.bin")
    assert f"+digest {digest_of(versions.weights_2)}" in versions.git("show", "--no-textconv", "v2", "--", "m.bin")


def test_an_external_diff_gets_pointers_and_touches_nothing(versions: Worktree) -> None:
    before = os.stat(versions.path / "m.bin")
    versions.write("show", b"#!/bin/sh\nhead -q -n 1 $2 $5\n")
    (versions.path / "show").chmod(0o755)

    shown = versions.git("-c", "diff.external=./show", "diff", "--ext-diff", "v1", "v2", "--", "m.bin")

    assert is_pointer(shown.split("\n")[0].encode() + b"\n")
    assert os.stat(versions.path / "m.bin") == before


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="needs /proc")
def test_cat_file_with_filters_answers_the_bytes(versions: Worktree) -> None:
    command = ["git", "-c", "core.abbrev=9", "cat-file", "--filters", "v1:m.bin"]
    shown = subprocess.run(command, cwd=versions.path, env=versions.environment, capture_output=True, check=True)

    assert shown.stdout == versions.weights_1
    assert versions.read("m.bin") == versions.weights_2


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="needs /proc")
def test_checkout_index_to_another_place_brings_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("checkout-index", "-a", f"--prefix={tmp_path}/elsewhere/")
    temporary = versions.git("checkout-index", "--temp", "d/n.bin").split("\t")[0]

    assert (tmp_path / "elsewhere/m.bin").read_bytes() == versions.weights_2
    assert versions.read(temporary) == versions.read("d/n.bin")


# Plumbing that writes into the work tree without saying so


def test_checkout_index_brings_the_bytes(versions: Worktree) -> None:
    (versions.path / "m.bin").unlink()
    (versions.path / "d/n.bin").unlink()

    versions.git("checkout-index", "-a")

    expect_version(versions, 2)
    assert versions.status_reads_no_weights()


def test_a_pointer_that_was_there_before_is_left_to_its_owner(versions: Worktree) -> None:
    text = versions.blob("v2:m.bin")
    versions.write("m.bin", text)

    versions.git("diff", "--no-textconv", "v1", "v2")

    assert versions.read("m.bin") == text


def test_apply_brings_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    patch = tmp_path / "patch"
    patch.write_text(versions.git("diff", "--no-textconv", "--binary", "v1", "v2") + "\n")
    versions.git("checkout", "-q", "v1")

    versions.git("apply", "--index", str(patch))

    expect_version(versions, 2)
    assert versions.git("rev-parse", ":m.bin") == versions.git("rev-parse", "v2:m.bin")


def test_am_brings_the_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("format-patch", "-q", "-1", "--no-textconv", "-o", str(tmp_path / "patches"), "v2")
    versions.git("checkout", "-q", "v1")

    versions.git("am", "-q", *map(str, (tmp_path / "patches").iterdir()))

    expect_version(versions, 2)


# Merging and rebasing


def expect_both(worktree: Worktree, is_filled: bool = True) -> None:
    """Look for the bytes of both versions. What git wrote itself, it may read again ("racy" entries)."""
    assert worktree.read("m.bin") == worktree.weights_2
    assert worktree.read("d/n.bin") == worktree.weights_2 + b"side"
    assert worktree.status_reads_no_weights() if is_filled else not worktree.status()


def test_merge_brings_the_bytes_of_both_sides(versions: Worktree) -> None:
    versions.git("merge", "-q", "--no-edit", "side")

    expect_both(versions)


def test_cherry_pick_and_revert_bring_the_bytes(versions: Worktree) -> None:
    versions.git("cherry-pick", "side1")
    expect_both(versions)

    versions.git("revert", "--no-edit", "HEAD")
    expect_version(versions, 2)


@pytest.mark.parametrize("backend", ["--merge", "--apply"])
def test_rebase_brings_the_bytes(versions: Worktree, backend: str) -> None:
    versions.git("checkout", "-q", "side")

    versions.git("rebase", "-q", backend, "main")

    expect_both(versions, is_filled=backend == "--merge")


def test_a_rebase_that_runs_programs_gives_them_bytes(versions: Worktree, tmp_path: Path) -> None:
    versions.git("checkout", "-q", "side")
    log = tmp_path / "log"

    versions.git("rebase", "-q", "--exec", f"cat d/n.bin m.bin >> {log}", "main")

    expect_both(versions, is_filled=False)
    raw = versions.weights_2 + b"side" + versions.weights_2
    assert log.read_bytes() == raw + raw


def test_a_conflict_in_a_pointer_leaves_text_and_can_be_resolved(versions: Worktree) -> None:
    versions.git("checkout", "-q", "-b", "other", "v1")
    versions.write("m.bin", versions.weights_1 + b"side")
    versions.commit("side")

    assert versions.run("merge", "-q", "main", check=False).returncode == 1
    versions.git("checkout", "--theirs", "m.bin")
    versions.git("add", "m.bin")
    versions.git("commit", "-q", "-m", "merged")

    assert versions.read("m.bin") == versions.weights_2
    assert versions.status() == ""


# Programs of the user that git runs while our filter waits


def test_a_post_checkout_hook_reads_bytes(versions: Worktree, tmp_path: Path) -> None:
    hook(versions, "post-checkout", f"cat m.bin > {tmp_path}/seen")

    versions.git("checkout", "-q", "v1")

    assert (tmp_path / "seen").read_bytes() == versions.weights_1
    expect_version(versions, 1)
    assert versions.status_reads_no_weights()


def test_a_hook_that_is_not_to_be_touched_reads_bytes_through_git(versions: Worktree, tmp_path: Path) -> None:
    versions.git("config", "theta.installHooks", "false")
    hook(versions, "post-checkout", f"cat m.bin > {tmp_path}/seen")
    before = (versions.path / ".git/hooks/post-checkout").read_bytes()

    versions.git("checkout", "-q", "v1")

    assert (tmp_path / "seen").read_bytes() == versions.weights_1
    assert (versions.path / ".git/hooks/post-checkout").read_bytes() == before


def test_a_hook_reads_bytes_at_the_start_of_a_rebase(versions: Worktree, tmp_path: Path) -> None:
    versions.git("checkout", "-q", "side")
    hook(versions, "post-checkout", f"cat m.bin > {tmp_path}/seen")

    versions.git("rebase", "-q", "main")

    assert (tmp_path / "seen").read_bytes() == versions.weights_2
    expect_both(versions, is_filled=False)


def test_a_post_merge_hook_reads_bytes(versions: Worktree, tmp_path: Path) -> None:
    hook(versions, "post-merge", f"cat d/n.bin > {tmp_path}/seen")

    versions.git("merge", "-q", "--no-edit", "side")

    assert (tmp_path / "seen").read_bytes() == versions.weights_2 + b"side"
    assert versions.status() == ""


@pytest.mark.parametrize("name", ["pre-merge-commit", "post-commit"])
def test_a_hook_of_a_commit_reads_the_bytes_that_a_merge_brought(versions: Worktree, tmp_path: Path, name: str) -> None:
    hook(versions, name, f"cat d/n.bin > {tmp_path}/seen")

    if name == "post-commit":
        versions.git("cherry-pick", "side1")
    else:
        versions.git("merge", "-q", "--no-edit", "side")

    assert (tmp_path / "seen").read_bytes() == versions.weights_2 + b"side"
