"""Requests to a directory behind SFTP, through sshfs (asyncssh).

A file is written under a temporary name, made durable (`fsync@openssh.com`, where the server has it), and linked to
its own (`hardlink@openssh.com`), which fails where the name exists: as in a local directory. A server without links is
asked to rename, which the protocol says fails then, too; whether it does is found out by `probe`.

sshfs switches the check of host keys off unless told otherwise: it is told otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from thetastore.backends.fsspec_requests import FsspecRequests, Limits
from thetastore.backends.requests import DEEPEST_DIRECTORY, Listed, ListingLimit, PassingError
from thetastore.digest import Buffer
from thetastore.errors import BackendError

_TEMPORARY = "~"
"""In no name of a store."""
_PIECE_BYTES = 1 << 20
"""A server that stops is noticed after a piece, and not only after a whole part."""


def options_for_sshfs(options: dict[str, Any], _: Limits) -> dict[str, Any]:
    """Return sshfs's options: host keys are checked against the user's known hosts."""
    return {"known_hosts": (), **options}


class SftpRequests(FsspecRequests):
    """See `Requests`."""

    part_bytes = 8 << 20

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`: sshfs's own reads whole files."""
        stored: bytes = self.wait(stop - start, self._got, self.path(name), start, stop - start)
        return stored

    async def _got(self, path: str, offset: int, nbytes: int) -> bytes:
        async with self.fs._pool.get() as channel, channel.open(path, "rb") as file:
            stored = bytearray()
            while len(stored) < nbytes:
                wanted = min(_PIECE_BYTES, nbytes - len(stored))
                piece = await asyncio.wait_for(file.read(wanted, offset + len(stored)), self._limits.of(wanted))
                stored += piece
                if len(piece) < wanted:
                    break
            return bytes(stored)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        directories, limit = [prefix], ListingLimit(self.place)
        while directories:
            directory = directories.pop()
            path = self.path(directory) if directory else self.root
            limit.count()
            try:
                found = self.wait(0, self._listed, path, limit)
            except FileNotFoundError:
                continue
            for part, is_directory, file_bytes in found:
                name = f"{directory}/{part}" if directory else part
                if _TEMPORARY in part:
                    continue
                if is_directory and name.count("/") < DEEPEST_DIRECTORY:
                    directories.append(name)
                elif not is_directory:
                    yield Listed(name, file_bytes)

    async def _listed(self, path: str, limit: ListingLimit) -> Sequence[tuple[str, bool, int | None]]:
        listed = []
        async with self.fs._pool.get() as channel:
            async for found in channel.scandir(path):
                limit.count()
                if found.filename not in (".", ".."):
                    is_directory = stat.S_ISDIR(found.attrs.permissions or 0)
                    listed.append((found.filename, is_directory, found.attrs.size))
        return listed

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        upload = self.begin(name)
        self.put_part(name, upload, 0, 0, stored)
        self.finish(name, upload, ())

    def begin(self, name: str) -> str:
        """See `Requests.begin`: the upload is a file beside the one that is to be."""
        path = self.path(name)
        upload = posixpath.join(posixpath.dirname(path), f"{_TEMPORARY}{os.urandom(12).hex()}")
        self.wait(0, self._begun, upload)
        return upload

    async def _begun(self, upload: str) -> None:
        async with self.fs._pool.get() as channel:
            await channel.makedirs(posixpath.dirname(upload), exist_ok=True)
            async with channel.open(upload, "xb"):
                pass

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        self.wait(memoryview(stored).nbytes, self._put, upload, offset, bytes(stored))
        return ""

    async def _put(self, upload: str, offset: int, body: bytes) -> None:
        async with self.fs._pool.get() as channel, channel.open(upload, "r+b") as file:
            for at in range(0, len(body), _PIECE_BYTES):
                piece = body[at : at + _PIECE_BYTES]
                await asyncio.wait_for(file.write(piece, offset + at), self._limits.of(len(piece)))

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        self.wait(0, self._finished, upload, self.path(name))

    async def _finished(self, upload: str, path: str) -> None:
        from asyncssh.sftp import SFTPFailure, SFTPFileAlreadyExists, SFTPOpUnsupported

        async with self.fs._pool.get() as channel:
            try:
                async with channel.open(upload, "r+b") as file:
                    await file.fsync()
            except SFTPOpUnsupported:
                pass
            try:
                try:
                    await channel.link(upload, path)
                except SFTPOpUnsupported:
                    await channel.rename(upload, path)
                    return
            except (SFTPFailure, SFTPFileAlreadyExists) as error:
                is_there = await channel.exists(path)
                await channel.remove(upload)
                raise FileExistsError(path) if is_there else error from None
            await channel.remove(upload)

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        self.wait(0, self._removed, upload)

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        try:
            self.wait(0, self._removed, self.path(name))
        except FileNotFoundError:
            pass

    async def _removed(self, path: str) -> None:
        async with self.fs._pool.get() as channel:
            await channel.remove(path)

    def sorted(self, error: Exception) -> Exception:
        """See `FsspecRequests.sorted`."""
        from asyncssh import ConnectionLost, DisconnectError
        from asyncssh.sftp import SFTPConnectionLost, SFTPNoConnection, SFTPNoSuchFile, SFTPPermissionDenied

        if isinstance(error, SFTPNoSuchFile):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.place)
        if isinstance(error, SFTPPermissionDenied):
            return BackendError(errno.EACCES, os.strerror(errno.EACCES), self.place)
        if isinstance(error, ConnectionLost | SFTPConnectionLost | SFTPNoConnection):
            return PassingError(errno.EIO, "the connection was lost", self.place)
        if isinstance(error, DisconnectError):
            return BackendError(errno.EACCES, f"the server does not let us in: {error.reason:.200}", self.place)
        return super().sorted(error)
