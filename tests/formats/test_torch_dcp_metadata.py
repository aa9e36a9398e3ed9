"""The table of a distributed checkpoint says which shards lie where; `make_dcp_fixtures.py` made it with torch."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats import SNIFF_BYTES
from thetastore.formats.outside import Outside, Whole
from thetastore.formats.torch_dcp_metadata import TorchDcpMetadata
from thetastore.testing.formats import BytesFile, mutations

FIXTURES = Path(__file__).parents[1] / "fixtures"
RAW = (FIXTURES / "dcp" / ".metadata").read_bytes()


def outside(raw: bytes) -> list[Outside]:
    return TorchDcpMetadata().outside(BytesFile(raw), ".metadata")


def test_shards_on_a_mesh_say_where_in_their_tensor_they_are() -> None:
    found = {one.tensor.name: one for one in outside(RAW)}

    assert found["model.plain"].whole is None
    assert {name: one.whole for name, one in found.items() if name.startswith("model.both[")} == {
        "model.both[0:5,0:4]": Whole("model.both", (9, 7), (0, 0)),
        "model.both[0:5,4:7]": Whole("model.both", (9, 7), (0, 4)),
        "model.both[5:9,0:4]": Whole("model.both", (9, 7), (5, 0)),
        "model.both[5:9,4:7]": Whole("model.both", (9, 7), (5, 4)),
    }


def test_what_ranks_have_beyond_the_end_of_an_axis_is_no_shard() -> None:
    found = [one for one in outside(RAW) if one.tensor.name.startswith(("model.few", "model.empty"))]

    assert sorted((one.tensor.name, one.tensor.shape, one.whole) for one in found) == [
        ("model.empty", (0, 3), None),
        ("model.few", (1, 3), None),
    ]


def test_a_checkpoint_of_one_process_names_its_tensors() -> None:
    raw = (FIXTURES / "torch" / "shard.metadata").read_bytes()

    assert {one.tensor.name: one.tensor.dtype for one in outside(raw)} == {
        "model.embed.weight": "float32",
        "model.layer.0.bias": "float32",
        "model.layer.0.weight": "float32",
        "model.norm.scale": "float32",
        "optimizer.state.w": "bfloat16",
    }


def test_only_pickles_of_this_kind_are_taken_for_one() -> None:
    assert TorchDcpMetadata().sniff(RAW[:SNIFF_BYTES])
    assert not TorchDcpMetadata().sniff(pickle.dumps({"a": 1}))
    with pytest.raises(NotThisFormat, match=r"called \.metadata"):
        TorchDcpMetadata().outside(BytesFile(RAW), "metadata")


DECLINED = {
    "cut off": RAW[:-1],
    "no state": RAW.replace(b"\x13state_dict_metadata", b"\x13state_dict_netadata"),
    "no places": RAW.replace(b"\x0cstorage_data", b"\x0cstorage_dada"),
    "another class": RAW.replace(b"TensorStorageMetadata", b"TensorStorageMetadatb"),
    "no dtype of torch": RAW.replace(b"\x05torch\x94\x8c\x07float32", b"\x05torcH\x94\x8c\x07float32"),
    "another pickle": pickle.dumps({"state_dict_metadata": {}, "storage_data": {}}),
    "a file above": RAW.replace(b"__0_0.distcp", b"../.._0.dist"),
}


@pytest.mark.parametrize("name", DECLINED)
def test_a_table_that_breaks_a_rule_is_declined(name: str) -> None:
    assert DECLINED[name] != RAW
    with pytest.raises(NotThisFormat):
        outside(DECLINED[name])


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("called",)


def test_nothing_that_a_table_names_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotThisFormat):
        outside(pickle.dumps(Evil()))
    assert capsys.readouterr().out == ""


def test_damaged_tables_name_shards_that_could_be_or_are_declined() -> None:
    accepted = 0
    for raw in mutations(RAW, 600, seed=8):
        try:
            found = outside(raw)
        except NotThisFormat:
            continue
        accepted += 1
        assert all(one.tensor.offset >= 0 and ".." not in one.file_name.split("/") for one in found)
        assert all(one.whole is None or len(one.whole.at) == len(one.tensor.shape) for one in found)
    assert 0 < accepted < 600
