"""`ls-files` and `status`: what is where."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess

import pytest

HEADER = json.dumps(
    {
        "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]},
        "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
    }
).encode()
SAFETENSORS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(range(28))


def weights(seed: int) -> bytes:
    return random.Random(seed).randbytes(30_000)


def states(work, *args: str) -> dict[str, str]:
    done = work.theta("ls-files", "--json", *args)
    assert done.status == 0, done.err
    return {file["path"]: file["state"] for file in json.loads(done.out)["files"]}


def test_the_json_has_the_schema_of_the_documentation(work):
    work.put("m.safetensors", SAFETENSORS)

    listed = json.loads(work.theta("ls-files", "--tensors", "--json").out)

    assert list(listed) == ["schema", "files"]
    assert listed["schema"] == 1
    [file] = listed["files"]
    assert list(file) == ["path", "format", "size_bytes", "digest", "state", "tensors"]
    assert (file["format"], file["size_bytes"]) == ("safetensors", len(SAFETENSORS))
    assert [{**tensor, "digest": len(tensor["digest"])} for tensor in file["tensors"]] == [
        {"name": "a", "dtype": "bfloat16", "shape": [2], "digest": 64, "raw_bytes": 4},
        {"name": "b", "dtype": "float32", "shape": [2, 3], "digest": 64, "raw_bytes": 24},
    ]


def test_states_of_the_work_tree(work, make_work):
    work.put("full", weights(1))
    work.put("pointer", weights(2))
    work.put("absent", weights(3))
    (work.path / "full").write_bytes(weights(1))
    (work.path / "absent").unlink()
    work.commit()
    assert states(work) == {"full": "full", "pointer": "pointer", "absent": "pointer"}

    clone = make_work("clone", clone=work.path)
    assert states(clone) == dict.fromkeys(["full", "pointer", "absent"], "pointer")  # the origin has them

    shutil.rmtree(work.path / ".git" / "theta")
    assert states(work) == {"full": "full", "pointer": "missing", "absent": "missing"}
    assert states(clone)["full"] == "missing"


def test_states_of_a_revision(work, make_work):
    work.put("w", weights(1))
    work.commit()
    work.git("rm", "-qf", "w")
    work.put("v", weights(2))
    work.commit()
    clone = make_work("clone", clone=work.path)

    assert states(work, "HEAD~1") == {"w": "full"}
    assert states(clone, "HEAD~1") == {"w": "pointer"}
    shutil.rmtree(work.path / ".git" / "theta")
    assert states(clone, "HEAD~1") == {"w": "missing"}


def test_paths_directories_and_globs_choose_files_from_where_one_is(work):
    for name in ("a/x.bin", "a/y.bin", "b/x.bin", "top.bin"):
        work.put(name, weights(1))

    assert set(states(work, "a")) == {"a/x.bin", "a/y.bin"}
    assert set(states(work, "a/x.bin", "top.bin")) == {"a/x.bin", "top.bin"}
    assert set(states(work, "*/x.bin")) == {"a/x.bin", "b/x.bin"}
    done = work.theta("ls-files", "-z", "x.bin", "../top.bin", cwd="a")
    assert done.out == "a/x.bin\0top.bin\0"
    assert work.theta("ls-files", "nothing").status == 2


def test_a_revision_and_paths_are_told_apart_as_by_git(work):
    work.put("main", weights(1))
    work.put("w", weights(1))
    work.commit()

    assert set(states(work, "HEAD", "w")) == {"w"}
    assert set(states(work, "--", "main")) == {"main"}
    assert set(states(work, "main", "--", "w")) == {"w"}
    assert "both a revision and a file" in work.theta("ls-files", "main").err


def test_a_bare_repository_lists_revisions(work, make_work):
    work.put("w", weights(1))
    work.commit()
    bare = make_work("bare.git", "--bare", clone=work.path)

    assert states(bare, "main") == {"w": "pointer"}
    assert states(bare) == {"w": "pointer"}


def test_people_get_aligned_lines(work):
    work.put("dir/m.safetensors", SAFETENSORS)
    work.put("w\x1b[31m", weights(1))
    (work.path / "dir" / "m.safetensors").write_bytes(SAFETENSORS)

    assert work.theta("ls-files").out == (
        f"full       {len(SAFETENSORS)} B  2 tensors  safetensors  dir/m.safetensors\n"
        "pointer  30.0 kB  0 tensors  opaque       w\\x1b[31m\n"
    )
    tensors = work.theta("ls-files", "--tensors", "dir").out.splitlines()
    assert tensors[0] == f"dir/m.safetensors: safetensors, {len(SAFETENSORS)} B, full"
    assert tensors[1].startswith("  bfloat16  [2]      4 B  ")
    assert tensors[2].startswith("  float32   [2, 3]  24 B  ")


# status


def remarks(work) -> dict[str, str]:
    lines = work.theta("status").out.partition("\n\n")[0].splitlines()
    return {line.split("  ")[0]: line.split("  ")[-1] for line in lines if "  " in line}


def test_a_clean_repository_gets_one_quiet_line(work, tmp_path):
    work.theta("install")
    work.put("w", weights(1))
    (work.path / "w").write_bytes(weights(1))
    work.git("update-index", "--assume-unchanged", "w")
    work.commit()
    work.git("config", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(tmp_path / "x.git"))
    work.theta("push")

    done = work.theta("status")

    assert done == (0, f"1 tracked file, 30.0 kB: all weights are here and in '{tmp_path / 'store'}'\n", "")


def test_each_thing_worth_knowing_is_said(work, tmp_path):
    for n, name in enumerate(["changed", "gone", "pointer", "pushed", "staged"]):
        work.put(name, weights(n))
    work.commit()
    work.git("config", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(tmp_path / "x.git"))
    work.theta("push")
    work.put("staged", weights(10))
    (work.path / "changed").write_bytes(weights(11))
    (work.path / "gone").unlink()

    assert remarks(work) == {
        "changed": "modified",
        "gone": "deleted",
        "pointer": "pointer only",
        "pushed": "pointer only",
        "staged": "staged, pointer only, not pushed",
    }


def test_status_says_where_git_does_not_call_us(work):
    work.put("w", weights(1))
    assert "hint: git theta install" in work.theta("status").out

    work.theta("install")

    assert "git theta install" not in work.theta("status").out


def test_status_of_patterns_without_files_does_not_ask_for_patterns(work):
    assert "git theta track" in work.theta("status").out

    work.theta("track", "*.bin")

    assert work.theta("status").out == "no file is tracked yet; git add takes those that match *.bin\n"


def test_what_is_in_head_but_not_in_the_index_is_not_called_untracked(work):
    work.put("w", weights(1))
    work.commit()
    work.git("rm", "-q", "--cached", "w")

    for done in (work.theta("status"), work.theta("checkout")):
        assert "'w' is in HEAD, and not in the index" in done.out
        assert "git restore --source=HEAD --staged --worktree :/" in done.out
    listed = work.theta("ls-files")
    assert (listed.out, "'w' is in HEAD" in listed.err) == ("", True)


def test_what_a_sparse_checkout_leaves_out_is_no_pointer_to_fill(work):
    work.theta("install")
    work.put("in/w", weights(1))
    work.put("out/w", weights(2))
    work.commit()

    work.git("sparse-checkout", "set", "in")

    assert not (work.path / "out").exists()
    assert remarks(work) == {"in/w": "pointer only"}


@pytest.mark.parametrize("count", [1, 5])
def test_files_that_a_dead_checkout_has_removed_come_back_by_the_command_that_is_named(work, count):
    work.theta("install")
    (work.path / "d").mkdir()
    for n in range(count):
        work.put(f"d/a b{n}", weights(n))
        (work.path / f"d/a b{n}").unlink()
    work.commit()

    told = work.theta("checkout", cwd="d").out

    assert "'d/a b0' " in told
    subprocess.run(told.rpartition("deleted: ")[2], shell=True, cwd=work.path / "d", check=True)
    assert work.git("ls-files", "--deleted").out == ""
    assert told.rpartition("deleted: ")[2] not in work.theta("status").out


def test_weights_that_are_nowhere_are_a_problem(work):
    work.put("w", weights(1))
    work.commit()
    shutil.rmtree(work.path / ".git" / "theta")

    done = work.theta("status")
    assert done.status == 1
    assert "in no store" in done.out

    (work.path / "w").write_bytes(weights(1))
    work.git("update-index", "--assume-unchanged", "w")
    done = work.theta("status")
    assert done.status == 1
    assert "missing from the store" in done.out


def test_a_plain_file_under_a_tracked_pattern_is_a_problem(work):
    (work.path / "w.bin").write_bytes(weights(1))
    (work.path / "empty.bin").touch()
    work.git("add", ".")
    work.commit()
    (work.path / ".gitattributes").write_text("*.bin filter=theta\n")

    done = work.theta("status")

    assert done.status == 1
    assert "git add --renormalize w.bin" in done.out


def test_an_unreachable_remote_store_is_no_reason_to_fail(work, tmp_path):
    work.put("w", weights(1))
    work.commit()
    work.git("config", "theta.url", str(tmp_path / "unmounted"))

    done = work.theta("status", "--json")

    values = json.loads(done.out)
    assert done.status == 0
    assert values["files"][0]["pushed"] is None
    assert "unmounted" in values["trouble"]


def test_status_names_the_store_that_has_the_weights_not_the_one_that_is_away(work, make_work, tmp_path):
    work.theta("track", "w")
    work.put("w", weights(1))
    work.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "store"))
    work.git("add", ".thetaconfig")
    work.commit()
    work.git("remote", "add", "origin", str(make_work("bare.git", "--bare").path))
    work.git("push", "-q", "origin", "main")
    (work.path / "w").write_bytes(weights(1))
    work.git("add", "w")
    work.git("config", "theta.url", str(tmp_path / "away"))

    lines = work.theta("status").out.splitlines()

    assert lines[0].endswith(f": all weights are here and in '{tmp_path / 'store'}'")
    assert lines[1].startswith(f"a remote store cannot be asked: there is no store at '{tmp_path / 'away'}'")


@pytest.mark.parametrize("args", [("status",), ("ls-files",), ("ls-files", "--json")])
def test_nothing_tracked_is_fine(work, args):
    assert work.theta(*args).status == 0
