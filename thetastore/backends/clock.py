"""What time it is by the clock of the place where a store lies, which is nobody else's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thetastore.backends import Backend


def now_s(backend: Backend) -> float:
    """Return the time, in seconds since 1970, by way of a file that is written and deleted.

    Raises:
        BackendError: the place cannot be written to, or does not tell when a file was written (`ENOTSUP`).
    """
    name = f"clock/{os.urandom(16).hex()}"
    backend.create(name, b"", durable=False)
    try:
        return backend.written_s(name)
    finally:
        backend.delete(name)
