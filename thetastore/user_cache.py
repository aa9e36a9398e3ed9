"""Where files are kept that can be made again: below the cache of the user."""

from __future__ import annotations

import os


def cache_directory() -> str:
    """Return `$XDG_CACHE_HOME/thetastore`, or the same below `~/.cache`; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "thetastore")
