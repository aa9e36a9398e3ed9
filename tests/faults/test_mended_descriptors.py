"""A descriptor that is damaged or gone is made anew from the files beside it, and nothing else is taken for a store."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.checking.descriptors import mend_descriptor
from thetastore.cli.main import main
from thetastore.descriptor import DESCRIPTOR, VERSION, Descriptor, encode_descriptor, read_descriptor
from thetastore.errors import BackendError, DescriptorMissingError, MalformedError, UnsupportedError
from thetastore.packs.preamble import PREAMBLE_BYTES, checksum64
from thetastore.store import Store
from thetastore.testing import FaultyBackend

CONTENT = b"weights " * 1000
DAMAGED = encode_descriptor(Descriptor(VERSION))[:40]


def fill(backend) -> None:
    with Store.at(backend, create=True) as store:
        store.put_file(io.BytesIO(CONTENT))


def damage(backend, content: bytes = DAMAGED) -> None:
    backend.delete(DESCRIPTOR)
    backend.create(DESCRIPTOR, content)


def with_version(path: Path, version: int) -> None:
    """Have a file say another version, with the right checksum."""
    content = bytearray(path.read_bytes())
    content[8:12] = version.to_bytes(4, "little")
    content[PREAMBLE_BYTES - 8 : PREAMBLE_BYTES] = checksum64(bytes(content[: PREAMBLE_BYTES - 8]))
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_damaged_one_is_set_aside_and_the_command_that_the_error_names_writes_another(tmp_path, capsys):
    fill(DirectoryBackend(str(tmp_path)))
    damage(DirectoryBackend(str(tmp_path)))
    with pytest.raises(MalformedError, match=f"thetastore mend {tmp_path}$"):
        Store.open(str(tmp_path))

    assert main(["mend", str(tmp_path)]) == 1

    aside = list((tmp_path / "damaged").iterdir())
    assert [path.read_bytes() for path in aside] == [DAMAGED]
    assert f"it lies in 'damaged/{aside[0].name}'" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["mend", str(tmp_path)]) == 0


def test_one_that_is_gone_is_written_anew(tmp_path, capsys):
    fill(DirectoryBackend(str(tmp_path)))
    (tmp_path / DESCRIPTOR).unlink()

    with pytest.raises(DescriptorMissingError, match=f"thetastore mend {tmp_path}"):
        Store.open(str(tmp_path))
    assert main(["mend", str(tmp_path)]) == 1

    assert "was gone and was written anew" in capsys.readouterr().err
    assert read_descriptor(DirectoryBackend(str(tmp_path))).version == VERSION


def test_a_sound_store_an_empty_place_and_somebody_elses_file_are_left_alone(tmp_path):
    sound, empty, other = (DirectoryBackend(str(tmp_path / name)) for name in ("sound", "empty", "other"))
    fill(sound)
    other.create(DESCRIPTOR, b'{"format": "recipe"}')

    assert mend_descriptor(sound) is None
    assert mend_descriptor(empty) is None
    with pytest.raises(MalformedError):
        mend_descriptor(other)
    assert other.read(DESCRIPTOR) == b'{"format": "recipe"}'


def test_files_of_the_draft_alone_make_a_store_of_the_draft_and_newer_ones_are_not_guessed_at(tmp_path):
    for name, version in (("draft", 0), ("newer", VERSION + 1)):
        backend = DirectoryBackend(str(tmp_path / name))
        fill(backend)
        for path in (tmp_path / name).glob("*/*"):
            with_version(path, version)
        damage(backend)

    mended = mend_descriptor(DirectoryBackend(str(tmp_path / "draft")))
    with pytest.raises(UnsupportedError, match="a newer one is needed"):
        mend_descriptor(DirectoryBackend(str(tmp_path / "newer")))

    assert mended is not None
    assert mended.version == 0
    with pytest.raises(UnsupportedError, match="thetastore upgrade"):
        Store.open(str(tmp_path / "draft"))


def test_where_an_upgrade_is_under_way_it_is_the_upgrade_that_goes_on(tmp_path):
    backend = DirectoryBackend(str(tmp_path))
    fill(backend)
    backend.create("upgrades/0001", encode_descriptor(Descriptor(0)))
    damage(backend)

    with pytest.raises(UnsupportedError, match="thetastore upgrade"):
        mend_descriptor(backend)
    with pytest.raises(UnsupportedError, match="thetastore upgrade"):
        Store.at(backend)


def test_a_kill_at_any_point_loses_nothing_and_the_next_run_ends_it():
    for at in range(100):
        backend = MemoryBackend()
        fill(backend)
        damage(backend)
        dying = FaultyBackend(backend, at, dies=True)
        try:
            mend_descriptor(dying)
        except BackendError:
            mend_descriptor(backend)
        assert read_descriptor(backend).version == VERSION
        assert [backend.read(name) for name in backend.list("damaged")] == [DAMAGED]
        if not dying.is_dead:
            break
    assert 3 < at < 99
