"""`git theta prune` and `git theta gc`, with real repositories; the weights do not resemble each other."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from collectable import Place, model

from thetastore.collecting import pruning, tables
from thetastore.collecting.pruning import prune
from thetastore.collecting.roots import Root
from thetastore.digest import Digest, Kind
from thetastore.store import Store


class Repo:
    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, status: int = 0) -> str:
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=False)
        assert done.returncode == status, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def git(self, *args: str, status: int = 0) -> str:
        return self.run("git", *args, status=status)

    def theta(self, *args: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "gitbridge.cli.main", *args, status=status)

    def commit(self, name: str, content: bytes, date: str = "2020-01-01T00:00:00") -> None:
        (self.path / name).write_bytes(content)
        self.git("add", "-A")
        environment = {**os.environ, "GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
        subprocess.run(["git", "commit", "-qm", name], cwd=self.path, env=environment, check=True)

    def prune(self, *args: str) -> dict[str, int]:
        command = [sys.executable, "-m", "gitbridge.cli.main", "prune", "--json", *args]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True, check=True)
        found: dict[str, int] = json.loads(done.stdout)
        return found

    def packs(self) -> int:
        return sum(path.stat().st_size for path in (self.path / ".git/theta/packs").glob("*.pack"))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text("[user]\n name = a\n email = a@b\n[init]\n defaultBranch = main\n")
    return made(tmp_path / "work", tmp_path / "store")


def made(path: Path, store: Path) -> Repo:
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    subprocess.run(["git", "init", "-q", "--bare", f"{path}.git"], check=True)
    repo = Repo(path)
    repo.theta("install", "--local")
    repo.theta("track", "*.safetensors")
    repo.git("remote", "add", "origin", f"{path}.git")
    repo.git("config", "theta.url", str(store))
    return repo


def test_what_was_pushed_and_is_not_needed_here_goes_and_comes_back(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1))
    repo.commit("m.safetensors", model(2))
    repo.git("push", "-q", "origin", "main")
    before = repo.packs()

    would = repo.prune("--dry-run")
    unchanged = repo.packs()
    done = repo.prune()

    assert unchanged == before
    assert would["freed_bytes"] == done["freed_bytes"] > 200_000
    assert repo.packs() < before - 200_000
    assert (repo.path / "m.safetensors").read_bytes() == model(2)
    repo.git("checkout", "-q", "HEAD~1")
    assert (repo.path / "m.safetensors").read_bytes() == model(1)


def test_what_was_not_pushed_stays_whatever_is_asked_for(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1))
    repo.git("push", "-q", "origin", "main")
    repo.commit("m.safetensors", model(2))
    repo.commit("m.safetensors", model(3))
    repo.git("config", "theta.storageLimit", "1k")

    found = repo.prune("--force", "--recent", "--no-verify-unreachable")

    assert found["only_here_bytes"] > 400_000
    assert found["freed_bytes"] > 200_000
    for revision, seed in (("HEAD", 3), ("HEAD~1", 2), ("HEAD~2", 1)):
        repo.git("checkout", "-q", revision) if revision != "HEAD" else None
        assert (repo.path / "m.safetensors").read_bytes() == model(seed)
        repo.git("checkout", "-q", "main")


def test_stashes_reflogs_and_the_index_are_histories_too(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1))
    (repo.path / "m.safetensors").write_bytes(model(2))
    repo.git("stash", "-q")
    repo.commit("m.safetensors", model(3))
    repo.git("reset", "-q", "--hard", "HEAD~1")
    (repo.path / "m.safetensors").write_bytes(model(4))
    repo.git("add", "-A")

    found = repo.prune("--no-verify-unreachable", "--recent")

    assert found["freed_bytes"] == 0
    repo.git("commit", "-qm", "four")
    oids = repo.git("rev-parse", "stash@{0}", "HEAD@{2}", "HEAD").split()
    for oid, seed in zip(oids, (2, 3, 4), strict=True):
        repo.git("checkout", "-q", oid)
        assert (repo.path / "m.safetensors").read_bytes() == model(seed)
        repo.git("checkout", "-q", "main")


def test_what_nothing_names_goes_only_if_that_is_asked_for(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1))
    (repo.path / "m.safetensors").write_bytes(model(2))
    repo.git("add", "-A")
    repo.git("reset", "-q", "--hard")

    kept = repo.prune()
    gone = repo.prune("--no-verify-unreachable")

    assert kept["nameless_bytes"] > 200_000
    assert kept["freed_bytes"] == 0
    assert gone["freed_bytes"] > 200_000


def test_what_nothing_names_stays_while_somebody_stores_weights(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1))
    (repo.path / "m.safetensors").write_bytes(model(2))
    repo.git("add", "-A")
    repo.git("reset", "-q", "--hard")

    with Store.open(str(repo.path / ".git/theta")) as store:
        assert store.objects.begin()
        said = repo.theta("prune", "--no-verify-unreachable", status=2)
        assert "another process is storing weights" in said

        digest = store.put_file(io.BytesIO(model(2))).manifest_digest
    with Store.open(str(repo.path / ".git/theta")) as store:
        assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == model(2)


def test_what_young_commits_hold_stays(repo: Repo) -> None:
    repo.commit("m.safetensors", model(1), "2020-01-01T00:00:00")
    now = subprocess.run(["date", "-Is"], capture_output=True, text=True, check=True).stdout.strip()
    repo.commit("m.safetensors", model(2), now)
    repo.commit("m.safetensors", model(3), now)
    repo.git("push", "-q", "origin", "main")

    kept = repo.prune("--dry-run")
    without = repo.prune("--dry-run", "--recent")

    assert 200_000 < kept["freed_bytes"] < without["freed_bytes"]


def test_a_limit_frees_no_more_than_is_too_much(repo: Repo) -> None:
    for seed in range(1, 5):
        repo.commit("m.safetensors", model(seed))
    repo.git("push", "-q", "origin", "main")
    size = repo.packs()

    some = repo.prune("--limit", str(size - 1000))
    nothing = repo.prune("--limit", "1g")

    assert 200_000 < some["freed_bytes"] < 300_000
    assert nothing["freed_bytes"] == 0


def test_over_the_limit_what_was_used_longest_ago_goes_first_and_what_is_only_here_never(repo: Repo) -> None:
    packs: list[Path] = []
    for seed in range(1, 5):
        repo.commit("m.safetensors", model(seed))
        packs += set((repo.path / ".git/theta/packs").glob("*.pack")).difference(packs)
        if seed == 3:
            repo.git("push", "-q", "origin", "main")
    repo.git("checkout", "-q", "--orphan", "other")
    repo.git("rm", "-qrf", ".")

    def prune(*args: str) -> None:
        for pack, day in zip(packs, (300, 100, 200, 0), strict=True):  # the last is the oldest, and not pushed
            if pack.exists():
                os.utime(pack, (1e9 + 86400 * day, 1e9))
        repo.theta("prune", *args)
        assert all(pack.stat().st_atime < 1.1e9 for pack in packs if pack.exists()), "looking is no use"

    def states() -> list[str]:
        return [repo.theta("ls-files", f"main~{before}").split()[0] for before in (3, 2, 1, 0)]

    repo.git("config", "theta.storageLimit", str(repo.packs() - 1000))
    prune()
    assert states() == ["full", "pointer", "full", "full"]
    assert f"brings it down to {repo.git('config', 'theta.storageLimit').strip()})" in repo.theta("env")

    prune("--limit", str(repo.packs() - 1000))
    assert states() == ["full", "pointer", "pointer", "full"]

    prune("--limit", "1")
    assert states() == ["pointer", "pointer", "pointer", "full"]


def test_a_store_that_is_shared_keeps_what_any_of_its_repositories_needs(repo: Repo, tmp_path: Path) -> None:
    other = made(tmp_path / "other", tmp_path / "store")
    for one in (repo, other):
        one.git("config", "theta.storage", str(tmp_path / "shared"))
    other.commit("m.safetensors", model(1))
    repo.commit("m.safetensors", model(2))

    kept = repo.prune("--no-verify-unreachable", "--dry-run")
    (tmp_path / "other").rename(tmp_path / "elsewhere")
    refused = repo.theta("prune", status=2)
    told = repo.theta("prune", "--forget", str(tmp_path / "other" / ".git"))
    after = repo.prune("--no-verify-unreachable")

    assert kept["only_here_bytes"] + kept["needed_bytes"] > 400_000
    assert kept["freed_bytes"] == 0
    assert "cannot be reached" in refused
    assert "git theta prune --forget" in refused
    assert "does not count any more" in told
    assert after["freed_bytes"] > 200_000


def test_the_pruned_store_itself_proves_nothing(repo: Repo, tmp_path: Path) -> None:
    repo.commit("m.safetensors", model(1))
    repo.commit("m.safetensors", model(2))
    (tmp_path / "link").symlink_to(repo.path / ".git/theta")
    repo.git("config", "theta.url", str(tmp_path / "link"))

    found = repo.prune()

    assert found["freed_bytes"] == 0
    assert found["elsewhere_bytes"] == 0


def test_a_remote_store_that_cannot_be_had_proves_nothing(repo: Repo, tmp_path: Path) -> None:
    repo.commit("m.safetensors", model(1))
    repo.commit("m.safetensors", model(2))
    repo.git("push", "-q", "origin", "main")
    (tmp_path / "store").rename(tmp_path / "unmounted")

    said = repo.theta("prune")

    assert "stays here" in said
    assert "nothing to prune" in said


def test_what_was_pushed_is_kept_in_the_remote_store_and_what_was_not_goes(repo: Repo, tmp_path: Path) -> None:
    repo.commit("m.safetensors", model(1))
    repo.git("push", "-q", "origin", "main")
    litter = tmp_path / "litter"
    litter.write_bytes(model(9))
    thetastore = [sys.executable, "-m", "thetastore.cli.main"]
    with Store.open(str(tmp_path / "store")) as store, litter.open("rb") as stream:
        store.put_file(stream)

    said = repo.theta("gc", "--remote", "--grace", "0")
    refused = repo.theta("gc", status=2)
    local = subprocess.run(
        [*thetastore, "gc", str(repo.path / ".git/theta")], capture_output=True, text=True, check=False
    )

    assert "deleted (1 pack)" in said
    assert "--remote" in refused
    assert local.returncode == 2
    assert "git theta prune" in local.stderr
    clone = tmp_path / "clone"
    repo.git("clone", "-q", f"{repo.path}.git", str(clone))
    Repo(clone).git("config", "theta.url", str(tmp_path / "store"))
    Repo(clone).theta("pull")
    assert (clone / "m.safetensors").read_bytes() == model(1)


def test_a_base_stays_for_what_is_stored_while_another_store_is_asked(place: Place) -> None:
    first = place.put(1)
    later: list[Digest] = []
    changed = bytearray(model(1))
    changed[-4000] ^= 1

    def is_elsewhere(_: Digest) -> bool:
        if not later:
            with place.open() as store:
                chunks = store.put_file(io.BytesIO(changed), first).manifest.chunks
                later.extend(chunk.digest for chunk in chunks if store.objects.entry(chunk.digest).bases)
        return True

    with place.open() as store:
        pruned = prune(store.objects, [], [Root("first", first)], is_elsewhere)

    assert pruned.is_swept
    with place.open() as store:
        assert [bytes(store.objects.get(Kind.CHUNK, digest)) for digest in later] == [bytes(changed[-(256 << 10) :])]


def test_what_is_only_here_stays_although_it_begins_as_something_does_that_another_store_has(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tables, pruning):
        monkeypatch.setattr(module, "word_of", lambda digest: digest[0] & 7)  # so that most begin as others do
    roots = [Root(str(seed), place.put(seed, kbytes=64)) for seed in range(12)]
    with place.open() as store:
        held = {root.name: set(store.iter_objects(root.manifest_digest)) for root in roots}
        elsewhere = set().union(*(held[root.name] for root in roots[:3]))
        prune(store.objects, [], roots, elsewhere.__contains__)

    with place.open() as store:
        for root in roots[3:]:
            assert store.missing_objects([root.manifest_digest]) == [], "this is nowhere else"


def test_what_another_store_has_goes_where_nothing_else_begins_like_it(place: Place) -> None:
    here, there = (Root(str(seed), place.put(seed)) for seed in range(2))
    with place.open() as store:
        elsewhere = set(store.iter_objects(there.manifest_digest))
        prune(store.objects, [], [here, there], elsewhere.__contains__)

    with place.open() as store:
        assert store.missing_objects([here.manifest_digest]) == []
        assert store.missing_objects([there.manifest_digest]) != []
