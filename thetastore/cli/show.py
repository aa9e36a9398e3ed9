"""`thetastore show`."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from thetastore.cli.naming import date_text, entry_values, find_model, model_text
from thetastore.cli.opening import EXIT_DONE
from thetastore.command_line import Parser
from thetastore.errors import MalformedError, NoSuchTensorError
from thetastore.output import Paint, Rows, add_listing_options, painter, pairs, print_values, wants_values
from thetastore.tables import count_text, printable, shape_text, size_text, table

if TYPE_CHECKING:
    from thetastore.checkpoints.tensors import TensorReader
    from thetastore.manifest import Tensor
    from thetastore.ref_entries import Entry

_TENSOR = ("name", "dtype", "shape", "raw_bytes", "digest")
_ROWS = (
    Rows("files", ("path", "bytes", "format", "manifest")),
    Rows("files.tensors", ("files.path", *_TENSOR)),
)
_EPILOG = """\
  thetastore show s3://bucket/zoo/bert@v3                   what the version is, its files and tensors
  thetastore show --stats s3://bucket/zoo/bert//lm_head.weight    one tensor: its range, mean, zeros, NaNs

--porcelain prints what is known of one tensor as lines of a name and a value.
"""


def run(arguments: list[str]) -> int:
    """Show what a version is, or a tensor of it."""
    parser = Parser(
        prog="thetastore show",
        usage="thetastore show [--stats] [--json | --porcelain] PLACE/NAME[@VERSION][//TENSOR]",
        description="Show what a version of a model is, and its tensors; or one tensor.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stats", action="store_true", help="read the tensor: range, mean, zeros, NaNs")
    add_listing_options(parser, *_ROWS)
    parser.add_argument("model", metavar="PLACE/NAME[@VERSION][//TENSOR]", help="no version: the newest")
    options = parser.parse_args(arguments)
    scheme, mark, rest = options.model.rpartition("://")
    model, slashes, tensor = rest.partition("//")
    if options.stats and not slashes:
        raise MalformedError("--stats is of one tensor: name it behind the model, //TENSOR")
    from thetastore.versions.names import resolve
    from thetastore.versions.writing import readers_of

    store, wanted = find_model(scheme + mark + model)
    with store:
        entry = resolve(store, wanted)
        readers = readers_of(store, entry.files)
        values = _of_tensor(readers, tensor, options.stats) if slashes else _of_version(entry, readers)
    paint = painter(options)
    if wants_values(options):
        if slashes:
            options.porcelain_rows = (pairs(""),)
        print_values(options, {key: None if _is_no_number(value) else value for key, value in values.items()})
    elif slashes:
        rows = [
            (paint(key, "bold"), shape_text(value) if key == "shape" else str(value)) for key, value in values.items()
        ]
        sys.stdout.write(table(rows))
    else:
        _print(entry, readers, paint)
    return EXIT_DONE


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _tensor_values(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "raw_bytes": tensor.raw_bytes,
        "digest": str(tensor.digest),
    }


def _of_version(entry: Entry, readers: list[TensorReader]) -> dict[str, Any]:
    values = entry_values(entry)
    for file, reader in zip(values["files"], readers, strict=True):
        file["format"] = reader.manifest.format
        file["tensors"] = [_tensor_values(tensor) for tensor in reader.manifest.tensors]
    return values


def _of_tensor(readers: list[TensorReader], name: str, with_stats: bool) -> dict[str, Any]:
    for reader in readers:
        for tensor in reader.manifest.tensors:
            if tensor.name == name:
                values = _tensor_values(tensor)
                return values | _stats(reader, name) if with_stats else values
    raise NoSuchTensorError(name, tuple(tensor.name for reader in readers for tensor in reader.manifest.tensors))


def _stats(reader: TensorReader, name: str) -> dict[str, Any]:
    from thetastore.comparing.summary import summarise

    summary = summarise(reader, name)
    if summary is None:
        raise MalformedError(f"the elements of '{name}' have no numbers of their own to make figures of")
    return summary._asdict()


def _print(entry: Entry, readers: list[TensorReader], paint: Paint) -> None:
    print(f"{paint(model_text(entry), 'yellow')}  {date_text(entry)}  {printable(entry.author)}".rstrip())
    for line in entry.message.splitlines():
        print(f"    {printable(line)}")
    for key, text in entry.metadata.items():
        print(f"{printable(key)}: {printable(text)}")
    for file, reader in zip(entry.files, readers, strict=True):
        manifest = reader.manifest
        tensors = f", {count_text(len(manifest.tensors), 'tensor')}" if manifest.tensors else ""
        print(f"\n{printable(file.path)}  {manifest.format}, {size_text(manifest.file_bytes)}{tensors}")
        rows = [
            (tensor.dtype, shape_text(tensor.shape), size_text(tensor.raw_bytes), printable(tensor.name))
            for tensor in manifest.tensors
        ]
        sys.stdout.write(table(rows, right=(2,), indent="  "))
