"""Text that git put together from two pointers stands for no weights: a commit of it is refused."""

from __future__ import annotations

from blake3 import blake3
from work_place import WorkPlace


def stage_half(work: WorkPlace) -> None:
    """Stage the first of the changed lines of a pointer, as `git add -p` does: past the filter."""
    work.write("m.safetensors", work.checkpoint("b", "d"))
    patch = work.run("git", "diff", "-U0", "--no-ext-diff", "--no-textconv").stdout.splitlines(keepends=True)
    begins = [number for number, line in enumerate(patch) if line.startswith("@@")]
    (work.path / "half.patch").write_text("".join(patch[: begins[1]]))
    work.git("apply", "--cached", "--unidiff-zero", "half.patch")
    (work.path / "half.patch").unlink()


def test_a_commit_of_some_lines_of_a_pointer_is_refused_with_what_stages_the_whole(work) -> None:
    before = work.git("rev-parse", "HEAD")
    stage_half(work)

    done = work.run("git", "commit", "-q", "-m", "half", check=False)

    assert done.returncode == 1
    assert "git theta: 'm.safetensors' cannot be committed so: " in done.stderr
    assert "git restore --staged :/m.safetensors && git add :/m.safetensors" in done.stderr
    assert work.git("rev-parse", "HEAD") == before
    work.run("sh", "-c", "git restore --staged :/m.safetensors && git add :/m.safetensors")
    work.git("commit", "-q", "-m", "whole")
    assert work.is_whole()


def test_adding_the_file_again_takes_the_place_of_what_was_staged_of_its_pointer(work) -> None:
    stage_half(work)

    work.git("add", "m.safetensors")

    work.git("commit", "-q", "-m", "whole")
    assert work.is_whole()


def test_who_insists_can_commit_it_all_the_same(work) -> None:
    stage_half(work)

    assert work.run("git", "commit", "-q", "--no-verify", "-m", "half").stderr == ""


def test_the_hook_of_the_user_is_asked_where_pointers_are_sound(work) -> None:
    hook = work.path / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho mine >&2\n")
    hook.chmod(0o755)
    work.theta("install", "--local")
    work.write("m.safetensors", work.checkpoint("b", "d"))

    assert work.run("git", "commit", "-q", "-a", "-m", "more").stderr == "mine\n"


def test_a_pointer_of_weights_that_are_not_here_can_be_committed(work, place) -> None:
    place.git("clone", "-q", str(work.path), "light", GIT_THETA_SKIP_SMUDGE="1")
    light = place.at(place.path / "light")
    (light.path / "copy.safetensors").write_bytes(light.read("m.safetensors"))
    light.git("add", "copy.safetensors")

    assert light.run("git", "commit", "-q", "-m", "a copy").stderr == ""


def test_a_submodule_in_the_commit_is_no_file(work) -> None:
    work.git("update-index", "--add", "--cacheinfo", "160000," + "1" * 40 + ",sub")
    work.write("new.safetensors", work.checkpoint("e"))
    work.git("add", "new.safetensors")

    assert work.run("git", "commit", "-q", "-m", "both").stderr == ""


def test_an_edited_pointer_in_a_commit_is_named_at_checkout_with_the_way_out(work) -> None:
    pointer = work.git("cat-file", "blob", "HEAD:m.safetensors").replace("float32", "float16", 1) + "\n"
    work.write("pointer", pointer.encode())
    oid = work.git("hash-object", "-w", "--no-filters", "pointer")
    work.git("update-index", "--cacheinfo", f"100644,{oid},m.safetensors")
    (work.path / "m.safetensors").unlink()

    done = work.run("git", "checkout", "--", "m.safetensors", check=False)

    assert done.returncode == 128
    assert "the pointer was edited: it does not say what its manifest says\nhint: take the pointer" in done.stderr
    work.git("checkout", "HEAD", "--", "m.safetensors")  # what the hint says
    assert blake3(work.read("m.safetensors")).hexdigest() in work.git("cat-file", "blob", "HEAD:m.safetensors")
