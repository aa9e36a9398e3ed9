"""`git theta ls`."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

from gitbridge.cli.opening import open_repository
from gitbridge.joining import named_model
from gitbridge.reading import select_names
from gitbridge.render import count_text, printable, shape_text, size_text, table
from gitbridge.revisions import parse_name
from thetastore.command_line import Parser
from thetastore.dtypes import raw_bytes_of
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values

_ROWS = Rows("tensors", ("name", "dtype", "shape", "raw_bytes", "digest"))


def ls(arguments: list[str]) -> int:
    """List the tensors of one file of a revision; needs no weights."""
    parser = Parser(
        prog="git theta ls",
        usage="git theta ls [--json | --porcelain | -z] [--] [REV:]PATH [GLOB...]",
        description="List the tensors of a file (of the index, or of a revision), or those whose names match.",
    )
    add_listing_options(parser, _ROWS, nul="names only, each ended by a NUL byte; or the lines of --porcelain")
    parser.add_argument("file", metavar="[REV:]PATH", help="a tracked file; PATH of a revision counts from the top")
    parser.add_argument("globs", nargs="*", metavar="GLOB", help="tensors; * matches dots, too")
    options = parser.parse_args(arguments)
    name = parse_name(options.file)
    globs = options.globs + ([name.tensor] if name.tensor else [])
    with open_repository() as repository:
        model = named_model(repository, name, os.getcwd())
        tensors = model.tensors(repository)
    if globs:
        chosen = set(select_names([tensor.name for tensor in tensors], globs))
        tensors = [tensor for tensor in tensors if tensor.name in chosen]
    if options.nul and not options.porcelain:
        sys.stdout.buffer.write(b"".join(tensor.name.encode() + b"\0" for tensor in tensors))
        return 0
    sizes = [raw_bytes_of(tensor.dtype, math.prod(tensor.shape)) for tensor in tensors]
    if wants_values(options):
        print_values(options, _values(model.path, tensors, sizes))
        return 0
    paint = painter(options)
    rows = [
        (t.dtype, shape_text(t.shape), size_text(nbytes), paint(str(t.digest)[:16], "yellow"), printable(t.name))
        for t, nbytes in zip(tensors, sizes, strict=True)
    ]
    sys.stdout.write(table(rows, right=(2,)))
    if not tensors:
        form = f" ({model.files[0].format})" if len(model.files) == 1 else ""
        print(f"git theta: '{model.path}'{form} has no tensors that git theta sees", file=sys.stderr)
        named_in = _index_of(model.path)
        if named_in:
            print(f"hint: its tensors are named in another file: git theta ls {named_in}", file=sys.stderr)
    elif not globs:
        count = sum(math.prod(tensor.shape) for tensor in tensors)
        print(f"{count_text(len(tensors), 'tensor')}, {count:,} elements, {size_text(sum(sizes))}")
    return 0


def _index_of(path: str) -> str | None:
    """Return what the index of a TensorFlow checkpoint is called that a data file is of; None for other files."""
    import re

    match = re.fullmatch(r"(.+)\.data-[0-9]{5}-of-[0-9]{5}", path)
    return match and f"{match[1]}.index"


def _values(path: str, tensors, sizes) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    listed = [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "digest": str(t.digest) or None, "raw_bytes": nbytes}
        for t, nbytes in zip(tensors, sizes, strict=True)
    ]
    return {"path": path, "tensors": listed}
