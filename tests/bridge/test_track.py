"""Patterns in `.gitattributes`, judged by git itself."""

from __future__ import annotations

import pytest

ATTRIBUTES = "filter=theta diff=theta merge=theta -text"


def filter_of(work, path: str) -> str:
    return work.git("check-attr", "-z", "filter", "--", path).out.split("\0")[2]


@pytest.mark.parametrize(
    ("pattern", "match", "other"),
    [
        ("*.safetensors", "a/b.safetensors", "a.bin"),
        ("my file*.bin", "my file 1.bin", "my.bin"),
        ("#odd.bin", "#odd.bin", "odd.bin"),
        ("!bang.bin", "!bang.bin", "bang.bin"),
        ('say "x".bin', 'say "x".bin', "say x.bin"),
        ("[attr]x", "[attr]x", "x"),
        ("tab\there", "tab\there", "tab"),
        ("größe-*.bin", "größe-1.bin", "grosse.bin"),
        ("./lead.bin", "lead.bin", "other.bin"),
        ("models/", "models/deep/a.bin", "a.bin"),
        ("back\\*slash", "back*slash", "backXslash"),
    ],
)
def test_a_pattern_matches_what_it_says(work, pattern, match, other):
    done = work.theta("track", pattern)

    # `[attr]x` as a glob is one letter and x; escaped it is the name.
    assert done.status == 0, done.err
    assert (filter_of(work, match), filter_of(work, other)) == ("theta", "unspecified")

    assert work.theta("untrack", pattern).status == 0
    assert not (work.path / ".gitattributes").exists()


def test_the_line_is_the_one_of_the_documentation(work):
    work.theta("track", "*.safetensors")

    assert (work.path / ".gitattributes").read_text() == f"*.safetensors {ATTRIBUTES}\n"


def test_other_lines_stay_as_they_are(work):
    before = "# mine\n\n*.txt text\n*.bin -diff"
    (work.path / ".gitattributes").write_text(before)

    work.theta("track", "a", "b")
    assert (work.path / ".gitattributes").read_text() == f"{before}\na {ATTRIBUTES}\nb {ATTRIBUTES}\n"
    work.theta("untrack", "a", "b")

    assert (work.path / ".gitattributes").read_text() == before + "\n"


def test_attributes_of_the_users_own_survive_untracking(work):
    (work.path / ".gitattributes").write_text(f"*.bin {ATTRIBUTES} export-ignore\n")

    work.theta("untrack", "*.bin")

    assert (work.path / ".gitattributes").read_text() == "*.bin export-ignore\n"


def test_tracking_twice_says_so(work):
    work.theta("track", "a b")
    before = (work.path / ".gitattributes").read_bytes()

    done = work.theta("track", "a b")

    assert "tracked already" in done.out
    assert (work.path / ".gitattributes").read_bytes() == before


def test_in_a_subdirectory_the_file_there_is_written(work):
    (work.path / "sub").mkdir()

    work.theta("track", "*.bin", cwd="sub")

    assert filter_of(work, "sub/x.bin") == "theta"
    assert filter_of(work, "x.bin") == "unspecified"
    assert work.theta("track").out == "*.bin  (sub/.gitattributes)\n"


def test_an_absolute_path_becomes_one_of_the_directory(work):
    work.theta("track", str(work.path / "models" / "x.bin"))

    assert filter_of(work, "models/x.bin") == "theta"


def test_without_an_installation_tracking_installs_here_and_says_so(work):
    done = work.theta("track", "*.bin")

    assert "it is now, for this repository" in done.err
    assert work.git("config", "--local", "filter.theta.process").out
    assert (work.path / ".git" / "hooks" / "pre-push").exists()


def test_with_a_global_installation_only_missing_hooks_are_added(work):
    work.git("config", "--global", "filter.theta.process", "git-theta filter-process")

    done = work.theta("track", "*.bin")

    assert "installed" not in done.out
    assert work.git("config", "--local", "filter.theta.process", check=False).status == 1
    assert (work.path / ".git" / "hooks" / "pre-push").exists()


def test_files_that_are_committed_as_plain_blobs_are_named(work):
    (work.path / "a b.bin").write_bytes(b"weights")
    (work.path / "empty.bin").write_bytes(b"")
    work.git("add", ".")
    work.commit()

    done = work.theta("track", "*.bin")

    assert "git add --renormalize 'a b.bin'\n" in done.out
    assert "empty" not in done.out


def test_what_git_itself_reads_is_never_tracked(work):
    done = work.theta("track", "*")

    assert done.status == 2
    assert "'.gitattributes'" in done.err
    assert not (work.path / ".gitattributes").exists()


def test_untracking_what_is_not_tracked_fails(work):
    done = work.theta("untrack", "*.bin")

    assert done.status == 2
    assert "is not tracked" in done.err


def test_a_pattern_outside_of_the_directory_is_refused(work):
    (work.path / "sub").mkdir()

    assert work.theta("track", "../x", cwd="sub").status == 2


def test_untracking_the_last_pattern_counts_at_once_where_the_file_was_committed(work):
    work.theta("track", "*.bin")
    work.git("add", ".gitattributes")
    work.commit()

    work.theta("untrack", "*.bin")

    assert work.git("check-attr", "filter", "a.bin").out == "a.bin: filter: unspecified\n"
    assert (work.path / ".gitattributes").read_bytes() == b""
