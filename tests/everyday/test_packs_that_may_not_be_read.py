"""A pack of a store, here or where others push to, that may not be read: each command names it, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from permissions import WITHOUT_PRIVILEGE

COMMANDS = {
    "checkout": (["git", "checkout", "-q", "v1"], 128),
    "fsck": (["git", "theta", "fsck"], 1),
    "repair": (["git", "theta", "fsck", "--repair"], 2),
    "repack": (["git", "theta", "repack"], 2),
    "prune": (["git", "theta", "prune"], 2),
}
FAR_COMMANDS = {
    "fetch": (["git", "theta", "fetch", "--all"], 2),
    "fsck": (["git", "theta", "fsck", "--remote", "origin"], 1),
    "gc": (["git", "theta", "gc", "--remote", "origin"], 2),
}


def check_names_what_it_may_not_read(place, command: list[str], status: int, packs: list[Path]) -> None:
    for pack in packs:
        pack.chmod(0)

    done = place.run(*WITHOUT_PRIVILEGE, *command, check=False)

    told = done.stdout + done.stderr
    assert done.returncode == status, told
    assert any(pack.name in told for pack in packs), told
    assert "Permission denied" in told
    assert "Traceback" not in told
    assert status == 1 or "chmod +r" in told
    for pack in packs:
        pack.chmod(0o644)


def packs_in(store: Path) -> list[Path]:
    return sorted((store / "packs").glob("*.pack"))


@pytest.mark.parametrize("name", COMMANDS)
def test_of_the_local_store(work, name):
    command, status = COMMANDS[name]
    packs = packs_in(work.path / ".git" / "theta")

    check_names_what_it_may_not_read(work, command, status, packs)

    assert packs_in(work.path / ".git" / "theta") == packs
    work.git("checkout", "-q", "-f", "v1")
    assert work.is_whole()
    work.theta("fsck", "--level", "raw")


@pytest.mark.parametrize("name", FAR_COMMANDS)
def test_of_a_directory_that_people_push_to(work, name, tmp_path):
    command, status = FAR_COMMANDS[name]
    packs = packs_in(tmp_path / "weights")
    clone = work.at(tmp_path).clone("host.git", tmp_path / "clone", GIT_THETA_SKIP_SMUDGE="1")
    clone.theta("fetch", check=False)

    check_names_what_it_may_not_read(clone, command, status, packs)

    assert packs_in(tmp_path / "weights") == packs
    clone.theta("fetch", "--all")
    clone.git("checkout", "-q", "-f", "v1")
    assert clone.is_whole()
    clone.theta("fsck", "--remote", "origin", "--level", "raw")
