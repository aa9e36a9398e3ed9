"""Requests to S3, and to what speaks like it, through the client that s3fs sets up.

s3fs knows how to find credentials, profiles and endpoints. Its own reads and writes are not used: they try again
behind our back (so that a file which the first try created is "there already"), drop conditions on uploads in parts
(2025), and list with more requests than it takes.

Create-if-absent is `If-None-Match: *` on PutObject and on CompleteMultipartUpload. A server may ignore it: see `probe`.
Source: Amazon S3 API Reference, PutObject and CompleteMultipartUpload (conditional writes, 2024).
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Sequence
from typing import Any

from thetastore.backends.fsspec_requests import (
    FsspecRequests,
    Limits,
    NotSatisfiableError,
    seconds_of,
    status_of,
    while_taken,
)
from thetastore.backends.requests import NO_BUCKET, Listed, ListingLimit, PassingError
from thetastore.digest import Buffer
from thetastore.errors import BackendError

_CLIENT = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": 15,
    "max_pool_connections": 32,
    # The default adds trailing checksums, which older servers take for a part of the file.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def options_for_s3fs(options: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Return s3fs's options: the user's, and ours where the user has none. Silence is a stall, however long a range."""
    region = options.pop("region", None)
    if region is not None:
        options["client_kwargs"] = {"region_name": region, **options.get("client_kwargs", {})}
    client = {**_CLIENT, "read_timeout": limits.stall_s, **options.get("config_kwargs", {})}
    return {"use_listings_cache": False, **options, "config_kwargs": client}


class S3Requests(FsspecRequests):
    """See `Requests`."""

    part_bytes = 16 << 20

    def __init__(self, fs: Any, root: str, limits: Limits) -> None:
        super().__init__(fs, root, limits)
        self._bucket, _, self._prefix = root.partition("/")

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        try:
            stored: bytes = self._call(stop - start, "get_object", name, Range=f"bytes={start}-{stop - 1}")
        except NotSatisfiableError:
            return b""
        return stored

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        return int(self._call(0, "head_object", name)["ContentLength"])

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        return seconds_of(self._call(0, "head_object", name).get("LastModified"), self.place)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        below = f"{self._prefix}/" if self._prefix else ""
        more: dict[str, str] = {}
        limit = ListingLimit(self.place)
        while True:
            prefixes = below + (f"{prefix}/" if prefix else "")
            answer = self._call(0, "list_objects_v2", None, Prefix=prefixes, **more)
            limit.count(len(answer.get("Contents", ())) + 1)
            for found in answer.get("Contents", ()):
                if not found["Key"].endswith("/"):  # what some programs make to look like a directory
                    yield Listed(found["Key"][len(below) :], found["Size"])
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        try:
            self._call(memoryview(stored).nbytes, "put_object", name, Body=io.BytesIO(stored), IfNoneMatch="*")
        except PassingError as error:
            if error.__cause__ is not None and status_of(error.__cause__) == 500:
                self._check_bucket()
            raise

    def _check_bucket(self) -> None:
        """Say so if there is no bucket: SeaweedFS has an internal error then, of each write."""
        try:
            self.wait(0, self._called, 0, "head_bucket", {})
        except FileNotFoundError:
            raise BackendError(errno.ENOENT, NO_BUCKET, self.place) from None
        except BackendError:
            return  # who may write need not be allowed to ask for that

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        self._call(0, "delete_object", name)

    def begin(self, name: str) -> str:
        """See `Requests.begin`."""
        return str(self._call(0, "create_multipart_upload", name)["UploadId"])

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        nbytes = memoryview(stored).nbytes
        part = {"UploadId": upload, "PartNumber": number + 1, "Body": io.BytesIO(stored)}
        return str(self._call(nbytes, "upload_part", name, **part)["ETag"])

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        listed = {"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(parts, 1)]}
        self._call(0, "complete_multipart_upload", name, UploadId=upload, MultipartUpload=listed, IfNoneMatch="*")

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        self._call(0, "abort_multipart_upload", name, UploadId=upload)

    def sorted(self, error: Exception) -> Exception:
        """See `FsspecRequests.sorted`."""
        response = getattr(error, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket":
            return BackendError(errno.ENOENT, NO_BUCKET, self.place)
        return super().sorted(error)

    def _call(self, nbytes: int, method: str, name: str | None, **arguments: Any) -> Any:
        """Make one call of the client; of one that has a body, return the body."""
        if name is not None:
            arguments["Key"] = f"{self._prefix}/{name}" if self._prefix else name
        return self.wait(nbytes, self._called, nbytes, method, arguments)

    async def _called(self, nbytes: int, method: str, arguments: dict[str, Any]) -> Any:
        await self.fs.set_session()
        client = await self.fs.get_s3(self._bucket)
        client.meta.events.register("request-created.s3", _at_once, unique_id="thetastore")
        answer = await while_taken(
            getattr(client, method)(Bucket=self._bucket, **arguments), arguments.get("Body"), self._limits.stall_s
        )
        if "Body" not in answer:
            return answer
        stored = bytearray()
        async with answer["Body"] as body:
            while len(stored) <= nbytes:  # a server may send what it likes, for ever
                piece = await body.read(nbytes + 1 - len(stored))
                if not piece:
                    break
                stored += piece
        return bytes(stored)


def _at_once(request: Any, **_: Any) -> None:
    """Send a body without asking whether it may come: not all servers answer that."""
    del request.headers["Expect"]
