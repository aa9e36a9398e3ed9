"""The contract of a command of another package (entry points `gitbridge.commands`) as tests. Needs pytest.

class TestMyCommand(CommandConformance):
    command = staticmethod(my_command)      # (arguments) -> exit status
    refused = ["--no-such-option"]          # arguments that it does not understand
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest


class CommandConformance:
    """What every command does."""

    command: ClassVar[Callable[[list[str]], int]]
    refused: ClassVar[Sequence[str]] = ("--no-such-option",)

    def _run(self, arguments: Sequence[str]) -> int | str | None:
        try:
            return type(self).command(list(arguments))
        except SystemExit as stop:
            return stop.code

    def test_help_is_printed_on_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        status = self._run(["--help"])

        printed = capsys.readouterr()
        assert status in (0, None)
        assert printed.out
        assert not printed.err

    def test_arguments_that_are_not_understood_are_an_error_on_standard_error(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status = self._run(self.refused)

        printed = capsys.readouterr()
        assert isinstance(status, int)
        assert status in (2, 129)
        assert printed.err
        assert "Traceback" not in printed.err

    def test_outside_of_a_repository_it_returns_a_status_or_raises_what_is_explained(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from thetastore.errors import ThetaError

        monkeypatch.chdir(tmp_path)
        try:
            status = self._run([])
        except (ThetaError, OSError):
            return
        assert isinstance(status, int)
        assert 0 <= status <= 255
