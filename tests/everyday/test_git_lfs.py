"""What git-lfs has, and what of it is here: the table against the parsers, against git-lfs itself, and in use."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess

import pytest

from gitbridge.cli import git_lfs
from gitbridge.cli.git_lfs import ABSENT, DIFFERS, SAME
from gitbridge.cli.main import COMMANDS as OURS
from gitbridge.cli.main import main
from gitbridge.cli.options import Refused
from gitbridge.cli.parsers import parser_for
from thetastore.command_line import subcommands_of

BY_GIT = {name for name, command in OURS.items() if not command.summary}
TYPED = [one for one in git_lfs.COMMANDS if one.kind != ABSENT and one.name not in BY_GIT]
NOT_HERE = [one for one in git_lfs.COMMANDS if one.kind == ABSENT]
REFUSED = [
    (command.name.split(), option)
    for command in TYPED
    for option in command.options
    if option.kind == ABSENT and option.names
]


def parser_of(name: str) -> argparse.ArgumentParser:
    verb, _, action = name.partition(" ")
    parser = parser_for(verb)
    return subcommands_of(parser)[action][1] if action else parser


@pytest.mark.parametrize("command", TYPED, ids=lambda command: command.name)
def test_what_the_table_says_of_options_the_parsers_do(command: git_lfs.Command) -> None:
    actions = parser_of(command.name)._option_string_actions

    for option in command.options:
        assert option.kind in (SAME, DIFFERS, ABSENT)
        assert set(option.names) <= actions.keys(), f"{option.spellings} is in the table and not in the parser"
        is_refused = {isinstance(actions[name], Refused) for name in option.names}
        assert is_refused <= {option.kind == ABSENT}, f"{option.spellings} is said to be: {option.kind}"
        if option.kind != ABSENT:
            assert len({actions[name].dest for name in option.names}) <= 1, f"{option.spellings} mean different things"
    refused = {name for name, action in actions.items() if isinstance(action, Refused)}
    assert refused == {name for one in command.options if one.kind == ABSENT for name in one.names}


def test_commands_are_here_or_not_as_the_table_says() -> None:
    actions = {f"migrate {name}" for name in subcommands_of(parser_for("migrate"))}

    for command in git_lfs.COMMANDS:
        assert (command.name in OURS or command.name in actions) == (command.kind != ABSENT)


@pytest.mark.parametrize(("words", "option"), REFUSED, ids=lambda one: getattr(one, "spellings", one[0]))
def test_an_option_that_is_not_here_is_refused_with_what_to_do_instead(words, option, capsys) -> None:
    for name in option.names:
        for arguments in ([name], [name, "value"], [f"{name}=value"] if name.startswith("--") else [name]):
            assert main([*words, *arguments]) == 129

            assert capsys.readouterr().err == (
                f"git theta {' '.join(words)}: {name} is not here: {option.words}\nhint: {option.instead}\n"
            )


@pytest.mark.parametrize("command", NOT_HERE, ids=lambda command: command.name)
def test_a_command_that_is_not_here_is_refused_with_what_to_do_instead(command, capsys) -> None:
    assert main([command.name, "--some-option", "file"]) == 129

    error = capsys.readouterr().err
    assert f"'{command.name}' is a command of git-lfs, and not here: {command.words}\n" in error
    assert f"hint: {command.instead}\n" in error
    assert command.instead


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not here")
def test_the_table_has_every_command_and_option_of_the_git_lfs_that_is_installed() -> None:
    def completed(*words: str) -> set[str]:
        done = subprocess.run(["git-lfs", "__complete", *words], capture_output=True, text=True, check=False)
        return {line.split("\t")[0] for line in done.stdout.splitlines() if not line.startswith(":")}

    # `completion` and `help` are of the library that git-lfs parses with; `clone` takes what `git clone` takes.
    names = completed("") - {"help"}
    assert {"fetch", "track"} <= names
    for name in [*sorted(names - {"migrate"}), "migrate import", "migrate export", "migrate info"]:
        command = git_lfs.command_of(name)
        assert command is not None, f"git lfs {name} is not in the table"
        if command.kind != ABSENT and name != "completion":
            known = {spelling for option in command.options for spelling in option.names}
            found = completed(*name.split(), "-") - {"-h", "--help"}
            assert found <= known, f"git lfs {name} has {found - known}"


# In use


def commit_at(work, days_ago: int, **files: bytes) -> None:
    import time

    date = f"{int(time.time()) - days_ago * 86400} +0000"
    for name, content in files.items():
        work.write(name.replace("_", "."), content)
    work.git("add", "-A", ".")
    work.git("commit", "-q", "-m", f"{days_ago} days ago", GIT_COMMITTER_DATE=date, GIT_AUTHOR_DATE=date)


def pointers_of(work, *options: str):
    """A clone without weights, with its own store."""
    source, path = f"file://{work.path.parent}/host.git", work.path.parent / "clone"
    return work.clone(source, path, *options, GIT_THETA_SKIP_SMUDGE="1")


def fetched(clone, *options: str) -> dict:
    return json.loads(clone.theta("fetch", "--json", *options).stdout)


def states(values: dict) -> dict[str, str]:
    return {file["path"]: file["state"] for file in values["files"]}


def test_a_dry_fetch_says_what_would_come_from_where_and_brings_nothing(work) -> None:
    clone = pointers_of(work)

    text, values = clone.theta("fetch", "-n").stdout, fetched(clone, "-d")

    assert "git theta: would fetch what 2 files lack from '../weights'\n" in text
    assert "600 kB  m.safetensors\n" in text
    assert (values["schema"], values["dry_run"], values["stores"]) == (
        1,
        True,
        [{"url": "../weights", "file_count": 2}],
    )
    assert states(values) == dict.fromkeys(["d/n.safetensors", "m.safetensors"], "would be fetched")
    assert not (clone.path / ".git" / "theta" / "packs").exists()


def test_a_fetch_tells_programs_what_came_and_what_is_missing(work) -> None:
    clone = pointers_of(work)

    first, again = fetched(clone), fetched(clone)

    assert first["object_count"] > 0
    assert first["stores"][0]["url"] == "../weights"
    assert first["stores"][0]["stored_bytes"] == first["stored_bytes"] > 500_000
    assert set(states(first).values()) == {"fetched"}
    assert set(states(again).values()) == {"here"}
    assert (again["object_count"], again["stores"]) == (0, [])
    shutil.rmtree(work.path.parent / "weights")
    done = clone.theta("fetch", "--all", "--json", check=False)
    values = json.loads(done.stdout)
    assert (done.returncode, values["missing"]) == (2, ["side.safetensors"])
    assert "there is no store at" in done.stderr


def test_fetch_all_takes_revisions_and_goes_before_what_the_clone_is_set_to_keep(work) -> None:
    clone = pointers_of(work)
    clone.git("config", "theta.fetchExclude", "*")

    assert states(fetched(clone)) == {}
    assert states(fetched(clone, "-a", "origin", "v1", "-n")) == {"m.safetensors": "would be fetched"}
    assert len(fetched(clone, "--all")["files"]) == 3


def test_revisions_are_read_from_standard_input(work) -> None:
    clone = pointers_of(work)

    def run(command: str, lines: str) -> str:
        words = ["git", "theta", command, "origin", "--stdin"]
        done = subprocess.run(words, cwd=clone.path, env=clone.environment, input=lines, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("fetch", "") == "git theta: all weights are in the local store already\n"
    assert "fetched" in run("fetch", "v1\n\norigin/side\n")
    assert run("push", "") == "git theta: nothing to push\n"
    clone.write("m.safetensors", clone.checkpoint("new"))
    clone.git("commit", "-q", "-a", "-m", "new")
    assert "sent" in run("push", "main\n")


def test_recent_branches_are_fetched_too_and_old_ones_are_not(work) -> None:
    for name, days in (("old", 30), ("young", 2)):
        work.git("checkout", "-q", "-b", name, "v1")
        commit_at(work, days + 1, **{f"{name}_safetensors": work.checkpoint(f"{name} before")})
        commit_at(work, days, **{f"{name}_safetensors": work.checkpoint(name)})
    work.git("push", "-q", "origin", "old", "young")
    clone = pointers_of(work)

    recent = [file["path"] for file in fetched(clone, "--recent", "-n")["files"]]
    clone.git("config", "theta.fetchRecentAlways", "true")
    clone.git("config", "theta.fetchRecentCommitsDays", "3")
    before = [file["path"] for file in fetched(clone, "-n")["files"]]
    clone.git("config", "theta.fetchRecentRemoteRefs", "false")

    assert recent.count("young.safetensors") == 1
    assert "old.safetensors" not in recent
    assert before.count("young.safetensors") == 2
    assert "young.safetensors" not in [file["path"] for file in fetched(clone, "-n")["files"]]
    clone.git("config", "theta.fetchRecentRefsDays", "many")
    assert "expected a number of days" in clone.theta("fetch", check=False).stderr


def test_pull_brings_and_fills_only_what_is_asked_for(work) -> None:
    clone = pointers_of(work)

    values = json.loads(clone.theta("pull", "-I", "m.*", "--json").stdout)

    assert clone.read("m.safetensors") == work.v2
    assert clone.read("d/n.safetensors").startswith(b"version ")
    assert values["filled"] == [{"path": "m.safetensors", "size_bytes": len(work.v2)}]
    assert (values["filled_bytes"], values["failed"]) == (len(work.v2), [])
    assert states(values) == {"m.safetensors": "fetched"}
    clone.theta("fetch")
    assert "nothing to fill" in clone.theta("pull", "-X", "d").stdout
    assert clone.read("d/n.safetensors").startswith(b"version ")
    assert clone.theta("pull", "-I", "nothing", check=False).returncode == 2
    clone.theta("pull")
    assert clone.is_whole()


def test_a_push_tells_programs_what_was_sent_and_what_is_missing(work) -> None:
    work.commit("v3", m_safetensors=work.checkpoint("a", "new"))

    would = json.loads(work.theta("push", "-d", "--json").stdout)
    listed = work.theta("push", "--dry-run").stdout
    sent = json.loads(work.theta("push", "--json").stdout)

    assert {file["state"] for file in would["files"]} == {"there", "would be sent"}
    assert listed.splitlines()[1].split()[1:] == ["600", "kB", "m.safetensors"]
    assert [file["path"] for file in sent["files"] if file["state"] == "sent"] == ["m.safetensors"]
    assert (sent["store"], sent["missing"]) == ("../weights", [])
    assert 300_000 < sent["stored_bytes"] < 600_000
    work.commit("v4", m_safetensors=work.checkpoint("lost"))
    shutil.rmtree(work.path / ".git" / "theta")
    done = work.theta("push", "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)["missing"]) == (2, ["m.safetensors"])


def test_push_all_takes_revisions(work) -> None:
    shutil.rmtree(work.path.parent / "weights")
    work.theta("push", "--all", "origin", "side")
    clone = pointers_of(work, "-b", "side")
    clone.git("config", "theta.url", str(work.path.parent / "weights"))

    # The first version of m lies on side as well; the second does not.
    assert fetched(clone, "--all", "origin", "HEAD")["missing"] == []
    assert clone.theta("fetch", "origin", "origin/main", check=False).returncode == 2


def test_each_side_of_a_conflict_is_written_beside_it(work) -> None:
    for branch, seed in (("one", "left"), ("two", "right")):
        work.git("checkout", "-q", "-b", branch, "v1")
        work.commit(branch, m_safetensors=work.checkpoint("a", seed))
    assert work.git("merge", "one", check=False) is not None
    names = {"base": work.v1, "ours": work.checkpoint("a", "right"), "theirs": work.checkpoint("a", "left")}

    for side, content in names.items():
        work.theta("checkout", f"--{side}", "--to", f"../{side}.safetensors", "m.safetensors")
        assert (work.path.parent / f"{side}.safetensors").read_bytes() == content
    values = json.loads(work.theta("checkout", "--ours", "--to", "../o", "--json", "m.safetensors").stdout)
    again = work.theta("checkout", "--ours", "--to", "../ours.safetensors", "m.safetensors", check=False)
    alone = work.theta("checkout", "--ours", "m.safetensors", check=False)
    calm = work.theta("checkout", "--ours", "--to", "../n", "d/../nothing.safetensors", check=False)

    assert values["written"] == {"path": "../o", "size_bytes": len(names["ours"])}
    assert "--force" in again.stderr
    assert "--ours needs --to" in alone.stderr
    assert "is not in conflict" in calm.stderr


def test_checkout_tells_programs_what_was_filled_and_what_came_for_it(work) -> None:
    clone = pointers_of(work)

    values = json.loads(clone.theta("checkout", "--json", "m.safetensors").stdout)

    assert [file["path"] for file in values["filled"]] == ["m.safetensors"]
    assert values["stores"][0]["url"] == "../weights"
    assert values["stored_bytes"] > 500_000
    shutil.rmtree(work.path.parent / "weights")
    done = clone.theta("checkout", "--json", check=False)
    failed = json.loads(done.stdout)["failed"]
    assert (done.returncode, [one["path"] for one in failed]) == (2, ["d/n.safetensors"])
    assert "there is no store at" in failed[0]["error"]


def test_fetch_and_prune_in_one(work) -> None:
    clone = pointers_of(work)
    clone.git("config", "theta.pruneDays", "0")
    clone.theta("fetch", "--all")

    values = fetched(clone, "-p", "--all")
    again = clone.theta("fetch", "--prune").stdout

    assert values["pruned"]["freed_bytes"] > 0
    assert again == "git theta: all weights are in the local store already\nnothing to prune\n"
    assert clone.theta("fetch", "-p", "-n", check=False).returncode == 129


def test_track_names_what_matches_and_a_dry_run_changes_nothing(work) -> None:
    work.write("d/new.bin", b"x" * 300)
    work.write("ignored.bin", b"x" * 300)
    work.write(".gitignore", b"ignored.bin\n")
    before = work.read(".gitattributes")

    dry = work.theta("track", "--dry-run", "*.bin", "d/*.safetensors").stdout
    assert work.read(".gitattributes") == before
    verbose = work.theta("track", "-v", "*.bin").stdout

    assert dry == ("would track '*.bin'\n  d/new.bin\nwould track 'd/*.safetensors'\n  d/n.safetensors\n")
    assert verbose == "tracking '*.bin'\n  d/new.bin\n"
    assert b"*.bin filter=theta" in work.read(".gitattributes")
    listed = json.loads(work.theta("track", "--json").stdout)["patterns"]
    assert listed[-1] == {"pattern": "*.bin", "source": ".gitattributes"}


def test_track_takes_a_name_for_a_name(work) -> None:
    work.theta("track", "--filename", "odd [1]*.x")
    work.write("odd [1]*.x", work.v1)
    work.write("odd 1x.x", work.v1)

    work.git("add", "-A", ".")

    assert work.git("cat-file", "blob", ":odd [1]*.x").startswith("version ")
    assert int(work.git("cat-file", "-s", ":odd 1x.x")) == len(work.v1)
    work.theta("untrack", "odd \\[1\\]\\*.x")
    assert b"odd" not in work.read(".gitattributes")


@pytest.mark.parametrize("scope", [["--worktree"], ["--file", "settings"]], ids=lambda words: words[0])
def test_install_and_uninstall_take_every_scope_that_git_config_has(work, scope: list[str]) -> None:
    before = work.git("config", "--list", "--local")

    work.theta("install", *scope, "--skip-repo")
    where = ["--file", "settings"] if len(scope) == 2 else ["--worktree"]
    assert work.git("config", *where, "filter.theta.required") == "true"
    work.theta("uninstall", *scope, "--skip-repo")

    assert work.git("config", "--list", "--local") == before
    assert work.git("config", *where, "--get", "filter.theta.process", check=False) == ""


def test_hooks_are_left_alone_or_printed_where_that_is_asked_for(work) -> None:
    hooks = work.path / ".git" / "hooks"
    shutil.rmtree(hooks)

    work.theta("install", "--skip-repo")
    manual = work.theta("install", "--manual").stdout

    assert not hooks.exists()
    assert f"in '{hooks}/pre-push'" in manual
    assert "  theta_refs=$(cat; echo .)" in manual
    work.theta("install")
    assert (hooks / "pre-push").exists()
    assert "hooks: all are in place" in work.theta("install", "-m").stdout
    assert "hooks" in work.theta("uninstall", "--local").stdout


def test_ls_files_lists_what_a_second_revision_has_anew(work) -> None:
    def listed(*options: str) -> list[str]:
        return work.theta("ls-files", "-n", *options).stdout.split()

    assert listed("v1", "v2") == ["d/n.safetensors", "m.safetensors"]
    assert listed("v1", "v2", "--", "d") == ["d/n.safetensors"]
    assert listed("v1", "side", "-X", "m.*") == ["side.safetensors"]
    assert listed("--deleted", "v1") == ["m.safetensors"]
    assert work.theta("ls-files", "--all", "v1", "v2", check=False).returncode == 2


def test_words_of_git_lfs_that_change_nothing_are_taken(work) -> None:
    work.theta("prune", "-c", "--verify-unreachable", "-d")
    assert "no problems (read and decoded everything" in work.theta("fsck", "--objects", "-d").stderr
    work.theta("track", "--no-excluded", "--not-lockable")
    work.theta("migrate", "info", "--everything", "--skip-fetch")

    assert work.theta("fsck", "--dry-run", "--repair", check=False).returncode == 129
    assert "git theta ls-files v1 says" in work.theta("fsck", "v1", check=False).stderr
