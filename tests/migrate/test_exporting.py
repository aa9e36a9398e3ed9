"""The way out: histories back in plain git or in Git LFS, byte for byte."""

from __future__ import annotations

import hashlib

import pytest

IMPORT = ("import", "--from", "git", "--include", "*.safetensors", "--everything", "--yes")


def test_a_history_that_came_in_goes_out_as_it_was(plain):
    before = plain.git("for-each-ref", "refs/heads", "refs/tags")
    plain.migrate(*IMPORT)

    plain.migrate("export", "--everything", "--yes")

    assert plain.git("for-each-ref", "refs/heads", "refs/tags") == before
    assert plain.status() == ""
    assert plain.read("m.safetensors") == plain.weights(1, 5)


def test_a_history_goes_out_to_git_lfs(plain):
    plain.migrate(*IMPORT)

    plain.migrate("export", "--to", "lfs", "--everything", "--yes")

    for revision, content in (("first", plain.weights(1, 2)), ("main", plain.weights(1, 5))):
        oid = hashlib.sha256(content).hexdigest()
        expected = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
        assert plain.blob(revision, "m.safetensors") == expected
        assert plain.read(f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}") == content
    assert plain.read(".gitattributes") == b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def test_git_lfs_and_back_is_the_same_history(lfs):
    before = lfs.git("for-each-ref", "refs/heads", "refs/tags")
    lfs.migrate("import", "--from", "lfs", "--everything", "--yes")

    lfs.migrate("export", "--to", "lfs", "--everything", "--yes")

    assert lfs.git("for-each-ref", "refs/heads", "refs/tags") == before


def test_one_pattern_goes_out_and_the_rest_stays(plain):
    plain.migrate(*IMPORT)

    plain.migrate("export", "--include", "s.*", "--everything", "--yes")

    assert plain.blob("main", "s.safetensors") == plain.weights(4)
    assert plain.bytes_at("main", "m.safetensors") == plain.weights(1, 5)
    assert plain.git("check-attr", "filter", "s.safetensors") == "s.safetensors: filter: unspecified"
    assert plain.status() == ""


@pytest.mark.parametrize("target", ["git", "lfs"])
def test_no_rewrite_adds_a_commit(plain, target):
    plain.migrate(*IMPORT)
    before = plain.git("rev-parse", "HEAD")

    plain.migrate("export", "--to", target, "--no-rewrite")

    assert plain.git("rev-parse", "HEAD^") == before
    assert not plain.blob("HEAD", "m.safetensors").startswith(b"version https://pypi")
    assert plain.bytes_at("HEAD^", "m.safetensors") == plain.weights(1, 5)


def test_weights_that_are_in_no_store_stop_it(plain):
    plain.migrate(*IMPORT)
    before = plain.git("for-each-ref")
    plain.run("rm", "-r", ".git/theta")

    done = plain.migrate("export", "--everything", "--yes", check=False)

    assert done.returncode == 2
    assert "are missing" in done.stderr
    assert plain.git("for-each-ref") == before


def test_without_pointers_there_is_nothing_to_do(plain):
    assert "no pointers to export" in plain.migrate("export", "--yes").stdout
