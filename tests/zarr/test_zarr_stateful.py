"""zarr's own stateful tests of a store and of hierarchies in it, over stores that hold checkpoints, too."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine

from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.store import Store
from thetastore.zarr_view import ZarrStore

RARELY = settings(max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=["empty", "filled"])
def url(request, tmp_path):
    path = str(tmp_path / "store")
    with Store.open(path, create=True) as store:
        if request.param == "filled":
            weights = np.random.default_rng(1).standard_normal((300, 70)).astype(np.float32)
            store.put_file(safetensors_source([new_tensor("w", weights)]))
    return path


@pytest.mark.deep
@pytest.mark.parametrize("machine", [ZarrStoreStateMachine, ZarrHierarchyStateMachine])
def test_zarrs_state_machines_find_nothing(url, machine):
    opened = []

    def make():
        opened.append(ZarrStore(url))
        return machine(opened[-1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's, about names and types that its specification lacks
        run_state_machine_as_test(make, settings=RARELY)

    assert opened
    for store in opened:
        store.close()
