"""What time it is by the clock of the place where a store lies, which is nobody else's."""

from __future__ import annotations

from thetastore.backends import Backend
from thetastore.packs.writer import new_id


def now_s(backend: Backend) -> float:
    """Return the time, in seconds since 1970, by way of a file that is written and deleted.

    Raises:
        BackendError: the place cannot be written to, or does not tell when a file was written.
    """
    name = f"clock/{new_id()}"
    backend.create(name, b"", durable=False)
    try:
        return backend.written_s(name)
    finally:
        backend.delete(name)
