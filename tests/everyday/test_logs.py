"""`git theta logs` and `env`."""

from __future__ import annotations

import json


def fail_as_it_must_not(work) -> None:
    program = (
        "import sys; from gitbridge.cli import main, about; about.version = None; sys.exit(main.main(['version']))"
    )
    import sys

    done = work.run(sys.executable, "-c", program, check=False)
    assert done.returncode == 2
    assert "this is a bug in git theta" in done.stderr


def test_what_failed_is_listed_shown_and_deleted(work) -> None:
    assert work.theta("logs").stdout == ""
    assert "there is no log" in work.theta("logs", "last", check=False).stderr
    fail_as_it_must_not(work)

    name = work.theta("logs").stdout.split()[-1]

    assert "TypeError" in work.theta("logs", "last").stdout
    assert work.theta("logs", "show", name).stdout == work.theta("logs", "last").stdout
    assert work.theta("logs", "show", "../../config", check=False).returncode == 2
    assert work.theta("logs", "shwo", check=False).returncode == 129
    work.theta("logs", "clear")
    assert work.theta("logs").stdout == ""


def test_env_says_what_is_set_and_never_what_opens_a_store(work) -> None:
    work.git("config", "theta.s3://team.secret", "hunter2")
    work.git("config", "theta.skipSmudge", "false")

    done = work.theta("env", GIT_THETA_PROGRESS="none", THETASTORE_OPTIONS='{"s3://team": {"secret": "hunter2"}}')
    rows = json.loads(work.theta("env", "--json").stdout)["rows"]

    assert "hunter2" not in done.stdout
    assert "GIT_THETA_PROGRESS" in done.stdout
    assert {"name": "theta.skipsmudge", "value": "false"} in rows
    assert {"name": "theta.s3://team.secret", "value": "(set)"} in rows


def test_a_near_path_is_named(work) -> None:
    done = work.theta("ls-files", "--", "m.safetensor", check=False)

    assert done.returncode == 2
    assert "hint: did you mean 'm.safetensors'" in done.stderr
