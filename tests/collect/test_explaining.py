"""`gc --explain`: what a digest is of that somebody saw somewhere, and what needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.cli.main import main
from thetastore.collecting.roots import roots_of
from thetastore.digest import Kind
from thetastore.store import Store


def explain_command(root: Path, digits: str, capsys) -> tuple[int, str]:
    status = main(["gc", "--explain", digits, str(root)])
    done = capsys.readouterr()
    return status, done.out + done.err


@pytest.mark.parametrize("digits", [8, 64])
def test_any_digest_that_is_printed_is_explained_by_the_digits_that_it_begins_with(tmp_path, capsys, digits) -> None:
    arrays = {"w": np.arange(1 << 20, dtype="i4"), "b": np.arange(8, dtype="i4")}
    (tmp_path / "m.safetensors").write_bytes(safetensors_bytes(arrays))
    root = tmp_path / "zoo"
    assert main(["init", str(root)]) == main(["put", f"{root}/kept", str(tmp_path / "m.safetensors")]) == 0
    with Store.open(str(root)) as store:
        (named,) = roots_of(store.backend)
        manifest = store.get_manifest(named.manifest_digest)
    tensors = {tensor.name: str(tensor.digest) for tensor in manifest.tensors}
    file = f"the file {str(manifest.file_digest)[:16]}… (manifest {str(named.manifest_digest)[:16]}…)"
    capsys.readouterr()

    told = {
        f"is tensor 'w' of {file}\nis made of 4 objects\n": tensors["w"],
        f"is tensor 'b' of {file}\nlies in packs/": tensors["b"],
        f"is chunk of tensor 'w' of {file}\n": str(manifest.chunks[2].digest),
        f"is the file of manifest {str(named.manifest_digest)[:16]}…\nis made of ": str(manifest.file_digest),
        f"is manifest of the file {str(manifest.file_digest)[:16]}…\n": str(named.manifest_digest),
    }
    for words, digest in told.items():
        status, out = explain_command(root, digest[:digits], capsys)
        assert (status, digest in out, words in out) == (0, True, True), out
        assert "is needed by refs/models/kept/000000000001" in out
    assert explain_command(root, tensors["w"][:16] + "…", capsys)[0] == 0


def test_digits_that_several_digests_begin_with_or_none_are_refused(tmp_path, capsys) -> None:
    root = tmp_path / "zoo"
    with Store.open(str(root), create=True) as store:
        put = [store.objects.put(Kind.CHUNK, number.to_bytes(4, "little")) for number in range(2000)]
    by_digits: dict[str, list[str]] = {}
    for digest in map(str, put):
        by_digits.setdefault(digest[:4], []).append(digest)
    digits = next(digits for digits, some in by_digits.items() if len(some) == 2)

    status, out = explain_command(root, digits, capsys)
    assert status == 2
    assert f"2 digests begin with '{digits}', more digits are needed: " in out
    assert explain_command(root, by_digits[digits][0], capsys)[0] == 0
    status, out = explain_command(root, next(d for d in ("0000", "1111", "2222") if d not in by_digits), capsys)
    assert (status, "has a digest that begins with" in out) == (1, True)
    assert "is no digest, expected 4 to 64 hexadecimal digits" in explain_command(root, "xyz1", capsys)[1]
