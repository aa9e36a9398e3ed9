"""Every checkpoint of a training run as a commit: callbacks for transformers' Trainer and for Lightning.

    trainer = Trainer(..., callbacks=[TrainerCallback("model.safetensors", "checkpoints")])
    trainer = lightning.Trainer(callbacks=[lightning_callback("model.safetensors", "checkpoints")])

Neither framework is imported before it is used: transformers asks a callback only for methods by name, and the class
for Lightning is made when it is asked for. Training goes on while a checkpoint is committed; what went wrong with one
is raised at the next, or at the end of training.

Weights in pieces (FSDP, tensor parallelism) are gathered by all processes, and committed by the first. What cannot be
gathered so is refused: ZeRO 3 of DeepSpeed, and what Lightning is told to save in pieces.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gitbridge.saving import Saver
from thetastore.arrays import check_whole
from thetastore.errors import PackageMissingError


class TrainerCallback:
    """Commits the model whenever transformers' Trainer saves a checkpoint; the main process does, and all gather."""

    def __init__(self, path: str, branch: str, repository: str | os.PathLike[str] = ".") -> None:
        """Commit to `path` on `branch`; see `gitbridge.commit`."""
        self.saver = Saver(path, branch, repository)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begin to commit the model as it is."""
        if model is None:
            return
        tensors = _gathered(model)  # by every process, or the others would wait for ever
        if getattr(state, "is_world_process_zero", True):
            self.saver.save(tensors, f"checkpoint at step {state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the last commit."""
        self.saver.close()

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Return what does nothing, for all other events, those of later versions too."""
        if not name.startswith("on_"):
            raise AttributeError(f"'TrainerCallback' has no attribute '{name}'")
        return _ignore


def _gathered(model: Any) -> Mapping[str, Any]:
    """Return the tensors of a model by name, whole; of one in pieces, on the first process only."""
    for name, parameter in getattr(model, "named_parameters", tuple)():
        if hasattr(parameter, "ds_tensor"):
            check_whole(name, parameter)
    torch = sys.modules.get("torch")
    found: Mapping[str, Any]
    if torch is None or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        found = model.state_dict()
    else:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return found


def _ignore(*_: Any, **__: Any) -> None:
    return None


def lightning_callback(path: str, branch: str, repository: str | os.PathLike[str] = ".") -> Any:
    """Return a callback that commits the module whenever Lightning saves a checkpoint. On the main process.

    What is committed is what Lightning has gathered for its own checkpoint.

    It is one of `lightning`, or where that is not installed, of `pytorch_lightning`.

    Args:
        path: of the file, from the top of the work tree.
        branch: see `gitbridge.commit`.
        repository: the repository, or a directory in its work tree.

    Raises:
        PackageMissingError: neither is installed.
    """

    class Commit(_lightning_class()):  # type: ignore[misc]  # Lightning may not be installed
        def __init__(self) -> None:
            self.saver = Saver(path, branch, repository)

        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            if trainer.is_global_zero:
                message = f"checkpoint of epoch {trainer.current_epoch} at step {trainer.global_step}"
                self.saver.save(checkpoint["state_dict"], message)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self.saver.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.saver.close()

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str, str]]:
            # For strategies that start processes: pickle cannot find a class of a function.
            return lightning_callback, (path, branch, os.path.abspath(repository))

    return Commit()


def _lightning_class() -> Any:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError as error:
        try:
            from pytorch_lightning import Callback  # type: ignore[import-not-found]
        except ModuleNotFoundError:
            raise PackageMissingError.of(error, "a callback for Lightning") from None
    return Callback
