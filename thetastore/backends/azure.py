"""Requests to Azure Blob Storage, through the client that adlfs sets up.

Create-if-absent is `If-None-Match: *` on Put Blob and on Put Block List. The client's own tries again are switched off,
so that "it is there already" is not about our own first try.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

from thetastore.backends.fsspec_requests import FsspecRequests, Limits
from thetastore.digest import Buffer

_ONCE = {"retry_total": 0, "retry_connect": 0, "retry_read": 0, "retry_status": 0}


def options_for_adlfs(options: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Return adlfs's options: silence is a stall, however long a range."""
    return {"use_listings_cache": False, "read_timeout": max(1, round(limits.stall_s)), **options}


class AzureRequests(FsspecRequests):
    """See `Requests`."""

    part_bytes = 16 << 20

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        body = bytes(stored)
        self._blob(len(body), name, "upload_blob", body, overwrite=False, length=len(body), **_ONCE)

    def begin(self, name: str) -> str:
        """See `Requests.begin`: blocks need no upload to belong to, only names that nobody else gives."""
        return os.urandom(12).hex()

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        body = bytes(stored)
        block = base64.b64encode(f"{upload}-{number:08d}".encode()).decode()
        self._blob(len(body), name, "stage_block", block, body, length=len(body), **_ONCE)
        return block

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        from azure.core import MatchConditions
        from azure.storage.blob import BlobBlock

        blocks = [BlobBlock(block_id=block) for block in parts]
        self._blob(0, name, "commit_block_list", blocks, match_condition=MatchConditions.IfMissing, **_ONCE)

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`: Azure forgets blocks that were not committed after a week."""

    def _blob(self, nbytes: int, name: str, method: str, *args: Any, **options: Any) -> None:
        self.wait(nbytes, self._called, self.path(name), method, args, options)

    async def _called(self, path: str, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        container, blob, _ = self.fs.split_path(path)
        async with self.fs.service_client.get_blob_client(container=container, blob=blob) as client:
            try:
                await getattr(client, method)(*args, **options)
            except Exception as error:
                if type(error).__name__ in ("ResourceExistsError", "ResourceModifiedError"):
                    raise FileExistsError(path) from error
                raise

    def sorted(self, error: Exception) -> Exception:
        """See `FsspecRequests.sorted`; adlfs wraps the client's errors."""
        cause = error.__cause__
        if type(error) in (OSError, RuntimeError) and isinstance(cause, Exception):
            return super().sorted(cause)
        return super().sorted(error)
