"""Real servers on this machine, started by the tests, one process each, and stores' URLs in them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

PROGRAMS = Path(sys.executable).parent
NODE_PROGRAMS = PROGRAMS.parent / "node" / "node_modules" / ".bin"
T = TypeVar("T")
KEY, SECRET = "theta-key", "theta-secret-that-nobody-may-read"


class Place(NamedTuple):
    """Where stores may be made: a URL to put a name behind, and what gets one in."""

    url: str
    options: dict[str, object]

    def fresh(self) -> Place:
        return self._replace(url=f"{self.url}/{uuid.uuid4().hex[:12]}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]


def is_answering(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Server:
    """A process that answers on a port; ended when left."""

    def __init__(self, directory: Path, port: int, *command: str | Path, environment: dict[str, str] | None = None):
        self.port = port
        self._log = directory / "server.log"
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._directory = directory

    def __enter__(self) -> Server:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.once(lambda: is_answering(self.port) or None)
        return self

    def once(self, attempt: Callable[[], T | None]) -> T:
        """Try something until it gives a value: what answers first may do so before the rest of a server is there."""
        deadline = time.monotonic() + 60
        while True:
            error: Exception | None = None
            try:
                if (value := attempt()) is not None:
                    return value
            except Exception as caught:
                error = caught
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(f"{self._command[0]} does not start: {self._log.read_text()[-3000:]}") from error
            time.sleep(0.05)  # for a real process there is nothing else to wait on

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def make_bucket(endpoint: str, name: str = "models", **client: object) -> None:
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    made = session.create_client(
        "s3",
        "us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        # Whoever waits for a server asks again by himself, and sees when it is dead.
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
        **client,
    )
    made.create_bucket(Bucket=name)
    made.close()


def s3_place(port: int) -> Place:
    endpoint = f"http://127.0.0.1:{port}"
    make_bucket(endpoint)
    return Place("s3://models", {"endpoint_url": endpoint, "key": KEY, "secret": SECRET, "region": "us-east-1"})


def needs_node(program: str) -> Path:
    path = NODE_PROGRAMS / program
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed: `make test` installs it where npm is")
        pytest.skip(f"{program} is not installed: there is no node here")
    return path


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    port = free_port()
    with Server(tmp_path_factory.mktemp("moto"), port, PROGRAMS / "moto_server", "-H", "127.0.0.1", "-p", str(port)):
        yield s3_place(port)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("seaweedfs")
    identity = {"name": "theta", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = free_ports(8)
    names = ("-s3.port", "-master.port", "-volume.port", "-filer.port")
    options = [f"{name}={port}" for name, port in zip(names, ports[:4], strict=True)]
    grpc = [f"{name}.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    command = [PROGRAMS / "weed", "server", "-ip=127.0.0.1", f"-dir={directory}", "-s3", "-s3.config=s3.json", *options]
    # What it would open at fixed ports, or tell its makers.
    less = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    more = ["-volume.max=8", "-master.volumeSizeLimitMB=128", "-master.volumePreallocate=false"]
    with Server(directory, ports[0], *command, *grpc, *more, *less) as server:
        yield server.once(lambda: s3_place(server.port))


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    port = free_port()
    options = ["start", "--in-memory", "--host=127.0.0.1", f"--port={port}", "--default-bucket=models"]
    with Server(tmp_path_factory.mktemp("gcs"), port, PROGRAMS / "gcp-storage-emulator", *options):
        yield Place(
            "gs://models",
            {"endpoint_url": f"http://127.0.0.1:{port}", "token": "anon", "project": "project-of-the-tests"},
        )


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    program, port = needs_node("azurite-blob"), free_port()
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    with Server(tmp_path_factory.mktemp("azurite"), port, program, "--blobHost", "127.0.0.1", *options):
        # The account and key that Microsoft publishes for emulators.
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint={endpoint};"
        )
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(connection) as service:
            service.create_container("models")
        yield Place("abfs://models", {"connection_string": connection})


@pytest.fixture(scope="session")
def s3rver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    program, port, directory = needs_node("s3rver"), free_port(), tmp_path_factory.mktemp("s3rver")
    options = ["-d", str(directory), "-a", "127.0.0.1", "-p", str(port), "--configure-bucket", "models"]
    with Server(directory, port, program, *options):
        endpoint = f"http://127.0.0.1:{port}"
        yield Place("s3://models", {"endpoint_url": endpoint, "key": "S3RVER", "secret": "S3RVER"})


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory, port = tmp_path_factory.mktemp("sftp"), free_port()
    (directory / "files").mkdir()
    program = Path(__file__).with_name("sftp_server.py")
    subprocess.run([sys.executable, program, "keys", directory], check=True)
    with SftpServer(directory, port, sys.executable, program, "serve", str(directory), str(port)):
        options = {
            "port": port,
            "known_hosts": str(directory / "known_hosts"),
            "client_keys": [str(directory / "client")],
            "config": [],
        }
        yield Place(f"sftp://theta@127.0.0.1{directory}/files", options)


class SftpServer(Server):
    """A server whose answer is not HTTP."""

    def __enter__(self) -> Server:
        shutil.copy(self._directory / "client.pub", self._directory / "authorized_keys")
        self._log.write_bytes(b"")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", self._log.read_text()
        return self
