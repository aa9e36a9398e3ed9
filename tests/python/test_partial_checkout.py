"""Some tensors of a file, at any revision, in a file of their own; and clones that keep no more than those."""

from __future__ import annotations

import json
import struct
import subprocess

import numpy as np
import pytest

from gitbridge import parts
from gitbridge.pointers import is_pointer
from gitbridge.revisions import parse_name, tracked_file
from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.formats.safetensors import Safetensors

ROWS = 700


def arrays(seed=1):
    random = np.random.default_rng(seed)
    found = {f"layers.{n}.w": random.standard_normal((ROWS, 500)).astype(np.float32) for n in range(6)}
    return found | {"layers.0.b": random.standard_normal(3).astype(np.float16), "lm_head": np.arange(9)}


def content_of(tensors) -> bytes:
    def new(name, array):
        return NewTensor(name, str(array.dtype), array.shape, lambda: iter([array.tobytes()]))

    source = safetensors_source([new(*item) for item in tensors.items()], {"format": "pt"})
    content = memoryview(bytearray(source.file_bytes))
    source.readinto(content)
    return bytes(content)


def tensors_of(path):
    """Read a safetensors file, by what the format's document says of it."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + header_bytes])
    metadata = header.pop("__metadata__")
    assert Safetensors().scan_header(content).file_bytes == len(content)
    kinds = {"F32": "f4", "F16": "f2", "I64": "i8", "U8": "u1"}
    found = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        raw = content[8 + header_bytes :][start:stop]
        found[name] = np.frombuffer(raw, kinds[entry["dtype"]]).reshape(entry["shape"])
    return metadata, found


@pytest.fixture
def model(work):
    """Two versions of a model, tracked."""
    work.theta("install")
    work.theta("track", "*.safetensors")
    work.git("add", ".")
    for version in (1, 2):
        (work.path / "m.safetensors").write_bytes(content_of(arrays(version)))
        work.git("add", ".")
        work.commit(f"version {version}")
        work.git("tag", f"v{version}")
    return work


@pytest.fixture
def shared(model, make_work, tmp_path):
    """A remote with its store, to which the model was pushed."""
    bare = make_work("bare.git", "--bare")
    model.git("remote", "add", "origin", str(bare.path))
    model.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "weights"))
    model.git("add", ".")
    model.commit("say where the weights are")
    model.git("push", "-q", "--tags", "origin", "main")
    return bare


def stored_bytes(work) -> int:
    return sum(path.stat().st_size for path in (work.path / ".git" / "theta").rglob("*.pack"))


def clone(make_work, shared, *options, name="clone"):
    return make_work(name, *options, clone=shared.path)


def test_a_part_is_a_valid_smaller_checkpoint(model):
    done = model.theta(
        "checkout", "--tensors", "layers.[0-1].*", "--tensors", "lm_head", "--to", "p", "v1:m.safetensors"
    )

    metadata, found = tensors_of(model.path / "p")
    assert (done.status, done.err) == (0, "")
    assert "wrote 'p', 4 of 8 tensors, 2.80 MB" in done.out
    assert sorted(found) == ["layers.0.b", "layers.0.w", "layers.1.w", "lm_head"]
    assert all(np.array_equal(array, arrays(1)[name]) for name, array in found.items())
    assert metadata["format"] == "pt"
    assert metadata["theta.tensors"] == "4 of 8"


def test_a_part_of_the_index_is_named_by_its_path(model):
    (model.path / "sub").mkdir()

    model.theta("checkout", "--tensors", "lm_head", "--to", "part.safetensors", "../m.safetensors", cwd="sub")

    _, found = tensors_of(model.path / "sub" / "part.safetensors")
    assert list(found) == ["lm_head"]


def test_without_tensors_the_whole_file_is_written_elsewhere(model):
    done = model.theta("checkout", "--to", "old", "--", "v1:m.safetensors")

    assert done.status == 0
    assert (model.path / "old").read_bytes() == content_of(arrays(1))
    assert (model.path / "m.safetensors").read_bytes() == content_of(arrays(2))


def test_types_that_safetensors_lacks_become_bytes(model):
    raw = np.random.default_rng(3).bytes(18 * 4 * 3)
    name, value = b"q", struct.pack("<QQ", 128, 3)
    info = struct.pack("<Q", len(name)) + name + struct.pack("<I", 2) + value + struct.pack("<IQ", 2, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
    (model.path / "q.gguf").write_bytes(head + bytes(-len(head) % 32) + raw)
    model.git("-c", "core.attributesFile=" + str(model.path / "a"), "add", "q.gguf")
    model.theta("track", "*.gguf")
    model.git("add", "--renormalize", ".")

    done = model.theta("checkout", "--tensors", "*", "--to", "q", "q.gguf")

    _, found = tensors_of(model.path / "q")
    assert done.status == 0
    assert found["q"].shape == (3, 72)
    assert found["q"].tobytes() == raw


def test_only_the_chunks_needed_are_fetched(shared, make_work):
    there = clone(make_work, shared, "--no-checkout")
    there.git("reset", "-q")

    done = there.theta("checkout", "--tensors", "layers.3.w", "--to", "p", "HEAD:m.safetensors")

    assert done.status == 0
    raw_bytes = ROWS * 500 * 4
    assert raw_bytes * 0.7 < stored_bytes(there) < raw_bytes * 1.05
    with there.repository() as repository, repository.open_store() as store:
        file = tracked_file(repository, parse_name("HEAD:m.safetensors"))
        reader = store.tensors(store.get_manifest(file.manifest_digest), file.manifest_digest)
        held = {
            tensor.name
            for tensor in reader.manifest.tensors
            if all(store.objects.contains(placed.chunk.digest) for placed in reader.chunks(tensor.name))
        }
    assert held == {"layers.3.w"}


def test_a_glob_that_matches_nothing_says_what_is_near(model):
    done = model.theta("checkout", "--tensors", "layer.1.w", "--to", "p", "m.safetensors")

    assert done.status == 2
    assert "no tensor 'layer.1.w'; did you mean 'layers.1.w'" in done.err
    assert not (model.path / "p").exists()


def test_a_fetch_of_files_that_are_not_there_says_so(model):
    misspelled = model.theta("fetch", "-I", "n.safetensors")

    assert misspelled.status == 2
    assert "'n.safetensors' matches no file to fetch; did you mean 'm.safetensors'?" in misspelled.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tensors", "*", "m.safetensors"], "--tensors needs --to"),
        (["--to", "p"], "--to takes one file, 0 were named"),
        (["--to", "p", "a", "b"], "--to takes one file, 2 were named"),
        (["v1:m.safetensors"], "names a file of a revision"),
        (["--to", ".gitattributes", "m.safetensors"], "'.gitattributes' exists"),
        (["--to", "nowhere/p", "--tensors", "*", "m.safetensors"], "nowhere' to write to"),
        (["--to", ".", "--force", "m.safetensors"], "'.' is a directory"),
        (["--to", "p", "v9:m.safetensors"], "'v9' is not a commit"),
        (["--to", "p", "v1:x"], "no file 'x' in 'v1'"),
    ],
)
def test_what_makes_no_sense_is_refused(model, arguments, words):
    before = sorted(path.name for path in model.path.iterdir())

    done = model.theta("checkout", *arguments)

    assert done.status in (2, 129)
    assert words in done.err
    assert sorted(path.name for path in model.path.iterdir()) == before


def test_a_part_cannot_be_committed_in_place_of_the_whole(model):
    model.theta("checkout", "--tensors", "lm_head", "--to", "m.safetensors", "--force", "HEAD:m.safetensors")
    part = (model.path / "m.safetensors").read_bytes()

    done = model.git("commit", "-a", "-m", "x", check=False)

    assert done.status != 0
    assert "holds only some tensors of 'm.safetensors'" in done.err
    assert "git checkout HEAD --" in done.err
    assert model.git("rev-parse", "HEAD", "v2^{commit}").out.split()[0] == model.git("rev-parse", "v2").out.strip()
    model.git("-c", "theta.allowPart=true", "add", "m.safetensors")
    model.git("checkout", "HEAD", "--", "m.safetensors")
    assert (model.path / "m.safetensors").read_bytes() != part


def test_a_part_of_an_older_version_is_refused_as_well_and_elsewhere_it_is_a_file_like_any(model):
    model.theta("checkout", "--tensors", "lm_head", "--to", "m.safetensors", "--force", "v1:m.safetensors")
    model.theta("checkout", "--tensors", "lm_head", "--to", "small.safetensors", "v1:m.safetensors")

    refused = model.git("add", "m.safetensors", check=False)
    model.git("add", "small.safetensors")

    assert refused.status != 0
    assert is_pointer(model.git("cat-file", "blob", ":small.safetensors").out.encode())


def test_a_mark_is_read_whatever_the_path():
    for path in ("m.bin", 'a "quoted"\\ \n path', "é/日本", "x" * 4096):
        digest = "ab" * 32
        text = json.dumps(
            {"__metadata__": {"format": "pt", "theta.part_of": f"{digest} {path}"}}, separators=(",", ":")
        )

        mark = parts.parse_mark(bytes(8) + text.encode())

        assert mark is not None
        assert (str(mark.manifest_digest), mark.path) == (digest, path)
    assert parts.parse_mark(bytes(8) + parts._START + b"zz") is None


def test_fetch_takes_paths_and_tensors(shared, make_work, model):
    (model.path / "other.safetensors").write_bytes(content_of(arrays(9)))
    model.git("add", ".")
    model.commit("another")
    model.git("push", "-q", "origin", "main")
    there = clone(make_work, shared, "--no-checkout")
    there.git("reset", "-q")

    one = there.theta("fetch", "-I", "m.*", "--tensors", "lm_head,layers.0.*")
    again = there.theta("fetch", "-I", "m.*", "--tensors", "lm_head,layers.0.*")

    assert "fetched" in one.out
    assert "already" in again.out
    assert stored_bytes(there) < 1_500_000
    there.theta("fetch", "-X", "other.safetensors")
    assert 6_500_000 < stored_bytes(there) < 9_000_000
    near = there.theta("fetch", "--tensors", "lmhead")
    assert near.status == 2
    assert "did you mean 'lm_head'" in near.err


def test_a_clone_keeps_only_what_its_profile_says(shared, make_work):
    there = make_work("clone")
    there.git("remote", "add", "origin", str(shared.path))
    there.git("config", "theta.fetchTensors", "layers.2.*")
    there.git("fetch", "-q", "--tags", "origin")

    there.git("checkout", "-q", "-b", "main", "--track", "origin/main")

    assert is_pointer((there.path / "m.safetensors").read_bytes())
    assert there.git("status", "--porcelain").out == ""
    assert 900_000 < stored_bytes(there) < 1_500_000
    there.git("checkout", "-q", "v1")
    assert is_pointer((there.path / "m.safetensors").read_bytes())
    assert there.git("status", "--porcelain").out == ""
    pulled = there.theta("pull")
    assert pulled.status == 0
    assert "1 file here stays as pointer: this clone keeps only a part" in pulled.out
    assert stored_bytes(there) < 3_000_000
    assert there.theta("checkout", "--tensors", "layers.2.w", "--to", "p", "m.safetensors").status == 0
    # What is said to do has to help, and under the profile a plain fetch would not.
    override = "git -c theta.fetchTensors= -c theta.fetchInclude= -c theta.fetchExclude= theta"
    assert f"{override} fetch origin v1 v2" in there.theta("diff", "v1", "v2").err
    assert f"if that is not meant: {override} pull" in there.theta("doctor").out
    there.git("config", "theta.fetchTensors", "")
    there.theta("pull")
    assert (there.path / "m.safetensors").read_bytes() == content_of(arrays(1))
    assert there.git("status", "--porcelain").out == "?? p\n"


def test_under_a_profile_what_was_committed_here_is_whole(model):
    model.git("config", "theta.fetchTensors", "lm_head")

    model.git("checkout", "-q", "v1")

    assert (model.path / "m.safetensors").read_bytes() == content_of(arrays(1))


def test_under_a_profile_an_archive_says_that_weights_are_missing(shared, make_work):
    there = make_work("clone")
    there.git("remote", "add", "origin", str(shared.path))
    there.git("config", "theta.fetchTensors", "lm_head")
    there.git("pull", "-q", "origin", "main")

    done = there.git("archive", "-o", str(there.path / "a.tar"), "HEAD", check=False)

    assert done.status != 0
    assert "set to keep only a part" in done.err


def test_excluded_files_stay_pointers(shared, make_work, model):
    (model.path / "other.safetensors").write_bytes(content_of(arrays(9)))
    model.git("add", ".")
    model.commit("another")
    model.git("push", "-q", "origin", "main")
    there = make_work("clone")
    there.git("remote", "add", "origin", str(shared.path))
    there.git("config", "theta.fetchExclude", "m.safetensors")

    there.git("pull", "-q", "origin", "main")

    assert is_pointer((there.path / "m.safetensors").read_bytes())
    assert (there.path / "other.safetensors").read_bytes() == content_of(arrays(9))
    assert there.git("status", "--porcelain").out == ""


def test_tensors_are_listed_without_weights(shared, make_work):
    there = clone(make_work, shared, "--no-checkout")
    there.git("reset", "-q")

    done = there.theta("ls", "v1:m.safetensors")
    some = there.theta("ls", "m.safetensors", "layers.0.*", "-z")

    assert "float16  [3]" in done.out
    assert "8 tensors, 2,100,012 elements, 8.40 MB" in done.out
    assert some.out == "layers.0.b\0layers.0.w\0"
    assert json.loads(there.theta("ls", "--json", "HEAD:m.safetensors//lm_head").out)["tensors"][0]["shape"] == [9]
    assert not (there.path / ".git" / "theta" / "packs").exists()


def test_a_tensor_is_shown_with_its_figures(model):
    done = model.theta("show", "--stats", "--json", "v1:m.safetensors//layers.1.w")
    text = model.theta("show", "--stats", "v1:m.safetensors//lm_head")

    found, expected = json.loads(done.out), arrays(1)["layers.1.w"].astype(np.float64)
    assert found["schema"] == 1
    assert (found["minimum"], found["maximum"]) == (expected.min(), expected.max())
    assert found["mean"] == pytest.approx(expected.mean(), rel=1e-12, abs=1e-12)
    assert found["deviation"] == pytest.approx(expected.std(), rel=1e-9)
    assert found["norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-9)
    assert found["number_count"] == expected.size
    assert "zeros       1\n" in text.out
    assert model.theta("show", "m.safetensors").out.startswith("path      m.safetensors\nformat    safe")
    assert "did you mean 'lm_head'" in model.theta("show", "m.safetensors//lmhead").err
    assert "git theta show --stats m.safetensors//TENSOR" in model.theta("show", "--stats", "m.safetensors").err


def cat(work, *arguments):
    return subprocess.run(["git-theta", "cat", *arguments], cwd=work.path, capture_output=True, check=False)


def test_bytes_are_written_to_standard_output(model, shared, make_work):
    assert cat(model, "v1:m.safetensors").stdout == content_of(arrays(1))
    there = clone(make_work, shared, "--no-checkout")

    assert cat(there, "v1:m.safetensors//lm_head").stdout == np.arange(9).tobytes()
    assert stored_bytes(there) < 20_000


def test_a_part_leaves_nothing_behind_where_a_chunk_is_damaged(model):
    for pack in (model.path / ".git" / "theta" / "packs").iterdir():
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)
    before = sorted(path.name for path in model.path.iterdir())

    done = model.theta("checkout", "--tensors", "layers.*", "--to", "p", "HEAD:m.safetensors")

    assert done.status == 2
    assert "of tensor 'layers." in done.err
    assert "is corrupt" in done.err
    assert sorted(path.name for path in model.path.iterdir()) == before
    assert cat(model, "HEAD:m.safetensors").returncode == 2


def test_the_status_of_a_partial_clone_says_that_it_is_one(shared, make_work):
    there = make_work("clone")
    there.git("remote", "add", "origin", str(shared.path))
    there.git("config", "theta.fetchTensors", "lm_head")
    there.git("pull", "-q", "origin", "main")

    done = there.theta("status")

    assert done.status in (0, 1)
    assert "this clone keeps only a part of the weights" in done.out + done.err
