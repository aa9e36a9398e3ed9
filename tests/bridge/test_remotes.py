"""Where a remote's weights are, and getting them from there."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from gitbridge.errors import ConfigError, ConsentError, RemoteError
from gitbridge.fetching import fetch_manifests
from gitbridge.remotes import Place, consent, default_remote, places, store_location
from gitbridge.trees import tracked_in_index, tracked_in_tree
from thetastore.store import Store


def weights(seed: int) -> bytes:
    return random.Random(seed).randbytes(30_000)


def url_of(work, remote: str | None = None, treeish: str | None = None) -> str | None:
    with work.repository() as repository:
        return repository.remote_store_url(remote, treeish)


def test_settings_count_in_the_order_of_the_documentation(work):
    work.git("remote", "add", "origin", "https://example.org/x.git")
    assert url_of(work) is None

    work.git("config", "-f", ".thetaconfig", "theta.url", "/committed")
    assert url_of(work) is None  # not added: nobody else would see it
    work.git("add", ".thetaconfig")
    assert url_of(work) == "/committed"

    work.git("config", "theta.url", "/configured")
    assert url_of(work) == "/configured"

    work.git("config", "remote.origin.thetaUrl", "/of/origin")
    assert url_of(work) == "/of/origin"
    assert url_of(work, "other") == "/configured"


def test_the_committed_url_comes_from_the_index_then_the_tree_then_head(work):
    def add(url: str) -> str:
        work.git("config", "-f", ".thetaconfig", "theta.url", url)
        work.git("add", ".thetaconfig")
        return work.commit()

    first = add("/first")
    add("/second")
    assert url_of(work, treeish=first) == "/second"

    work.git("rm", "-q", "--cached", ".thetaconfig")
    assert url_of(work, treeish=first) == "/first"
    assert url_of(work) == "/second"


def test_a_commit_older_than_the_committed_file_has_that_of_the_newest_on_a_branch_of_its_own(work):
    older = work.commit()
    work.git("config", "-f", ".thetaconfig", "theta.url", "/named/later")
    work.git("add", ".thetaconfig")
    newer = work.commit()
    work.git("checkout", "-q", older)
    assert url_of(work, treeish=older) == "/named/later"

    work.git("branch", "-D", "-q", "main")
    work.git("update-ref", "refs/remotes/origin/of-anybody", newer)
    assert url_of(work) is None

    work.git("update-ref", "refs/remotes/origin/main", newer)
    work.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    work.git("remote", "add", "origin", "https://example.com/model.git")
    assert url_of(work) == "/named/later"


def test_nothing_but_the_url_is_taken_from_a_committed_file(work, tmp_path):
    (tmp_path / "evil").write_text("[theta]\n\turl = /included\n\tstorage = /evil\n")
    (work.path / ".thetaconfig").write_text(
        f"[include]\n\tpath = {tmp_path / 'evil'}\n[theta]\n\tstorage = /evil\n\tprogram = evil\n"
        "[core]\n\tfsmonitor = touch pwned\n"
    )
    work.git("add", ".thetaconfig")

    with work.repository() as repository:
        assert places(repository, None) == []
        assert repository.store_path() == str(work.path / ".git" / "theta")
        assert repository.config("theta.program") is None


@pytest.mark.parametrize("content", [b"[theta\nurl = x", b"\0\xff", b"[theta]\n\turl\n"])
def test_a_malformed_committed_file_is_an_error_or_nothing(work, content):
    (work.path / ".thetaconfig").write_bytes(content)
    work.git("add", ".thetaconfig")

    with work.repository() as repository:
        try:
            assert places(repository, None) == []
        except ConfigError as error:
            assert ".thetaconfig" in str(error)  # noqa: PT017


def test_relative_paths_count_from_the_root_also_in_a_linked_work_tree(work, tmp_path):
    work.git("config", "theta.url", "../store")
    work.commit()
    work.git("worktree", "add", "-q", str(tmp_path / "deep" / "linked"))

    with work.repository().at(str(tmp_path / "deep" / "linked")) as linked:
        assert linked.remote_store_url(None) == str(tmp_path / "store")
    assert url_of(work) == str(tmp_path / "store")


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("/a/b", "/a/b"),
        ("a/../b", "/root/b"),
        ("~/x", "~/x"),
        ("file:///a%20b/", "/a b"),
        ("file://localhost/x", "/x"),
        ("./host:/x", "/root/host:/x"),
    ],
)
def test_urls_of_directories(url, directory):
    assert store_location(url, "/root") == os.path.expanduser(directory)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket/x?signature=secret",
        "https://x/y#z",
        "s3://bucket/../x",
        "s3://",
        "simplecache::s3://bucket/x",
        "file://host/x",
        "file://",
        "file:///a%00b",
        "file:///a%0ab",
        "",
        "a\nb",
        "a\0b",
        "host:/x",
        "me@host:x",
        "~nobody-here/x",
    ],
)
def test_other_urls_are_refused_with_the_way_out(url):
    with pytest.raises(ConfigError) as caught:
        store_location(url, "/root")

    assert caught.value.hint


def test_no_secret_of_a_refused_url_is_shown():
    for url in ("s3://key:hunter2@bucket/x", "https://x/y?signature=hunter2", "gs://a/b#hunter2", "az://hunter2:@"):
        with pytest.raises(ConfigError) as caught:
            store_location(url, "/root")

        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket/x/", "s3://bucket/x"),
        ("S3A://bucket", "s3://bucket"),
        ("gcs://b/m", "gs://b/m"),
        ("abfss://c@account.dfs.core.windows.net/m", "abfss://c@account.dfs.core.windows.net/m"),
        ("ssh://me@host:22/srv/m", "sftp://me@host:22/srv/m"),
        ("https://host/m", "https://host/m"),
    ],
)
def test_urls_of_places_far_away_have_one_spelling(url, location):
    assert store_location(url, "/root") == location


def test_a_clone_of_a_path_finds_its_origins_store(work, make_work, tmp_path):
    digest = work.put("w", weights(1))
    work.commit()
    clone = make_work("clone", clone=work.path)
    again = make_work("again", clone=f"file://{clone.path}")

    assert url_of(clone) == str(work.path / ".git" / "theta")
    done = again.theta("fetch")

    assert (done.status, done.err) == (0, "")
    with again.repository().open_store() as store:
        assert store.missing_objects([digest]) == []


def test_a_clone_of_a_path_finds_where_its_origin_is_configured_to_push(work, make_work, tmp_path):
    work.git("config", "theta.url", "../models")

    assert url_of(make_work("clone", clone=work.path)) == str(tmp_path / "models")


def test_what_gets_one_in_is_never_taken_from_the_repository_that_was_cloned(work, make_work):
    clone = make_work("clone")
    clone.git("remote", "add", "origin", str(work.path))
    clone.git("config", "theta.s3://team.profile", "mine")
    for name, value in (("url", "s3://team/x"), ("s3://team.profile", "theirs"), ("s3://team.proxy-command", "id")):
        work.git("config", f"theta.{name}", value)

    with clone.repository() as repository:
        (place,) = places(repository, None)
    assert place.location == "s3://team/x"
    assert dict(place.options) == {"profile": "mine"}

    work.git("config", "theta.url", "github://team/x")
    with clone.repository() as repository:
        assert places(repository, None) == []


def test_a_repository_that_is_its_own_origin_is_no_trouble(work):
    work.git("remote", "add", "origin", ".")

    assert url_of(work) is None


def test_two_repositories_that_are_each_others_origin_are_no_trouble(make_work):
    one, two = make_work("one"), make_work("two")
    one.git("remote", "add", "origin", str(two.path))
    two.git("remote", "add", "origin", str(one.path))

    assert url_of(one) is None


def test_a_url_that_git_rewrites_is_followed(work, make_work, tmp_path):
    work.put("w", weights(1))
    work.commit()
    clone = make_work("clone", clone=work.path)
    clone.git("remote", "set-url", "origin", "short:work")
    clone.git("config", f"url.{tmp_path}/.insteadOf", "short:")

    assert url_of(clone) == str(work.path / ".git" / "theta")


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([], None),
        ([["remote", "add", "only", "x"]], "only"),
        ([["remote", "add", "origin", "x"], ["remote", "add", "b", "y"]], "origin"),
        ([["remote", "add", "a", "x"], ["remote", "add", "b", "y"]], None),
        ([["remote", "add", "origin", "x"], ["config", "branch.main.remote", "b.c"]], "b.c"),
    ],
)
def test_the_default_remote_is_the_one_of_git_fetch(work, commands, expected):
    for command in commands:
        work.git(*command)

    assert default_remote(work.repository()) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_consent_is_asked_only_for_committed_urls_of_directories_of_somebody_else(work, tmp_path):
    theirs = tmp_path / "their directory"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    place = str(theirs / "models")
    repository = work.repository()

    consent(repository, Place(place, place, "theta.url"))
    consent(repository, Place(str(tmp_path / "models"), "models", ".thetaconfig"))
    with pytest.raises(ConsentError, match="nobody here has agreed"):
        consent(repository, Place(place, place, ".thetaconfig"))
    work.git("config", "--global", "--add", "theta.trustedUrl", place)
    consent(work.repository(), Place(place, place, ".thetaconfig"))


# Fetching


@pytest.fixture
def clone(work, make_work, tmp_path):
    """A clone without weights, and a configured store that has them."""
    work.put("a", weights(1))
    work.put("b", weights(2))
    work.commit()
    with work.repository() as repository:
        manifests = [file.manifest_digest for file in tracked_in_index(repository)]
    with work.repository().open_store() as local, Store.open(str(tmp_path / "store"), create=True) as store:
        local.send_to(store, manifests)
    shutil.rmtree(work.path / ".git" / "theta")
    made = make_work("clone", clone=work.path)
    made.git("config", "theta.url", str(tmp_path / "store"))
    return made


def test_what_is_missing_is_fetched_and_nothing_more(clone):
    with clone.repository() as repository, repository.open_store() as local:
        files = tracked_in_tree(repository, "HEAD")

        assert fetch_manifests(repository, local, files[:1], None).object_count > 0
        assert local.missing_objects([files[0].manifest_digest]) == []
        assert local.missing_objects([files[1].manifest_digest]) != []


def test_where_nothing_is_missing_no_remote_is_opened(clone):
    with clone.repository() as repository, repository.open_store() as local:
        files = tracked_in_tree(repository, "HEAD")
        fetch_manifests(repository, local, files, None)
    clone.git("config", "theta.url", "nonsense://x")

    with clone.repository() as repository, repository.open_store() as local:
        assert fetch_manifests(repository, local, files, None).object_count == 0


def test_what_is_nowhere_is_named_and_the_rest_is_fetched(clone):
    lost = clone.put("lost", weights(3))
    shutil.rmtree(clone.path / ".git" / "theta")

    with clone.repository() as repository, repository.open_store() as local:
        files = tracked_in_index(repository)
        with pytest.raises(RemoteError, match="'lost'") as caught:
            fetch_manifests(repository, local, files, None)

        assert str(lost)[:16] in str(caught.value)
        assert {manifest for manifest, _ in local.missing_objects(f.manifest_digest for f in files)} == {lost}


def test_without_any_store_the_error_says_what_to_set(clone):
    clone.git("config", "--unset", "theta.url")
    clone.git("remote", "remove", "origin")

    done = clone.theta("fetch")

    assert done.status == 2
    assert "git config theta.url" in done.err


def test_an_absent_store_is_named(clone, tmp_path):
    clone.git("config", "theta.url", str(tmp_path / "unmounted"))

    done = clone.theta("fetch")

    assert done.status == 2
    assert f"in the local store; there is no store at '{tmp_path / 'unmounted'}'" in done.err
    assert "hint: mount it" in done.err  # and not: push again what may well be there


def test_fetch_takes_revisions_or_everything(work, make_work):
    one = work.put("w", weights(1))
    work.commit()
    two = work.put("w", weights(2))
    work.commit()
    clone = make_work("clone", clone=work.path)

    def lacks() -> set[object]:
        with clone.repository().open_store() as store:
            return {manifest for manifest, _ in store.missing_objects([one, two])}

    assert clone.theta("fetch", "origin").status == 0
    assert lacks() == {one}
    assert clone.theta("fetch", "--all").status == 0
    assert lacks() == set()
    assert clone.theta("fetch", "nowhere").status == 2
    assert clone.theta("fetch", "origin", "nonsense").status == 2
