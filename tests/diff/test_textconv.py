"""What `git diff`, `log -p` and `show` print of tracked files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gitbridge.textconv import text_of

if TYPE_CHECKING:
    from conftest import Work


def arrays(count: int = 20, changed: int = -1) -> dict[str, Any]:
    return {f"layers.{at}.weight": np.full((8, 4), at + (at == changed), "f4") for at in range(count)}


def objects(work: Work) -> list[str]:
    return sorted(str(path) for path in (work.path / ".git" / "theta").rglob("*") if path.is_file())


def test_a_pointer_and_the_weights_that_it_stands_for_have_one_text(work: Work) -> None:
    work.add(arrays())
    weights = work.path / "weights.safetensors"
    work.write(arrays(), "weights.safetensors")

    lines = text_of(str(work.path / "model.safetensors")).decode().splitlines()

    assert text_of(str(weights)).decode().splitlines() == lines
    assert len(lines) == 3 + 20
    assert lines[3].startswith("layers.0.weight: float32 [8, 4] ")


def test_of_a_changed_file_git_diff_shows_the_tensors_that_changed(work: Work) -> None:
    work.install()
    work.save("one", arrays())
    work.write(arrays(changed=7))

    shown = work.git("diff", "-U0").splitlines()

    assert [line[:17] for line in shown if line.startswith(("+layers", "-layers"))] == [
        "-layers.7.weight:",
        "+layers.7.weight:",
    ]


def test_making_the_text_of_a_file_stores_nothing(work: Work) -> None:
    work.save("one", arrays())
    before = objects(work)
    work.write(arrays(changed=7))

    assert work.theta("textconv", "model.safetensors").status == 0
    assert objects(work) == before


def test_git_asks_for_the_text_of_a_version_once(work: Work, tmp_path: Path) -> None:
    work.install()
    calls = tmp_path / "calls"
    program = tmp_path / "textconv"
    program.write_text(f'#!/bin/sh\necho call >>"{calls}"\nexec git-theta textconv "$@"\n')
    program.chmod(0o755)
    work.git("config", "diff.theta.textconv", str(program))
    work.save("one", arrays())
    work.save("two", arrays(changed=3))

    first, again = work.git("log", "-p"), work.git("log", "-p")

    assert first == again
    assert "+layers.3.weight" in first
    assert calls.read_text().count("call") == 2


def test_a_file_outside_of_any_repository_has_a_text(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.arange(6, dtype="f4"))

    assert b"float32 [6]" in text_of(str(tmp_path / "a.npy"))
