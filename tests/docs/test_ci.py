"""The action, the hook for pre-commit and the scripts behind them do what docs/how-to/ci.md says, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkpoints import safetensors_bytes

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())


def checkpoint(value: float) -> bytes:
    weights = np.random.default_rng(1).standard_normal((256, 100)).astype(np.float32)
    return safetensors_bytes({"w": weights, "v": np.full(300, value, np.float32)})


class Project:
    """A clone as a CI has it, of a project with a store beside it, and a branch `topic` that brings a NaN."""

    def __init__(self, top: Path) -> None:
        home = top / "home"
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_", "XDG_"))}
        self.env = kept | {"HOME": str(home), "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
        self.path = top
        config = "[user]\n  name = T\n  email = t@example.org\n[init]\n  defaultBranch = main\n"
        (home / ".gitconfig").write_text(config)
        self.run("git theta install && git init -q work && git init -q --bare host.git")
        self.path = top / "work"
        self.run("git theta track '*.safetensors' && git config -f .thetaconfig theta.url ../weights")
        self.commit(checkpoint(1))
        self.run("git switch -q -c topic")
        self.commit(checkpoint(float("nan")))
        self.run("git push -q ../host.git main topic && cd .. && rm home/.gitconfig")
        (home / ".gitconfig").write_text(config)  # a runner has not seen git theta before
        self.run("git clone -q -b topic ../host.git ../ci")
        self.path = top / "ci"

    def commit(self, content: bytes) -> None:
        (self.path / "m.safetensors").write_bytes(content)
        self.run("git add . && git commit -q -m 'a version'")

    def run(self, script: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.path, env=self.env | more, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def step(name: str) -> dict[str, object]:
    return next(one for one in ACTION["runs"]["steps"] if one["name"] == name)


def run_step(project: Project, name: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action as a runner would: its own variables, those of the runner, and the script."""
    environment = {"GITHUB_ACTION_PATH": str(ROOT), "GITHUB_ACTIONS": "true"} | more
    inputs = {key: str(one["default"]) for key, one in ACTION["inputs"].items()}
    for key, value in dict(step(name).get("env", {})).items():  # type: ignore[call-overload]
        of_input = re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", str(value))
        environment.setdefault(key, inputs[of_input[1]] if of_input else "")
    return project.run(str(step(name)["run"]), check=check, **environment)


def test_the_action_finds_what_a_pull_request_brings(project: Project) -> None:
    done = run_step(project, "Check", check=False, GITHUB_BASE_REF="main")

    assert done.returncode == 1
    assert done.stdout.startswith("::error file=m.safetensors,title=git theta check%3A not-finite::m.safetensors//v: ")
    assert done.stderr.endswith("1 problem (1 file, numbers of 1 tensor read)\n")


def test_the_action_takes_options_as_a_shell_does(project: Project) -> None:
    options = "--allow 'not-finite:*//v' --max-size 1m"

    done = run_step(project, "Check", GITHUB_BASE_REF="main", OPTIONS=options)

    assert done.stdout == ""


def test_after_a_push_what_the_branch_was_before_counts_as_known(project: Project) -> None:
    before = project.run("git rev-parse HEAD").stdout.strip()
    new_branch = "0" * 40

    assert run_step(project, "Check", GITHUB_EVENT_BEFORE=before).stdout == ""
    assert run_step(project, "Check", check=False, GITHUB_EVENT_BEFORE=new_branch).returncode == 1


def test_a_base_that_a_shallow_clone_lacks_is_told_and_everything_is_looked_at(project: Project) -> None:
    project.run("git clone -q --depth 1 -b topic file://$PWD/../host.git ../shallow")
    project.path = project.path.parent / "shallow"

    done = run_step(project, "Check", check=False, GITHUB_BASE_REF="main")

    assert done.returncode == 1
    assert "check out with fetch-depth: 0" in done.stderr
    assert "numbers of 2 tensors read" in done.stderr


def test_the_key_of_the_cache_changes_with_the_weights_and_with_nothing_else(project: Project, tmp_path: Path) -> None:
    output = tmp_path / "output"

    def key() -> str:
        output.write_text("")
        run_step(project, "Name the cache", GITHUB_OUTPUT=str(output))
        return output.read_text()

    first = key()
    project.run("echo text >README && git add README && git commit -q -m text")
    second = key()
    project.run("git checkout -q origin/main")

    assert re.fullmatch(r"key=theta-[0-9a-f]{40}\n", first)
    assert second == first
    assert key() != first
    assert step("Keep the store between runs")["with"]["path"] == ".git/theta"  # type: ignore[index]


def test_a_restored_cache_of_an_older_commit_is_enough_for_all_that_did_not_change(project: Project) -> None:
    project.run("git -C ../ci checkout -q origin/main && git theta fetch -q && cp -r .git/theta ../cache")
    project.run("git clone -q -b topic ../host.git ../later && cp -r ../cache ../later/.git/theta")
    project.path = project.path.parent / "later"

    done = project.run("git theta fetch")
    said = done.stdout + done.stderr

    assert re.search(r"fetched [123] objects", said), said


def test_the_action_fills_the_files_where_it_is_asked_to(project: Project) -> None:
    run_step(project, "Fill the files")

    assert step("Fill the files")["if"] == "inputs.pull == 'true'"
    assert (project.path / "m.safetensors").read_bytes() == checkpoint(float("nan"))


def test_the_hook_of_pre_commit_refuses_a_commit_and_says_why(project: Project) -> None:
    hook = HOOK | {"language": "system"}
    config = {"repos": [{"repo": "local", "hooks": [hook]}]}
    (project.path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    project.run("git theta install && git theta pull && git add . && pre-commit install && git commit -q -m config")
    (project.path / "bad.safetensors").write_bytes(checkpoint(float("inf")))

    done = project.run("git add . && git commit -q -m bad", check=False)
    unstaged = project.run("git rm -q --cached bad.safetensors && echo x >x && git add x && git commit -q -m fine")

    assert done.returncode == 1
    assert "not-finite: bad.safetensors//v: 300 infinite among 300 elements" in done.stderr + done.stdout
    assert "Passed" in unstaged.stderr + unstaged.stdout
    assert (project.path / "bad.safetensors").read_bytes() == checkpoint(float("inf"))


def test_weights_that_are_changed_and_not_staged_survive_what_pre_commit_does_with_them(project: Project) -> None:
    hook = HOOK | {"language": "system"}
    (project.path / ".pre-commit-config.yaml").write_text(
        yaml.safe_dump({"repos": [{"repo": "local", "hooks": [hook]}]})
    )
    project.run("git theta install && git theta pull && git add . && pre-commit install && git commit -q -m config")
    (project.path / "m.safetensors").write_bytes(checkpoint(3))

    done = project.run("echo x >x && git add x && git commit -q -m 'something else'")

    assert "Stashing unstaged files" in done.stderr + done.stdout
    assert (project.path / "m.safetensors").read_bytes() == checkpoint(3)
    assert project.run("git status --short").stdout == " M m.safetensors\n"


@pytest.mark.deep
def test_pre_commit_installs_the_hook_from_the_repository_and_runs_it(project: Project) -> None:
    project.run("git theta install && git theta pull")
    (project.path / "bad.safetensors").write_bytes(checkpoint(float("inf")))
    project.run("git add .")

    done = project.run(f"pre-commit try-repo {ROOT} git-theta-check --verbose", check=False)

    assert "not-finite: bad.safetensors//v" in done.stdout, done.stdout + done.stderr


@pytest.mark.deep
def test_the_action_installs_git_theta(project: Project, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"

    run_step(project, "Install git theta", PATH=path)

    assert project.run("command -v git-theta", PATH=path).stdout == f"{tmp_path / 'venv' / 'bin' / 'git-theta'}\n"
