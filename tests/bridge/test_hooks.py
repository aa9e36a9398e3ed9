"""Hooks beside the user's own: run by the shell itself, and taken out byte for byte."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gitbridge import hooks

REFS = b"refs/heads/a 11 refs/heads/a 22\nHEAD~1 `id` refs/heads/b $HOME\n"
LFS = b"""#!/bin/sh
command -v git-lfs >/dev/null 2>&1 || { echo >&2 "no git-lfs"; exit 2; }
git lfs pre-push "$@"
"""


@pytest.fixture
def directory(work) -> Path:
    return work.path / ".git" / "hooks"


def put(directory: Path, name: str, content: bytes, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


def snapshot(directory: Path) -> dict[str, tuple[bytes, int, str]]:
    return {
        path.name: (
            path.read_bytes() if path.exists() else b"",
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else "",
        )
        for path in directory.iterdir()
    }


def stand_in(alone: Path, status: int = 0) -> None:
    """A git-theta that tells what it was given."""
    script = alone / "bin" / "git-theta"
    script.write_text(f'#!/bin/sh\necho "theta: $*"\nsed "s/^/theta got: /"\nexit {status}\n')
    script.chmod(0o755)


def run(work, name: str, *args: str, refs: bytes = REFS, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(work.path / ".git" / "hooks" / name), *args],
        cwd=work.path,
        input=refs,
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


USERS = {
    "sh": (b'#!/bin/sh\necho user "$@"\ncat\nexit 7\n', 0o755),
    "bash with options": (b'#!/bin/bash -eu\necho user "$@"\ncat\nexit 7\n', 0o750),
    "env bash without a last newline": (b'#!/usr/bin/env bash\necho user "$@"\ncat\nexit 7', 0o755),
    "python": (
        b"#!/usr/bin/env python3\nimport sys\nprint('user', *sys.argv[1:], flush=True)\n"
        b"sys.stdout.write(sys.stdin.read())\nsys.exit(7)\n",
        0o755,
    ),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_users_hook_still_gets_arguments_and_refs_and_its_exit_status_counts(work, directory, alone, kind):
    stand_in(alone)
    put(directory, "pre-push", *USERS[kind])
    before = snapshot(directory)

    hooks.install(work.repository())
    done = run(work, "pre-push", "origin", "/some where")

    theta = b"theta: hook pre-push origin /some where\n" + b"".join(b"theta got: " + r for r in REFS.splitlines(True))
    assert done.stdout == theta + b"user origin /some where\n" + REFS
    assert done.returncode == 7

    hooks.uninstall(work.repository())
    assert snapshot(directory) == before


@pytest.mark.parametrize("kind", USERS)
def test_an_empty_standard_input_stays_empty(work, directory, alone, kind):
    stand_in(alone)
    put(directory, "pre-push", *USERS[kind])
    hooks.install(work.repository())

    done = run(work, "pre-push", "o", "u", refs=b"")

    assert done.stdout == b"theta: hook pre-push o u\nuser o u\n"


def test_a_failing_push_of_weights_ends_the_push_before_the_users_hook(work, directory, alone):
    stand_in(alone, status=2)
    put(directory, "pre-push", b"#!/bin/sh\necho user\n")
    hooks.install(work.repository())

    done = run(work, "pre-push", "origin", "url")

    assert done.returncode == 2
    assert b"user" not in done.stdout


def test_after_hooks_never_fail_and_leave_standard_input_to_the_user(work, directory, alone):
    stand_in(alone, status=2)
    put(directory, "post-rewrite", b"#!/bin/sh\ncat\n")
    hooks.install(work.repository())
    pending = Path(work.repository().theta_dir) / "pending"
    pending.mkdir(parents=True)
    (pending / "0123456789abcdef").touch()

    done = run(work, "post-rewrite", "rebase", refs=b"a b\n")

    assert (done.returncode, done.stdout) == (0, b"theta: hook post-rewrite rebase\na b\n")


def test_after_hooks_start_no_program_where_no_fill_left_a_journal(work, directory, alone):
    stand_in(alone)
    put(directory, "post-checkout", b"#!/bin/sh\necho user\n")
    hooks.install(work.repository())

    done = run(work, "post-checkout", "a", "b", "1")

    assert (done.returncode, done.stdout) == (0, b"user\n")


def test_without_the_program_a_push_fails_with_the_way_out_and_other_hooks_are_silent(work, directory, alone):
    (alone / "bin" / "git-theta").unlink()
    (work.path / ".git" / "theta").mkdir()
    for name in hooks.HOOKS[1:]:
        put(directory, name, b"#!/bin/sh\n")
    hooks.install(work.repository())
    path = "/usr/bin:/bin"

    pushed = run(work, "pre-push", "origin", "url", PATH=path)
    others = [run(work, name, "1", "2", "3", PATH=path) for name in hooks.HOOKS[1:]]

    assert pushed.returncode == 1
    assert b"pip install" in pushed.stderr
    assert [(done.returncode, done.stdout, done.stderr) for done in others] == [(0, b"", b"")] * 3


def test_shared_hooks_let_a_repository_that_never_saw_us_be_pushed_without_the_program(make_work, alone, tmp_path):
    (tmp_path / "shared").mkdir()
    one, other = make_work("one"), make_work("other")
    one.git("config", "--global", "core.hooksPath", str(tmp_path / "shared"))
    hooks.install(one.repository())
    (alone / "bin" / "git-theta").unlink()
    other.commit()
    bare = make_work("bare.git", "--bare")

    other.git("push", "-q", str(bare.path), "main", PATH="/usr/bin:/bin")


def test_the_hook_of_git_lfs_stays_in_force(work, directory):
    put(directory, "pre-push", LFS)

    hooks.install(work.repository())

    content = (directory / "pre-push").read_bytes()
    assert content.startswith(b"#!/bin/sh\n# >>> git theta >>>\n")
    assert content.endswith(LFS.partition(b"\n")[2])


def test_hooks_that_are_switched_off_links_or_of_no_known_kind_are_moved_aside_and_back(work, directory, tmp_path):
    put(directory, "pre-push", b"#!/bin/sh\nexit 9\n", 0o644)
    put(tmp_path, "tool", b"#!/bin/sh\necho linked\n")
    (directory / "post-merge").symlink_to("../../../tool")
    put(directory, "post-checkout", b"echo no first line\n")
    put(directory, "post-rewrite", b"#!/bin/sh\r\necho dos\r\n")
    before = snapshot(directory)
    repository = work.repository()

    hooks.install(repository)

    assert run(work, "pre-push", "o", "u", refs=b"").returncode != 9
    assert (tmp_path / "tool").read_bytes() == b"#!/bin/sh\necho linked\n"
    assert b"linked" in run(work, "post-merge", "0").stdout
    assert hooks.install(repository) == []
    assert set(hooks.uninstall(repository)) == {*hooks.HOOKS, hooks.COMMIT_HOOK}
    assert snapshot(directory) == before


def test_what_the_user_adds_to_our_file_survives_us(work, directory):
    repository = work.repository()
    hooks.install(repository)
    with (directory / "pre-push").open("ab") as stream:
        stream.write(b"echo mine\n")

    assert hooks.install(repository) == []
    hooks.uninstall(repository)

    assert (directory / "pre-push").read_bytes() == b"#!/bin/sh\necho mine\n"
    assert not (directory / "post-merge").exists()


def test_lines_of_an_older_version_are_replaced(work, directory):
    repository = work.repository()
    put(directory, "pre-push", LFS)
    hooks.install(repository)
    path = directory / "pre-push"
    path.write_bytes(path.read_bytes().replace(b"theta_program", b"old_name"))

    assert hooks.install(repository) == ["pre-push"]
    assert b"old_name" not in path.read_bytes()
    hooks.uninstall(repository)
    assert path.read_bytes() == LFS


def test_core_hooks_path_is_respected(work):
    work.git("config", "core.hooksPath", ".githooks")

    hooks.install(work.repository())

    assert sorted(os.listdir(work.path / ".githooks")) == ["pre-commit", "pre-push"]


def test_hooks_after_a_checkout_are_installed_only_beside_the_users(work, directory):
    hooks.install(work.repository())
    assert [name for name in hooks.HOOKS if (directory / name).exists()] == ["pre-push"]

    put(directory, "post-checkout", b"#!/bin/sh\necho user\n")

    assert hooks.missing(work.repository()) == ["post-checkout"]
    assert hooks.install_missing(work.repository()) == ["post-checkout"]


def test_missing_hooks_are_found_without_running_git(work, monkeypatch):
    repository = work.repository()
    assert hooks.install_missing(repository) == ["pre-push", "pre-commit"]

    fresh = work.repository()
    monkeypatch.setattr(subprocess, "run", None)  # running anything would fail
    assert hooks.install_missing(fresh) == []

    monkeypatch.undo()
    (work.path / ".git" / "hooks" / "pre-push").unlink()
    assert hooks.install_missing(work.repository()) == ["pre-push"]
    work.git("config", "core.hooksPath", "other")
    assert hooks.install_missing(work.repository()) == ["pre-push", "pre-commit"]


def test_hooks_that_cannot_be_installed_do_not_stop_the_filter(work, capsys):
    work.git("config", "core.hooksPath", "/dev/null")

    assert hooks.install_missing(work.repository()) == []
    assert "git theta push" in capsys.readouterr().err


def test_a_hooks_path_for_one_command_is_left_alone(work, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.hooksPath=/dev/null'")

    assert hooks.install_missing(work.repository()) == []


def test_what_we_write_is_writable_by_nobody_else(work):
    previous = os.umask(0o022)
    try:
        hooks.install(work.repository())
    finally:
        os.umask(previous)

    written = [work.path / ".git" / "theta" / "hooks", work.path / ".git" / "hooks" / "pre-push"]
    assert [path.stat().st_mode & 0o022 for path in written] == [0, 0]


def test_git_lfs_still_pushes_where_our_hook_was_there_first(work, alone):
    stand_in(alone)
    lfs = alone / "bin" / "git-lfs"
    lfs.write_text('#!/bin/sh\necho "lfs: $*"\nsed "s/^/lfs got: /"\nexit 5\n')
    lfs.chmod(0o755)
    hooks.install(work.repository())
    assert run(work, "pre-push", "origin", "url").returncode == 0

    (work.path / ".git" / "lfs").mkdir()
    done = run(work, "pre-push", "origin", "url")

    assert done.returncode == 5
    assert b"theta: hook pre-push origin url\n" in done.stdout
    assert done.stdout.endswith(
        b"lfs: pre-push origin url\n" + b"".join(b"lfs got: " + r + b"\n" for r in REFS.splitlines())
    )
