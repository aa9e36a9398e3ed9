"""Programs that have jax, pandas or pyarrow read models and files with these. Each runs in a Python of its own.

python3 -m venv /tmp/users
/tmp/users/bin/pip install blake3 xxhash zstandard numpy fsspec ml_dtypes jax pandas pyarrow
THETA_USERS_PYTHON=/tmp/users/bin/python pytest -m deep tests/python/test_users.py
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gitbridge

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif("THETA_USERS_PYTHON" not in os.environ, reason="needs a Python with jax and pandas: see above"),
]
ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "jax arrays": """
import gitbridge, jax.numpy
model = gitbridge.open({repository!r}, "HEAD", "m.safetensors")
assert float(model["w"].jax().sum()) == 66 and jax.numpy.asarray(model["w"]).shape == (3, 4)
assert model.state_dict("jax")["w"].dtype == jax.numpy.float32
assert gitbridge.load_file({repository!r} + "/m.safetensors", framework="flax", revision="HEAD")["w"][2, 3] == 11
with gitbridge.safe_open({repository!r} + "/m.safetensors", framework="jax", revision="HEAD") as file:
    assert file.get_slice("w")[1:, ::2].tolist() == [[4, 6], [8, 10]]
""",
    "pandas reads a table by its URL": """
import pandas
assert pandas.read_csv("theta://{repository}@HEAD/t.csv")["b"].tolist() == [2, 4]
assert pandas.DataFrame(__import__("numpy").asarray(__import__("gitbridge").open(
    {repository!r}, "HEAD", "m.safetensors")["w"])).shape == (3, 4)
""",
    "pyarrow reads a Parquet file through the file system": """
import fsspec, os, pandas, pyarrow.parquet, subprocess
place = {repository!r}
pandas.DataFrame({{"a": [1, 2, 3]}}).to_parquet(os.path.join(place, "t.parquet"))
subprocess.run(["git", "-C", place, "add", "t.parquet"], check=True)
subprocess.run(["git", "-C", place, "commit", "-q", "-m", "parquet"], check=True)
files = fsspec.filesystem("theta", location=place, revision="HEAD")
assert pyarrow.parquet.read_table("t.parquet", filesystem=files)["a"].to_pylist() == [1, 2, 3]
assert pandas.read_parquet("theta://{repository}@HEAD/t.parquet")["a"].sum() == 6
""",
}
REGISTERED = "import fsspec\nfsspec.register_implementation('theta', 'gitbridge.filesystem.ThetaFileSystem')\n"
"""The entry point of an installed package does this."""


@pytest.fixture
def repository(work):
    (work.path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    work.git("add", "t.csv")
    work.commit("a table")
    work.git("switch", "-q", "--detach")
    tensors = {"w": np.arange(12, dtype=np.float32).reshape(3, 4)}
    gitbridge.commit(tensors, "m.safetensors", "a model", "main", repository=work.path)
    work.git("switch", "-q", "main")
    return work


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_people_have_reads_what_is_committed(repository, program, tmp_path):
    text = REGISTERED + PROGRAMS[program].format(repository=str(repository.path))

    done = subprocess.run(
        [os.environ["THETA_USERS_PYTHON"], "-c", text],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr[-2000:]) == (0, "")
