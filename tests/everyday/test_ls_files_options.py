"""The options that `ls-files` shares with git-lfs, and paths that are none of the repository's."""

from __future__ import annotations

import json

import pytest


def listed(work, *options: str) -> list[str]:
    return work.theta("ls-files", *options).stdout.splitlines()


def test_include_and_exclude_choose_files(work) -> None:
    assert listed(work, "-n", "-I", "d") == ["d/n.safetensors"]
    assert listed(work, "-n", "--include", "*.gguf,m.*") == ["m.safetensors"]
    assert listed(work, "-n", "-X", "d/*") == ["m.safetensors"]
    assert listed(work, "-n", "-I", "*.safetensors", "--exclude", "m.safetensors") == ["d/n.safetensors"]
    assert listed(work, "-n", "-I", "nothing") == []


def test_long_shows_whole_digests_and_size_shows_sizes_beside_names(work) -> None:
    files = json.loads(work.theta("ls-files", "--json").stdout)["files"]

    long, tensors = listed(work, "-l"), listed(work, "--tensors", "-l")

    assert [line.split()[0] for line in long] == [file["digest"] for file in files]
    assert tensors[0].endswith(files[0]["digest"])
    assert len(tensors[1].split()[-2]) == 64
    assert listed(work, "-n", "-s") == ["d/n.safetensors (600 kB)", "m.safetensors (600 kB)"]


def test_all_lists_every_version_that_the_history_has_with_what_tells_them_apart(work) -> None:
    every = listed(work, "--all")
    of_revision = listed(work, "-a", "v1")

    # The file at d/n is the first version of the one at m: a version is listed once, by one of its paths.
    assert len(every) == 3
    assert sorted(line.split()[-1] for line in every)[1:] == ["m.safetensors", "side.safetensors"]
    assert len({line.split()[0] for line in every}) == 3
    assert len(of_revision) == 1
    assert of_revision[0] in every or of_revision[0].split()[0] in {line.split()[0] for line in every}


@pytest.mark.parametrize(
    "command", [["ls"], ["ls-files"], ["show"], ["checkout"], ["log"], ["blame"], ["cat"]], ids=lambda words: words[0]
)
def test_a_path_outside_of_the_repository_is_told_from_one_that_is_not_tracked(work, command: list[str]) -> None:
    (work.path.parent / "m.safetensors").write_bytes(work.v1)

    done = work.theta(*command, "../m.safetensors", check=False)

    assert done.returncode == 2
    assert f"'../m.safetensors' is outside of this repository, whose files are in '{work.path}'" in done.stderr


def test_the_version_is_told_to_programs() -> None:
    import subprocess
    import sys
    from pathlib import Path

    def run(program: str, *words: str) -> str:
        done = subprocess.run([Path(sys.executable).parent / program, *words], capture_output=True, check=True)
        return done.stdout.decode()

    for program in ("git-theta", "thetastore"):
        number = run(program, "--version").split()[1]
        values = json.loads(run(program, "version", "--json"))
        assert (values["schema"], values["version"]) == (1, number)
