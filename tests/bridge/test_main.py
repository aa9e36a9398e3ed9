"""The dispatcher: what it imports, how it fails, what it prints."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gitbridge.cli import main as main_module
from gitbridge.cli.main import COMMANDS, main
from gitbridge.errors import words_for
from thetastore.errors import BackendError

README = Path(__file__).parents[2] / "README.md"


def imported_by(*args: str, cwd: Path) -> set[str]:
    code = (
        "import sys\n"
        "from gitbridge.cli.main import main\n"
        "main(sys.argv[1:]); sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.rpartition("MODULES ")[2].split())


def test_the_dispatcher_itself_imports_only_the_standard_library_and_how_output_is_written(tmp_path):
    loaded = imported_by("help", cwd=tmp_path)

    assert {name for name in loaded if name.startswith(("thetastore", "gitbridge"))} == {
        "gitbridge",
        "gitbridge.cli",
        "gitbridge.cli.main",
        "thetastore",
        "thetastore.interrupts",
        "thetastore.standard_streams",
    }
    assert "argparse" not in loaded


@pytest.mark.parametrize("args", [("filter-process",), ("hook", "post-checkout", "a", "b", "1")])
def test_what_git_starts_for_each_command_imports_little(work, args):
    loaded = imported_by(*args, cwd=work.path)

    assert not loaded & {"numpy", "argparse", "asyncio", "zarr", "fsspec", "numcodecs", "pygit2", "subprocess", "json"}


def test_every_command_has_help(work):
    for name, command in COMMANDS.items():
        if command.summary:
            done = work.theta(name, "--help")
            assert done.status == 0
            assert done.out.startswith(f"usage: git theta {name}")
            assert done.out == work.theta("help", name).out


def test_an_unknown_command_suggests_a_near_one(work):
    done = work.theta("stauts")

    assert done == (129, "", "git theta: 'stauts' is not a command\nhint: did you mean: git theta status\n")


@pytest.mark.parametrize("args", [(), ("help",), ("-h",), ("--help",)])
def test_without_a_command_the_commands_are_listed(work, args):
    done = work.theta(*args)

    assert done.status == 0
    assert "  ls-files  " in done.out
    assert "filter-process" not in done.out


def test_outside_of_a_repository_commands_say_so(work, tmp_path):
    (tmp_path / "plain").mkdir()

    for name in ("status", "ls-files", "fetch", "pull", "push", "checkout", "track"):
        done = work.theta(name, cwd="../plain")
        assert done.status == 2
        assert re.fullmatch(r"git theta: '.*' is not inside of a Git repository .*\nhint: git init\n", done.err)
    assert work.theta("version", cwd="../plain").status == 0
    assert work.theta("env", cwd="../plain").status == 0


def test_in_a_bare_repository_commands_for_work_trees_say_so(make_work):
    bare = make_work("bare.git", "--bare")

    assert "needs a work tree" in bare.theta("status").err


def test_wrong_options_are_usage_errors(work):
    assert work.theta("status", "--nonsense").status == 129
    assert work.theta("ls-files", "--json", "-z").status == 129


def test_an_error_of_the_system_is_words_not_a_traceback(work):
    (work.path / ".gitattributes").mkdir()

    done = work.theta("track", "*.bin")

    assert done.status == 2
    assert done.err.startswith("git theta: '")
    assert "Is a directory" in done.err


def test_a_bug_leaves_one_line_and_a_bounded_number_of_logs(work, monkeypatch):
    def broken(arguments: list[str]) -> int:
        raise RuntimeError("surprise")

    monkeypatch.setattr("gitbridge.cli.about.version", broken)

    for _ in range(25):
        done = work.theta("version")

    assert done.status == 2
    assert "this is a bug in git theta: RuntimeError: surprise" in done.err
    assert "Traceback" not in done.err
    logs = work.path / ".git" / "theta" / "logs"
    assert len(list(logs.iterdir())) == 20
    [path] = re.findall(r"report it with (\S+)", done.err)
    assert "surprise" in Path(path).read_text()


def test_an_interrupt_is_130(work, monkeypatch):
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gitbridge.cli.about.version", interrupted)

    assert work.theta("version") == (130, "", "git theta: interrupted\n")


def test_a_reader_that_leaves_is_141(work):
    work.put("x" * 50, b"weights")
    command = f"'{sys.executable}' -m gitbridge.cli.main ls-files; echo $? >&2"

    done = subprocess.run(
        ["sh", "-c", f"({command}) | true"], cwd=work.path, capture_output=True, text=True, check=False
    )

    assert done.stderr.strip() in ("141", "0")


def test_names_that_are_not_utf8_are_printed_all_the_same(work):
    work.put("plain", b"x" * 1000)
    oid = work.git("rev-parse", ":plain").out.strip()
    odd = os.fsdecode(b"bad-\xff")
    work.git("update-index", "--add", "--cacheinfo", f"100644,{oid},{odd}")

    assert "bad-\\udcff" in work.theta("ls-files").out
    assert len(json.loads(work.theta("ls-files", "--json").out)["files"]) == 2


def test_the_plumbing_refuses_to_be_typed(work):
    for args in (("clean",), ("textconv",), ("merge-driver", "a"), ("hook",)):
        assert work.theta(*args).status == 2


def test_no_command_is_hidden_from_the_dispatcher():
    for name, command in main_module.COMMANDS.items():
        module = __import__(command.module, fromlist=[command.function])
        assert callable(getattr(module, command.function)), name
    assert main(["version"]) == 0


def test_a_full_disk_is_told_in_words_and_with_the_way_out():
    message, hint = words_for(BackendError(errno.ENOSPC, "No space left on device", "incoming/1.pack"))

    assert message == "'incoming/1.pack' in the store: No space left on device"
    assert "make room" in hint
    assert words_for(OSError("odd")) == ("odd", "")
