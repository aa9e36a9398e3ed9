"""The demonstration and the benchmarks keep running: here with small weights, in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of six layers, named as MiniLM's are."""
    values = np.random.default_rng(1).standard_normal((6, 128, 128)).astype(np.float32)
    step = values[0].nbytes
    header = {
        f"encoder.layer.{layer}.weight": {
            "dtype": "F32",
            "shape": [128, 128],
            "data_offsets": [layer * step, (layer + 1) * step],
        }
        for layer in range(6)
    }
    text = json.dumps(header).encode()
    path = tmp_path / "small.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    return path


def demo(weights: Path, scratch: Path) -> subprocess.Popen[str]:
    scratch.mkdir()
    command = [sys.executable, "-m", "gitbridge.demo", weights]
    env = os.environ | {"TMPDIR": str(scratch)}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores SIGINT, and so would everything below it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_demonstration_ends_well_and_leaves_nothing_behind(tmp_path: Path, weights: Path) -> None:
    with demo(weights, tmp_path / "scratch") as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 0, output
    assert output.count("equal to what was added") == 3
    assert not list((tmp_path / "scratch").iterdir())


def test_a_demonstration_of_weights_that_it_cannot_change_says_which_it_wants(tmp_path: Path, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes().replace(b"layer.5", b"layer.6"))

    with demo(weights, tmp_path / "scratch") as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert output.endswith("has no float32 tensors of '.layer.5.'; without a path MiniLM is taken\n")
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, weights: Path, ending: signal.Signals
) -> None:
    with demo(weights, tmp_path / "scratch") as process:
        assert process.stdout is not None
        while "The model as released" not in process.stdout.readline():
            assert process.poll() is None

        process.send_signal(ending)
        process.communicate(timeout=60)

    assert process.returncode != 0
    assert not list((tmp_path / "scratch").iterdir())


def test_the_benchmarks_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.spine", "--only", "start,sizes,add,checkout,change,memory"]
    command += ["--repeats", "1", "--size-mb", "4", "--large-mb", "5"]

    done = subprocess.run(
        [*command, "--directory", tmp_path / "bench", "--json", tmp_path / "out.json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {"add 4 MB float32", "checkout 4 MB bfloat16", "memory add"} <= {result["benchmark"] for result in results}
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["inputs"]
