"""A history of the real Git-Theta comes in: whole tensors, sparse updates and those of two matrices.

Bits are compared with what Git-Theta itself checks out of each commit. The files are not: Git-Theta does not keep them.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest
from checkpoints import read_safetensors

from gitbridge.repository import Repository
from migrations import git_theta, msgpack
from thetastore.errors import MalformedError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "git_theta.zip"
IMPORT = ("import", "--from", "git-theta", "--everything", "--yes")
VERSIONS = ["v1", "v2", "v3", "v4"]


@pytest.fixture
def theirs(empty, environment, tmp_path):
    """The repository for those who have no filter called `theta`: what Git-Theta keeps is seen as it is."""
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = T\n\temail = t@example.org\n")
    return type(empty)(empty.path, {**environment, "GIT_CONFIG_GLOBAL": str(config)})


@pytest.fixture
def real(empty, theirs):
    """A repository of Git-Theta, as after a clone without it."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(empty.path / ".git")
    theirs.git("pull", "-q", "--tags", ".git/history.bundle", "main")
    return empty


def tensors(raw):
    return {name: (value.dtype.name, value.shape, value.tobytes()) for name, value in read_safetensors(raw).items()}


def test_each_version_has_the_tensors_that_git_theta_gives(real):
    real.migrate(*IMPORT)

    for version in VERSIONS:
        expected = real.read(f".git/expected/{version}.safetensors")
        assert tensors(real.bytes_at(version, "m.safetensors")) == tensors(expected)
    assert tensors(real.read("m.safetensors")) == tensors(real.read(".git/expected/v4.safetensors"))
    assert real.status() == ""
    assert real.read(".gitattributes") == b"m.safetensors filter=theta diff=theta merge=theta -text\n"


def test_hooks_of_git_theta_go_and_those_of_others_stay(real):
    real.write(
        ".git/hooks/post-commit", b'#!/bin/sh\n# git-theta post-commit hook that:\n\ngit theta post-commit "$@"\n'
    )
    real.write(".git/hooks/pre-push", b'#!/bin/sh\necho mine\ngit theta pre-push "$@"\n')
    (real.path / ".git/hooks/pre-push").chmod(0o755)

    real.migrate(*IMPORT)

    assert not (real.path / ".git/hooks/post-commit").exists()
    kept = real.read(".git/hooks/pre-push")
    assert b"echo mine" in kept
    assert b'git theta pre-push "$@"' not in kept.replace(b"hook pre-push", b"")


def test_an_object_that_is_not_here_is_named_with_its_tensor(real):
    [path] = [path for path in (real.path / ".git/lfs/objects").rglob("47*6b") if path.is_file()]
    path.unlink()
    before = real.git("for-each-ref")

    done = real.migrate(*IMPORT, check=False)

    assert done.returncode == 2
    assert "tensor 'layer.weight': Git LFS object 474b06365d" in done.stderr
    assert real.git("for-each-ref") == before


def test_files_of_which_something_is_missing_can_be_left_as_they_are(real, theirs):
    dense = real.blob("v1", "m.safetensors")
    whole = dense.replace(b"474b06365d", b"474b06365e")  # names an object that never was
    attributes = b"*.safetensors filter=theta merge=theta diff=theta\n"
    theirs.commit("lost", {".gitattributes": attributes, "lost.safetensors": whole, "lost2.safetensors": whole})

    done = real.migrate(*IMPORT, "--skip-missing")

    assert "left as it is, in all versions: 'lost.safetensors': tensor 'layer.weight'" in done.stderr
    assert real.blob("HEAD", "lost.safetensors") == real.blob("HEAD", "lost2.safetensors") == whole
    assert real.git("check-attr", "filter", "lost2.safetensors").endswith("git-theta")
    assert tensors(real.read("m.safetensors")) == tensors(real.read(".git/expected/v4.safetensors"))
    assert real.status() == ""


def test_a_file_of_another_format_gets_the_name_of_what_it_becomes(real, theirs):
    theirs.git("rm", "-q", "m.safetensors")
    attributes = real.read(".gitattributes").replace(b"m.safetensors", b"model.pt")
    metadata = real.blob("v1", "m.safetensors")  # whole tensors; updates name what they follow by path
    theirs.commit("renamed", {".gitattributes": attributes, "model.pt": metadata})

    real.migrate("import", "--from", "git-theta", "--no-rewrite")

    assert tensors(real.read("model.safetensors")) == tensors(real.read(".git/expected/v1.safetensors"))
    assert not (real.path / "model.pt").exists()
    assert real.status() == ""
    assert real.read(".gitattributes").startswith(b"model.safetensors filter=theta")


def test_what_would_gain_is_listed_as_git_theta(real):
    assert "git-theta  *.safetensors  1      4 " in real.migrate("info", "--above", "1").stdout


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("a/m.pt", "a/m.safetensors"),
        ("m.safetensors", "m.safetensors"),
        ("m.SafeTensors", "m.SafeTensors"),
        ("model", "model.safetensors"),
        ("v1.5", "v1.5.safetensors"),
    ],
)
def test_names_say_what_a_file_is(path, new):
    assert git_theta.new_path(path) == new


@pytest.mark.parametrize(
    "packed",
    [b"", b"\x81", b"\x81\xa1a", b"\x81\xa1a\xc4\x09x", b"\xdf\xff\xff\xff\xff", b"\xc0", b"\x80x", b"\x81\xa1a" * 40],
)
def test_packed_bytes_that_lie_are_refused(packed):
    with pytest.raises(MalformedError):
        msgpack.unpack(packed)


def test_packed_maps_are_read():
    assert msgpack.unpack(b"\x81\xa1a\xde\x00\x02\xd9\x01b\xc4\x02xy\xa1c\x80") == {"a": {"b": b"xy", "c": {}}}


def test_a_new_name_that_another_file_has_is_refused(real, theirs):
    metadata = real.blob("v1", "m.safetensors")
    attributes = real.read(".gitattributes") + b"m.pt filter=theta\n"
    theirs.commit("two", {".gitattributes": attributes, "m.pt": metadata})
    before = real.git("for-each-ref")

    done = real.migrate(*IMPORT, check=False)

    assert done.returncode == 2
    assert "a file would become 'm.safetensors'" in done.stderr
    assert real.git("for-each-ref") == before


def packed(described, chunk=b""):
    """An object with one array, as Git-Theta packs it."""

    def text(value):
        return b"\xd9" + bytes([len(value)]) + value

    def raw(value):
        return b"\xc5" + len(value).to_bytes(2, "big") + value

    files = b"\x82" + text(b".zarray") + raw(described) + text(b"0") + raw(chunk)
    return b"\x81" + text(b"parameter") + files


ARRAY = (
    b'{"dtype": "<f4", "shape": [4], "chunks": [4], "fill_value": null, "filters": null, "order": "C", '
    b'"compressor": {"id": "blosc"}}'
)


@pytest.mark.parametrize(
    "stored",
    [
        packed(ARRAY, b""),
        packed(ARRAY, b"\x02\x01\x01\x04" + (16).to_bytes(4, "little") + bytes(4) + (9999).to_bytes(4, "little")),
        packed(ARRAY, b"\x02\x01\x01\x04" + (1 << 30).to_bytes(4, "little") + bytes(4) + (16).to_bytes(4, "little")),
        packed(ARRAY.replace(b'"chunks": [4]', b'"chunks": [0]')),
        packed(ARRAY.replace(b'"chunks": [4]', b'"chunks": [99999999999]')),
        packed(ARRAY.replace(b'"shape": [4]', b'"shape": [-4]')),
        packed(ARRAY.replace(b"<f4", b"|O")),
        packed(ARRAY.replace(b'"fill_value": null', b'"fill_value": 3')),
        packed(b"{}"),
        packed(b"["),
    ],
)
def test_objects_that_lie_are_refused(real, stored):
    parameter = real.blob("v1", "m.safetensors").decode()
    pointer = real.lfs_pointer(stored).decode().split()
    start = parameter.index('"layer.bias"')
    lying = re.sub('"oid": "[0-9a-f]+"', f'"oid": "{pointer[3].removeprefix("sha256:")}"', parameter[start:], count=1)
    lying = re.sub('"size": "[0-9]+"', f'"size": "{pointer[5]}"', lying, count=1)
    oid = real.run("git", "hash-object", "-w", "--stdin", text=parameter[:start] + lying).stdout.strip()

    with Repository.at(str(real.path)) as repository, open(os.devnull, "wb") as nowhere:
        source = git_theta.source(repository, "m.safetensors", oid)
        with pytest.raises(MalformedError, match="holds no array that Git-Theta writes"):
            source.write_to(nowhere.fileno())
