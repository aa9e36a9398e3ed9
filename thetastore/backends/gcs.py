"""Requests to Google Cloud Storage, through gcsfs.

Create-if-absent is `ifGenerationMatch=0`. gcsfs repeats requests by itself, so "it is there already" may mean that an
earlier try came through: each file is marked with the write that made it. What it does in one request it is kept from
repeating: before it says that nobody answers, half a minute would pass, each time that we try.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from thetastore.backends.fsspec_requests import FsspecRequests, Limits, patience, while_taken
from thetastore.digest import Buffer

_MARK = "thetastore-write"


def options_for_gcsfs(options: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Return gcsfs's options: silence is a stall, however long a range."""
    return {"use_listings_cache": False, **options, "requests_timeout": patience(limits.stall_s)}


@cache
def file_system_class() -> Any:
    """Return gcsfs's file system, but for its patience."""
    # The one that gcsfs registers asks by gRPC what kind of bucket it has, before each write.
    from gcsfs.core import GCSFileSystem, UnclosableBytesIO

    class PlainGCSFileSystem(GCSFileSystem):  # type: ignore[misc]
        async def _request(self, *args: Any, **options: Any) -> Any:
            body = options.get("data")
            if not isinstance(body, bytes):
                return await GCSFileSystem._request.__wrapped__(self, *args, **options)
            taken = options["data"] = UnclosableBytesIO(body)  # it can be told of a stream how much of it was taken
            once = GCSFileSystem._request.__wrapped__(self, *args, **options)
            return await while_taken(once, taken, self.requests_timeout.sock_read)

    return PlainGCSFileSystem


class GcsRequests(FsspecRequests):
    """See `Requests`."""

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`: one request, whatever the length."""
        nbytes, mark, path = memoryview(stored).nbytes, os.urandom(12).hex(), self.path(name)
        try:
            self.ask(
                nbytes,
                "pipe_file",
                path,
                bytes(stored),
                metadata={_MARK: mark},
                mode="create",
                chunksize=nbytes + 1,
            )
        except FileExistsError:
            metadata = self.ask(0, "info", path).get("metadata")
            if not isinstance(metadata, dict) or metadata.get(_MARK) != mark:
                raise
