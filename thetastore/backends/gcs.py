"""Requests to Google Cloud Storage, through gcsfs.

Create-if-absent is `ifGenerationMatch=0`. gcsfs repeats requests by itself, so "it is there already" may mean that an
earlier try came through: each file is marked with the write that made it.
"""

from __future__ import annotations

import os

from thetastore.backends.fsspec_requests import FsspecRequests
from thetastore.digest import Buffer

_MARK = "thetastore-write"


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
