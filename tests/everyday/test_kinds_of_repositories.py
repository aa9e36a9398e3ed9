"""Clones, indexes, directories and settings of every kind that git has."""

from __future__ import annotations

import os
import stat

import pytest


def deep(value: object) -> object:
    return pytest.param(value, marks=pytest.mark.deep)


def host(work) -> str:
    return f"file://{work.path.parent}/host.git"


@pytest.mark.parametrize(
    "options",
    [
        ("--depth=1",),
        ("--filter=blob:none",),
        deep(("--filter=tree:0",)),
        deep(("--single-branch", "-b", "side")),
        ("--bare",),
    ],
)
def test_a_clone_of_each_kind_has_its_weights(work, options: tuple[str, ...]) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", *options)

    if options == ("--bare",):
        assert "m.safetensors" in clone.theta("ls-files", "main").stdout
        assert clone.theta("fetch", "origin", "main").returncode == 0
        return
    assert clone.read("m.safetensors") == (work.v1 if "side" in options else work.v2)
    assert clone.is_whole()
    assert clone.theta("status").returncode == 0


def test_a_shallow_clone_is_deepened_and_goes_back(work) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", "--depth=1")

    clone.git("fetch", "-q", "--unshallow", "--tags")
    clone.git("checkout", "-q", "v1")

    assert clone.read("m.safetensors") == work.v1
    assert clone.is_whole()


def test_a_partial_clone_goes_back_and_pushes(work) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", "--filter=blob:none")
    clone.git("checkout", "-q", "v1")
    assert clone.is_whole()
    clone.git("checkout", "-q", "main")
    clone.commit("from a partial clone", m_safetensors=clone.checkpoint("partial"))
    clone.git("push", "-q", "origin", "main")
    work.git("pull", "-q")

    assert work.read("m.safetensors") == work.checkpoint("partial")
    assert work.is_whole()


def test_a_bundle_carries_pointers_and_the_store_the_weights(work) -> None:
    work.git("bundle", "create", "-q", "../all.bundle", "--all")

    clone = work.clone("../all.bundle", work.path.parent / "clone", "-b", "main")
    # A relative path in .thetaconfig counts from the clone's own top, which lies beside the store here.

    assert clone.read("m.safetensors") == work.v2
    assert clone.is_whole()


def test_submodules_have_their_own_weights(work, place) -> None:
    place.git("init", "-q", "super")
    outer = place.at(place.path / "super")
    outer.theta("track", "*.safetensors")
    outer.git("config", "-f", ".thetaconfig", "theta.url", "../weights-of-super")
    outer.git("submodule", "--quiet", "add", host(work), "inner")
    outer.commit("outer", o_safetensors=outer.checkpoint("outer"))
    outer.git("init", "-q", "--bare", "../super.git")
    outer.git("remote", "add", "origin", "../super.git")
    # The store of the inner project lies beside the outer one's work tree in none of the clones.
    inner = place.at(outer.path / "inner")
    inner.git("config", "theta.url", str(work.path.parent / "weights"))
    inner.theta("pull")
    inner.commit("inner", m_safetensors=inner.checkpoint("inner"))
    inner.git("push", "-q", "origin", "HEAD:main")
    outer.commit("with the new inner")
    outer.git("push", "-q", "--recurse-submodules=check", "origin", "main")

    clone = outer.clone("../super.git", place.path / "clone")
    weights = str(work.path.parent / "weights")
    clone.git("-c", f"theta.url={weights}", "submodule", "--quiet", "update", "--init", "--recursive")

    assert clone.is_whole()
    assert clone.read("inner/m.safetensors") == clone.checkpoint("inner")
    assert clone.at(clone.path / "inner").is_whole()


@pytest.mark.parametrize("cone", ["--cone", "--no-cone"])
def test_a_sparse_checkout_widens_and_narrows(work, cone: str) -> None:
    clone = work.clone(host(work), work.path.parent / "clone", "--sparse")
    clone.git("sparse-checkout", "set", cone, "nothing")
    assert not (clone.path / "d").exists()

    clone.git("sparse-checkout", "set", cone, "d")
    assert clone.read("d/n.safetensors") == work.v1
    clone.git("sparse-checkout", "disable")

    assert clone.is_whole()


@pytest.mark.parametrize(
    "settings",
    [
        {"index.version": "4"},
        {"core.splitIndex": "true"},
        deep({"core.untrackedCache": "true"}),
        {"index.sparse": "true", "core.sparseCheckout": "true"},
        {"core.autocrlf": "true"},
        {"checkout.workers": "4", "checkout.thresholdForParallelism": "1"},
        deep({"core.autocrlf": "input", "core.safecrlf": "true"}),
        deep({"core.eol": "crlf"}),
        deep({"core.fileMode": "false"}),
        deep({"core.trustctime": "false", "core.checkStat": "minimal"}),
        deep({"core.preloadIndex": "false", "feature.manyFiles": "true"}),
        deep({"core.sharedRepository": "group"}),
        deep({"submodule.recurse": "true"}),
        deep({"merge.renames": "false", "merge.conflictStyle": "diff3"}),
    ],
)
def test_a_setting_of_git_changes_no_byte(work, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        work.git("config", name, value)
    if "index.version" in settings:
        work.git("update-index", "--index-version", "4")

    for name in ("v1", "side", "main"):
        work.git("checkout", "-q", name)
        assert work.is_whole()
    work.git("merge", "-q", "-m", "merge", "side")
    assert work.is_whole()
    work.commit("change", m_safetensors=work.checkpoint("new") + b"\r\n\r\n")
    work.git("rm", "-q", "--cached", "m.safetensors")
    work.git("reset", "-q", "--hard")

    assert work.read("m.safetensors") == work.checkpoint("new") + b"\r\n\r\n"
    assert work.is_whole()


def test_a_file_system_monitor_is_told_nothing_wrong(work) -> None:
    """A hook of version 2 that says that everything may have changed, and one that says that nothing has."""
    hook = work.path.parent / "monitor"
    hook.write_text("#!/bin/sh\nprintf 'token\\0/\\0'\n")
    hook.chmod(0o755)
    work.git("config", "core.fsmonitor", str(hook))

    for name in ("v1", "side", "main"):
        work.git("checkout", "-q", name)
        assert work.is_whole()
    hook.write_text("#!/bin/sh\nprintf 'token\\0'\n")
    work.git("checkout", "-q", "v1")

    assert work.is_whole()


def test_a_moved_model_keeps_its_pointer_and_follows_into_subdirectories(work) -> None:
    before = work.git("rev-parse", "HEAD:m.safetensors")
    (work.path / "models").mkdir()

    work.git("mv", "m.safetensors", "models/base.safetensors")
    work.git("commit", "-q", "-m", "move")

    assert work.git("rev-parse", "HEAD:models/base.safetensors") == before
    assert "rename m.safetensors => models/base.safetensors (100%)" in work.git("show", "--stat", "--summary", "-M")
    assert work.is_whole()


def test_the_executable_bit_comes_and_goes_without_the_weights(work) -> None:
    (work.path / "m.safetensors").chmod(0o755)
    work.commit("executable")
    work.git("checkout", "-q", "HEAD~1")
    assert not os.stat(work.path / "m.safetensors").st_mode & stat.S_IXUSR
    work.git("checkout", "-q", "main")

    assert os.stat(work.path / "m.safetensors").st_mode & stat.S_IXUSR
    assert work.is_whole()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_directory_that_cannot_be_written_fails_the_checkout_and_is_made_up_for(work) -> None:
    (work.path / "d").chmod(0o555)
    try:
        failed = work.run("git", "checkout", "v1", check=False)
    finally:
        (work.path / "d").chmod(0o755)

    assert "Traceback" not in failed.stderr
    work.git("checkout", "-q", "-f", "main")
    assert work.is_whole()


def test_a_read_only_file_is_replaced_as_git_does(work) -> None:
    (work.path / "m.safetensors").chmod(0o444)

    work.git("checkout", "-q", "v1")

    assert work.read("m.safetensors") == work.v1
    assert work.is_whole()


def test_gc_prune_and_fsck_find_nothing_to_complain_of(work) -> None:
    work.commit("more", m_safetensors=work.checkpoint("more"))
    work.git("reset", "-q", "--hard", "v2")

    work.git("-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now", "--aggressive")
    work.git("repack", "-q", "-a", "-d")
    said = work.run("git", "fsck", "--full", "--strict")

    assert (said.stdout, said.stderr.replace("Checking", "")) == ("", said.stderr.replace("Checking", ""))
    work.git("checkout", "-q", "v1")
    assert work.is_whole()


def test_hooks_of_the_user_read_whole_files_and_are_kept(work) -> None:
    seen = work.path.parent / "seen"
    hooks = work.path / ".git" / "hooks"
    for name in ("pre-commit", "post-checkout", "post-merge", "post-commit", "pre-push"):
        body = f'#!/bin/sh\necho {name} $(wc -c < m.safetensors) >> "{seen}"\n'
        path = hooks / name
        path.write_text(body)
        path.chmod(0o755)
    work.theta("install", "--local")

    work.git("checkout", "-q", "v1")
    work.git("checkout", "-q", "main")
    work.git("merge", "-q", "-m", "merge", "side")
    work.commit("more", m_safetensors=work.v1)
    work.git("push", "-q", "origin", "main")

    lines = seen.read_text().split("\n")[:-1]
    assert {line.split()[0] for line in lines} >= {
        "pre-commit",
        "post-checkout",
        "post-merge",
        "post-commit",
        "pre-push",
    }
    assert all(int(line.split()[1]) > 500_000 for line in lines), lines
    assert work.is_whole()
