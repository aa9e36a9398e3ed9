"""What README says is run, and all that can be run is in README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROGRAMS = Path(sys.executable).parent
BLOCK = re.compile(r"^(?P<note><!-- not run: .*? -->\n)?```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def subcommands(program: str) -> set[str]:
    """The names that a program's own help lists, one a line under a heading."""
    done = subprocess.run([PROGRAMS / program, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"^ {2,4}([a-z][a-z-]+)(?= |$)", done.stdout, re.MULTILINE))


def safetensors_file(path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)
    header = b'{"w":{"dtype":"F32","shape":[256,256],"data_offsets":[0,262144]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + weights.tobytes())


def test_the_commands_of_readme_run_as_they_stand_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n  name = Reader\n  email = reader@example.com\n[init]\n  defaultBranch = main\n"
    )
    safetensors_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    env = kept | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    script = "set -e\n" + "".join(block["text"] for block in BLOCK.finditer(README) if not block["note"])

    done = subprocess.run(
        ["sh", "-x"], input=script, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "git clone" in script


def test_what_readme_does_not_run_is_few_and_has_a_reason() -> None:
    left_out = [block["note"] for block in BLOCK.finditer(README) if block["note"]]

    assert len(left_out) == 2
    assert README.count("```sh") == len(list(BLOCK.finditer(README)))


@pytest.mark.parametrize("program", ["git-theta", "thetastore"])
def test_every_command_is_in_readme(program: str) -> None:
    commands = subcommands(program)
    named = {word for code in re.findall(r"`([^`\n]+)`", README) for word in re.findall(r"[a-z][a-z-]+", code)}

    assert len(commands) >= 5
    assert commands <= named


def test_every_make_target_is_in_readme() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)

    missing = [target for target in targets if not re.search(rf"\bmake {target}\b", README) and target != "help"]

    assert len(targets) >= 6
    assert not missing


def test_every_link_of_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
