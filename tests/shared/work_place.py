"""A directory, and programs to run in it as somebody would who has git theta installed and nothing else configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = os.path.dirname(sys.executable)
_CONFIG = (
    "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n"
    '[advice]\n\tdetachedHead = false\n[protocol "file"]\n\tallow = always\n'
)


def environment_in(home: Path, more_config: str = "") -> dict[str, str]:
    """Make a home where git theta is installed; return what git may know: nothing of the user or the machine."""
    (home / "gitconfig").write_text(_CONFIG + more_config)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    kept |= {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / "gitconfig")}
    kept |= {"GIT_EDITOR": "true", "LC_ALL": "C.UTF-8", "PATH": PROGRAMS + os.pathsep + os.environ["PATH"]}
    subprocess.run(["git", "theta", "install"], cwd=home, env=kept, check=True, capture_output=True)
    return kept


class WorkPlace:
    """A directory, and programs to run in it."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = environment

    def run(self, *command: str, check: bool = True, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            input=text,
            cwd=self.path,
            env={**self.environment, **more},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def git(self, *args: str, **more: str) -> str:
        """Run git, which must succeed; return its output."""
        return self.run("git", *args, **more).stdout.rstrip("\n")

    def theta(self, *args: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("git", "theta", *args, check=check, **more)

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def status(self) -> str:
        return self.git("status", "--porcelain")
