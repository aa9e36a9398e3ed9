"""`git theta doctor` finds what is wrong, and what it says mends it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest


def findings(place, *levels: str, **environment: str) -> list[dict[str, str]]:
    done = place.theta("doctor", "--json", check=False, **environment)
    values = json.loads(done.stdout)
    assert values["schema"] == 1
    assert done.returncode == any(one["level"] == "problem" for one in values["findings"])
    return [one for one in values["findings"] if one["level"] in (levels or ("problem", "note"))]


def test_a_healthy_project_has_no_problems_and_no_notes(work) -> None:
    assert findings(work) == []

    done = work.theta("doctor")

    assert done.stdout.endswith("\nno problems\n")
    assert "2 tracked files, all weights are here" in done.stdout
    assert work.theta("doctor", "-q").stdout == ""


def test_outside_of_a_repository_the_installation_is_looked_at(place) -> None:
    assert [one["check"] for one in findings(place)] == ["repository"]


def test_where_nothing_is_installed_that_is_said(place) -> None:
    place.git("init", "-q")
    place.write("empty", b"")

    found = findings(place, "problem", GIT_CONFIG_GLOBAL=str(place.path / "empty"))

    assert (found[0]["check"], found[0]["mend"]) == ("filter", "git theta install")


BREAK_AND_MEND = {
    "no hook": ("hooks", "rm .git/hooks/pre-push"),
    "half an attribute": ("attributes", "echo '*.safetensors filter=theta' > .gitattributes"),
    "attributes that are not added": ("attributes", "git rm -q --cached .gitattributes"),
    "a committed file that is not added": ("committed", "git rm -q --cached .thetaconfig"),
    "a filter of another kind": ("filter", "git config filter.theta.required false"),
    "a word that is no truth": ("settings", "git config theta.allowPart perhaps"),
    "a plain file of a teammate": (
        "plain-files",
        "cp m.safetensors p.safetensors; git -c filter.theta.process= -c filter.theta.clean=cat "
        "-c filter.theta.required=false add p.safetensors && git commit -qm plain",
    ),
    "a pointer that nothing tracks": ("attributes", "git cat-file blob HEAD:m.safetensors > x.t; git add x.t"),
    "weights that are in no store": (
        "weights",
        "rm -rf ../weights/packs ../weights/index .git/theta/packs .git/theta/index",
    ),
}


@pytest.mark.parametrize("name", BREAK_AND_MEND)
def test_what_is_said_to_mend_a_problem_mends_it(work, name: str) -> None:
    check, damage = BREAK_AND_MEND[name]
    work.run("sh", "-ec", damage)

    found = findings(work, "problem")
    assert [one["check"] for one in found] == [check]
    mend = found[0]["mend"].partition(" (")[0]
    work.run("sh", "-ec", mend, GIT_EDITOR="echo mended >")

    assert findings(work, "problem") == []


NOTES = {
    "a near name": ("settings", "git config theta.ulr x", "did you mean theta.url"),
    "a near name in the committed file": ("committed", "git config -f .thetaconfig theta.storage /x", "theta.storage"),
    "a large file": ("large-files", "head -c 11000000 /dev/zero > big.pt", "big.pt (11.0 MB)"),
    "a large file in git": ("large-files", "head -c 11000000 /dev/zero > b.pt; git add b.pt", "b.pt (11.0 MB)"),
    "pointers left": ("weights", "git cat-file blob HEAD:m.safetensors > m.safetensors", "m.safetensors"),
    "not pushed": (
        "unpushed",
        "cat a.txt m.safetensors > new.safetensors; git add new.safetensors",
        "new.safetensors",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_may_be_as_it_is_meant_is_a_note(work, name: str) -> None:
    check, change, words = NOTES[name]
    work.run("sh", "-ec", change)

    found = findings(work, "note")

    assert [one["check"] for one in found] == [check]
    assert words in found[0]["message"]
    assert findings(work, "problem") == []


def test_clones_that_would_look_in_another_store_are_a_note(work) -> None:
    work.run("sh", "-ec", 'cp -R "$(git config -f .thetaconfig theta.url)" ../copy && git config theta.url ../copy')

    found = findings(work, "note")

    assert [one["check"] for one in found] == ["committed"]
    assert "'../copy'" in found[0]["message"]
    work.run("sh", "-ec", found[0]["mend"])
    assert findings(work, "note") == []


def test_a_large_file_that_is_ignored_or_left_to_lfs_is_none_of_our_business(work) -> None:
    work.run("sh", "-ec", "head -c 11000000 /dev/zero | tee x.pt > y.bin")
    work.write(".gitignore", b"*.pt\n")
    work.write(".gitattributes", work.read(".gitattributes") + b"*.bin filter=lfs\n")

    assert findings(work, "note") == []


def test_a_program_that_is_gone_is_named(work) -> None:
    work.git("config", "filter.theta.process", "/nowhere/git-theta filter-process")

    found = findings(work, "problem")

    assert found[0]["check"] == "program"
    assert "/nowhere/git-theta" in found[0]["message"]


def test_a_variable_that_means_nothing_is_named(work) -> None:
    found = findings(work, "note", GIT_THETA_SKIP_SMUGE="1")

    assert found[0]["message"] == "the variable GIT_THETA_SKIP_SMUGE means nothing; did you mean GIT_THETA_SKIP_SMUDGE"


def test_a_damaged_local_store_is_mended_as_is_said(work) -> None:
    pack = next((work.path / ".git" / "theta" / "packs").glob("*"))
    raw = bytearray(pack.read_bytes())
    raw[40:60] = bytes(20)
    pack.chmod(0o644)
    pack.write_bytes(raw)

    found = [one for one in findings(work, "problem") if one["check"] == "local-store"]
    work.run("sh", "-c", found[0]["mend"], check=False)

    assert [one for one in findings(work, "problem") if one["check"] == "local-store"] == []


def test_an_object_that_a_checkout_could_not_read_is_named_until_it_is_back(work) -> None:
    for pack in (work.path / ".git" / "theta" / "packs").glob("*"):
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 255
        pack.chmod(0o644)
        pack.write_bytes(raw)

    def said() -> list[str]:
        return [one["mend"] for one in findings(work, "problem") if one["check"] == "local-store"]

    assert said() == [], "it does not read everything"
    tried = [work.run("git", "checkout", "-q", "-f", name, check=False).returncode for name in ("side", "v1", "main")]
    assert any(tried), "damage that nobody met"
    assert said() == ["git theta fsck --repair"]
    work.theta("fsck", "--repair")
    assert said() == []


def test_a_store_that_is_gone_is_a_problem_and_what_is_said_mends_it(work) -> None:
    shutil.rmtree(work.path.parent / "weights")

    found = findings(work, "problem")

    assert [one["check"] for one in found] == ["remote-store"]
    assert "'../weights' (from .thetaconfig) is gone, and 'origin' has commits" in found[0]["message"]
    work.run("sh", "-ec", found[0]["mend"].rpartition(": ")[2])
    assert findings(work) == []
    assert work.clone("../host.git", work.path.parent / "clone").is_whole()


def test_a_store_that_is_yet_to_be_made_is_a_note(work) -> None:
    shutil.rmtree(work.path.parent / "weights")
    work.git("remote", "remove", "origin")
    work.git("remote", "add", "origin", "../host.git")

    found = findings(work)

    assert ("remote-store", "note") in [(one["check"], one["level"]) for one in found]
    assert "the first push makes it" in " ".join(one["message"] for one in found)


def test_nothing_is_changed_by_looking(work) -> None:
    def everything() -> str:
        files = subprocess.run(
            ["find", ".", "-type", "f", "-not", "-name", "index", "-exec", "sha1sum", "{}", "+"],
            cwd=work.path,
            capture_output=True,
            text=True,
            check=True,
        )
        return files.stdout

    before = everything()
    work.theta("doctor")

    assert everything() == before


@pytest.mark.parametrize("damage", ["git rm -q --cached .gitattributes", "git rm -q --cached .thetaconfig"])
def test_what_is_said_can_be_pasted_in_any_directory_of_the_work_tree(work, damage: str) -> None:
    work.run("sh", "-ec", damage)
    below = work.at(work.path / "d")

    mend = findings(below, "problem")[0]["mend"]
    below.run("sh", "-ec", mend)

    assert findings(below, "problem") == []


@pytest.mark.parametrize("kind", ["bare", "worktree", "without a commit", "separate git directory"])
def test_a_repository_of_any_kind_is_looked_at(work, kind: str) -> None:
    top = work.path.parent
    command = {
        "bare": ("clone", "-q", "--bare", str(top / "host.git"), str(top / "new")),
        "worktree": ("worktree", "add", "-q", str(top / "new"), "side"),
        "without a commit": ("init", "-q", str(top / "new")),
        "separate git directory": (
            "clone",
            "-q",
            f"--separate-git-dir={top}/g",
            str(top / "host.git"),
            str(top / "new"),
        ),
    }[kind]
    work.git(*command)
    new = work.at(top / "new")

    assert findings(new, "problem") == []
    assert "no problems" in new.theta("doctor").stdout
