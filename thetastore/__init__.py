"""thetastore: a content-addressed storage engine for model parameters. Bytes in, digests out.

`thetastore.open(url)` returns a model, a mapping from names to lazy tensors; `Models` are the named ones of a store,
with their versions; `Store` is what holds them. Errors are in `thetastore.errors`; each has a builtin base where one
fits.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 8 ms to import, in which an interrupt would be a traceback
if TYPE_CHECKING:
    from typing import Any

    from thetastore.models import Model, Tensor
    from thetastore.named_models import Models, NamedModel, open
    from thetastore.publishing.publisher import Publisher
    from thetastore.publishing.subscriber import Subscriber, subscribe
    from thetastore.store import Store

__all__ = ["open", "Models", "NamedModel", "Model", "Tensor", "Store", "Publisher", "Subscriber", "subscribe"]

_PLACES = {
    "open": "named_models",
    "Models": "named_models",
    "NamedModel": "named_models",
    "Model": "models",
    "Tensor": "models",
    "Store": "store",
    "Publisher": "publishing.publisher",
    "Subscriber": "publishing.subscriber",
    "subscribe": "publishing.subscriber",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: git starts us for each file, and most of it is never needed."""
    if name not in _PLACES:
        raise AttributeError(f"module 'thetastore' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"thetastore.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """Have an interactive shell complete what is imported only when it is asked for."""
    return sorted({*globals(), *__all__})
