"""Repositories that the real git-lfs made, and what it makes of ours. Skipped where there is no git-lfs."""

from __future__ import annotations

import shutil

import pytest

pytestmark = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


@pytest.fixture
def real(empty, environment, tmp_path):
    """A repository of git-lfs itself, with two versions."""
    config = tmp_path / "gitconfig"
    shutil.copy(environment["GIT_CONFIG_GLOBAL"], config)
    place = type(empty)(empty.path, {**environment, "GIT_CONFIG_GLOBAL": str(config)})
    place.git("config", "--global", "--remove-section", "filter.lfs")
    place.git("lfs", "install")
    place.git("lfs", "track", "*.safetensors")
    place.commit("v1", {"m.safetensors": place.weights(1, 2)})
    place.git("tag", "v1")
    place.commit("v2", {"m.safetensors": place.weights(1, 3), "deep/n.safetensors": place.weights(4)})
    assert place.blob("HEAD", "m.safetensors").startswith(b"version https://git-lfs")
    return place


def test_a_repository_of_git_lfs_comes_in_whole(real):
    real.migrate("import", "--from", "lfs", "--everything", "--yes")

    assert real.bytes_at("v1", "m.safetensors") == real.weights(1, 2)
    assert real.bytes_at("main", "m.safetensors") == real.weights(1, 3)
    assert real.bytes_at("main", "deep/n.safetensors") == real.weights(4)
    assert real.status() == ""
    real.git("checkout", "-q", "v1")
    assert real.read("m.safetensors") == real.weights(1, 2)


def test_git_lfs_takes_what_goes_out_to_it(real):
    real.migrate("import", "--from", "lfs", "--everything", "--yes")

    real.migrate("export", "--to", "lfs", "--everything", "--yes")

    assert real.status() == ""
    assert "OK" in real.git("lfs", "fsck")
    real.git("checkout", "-q", "v1")
    assert real.read("m.safetensors") == real.weights(1, 2)
    assert "m.safetensors" in real.git("lfs", "ls-files")
