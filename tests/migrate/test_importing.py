"""Histories go into the store, whole and byte for byte, and can be had back."""

from __future__ import annotations

import json
import os

import pytest

PLAIN_IMPORT = ("import", "--from", "git", "--include", "*.safetensors", "--everything", "--yes")
LFS_IMPORT = ("import", "--from", "lfs", "--everything", "--yes")


def files_of(place, revision):
    return [
        name for name in place.git("ls-tree", "-r", "--name-only", revision).split("\n") if name != ".gitattributes"
    ]


def contents(place, revision):
    return {name: place.bytes_at(revision, name) for name in files_of(place, revision) if name.endswith(".safetensors")}


def raw_contents(place, revision):
    return {name: place.blob(revision, name) for name in files_of(place, revision) if name.endswith(".safetensors")}


def revisions(place):
    return ["first", "second^{commit}", "side", "main", "main^", "main^2"]


def test_every_version_of_a_plain_history_comes_back_byte_for_byte(plain):
    before = {name: raw_contents(plain, name) for name in revisions(plain)}
    texts = {name: plain.git("show", f"{name}:a.txt") for name in revisions(plain)}

    plain.migrate(*PLAIN_IMPORT)

    assert {name: contents(plain, name) for name in revisions(plain)} == before
    assert {name: plain.git("show", f"{name}:a.txt") for name in revisions(plain)} == texts
    assert plain.git("cat-file", "blob", "first:m.safetensors").startswith("version ")
    assert plain.status() == ""


def test_the_shape_and_the_words_of_a_history_stay(plain):
    form = "--format=%an %ae %ad %cn %ce %cd %s %D"
    before = plain.git("log", "--graph", form, "--branches", "--tags")

    plain.migrate(*PLAIN_IMPORT)

    assert plain.git("log", "--graph", form, "--branches", "--tags") == before
    assert plain.git("cat-file", "-t", "second") == "tag"
    assert plain.git("for-each-ref", "--format=%(contents)", "refs/tags/second") == "second"
    assert plain.git("notes", "show", "second^{commit}") == "good"
    assert plain.run("git", "fsck", "--strict").returncode == 0


def test_the_work_tree_is_left_as_it_is_and_clean(plain):
    stat = os.stat(plain.path / "m.safetensors")

    plain.migrate(*PLAIN_IMPORT)

    after = os.stat(plain.path / "m.safetensors")
    assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert plain.status() == ""
    assert plain.read("m.safetensors") == plain.weights(1, 5)


def test_commits_before_the_first_weights_keep_their_names(empty):
    first = empty.commit("text", {"a.txt": b"1\n"})
    empty.commit("weights", {"m.safetensors": empty.weights(1)})

    empty.migrate(*PLAIN_IMPORT)

    assert empty.git("rev-parse", "HEAD^") == first


def test_the_map_of_commits_is_printed_and_kept(plain):
    old = plain.git("rev-list", "--all", "--not", "refs/notes/commits").split()

    done = plain.migrate(*PLAIN_IMPORT)

    kept = dict(line.split() for line in plain.read(".git/theta-migrate/1/commits").decode().splitlines())
    assert sorted(kept) == sorted(old)
    assert all(f"{one} {kept[one]}" in done.stdout for one in old)
    assert kept[old[0]] == plain.git("rev-parse", "main")


def test_undo_puts_everything_back(plain):
    before = plain.git("for-each-ref")
    plain.migrate(*PLAIN_IMPORT)
    assert plain.git("for-each-ref") != before

    plain.migrate("undo")

    assert plain.git("for-each-ref") == before
    assert plain.status() == ""
    assert not (plain.path / ".gitattributes").exists()
    assert plain.read("m.safetensors") == plain.weights(1, 5)


def test_undo_refuses_where_work_would_be_lost(plain):
    plain.migrate(*PLAIN_IMPORT)
    plain.commit("after", {"a.txt": b"new\n"})

    done = plain.migrate("undo", check=False)

    assert done.returncode == 2
    assert "'heads/main' has moved since the migration" in done.stderr
    assert plain.git("show", "main:a.txt") == "new"


def test_what_is_forgotten_is_gone(plain):
    plain.migrate(*PLAIN_IMPORT)

    plain.migrate("forget")

    assert plain.git("for-each-ref", "refs/theta") == ""
    assert plain.migrate("undo", check=False).returncode == 2


def test_only_the_branch_that_is_checked_out_is_rewritten_by_default(plain):
    others = plain.git("for-each-ref", "refs/heads/side", "refs/tags")

    done = plain.migrate("import", "--from", "git", "-I", "*.safetensors", "--yes")

    assert plain.git("for-each-ref", "refs/heads/side", "refs/tags") == others
    assert "3 other branches and tags would keep the old history" in done.stdout
    assert plain.status() == ""


def test_named_branches_are_rewritten(plain):
    main = plain.git("rev-parse", "main")

    plain.migrate("import", "--from", "git", "-I", "*.safetensors", "--yes", "side")

    assert plain.git("rev-parse", "main") == main
    assert plain.git("cat-file", "blob", "side:s.safetensors").startswith("version ")
    assert plain.status() == ""


def test_excluded_files_stay_in_git(plain):
    plain.migrate(*PLAIN_IMPORT, "--exclude", "deep/**")

    assert plain.git("cat-file", "blob", "main:m.safetensors").startswith("version ")
    assert raw_contents(plain, "main")["deep/er/n.safetensors"] == plain.weights(7)
    assert plain.status() == ""


def test_a_dry_run_changes_nothing_and_says_sizes(plain):
    before = plain.git("for-each-ref"), sorted(os.listdir(plain.path / ".git"))

    done = plain.migrate("import", "--from", "git", "-I", "*.safetensors", "--everything", "--dry-run")

    assert (plain.git("for-each-ref"), sorted(set(os.listdir(plain.path / ".git")) - {"theta-migrate"})) == before
    assert os.listdir(plain.path / ".git" / "theta-migrate") == []
    assert "before: 2." in done.stdout
    assert "after: 2." in done.stdout


def test_without_yes_and_without_a_terminal_nothing_is_rewritten(plain):
    before = plain.git("for-each-ref")

    done = plain.migrate("import", "--from", "git", "-I", "*.safetensors", check=False)

    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert plain.git("for-each-ref") == before


@pytest.mark.parametrize("command", [PLAIN_IMPORT, ("import", "--from", "git", "-I", "*.safetensors", "--no-rewrite")])
def test_a_dirty_work_tree_is_refused(plain, command):
    plain.write("a.txt", b"edited\n")

    done = plain.migrate(*command, check=False)

    assert done.returncode == 2
    assert "not committed: 'a.txt'" in done.stderr


def test_a_branch_in_another_work_tree_is_refused(plain):
    plain.git("worktree", "add", "-q", "../other", "side")

    done = plain.migrate(*PLAIN_IMPORT, check=False)

    assert done.returncode == 2
    assert "'side' is checked out in another work tree" in done.stderr


def test_a_shallow_clone_is_refused(plain, environment):
    plain.git("clone", "-q", "--depth", "1", f"file://{plain.path}", "../shallow")
    shallow = type(plain)(plain.path.parent / "shallow", environment)

    done = shallow.migrate(*PLAIN_IMPORT, check=False)

    assert done.returncode == 2
    assert "git fetch --unshallow" in done.stderr


def test_no_rewrite_adds_a_commit_and_nothing_else(plain):
    before = plain.git("rev-parse", "main")

    plain.migrate("import", "--from", "git", "-I", "*.safetensors", "--no-rewrite", "-m", "to the store")

    assert plain.git("rev-parse", "main^") == before
    assert plain.git("log", "-1", "--format=%s") == "to the store"
    assert plain.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert contents(plain, "HEAD") == raw_contents(plain, "HEAD^")
    assert plain.status() == ""


def test_a_signed_commit_that_stays_keeps_its_signature_and_one_that_changes_loses_it(empty):
    raw = empty.git("cat-file", "commit", empty.commit("one", {"a.txt": b"1\n"})) + "\n"
    signed = raw.replace("\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n\n", 1)
    first = empty.run("git", "hash-object", "-t", "commit", "-w", "--stdin", text=signed).stdout.strip()
    empty.git("reset", "-q", "--hard", first)
    empty.commit("two", {"m.safetensors": empty.weights(1)})
    raw = empty.git("cat-file", "commit", "HEAD") + "\n"
    signed = raw.replace("\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n abc\n -----END PGP SIGNATURE-----\n\n", 1)
    empty.git(
        "reset", "-q", empty.run("git", "hash-object", "-t", "commit", "-w", "--stdin", text=signed).stdout.strip()
    )

    done = empty.migrate(*PLAIN_IMPORT)

    assert empty.git("rev-parse", "HEAD^") == first
    assert "gpgsig" not in empty.git("cat-file", "commit", "HEAD")
    assert "2 commits of these are signed" in done.stdout
    assert "1 signature dropped" in done.stdout


def test_odd_commits_keep_every_byte_but_tree_and_parents(empty):
    empty.commit("two", {"m.safetensors": empty.weights(1)})
    raw = empty.git("cat-file", "commit", "HEAD")
    odd = (
        raw.replace("\n\n", "\nencoding latin1\nx-odd a\n b\n\n", 1).encode("utf-8", "surrogateescape")
        + b" \xe9 no newline"
    )
    (empty.path / ".git" / "odd").write_bytes(odd)
    oid = empty.git("hash-object", "-t", "commit", "-w", "--literally", ".git/odd")
    empty.git("reset", "-q", oid)

    empty.migrate(*PLAIN_IMPORT)

    new = empty.run("git", "cat-file", "commit", "HEAD").stdout.encode("utf-8", "surrogateescape")
    assert new.split(b"\n", 1)[1] == odd.split(b"\n", 1)[1]
    assert empty.git("rev-parse", "HEAD") != oid


def test_submodules_links_and_odd_names_stay(empty):
    empty.git("init", "-q", "../sub")
    sub = type(empty)(empty.path.parent / "sub", empty.environment)
    sub.commit("sub", {"x.txt": b"x\n"})
    empty.git("submodule", "add", "-q", str(sub.path), "vendored")
    (empty.path / "link.safetensors").symlink_to("m.safetensors")
    odd = os.fsdecode(b'na\xefve "q".safetensors')
    empty.commit("all", {"m.safetensors": empty.weights(1), odd: empty.weights(2)})
    before = [line for line in empty.git("ls-tree", "-z", "HEAD").split("\0") if line.startswith(("160000", "120000"))]

    done = empty.migrate(*PLAIN_IMPORT)

    assert "submodules stay as they are: vendored" in done.stdout
    assert [
        line for line in empty.git("ls-tree", "-z", "HEAD").split("\0") if line.startswith(("160000", "120000"))
    ] == before
    assert empty.bytes_at("HEAD", odd) == empty.weights(2)
    assert empty.status() == ""


def test_a_sha256_repository_is_migrated(tmp_path, environment, plain):
    place = type(plain)(tmp_path / "sha256", environment)
    place.path.mkdir()
    place.git("init", "-q", "--object-format=sha256")
    place.commit("one", {"m.safetensors": place.weights(1)})

    place.migrate(*PLAIN_IMPORT)

    assert place.bytes_at("HEAD", "m.safetensors") == place.weights(1)
    assert place.status() == ""


def test_a_detached_head_and_a_bare_repository_are_migrated(plain, environment):
    plain.git("clone", "-q", "--bare", ".", "../bare.git")
    bare = type(plain)(plain.path.parent / "bare.git", environment)
    plain.git("switch", "-q", "--detach", "main^")

    plain.migrate(*PLAIN_IMPORT)
    bare.migrate(*PLAIN_IMPORT)

    assert plain.status() == ""
    assert plain.git("cat-file", "blob", "HEAD:m.safetensors").startswith("version ")
    assert plain.git("rev-parse", "HEAD") == plain.git("rev-parse", "main^")
    assert bare.git("rev-parse", "main") == plain.git("rev-parse", "main")


def test_pointers_of_git_lfs_become_pointers_of_ours_and_the_work_tree_is_filled(lfs):
    lfs.migrate(*LFS_IMPORT)

    for at, version in enumerate((lfs.weights(1, 2), lfs.weights(1, 3), lfs.weights(1, 5)), start=1):
        assert lfs.bytes_at(f"v{at}", "m.safetensors") == version
    assert lfs.read("m.safetensors") == lfs.weights(1, 5)
    assert lfs.read(".gitattributes") == b"*.safetensors filter=theta diff=theta merge=theta -text\n*.txt text\n"
    assert lfs.status() == ""


def test_with_patterns_the_rest_stays_in_git_lfs(lfs):
    lfs.commit("more", {"keep.safetensors": lfs.lfs_pointer(b"other bytes")})

    lfs.migrate(*LFS_IMPORT, "--include", "m.*")

    assert lfs.bytes_at("HEAD", "m.safetensors") == lfs.weights(1, 5)
    assert lfs.git("cat-file", "blob", "HEAD:keep.safetensors").startswith("version https://git-lfs")
    assert lfs.git("check-attr", "filter", "keep.safetensors") == "keep.safetensors: filter: lfs"
    assert lfs.status() == ""


def test_missing_objects_are_named_and_nothing_is_moved(lfs):
    lfs.commit("lost", {"lost.safetensors": lfs.lfs_pointer(b"nowhere", is_here=False)})
    before = lfs.git("for-each-ref")

    done = lfs.migrate(*LFS_IMPORT, check=False)

    assert done.returncode == 2
    assert "'lost.safetensors': Git LFS object" in done.stderr
    assert "git lfs fetch --all" in done.stderr
    assert lfs.git("for-each-ref") == before


def test_missing_objects_can_be_left_where_they_are(lfs):
    pointer = lfs.lfs_pointer(b"nowhere", is_here=False)
    lfs.commit("lost", {"lost.safetensors": pointer})

    done = lfs.migrate(*LFS_IMPORT, "--skip-missing")

    assert "left as it is, in all versions: 'lost.safetensors'" in done.stderr
    assert lfs.git("cat-file", "blob", "HEAD:lost.safetensors").encode() + b"\n" == pointer
    assert lfs.git("check-attr", "filter", "lost.safetensors") == "lost.safetensors: filter: lfs"
    assert lfs.bytes_at("HEAD", "m.safetensors") == lfs.weights(1, 5)
    assert lfs.status() == ""


def test_a_damaged_object_stops_the_import(lfs):
    [path] = [path for path in (lfs.path / ".git/lfs/objects").rglob("*") if path.is_file()][:1]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    before = lfs.git("for-each-ref")

    done = lfs.migrate(*LFS_IMPORT, check=False)

    assert done.returncode == 2
    assert f"'{path}' is damaged" in done.stderr
    assert lfs.git("for-each-ref") == before


def test_attributes_of_deeper_directories_are_changed_where_they_are(empty):
    empty.commit("a", {"x/.gitattributes": b"*.bin filter=lfs diff=lfs merge=lfs -text lockable\n"})
    empty.commit("b", {"x/y/m.bin": empty.lfs_pointer(empty.weights(1)), "plain.bin": b"plain"})

    empty.migrate(*LFS_IMPORT)

    assert empty.read("x/.gitattributes") == b"*.bin filter=theta diff=theta merge=theta -text lockable\n"
    assert empty.bytes_at("HEAD", "x/y/m.bin") == empty.weights(1)
    assert empty.git("cat-file", "blob", "HEAD:plain.bin") == "plain"
    assert empty.status() == ""


def test_a_file_that_skipped_the_filter_of_git_lfs_is_stored_too(lfs):
    lfs.write("raw.safetensors", lfs.weights(9))
    lfs.git("-c", "filter.lfs.clean=cat", "add", "raw.safetensors")
    lfs.git("commit", "-q", "-m", "raw")

    lfs.migrate(*LFS_IMPORT)

    assert lfs.bytes_at("HEAD", "raw.safetensors") == lfs.weights(9)


def test_what_would_gain_is_listed(plain):
    plain.commit("more", {"o.safetensors": plain.lfs_pointer(plain.weights(8))})

    done = plain.migrate("info", "--above", "100k", "--json", "--measure")

    groups = {group["from"]: group for group in json.loads(done.stdout)["groups"]}
    assert groups["git"]["pattern"] == "*.safetensors"
    assert (groups["git"]["files"], groups["git"]["versions"]) == (3, 5)
    assert groups["git"]["raw_bytes"] == sum(
        len(plain.weights(*seeds)) for seeds in ((1, 2), (7,), (1, 3), (4,), (1, 5))
    )
    assert groups["git"]["after_bytes"] < groups["git"]["before_bytes"]
    assert groups["lfs"]["raw_bytes"] == len(plain.weights(8))
    assert "*.safetensors" in plain.migrate("info", "--above", "100k").stdout


def test_an_import_that_finds_nothing_says_so(plain):
    done = plain.migrate("import", "--from", "git", "--include", "*.nothing", "--yes")

    assert "nothing to migrate" in done.stdout


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("import", "--from", "git", "--yes"), "--include"),
        (("import", "--from", "git", "-I", "", "--yes"), "'' is not a pattern"),
        (("import", "--from", "git", "-I", "*.x", "--no-rewrite", "--everything"), "--no-rewrite"),
        (("import", "--from", "git", "-I", "*.x", "--yes", "nowhere"), "'nowhere' is not a branch or a tag"),
        (("info", "--above", "big"), "'big' is not a size"),
    ],
)
def test_what_makes_no_sense_is_told(plain, args, word):
    done = plain.migrate(*args, check=False)

    assert done.returncode == 2
    assert word in done.stderr


def test_a_second_migration_takes_the_first_for_what_it_is(lfs):
    lfs.migrate(*LFS_IMPORT)
    before = lfs.git("rev-parse", "HEAD")

    done = lfs.migrate(*LFS_IMPORT)

    assert "nothing to migrate" in done.stdout
    assert lfs.git("rev-parse", "HEAD") == before
