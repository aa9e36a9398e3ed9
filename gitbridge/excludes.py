"""What git must not take for files of the user, by `info/exclude`: it is not committed, and no one else sees it."""

from __future__ import annotations

import os


def exclude(common_dir: str, pattern: bytes) -> None:
    """Have git ignore what matches a pattern, if it does not yet."""
    path = os.path.join(common_dir, "info", "exclude")
    try:
        with open(path, "a+b") as stream:
            stream.seek(0)
            content = stream.read()
            if pattern not in content.splitlines():
                stream.write((b"" if content.endswith(b"\n") or not content else b"\n") + pattern + b"\n")
    except OSError:
        return  # a directory without info/, or one that is not ours to write: git works all the same


def exclude_directory(common_dir: str, work_tree: str, directory: str) -> None:
    """Have git ignore a directory, if it lies in the work tree and is not the work tree itself."""
    name = os.path.relpath(os.path.realpath(directory), os.path.realpath(work_tree))
    if name in (".", "..") or name.startswith("../") or "\n" in name or name.split("/")[0] == ".git":
        return
    exclude(common_dir, os.fsencode("/" + "".join("\\" + ch if ch in "\\*?[ " else ch for ch in name) + "/"))
