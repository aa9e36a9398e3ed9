"""The commands together with the filter, as one uses them: real git, real hooks, real processes."""

from __future__ import annotations

import json
import os
import random
import struct

import pytest

from thetastore.cli.main import main as mend


def checkpoint(*seeds: int) -> bytes:
    """A safetensors file with one tensor for each seed."""
    header, body = {}, b""
    for position, seed in enumerate(seeds):
        raw = random.Random(seed).randbytes(40_000)
        header[f"t{position}"] = {"dtype": "F32", "shape": [100, 100], "data_offsets": [len(body), len(body) + 40_000]}
        body += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.fixture
def line(make_work, tmp_path):
    """A work tree where all is installed and one version is pushed."""
    work, bare = make_work(), make_work("bare.git", "--bare")
    assert work.theta("install").status == 0
    assert work.theta("track", "*.safetensors").status == 0
    work.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(bare.path))
    (work.path / "m 1.safetensors").write_bytes(checkpoint(1, 2))
    work.git("add", ".")
    work.commit("v1")
    work.git("push", "-q", "-u", "origin", "main")
    return work


def content(work) -> bytes:
    return (work.path / "m 1.safetensors").read_bytes()


def test_a_plain_clone_has_the_weights_and_hooks(line, make_work, tmp_path):
    clone = make_work("clone", clone=tmp_path / "bare.git")

    assert content(clone) == checkpoint(1, 2)
    assert (clone.path / ".git" / "hooks" / "pre-push").exists()
    status = clone.theta("status").out
    assert status.startswith("1 tracked file, ")
    assert status.endswith(f": all weights are here and in '{tmp_path / 'store'}'\n")


def test_versions_travel_from_clone_to_clone(line, make_work, tmp_path):
    clone = make_work("clone", clone=tmp_path / "bare.git")
    clone.git("config", "theta.url", str(tmp_path / "store"))
    (clone.path / "m 1.safetensors").write_bytes(checkpoint(1, 3))
    clone.git("commit", "-qam", "v2")
    clone.git("push", "-q")

    line.git("pull", "-q")

    assert content(line) == checkpoint(1, 3)
    line.git("checkout", "-q", "HEAD~1")
    assert content(line) == checkpoint(1, 2)
    assert line.git("status", "--porcelain").out == ""


def test_a_clone_without_its_store_says_what_to_do_and_pull_mends_it(line, make_work, tmp_path):
    (tmp_path / "store").rename(tmp_path / "away")
    import subprocess

    done = subprocess.run(
        ["git", "clone", "-q", "bare.git", "clone"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"no store at '{tmp_path / 'store'}'" in done.stderr
    (tmp_path / "away").rename(tmp_path / "store")

    clone = line.__class__(tmp_path / "clone", line._capsys, line._monkeypatch)
    pulled = clone.theta("pull")
    assert "git restore --source=HEAD --staged --worktree :/" in pulled.out
    clone.git("restore", "--source=HEAD", "--staged", "--worktree", ":/")
    assert content(clone) == checkpoint(1, 2)


def rotten_store(line):
    """Lose the file of the work tree, and flip a bit of the pack that holds it; return the store and the pack."""
    (line.path / "m 1.safetensors").unlink()
    store = line.path / ".git" / "theta"
    [pack] = (store / "packs").iterdir()
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    return store, pack


def test_a_damaged_local_store_is_mended_from_the_remote_one_as_the_error_says(line):
    _, pack = rotten_store(line)

    done = line.git("checkout", "--", ".", check=False)
    assert done.status != 0
    assert f"git theta fsck --repair sets 'packs/{pack.name}' aside" in done.err
    assert line.theta("fsck", "--repair").status == 0
    line.git("checkout", "--", ".")

    assert content(line) == checkpoint(1, 2)


def test_a_damaged_local_store_is_mended_by_adding_the_file_again(line):
    store, _ = rotten_store(line)
    line.git("config", "theta.url", str(store.parent / "nowhere"))
    (line.path / "m 1.safetensors").write_bytes(checkpoint(1, 2))

    assert mend(["mend", str(store)]) == 1
    line.git("add", "--renormalize", "m 1.safetensors")
    (line.path / "m 1.safetensors").unlink()
    line.git("checkout", "--", ".")

    assert content(line) == checkpoint(1, 2)


def test_one_damaged_file_of_the_remote_store_does_not_keep_the_others_from_coming(line, tmp_path):
    rotten, sound = random.Random(8).randbytes(300_000), random.Random(9).randbytes(300_000)
    (line.path / "a.safetensors").write_bytes(rotten)
    (line.path / "z.safetensors").write_bytes(sound)
    line.git("add", ".")
    line.commit()
    line.git("push", "-q", "origin", "main")
    for pack in (tmp_path / "store" / "packs").iterdir():
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes().replace(rotten[5000:5010], bytes(10)))
    clone = line.path.parent / "clone"
    line.git("clone", "-q", "--no-checkout", str(tmp_path / "bare.git"), str(clone))
    other = line.__class__(clone, line._capsys, line._monkeypatch)

    done = other.theta("fetch", "--all")

    assert done.status == 2
    assert "is corrupt: in 'packs/" in done.err
    assert f"thetastore mend {tmp_path / 'store'}" in done.err
    other.git("checkout", "main", "--", ".gitattributes")
    other.git("checkout", "main", "--", "z.safetensors", "m 1.safetensors")
    assert (clone / "z.safetensors").read_bytes() == sound
    assert other.git("checkout", "main", "--", "a.safetensors", check=False).status != 0
    assert not (clone / "a.safetensors").exists()

    assert mend(["mend", str(tmp_path / "store")]) == 1
    assert line.theta("push", "--all").status == 0
    other.git("checkout", "main", "--", "a.safetensors")
    assert (clone / "a.safetensors").read_bytes() == rotten


def test_checkout_and_pull_fill_what_is_a_pointer(line):
    pointer = line.git("cat-file", "blob", "HEAD:m 1.safetensors").out
    (line.path / "m 1.safetensors").write_text(pointer)
    assert "pointer only" in line.theta("status").out

    done = line.theta("checkout", "m 1.safetensors")

    assert (done.status, done.out) == (0, f"git theta: filled 1 file, {len(checkpoint(1, 2)) / 1000:.1f} kB\n")
    assert content(line) == checkpoint(1, 2)
    assert line.git("status", "--porcelain").out == ""
    assert "nothing to fill" in line.theta("pull").out
    assert line.theta("checkout", "no-such-file").status == 2


@pytest.mark.parametrize("command", ["checkout", "pull"])
def test_filling_a_clone_made_before_the_installation_installs_there(line, make_work, tmp_path, alone, command):
    line.theta("uninstall", "--global")
    clone = make_work("clone", clone=tmp_path / "bare.git")
    assert content(clone).startswith(b"version ")

    done = clone.theta(command)

    assert "git theta was not installed: it is now, for this repository" in done.err
    assert content(clone) == checkpoint(1, 2)
    (clone.path / "m 1.safetensors").touch()
    assert clone.git("status", "--porcelain").out == ""
    assert (clone.path / ".git" / "hooks" / "pre-push").exists()


def test_diffs_show_which_tensors_changed(line):
    (line.path / "m 1.safetensors").write_bytes(checkpoint(1, 3))

    in_work_tree = line.git("diff", "--no-color").out
    line.git("commit", "-qam", "v2")
    in_history = line.git("log", "-1", "-p", "--no-color").out

    for shown in (in_work_tree, in_history):
        changed = [text for text in shown.splitlines() if text.startswith(("-t", "+t"))]
        assert [text[:22] for text in changed] == ["-t1: float32 [100, 100", "+t1: float32 [100, 100"]
        assert " t0: float32 [100, 100] " in shown


def swap_bytes_unseen(line) -> None:
    """Change the weights in a way that only reading them could tell: same length, same times."""
    path = line.path / "m 1.safetensors"
    line.git("config", "core.trustctime", "false")
    line.git("config", "core.checkStat", "minimal")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    line.git("add", "m 1.safetensors")
    path.write_bytes(checkpoint(8, 9))
    os.utime(path, (1_600_000_000, 1_600_000_000))


def test_an_unchanged_file_is_shown_without_reading_its_weights(line):
    before = line.theta("textconv", "m 1.safetensors").out
    swap_bytes_unseen(line)

    assert line.theta("textconv", "m 1.safetensors").out == before
    assert before.startswith(f"safetensors, {len(checkpoint(1, 2))} bytes, 2 tensors\nblake3 ")


def test_status_and_ls_files_read_no_weights(line):
    swap_bytes_unseen(line)

    assert "all weights are here" in line.theta("status").out
    assert line.theta("ls-files").out.startswith("full ")


def test_both_sides_changed_is_a_conflict_that_leaves_ours_whole(line):
    line.git("checkout", "-q", "-b", "side")
    (line.path / "m 1.safetensors").write_bytes(checkpoint(1, 3))
    line.git("commit", "-qam", "side")
    line.git("checkout", "-q", "main")
    (line.path / "m 1.safetensors").write_bytes(checkpoint(1, 4))
    line.git("commit", "-qam", "main")

    merged = line.git("merge", "side", check=False)

    assert merged.status == 1
    assert "'m 1.safetensors': 1 tensor in conflict; the file in the work tree is ours, whole" in merged.err
    assert line.git("status", "--porcelain").out == 'UU "m 1.safetensors"\n'
    assert content(line) == checkpoint(1, 4)
    line.git("checkout", "--theirs", "--", "m 1.safetensors")
    assert content(line) == checkpoint(1, 3)


def test_one_side_changed_merges_by_itself(line):
    line.git("checkout", "-q", "-b", "side")
    (line.path / "m 1.safetensors").write_bytes(checkpoint(1, 3))
    line.git("commit", "-qam", "side")
    line.git("checkout", "-q", "main")
    line.commit("other work")

    line.git("merge", "-q", "side")

    assert content(line) == checkpoint(1, 3)


def test_the_merge_driver_keeps_what_both_did_alike(work, tmp_path):
    for name, text in (("O", b"base"), ("A", b"base"), ("B", b"theirs")):
        (work.path / name).write_bytes(text)

    assert work.theta("merge-driver", "O", "A", "B", "7", "p").status == 0
    assert (work.path / "A").read_bytes() == b"theirs"
    assert work.theta("merge-driver", "O", "A", "B", "7", "p").status == 0


def test_tracking_a_committed_file_moves_it_to_the_store(line):
    (line.path / "old.bin").write_bytes(checkpoint(7))
    line.git("add", "old.bin")
    line.commit()

    told = line.theta("track", "*.bin").out
    line.git(*told.rpartition("git ")[2].split())
    line.git("add", ".gitattributes")
    line.commit()

    assert "pending" not in told
    assert line.theta("status").status == 0
    assert [f["path"] for f in json.loads(line.theta("ls-files", "--json").out)["files"]] == [
        "m 1.safetensors",
        "old.bin",
    ]


def test_uninstalling_leaves_nothing_that_git_would_run(line):
    assert line.theta("uninstall").status == 0

    (line.path / "other.txt").write_text("x")
    line.git("add", "other.txt")
    line.commit()
    line.git("push", "-q")
    assert line.git("config", "--get-regexp", "^(filter|diff|merge).theta", check=False).out == ""
