"""The whole line with the real git, weights in a real bucket: push from one clone, clone elsewhere, fetch, verify."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

PROGRAMS = Path(sys.executable).parent


class Work:
    """A clone, and how to run git in it, without the user's configuration."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self._environment = {
            "HOME": str(home),
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=self._environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def put(self, seed: int) -> bytes:
        """Commit a checkpoint, most of which is the same whatever the seed; return its bytes."""
        body = numpy.random.default_rng(0).standard_normal((64, 4096), dtype="f4")
        body[seed] += 1
        header = b'{"w":{"dtype":"F32","shape":[64,4096],"data_offsets":[0,1048576]}}'
        content = len(header).to_bytes(8, "little") + header + body.tobytes()
        (self.path / "model.safetensors").write_bytes(content)
        self.git("add", "--all")
        self.git("commit", "-q", "-m", f"weights {seed}")
        return content


def configure(work: Work, place) -> None:
    prefix = "/".join(place.url.split("/")[:3])
    for name, value in place.options.items():
        text = "[]" if value == [] else f'["{value[0]}"]' if isinstance(value, list) else str(value)
        work.git("config", "--global", f"theta.{prefix}.{name.replace('_', '-')}", text)


def new_world(tmp_path: Path, place) -> Work:
    home = tmp_path / "home"
    home.mkdir()
    work = Work(home, home)
    configure(work, place)
    for name, value in (("user.name", "A"), ("user.email", "a@b"), ("init.defaultBranch", "main")):
        work.git("config", "--global", name, value)
    work.git("theta", "install")
    work.git("init", "-q", "--bare", str(tmp_path / "git.git"))
    work.git("clone", "-q", str(tmp_path / "git.git"), str(tmp_path / "one"))
    one = Work(tmp_path / "one", home)
    one.git("theta", "track", "*.safetensors")
    return one


def check_push_clone_and_fetch(tmp_path: Path, place, is_for_many: bool) -> None:
    one = new_world(tmp_path, place)
    one.git("config", "-f", ".thetaconfig", "theta.url", place.url)
    first = one.put(1)

    refused = one.git("push", "-q", "origin", "main", check=False)
    assert refused.returncode != 0
    assert f"git config --add theta.trustedUrl {place.url}" in refused.stderr

    one.git("config", "--add", "theta.trustedUrl", place.url)
    pushed = one.git("push", "-q", "origin", "main")
    assert f"to '{place.url}'" in pushed.stderr
    assert ("nobody else may push there at the same time" in pushed.stderr) is not is_for_many
    for option in place.options.values():
        assert str(option) not in pushed.stderr + refused.stderr

    one.git("clone", "-q", str(tmp_path / "git.git"), str(tmp_path / "two"))
    two = Work(tmp_path / "two", tmp_path / "home")
    assert (two.path / "model.safetensors").read_bytes() == first

    second = one.put(2)
    pushed = one.git("push", "-q", "origin", "main")
    assert "for 1.05 MB of weights" in pushed.stderr
    two.git("pull", "-q")
    assert (two.path / "model.safetensors").read_bytes() == second
    two.git("config", "--add", "theta.trustedUrl", place.url)
    assert two.git("theta", "push").stdout.startswith(("git theta: nothing to push", "git theta: '"))
    assert place.url in two.git("theta", "env").stdout


@pytest.mark.xdist_group("seaweedfs")
def test_seaweedfs(tmp_path, seaweedfs):
    check_push_clone_and_fetch(tmp_path, seaweedfs.fresh(), is_for_many=True)


@pytest.mark.deep
@pytest.mark.xdist_group("moto")
def test_moto(tmp_path, moto):
    check_push_clone_and_fetch(tmp_path, moto.fresh(), is_for_many=True)


@pytest.mark.deep
@pytest.mark.xdist_group("gcs")
def test_the_emulator_of_google_cloud_storage(tmp_path, gcs):
    check_push_clone_and_fetch(tmp_path, gcs.fresh(), is_for_many=False)


@pytest.mark.xdist_group("sftp")
def test_sftp(tmp_path, sftp):
    check_push_clone_and_fetch(tmp_path, sftp.fresh(), is_for_many=True)


@pytest.mark.xdist_group("azurite")
def test_azurite(tmp_path, azurite):
    check_push_clone_and_fetch(tmp_path, azurite.fresh(), is_for_many=True)


@pytest.mark.deep
@pytest.mark.xdist_group("s3rver")
def test_s3rver_is_for_one_writer(tmp_path, s3rver):
    check_push_clone_and_fetch(tmp_path, s3rver.fresh(), is_for_many=False)
