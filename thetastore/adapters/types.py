"""The update types there are, by name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from thetastore import plugins
from thetastore.adapters import Adapter, Base, Change, UpdateType
from thetastore.adapters.peft import is_peft, open_peft
from thetastore.adapters.side_files import PARTS, open_side_file
from thetastore.digest import Buffer
from thetastore.updates.recipe import Recipe, UpdateError

AUTO = "auto"
_PEFT_KINDS = {"low-rank": ("LORA",), "ia3": ("IA3",)}
_SUMMARIES = {
    "dense": "whole tensors, each under its own name",
    "sparse": "what is added to single elements: TENSOR/data, indices, indptr, shape",
    "low-rank": "two thin matrices whose product is added: TENSOR/R, TENSOR/C; or a PEFT directory of LoRA",
    "ia3": "what a tensor is multiplied by: TENSOR/ia3; or a PEFT directory of IA3",
    AUTO: "any of these; without a file, what is found in the difference from the base",
}


def _open(name: str, path: str, base: Base) -> Adapter:
    if is_peft(path):
        if name in _PEFT_KINDS or name == AUTO:
            return open_peft(path, base, *([_PEFT_KINDS[name]] if name in _PEFT_KINDS else []))
        raise UpdateError(f"'{path}' is a PEFT adapter, and none of type '{name}'", "--update-type auto")
    return open_side_file(path, base, PARTS if name == AUTO else (name,))


BUILT_IN = {name: UpdateType(name, summary, partial(_open, name)) for name, summary in _SUMMARIES.items()}


def update_type(name: str) -> UpdateType:
    """Return an update type by its name.

    Raises:
        UnsupportedError: there is none; the message lists what there is.
        UpdateError: a plug-in names something else.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = plugins.load(plugins.UPDATES, name, tuple(BUILT_IN))
    if not isinstance(found, UpdateType):
        raise UpdateError(f"the plug-in '{name}' of {plugins.UPDATES} is {type(found).__name__}, not an UpdateType")
    return found


def open_adapter(name: str, path: str, base: Base) -> Adapter:
    """Open what lies at a path by an update type; see `UpdateType.open`.

    Raises:
        UpdateError: also where a plug-in fails, and where keys found no tensor, or nothing changes.
        UnsupportedError: there is no such type.
    """
    kind = update_type(name)
    try:
        adapter = kind.open(path, base)
    except UpdateError:
        raise
    except (Exception, SystemExit) as error:
        if name in BUILT_IN:
            raise
        raise UpdateError(f"update type '{name}' failed: {type(error).__name__}: {error}"[:500]) from error
    if name not in BUILT_IN:
        _check(name, adapter)
        adapter = adapter._replace(changes={key: _guarded(name, one) for key, one in adapter.changes.items()})
    if adapter.unused:
        some = ", ".join(f"'{key}'" for key in adapter.unused[:5])
        more = f" and {len(adapter.unused) - 5} more" if len(adapter.unused) > 5 else ""
        raise UpdateError(
            f"'{path}' is for another model: {len(adapter.unused)} of its keys found no tensor: {some}{more}",
            "git theta ls FILE lists the tensors that there are",
        )
    if not adapter.changes:
        raise UpdateError(f"'{path}' changes no tensor")
    return adapter


def _guarded(name: str, change: Change) -> Change:
    """Return a change whose failures are told as those of the plug-in."""

    def failed(error: BaseException) -> UpdateError:
        return UpdateError(f"update type '{name}' failed at '{change.name}': {type(error).__name__}: {error}"[:500])

    def pieces() -> Iterator[Buffer]:
        try:
            yield from change.pieces()
        except UpdateError:
            raise
        except (Exception, SystemExit) as error:
            raise failed(error) from error

    def recipe() -> Recipe:
        assert change.recipe is not None, "asked for where there is one"
        try:
            return change.recipe()
        except UpdateError:
            raise
        except (Exception, SystemExit) as error:
            raise failed(error) from error

    return change._replace(pieces=pieces, recipe=None if change.recipe is None else recipe)


def _check(name: str, adapter: object) -> None:
    """Refuse what a plug-in may not answer."""
    if not isinstance(adapter, Adapter) or not all(
        key == change.name for key, change in getattr(adapter, "changes", {}).items()
    ):
        raise UpdateError(f"update type '{name}' did not answer with an Adapter whose changes have their names")
