"""Files go in and come back: any bytes, any layout, in bounded memory, or an error that names what is wrong."""

import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.digest import Kind, digest_of
from thetastore.errors import (
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    StoreMissingError,
    UnsupportedError,
)
from thetastore.manifest import encode_manifest
from thetastore.store import Store

SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "uint8": "U8"}


def safetensors(
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None = None
) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        offset += len(raw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors.values())


def model(seed: int = 0, rows: int = 3000) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
        return "float32", shape, rng.standard_normal(shape, dtype=np.float32).tobytes()

    return {
        "embed.weight": weights(rows, 128),
        "norm.bias": weights(128),
        "scale": weights(),
        "none": weights(0, 4),
        "position_ids": ("int64", (512,), np.arange(512).tobytes()),
    }


class Pipe(io.RawIOBase):
    """Hands out bytes in pieces of odd lengths, as a pipe does."""

    def __init__(self, content: bytes, longest: int = 70_000) -> None:
        self._content = memoryview(content)
        self._random = random.Random(len(content))
        self._longest = longest

    def readinto(self, view) -> int:
        count = min(len(view), len(self._content), self._random.randint(1, self._longest))
        view[:count] = self._content[:count]
        self._content = self._content[count:]
        return count


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as store:
        yield store


def content_of(store: Store, digest) -> bytes:
    return b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest))


def written(store: Store, digest, tmp_path) -> bytes:
    path = tmp_path / "written"
    with open(path, "w+b") as file:
        store.write_file(store.get_manifest(digest), digest, file.fileno())
    return path.read_bytes()


def test_a_model_comes_back_with_its_tensors_named(store, tmp_path):
    tensors = model()
    content = safetensors(tensors)

    digest, manifest = store.put_file(Pipe(content))

    assert (manifest.format, manifest.file_bytes, manifest.file_digest) == (
        "safetensors",
        len(content),
        digest_of(content),
    )
    assert {t.name: (t.dtype, t.shape, t.digest) for t in manifest.tensors} == {
        name: (dtype, shape, digest_of(raw)) for name, (dtype, shape, raw) in tensors.items()
    }
    assert content_of(store, digest) == content
    assert written(store, digest, tmp_path) == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=300).map(lambda tail: struct.pack("<Q", 2) + b"{}" + tail),
        st.integers(0, 600_000).map(lambda n: np.random.default_rng(n).bytes(n)),
        st.binary(max_size=60).map(lambda tail: b"PK\x03\x04" + tail),
    ),
    st.integers(1, 100_000),
)
def test_any_bytes_come_back_and_their_manifest_depends_on_nothing_else(store, content, longest):
    digest, _ = store.put_file(Pipe(content, longest))
    again, _ = store.put_file(io.BytesIO(content))

    assert content_of(store, digest) == content
    assert again == digest


def test_a_file_without_tensors_and_an_empty_file_come_back(store):
    for content, form in ((safetensors({}), "safetensors"), (b"", "opaque")):
        digest, manifest = store.put_file(io.BytesIO(content))

        assert manifest.format == form
        assert content_of(store, digest) == content


@pytest.mark.parametrize("missing", [1, 100, 400_000, 1_540_000])
def test_a_truncated_model_is_kept_as_opaque_bytes(store, missing):
    content = safetensors(model())[:-missing]

    digest, manifest = store.put_file(Pipe(content))
    same, _ = store.put_file(io.BytesIO(content))

    assert (manifest.format, manifest.tensors) == ("opaque", ())
    assert content_of(store, digest) == content
    assert same == digest


def test_a_model_with_bytes_after_its_end_is_opaque(store):
    content = safetensors(model()) + b"more"

    digest, manifest = store.put_file(Pipe(content))

    assert manifest.format == "opaque"
    assert content_of(store, digest) == content


def test_a_zip_that_is_no_checkpoint_is_opaque_and_comes_back(store):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights here" * 9000)
    content = buffer.getvalue()

    digest, manifest = store.put_file(Pipe(content))

    assert manifest.format == "opaque"
    assert content_of(store, digest) == content


def test_a_model_whose_header_claims_exabytes_is_opaque(store):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(100)

    digest, manifest = store.put_file(Pipe(content))

    assert manifest.format == "opaque"
    assert content_of(store, digest) == content


def test_a_long_file_has_pages_and_one_changed_tensor_stores_its_own_chunks_and_pages_only(store):
    rng = np.random.default_rng(3)
    tensors = {f"t{n:04}": ("uint8", (700,), rng.bytes(700)) for n in range(1500)}
    digest, manifest = store.put_file(io.BytesIO(safetensors(tensors)))
    before = set(store.iter_objects(digest))
    tensors["t0700"] = ("uint8", (700,), rng.bytes(700))

    changed, _ = store.put_file(io.BytesIO(safetensors(tensors)))

    assert manifest.pages
    assert manifest.chunk_count >= 1500
    assert content_of(store, changed) == safetensors(tensors)
    assert len(set(store.iter_objects(changed)) - before) <= 4  # the root, a page (or two), the tensor


def test_tensors_are_stored_once_whatever_file_they_are_in(store):
    tensors = model()
    first, _ = store.put_file(io.BytesIO(safetensors(tensors)))
    renamed = {f"model.{name}": value for name, value in reversed(tensors.items())}

    second, _ = store.put_file(io.BytesIO(safetensors(renamed, {"note": "again"})))

    assert content_of(store, second) == safetensors(renamed, {"note": "again"})
    assert len(set(store.iter_objects(second)) - set(store.iter_objects(first))) == 2  # header, manifest


def test_what_was_put_is_read_by_another_store_on_the_same_directory_before_any_seal(store):
    content = safetensors(model())
    digest, _ = store.put_file(Pipe(content))

    with Store.open(store.url) as reader:
        assert content_of(reader, digest) == content


def test_a_store_gets_only_what_it_lacks(store, tmp_path):
    tensors = model()
    first, _ = store.put_file(io.BytesIO(safetensors(tensors)))
    tensors["norm.bias"] = ("float32", (128,), np.ones(128, np.float32).tobytes())
    second, _ = store.put_file(io.BytesIO(safetensors(tensors)))
    with Store.open(str(tmp_path / "remote"), create=True) as remote:
        store.send_to(remote, [first])

        report = store.send_to(remote, [first, second, second])

        assert report.object_count <= 3  # the tensor, the header's chunk if it changed, the manifest
        assert content_of(remote, second) == safetensors(tensors)
        assert remote.missing_objects([first, second]) == []


def test_what_a_store_lacks_is_listed(store, tmp_path):
    digest, manifest = store.put_file(io.BytesIO(safetensors(model())))
    with Store.open(str(tmp_path / "empty"), create=True) as empty:
        assert empty.missing_objects([digest]) == [(digest, digest)]
        empty.objects.put(Kind.MANIFEST, encode_manifest(manifest))

        missing = empty.missing_objects([digest])

    assert {d for _, d in missing} == {placed.chunk.digest for placed in iter_chunks(store.objects, manifest)}


def test_every_flipped_byte_of_a_pack_is_noticed_and_never_returned(tmp_path):
    path = tmp_path / "store"
    content = safetensors({"w": ("uint8", (300,), bytes(range(256)) + bytes(44))})
    with Store.open(str(path), create=True) as store:
        digest, _ = store.put_file(io.BytesIO(content))
    (pack,) = (path / "packs").iterdir()
    whole = pack.read_bytes()
    noticed = 0
    pack.chmod(0o644)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        pack.write_bytes(damaged)
        with Store.open(str(path)) as store:
            try:
                assert content_of(store, digest) == content
            except (ObjectCorruptError, ObjectMissingError, MalformedError, UnsupportedError):
                noticed += 1

    assert noticed > len(content)


def test_a_damaged_chunk_is_reported_with_its_tensor(tmp_path):
    path = tmp_path / "store"
    tensors = model()
    with Store.open(str(path), create=True) as store:
        digest, _ = store.put_file(io.BytesIO(safetensors(tensors)))
    (pack,) = (path / "packs").iterdir()
    stored = bytearray(pack.read_bytes())
    place = stored.index(tensors["norm.bias"][2][:32]) if tensors["norm.bias"][2][:32] in stored else 900_000
    stored[place] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(stored)

    with (
        Store.open(str(path)) as store,
        pytest.raises(ObjectCorruptError, match="of tensor 'embed.weight'|of tensor 'norm.bias'"),
    ):
        written(store, digest, tmp_path)


def test_a_manifest_that_lies_about_its_file_is_refused(store):
    digest, manifest = store.put_file(io.BytesIO(safetensors(model())))
    liar = manifest._replace(file_digest=digest_of(b"something else"))
    tensors = tuple(t._replace(digest=digest_of(b"another tensor")) for t in manifest.tensors)
    for lie in (liar, manifest._replace(tensors=tensors)):
        with pytest.raises(ObjectCorruptError):
            for _ in store.read_file(lie, digest):
                pass


def test_a_directory_that_is_no_store_or_a_newer_one_is_refused(tmp_path):
    with pytest.raises(StoreMissingError, match="no thetastore at"):
        Store.open(str(tmp_path / "nothing"))
    for text, error in (
        ('{"format": "other"}', MalformedError),
        ("[]", MalformedError),
        ("[" * 60_000, MalformedError),
        ('{"format": "thetastore", "required_features": [], "version": ' + "9" * 5000 + "}", MalformedError),
        (" " * 70_000 + "{}", MalformedError),
        ('{"format": "thetastore", "version": 7, "required_features": []}', UnsupportedError),
        ('{"format": "thetastore", "version": 0, "required_features": ["x"]}', UnsupportedError),
    ):
        (tmp_path / "thetastore.json").write_text(text)
        with pytest.raises(error):
            Store.open(str(tmp_path), create=True)


def test_a_descriptor_of_a_terabyte_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "thetastore.json", "wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(MalformedError, match="not the descriptor"):
        Store.open(str(tmp_path))
