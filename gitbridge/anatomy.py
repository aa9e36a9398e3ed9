"""Where in a model a tensor belongs, told from its name alone: its layer, and which module of the layer it is.

`encoder.layer.3.attention.self.query.weight` is of layer `encoder.layer.3` and of module `attention.self.query`. The
first number of a name is the layer's; further ones (experts) stand as `*`. What has no number is in no layer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PARTS = re.compile(r"[./]")

BUFFERS = frozenset(
    {
        "attn.bias",
        "attn.masked_bias",
        "inv_freq",
        "num_batches_tracked",
        "position_ids",
        "relative_position_index",
        "running_mean",
        "running_var",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        "token_type_ids",
    }
)
"""Ends of the names of tensors that are computed, not trained, as PyTorch's modules and transformers name them."""


class Place(NamedTuple):
    """Where a tensor belongs."""

    layer: str
    """Empty for what is in no layer."""
    module: str

    @property
    def layer_order(self) -> tuple[object, ...]:
        """Sorts layers as people count: 2 before 10, what is in none at the end."""
        parts = re.split(r"(\d+)", self.layer)
        return (not self.layer, *(int(part) if at % 2 else part for at, part in enumerate(parts)))


def place_of(name: str) -> Place:
    """Return where the tensor of a name belongs."""
    parts = _PARTS.split(name)
    number = next((at for at, part in enumerate(parts[:-1]) if part.isdecimal()), None)
    rest = parts if number is None else parts[number + 1 :]
    module = ".".join("*" if part.isdecimal() else part for part in (rest[:-1] or rest))
    return Place("" if number is None else ".".join(parts[: number + 1]), module)


def is_buffer(name: str) -> bool:
    """Tell whether a tensor is by its name one that no training changes."""
    return any(name == end or name.endswith(("." + end, "/" + end)) for end in BUFFERS)
