"""TensorFlow checkpoints and ONNX models with external data: one file names the tensors, others hold them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

import gitbridge
import thetastore
from gitbridge.errors import PathMissingError
from thetastore.cli.main import main as thetastore_main
from thetastore.errors import MalformedError, NoSuchModelError, NoSuchTensorError

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHECKPOINT = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("embed_weight", "layer_0_bias", "layer_0_weight")}


def copy(work, folder, *globs):
    for glob in globs:
        for path in (FIXTURES / folder).glob(glob):
            shutil.copy(path, work.path / path.name)


def large_onnx(rows: int) -> tuple[bytes, bytes, np.ndarray]:
    """Return a model of two tensors in another file, that file, and the second tensor."""

    def field(number: int, raw: bytes) -> bytes:
        head, length = bytes([number << 3 | 2]), len(raw)
        while length > 0x7F:
            head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
        return head + bytes([length]) + raw

    def whole(number: int, value: int) -> bytes:
        return bytes([number << 3, value & 0x7F | 0x80, value >> 7])

    first, second = (np.random.default_rng(seed).standard_normal((rows, 256)).astype("f4") for seed in (1, 2))
    tensors = b""
    for name, offset in ((b"first", 0), (b"second", first.nbytes)):
        place = {b"location": b"big.bin", b"offset": b"%d" % offset, b"length": b"%d" % first.nbytes}
        pairs = b"".join(field(13, field(1, key) + field(2, value)) for key, value in place.items())
        tensors += field(5, whole(1, rows) + whole(1, 256) + whole(2, 1) + field(8, name) + pairs + whole(14, 1))
    return b"\x08\x08" + field(7, tensors), first.tobytes() + second.tobytes(), second


@pytest.fixture
def tracking(work):
    work.theta("install")
    work.theta("track", "*.index", "*.data-*", "*.onnx", "*.data", "*.bin")
    return work


@pytest.fixture
def checkpoint(tracking):
    """A repository with a TensorFlow checkpoint of two data files."""
    copy(tracking, "tensorflow", "sharded.*")
    tracking.git("add", ".")
    tracking.commit("a checkpoint")
    tracking.git("tag", "v1")
    return tracking


@pytest.fixture
def large(tracking, make_work, tmp_path):
    """A remote to which an ONNX model was pushed that has two tensors of a megabyte in another file."""
    raw, data, _ = large_onnx(1024)
    (tracking.path / "big.onnx").write_bytes(raw)
    (tracking.path / "big.bin").write_bytes(data)
    bare = make_work("bare.git", "--bare")
    tracking.git("remote", "add", "origin", str(bare.path))
    tracking.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "weights"))
    tracking.git("add", ".")
    tracking.commit("a model, and where its weights are")
    tracking.git("push", "-q", "origin", "main")
    return bare


def stored_bytes(work) -> int:
    return sum(path.stat().st_size for path in (work.path / ".git" / "theta").rglob("*.pack"))


@pytest.mark.parametrize("name", ["checkpoint", "dtypes", "sharded", "sliced"])
def test_a_checkpoint_reads_as_tensorflow_reads_it(tracking, name):
    copy(tracking, "tensorflow", f"{name}.*")
    tracking.git("add", ".")
    model = gitbridge.open(tracking.path / f"{name}.index")

    expected = json.loads((FIXTURES / "tensorflow" / "expected.json").read_text())
    rows = expected.get(f"{name}.index wholes", expected[f"{name}.index"])
    found = [
        [k, t.dtype_name, list(t.shape), hashlib.sha256(t.numpy().tobytes()).hexdigest()] for k, t in model.items()
    ]
    assert found == sorted(rows)


@pytest.mark.parametrize("name", ["external", "mixed"])
def test_a_model_reads_as_onnx_reads_it(tracking, name):
    copy(tracking, "onnx", "*")
    tracking.git("rm", "-rq", "--cached", "--ignore-unmatch", ".")
    tracking.theta("track", "embed.weight", "here.bias", "here.weight", "packed")
    tracking.git("add", ".")
    model = gitbridge.open(tracking.path / f"{name}.onnx")

    every = json.loads((FIXTURES / "onnx" / "external.json").read_text())
    rows = {row[0]: row[1:] for kind in ("inside", "outside") for row in every[f"{name}.onnx {kind}"]}
    raw = {key: bytes(model.reader_of(key).read(key)) for key in model}
    found = {k: [t.dtype_name, list(t.shape), hashlib.sha256(raw[k]).hexdigest()] for k, t in model.items()}
    assert found == rows


def test_a_directory_with_one_such_model_opens_by_its_path(checkpoint):
    model = gitbridge.open(checkpoint.path, "v1")

    assert (model.path, sorted(model)) == ("sharded.index", ["steps0", "steps1", "w0", "w1"])
    assert np.array_equal(model["steps1"], np.arange(4))
    assert np.array_equal(model["w0"][1:3, ::2], model["w0"].numpy()[1:3, ::2])


def test_handles_are_pickled_and_their_pins_open_the_same(checkpoint):
    model = gitbridge.open(checkpoint.path, "v1")
    again = pickle.loads(pickle.dumps(model))

    assert np.array_equal(again["w1"], model["w1"])
    assert gitbridge.open(model.pin())["w1"].digest == model["w1"].digest
    assert [commit.subject for commit in model.log()] == ["a checkpoint"]


def test_digests_of_such_tensors_are_those_that_other_formats_have(checkpoint):
    model = gitbridge.open(checkpoint.path, "v1")
    gitbridge.commit({"w0": model["w0"].numpy()}, "m.safetensors", "again", "other", repository=checkpoint.path)

    assert gitbridge.open(checkpoint.path, "other", "m.safetensors")["w0"].digest == model["w0"].digest


def test_git_may_keep_the_file_that_names_the_tensors(tracking):
    tracking.theta("untrack", "*.index", "*.onnx")
    copy(tracking, "tensorflow", "sharded.*")
    copy(tracking, "onnx", "external.*")
    tracking.git("add", ".")
    tracking.commit("git keeps the index")

    assert [line.split()[-1] for line in tracking.theta("ls-files").out.splitlines()] == [
        "external.data",
        "sharded.data-00000-of-00002",
        "sharded.data-00001-of-00002",
    ]
    assert np.array_equal(gitbridge.open(tracking.path / "sharded.index", "HEAD")["steps0"], np.arange(3))
    assert gitbridge.open(tracking.path, path="external.onnx")["layer.0.weight"].shape == (16, 16)
    assert "w1" in tracking.theta("ls", "HEAD:sharded.index").out
    with fsspec.open(f"theta://{tracking.path}@HEAD/sharded.index//steps0") as stream:
        assert np.array_equal(np.frombuffer(stream.read(), "i8"), np.arange(3))


def test_only_the_chunks_of_a_tensor_are_fetched(large, make_work):
    clone = make_work("clone", "--no-checkout", clone=large.path)
    model = gitbridge.open(clone.path, "HEAD")
    before = stored_bytes(clone)
    row = model["second"][1000]
    for_a_row = stored_bytes(clone) - before

    assert np.array_equal(row, large_onnx(1024)[2][1000])
    assert 0 < for_a_row < 1_250_000, "the megabyte of the tensor, and what is in its first and last chunk"
    assert model["second"].numpy().tobytes() == large_onnx(1024)[2].tobytes()
    assert stored_bytes(clone) == before + for_a_row


def test_a_clone_without_weights_lists_the_tensors(large, make_work):
    clone = make_work("clone", "--no-checkout", clone=large.path)
    done = clone.theta("ls", "HEAD:big.onnx")

    assert done.out.splitlines()[-1] == "2 tensors, 524,288 elements, 2.10 MB"
    assert stored_bytes(clone) < 2000


def test_a_part_of_such_a_model_is_a_safetensors_file(checkpoint):
    done = checkpoint.theta("checkout", "--tensors", "w*", "--to", "part.safetensors", "v1:sharded.index")

    part = gitbridge.load_file(checkpoint.path / "part.safetensors", framework="np")
    assert (done.status, done.err) == (0, "")
    assert "2 of 4 tensors" in done.out
    assert sorted(part) == ["w0", "w1"]
    assert np.array_equal(part["w1"], gitbridge.open(checkpoint.path, "v1")["w1"])


def test_ls_and_show_see_the_tensors_of_other_files(checkpoint):
    shown = json.loads(checkpoint.theta("show", "--json", "v1:sharded.index").out)
    of_tensor = json.loads(checkpoint.theta("show", "--json", "--stats", "v1:sharded.index//steps1").out)

    assert (shown["tensors"], shown["files"][0]) == (4, "sharded.index")
    assert (of_tensor["maximum"], of_tensor["digest"]) == (3, None)
    assert checkpoint.theta("ls", "-z", "sharded.index", "w*").out == "w0\0w1\0"


def test_a_list_of_shards_is_listed_as_one_model_too(work):
    work.theta("install")
    work.theta("track", "*.safetensors")
    shutil.copy(FIXTURES / "torch" / "model.safetensors", work.path / "a.safetensors")
    shutil.copy(FIXTURES / "torch" / "dtypes.safetensors", work.path / "b.safetensors")
    shards = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (work.path / "model.safetensors.index.json").write_text(json.dumps(shards))
    work.git("add", ".")

    listed = work.theta("ls", "model.safetensors.index.json", "embed.weight", "norm.scale")
    shown = work.theta("show", "--stats", "model.safetensors.index.json//norm.scale")
    assert (listed.status, len(listed.out.splitlines())) == (0, 2)
    assert (shown.status, shown.err) == (0, "")


def test_a_data_file_that_is_not_tracked_is_named(tracking):
    copy(tracking, "tensorflow", "sharded.index", "sharded.data-00000*")
    tracking.git("add", ".")

    done = tracking.theta("ls", "sharded.index")
    assert done.status == 2
    assert (
        "'sharded.index' says that tensors are in 'sharded.data-00001-of-00002', which is not tracked there" in done.err
    )
    with pytest.raises(PathMissingError, match="which is not tracked there"):
        gitbridge.open(tracking.path, path="sharded.index")


def test_files_of_two_versions_are_no_model(checkpoint):
    (checkpoint.path / "sharded.data-00001-of-00002").write_bytes(b"short")
    checkpoint.git("add", ".")
    model = gitbridge.open(checkpoint.path, "v1")

    with pytest.raises(MalformedError, match="they are not of one version"):
        gitbridge.open(checkpoint.path)
    assert np.array_equal(model["steps1"], np.arange(4))


def test_a_name_that_is_not_there_is_told_with_what_is_near(checkpoint):
    with pytest.raises(NoSuchTensorError, match="did you mean 'steps0'"):
        gitbridge.open(checkpoint.path)["step0"]
    done = checkpoint.theta("cat", "sharded.index//step0")
    assert (done.status, "did you mean 'steps0'" in done.err) == (2, True)


def test_the_data_file_says_which_file_names_its_tensors(checkpoint):
    done = checkpoint.theta("ls", "sharded.data-00000-of-00002")

    assert done.err.splitlines()[1] == "hint: its tensors are named in another file: git theta ls sharded.index"


def test_a_url_of_one_tensor_reads_its_bytes(checkpoint):
    with fsspec.open(f"theta://{checkpoint.path}@v1/sharded.index//steps1") as stream:
        assert np.array_equal(np.frombuffer(stream.read(), "i8"), np.arange(4))
    with pytest.raises(FileNotFoundError, match="did you mean"):
        fsspec.open(f"theta://{checkpoint.path}@v1/sharded.index//step1").open()


def test_a_version_in_a_store_is_one_model(tmp_path, capsys):
    files = [str(path) for path in (FIXTURES / "tensorflow").glob("sharded.*")]
    models = thetastore.Models(tmp_path / "store", create=True)
    models.put("tf/run", files, "from files")
    model = thetastore.open(f"{tmp_path}/store/tf/run")

    assert np.array_equal(pickle.loads(pickle.dumps(model))["steps1"], np.arange(4))
    thetastore_main(["show", f"{tmp_path}/store/tf/run//w1"])
    assert "float32" in capsys.readouterr().out
    thetastore_main(["get", f"{tmp_path}/store/tf/run", "--tensors", "w*", "--to", f"{tmp_path}/w.safetensors"])
    assert os.path.getsize(tmp_path / "w.safetensors") > 256


def test_a_version_that_lacks_a_data_file_is_not_stored(tmp_path):
    models = thetastore.Models(tmp_path / "store", create=True)
    before = {path: path.stat().st_size for path in (tmp_path / "store").rglob("*")}
    with pytest.raises(MalformedError, match=r"tensors are in 'sharded\.data-00000-of-00002', which is not there"):
        models.put("tf/run", [str(FIXTURES / "tensorflow" / "sharded.index")])

    assert {path: path.stat().st_size for path in (tmp_path / "store").rglob("*")} == before
    with pytest.raises(NoSuchModelError):
        thetastore.open(f"{tmp_path}/store/tf/run")


def test_a_list_of_shards_without_them_is_not_stored(tmp_path):
    shards = tmp_path / "model.safetensors.index.json"
    shards.write_text(json.dumps({"weight_map": {"one": "a.safetensors"}}))
    models = thetastore.Models(tmp_path / "store", create=True)
    with pytest.raises(MalformedError, match=r"names the shard 'a\.safetensors', which is not there: give that, too"):
        models.put("sharded", shards)

    shutil.copy(FIXTURES / "torch" / "model.safetensors", tmp_path / "a.safetensors")
    assert len(list(models)) == 0
    assert len(models.put("sharded", [shards, tmp_path / "a.safetensors"])) > 0


def dcp_rows(model):
    raw = {key: bytes(model.reader_of(key).read(key)) for key in model}
    return [[k, t.dtype_name, list(t.shape), hashlib.sha256(raw[k]).hexdigest()] for k, t in model.items()]


EXPECTED_DCP = json.loads((FIXTURES / "dcp" / "expected.json").read_text())


@pytest.fixture(params=["git keeps the table", "the table is tracked, too"])
def distributed(work, request):
    """A repository with a distributed checkpoint of torch: 4 processes, tensors cut along every axis."""
    work.theta("install")
    work.theta("track", "*.distcp", *["**/.metadata"] * (request.param == "the table is tracked, too"))
    shutil.copytree(FIXTURES / "dcp", work.path / "run" / "step-1", ignore=shutil.ignore_patterns("*.json"))
    work.git("add", ".")
    work.commit("a distributed checkpoint")
    work.git("tag", "v1")
    return work


def test_a_distributed_checkpoint_reads_as_torch_loads_it(distributed):
    for path in ("run/step-1", "run/step-1/.metadata", "run"):
        assert dcp_rows(gitbridge.open(distributed.path / path, "v1")) == EXPECTED_DCP
    model = pickle.loads(pickle.dumps(gitbridge.open(distributed.path, path="run/step-1")))
    assert dcp_rows(model) == EXPECTED_DCP
    assert {name: array.shape for name, array in model.state_dict().items()} == {k: t.shape for k, t in model.items()}
    for name, tensor in model.items():
        if tensor.ndim > 1 and tensor.size:
            assert tensor[:, -1:].tobytes() == tensor.numpy()[:, -1:].tobytes(), name
            assert tensor[-1].tobytes() == tensor.numpy()[-1].tobytes(), name


def test_the_directory_of_a_distributed_checkpoint_is_named_on_the_command_line(distributed):
    listed = distributed.theta("ls", "v1:run/step-1")
    assert listed.out.splitlines()[-1].startswith(f"{len(EXPECTED_DCP)} tensors, ")
    assert json.loads(distributed.theta("show", "--json", "--stats", "run/step-1//model.plain").out)["maximum"] == 6
    with fsspec.open(f"theta://{distributed.path}@v1/run/step-1/.metadata//model.plain") as stream:
        assert np.array_equal(np.frombuffer(stream.read(), "i8"), np.arange(7))

    done = distributed.theta("checkout", "--tensors", "model.[bc]o*", "--to", "part.safetensors", "v1:run/step-1")
    part = gitbridge.load_file(distributed.path / "part.safetensors", framework="np")
    assert (done.status, sorted(part)) == (0, ["model.both", "model.columns", "model.complex"])


def test_a_distributed_checkpoint_in_a_store_is_one_model(tmp_path):
    directory = shutil.copytree(FIXTURES / "dcp", tmp_path / "step-1", ignore=shutil.ignore_patterns("*.json"))
    models = thetastore.Models(tmp_path / "store", create=True)

    assert dcp_rows(models.put("run", directory)) == EXPECTED_DCP
    assert dcp_rows(thetastore.open(f"{tmp_path}/store/run")) == EXPECTED_DCP
    with pytest.raises(MalformedError, match=r"'\.metadata' says that tensors are in '__0_0\.distcp', which is not"):
        models.put("other", directory / ".metadata")


def test_shards_of_another_version_are_no_model(distributed):
    place = distributed.path / "run" / "step-1"
    shutil.copy(place / "__0_0.distcp", place / "__1_0.distcp")
    distributed.git("add", ".")

    with pytest.raises(MalformedError, match="they are not of one version"):
        gitbridge.open(place)


def test_another_file_called_metadata_is_no_model(work):
    work.theta("install")
    work.theta("track", "*.safetensors", ".metadata")
    (work.path / ".metadata").write_bytes(pickle.dumps({"a": 1}) + bytes(5000))
    shutil.copy(FIXTURES / "torch" / "model.safetensors", work.path / "model.safetensors")
    work.git("add", ".")

    assert gitbridge.open(work.path).path == "model.safetensors"
    assert work.theta("ls", ".metadata").err == "git theta: '.metadata' (opaque) has no tensors that git theta sees\n"
