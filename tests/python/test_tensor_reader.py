"""Single tensors and parts of them come out of a store as they are in the file, from as few chunks as hold them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.checkpoints.tensors import TensorReader
from thetastore.digest import Kind, digest_of
from thetastore.errors import (
    MalformedError,
    NoSuchTensorError,
    ObjectCorruptError,
    ObjectMissingError,
    OutOfRangeError,
    UnsupportedError,
)
from thetastore.manifest import Chunk, Manifest, Tensor, encode_page, paginate
from thetastore.manifest import PageRef as Page
from thetastore.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as opened:
        yield opened


def source_of(arrays, metadata=None):
    tensors = [
        NewTensor(name, str(array.dtype), array.shape, lambda array=array: iter([array.tobytes()]))
        for name, array in arrays.items()
    ]
    return safetensors_source(tensors, metadata)


def whole(source) -> bytes:
    view = memoryview(bytearray(source.file_bytes + 1))
    assert source.readinto(view) == source.file_bytes
    assert source.readinto(view[:1]) == 0
    return bytes(view[:-1])


def model(seed=1):
    random = np.random.default_rng(seed)
    return {
        "embed": random.standard_normal((3000, 257)).astype(np.float32),
        "layers.0.w": random.standard_normal((600, 700)).astype(np.float16),
        "layers.0.b": random.standard_normal(700).astype(np.float64),
        "step": np.array(7, np.int64),
        "none": np.empty((0, 5), np.float32),
        "mask": random.integers(0, 2, (3, 5)).astype(bool),
    }


def read(store, arrays) -> TensorReader:
    ingested = store.put_file(source_of(arrays))
    return store.tensors(ingested.manifest, ingested.manifest_digest)


def cut(store, raw, tensors, lengths) -> TensorReader:
    """Describe bytes by hand: chunks of these lengths, whatever the tensors are."""
    chunks, at = [], 0
    for nbytes in lengths:
        chunks.append(Chunk(nbytes, store.objects.put(Kind.CHUNK, raw[at : at + nbytes])))
        at += nbytes
    assert at == len(raw)
    pages = []
    for part in paginate(chunks):
        digest = store.objects.put(Kind.PAGE, encode_page(part))
        pages.append(Page(sum(chunk.raw_bytes for chunk in part), len(part), digest))
    table = tuple(sorted(tensors))
    manifest = Manifest("opaque", 0, len(raw), digest_of(raw), table, () if pages else tuple(chunks), tuple(pages))
    return store.tensors(manifest, digest_of(b"the manifest"))


def strided(name, raw, dtype, shape, offset, strides) -> tuple[Tensor, bytes]:
    item = np.dtype(dtype).itemsize
    array = np.ndarray(shape, dtype, raw, offset, [step * item for step in strides])
    return Tensor(name, dtype, shape, offset, strides, digest_of(array.tobytes())), array.tobytes()


def test_every_tensor_comes_back_whole_in_parts_and_in_pieces(store):
    arrays = model()
    reader = read(store, arrays)

    for name, array in arrays.items():
        raw = array.tobytes()
        assert reader.read(name) == raw
        pieces = [(offset, bytes(piece)) for offset, piece in reader.pieces(name)]
        assert b"".join(piece for _, piece in pieces) == raw
        assert [offset for offset, _ in pieces] == list(np.cumsum([0] + [len(piece) for _, piece in pieces])[:-1])
        assert bytes(reader.read_range(name, 0, 0)) == b""
        assert reader.read_range(name, len(raw) // 3, len(raw)) == raw[len(raw) // 3 :]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_of_any_cut_is_right(store, data):
    raw = np.random.default_rng(3).bytes(4000)
    cuts = sorted(data.draw(st.sets(st.integers(1, 3999), max_size=12)))
    lengths = [b - a for a, b in zip([0, *cuts], [*cuts, 4000], strict=True)]
    plain = Tensor("plain", "uint8", (2000,), 900, None, digest_of(raw[900:2900]))
    shape, strides = data.draw(
        st.sampled_from([((20, 30), (1, 20)), ((5, 7, 3), (0, 3, 40)), ((9, 1, 11), (40, 5, 2)), ((600,), (1,))])
    )
    other, gathered = strided("strided", raw, "uint16", shape, 34, strides)
    reader = cut(store, raw, [plain, other], lengths)

    for name, content in (("plain", raw[900:2900]), ("strided", gathered)):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, len(content)))
        assert reader.read(name) == content
        assert reader.read_range(name, start, stop) == content[start:stop]
        assert b"".join(bytes(piece) for _, piece in reader.pieces(name)) == content


def test_chunks_are_those_that_overlap_a_tensor(store):
    raw = bytes(range(200))
    inside = Tensor("inside", "uint8", (30,), 45, None, digest_of(raw[45:75]))
    edge = Tensor("edge", "uint8", (20,), 60, None, digest_of(raw[60:80]))
    column, _ = strided("column", raw, "uint8", (3, 2), 10, (1, 60))
    empty = Tensor("empty", "uint8", (0,), 60, None, digest_of(b""))
    reader = cut(store, raw, [inside, edge, column, empty], [40, 20, 20, 120])

    assert [(placed.offset, placed.chunk.raw_bytes) for placed in reader.chunks("inside")] == [(40, 20), (60, 20)]
    assert [placed.offset for placed in reader.chunks("edge")] == [60]
    assert [placed.offset for placed in reader.chunks("column")] == [0, 40, 60]
    assert reader.chunks("empty") == ()
    assert reader.read("empty") == b""


def test_a_long_chunk_list_is_read_by_the_page(store):
    raw = np.random.default_rng(5).bytes(90_000)
    tensors = [Tensor(f"t{n}", "uint8", (1000,), n * 1000, None, digest_of(raw[n * 1000 :][:1000])) for n in range(90)]
    reader = cut(store, raw, tensors, [30] * 3000)
    assert len(reader.manifest.pages) > 2
    asked = []
    get = store.objects.get
    store.objects.get = lambda kind, digest, out=None: (asked.append(kind), get(kind, digest, out))[1]

    assert reader.read("t40") == raw[40_000:41_000]

    assert asked.count(Kind.PAGE) == 1
    assert asked.count(Kind.CHUNK) == 34
    assert all(reader.read(tensor.name) == raw[tensor.offset :][:1000] for tensor in tensors)


def test_a_part_costs_the_chunks_that_hold_it(store):
    reader = read(store, model())
    asked = []
    get = store.objects.get
    store.objects.get = lambda kind, digest, out=None: (asked.append(digest), get(kind, digest, out))[1]

    reader.read_range("embed", 5000, 9000)

    assert len(asked) == 1
    assert len(reader.chunks("embed")) > 2


def test_a_transposed_tensor_is_decoded_once(store):
    raw = np.random.default_rng(6).bytes(3_000_000)
    tensor, content = strided("t", raw, "float32", (1000, 750), 0, (1, 1000))
    reader = cut(store, raw, [tensor], [100_000] * 30)
    asked = []
    get = store.objects.get
    store.objects.get = lambda kind, digest, out=None: (asked.append(digest), get(kind, digest, out))[1]

    assert reader.read("t") == content

    assert len(asked) == 30


def test_memory_of_the_caller_is_filled(store):
    arrays = model()
    reader = read(store, arrays)
    out = np.empty_like(arrays["embed"])

    reader.read("embed", memoryview(out))

    assert np.array_equal(out, arrays["embed"])
    with pytest.raises(ValueError, match="must be 5600 writable contiguous bytes"):
        reader.read("layers.0.b", memoryview(bytearray(5599)))
    with pytest.raises(ValueError, match="must be 8 writable"):
        reader.read("step", memoryview(bytes(8)))


def test_an_unknown_name_says_which_are_near(store):
    reader = read(store, model())

    with pytest.raises(NoSuchTensorError, match=r"no tensor 'layer.0.w'; did you mean 'layers.0.w'") as caught:
        reader.read("layer.0.w")

    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, 9), (5, 4)])
def test_bytes_outside_of_a_tensor_are_refused(store, start, stop):
    with pytest.raises(OutOfRangeError, match="which has 8"):
        read(store, model()).read_range("step", start, stop)


def test_a_tensor_that_is_not_what_the_manifest_says_is_reported(store):
    raw = bytes(range(200))
    wrong = digest_of(b"something else")
    tensors = [
        Tensor("part", "uint8", (100,), 0, None, wrong),
        Tensor("exact", "uint8", (50,), 150, None, wrong),
        Tensor("strided", "uint8", (5, 5), 0, (1, 5), wrong),
    ]
    reader = cut(store, raw, tensors, [60, 90, 50])

    for tensor in tensors:
        with pytest.raises(ObjectCorruptError, match=f"tensor '{tensor.name}' does not have the digest"):
            reader.read(tensor.name)
        with pytest.raises(ObjectCorruptError, match=f"tensor '{tensor.name}' does not have the digest"):
            list(reader.pieces(tensor.name))


def test_a_missing_chunk_is_named_with_its_tensor(store):
    raw = bytes(100)
    tensor = Tensor("t", "uint8", (100,), 0, None, digest_of(raw))
    manifest = Manifest("opaque", 0, 100, digest_of(raw), (tensor,), (Chunk(100, digest_of(raw)),))

    with pytest.raises(ObjectMissingError, match="of tensor 't' is not in the store"):
        store.tensors(manifest, digest_of(b"m")).read("t")


def test_a_composed_file_is_seen_as_its_tensors(store):
    arrays = model()
    content = whole(source_of(arrays, {"b": "2", "a": "1"}))
    ingested = store.put_file(io.BytesIO(content))

    assert ingested.manifest.format == "safetensors"
    assert [(t.name, t.dtype, t.shape) for t in ingested.manifest.tensors] == [
        (name, str(arrays[name].dtype), arrays[name].shape) for name in sorted(arrays)
    ]
    assert int.from_bytes(content[:8], "little") % 8 == 0
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"a": "1", "b": "2"}
    assert all(tensor.offset % min(np.dtype(tensor.dtype).itemsize, 8) == 0 for tensor in ingested.manifest.tensors)


def test_the_order_of_tensors_does_not_matter_to_a_composed_file():
    arrays = model()

    assert whole(source_of(arrays)) == whole(source_of(dict(reversed(arrays.items()))))


def test_a_composed_file_can_be_asked_for_in_any_steps():
    arrays = model()
    source, content, taken = source_of(arrays), whole(source_of(arrays)), bytearray()
    step = memoryview(bytearray(777_777))

    while count := source.readinto(step):
        taken += step[:count]

    assert bytes(taken) == content


@pytest.mark.parametrize("given", [b"1234567", b"123456789"])
def test_a_tensor_of_another_length_than_it_says_is_refused(given):
    source = safetensors_source([NewTensor("t", "float32", (2,), lambda: iter([given]))])

    with pytest.raises(MalformedError, match="has 8 bytes; it was given"):
        whole(source)


def test_what_safetensors_cannot_say_is_refused():
    def tensor(name, dtype, shape):
        return NewTensor(name, dtype, shape, lambda: iter([]))

    with pytest.raises(UnsupportedError, match="no element type for tensor 'q' of gguf_q4_0"):
        safetensors_source([tensor("q", "gguf_q4_0", (32,))])
    with pytest.raises(MalformedError, match="two tensors of the name 'a'"):
        safetensors_source([tensor("a", "float32", ()), tensor("a", "float16", ())])
    with pytest.raises(MalformedError, match="__metadata__"):
        safetensors_source([tensor("__metadata__", "float32", ())])
    with pytest.raises(MalformedError, match="not valid Unicode"):
        safetensors_source([tensor("\udc80", "float32", ())])
    with pytest.raises(MalformedError, match="not whole bytes"):
        safetensors_source([tensor("f4", "float4_e2m1fn", (3,))])
