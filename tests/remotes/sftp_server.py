"""An SFTP server on loopback, for the tests: `keys DIRECTORY`, then `serve DIRECTORY PORT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncssh


def make_keys(directory: Path) -> None:
    for name in ("host", "client"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(directory / name)
        key.write_public_key(directory / f"{name}.pub")
    host = (directory / "host.pub").read_text()
    (directory / "known_hosts").write_text(f"* {host}")


async def serve(directory: Path, port: int) -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[directory / "host"],
        authorized_client_keys=str(directory / "authorized_keys"),
        sftp_factory=True,
    )
    print("ready", flush=True)
    await server.wait_closed()


if sys.argv[1] == "keys":
    make_keys(Path(sys.argv[2]))
else:
    asyncio.run(serve(Path(sys.argv[2]), int(sys.argv[3])))
