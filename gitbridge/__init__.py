"""gitbridge: puts thetastore under ordinary Git.

From Python: `gitbridge.open(path_or_url, revision)` returns a model, a mapping from names to lazy tensors; `commit`
puts one into a branch without a work tree. `safe_open`, `load_file` and `snapshot_download` have the shapes that people
know.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 8 ms to import, in which an interrupt would be a traceback
if TYPE_CHECKING:
    from typing import Any

    from gitbridge.committing import commit
    from gitbridge.drop_in import load_file, safe_open
    from gitbridge.models import GitModel, open, tags
    from gitbridge.saving import Saver
    from gitbridge.snapshots import snapshot_download

__all__ = ["open", "GitModel", "tags", "safe_open", "load_file", "snapshot_download", "commit", "Saver"]

_PLACES = {
    "open": "models",
    "GitModel": "models",
    "tags": "models",
    "safe_open": "drop_in",
    "load_file": "drop_in",
    "snapshot_download": "snapshots",
    "commit": "committing",
    "Saver": "saving",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: git starts us for each file, and most of it is never needed."""
    if name not in _PLACES:
        raise AttributeError(f"module 'gitbridge' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"gitbridge.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Have an interactive shell complete what is imported only when it is asked for."""
    return sorted({*globals(), *__all__})
