"""`git theta status --porcelain`, large files, and what `ls-files` has for scripts."""

from __future__ import annotations

import json


def test_porcelain_has_a_line_of_four_letters_for_each_file_with_something_to_say(work) -> None:
    assert work.theta("status", "--porcelain").stdout == ""
    work.write("m.safetensors", work.checkpoint("changed"))
    work.write("new one.safetensors", work.checkpoint("new"))
    work.git("add", "new one.safetensors")
    work.git("rm", "-q", "--cached", "d/n.safetensors")
    work.run("sh", "-c", "head -c 11000000 /dev/zero > big.pt; cp d/n.safetensors plain.safetensors")
    plain = ("-c", "filter.theta.process=", "-c", "filter.theta.required=false", "-c", "filter.theta.clean=cat")
    work.git(*plain, "add", "plain.safetensors")

    done = work.theta("status", "--porcelain", check=False)

    assert done.stdout.splitlines() == [
        ".M.. m.safetensors",
        "M..U new one.safetensors",
        "..G. plain.safetensors",
        "..L. big.pt",
    ]
    assert done.returncode == 1
    assert work.theta("status", "-z", check=False).stdout.split("\0")[1] == "M..U new one.safetensors"


def test_pointers_and_lost_weights_have_letters_of_their_own(work) -> None:
    import shutil

    work.git("checkout", "-q", "v1")
    work.git("checkout", "-q", "main", "--", "m.safetensors", GIT_THETA_SKIP_SMUDGE="1")
    work.git("checkout", "-q", "-f", "main", GIT_THETA_SKIP_SMUDGE="1")
    assert "..P. m.safetensors\n" in work.theta("status", "-p").stdout

    shutil.rmtree(work.path / ".git" / "theta")
    shutil.rmtree(work.path.parent / "weights")

    assert "..X? m.safetensors\n" in work.theta("status", "-p", check=False).stdout


def test_a_large_file_is_named_by_status_with_what_keeps_it_out(work) -> None:
    work.run("sh", "-c", "head -c 11000000 /dev/zero > big.pt")

    done = work.theta("status")

    assert "big.pt" in done.stdout
    assert "hint: git theta track '*.pt' keeps large files out of git itself\n" in done.stdout
    assert json.loads(work.theta("status", "--json").stdout)["large"] == [
        {"path": "big.pt", "size_bytes": 11_000_000, "in_git": False}
    ]
    work.git("config", "theta.warnSize", "20m")
    assert "big.pt" not in work.theta("status").stdout
    work.git("config", "theta.warnSize", "0")
    assert "big.pt" not in work.theta("status").stdout


def test_names_alone_are_listed_as_git_lfs_lists_them(work) -> None:
    assert work.theta("ls-files", "--name-only").stdout == "d/n.safetensors\nm.safetensors\n"
    assert work.theta("ls-files", "-n", "v1").stdout == "m.safetensors\n"
