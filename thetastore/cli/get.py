"""`thetastore get`."""

from __future__ import annotations

import os

from thetastore.cli.opening import EXIT_DONE, open_store, store_parser


def run(arguments: list[str]) -> int:
    """Write a file."""
    parser = store_parser("get", "Write the file of a manifest.")
    parser.add_argument("manifest", help="digest of the manifest, as `put` printed it")
    parser.add_argument("file", help="where to write it; must not exist")
    options = parser.parse_args(arguments)
    from thetastore.digest import Digest

    digest = Digest.parse(options.manifest)
    with open_store(options) as store:
        manifest = store.get_manifest(digest)
        temporary = f"{options.file}.theta-{os.getpid()}"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            store.write_file(manifest, digest, descriptor)
            os.link(temporary, options.file)
        finally:
            os.close(descriptor)
            os.unlink(temporary)
    return EXIT_DONE
