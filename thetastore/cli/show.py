"""`thetastore show`."""

from __future__ import annotations

from thetastore.cli.opening import EXIT_DONE, open_store, store_parser


def run(arguments: list[str]) -> int:
    """List tensors."""
    parser = store_parser("show", "List the tensors of a manifest.")
    parser.add_argument("manifest", help="digest of the manifest")
    options = parser.parse_args(arguments)
    from thetastore.digest import Digest

    with open_store(options) as store:
        manifest = store.get_manifest(Digest.parse(options.manifest))
    print(
        f"{manifest.format} {manifest.file_bytes} bytes, {manifest.chunk_count} chunks, {len(manifest.tensors)} tensors"
    )
    for tensor in manifest.tensors:
        print(f"{tensor.digest} {tensor.dtype} {list(tensor.shape)} {tensor.name}")
    return EXIT_DONE
