"""Two files change names in one step."""

from __future__ import annotations

import os

import pytest

from gitbridge.exchange import exchange


@pytest.fixture
def directory_fd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_two_files_change_names(tmp_path, directory_fd):
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "other").write_bytes(b"2")

    if not exchange(directory_fd, b"one", b"other"):
        pytest.skip("this file system cannot exchange names")
    assert ((tmp_path / "one").read_bytes(), (tmp_path / "other").read_bytes()) == (b"2", b"1")


def test_a_file_that_is_not_there_is_an_error_and_nothing_changes(tmp_path, directory_fd):
    (tmp_path / "one").write_bytes(b"1")

    with pytest.raises(FileNotFoundError):
        exchange(directory_fd, b"one", b"other")
    assert (tmp_path / "one").read_bytes() == b"1"
