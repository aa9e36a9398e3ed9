"""The reference, the manual pages and the parsers say the same."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gitbridge.cli.main import COMMANDS, main
from gitbridge.cli.parsers import parser_for
from thetastore.command_line import Parser, parser_of

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
COMMAND_NAMES = [name for name, command in COMMANDS.items() if command.summary]


def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[Path, str] = module.files()
    return found


def test_what_is_generated_is_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generated().items() if path.read_text() != text]

    assert not stale, "to mend it: make docs (or: .venv/bin/python docs/make_reference.py)"


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_command_hands_out_its_parser_and_a_usage_error_ends_with_129(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    parser = parser_for(name)

    assert isinstance(parser, Parser)
    assert parser.prog == f"git theta {name}"
    assert main([name, "--no-such-option"]) == 129
    assert "usage: git theta" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_is_had_in_each_of_the_ways_that_git_has(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["help", "status"], ["status", "-h"], ["status", "--help"]):
        assert main(arguments) == 0
        assert "usage: git theta status" in capsys.readouterr().out


def test_a_near_option_or_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--jsno"]) == 129
    assert "git theta status: unknown option '--jsno'\nhint: did you mean: --json\n" in capsys.readouterr().err
    assert main(["help", "stauts"]) == 129
    assert "hint: did you mean: git theta status\n" in capsys.readouterr().err


def test_the_store_alone_has_the_same_manners() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PROGRAMS / "thetastore", *arguments], capture_output=True, text=True, check=False)

    unknown, level, missing = run("verfy"), run("verify", "x", "--level", "tabels"), run("verify")

    assert (unknown.returncode, level.returncode, missing.returncode) == (129, 129, 129)
    assert "did you mean: verify" in unknown.stderr
    assert "did you mean: tables" in level.stderr
    assert "missing: PLACE" in missing.stderr
    assert run("help", "verify").stdout == run("verify", "--help").stdout != ""


def test_a_command_that_does_not_begin_by_parsing_is_refused() -> None:
    import argparse

    def parses_with_another_class(arguments: list[str]) -> int:
        argparse.ArgumentParser(prog="x").parse_args(arguments)
        raise AssertionError("it must not be run")

    with pytest.raises(TypeError, match="does not begin by parsing"):
        parser_of(parses_with_another_class)


@pytest.mark.parametrize("page", ["git-theta.1", "thetastore.1"])
def test_a_manual_page_is_read_without_complaint(page: str) -> None:
    from shutil import which

    if which("groff") is None:
        pytest.skip("groff is not here")

    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", ROOT / "docs" / "man" / page], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "thetastore manual" in done.stdout
