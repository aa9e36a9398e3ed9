"""From a URL to a backend far away. fsspec, and what it needs for a kind of place, are imported here and not before."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from thetastore.backends.fsspec_requests import FsspecRequests, Limits, harmless, unknown_option
from thetastore.backends.remote import RemoteBackend
from thetastore.backends.requests import PassingError
from thetastore.backends.urls import Url
from thetastore.errors import BackendError, PackageMissingError, ThetaError, UnsupportedError

_PROTOCOLS = {"s3": "s3", "azure": "abfs", "http": "http"}
_TALKATIVE = (
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "asyncio",
    "asyncssh",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "s3fs",
)
"""Libraries that log tracebacks, with the URLs of requests, while we try again."""
_REFUSED = frozenset({"file", "local", "memory", "cached", "simplecache", "filecache", "blockcache", "zip", "tar"})
"""File systems of this machine, of this process, or around others."""


class Kind(NamedTuple):
    """What is particular to a kind of place."""

    requests: Callable[[Any, str, Limits], FsspecRequests]
    options: Callable[[dict[str, Any], Limits], dict[str, Any]]


def open_remote(url: Url, options: Mapping[str, object] | None = None) -> RemoteBackend:
    """Open a place; this connects nowhere yet, but for SFTP.

    Args:
        url: of the store.
        options: fsspec's `storage_options` for this kind of place (credentials, profile, endpoint), and
            `stall_seconds`: how long a request may take besides what its length takes.

    Raises:
        PackageMissingError: a package is missing, and which.
        BackendError: the options are wrong, or there is no way in.
    """
    chosen = dict(options or {})
    _keep_libraries_quiet()
    limits = _limits(url, chosen)
    fs, kind = _file_system(url, chosen, limits)
    root = fs._strip_protocol(str(url))
    requests = kind.requests(fs, root, limits)
    requests.place = str(url)
    return RemoteBackend(requests, str(url))


def _keep_libraries_quiet() -> None:
    """Have what libraries log go to who has set up logging, and not, for want of that, to standard error."""
    import logging

    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def fsspec_knows(scheme: str) -> bool:
    """Tell whether fsspec, if it is installed, has a file system for a scheme."""
    try:
        from fsspec import available_protocols
    except ImportError:
        return False
    return scheme in available_protocols()


def _limits(url: Url, options: dict[str, Any]) -> Limits:
    text = options.pop("stall_seconds", Limits().stall_s)
    try:
        stall_s = float(text)
    except (TypeError, ValueError):
        stall_s = 0.0
    if not 0 < stall_s < 86400:
        raise BackendError(errno.EINVAL, "the option stall_seconds is no number of seconds", str(url))
    return Limits(stall_s)


def _file_system(url: Url, options: dict[str, Any], limits: Limits) -> tuple[Any, Kind]:
    try:
        kind = _kind(url)
        file_system = _file_system_class(url)
        made = {**file_system._get_kwargs_from_urls(str(url)), **kind.options(options, limits)}
        # fsspec keeps one for all who ask for the same: making a client of S3 takes half a second.
        return file_system(**made), kind
    except ImportError as error:
        raise _missing(url, error) from error
    except Exception as error:
        if isinstance(error, ThetaError):
            raise
        unknown = unknown_option(error)
        if unknown:
            raise BackendError(errno.EINVAL, unknown, str(url)) from error
        words = f"there is no way in: {type(error).__name__}: {harmless(error)}"
        is_passing = isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
        raise (PassingError if is_passing else BackendError)(errno.EIO, words, str(url)) from error


def _file_system_class(url: Url) -> Any:
    if url.kind == "sftp":
        from sshfs import SSHFileSystem

        return SSHFileSystem
    if url.kind == "gcs":
        from thetastore.backends.gcs import file_system_class

        return file_system_class()
    import fsspec

    return fsspec.get_filesystem_class(_PROTOCOLS.get(url.kind or "", url.scheme))


def _uncached(options: dict[str, Any], _: Limits) -> dict[str, Any]:
    return {"use_listings_cache": False, **options}


def _kind(url: Url) -> Kind:
    if url.kind == "s3":
        from thetastore.backends.s3 import S3Requests, options_for_s3fs

        return Kind(S3Requests, options_for_s3fs)
    if url.kind == "gcs":
        from thetastore.backends.gcs import GcsRequests, options_for_gcsfs

        return Kind(GcsRequests, options_for_gcsfs)
    if url.kind == "azure":
        from thetastore.backends.azure import AzureRequests, options_for_adlfs

        return Kind(AzureRequests, options_for_adlfs)
    if url.kind == "sftp":
        from thetastore.backends.sftp import SftpRequests, options_for_sshfs

        return Kind(SftpRequests, options_for_sshfs)
    if url.kind == "http":
        from thetastore.backends.http import HttpRequests

        return Kind(HttpRequests, _uncached)
    if url.scheme in _REFUSED:
        raise UnsupportedError(f"'{url}': a store cannot lie behind {url.scheme}")
    return Kind(FsspecRequests, _uncached)


def _missing(url: Url, error: ImportError) -> PackageMissingError:
    if url.kind is None:
        return PackageMissingError(f"'{url}' needs a package that is not installed: {harmless(error)}")
    return PackageMissingError(
        f"'{url}' needs packages that are not installed ({error.name or 'fsspec'}): "
        f"pip install 'thetastore[{url.kind}]'"
    )
