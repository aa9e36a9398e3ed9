"""Stores in memory and in a directory, as several processes see them."""

from __future__ import annotations

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend


@pytest.fixture(params=["directory", "memory"])
def place(request, tmp_path):
    """Call it for one more handle on the same store, as another process would open it."""
    if request.param == "directory":
        return lambda: DirectoryBackend(str(tmp_path / "store"))
    backend = MemoryBackend()
    return lambda: backend


@pytest.fixture
def store_path(tmp_path):
    return str(tmp_path / "store")
