"""Training commits its checkpoints: what transformers calls by name is there, and nothing is imported for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import gitbridge
from gitbridge.callbacks import TrainerCallback, lightning_callback
from thetastore.errors import UnsupportedError


class Net:
    """What a callback needs of a model."""

    def __init__(self):
        self.weight = np.zeros((3, 4), np.float32)

    def state_dict(self):
        return {"weight": self.weight}


@pytest.fixture
def repo(make_work):
    work = make_work()
    work.commit("start")
    return work


def test_each_save_of_a_trainer_is_a_commit(repo):
    callback, net = TrainerCallback("m.safetensors", "run", repo.path), Net()
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)

    callback.on_train_begin(None, state, None, model=net)
    for step in (10, 20):
        net.weight += 1
        state.global_step = step
        callback.on_save(None, state, None, model=net)
        callback.on_step_end(None, state, None, model=net)
    callback.on_train_end(None, state, None, model=net)

    assert repo.git("log", "--format=%s", "run").out.splitlines()[:2] == [
        "checkpoint at step 20",
        "checkpoint at step 10",
    ]
    assert (gitbridge.open(repo.path, "run~1")["weight"].numpy() == 1).all()
    assert (gitbridge.open(repo.path, "run")["weight"].numpy() == 2).all()


def test_other_processes_of_a_run_save_nothing(repo):
    callback = TrainerCallback("m.safetensors", "run", repo.path)

    callback.on_save(None, SimpleNamespace(global_step=1, is_world_process_zero=False), None, model=Net())
    callback.on_train_end(None, None, None)

    assert repo.git("branch", "--list", "run").out == ""
    with pytest.raises(AttributeError):
        _ = callback.nothing


def test_a_callback_goes_to_processes_that_are_started_for_a_run(repo):
    callback = pickle.loads(pickle.dumps(TrainerCallback("m.safetensors", "run", repo.path)))

    callback.on_save(None, SimpleNamespace(global_step=7), None, model=Net())
    callback.on_train_end(None, None, None)

    assert repo.git("log", "-1", "--format=%s", "run").out == "checkpoint at step 7\n"


def test_a_callback_for_lightning_says_what_it_needs():
    with pytest.raises(ImportError, match="pip install lightning"):
        lightning_callback("m.safetensors", "run")


def test_no_framework_is_imported_for_the_packages():
    code = (
        "import sys, thetastore, gitbridge, gitbridge.callbacks\n"
        "thetastore.open; gitbridge.open; gitbridge.commit; gitbridge.safe_open; gitbridge.Saver\n"
        "found = {'torch', 'jax', 'transformers', 'lightning', 'zarr', 'fsspec', 'numpy'} & set(sys.modules)\n"
        "assert not found, found\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_importing_the_packages_costs_next_to_nothing():
    code = (
        "import sys, thetastore, gitbridge; print([name for name in sys.modules if 'theta' in name or 'gitb' in name])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "['thetastore', 'gitbridge']\n"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gitbridge.nothing


def test_every_process_helps_to_gather_weights_and_one_commits_them(repo):
    callback, asked = TrainerCallback("m.safetensors", "run", repo.path), []

    class Spread(Net):
        def state_dict(self):
            asked.append(self)
            return super().state_dict()

    callback.on_save(None, SimpleNamespace(global_step=1, is_world_process_zero=False), None, model=Spread())

    assert len(asked) == 1, "a process that does not take part would let the others wait for ever"
    assert repo.git("branch", "--list", "run").out == ""


def test_weights_that_deepspeed_has_cut_up_are_refused(repo):
    callback, parameter = TrainerCallback("m.safetensors", "run", repo.path), SimpleNamespace(ds_tensor=np.zeros(2))
    net = SimpleNamespace(named_parameters=lambda: [("weight", parameter)], state_dict=lambda: {"weight": np.zeros(0)})

    with pytest.raises(UnsupportedError, match="'weight' is in pieces"):
        callback.on_save(None, SimpleNamespace(global_step=1), None, model=net)

    assert repo.git("branch", "--list", "run").out == ""
