"""Installing and uninstalling leave the user's own as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from gitbridge import setup


def configuration(alone: Path) -> bytes:
    return (alone / ".gitconfig").read_bytes()


def test_install_is_global_by_default_and_puts_hooks_into_this_repository(work, alone):
    done = work.theta("install")

    assert done.status == 0
    assert work.git("config", "--global", "filter.theta.process").out == "git-theta filter-process\n"
    assert work.git("config", "--global", "filter.theta.required").out == "true\n"
    assert work.git("config", "--global", "diff.theta.cachetextconv").out == "true\n"
    assert work.git("config", "--global", "theta.program").out == "git-theta\n"
    assert (work.path / ".git" / "hooks" / "pre-push").exists()


def test_install_works_outside_of_a_repository(work, alone, tmp_path):
    (tmp_path / "plain").mkdir()

    done = work.theta("install", cwd="../plain")

    assert (done.status, done.err) == (0, "")
    assert "all your repositories" in done.out


def test_install_local_outside_of_a_repository_fails(work, tmp_path):
    (tmp_path / "plain").mkdir()

    done = work.theta("install", "--local", cwd="../plain")

    assert done.status == 2
    assert "not inside of a Git repository" in done.err


def test_installing_twice_changes_nothing(work, alone):
    work.theta("install")
    once = configuration(alone)

    done = work.theta("install")

    assert configuration(alone) == once
    assert "already installed" in done.out


@pytest.mark.parametrize("scope", ["--global", "--local"])
def test_uninstall_restores_the_file_byte_for_byte_and_keeps_what_the_user_wrote(work, alone, scope):
    work.git("config", scope, "theta.url", "/mnt/models")
    work.git("config", scope, "filter.other.clean", "cat")
    path = alone / ".gitconfig" if scope == "--global" else work.path / ".git" / "config"
    before = path.read_bytes()

    work.theta("install", scope)
    assert path.read_bytes() != before
    work.theta("uninstall", scope)

    assert path.read_bytes() == before
    assert not (work.path / ".git" / "hooks" / "pre-push").exists()


def test_uninstall_without_a_scope_removes_both(work, alone):
    work.theta("install", "--global")
    work.theta("install", "--local")

    work.theta("uninstall")

    assert work.git("config", "--get", "filter.theta.process", check=False).status == 1


def test_uninstall_where_nothing_is_installed_says_so(work):
    done = work.theta("uninstall")

    assert (done.status, "nothing to remove" in done.out) == (0, True)


def test_a_filter_that_is_not_ours_is_overwritten_only_by_force(work):
    work.git("config", "--global", "filter.theta.clean", "somebody-elses clean")

    refused = work.theta("install")
    assert refused.status == 2
    assert "--force" in refused.err
    assert work.git("config", "filter.theta.clean").out == "somebody-elses clean\n"

    assert work.theta("install", "--force").status == 0
    assert work.git("config", "filter.theta.clean").out == "git-theta clean -- %f\n"


def test_in_a_virtual_environment_the_absolute_path_is_used_and_quoted(work, tmp_path, monkeypatch):
    place = tmp_path / "my env's"
    (place / "bin").mkdir(parents=True)
    (place / "pyvenv.cfg").touch()
    script = place / "bin" / "git-theta"
    script.write_text('#!/bin/sh\necho called "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr("sys.argv", [str(script)])

    work.theta("install")

    assert setup.program() == str(script)
    assert work.git("config", "theta.program").out == f"{script}\n"
    (work.path / ".gitattributes").write_text("* diff=theta\n")
    (work.path / "a").write_text("x")
    work.git("add", "a")
    shown = work.git("diff", "--cached", "--no-color", PATH="/usr/bin:/bin").out
    assert "+called textconv" in shown


def test_uninstalling_says_for_whom_and_what_becomes_of_tracked_files(work):
    work.theta("install")
    work.theta("install", "--local")
    work.theta("track", "*.bin")

    local = work.theta("uninstall", "--local").out
    everywhere = work.theta("uninstall").out

    assert local == "git theta is uninstalled for this repository: settings and hooks removed\n"
    assert everywhere.startswith(
        "git theta is uninstalled for all your repositories: settings removed\n*.bin: still in"
    )
