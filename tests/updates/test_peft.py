"""Adapters of PEFT: what we merge is what PEFT merged, to the bit, or in a stated number of elements not."""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from thetastore.adapters import Adapter
from thetastore.adapters.types import open_adapter
from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.merging.checkpoints import FileCheckpoint
from thetastore.updates.recipe import UpdateError

GOLDEN = os.path.join(os.path.dirname(__file__), "peft.npz")
DIFFERING = {
    "dora": (87, 3),
    "dora-fan-in-fan-out": (186, 3),
    "dora-conv": (212, 2),
    "dora-embedding": (235, 2),
}
"""How many elements differ, and by how many units in the last place at most: the norms of DoRA are sums, whose order is
PyTorch's own matter."""


def cases(path: str = GOLDEN) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            case, _, rest = key.partition("|")
            if rest:
                found.setdefault(case, {})[rest] = arrays[key]
    return found


def dtype_of(name: str) -> str:
    return name.removeprefix("torch.")


def write(path: Path, arrays: dict[str, tuple[str, np.ndarray]]) -> None:
    tensors = [
        NewTensor(name, dtype, array.shape, lambda array=array: iter([memoryview(np.ascontiguousarray(array))]))
        for name, (dtype, array) in arrays.items()
    ]
    with open(path, "wb") as stream:
        safetensors_source(tensors).write_to(stream.fileno())


def prepare(directory: Path, case: dict[str, np.ndarray], bases: dict[str, np.ndarray]) -> None:
    """Write base and adapter of a case."""
    base, adapter = {}, {}
    bases = bases | {key.removeprefix("base|"): array for key, array in case.items() if key.startswith("base|")}
    for key, array in case.items():
        what, _, rest = key.partition("|")
        dtype, _, name = rest.partition("|")
        if what == "adapter":
            adapter[name] = dtype_of(dtype), array
        if what == "sha256":
            base[name] = dtype_of(dtype), bases[f"{dtype}|{name}"]
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter_config.json").write_bytes(case["config"].tobytes())
    write(directory / "adapter" / "adapter_model.safetensors", adapter)
    write(directory / "base.safetensors", base)


def opened(directory: Path, kind: str = "auto") -> Adapter:
    return open_adapter(kind, str(directory / "adapter"), FileCheckpoint(str(directory / "base.safetensors")))


def of(case: dict[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    return {key.rpartition("|")[2]: array for key, array in case.items() if key.startswith(f"{what}|")}


@pytest.mark.parametrize("name", [name for name in cases() if name != "base"])
def test_an_adapter_is_merged_as_peft_merges_it(name: str, tmp_path: Path) -> None:
    found = cases()
    prepare(tmp_path, found[name], found["base"])
    digests = of(found[name], "sha256")

    changes = opened(tmp_path).changes

    assert set(changes) == set(digests)
    if name not in DIFFERING:
        made = {name: sha256(b"".join(change.pieces())).digest() for name, change in changes.items()}
        assert made == {name: digest.tobytes() for name, digest in digests.items()}


@pytest.mark.parametrize("name", DIFFERING)
def test_dora_is_merged_as_peft_merges_it_but_for_a_unit_in_some_places(name: str, tmp_path: Path) -> None:
    found = cases()
    prepare(tmp_path, found[name], found["base"])
    ((key, changed),) = of(found[name], "xor").items()
    dtype = next(key.split("|")[1] for key in found[name] if key.startswith("xor|"))
    merged = changed ^ found["base"][f"{dtype}|{key}"]

    raw = b"".join(opened(tmp_path).changes[key].pieces())

    units = np.abs(np.frombuffer(raw, merged.dtype).reshape(merged.shape).astype("i8") - merged.astype("i8"))
    assert (int(np.count_nonzero(units)), int(units.max())) == DIFFERING[name]


def lora(tmp_path: Path) -> Path:
    found = cases()
    prepare(tmp_path, found["lora"], found["base"])
    return tmp_path


def test_an_adapter_of_another_type_than_was_said_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="type LORA; IA3 is what this reads"):
        opened(lora(tmp_path), "ia3")


def test_an_adapter_for_another_model_names_the_keys_that_found_no_tensor(tmp_path: Path) -> None:
    directory = lora(tmp_path)
    found = cases()
    write(
        directory / "base.safetensors", {"inner.q.weight": ("float32", found["base"]["torch.float32|inner.q.weight"])}
    )

    with pytest.raises(UpdateError, match=r"2 of its keys found no tensor: 'base_model.model.inner.k.lora_A.weight'"):
        opened(directory)


def test_a_base_that_was_saved_under_a_longer_or_shorter_name_is_found(tmp_path: Path) -> None:
    found = cases()
    prepare(tmp_path, found["lora"], found["base"])
    base = {
        f"model.{n}": ("float32", found["base"][f"torch.float32|{n}"]) for n in ("inner.q.weight", "inner.k.weight")
    }
    write(tmp_path / "base.safetensors", base)

    assert set(opened(tmp_path).changes) == {"model.inner.q.weight", "model.inner.k.weight"}


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    directory = lora(tmp_path)
    weights = np.zeros((40, 24), "u4")
    write(directory / "base.safetensors", {f"inner.{name}.weight": ("float32", weights) for name in "qk"})

    with pytest.raises(
        UpdateError, match=r"\[4, 24\] and .*\[32, 4\] do not fit tensor 'inner.k.weight' of \[40, 24\]"
    ):
        opened(directory)


def test_an_adapter_of_a_convolution_in_groups_is_refused_with_the_reason(tmp_path: Path) -> None:
    directory = lora(tmp_path)
    key = "base_model.model.conv.lora_{}.weight"
    factors = {"A": np.ones((4, 8, 3), "f4"), "B": np.ones((6, 2, 1), "f4")}
    adapter = {key.format(part): ("float32", array) for part, array in factors.items()}
    write(directory / "adapter" / "adapter_model.safetensors", adapter)
    write(directory / "base.safetensors", {"conv.weight": ("float32", np.ones((6, 4, 3), "f4"))})

    with pytest.raises(UpdateError, match=r"groups \('conv.weight' of \[6, 4, 3\]\).*PEFT does not merge it either"):
        opened(directory)


def test_a_factor_that_is_no_number_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    directory = lora(tmp_path)
    found = cases()["lora"]
    adapter = {
        key.split("|")[2]: (dtype_of(key.split("|")[1]), array.copy())
        for key, array in found.items()
        if key.startswith("adapter|")
    }
    adapter["base_model.model.inner.q.lora_A.weight"][1][0, 0] = 0x7FC00000
    write(directory / "adapter" / "adapter_model.safetensors", adapter)

    with pytest.raises(UpdateError, match="'base_model.model.inner.q.lora_A.weight' has 1 elements that are NaN"):
        list(opened(directory).changes["inner.q.weight"].pieces())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"peft_type": "PREFIX_TUNING"}), "type PREFIX_TUNING; LORA and IA3 are what this reads; merge it"),
        (json.dumps({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}), "PEFT changes the base itself"),
        (
            json.dumps({"peft_type": "LORA", "trainable_token_indices": [3]}),
            "trainable_token_indices, which is not",
        ),
        (json.dumps({"peft_type": "LORA", "lora_alpha": "many"}), "cannot be read"),
        (json.dumps({"peft_type": "LORA", "alpha_pattern": {"(a+)+": 2}}), "repeats groups"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(text: str, what: str, tmp_path: Path) -> None:
    directory = lora(tmp_path)
    (directory / "adapter" / "adapter_config.json").write_text(text)

    with pytest.raises(UpdateError, match=what):
        opened(directory)


@pytest.mark.deep
@pytest.mark.skipif("THETA_PEFT_PYTHON" not in os.environ, reason="THETA_PEFT_PYTHON names no python with peft")
def test_larger_adapters_are_merged_as_peft_merges_them_today(tmp_path: Path) -> None:
    script = os.path.join(os.path.dirname(__file__), "make_peft_golden.py")
    path = tmp_path / "peft.npz"
    subprocess.run([os.environ["THETA_PEFT_PYTHON"], script, path, "256", "512"], check=True)
    found = cases(str(path))
    for number, (name, case) in enumerate(found.items()):
        if name == "base" or "dora" in name:
            continue
        directory = tmp_path / str(number)
        directory.mkdir()
        prepare(directory, case, found["base"])
        made = {n: sha256(b"".join(change.pieces())).digest() for n, change in opened(directory).changes.items()}
        assert made == {n: digest.tobytes() for n, digest in of(case, "sha256").items()}, name
