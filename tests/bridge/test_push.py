"""`git push` sends what the remote store lacks, pins it, and fails where weights would be left behind."""

from __future__ import annotations

import functools
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gitbridge import hooks
from gitbridge.remotes import places
from thetastore.pins import encode_pin, list_pins, read_pin
from thetastore.store import Store


def weights(seed: int, nbytes: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(nbytes)


@pytest.fixture
def shared(tmp_path) -> Path:
    return tmp_path / "mnt" / "models"


@pytest.fixture
def pushing(make_work, shared):
    """A work tree with hooks, a bare remote called origin, and a URL of a store that does not exist yet."""
    work, bare = make_work(), make_work("bare.git", "--bare")
    work.git("remote", "add", "origin", str(bare.path))
    work.git("config", "theta.url", str(shared))
    hooks.install(work.repository())
    return work


def has(store: Path, *manifests) -> bool:
    with Store.open(str(store)) as opened:
        return opened.missing_objects(manifests) == []


def pins(store: Path):
    with Store.open(str(store)) as opened:
        return [read_pin(opened.backend, name) for name in list_pins(opened.backend).names]


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def test_the_first_push_creates_the_store_and_pins_the_commit(pushing, shared):
    digest = pushing.put("w", weights(1))
    commit = pushing.commit()

    done = pushing.git("push", "origin", "main")

    assert "sent" in done.err
    assert has(shared, digest)
    [pin] = pins(shared)
    assert pin.url.startswith("file://")
    assert pin.url.endswith("/bare.git")
    assert (pin.commit, pin.leans_on, pin.refs, pin.manifests) == (commit, (), ("refs/heads/main",), (digest,))


def test_a_bare_remote_on_this_machine_is_told_where_its_weights_are(pushing, shared, make_work):
    pushing.put("w", weights(1))
    pushing.commit()

    done = pushing.git("push", "origin", "main")

    bare = pushing.git("remote", "get-url", "origin").out.strip()
    assert "now says so" in done.err
    assert pushing.git("-C", bare, "config", "--local", "theta.url").out.strip() == str(shared)
    with make_work("elsewhere", clone=bare).repository() as clone:
        assert [place.location for place in places(clone, None)] == [str(shared)]


@pytest.mark.parametrize("setting", ["theta.url", None])
def test_a_remote_that_says_already_where_its_weights_are_is_left_alone(pushing, shared, setting):
    bare = pushing.git("remote", "get-url", "origin").out.strip()
    if setting:
        pushing.git("-C", bare, "config", setting, "/elsewhere")
    else:
        pushing.git("config", "--unset", "theta.url")
        pushing.git("config", "-f", ".thetaconfig", "theta.url", str(shared))
        pushing.git("add", ".thetaconfig")
    before = (Path(bare) / "config").read_bytes()
    pushing.put("w", weights(1))
    pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert (Path(bare) / "config").read_bytes() == before


def test_a_second_push_sends_only_what_is_new(pushing, shared):
    first = pushing.put("w", weights(1, 3_000_000))
    root = pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    before = stored_bytes(shared)
    second = pushing.put("w", weights(1, 3_000_000) + weights(2))
    commit = pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert stored_bytes(shared) - before < 1_200_000
    assert has(shared, first, second)
    assert {pin.commit: (pin.leans_on, pin.manifests) for pin in pins(shared)}[commit] == ((root,), (second,))


def test_remote_tracking_refs_play_no_part(pushing, shared):
    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "--no-verify", "origin", "main")
    pushing.commit("more")

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)


def test_a_lost_store_is_filled_again_by_push_all(pushing, shared):
    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    for path in [*(shared / "packs").iterdir(), *(shared / "index").iterdir()]:
        path.unlink()

    done = pushing.theta("push", "--all")

    assert (done.status, done.err) == (0, "")
    assert has(shared, digest)


@pytest.mark.parametrize("knows_it_by", ["push", "fetch"])
def test_a_store_that_is_gone_is_not_made_anew_in_silence(pushing, shared, make_work, tmp_path, knows_it_by):
    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    work = pushing
    if knows_it_by == "fetch":
        work = make_work("clone", clone=tmp_path / "bare.git")
        work.git("config", "theta.url", str(shared))
        hooks.install(work.repository())
        assert work.theta("fetch").status == 0
    shutil.rmtree(shared)
    new = work.put("w2", weights(2))
    work.commit("more")

    refused = work.git("push", "-q", "origin", "main", check=False)

    assert refused.status != 0
    assert f"there is no store at '{shared}' (from theta.url) any more" in refused.err
    assert "goes to a new one: git theta push --all" in refused.err
    assert not shared.exists()
    assert work.theta("push", "--dry-run").status == 2
    assert work.theta("push", "--all").status == 0
    assert has(shared, digest, new)
    work.git("push", "-q", "origin", "main")


def test_several_refs_tags_and_deletes_in_one_push(pushing, shared):
    one = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("tag", "-a", "-m", "x", "v1")
    pushing.git("push", "-q", "origin", "main:gone")
    pushing.git("checkout", "-q", "-b", "side")
    two = pushing.put("w", weights(2))
    side = pushing.commit()
    pushing.git("checkout", "-q", "main")
    three = pushing.put("w", weights(3))
    main = pushing.commit()
    oid = pushing.git("rev-parse", "HEAD:w").out.strip()
    pushing.git("tag", "blob", oid)

    pushing.git("push", "-q", "origin", "main", "side", "v1", "blob", ":gone")

    assert has(shared, one, two, three)
    assert {main, side} <= {pin.commit for pin in pins(shared)}


def test_deleting_a_ref_needs_no_store(pushing, shared):
    pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "--no-verify", "origin", "main:gone")

    pushing.git("push", "-q", "origin", ":gone")

    assert not shared.exists()


def test_merges_and_history_older_than_the_tool(pushing, shared):
    (pushing.path / "w").write_bytes(weights(9))
    pushing.git("add", "w")
    pushing.commit("plain weights")
    one = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("checkout", "-q", "-b", "side", "HEAD~1")
    two = pushing.put("v", weights(2))
    pushing.commit()
    pushing.git("checkout", "-q", "main")
    pushing.git("merge", "-q", "side")

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, one, two)


def test_deleted_versions_in_the_history_are_sent_too(pushing, shared):
    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("rm", "-qf", "w")
    pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)


def test_without_a_url_the_push_fails_and_says_what_to_set(pushing):
    pushing.git("config", "--unset", "theta.url")
    pushing.put("dir/w", weights(1))
    pushing.commit()

    done = pushing.git("push", "origin", "main", check=False)

    assert done.status != 0
    assert "'dir/w'" in done.err
    assert "git config theta.url" in done.err
    assert pushing.git("ls-remote", "origin").out == ""


def test_a_thetaconfig_that_was_not_added_is_pointed_out(pushing):
    pushing.git("config", "--unset", "theta.url")
    pushing.git("config", "-f", ".thetaconfig", "theta.url", "/x")
    pushing.put("w", weights(1))
    pushing.commit()

    assert "git add .thetaconfig" in pushing.git("push", "origin", "main", check=False).err


def test_nothing_tracked_is_silent_and_creates_nothing(pushing, shared):
    (pushing.path / "code.py").write_text("x = 1\n" * 100)
    pushing.git("add", ".")
    pushing.commit()

    done = pushing.git("push", "-q", "origin", "main")

    assert (done.out, done.err) == ("", "")
    assert not shared.exists()


def test_a_repository_without_pointers_is_read_once(pushing):
    (pushing.path / "code.py").write_text("x = 1\n" * 100)
    pushing.git("add", ".")
    commit = pushing.commit()
    pushing.git("push", "-q", "origin", "main")

    assert (pushing.path / ".git" / "theta" / "no-pointers").read_text().split() == [commit]

    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    [pin] = pins(Path(pushing.repository().config("theta.url")))
    assert (pin.leans_on, pin.manifests) == ((), (digest,))


@pytest.mark.parametrize("obstacle", ["file", "unwritable"])
def test_an_unreachable_store_fails_the_push_with_the_reason_and_later_all_is_sent(pushing, shared, obstacle):
    if obstacle == "unwritable" and os.geteuid() == 0:
        shared = Path("/proc/nothing/here")
        pushing.git("config", "theta.url", str(shared))
    else:
        shared.parent.parent.mkdir(exist_ok=True)
        shared.parent.write_text("a file where a directory should be")
    digest = pushing.put("w", weights(1))
    pushing.commit()

    done = pushing.git("push", "origin", "main", check=False)

    assert done.status != 0
    assert f"'{shared}'" in done.err
    assert "Traceback" not in done.err
    assert pushing.git("ls-remote", "origin").out == ""

    mended = pushing.path.parent / "mended"
    pushing.git("config", "theta.url", str(mended))
    pushing.git("push", "-q", "origin", "main")
    assert has(mended, digest)


def test_objects_that_only_the_remote_has_are_no_trouble(pushing, shared, make_work):
    one = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    shutil.rmtree(pushing.path / ".git" / "theta")
    for pin in shared.glob("pins/*/*"):
        pin.unlink()
    two = pushing.put("v", weights(2))
    pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, one, two)


def test_what_is_missing_everywhere_is_named_with_path_commit_and_object(pushing, shared):
    digest = pushing.put("dir/lost", weights(1))
    lost = pushing.commit()
    shutil.rmtree(pushing.path / ".git" / "theta")
    pushing.put("w", weights(2))
    pushing.commit()

    done = pushing.git("push", "origin", "main", check=False)

    assert done.status != 0
    assert "'dir/lost'" in done.err
    assert lost[:7] in done.err
    assert str(digest)[:16] in done.err
    assert "hint:" in done.err
    assert list(shared.glob("pins/*/*")) == []


def test_an_incomplete_push_can_be_allowed_and_its_pin_vouches_only_for_what_there_is(pushing, shared):
    pushing.put("lost", weights(1))
    pushing.commit()
    shutil.rmtree(pushing.path / ".git" / "theta")
    digest = pushing.put("w", weights(2))
    pushing.commit()
    pushing.git("config", "theta.allowIncompletePush", "true")

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)
    [pin] = pins(shared)
    assert (pin.is_partial, pin.manifests) == (True, (digest,))

    assert pushing.git("push", "origin", "main:again").status == 0
    assert len(pins(shared)) == 1


def test_a_damaged_local_object_is_not_sent_and_its_file_is_named(pushing, shared):
    pushing.put("w", weights(1, 500_000))
    pushing.commit()
    [pack] = (pushing.path / ".git" / "theta" / "packs").iterdir()
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(content)

    done = pushing.git("push", "origin", "main", check=False)

    assert done.status != 0
    assert "'w'" in done.err
    assert "corrupt" in done.err


def test_a_clone_pushes_to_another_remote_what_it_never_fetched(pushing, shared, make_work, tmp_path):
    one = pushing.put("w", weights(1))
    pushing.commit()
    two = pushing.put("w", weights(2))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    clone, other = make_work("clone", clone=tmp_path / "bare.git"), make_work("other.git", "--bare")
    clone.git("config", "remote.origin.thetaUrl", str(shared))
    clone.git("remote", "add", "other", str(other.path))
    clone.git("config", "remote.other.thetaUrl", str(tmp_path / "second"))
    hooks.install(clone.repository())

    clone.git("push", "-q", "other", "main")

    assert has(tmp_path / "second", one, two)


def test_a_shallow_clone_pushes_and_its_pin_vouches_only_for_what_it_saw(pushing, shared, make_work, tmp_path):
    one = pushing.put("w", weights(1))
    pushing.commit()
    pushing.put("w", weights(2))
    pushing.commit()
    pushing.git("push", "-q", "--no-verify", "origin", "main")
    clone = make_work("clone", "--depth=1", clone=f"file://{tmp_path / 'bare.git'}")
    clone.git("config", "theta.url", str(tmp_path / "elsewhere"))
    clone.git("config", "theta.allowIncompletePush", "true")
    with pushing.repository().open_store() as full, clone.repository().open_store() as local:
        full.send_to(local, [manifest_of_head(clone)])
    hooks.install(clone.repository())
    three = clone.put("w", weights(3))
    commit = clone.commit()

    clone.git("push", "-q", "origin", "main")

    assert has(tmp_path / "elsewhere", three)
    [pin] = pins(tmp_path / "elsewhere")
    assert (pin.commit, pin.is_partial) == (commit, True)

    pushing.git("pull", "-q", "origin", "main")
    pushing.git("config", "theta.url", str(tmp_path / "elsewhere"))
    pushing.git("push", "-q", "origin", "main:again")
    assert has(tmp_path / "elsewhere", one, three)
    assert {pin.is_partial for pin in pins(tmp_path / "elsewhere")} == {True, False}


def manifest_of_head(clone):
    from gitbridge.trees import tracked_in_tree

    with clone.repository() as repository:
        return tracked_in_tree(repository, "HEAD")[0].manifest_digest


def test_a_shallow_clone_leans_on_what_others_pinned(pushing, shared, make_work, tmp_path):
    pushing.put("w", weights(1))
    pushing.commit()
    second = pushing.commit("second")
    pushing.git("push", "-q", "origin", "main")
    clone = make_work("clone", "--depth=1", clone=f"file://{tmp_path / 'bare.git'}")
    clone.git("config", "theta.url", str(shared))
    hooks.install(clone.repository())
    clone.put("v", weights(2))
    commit = clone.commit()

    clone.git("push", "-q", "origin", "main")

    assert [(pin.leans_on, pin.is_partial) for pin in pins(shared) if pin.commit == commit] == [((second,), False)]


def test_a_pin_leans_on_nothing_that_its_commit_does_not_reach(pushing, shared):
    one = pushing.put("w", weights(1))
    pushing.commit()
    two = pushing.put("w", weights(2))
    shared_commit = pushing.commit()
    three = pushing.put("w", weights(3))
    main = pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    pushing.git("checkout", "-q", "-b", "side", "HEAD~1")
    four = pushing.put("w", weights(4))
    side = pushing.commit()

    pushing.git("push", "-q", "origin", "side")

    assert {pin.commit: (pin.leans_on, set(pin.manifests)) for pin in pins(shared)} == {
        main: ((), {one, two, three}),
        shared_commit: ((), {one, two}),
        side: ((shared_commit,), {four}),
    }


def test_an_old_commit_that_is_pushed_as_a_branch_has_a_pin_of_its_own(pushing, shared):
    one = pushing.put("w", weights(1))
    old = pushing.commit()
    pushing.put("w", weights(2))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")

    pushing.git("push", "-q", "origin", "HEAD~1:refs/heads/old")

    assert {pin.commit: (pin.leans_on, pin.manifests, pin.refs) for pin in pins(shared)}[old] == (
        (), (one,), ("refs/heads/old",),
    )  # fmt: skip


def test_pins_of_another_repository_are_not_leant_on(pushing, shared, make_work):
    digest = pushing.put("w", weights(1))
    commit = pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    fork = make_work("fork.git", "--bare")

    pushing.git("push", "-q", str(fork.path), "main")

    assert [(pin.commit, pin.leans_on, pin.manifests) for pin in pins(shared)] == [(commit, (), (digest,))] * 2
    assert len({pin.url for pin in pins(shared)}) == 2


def test_a_sha256_repository_is_pushed(make_work, shared):
    work, bare = make_work("w", "--object-format=sha256"), make_work("b.git", "--bare", "--object-format=sha256")
    work.git("remote", "add", "origin", str(bare.path))
    work.git("config", "theta.url", str(shared))
    hooks.install(work.repository())
    digest = work.put("w", weights(1))
    work.commit()

    work.git("push", "-q", "origin", "main")

    assert has(shared, digest)
    assert len(pins(shared)[0].commit) == 64


def test_a_users_own_pre_push_still_runs(pushing, shared):
    hook = pushing.path / ".git" / "hooks" / "pre-push"
    hook.unlink()
    hook.write_text("#!/bin/sh\ncat > refs-seen\n")
    hook.chmod(0o755)
    hooks.install(pushing.repository())
    digest = pushing.put("w", weights(1))
    commit = pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)
    seen = (pushing.path / "refs-seen").read_text()
    assert seen == f"refs/heads/main {commit} refs/heads/main {'0' * 40}\n"


def test_from_a_linked_work_tree(pushing, shared, tmp_path, make_work):
    pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("worktree", "add", "-q", str(tmp_path / "linked"))

    pushing.git("-C", str(tmp_path / "linked"), "push", "-q", "origin", "linked")

    assert len(pins(shared)) == 1


def named_by_a_committed_file(pushing):
    pushing.git("config", "--unset", "theta.url")
    pushing.git("config", "-f", ".thetaconfig", "theta.url", "../mnt/models")
    pushing.git("add", ".thetaconfig")
    digest = pushing.put("w", weights(1))
    pushing.commit()
    return digest


def test_a_committed_url_is_enough_to_push_into_a_directory_of_ones_own(pushing, shared):
    digest = named_by_a_committed_file(pushing)

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_a_committed_url_needs_consent_before_weights_go_to_somebody_elses_directory(pushing, shared):
    digest = named_by_a_committed_file(pushing)
    shared.parent.mkdir()
    os.chown(shared.parent, 12345, -1)

    refused = pushing.git("push", "origin", "main", check=False)

    assert refused.status != 0
    assert f"git config --add theta.trustedUrl {shared}" in refused.err
    assert not shared.exists()

    pushing.git("config", "--add", "theta.trustedUrl", str(shared))
    pushing.git("push", "-q", "origin", "main")
    assert has(shared, digest)


def test_a_committed_url_needs_consent_before_packs_go_among_other_files(pushing, shared):
    digest = named_by_a_committed_file(pushing)
    shared.mkdir(parents=True)
    (shared / "letters.txt").write_text("mine")

    refused = pushing.git("push", "origin", "main", check=False)

    assert refused.status != 0
    assert "holds other files" in refused.err
    assert os.listdir(shared) == ["letters.txt"]

    pushing.git("config", "--add", "theta.trustedUrl", str(shared))
    pushing.git("push", "-q", "origin", "main")
    assert has(shared, digest)


@pytest.mark.parametrize("url", [".git/theta", ".git/theta/deeper"])
def test_weights_are_not_pushed_to_where_no_clone_finds_them(pushing, url):
    pushing.git("config", "theta.url", url)
    pushing.put("w", weights(1))
    pushing.commit()

    refused = pushing.git("push", "origin", "main", check=False)

    assert refused.status != 0
    assert "own git directory" in refused.err
    assert "git config theta.url" in refused.err


@pytest.mark.parametrize("kind", ["work tree", "bare"])
def test_weights_are_not_put_among_the_files_of_a_git_repository(pushing, make_work, tmp_path, kind):
    other = make_work("other") if kind == "work tree" else make_work("other.git", "--bare")
    before = sorted(os.listdir(other.path))
    pushing.git("config", "theta.url", str(other.path))
    pushing.put("w", weights(1))
    pushing.commit()

    done = pushing.git("push", "origin", "main", check=False)

    assert done.status == 1
    assert f"'{other.path}' (from theta.url) is a Git repository" in done.err
    assert sorted(os.listdir(other.path)) == before


def test_a_store_inside_of_the_work_tree_is_no_file_of_the_user(pushing):
    pushing.git("config", "theta.url", "the [remote] store")
    pushing.git("config", "theta.storage", "a/local")
    pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")

    assert (pushing.path / "the [remote] store" / "thetastore.json").exists()
    assert (pushing.path / "a" / "local" / "thetastore.json").exists()
    assert pushing.git("status", "--porcelain").out == ""


def test_a_local_store_that_cannot_be_opened_is_not_taken_for_the_remote_one(pushing, tmp_path):
    pushing.put("w", weights(1))
    pushing.commit()
    (tmp_path / "file").touch()
    pushing.git("config", "theta.storage", str(tmp_path / "file"))

    done = pushing.theta("push")

    assert done.status == 2
    assert f"the local store '{tmp_path / 'file'}' cannot be opened: Not a directory" in done.err
    assert "theta.storage" in done.err


def test_git_theta_push_dry_run_changes_nothing(pushing, shared):
    pushing.put("w", weights(1))
    pushing.commit()

    done = pushing.theta("push", "--dry-run")

    said, listed = done.out.splitlines()
    assert said == f"git theta: would send what '{shared}' lacks of 1 version of a file"
    assert listed.endswith("  w")
    assert not shared.exists()


def test_a_remote_that_is_none_is_an_error_and_a_branch_in_its_place_is_understood(pushing, shared):
    pushing.put("w", weights(1))
    pushing.commit()

    assert pushing.theta("push", "nowhere").err.startswith("git theta: there is no remote 'nowhere'")
    done = pushing.theta("push", "main")

    assert (done.status, done.err.splitlines()[1]) == (2, "hint: the remote comes first: git theta push origin main")
    assert not shared.exists()


def test_git_theta_push_sends_named_refs(pushing, shared):
    one = pushing.put("w", weights(1))
    pushing.commit()
    two = pushing.put("w", weights(2))
    pushing.commit()

    assert pushing.theta("push", "origin", "HEAD~1").status == 0
    assert has(shared, one)
    assert not has(shared, two)
    assert pushing.theta("push", "origin", "HEAD~1").out == "git theta: nothing to push\n"
    assert pushing.theta("push", "origin", "no-such-ref").status == 2


def test_a_forged_pin_of_an_unknown_commit_is_ignored(pushing, shared):
    Store.open(str(shared), create=True).close()
    place = shared / "pins" / ("0" * 40)
    place.mkdir(parents=True)
    (place / f"{'1' * 40}.json").write_text("not json")
    (place / "nonsense").write_text("")
    digest = pushing.put("w", weights(1))
    pushing.commit()

    pushing.git("push", "-q", "origin", "main")

    assert has(shared, digest)


def test_pins_on_disk_are_what_the_document_says(pushing, shared):
    pushing.put("w", weights(1))
    commit = pushing.commit()
    pushing.git("push", "-q", "origin", "main")

    [path] = shared.glob("pins/*/*")
    [pin] = pins(shared)
    assert path.relative_to(shared).as_posix().startswith(f"pins/{pin.repository}/{commit}.")
    assert list(json.loads(path.read_text())) == [
        "format", "version", "url", "commit", "refs", "leans_on", "manifests", "alive_s",
    ]  # fmt: skip
    assert encode_pin(pin) == path.read_bytes()


def test_a_full_disk_fails_the_push_and_the_next_one_sends_the_rest(pushing, shared):
    digest = pushing.put("w", weights(1, 3_000_000))
    pushing.commit()
    command = "ulimit -f 1000; exec git push origin main"  # 512 or 1024 kB a file

    done = subprocess.run(["sh", "-c", command], cwd=pushing.path, capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert f"could not all be sent to '{shared}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(shared.glob("pins/*/*")) == []
    pushing.git("push", "-q", "origin", "main")
    assert has(shared, digest)


def test_a_push_killed_in_the_middle_is_completed_by_the_next(pushing, shared):
    digest = pushing.put("w", weights(1, 5_000_000))
    commit = pushing.commit()
    code = (
        "import os, signal, sys; from gitbridge.repository import Repository; from gitbridge.pushing import push\n"
        "die = lambda objects, nbytes: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"push(Repository.discover(), 'origin', None, {{'{commit}': ()}}, report=die)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=pushing.path, check=False)

    assert done.returncode == -9
    assert not has(shared, digest)
    pushing.git("push", "-q", "origin", "main")
    assert has(shared, digest)


def test_what_a_killed_push_left_is_made_durable_before_a_pin_vouches_for_it(pushing, shared):
    digest = pushing.put("w", weights(1, 50_000))
    pushing.commit()
    code = (
        "import os, sys; from thetastore.digest import Digest; from thetastore.store import Store\n"
        "from thetastore.transfers.transfer import copy_objects\n"
        "source, target = Store.open(sys.argv[1]), Store.open(sys.argv[2], create=True)\n"
        "copy_objects(source.objects, target.objects, source.iter_objects(Digest.parse(sys.argv[3])))\n"
        "os._exit(9)\n"
    )
    command = [sys.executable, "-c", code, str(pushing.path / ".git/theta"), str(shared), str(digest)]
    assert subprocess.run(command, check=False).returncode == 9
    assert os.listdir(shared / "incoming")

    pushing.git("push", "-q", "origin", "main")

    assert not os.listdir(shared / "incoming")
    assert has(shared, digest)


def test_a_mirror_pushes_on_what_it_has_itself(pushing, shared, make_work, tmp_path):
    digest = pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    mirror, target = make_work("mirror.git", "--mirror", clone=tmp_path / "bare.git"), make_work("t.git", "--bare")
    mirror.git("config", "remote.origin.thetaUrl", str(shared))
    mirror.git("config", "theta.url", str(tmp_path / "second"))
    hooks.install(mirror.repository())

    mirror.git("push", "-q", str(target.path), "main")

    assert has(tmp_path / "second", digest)


def test_a_push_to_a_web_server_is_refused_and_says_where_to_push(pushing, shared, tmp_path):
    pushing.put("w", weights(1))
    pushing.commit()
    pushing.git("push", "-q", "origin", "main")
    pushing.put("w", weights(2))
    pushing.commit()
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=shared.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        pushing.git("config", "theta.url", f"http://127.0.0.1:{server.server_port}/{shared.name}")

        refused = pushing.theta("push")
        kept = pushing.theta("gc", "--remote")
        server.shutdown()

    assert refused.status == kept.status == 2
    assert "a store behind http can only be read" in refused.err
    assert "hint: name a place that can be written to: git config theta.url s3://bucket/prefix" in refused.err
    assert "hint: name a place that can be written to" in kept.err
