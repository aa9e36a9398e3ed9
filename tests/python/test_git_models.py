"""Models of any revision of a repository, here or elsewhere; commits from memory; the shapes that people know."""

from __future__ import annotations

import concurrent.futures
import json
import os
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest

import gitbridge
from gitbridge.errors import (
    GitError,
    PathMissingError,
    PointerInPlaceError,
    RemoteError,
    RepositoryMissingError,
    RevisionError,
    UsageError,
)
from gitbridge.remotes import places
from gitbridge.revisions import parse_name, tracked_file
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.errors import NoSuchTensorError, UnsupportedError


def arrays(seed=1):
    random = np.random.default_rng(seed)
    return {
        "embed": random.standard_normal((400, 300)).astype(ml_dtypes.bfloat16),
        "layers.0.w": random.standard_normal((400, 300)).astype(np.float32),
        "layers.1.w": random.standard_normal((400, 300)).astype(np.float32),
    }


def content_of(tensors, metadata=None) -> bytes:
    source = safetensors_source([new_tensor(*item) for item in tensors.items()], metadata)
    content = memoryview(bytearray(source.file_bytes))
    source.readinto(content)
    return bytes(content)


def same(model, expected) -> bool:
    return {name: array.tobytes() for name, array in model.items()} == {n: a.tobytes() for n, a in expected.items()}


@pytest.fixture
def repo(work):
    """Two versions of a model, and a file that git keeps itself."""
    work.theta("install")
    work.theta("track", "*.safetensors")
    (work.path / "config.json").write_text('{"model_type": "bert"}')
    for version in (1, 2):
        (work.path / "models").mkdir(exist_ok=True)
        (work.path / "models/m.safetensors").write_bytes(content_of(arrays(version), {"format": "pt"}))
        work.git("add", ".")
        work.commit(f"version {version}")
        work.git("tag", f"v{version}")
    return work


@pytest.fixture
def bare(repo, make_work, tmp_path):
    """A remote with its store, to which everything was pushed."""
    bare = make_work("bare.git", "--bare")
    repo.git("remote", "add", "origin", str(bare.path))
    repo.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "weights"))
    repo.git("add", ".")
    repo.commit("say where the weights are")
    repo.git("push", "-q", "--tags", "origin", "main")
    return bare


def test_a_model_is_opened_at_any_revision(repo):
    for name in (repo.path, repo.path / "models", repo.path / "models/m.safetensors"):
        assert same(gitbridge.open(name, "v1").state_dict(), arrays(1))
        assert same(gitbridge.open(name).state_dict(), arrays(2))

    model = gitbridge.open(repo.path, "v1", path="models/m.safetensors")
    assert model.revision == repo.git("rev-parse", "v1").out.strip()
    assert model.path == "models/m.safetensors"
    assert np.array_equal(model["embed"][5:7, 3], arrays(1)["embed"][5:7, 3])
    assert isinstance(model.select("layers.*"), gitbridge.GitModel)


def test_a_pointer_in_the_work_tree_is_a_name_for_its_model(repo):
    digest_line = repo.git("cat-file", "blob", "HEAD:models/m.safetensors").out
    (repo.path / "models/m.safetensors").write_text(digest_line)

    assert same(gitbridge.open(repo.path / "models/m.safetensors").state_dict(), arrays(2))
    assert same(gitbridge.load_file(repo.path / "models/m.safetensors", framework="np"), arrays(2))


def test_a_pointer_that_git_does_not_know_says_what_to_do(repo):
    (repo.path / "copy.safetensors").write_bytes(repo.git("show", "v1:models/m.safetensors").out.encode())

    with pytest.raises(PointerInPlaceError, match="git add it; then it names its weights"):
        gitbridge.open(repo.path / "copy.safetensors")

    repo.git("add", "copy.safetensors")
    assert same(gitbridge.open(repo.path / "copy.safetensors").state_dict(), arrays(1))


def test_what_a_clone_lacks_is_fetched_by_the_tensor(bare, make_work):
    clone = make_work("clone", "--no-checkout", clone=bare.path)
    model = gitbridge.open(clone.path, "v1")

    assert np.array_equal(model["embed"].numpy(), arrays(1)["embed"])
    with clone.repository() as repository, repository.open_store() as store:
        missing = store.missing_objects(
            [tracked_file(repository, parse_name("v1:models/m.safetensors")).manifest_digest]
        )
    assert missing
    again = pickle.loads(pickle.dumps(model))
    assert same(again.state_dict(), arrays(1))


def test_threads_fetch_what_they_read(bare, make_work):
    clone = make_work("clone", "--no-checkout", clone=bare.path)
    model = gitbridge.open(clone.path, "v2")

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda name: (name, model[name].numpy()), list(model) * 4))

    assert all(array.tobytes() == arrays(2)[name].tobytes() for name, array in found)


def test_a_repository_elsewhere_is_opened_by_its_url(bare, tmp_path):
    url = f"file://{bare.path}"

    model = gitbridge.open(url, "v1", cache_dir=str(tmp_path / "cache"))

    assert same(model.state_dict(), arrays(1))
    assert same(gitbridge.open(url, cache_dir=str(tmp_path / "cache")).state_dict(), arrays(2))
    assert same(gitbridge.open(url, model.revision, cache_dir=str(tmp_path / "cache")).state_dict(), arrays(1))
    with pytest.raises(RevisionError, match="has no revision 'v9'"):
        gitbridge.open(url, "v9", cache_dir=str(tmp_path / "cache"))
    for revision in ("-x", "a:b", ""):
        with pytest.raises(RevisionError, match="is not a branch, tag or commit"):
            gitbridge.open(url, revision, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(RemoteError, match="cannot be fetched from"):
        gitbridge.open(f"file://{tmp_path}/nothing.git", cache_dir=str(tmp_path / "cache"))


def test_shards_are_one_model(repo):
    parts = [{"embed": arrays(5)["embed"]}, {name: arrays(5)[name] for name in ("layers.0.w", "layers.1.w")}]
    directory = repo.path / "big"
    directory.mkdir()
    weight_map = {}
    for number, part in enumerate(parts):
        name = f"model-{number}.safetensors"
        (directory / name).write_bytes(content_of(part))
        weight_map |= dict.fromkeys(part, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    repo.git("add", ".")
    repo.commit("shards")

    assert same(gitbridge.open(directory, "HEAD").state_dict(), arrays(5))
    assert same(gitbridge.open(repo.path, path="big/model.safetensors.index.json").state_dict(), arrays(5))
    assert list(gitbridge.open(directory / "model-0.safetensors")) == ["embed"]
    with pytest.raises(
        PathMissingError, match="there are 2 models in '.': 'big/model.safetensors.index.json', 'models/m"
    ):
        gitbridge.open(repo.path, "HEAD")
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../models/x.safetensors"}}')
    repo.git("add", ".")
    with pytest.raises(PathMissingError, match="names the shard '../models/x.safetensors', which is not tracked"):
        gitbridge.open(directory)


def test_a_pin_means_the_same_bytes_for_ever(repo):
    pinned = gitbridge.open(repo.path, "main").pin()
    (repo.path / "models/m.safetensors").write_bytes(content_of(arrays(7)))
    repo.git("add", ".")
    repo.commit("version 7")

    assert same(gitbridge.open(pinned).state_dict(), arrays(2))
    with pytest.raises(RevisionError, match="commit it"):
        gitbridge.open(repo.path).pin()


def test_history_is_told(repo):
    model = gitbridge.open(repo.path, "main")

    assert [commit.subject for commit in model.log()] == ["version 2", "version 1"]
    assert model.tags() == gitbridge.tags(repo.path / "models")
    assert list(model.tags().items()) == [(name, repo.git("rev-parse", name).out.strip()) for name in ("v1", "v2")]


def test_what_is_not_there_is_said_by_errors_that_are_builtins(repo, tmp_path):
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "w").write_text(repo.git("cat-file", "blob", "v1:models/m.safetensors").out)
    cases = [
        (lambda: gitbridge.open(tmp_path / "lost"), RepositoryMissingError, FileNotFoundError),
        (lambda: gitbridge.open(tmp_path / "lost" / "w"), PointerInPlaceError, FileNotFoundError),
        (lambda: gitbridge.open(repo.path, "v9"), RevisionError, LookupError),
        (lambda: gitbridge.open(repo.path, "v1", path="models/n.safetensors"), PathMissingError, FileNotFoundError),
        (lambda: gitbridge.open(repo.path, "v1")["embedding"], NoSuchTensorError, KeyError),
        (lambda: gitbridge.open(repo.path, "v1").select("x*"), NoSuchTensorError, KeyError),
    ]

    for act, error, base in cases:
        with pytest.raises(error) as caught:
            act()
        assert isinstance(caught.value, base)
        assert str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert isinstance(error.__new__(error), error)  # how a cluster of Dask makes it anew


def test_weights_that_are_nowhere_are_said_to_be(bare, make_work):
    clone = make_work("clone", "--no-checkout", clone=bare.path)
    with clone.repository() as repository:
        store = places(repository, None, "HEAD")[0].directory
    os.rename(store, store + ".away")

    with pytest.raises(RemoteError, match="the weights of 'models/m.safetensors' are missing"):
        gitbridge.open(clone.path, "v1")
    assert not os.path.exists(clone.path / ".git" / "theta" / "packs")


def test_looking_for_weights_in_vain_makes_no_store(bare, make_work, tmp_path):
    other = make_work("other.git", "--bare")
    other.git("fetch", "-q", str(bare.path), "main:main", "--tags")
    os.rename(tmp_path / "weights", tmp_path / "away")

    with pytest.raises(RemoteError, match="the weights of 'models/m.safetensors' are missing"):
        gitbridge.open(other.path, "v1")

    assert not os.path.exists(other.path / "theta")
    os.rename(tmp_path / "away", tmp_path / "weights")
    assert same(gitbridge.open(other.path, "main").state_dict(), arrays(2))


# Commits from memory


def head_files(work, revision):
    return work.git("ls-tree", "-r", "--name-only", revision).out.split()


def test_a_commit_from_memory_touches_no_work_tree(repo):
    before = repo.git("status", "--porcelain").out, repo.git("rev-parse", "HEAD").out, sorted(os.listdir(repo.path))

    oid = gitbridge.commit(arrays(3), "models/m.safetensors", "from memory", "training", repository=repo.path)
    second = gitbridge.commit(arrays(4), "models/m.safetensors", "again", "training", repository=repo.path)

    assert before == (
        repo.git("status", "--porcelain").out,
        repo.git("rev-parse", "HEAD").out,
        sorted(os.listdir(repo.path)),
    )
    assert repo.git("rev-parse", "training", "training~1", "training~2").out.split() == [
        second,
        oid,
        repo.git("rev-parse", "main").out.strip(),
    ]
    assert repo.git("log", "-1", "--format=%s", "training").out == "again\n"
    assert same(gitbridge.open(repo.path, "training").state_dict(), arrays(4))
    assert same(gitbridge.open(repo.path, oid).state_dict(), arrays(3))
    assert gitbridge.open(repo.path, oid).metadata == {"format": "np"}
    assert head_files(repo, "training") == head_files(repo, "main")
    repo.git("switch", "-q", "training")
    assert (repo.path / "models/m.safetensors").read_bytes() == content_of(arrays(4), {"format": "np"})
    assert repo.git("fsck", "--strict").err == ""


def test_a_commit_from_memory_has_its_path_tracked(make_work):
    work = make_work("new")
    work.theta("install")

    gitbridge.commit(arrays(1), "a b/m.safetensors", "one", "main2", repository=work.path, metadata={"step": "1"})

    assert head_files(work, "main2") == [".gitattributes", '"a', 'b/m.safetensors"'] or "a b" in str(
        work.git("ls-tree", "-r", "--name-only", "main2").out
    )
    work.git("checkout", "-q", "main2")
    assert (work.path / "a b/m.safetensors").read_bytes() == content_of(arrays(1), {"step": "1"})
    assert work.git("status", "--porcelain").out == ""


def test_a_commit_from_memory_is_stored_as_a_difference(repo):
    with repo.repository() as repository, repository.open_store() as store:
        tuned = {name: (a * np.float32(1.0001)).astype(a.dtype) for name, a in arrays(2).items()}

        gitbridge.commit(
            tuned, "t.safetensors", "tuned", "side", base="main:models/m.safetensors", repository=repo.path
        )

        file = tracked_file(repository, parse_name("side:t.safetensors"))
        store.objects.catalog.refresh(thorough=True)
        reader = store.tensors(store.get_manifest(file.manifest_digest), file.manifest_digest)
        assert store.objects.entry(reader.chunks("layers.0.w")[0].chunk.digest).bases


def test_what_cannot_be_committed_is_refused_and_no_branch_moves(repo):
    before = repo.git("for-each-ref").out
    cases = [
        ({"branch": "main"}, UsageError, "'main' is checked out in"),
        ({"branch": "a..b"}, RevisionError, "cannot be the name of a branch"),
        ({"path": "m.pt"}, UsageError, "name it m.safetensors"),
        ({"path": "../m.safetensors"}, UsageError, "is not a path from the top"),
        ({"path": "/m.safetensors"}, UsageError, "is not a path from the top"),
        ({"base": "v9:m"}, RevisionError, "'v9' is not a commit"),
        ({"path": "a.bin/m.pth.tar"}, UsageError, "name of another format.*name it a.bin/m.safetensors"),
        ({"state_dict": {"a": np.array(["x"])}}, UnsupportedError, "tensor 'a' is no array of numbers"),
        ({"state_dict": {"a": np.zeros(2, np.complex128)}}, UnsupportedError, "no element type for tensor 'a'"),
        ({"repository": repo.path.parent}, RepositoryMissingError, "repository"),
    ]
    for change, error, words in cases:
        usual = {
            "state_dict": arrays(1),
            "path": "m.safetensors",
            "message": "x",
            "branch": "side",
            "base": None,
            "repository": repo.path,
        }
        with pytest.raises(error, match=words):
            gitbridge.commit(**(usual | change))

    assert repo.git("for-each-ref").out == before


def test_without_an_author_git_says_what_to_do(repo, monkeypatch):
    repo.git("config", "--global", "--unset", "user.email")
    repo.git("config", "user.useConfigOnly", "true")

    with pytest.raises(GitError, match="user.email"):
        gitbridge.commit(arrays(1), "m.safetensors", "x", "side", repository=repo.path)


def test_two_writers_of_a_branch_lose_nothing(repo):
    def write(number):
        return gitbridge.commit(
            {"w": np.full(3000, number)}, f"m{number}.safetensors", f"{number}", "busy", repository=repo.path
        )

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        list(threads.map(write, range(6)))

    assert {f"m{number}.safetensors" for number in range(6)} <= set(head_files(repo, "busy"))


# Saving in the background


def test_a_saver_commits_what_was_there_when_it_was_called(repo):
    state = arrays(1)
    with gitbridge.Saver("run.safetensors", "run", repo.path) as saver:
        for step in range(3):
            saver.save(state, f"step {step}")
            for array in state.values():
                array[:] = step + 1
        last = saver.wait()

    assert last == repo.git("rev-parse", "run").out.strip()
    assert same(gitbridge.open(repo.path, "run~2", path="run.safetensors").state_dict(), arrays(1))
    for step, revision in ((1, "run~1"), (2, "run")):
        found = gitbridge.open(repo.path, revision, path="run.safetensors").state_dict()
        assert all((array == step).all() for array in found.values())


def test_a_saver_uses_its_memory_again(repo):
    with gitbridge.Saver("run.safetensors", "run", repo.path) as saver:
        saver.save(arrays(1), "one")
        first = {name: id(array) for name, array in saver._copies.items()}
        saver.save(arrays(2), "two")

        assert {name: id(array) for name, array in saver._copies.items()} == first


def test_what_goes_wrong_in_the_background_is_raised_by_the_next_call(repo):
    saver = gitbridge.Saver("run.pt", "run", repo.path)
    saver.save(arrays(1), "one")

    with pytest.raises(UsageError, match="name it run.safetensors"):
        saver.save(arrays(2), "two")
    saver.path = "run.safetensors"
    saver.save(arrays(2), "two")
    assert saver.close() == repo.git("rev-parse", "run").out.strip()
    failing = gitbridge.Saver("run.pt", "run", repo.path)
    failing.save(arrays(1), "one")
    with pytest.raises(UsageError):
        failing.close()


# The shapes that people know


def test_safe_open_has_the_shape_of_safetensors(repo):
    with gitbridge.safe_open(repo.path / "models/m.safetensors", framework="np", device="cpu", revision="v1") as file:
        assert file.keys() == ["embed", "layers.0.w", "layers.1.w"]
        assert file.offset_keys() == ["layers.0.w", "layers.1.w", "embed"]
        assert file.metadata() == {"format": "pt"}
        assert np.array_equal(file.get_tensor("embed"), arrays(1)["embed"])
        part = file.get_slice("embed")
        assert (part.get_shape(), part.get_dtype()) == ([400, 300], "BF16")
        assert np.array_equal(part[3:5, ::7], arrays(1)["embed"][3:5, ::7])
        with pytest.raises(KeyError):
            file.get_tensor("x")


def test_load_file_takes_what_is_committed(repo):
    assert same(gitbridge.load_file(repo.path / "models/m.safetensors", framework="np", revision="v1"), arrays(1))
    with repo.repository() as repository:
        digest = tracked_file(repository, parse_name("v1:models/m.safetensors")).manifest_digest
        url = f"{repository.store_path()}#{digest}"
    assert same(gitbridge.load_file(url, framework="np"), arrays(1))


def test_without_a_revision_safetensors_reads_the_file_that_is_there(repo, tmp_path):
    safetensors = pytest.importorskip("safetensors")
    changed = repo.path / "models/m.safetensors"
    changed.write_bytes(content_of(arrays(3)))

    assert same(gitbridge.load_file(changed, framework="np"), arrays(3))
    with gitbridge.safe_open(changed, framework="np") as file:
        assert isinstance(file, safetensors.safe_open)
    assert same(gitbridge.load_file(changed, framework="np", revision="v2"), arrays(2))
    outside = tmp_path / "m.safetensors"
    outside.write_bytes(content_of(arrays(4)))
    assert same(gitbridge.load_file(outside, framework="np"), arrays(4))


def test_without_safetensors_the_store_has_what_is_in_the_index(repo, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = repo.path / "models/m.safetensors"

    assert same(gitbridge.load_file(path, framework="np"), arrays(2))
    os.utime(path)
    assert same(gitbridge.load_file(path, framework="np"), arrays(2))
    path.write_bytes(content_of(arrays(3)))
    with pytest.raises(UsageError, match="weights that are not in the index"):
        gitbridge.load_file(path, framework="np")


def test_a_snapshot_is_a_directory_with_all_files(bare, repo, tmp_path):
    target = tmp_path / "snap"

    path = gitbridge.snapshot_download(f"file://{bare.path}", revision="v1", local_dir=target, cache_dir=tmp_path / "c")

    assert path == str(target)
    assert (target / "models/m.safetensors").read_bytes() == content_of(arrays(1), {"format": "pt"})
    assert (target / "config.json").read_text() == '{"model_type": "bert"}'
    stat = (target / "models/m.safetensors").stat()
    gitbridge.snapshot_download(repo.path, revision="v1", local_dir=target)
    assert (target / "models/m.safetensors").stat().st_ino == stat.st_ino
    gitbridge.snapshot_download(repo.path, revision="v2", local_dir=target)
    assert (target / "models/m.safetensors").read_bytes() == content_of(arrays(2), {"format": "pt"})
    assert not [name for name in os.listdir(target / "models") if "tmp" in name]


def test_a_snapshot_takes_patterns_and_has_a_place_of_its_own(repo, tmp_path):
    some = gitbridge.snapshot_download(repo.path, allow_patterns="*.json", cache_dir=tmp_path)
    rest = gitbridge.snapshot_download(
        repo.path, revision="v1", ignore_patterns=["*.json", "models/"], local_dir=tmp_path / "r"
    )

    assert os.listdir(some) == ["config.json"]
    assert os.listdir(rest) == [".gitattributes"]
    with pytest.raises(FileNotFoundError, match="no file of"):
        gitbridge.snapshot_download(repo.path, allow_patterns=["x"], local_dir=tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_a_snapshot_does_not_follow_links_out_of_its_directory(repo, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "snap"
    target.mkdir()
    (target / "models").symlink_to(outside)
    (target / "config.json").symlink_to(outside / "config.json")

    with pytest.raises(UsageError, match="leads out of"):
        gitbridge.snapshot_download(repo.path, local_dir=target)

    (target / "models").unlink()
    gitbridge.snapshot_download(repo.path, local_dir=target)

    assert os.listdir(outside) == []
    assert not (target / "config.json").is_symlink()
