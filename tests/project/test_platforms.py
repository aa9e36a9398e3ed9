"""What docs/platforms.md says of macOS: no call that only Linux has is made without something in its place."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from checkpoints import safetensors_bytes
from pages import small_model

ROOT = Path(__file__).parents[2]
MODULES = [path for package in ("thetastore", "gitbridge", "migrations") for path in (ROOT / package).rglob("*.py")]
LINUX_ONLY = {
    "F_OFD_SETLK", "MADV_HUGEPAGE", "MAP_POPULATE", "MFD_CLOEXEC", "O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE",
    "copy_file_range", "epoll", "eventfd", "fdatasync", "getrandom", "getxattr", "listxattr", "memfd_create",
    "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate", "prctl", "sched_getaffinity", "sched_setaffinity",
    "sendfile64", "setxattr", "splice", "sync_file_range", "unshare",
}  # fmt: skip
AS_ELSEWHERE = """\
import builtins, os
del os.sched_getaffinity, os.fdatasync
def without_proc(function):
    def opened(path, *args, **kwargs):
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)
    return opened
builtins.open, os.open, os.listdir, os.scandir = map(without_proc, (open, os.open, os.listdir, os.scandir))
"""


def test_names_that_only_linux_has_are_used_where_something_else_is_done_without_them() -> None:
    guarded: set[ast.AST] = set()
    found = {}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Try) and any("AttributeError" in ast.unparse(h) for h in node.handlers):
                guarded.update(ast.walk(node))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in LINUX_ONLY and node not in guarded:
                found[f"{path.relative_to(ROOT)}:{node.lineno}"] = node.attr

    assert not found


def test_everyday_work_is_done_without_proc_and_without_what_only_linux_has(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text(AS_ELSEWHERE)
    (tmp_path / "m.safetensors").write_bytes(small_model())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    env = kept | {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "lib"), "GIT_CONFIG_NOSYSTEM": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = """
        set -e
        git config --global user.name T; git config --global user.email t@example.org
        git theta install; git init -q --bare host.git; git init -q work; cd work
        git theta track '*.safetensors'; git config -f .thetaconfig theta.url ../weights
        cp ../m.safetensors .; git add .; git commit -qm one; git tag one
        cp ../n.safetensors m.safetensors; git commit -qam two; git remote add origin ../host.git
        git push -q origin HEAD --tags; cd ..; git clone -q host.git clone; cd clone
        cmp m.safetensors ../n.safetensors; git checkout -q one; cmp m.safetensors ../m.safetensors
        git theta doctor; git theta status; git archive one m.safetensors | tar -x -O | cmp - ../m.safetensors
    """
    import numpy as np

    other = {"w": np.random.default_rng(2).standard_normal((500, 300)).astype(np.float32)}
    (tmp_path / "n.safetensors").write_bytes(safetensors_bytes(other))

    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
