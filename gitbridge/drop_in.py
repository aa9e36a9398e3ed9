"""`safe_open` and `load_file` as safetensors has them, for any format, revision and store: change the import.

    from gitbridge import safe_open
    with safe_open("model.safetensors", framework="pt", revision="v1.2") as file:
        rows = file.get_slice("lm_head.weight")[:128]

Argument names and what comes back are those of safetensors 0.8. Without a revision, a file of the work tree is read as
it is there: a pointer from the store; safetensors that hold their weights by safetensors itself, where it is installed;
any other file that holds its weights from the store, too, as long as it is the one in the index.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from gitbridge import models
from gitbridge.errors import UsageError
from gitbridge.pointers import is_pointer
from gitbridge.repository import Repository
from thetastore.arrays import torch_form
from thetastore.checkpoints.compose import TYPE_NAMES
from thetastore.errors import ThetaError
from thetastore.models import Model, Tensor, framework_of
from thetastore.models import open as open_in_store


class safe_open:  # noqa: N801 - the name that people know
    """A model, in the shape of `safetensors.safe_open`."""

    def __new__(
        cls,
        filename: str | os.PathLike[str],
        framework: str,
        device: Any = "cpu",
        *,
        revision: str | None = None,
        backend: str | None = None,
    ) -> Any:
        """Return one of safetensors' own where that reads the file that is there."""
        theirs = _theirs(filename) if revision is None else None
        if theirs is None:
            return super().__new__(cls)
        return theirs(filename, framework=framework, device=device, **_backend(backend))

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str,
        device: Any = "cpu",
        *,
        revision: str | None = None,
        backend: str | None = None,
    ) -> None:
        """Open a model.

        Args:
            filename: a file or a directory in a work tree, a URL of a repository, or `STORE#DIGEST`.
            framework: `pt`, `np` or `jax` (or `torch`, `numpy`, `flax`).
            device: for torch.
            revision: branch, tag or commit; None for what is checked out.
            backend: how safetensors reads a file that it reads itself; None for its own choice.

        Raises: as `gitbridge.open`; and
            UsageError: the file holds weights that are neither in the index nor safetensors.
        """
        self._framework = framework_of(framework)
        self._device = device
        self._model = _opened(filename, revision)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def keys(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return list(self._model)

    def offset_keys(self) -> list[str]:
        """Return the names of all tensors, in the order of the file."""
        return sorted(self._model, key=lambda name: self._model.reader_of(name).tensor(name).offset)

    def metadata(self) -> dict[str, str] | None:
        """Return the metadata of a safetensors file; None where there is none."""
        return self._model.metadata or None

    def get_tensor(self, name: str) -> Any:
        """Return a tensor; raises a `KeyError` where there is none of the name."""
        return self._model[name].to(self._framework, self._device)

    def get_tensors(self) -> dict[str, Any]:
        """Return all tensors by name."""
        return self._model.state_dict(self._framework, self._device)

    def get_slice(self, name: str) -> _Slice:
        """Return what is sliced with `[...]`, and read only then."""
        return _Slice(self._model[name], self._framework, self._device)


class _Slice:
    """In the shape of safetensors' `PySafeSlice`."""

    def __init__(self, tensor: Tensor, framework: str, device: Any) -> None:
        self._tensor = tensor
        self._framework = framework
        self._device = device

    def get_shape(self) -> list[int]:
        """Return the length of each axis."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """Return the element type as safetensors calls it (`F32`), or our name where it has none."""
        return TYPE_NAMES.get(self._tensor.dtype_name, self._tensor.dtype_name)

    def __getitem__(self, index: Any) -> Any:
        import numpy

        found = numpy.asarray(self._tensor[index])
        if self._framework == "numpy":
            return found
        if self._framework == "jax":
            from thetastore.arrays import jax_form

            return jax_form(found)
        tensor = torch_form(self._tensor.dtype_name, found)
        return tensor if str(self._device) == "cpu" else tensor.to(self._device)


def load_file(
    filename: str | os.PathLike[str],
    device: Any = "cpu",
    *,
    framework: str = "pt",
    revision: str | None = None,
    backend: str | None = None,
) -> dict[str, Any]:
    """Return all tensors of a model, as `safetensors.torch.load_file` (or, by `framework`, `.numpy`, `.flax`) does.

    Args:
        filename: as for `safe_open`.
        device: for torch.
        framework: `pt`, `np` or `jax`.
        revision: branch, tag or commit; None for what is checked out.
        backend: as for `safe_open`.
    """
    theirs = _theirs(filename) if revision is None else None
    if theirs is None:
        return _opened(filename, revision).state_dict(framework, device)
    with theirs(filename, framework=framework, device=device, **_backend(backend)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def _backend(name: str | None) -> dict[str, str]:
    """Return the argument of safetensors 0.8, which those before do not know."""
    return {} if name is None else {"backend": name}


def _opened(filename: str | os.PathLike[str], revision: str | None) -> Model:
    text = os.fspath(filename)
    if revision is None and "#" in text and not os.path.lexists(text):
        return open_in_store(text)
    if revision is None and os.path.isfile(text) and not is_pointer(_head(text)) and not _is_in_index(text):
        raise UsageError(
            f"'{text}' holds weights that are not in the index, and safetensors does not read it",
            "git theta add the file; or name a revision (revision='HEAD') to read what is committed",
        )
    return models.open(text, revision)


def _theirs(filename: str | os.PathLike[str]) -> Any:
    """Return `safetensors.safe_open` for a file that it reads; None for others, and where it is not installed."""
    text = os.fspath(filename)
    head = _head(text) if os.path.isfile(text) else b""
    if is_pointer(head) or head[8:9] != b"{":
        return None
    try:
        from safetensors import safe_open as theirs
    except ModuleNotFoundError:
        return None
    return theirs


def _is_in_index(path: str) -> bool:
    """Tell whether git sees no difference between a file and its entry in the index."""
    directory, name = os.path.split(os.path.abspath(path))
    try:
        with Repository.discover(directory) as repository:
            of_file = ["--", f":(literal){name}"]
            is_known = repository.git("ls-files", *of_file, cwd=directory)
            return bool(is_known) and not repository.git(
                "diff", "--no-ext-diff", "--name-only", *of_file, cwd=directory
            )
    except ThetaError:
        return False


def _head(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(64)
