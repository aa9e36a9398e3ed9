"""The example of an update type: it passes its own suite, and `git theta add` stores what it reads as factors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from git_work import GitWork, home_in, weights, write_model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "update-type"


def test_the_example_passes_its_own_tests(tmp_path: Path) -> None:
    for name in ("theta_loha.py", "test_theta_loha.py"):
        shutil.copy(EXAMPLE / name, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_what_it_reads_is_stored_as_factors(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "theta_loha-0.1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE / "theta_loha.py", site)
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]["thetastore.updates"]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theta-loha\nVersion: 0.1.0\n")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[thetastore.updates]\n" + "".join(lines))
    environment = home_in(tmp_path / "home")
    environment["PYTHONPATH"] = f"{site}{os.pathsep}{environment['PYTHONPATH']}"
    work = GitWork(tmp_path / "work", environment).ready("*.safetensors")
    base = weights(1, 256, 200)
    write_model(work.path / "m.safetensors", {"q.weight": base})
    work.git("add", "-A")
    work.git("commit", "-qm", "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LOHA", "alpha": 4}')
    parts = [weights(2, 256, 2), weights(3, 2, 200), weights(4, 256, 2), weights(5, 2, 200)]
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    write_model(
        adapter / "adapter_model.safetensors",
        {f"base_model.model.q.hada_{name}": part for name, part in zip(names, parts, strict=True)},
    )

    done = work.theta("add", "m.safetensors", "--update-type", "loha", "--update-path", str(adapter))

    assert done.status == 0, done
    assert done.out.startswith("m.safetensors: LoHa, 1 of 1 tensor, ")
    merged = np.frombuffer((work.path / "m.safetensors").read_bytes()[-base.nbytes :], "f4").reshape(base.shape)
    one, two, three, four = (part.astype("f8") for part in parts)
    np.testing.assert_allclose(merged, base + 2 * (one @ two) * (three @ four), rtol=1e-5, atol=1e-5)
    shutil.rmtree(site)
    work.git("commit", "-qam", "adapted")
    assert "update" in work.theta("du").out
    assert work.theta("fsck").status == 0
