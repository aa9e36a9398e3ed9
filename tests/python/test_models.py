"""Models are mappings of lazy tensors, sliced as numpy slices, in any thread and any process."""

from __future__ import annotations

import concurrent.futures
import doctest
import multiprocessing
import os
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thetastore
import thetastore.models
from thetastore.arrays import array_form, parse_index
from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.digest import Kind
from thetastore.dtypes import DTYPES
from thetastore.errors import (
    MalformedError,
    NoSuchTensorError,
    ObjectCorruptError,
    ObjectMissingError,
    OutOfRangeError,
    StoreMissingError,
)
from thetastore.store import Store


def source_of(arrays, metadata=None):
    def new(name, array):
        return NewTensor(name, str(array.dtype), array.shape, lambda: iter([array.tobytes()]))

    return safetensors_source([new(*item) for item in arrays.items()], metadata)


def arrays():
    random = np.random.default_rng(1)
    return {
        "model.layers.0.w": random.standard_normal((300, 1000)).astype(np.float32),
        "model.layers.1.w": random.standard_normal((300, 1000)).astype(ml_dtypes.bfloat16),
        "model.layers.10.w": random.standard_normal((7, 5, 3)).astype(ml_dtypes.float8_e4m3fn),
        "cube": random.integers(0, 2**40, (3, 260, 700)),
        "lm_head": random.standard_normal((40, 3)).astype(np.float16),
        "none": np.empty((0, 4), np.float32),
        "scalar": np.array(2.5),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, and the manifest in it."""
    path = str(tmp_path_factory.mktemp("models") / "store")
    with Store.open(path, create=True) as store:
        digest = store.put_file(source_of(arrays(), {"format": "pt", "a": "b"})).manifest_digest
    return path, str(digest)


@pytest.fixture(scope="module")
def model(place):
    return thetastore.open("#".join(place))


def test_a_model_is_a_mapping_of_tensors(model, place):
    expected = arrays()

    assert list(model) == sorted(expected)
    assert len(model) == 7
    assert "cube" in model
    assert "x" not in model
    assert model.get("x") is None
    assert model.nbytes == sum(array.nbytes for array in expected.values())
    assert model.metadata == {"a": "b", "format": "pt"}
    assert repr(model) == f"<model '{place[0]}#{place[1]}': 7 tensors, 6.17 MB>"
    for name, array in expected.items():
        tensor = model[name]
        assert (tensor.name, tensor.shape, tensor.ndim, tensor.size) == (name, array.shape, array.ndim, array.size)
        assert (tensor.dtype, tensor.nbytes) == (array.dtype, array.nbytes)
        assert np.asarray(tensor).tobytes() == array.tobytes()
        assert np.asarray(tensor).dtype == array.dtype
    assert repr(model["lm_head"]) == "<tensor 'lm_head' float16 [40, 3], 240 B>"
    assert len(model["cube"]) == 3
    assert np.asarray(model["lm_head"], dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError):
        len(model["scalar"])
    with pytest.raises(ValueError, match="without a copy"):
        np.array(model["scalar"], copy=False)


def test_memory_belongs_to_the_caller(model):
    one = model["lm_head"].numpy()
    one[:] = 0

    assert np.array_equal(model["lm_head"].numpy(), arrays()["lm_head"])


@st.composite
def indices(draw, shape):
    def part(length):
        def end():
            return st.none() | st.integers(-length, length)

        step = st.none() | st.integers(-7, 7).filter(bool)
        slices = st.builds(slice, end(), end(), step)
        return draw(slices | st.integers(-length, length - 1) if length else slices)

    count = draw(st.integers(0, len(shape)))
    parts = [part(length) for length in shape[:count]]
    if draw(st.booleans()):
        tail = draw(st.integers(0, len(shape) - count))
        parts += [Ellipsis, *(part(length) for length in shape[len(shape) - tail :])]
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["model.layers.0.w", "model.layers.10.w", "cube", "none", "scalar"])
def test_slices_are_those_of_numpy(model, name, data):
    array = arrays_once()[name]
    index = data.draw(indices(array.shape))

    found, expected = model[name][index], array[index]

    assert np.shape(found) == np.shape(expected)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


_ARRAYS = {}


def arrays_once():
    if not _ARRAYS:
        _ARRAYS.update(arrays())
    return _ARRAYS


@pytest.mark.parametrize(
    ("index", "chunk_count"),
    [
        ((0, slice(0, 5)), 1),
        ((slice(None), 0, slice(0, 3)), 3),
        ((2, slice(255, 260)), 1),
        ((slice(0, 2), slice(0, 100)), 2),
        ((0, slice(0, 260)), 2),
        (0, 2),
    ],
)
def test_only_the_chunks_of_a_slice_are_read(place, index, chunk_count):
    with Store.open(place[0]) as store:
        manifest_digest = thetastore.digest.Digest.parse(place[1])
        reader = store.tensors(store.get_manifest(manifest_digest), manifest_digest)
        asked, get = set(), store.objects.get

        def counting(kind, digest, out=None):
            asked.add(digest)
            return get(kind, digest, out)

        store.objects.get = counting
        found = thetastore.arrays.read_slice(reader, "cube", parse_index((3, 260, 700), index))

    assert np.array_equal(found, arrays_once()["cube"][index])
    assert len(asked) == chunk_count


def test_a_step_over_chunks_leaves_them_out(tmp_path):
    array = np.random.default_rng(1).integers(0, 2**60, (40, 65536))
    with Store.open(str(tmp_path / "s"), create=True) as store:
        stored = store.put_file(source_of({"t": array}))
        reader = store.tensors(stored.manifest, stored.manifest_digest)
        asked, get = [], store.objects.get
        store.objects.get = lambda kind, digest, out=None: (asked.append(digest), get(kind, digest, out))[1]

        found = thetastore.arrays.read_slice(
            reader, "t", parse_index(array.shape, (slice(None, None, 10), slice(5, 9)))
        )

    assert np.array_equal(found, array[::10, 5:9])
    assert len(asked) == 4


@pytest.mark.parametrize("index", [300, -301, (0, 1000), slice(0, 301), slice(-400, None), (0, 0, 0), (..., ...)])
def test_what_lies_outside_is_an_index_error(model, index):
    with pytest.raises(OutOfRangeError) as caught:
        model["model.layers.0.w"][index]

    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("index", [[0, 1], np.array([True, False]), None, 1.5, "a", True, slice(0.5, None)])
def test_other_indices_say_how_to_do_it(model, index):
    with pytest.raises(TypeError, match=r"numpy.asarray\(tensor\)"):
        model["model.layers.0.w"][index]


def test_tensors_are_selected_by_glob_expression_function_and_names(model):
    assert list(model.select("model.layers.[0-1].*")) == ["model.layers.0.w", "model.layers.1.w"]
    assert list(model.select(re.compile(r"model\.layers\.\d\.w"))) == ["model.layers.0.w", "model.layers.1.w"]
    assert list(model.select(lambda name: name.endswith("d"))) == ["lm_head"]
    assert list(model.select(["scalar", "cube"], "lm_*")) == ["cube", "lm_head", "scalar"]
    assert list(model.select("model.*").select("*10*")) == ["model.layers.10.w"]
    with pytest.raises(NoSuchTensorError, match="no tensor 'layers.0.w'; did you mean 'model.layers.0.w'") as caught:
        model.select("layers.0.w")
    assert isinstance(caught.value, KeyError)
    with pytest.raises(NoSuchTensorError, match=r"no tensor matches 'layer\.\*'; near names: 'model\.layers\.0\.w'"):
        model.select("layer.*")
    with pytest.raises(NoSuchTensorError, match=r"no tensor matches 'lm_haed\.\*'; near names: 'lm_head'"):
        model.select(re.compile("lm_haed.*"))
    with pytest.raises(NoSuchTensorError, match="no tensor matches '.*<lambda>'$"):
        model.select(lambda _: False)
    with pytest.raises(KeyError):
        model.select("lm_head")["cube"]


def test_of_names_that_are_listed_none_is_left_out_in_silence(model):
    with pytest.raises(NoSuchTensorError, match="no tensor 'lm_haed'; did you mean 'lm_head'"):
        model.select(["cube", "lm_haed"])


def test_a_state_dict_holds_everything(model):
    found = model.state_dict()

    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in arrays().items()}
    assert list(found) == list(model)
    with pytest.raises(ValueError, match="'tf' is not a framework: np, numpy"):
        model.state_dict("tf")


def test_every_type_has_an_array_form():
    for dtype, known in DTYPES.items():
        shape = (3, 4 * known.block_elements)
        form, array_shape = array_form(dtype, shape)
        assert form.itemsize * np.prod(array_shape) == thetastore.dtypes.raw_bytes_of(dtype, np.prod(shape))
    assert array_form("float4_e2m1fn", (3, 3)) == (np.dtype("u1"), (5,))
    assert array_form("gguf_q4_0", (3, 64)) == (np.dtype("u1"), (3, 36))
    assert array_form("bfloat16", (3,)) == (np.dtype(ml_dtypes.bfloat16), (3,))


def digests_of(model) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.items()}


def test_handles_are_pickled_without_what_they_have_open(model):
    some = model.select("model.*")
    some["model.layers.0.w"][:3]

    again, tensor = pickle.loads(pickle.dumps((some, model["cube"])))

    assert digests_of(again) == digests_of(some)
    assert np.array_equal(tensor[1], arrays()["cube"][1])
    assert len(pickle.dumps(model["cube"])) < 1000


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_handles_work_in_other_processes(model, method):
    expected = digests_of(model)  # starts threads, before the fork
    context = multiprocessing.get_context(method)

    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(digests_of, [model, model]))

    assert found == [expected, expected]


def test_a_fork_while_threads_read_does_no_harm(model):
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        busy = [threads.submit(digests_of, model) for _ in range(4)]
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                os._exit(0 if np.array_equal(model["cube"].numpy(), arrays_once()["cube"]) else 1)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        assert all(one.result() == busy[0].result() for one in busy)


def test_threads_share_a_handle(place):
    model = thetastore.open(*place)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda name: (name, model[name].numpy().tobytes()), list(model) * 6))

    assert all(raw == arrays_once()[name].tobytes() for name, raw in found)


def test_what_is_not_there_is_said_by_errors_that_are_builtins(place, tmp_path):
    with pytest.raises(StoreMissingError) as missing:
        thetastore.open(f"{tmp_path}/nowhere#{place[1]}")
    with pytest.raises(ObjectMissingError) as absent:
        thetastore.open(place[0], "ab" * 32)
    with pytest.raises(MalformedError, match="is a store: name a model in it") as no_digest:
        thetastore.open(place[0])
    with pytest.raises(ValueError, match="is not a digest"):
        thetastore.open(place[0], "abc")

    assert isinstance(missing.value, FileNotFoundError)
    assert isinstance(absent.value, KeyError)
    assert isinstance(no_digest.value, ValueError)


def test_a_chunk_that_is_damaged_is_named_with_its_tensor(tmp_path):
    path = tmp_path / "store"
    with Store.open(str(path), create=True) as store:
        digest = store.put_file(source_of(arrays())).manifest_digest
        chunk = store.tensors(store.get_manifest(digest), digest).chunks("model.layers.0.w")[1]
    with Store.open(str(path)) as store:
        place = next(iter(store.objects.catalog.snapshot().find(chunk.chunk.digest)))
    pack = path / place.file_name
    content = bytearray(pack.read_bytes())
    content[place.offset + place.nbytes // 2] ^= 4
    pack.chmod(0o600)
    pack.write_bytes(content)
    model = thetastore.open(str(path), str(digest))

    with pytest.raises(ObjectCorruptError, match="of tensor 'model.layers.0.w' is corrupt"):
        model["model.layers.0.w"].numpy()
    assert np.array_equal(model["model.layers.0.w"][0], arrays()["model.layers.0.w"][0])
    assert np.array_equal(model["cube"].numpy(), arrays()["cube"])


def test_tied_tensors_come_back_as_one(tmp_path):
    from thetastore.manifest import Chunk, Manifest, Tensor, encode_manifest

    raw = np.arange(64, dtype=np.float32).tobytes()
    digest_of = thetastore.digest.digest_of
    with Store.open(str(tmp_path / "s"), create=True) as store:
        chunk = Chunk(len(raw), store.objects.put(Kind.CHUNK, raw))
        tensors = tuple(Tensor(name, "float32", (64,), 0, None, digest_of(raw)) for name in ("a", "b"))
        manifest = Manifest("opaque", 0, len(raw), digest_of(raw), tensors, (chunk,))
        digest = store.objects.put(Kind.MANIFEST, encode_manifest(manifest))

    found = thetastore.open(str(tmp_path / "s"), str(digest)).state_dict()

    assert found["a"] is found["b"]


def test_the_examples_in_docstrings_run():
    assert doctest.testmod(thetastore.models).failed == 0


def test_metadata_that_is_none_is_refused(tmp_path):
    from thetastore.manifest import Chunk, Manifest, encode_manifest

    for number, raw in enumerate([b"", b"\xff" * 64, (9).to_bytes(8, "little") + b"[" * 9, bytes(7)]):
        with Store.open(str(tmp_path / f"s{number}"), create=True) as store:
            chunks = (Chunk(len(raw), store.objects.put(Kind.CHUNK, raw)),) if raw else ()
            manifest = Manifest("safetensors", 0, len(raw), thetastore.digest.digest_of(raw), (), chunks)
            digest = store.objects.put(Kind.MANIFEST, encode_manifest(manifest))

        with pytest.raises(MalformedError, match="speaks of a safetensors file"):
            _ = thetastore.open(str(tmp_path / f"s{number}"), str(digest)).metadata
