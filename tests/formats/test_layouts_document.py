"""The document names the limits that the code has."""

from __future__ import annotations

import os

import pytest

from thetastore.formats import MAX_HEADER_BYTES, pickle_machine, torch_state, zip_directory
from thetastore.formats.safetensors import _DTYPES, Safetensors
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import MAX_AMPLIFICATION, MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TABLE_BYTES, MAX_TENSORS

DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "format", "layouts.md")


def document() -> str:
    with open(DOCUMENT, encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    "text",
    [
        f"| tensors | {MAX_TENSORS:,} |",
        f"| dimensions of a tensor | {MAX_DIMENSIONS} |",
        f"{MAX_NAME_BYTES:,} bytes of UTF-8",
        f"| table of tensors as text | {MAX_TABLE_BYTES >> 20} MiB |",
        f"| directory at the start of a file | {MAX_HEADER_BYTES >> 20} MiB |",
        f"| {MAX_AMPLIFICATION} x the file |",
        f"`safetensors` version {Safetensors.version}",
        f"`torch-zip` version {TorchZip.version}",
        f"or {zip_directory.MAX_ENTRIES:,} entries",
        f"over {pickle_machine.MAX_PICKLE_BYTES >> 20} MiB",
        f"{pickle_machine.MAX_VALUE_BYTES >> 20} MiB, containers nested more than {torch_state.MAX_DEPTH} deep",
        f"jump by more than {pickle_machine._MAX_MEMO_GAP:,}",
        f"more than {pickle_machine._MAX_INTEGER_DIGITS} digits",
        f"({torch_state._FREE_VISITS:,} at least, {torch_state._MAX_VISITS:,} at most)",
    ],
)
def test_a_limit_is_documented_as_it_is(text: str) -> None:
    assert text in " ".join(document().split("\n"))


def test_every_dtype_of_safetensors_is_documented() -> None:
    words = document().replace(",", " ").replace("`", " ").split()

    assert {name.decode() for name in _DTYPES} | set(_DTYPES.values()) <= set(words)
