"""The site is whole: it builds without a warning, no page is left out, pictures are what their scripts draw."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def module(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_navigation_leads_to_every_page_once() -> None:
    navigation = module("docs/navigation.py")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    pages = navigation._pages(navigation.on_config(config)["nav"])

    assert sorted(pages) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


def test_diagrams_are_what_their_script_draws() -> None:
    stale = [
        path.name for path, text in module("docs/pictures/make_diagrams.py").files().items() if path.read_text() != text
    ]

    assert not stale, "to mend it: make docs"


def test_a_recording_shows_what_a_command_prints_and_keeps_its_exit_status(tmp_path: Path) -> None:
    picture = tmp_path / "recording.svg"
    command = [sys.executable, "-c", r"print('\033[1mbold\033[0m <plain>'); raise SystemExit(3)"]

    done = subprocess.run([sys.executable, ROOT / "examples" / "record.py", picture, *command], check=False)

    assert done.returncode == 3
    assert '<tspan class="bold">bold</tspan> &lt;plain&gt;' in picture.read_text()


@pytest.mark.deep
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    venv, site = tmp_path / "venv", tmp_path / "site"
    requirements = [
        line.strip(' ",')
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith('    "mkdocs')
    ]
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", *requirements]
    subprocess.run(pip, check=True)

    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [venv / "bin" / "mkdocs", "build", "--strict", "-d", site]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in site.rglob("*.html"):
        assert 'src="http' not in page.read_text()
        assert 'rel="stylesheet" href="http' not in page.read_text()
