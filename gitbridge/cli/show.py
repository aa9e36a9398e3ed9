"""`git theta show`."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from gitbridge.cli.opening import open_repository
from gitbridge.errors import UsageError
from gitbridge.joining import ModelFiles, named_model, open_tensors
from gitbridge.render import Progress, count_text, printable, shape_text, size_text, table
from gitbridge.revisions import parse_name
from thetastore.command_line import Parser
from thetastore.dtypes import raw_bytes_of
from thetastore.errors import NoSuchTensorError
from thetastore.output import add_listing_options, painter, pairs, print_values, wants_values

if TYPE_CHECKING:
    from gitbridge.pointers import PointerTensor
    from gitbridge.repository import Repository
    from thetastore.comparing.summary import Summary


_MOST_FILES = 8
"""Shards that are named one by one."""
_LABELS = {
    "size_bytes": "size",
    "raw_bytes": "size",
    "same_bytes_as": "same bytes as",
    "number_count": "numbers",
    "nan_count": "NaNs",
    "infinite_count": "infinities",
    "zero_count": "zeros",
}
"""What people read, where JSON has another word: there, the last word of a quantity is its unit."""


def show(arguments: list[str]) -> int:
    """Show what is known of a file, or of one tensor."""
    parser = Parser(
        prog="git theta show",
        usage="git theta show [--stats] [--json | --porcelain] [--] [REV:]PATH[//TENSOR]",
        description="Show what a file is, or one tensor of it; with --stats, what the tensor's numbers look like.",
    )
    parser.add_argument("--stats", action="store_true", help="read the tensor: range, mean, zeros, NaNs")
    add_listing_options(parser, pairs(""))
    parser.add_argument("name", metavar="[REV:]PATH[//TENSOR]", help="v1.2:model.safetensors//lm_head.weight")
    options = parser.parse_args(arguments)
    name = parse_name(options.name)
    if options.stats and not name.tensor:
        raise UsageError("--stats is of one tensor", f"git theta show --stats {name._replace(tensor=None)}//TENSOR")
    with open_repository() as repository:
        model = named_model(repository, name, os.getcwd())
        values = (
            _of_tensor(repository, model, name.tensor, options.stats) if name.tensor else _of_model(repository, model)
        )
    if wants_values(options):
        # What JSON has no numbers for: NaN and infinity.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        print_values(options, plain)
    else:
        paint = painter(options)
        shown = [(label, value) for label, value in values.items() if value is not None]
        rows = [(paint(_LABELS.get(label, label), "bold"), _text(label, value)) for label, value in shown]
        sys.stdout.write(table(rows))
    return 0


def _of_model(repository: Repository, model: ModelFiles) -> dict[str, Any]:
    tensors = model.tensors(repository)
    dtypes = Counter(tensor.dtype for tensor in tensors)
    values: dict[str, Any] = {"path": model.path}
    if len(model.files) == 1 and not model.outside:
        (file,) = model.files
        values |= {
            "format": file.format,
            "size_bytes": file.file_bytes,
            "digest": str(file.file_digest),
            "manifest": str(file.manifest_digest),
        }
    else:
        values["size_bytes"] = sum(file.file_bytes for file in model.files)
        values["files"] = [file.path for file in model.files]
    return values | {
        "tensors": len(tensors),
        "elements": sum(math.prod(tensor.shape) for tensor in tensors),
        "dtypes": dict(dtypes.most_common()),
    }


def _of_tensor(repository: Repository, model: ModelFiles, name: str, with_stats: bool) -> dict[str, Any]:
    tensors = {tensor.name: tensor for tensor in model.tensors(repository)}
    if name not in tensors:
        raise NoSuchTensorError(name, tuple(tensors))
    tensor = tensors[name]
    values: dict[str, Any] = {
        "path": model.path,
        "tensor": name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "elements": math.prod(tensor.shape),
        "raw_bytes": raw_bytes_of(tensor.dtype, math.prod(tensor.shape)),
        "digest": str(tensor.digest) or None,
    }
    same = _others_with(tensors.values(), tensor)
    if same:
        values["same_bytes_as"] = same
    if with_stats:
        summary = _summary(repository, model, name)
        if summary is None:
            raise UsageError(
                f"elements of {tensor.dtype} have no numbers of their own to make figures of", "leave --stats out"
            )
        values |= summary._asdict()
    return values


def _others_with(tensors: Any, tensor: PointerTensor) -> list[str]:
    if not tensor.digest:
        return []
    return [other.name for other in tensors if other.digest == tensor.digest and other.name != tensor.name]


def _summary(repository: Repository, model: ModelFiles, name: str) -> Summary | None:
    from thetastore.comparing.summary import summarise

    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            reader = open_tensors(repository, store, model, [name], progress)[name]
        finally:
            progress.done()
        return summarise(reader, name)


def _text(label: str, value: Any) -> str:
    if label.endswith("_bytes"):
        return f"{size_text(value)} ({value:,} bytes)" if value >= 1000 else f"{value} bytes"
    if isinstance(value, dict):
        return ", ".join(f"{kind}: {count_text(count, 'tensor')}" for kind, count in value.items()) or "-"
    if label == "shape":
        return shape_text(value)
    if label == "files" and len(value) > _MOST_FILES:
        return f"{printable(value[0])} ... {printable(value[-1])}, {len(value)} files"
    if isinstance(value, list):
        return ", ".join(map(printable, value))
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"{value:,}" if isinstance(value, int) else printable(value)
