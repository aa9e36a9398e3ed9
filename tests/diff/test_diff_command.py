"""`git theta diff` in real repositories."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Work

BF16 = ml_dtypes.bfloat16
GOLDEN = Path(__file__).parent / "golden"


def model(seed: int = 1, layers: int = 3) -> dict[str, Any]:
    """A small transformer, by name."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"embed.weight": random.standard_normal((40, 16)).astype("f4")}
    for layer in range(layers):
        for part, shape in (("attn.q", (16, 16)), ("attn.k", (16, 16)), ("mlp.up", (64, 16))):
            arrays[f"layers.{layer}.{part}.weight"] = random.standard_normal(shape).astype("f4")
        arrays[f"layers.{layer}.norm.weight"] = np.ones(16, "f4")
    return arrays


def every_kind() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two versions with a change of each kind."""
    random = np.random.default_rng(5)
    before = model()
    after = {name: array.copy() for name, array in before.items()}
    after["embed.weight"][3] += 1
    after["layers.0.attn.q.weight"] *= np.float32(1.5)
    after["layers.0.attn.k.weight"] += random.standard_normal((16, 16)).astype("f4") * np.float32(1e-3)
    after["layers.1.attn.k.weight"] = after["layers.1.attn.k.weight"].astype(BF16)
    after["layers.1.mlp.up.weight"][0, 0] = np.nan
    up = after["layers.2.mlp.up.weight"]
    after["layers.2.mlp.up.weight"] = np.concatenate([up, up[:2]])
    after["layers.2.attn.query.weight"] = after.pop("layers.2.attn.q.weight")
    del after["layers.2.norm.weight"]
    after["head.weight"] = random.standard_normal((4, 16)).astype("f4")
    return before, after


@pytest.fixture
def kinds(work: Work) -> Work:
    before, after = every_kind()
    work.save("one", before)
    work.git("tag", "v1")
    work.save("two", after)
    work.git("tag", "v2")
    return work


def letters(out: str) -> dict[str, str]:
    rows = [line.split("\t") for line in out.splitlines()]
    return {row[-1]: row[0] for row in rows}


def test_each_kind_of_change_has_its_letter(kinds: Work) -> None:
    result = kinds.theta("diff", "v1", "v2", "--name-status")

    assert result.status == 0, result.err
    assert letters(result.out) == {
        "embed.weight": "M",
        "head.weight": "A",
        "layers.0.attn.k.weight": "M",
        "layers.0.attn.q.weight": "M",
        "layers.1.attn.k.weight": "T",
        "layers.1.mlp.up.weight": "M",
        "layers.2.attn.query.weight": "R",
        "layers.2.mlp.up.weight": "S",
        "layers.2.norm.weight": "D",
    }
    assert "R\tmodel.safetensors\tlayers.2.attn.q.weight\tlayers.2.attn.query.weight\n" in result.out


@pytest.mark.parametrize("form", ["", "--stat", "--md"])
def test_the_reports_for_people_are_as_they_were_seen_and_found_good(kinds: Work, form: str) -> None:
    result = kinds.theta("diff", "v1", "v2", *filter(None, [form]))

    golden = GOLDEN / f"every-kind{form.replace('--', '.')}.txt"
    assert result.status == 0, result.err
    assert result.out == golden.read_text(), "if it is better now: write it to that file"


def test_json_has_every_figure(kinds: Work) -> None:
    result = kinds.theta("diff", "v1", "v2", "--json")

    values = json.loads(result.out)
    (file,) = values["files"]
    tensors = {tensor["name"]: tensor for tensor in file["tensors"]}
    before, after = every_kind()
    assert values["schema"] == 1
    assert (file["before"]["where"], file["after"]["where"]) == ("v1", "v2")
    name = "layers.0.attn.k.weight"
    a, b = before[name].astype("f8"), after[name].astype("f8")
    assert tensors[name]["norm"] == pytest.approx(np.linalg.norm(b - a))
    assert tensors[name]["relative"] == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
    assert tensors["layers.0.attn.q.weight"]["looks"] == {"word": "scaled", "factor": pytest.approx(1.5)}
    assert tensors["layers.1.attn.k.weight"]["looks"]["word"] == "rounded"
    assert tensors["layers.1.mlp.up.weight"]["nan"] == [0, 1]
    assert tensors["layers.2.mlp.up.weight"]["compared"] == 64 * 16
    assert tensors["layers.2.mlp.up.weight"]["changed"] == 0
    assert {group["name"] for group in file["layers"]} == {"layers.0", "layers.1", "layers.2", "(no layer)"}


def test_equal_versions_have_no_diff_and_status_0(kinds: Work) -> None:
    result = kinds.theta("diff", "v1", "v1", "--exit-code")

    assert (result.status, result.out) == (0, "")


@pytest.mark.parametrize("option", ["--exit-code", "--quiet"])
def test_a_difference_ends_with_status_1_where_that_is_asked_for(kinds: Work, option: str) -> None:
    assert kinds.theta("diff", "v1", "v2", option).status == 1
    assert (kinds.theta("diff", "v1", "v2", "--quiet").out == "") is True


# Which versions


def changed(work: Work, *args: str) -> list[str]:
    result = work.theta("diff", "--name-status", *args)
    assert result.status == 0, result.err
    return [line.split("\t")[2] for line in result.out.splitlines()]


def test_without_revisions_the_work_tree_is_compared_with_the_index_and_nothing_is_stored(work: Work) -> None:
    arrays = model()
    work.install()
    work.save("one", arrays)
    packs = sorted(path.name for path in (work.path / ".git" / "theta").rglob("*"))
    arrays["embed.weight"][0, 0] += 1
    work.write(arrays)

    assert changed(work) == ["embed.weight"]
    assert changed(work, "--cached") == []
    assert changed(work, "HEAD") == ["embed.weight"]
    assert sorted(path.name for path in (work.path / ".git" / "theta").rglob("*")) == packs


def test_cached_compares_the_index_with_a_revision(work: Work) -> None:
    arrays = model()
    work.save("one", arrays)
    arrays["embed.weight"][0, 0] += 1
    work.add(arrays)

    assert changed(work, "--cached") == ["embed.weight"]
    assert changed(work, "--cached", "HEAD") == ["embed.weight"]
    assert changed(work) == []


def test_before_the_first_commit_everything_in_the_index_is_added(work: Work) -> None:
    work.add(model())

    result = work.theta("diff", "--cached", "--name-status")

    assert set(letters(result.out).values()) == {"A"}


def test_ranges_mean_what_they_mean_to_git(work: Work) -> None:
    arrays = model()
    work.save("one", arrays)
    work.git("checkout", "-q", "-b", "side")
    side = {**arrays, "embed.weight": arrays["embed.weight"] + 1}
    work.save("side", side)
    work.git("checkout", "-q", "main")
    work.save("main", {**arrays, "layers.0.norm.weight": arrays["layers.0.norm.weight"] + 1})

    assert changed(work, "main..side") == ["embed.weight", "layers.0.norm.weight"]
    assert changed(work, "main...side") == ["embed.weight"]
    assert changed(work, "main", "side", "--", "model.safetensors") == ["embed.weight", "layers.0.norm.weight"]
    assert changed(work, "side~1..", "model.safetensors") == ["layers.0.norm.weight"]


def test_files_of_revisions_and_of_the_disk_are_compared_as_named(work: Work, tmp_path: Path) -> None:
    arrays = model()
    work.save("one", arrays)
    other = {**arrays, "embed.weight": arrays["embed.weight"] + 1}
    work.add(other, "fine/tuned.safetensors")
    work.commit("two")
    shutil.copy(work.path / "fine" / "tuned.safetensors", tmp_path / "plain.safetensors")

    names = ("HEAD~1:model.safetensors", "HEAD:fine/tuned.safetensors")
    assert changed(work, *names) == ["embed.weight"]
    assert changed(work, names[0], str(tmp_path / "plain.safetensors")) == ["embed.weight"]
    assert changed(work, ":model.safetensors", ":fine/tuned.safetensors") == ["embed.weight"]
    assert changed(work, "--no-index", "model.safetensors", str(tmp_path / "plain.safetensors")) == ["embed.weight"]


def test_plain_files_need_no_repository(work: Work, tmp_path: Path) -> None:
    work.write(model(), "../a.safetensors")
    work.write({**model(), "embed.weight": model()["embed.weight"] * 2}, "../b.safetensors")

    result = work.theta("diff", "a.safetensors", "b.safetensors", cwd="..")

    assert result.status == 0, result.err
    assert "scaled by 2" in result.out


def test_paths_choose_files(work: Work) -> None:
    work.add(model(), "a/one.safetensors")
    work.add(model(), "b/two.safetensors")
    work.commit("one")
    for name in ("a/one.safetensors", "b/two.safetensors"):
        work.add({**model(), "embed.weight": model()["embed.weight"] + 1}, name)
    work.commit("two")

    result = work.theta("diff", "HEAD~1", "HEAD", "--name-status", "--", "b")

    assert result.out == "M\tb/two.safetensors\tembed.weight\n"


def test_a_file_that_moved_is_one_file(work: Work) -> None:
    work.save("one", model())
    work.git("mv", "model.safetensors", "renamed.safetensors")
    work.commit("two")

    result = work.theta("diff", "HEAD~1", "HEAD")

    assert result.out.startswith("model.safetensors -> renamed.safetensors: no change in 13 tensors")


def test_a_file_that_moved_and_changed_is_one_file_as_long_as_most_tensors_stayed(work: Work) -> None:
    work.save("one", model())
    work.git("mv", "model.safetensors", "renamed.safetensors")
    work.add({**model(), "embed.weight": model()["embed.weight"] + 1}, "renamed.safetensors")
    work.commit("two")
    work.git("mv", "renamed.safetensors", "another.safetensors")
    work.add({name: array + 1 for name, array in model().items()}, "another.safetensors")
    work.commit("three")

    result = work.theta("diff", "HEAD~2", "HEAD~1")

    assert result.out.startswith("model.safetensors -> renamed.safetensors: 1 changed of 13 tensors")
    assert work.theta("diff", "HEAD~1", "HEAD", "--stat").out.count("removed of 13 tensors") == 1


def test_a_new_file_and_a_deleted_one_are_shown(work: Work) -> None:
    work.save("one", {"w": np.ones(4, "f4")})
    work.save("two", {"v": np.zeros(4, "f4")}, "other.safetensors")
    work.git("rm", "-q", "model.safetensors")
    work.commit("three")

    result = work.theta("diff", "HEAD~2", "HEAD")

    assert "model.safetensors: 1 removed of 1 tensor" in result.out
    assert "other.safetensors: 1 added of 1 tensor" in result.out


def test_one_file_of_a_revision_is_not_enough_to_compare(kinds: Work) -> None:
    one = kinds.theta("diff", "v1:model.safetensors")
    misspelled = kinds.theta("diff", "mian")

    assert "'v1:model.safetensors' is one file, to be compared with another" in one.err
    assert "hint: git theta diff v1:model.safetensors model.safetensors\n" in one.err
    assert "'mian' is neither a revision nor a file; did you mean 'main'" in misspelled.err


# What is left out


def test_globs_choose_tensors_and_one_that_matches_nothing_is_an_error(kinds: Work) -> None:
    assert changed(kinds, "v1", "v2", "--tensors", "layers.0.*") == ["layers.0.attn.k.weight", "layers.0.attn.q.weight"]
    result = kinds.theta("diff", "v1", "v2", "--tensors", "nothing.*")

    assert result.status == 2
    assert "no tensor matches 'nothing.*'" in result.err
    misspelled = kinds.theta("diff", "v1", "v2", "--tensors", "layer.0.*")
    assert "no tensor matches 'layer.0.*'; near names: 'layers.0." in misspelled.err


def test_metadata_alone_is_shown_unless_it_is_ignored(work: Work) -> None:
    work.add(model(), metadata={"step": "1"})
    work.commit("one")
    work.add(model(), metadata={"step": "2"})
    work.commit("two")

    assert "metadata" in work.theta("diff", "HEAD~1", "HEAD").out
    assert work.theta("diff", "HEAD~1", "HEAD", "--name-status").out == "X\tmodel.safetensors\t\n"
    assert work.theta("diff", "HEAD~1", "HEAD", "--ignore", "metadata", "--exit-code").status == 0


def test_a_change_of_metadata_beside_one_of_weights_is_shown(work: Work) -> None:
    work.add(model(), metadata={"step": "1"})
    work.commit("one")
    work.add({**model(), "embed.weight": model()["embed.weight"] + 1}, metadata={"step": "2"})
    work.commit("two")
    work.add({**model(), "embed.weight": model()["embed.weight"] + 2}, metadata={"step": "2"})
    work.commit("three")

    assert "\n  metadata: step changed\n" in work.theta("diff", "HEAD~2", "HEAD~1").out
    assert "metadata" not in work.theta("diff", "HEAD~1", "HEAD").out


def test_a_change_of_metadata_beside_other_tensors_is_shown_by_the_names_of_its_texts(work: Work) -> None:
    work.add(model(), metadata={"step": "1", "kept": "yes", "old": "x"})
    work.commit("one")
    work.add({**model(), "new": np.ones(3, "f4")}, metadata={"step": "2", "kept": "yes", "a\nb": "x"})
    work.commit("two")

    result = work.theta("diff", "HEAD~1", "HEAD")

    assert "\n  metadata: a\\nb added, old removed, step changed\n" in result.out
    shutil.rmtree(work.path / ".git" / "theta")
    assert "1 added" in work.theta("diff", "HEAD~1", "HEAD").out


def test_tensors_that_were_only_recast_can_be_ignored(work: Work) -> None:
    before = {"a": np.arange(64, dtype="f4") / 7, "b": np.arange(64, dtype="f4") / 7}
    work.save("one", before)
    work.save("two", {"a": before["a"].astype(BF16), "b": (before["b"] + 5).astype(BF16)})

    assert changed(work, "HEAD~1", "HEAD") == ["a", "b"]
    assert changed(work, "HEAD~1", "HEAD", "--ignore", "dtype") == ["b"]


def test_buffers_can_be_ignored(work: Work) -> None:
    before = {"bn.running_mean": np.ones(8, "f4"), "bn.weight": np.ones(8, "f4")}
    work.save("one", before)
    work.save("two", {name: array + 1 for name, array in before.items()})

    assert changed(work, "HEAD~1", "HEAD", "--ignore", "buffers") == ["bn.weight"]


def test_the_largest_changes_come_first_where_that_is_asked_for(kinds: Work) -> None:
    result = kinds.theta("diff", "v1", "v2", "--sort", "relative", "--top", "4", "--json", "--tensors", "layers.0.*")

    names = [tensor["name"] for tensor in json.loads(result.out)["files"][0]["tensors"]]
    assert names == ["layers.0.attn.q.weight", "layers.0.attn.k.weight"]


# Weights that are not here, and other bad input


def test_weights_that_are_not_here_are_named_with_the_command_that_fetches_them(kinds: Work) -> None:
    shutil.rmtree(kinds.path / ".git" / "theta")

    result = kinds.theta("diff", "v1", "v2")

    assert result.status == 2
    assert "not all weights of 'model.safetensors' in 'v1' are in the local store" in result.err
    assert "hint: git theta fetch origin v1" in result.err
    assert kinds.theta("diff", "v1", "v2", "--name-status").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "'nothing' is neither a revision nor a file"),
        (["v1", "v2", "v1"], "'v1' is one revision too many"),
        (["v1", "v2", "--sort", "colour"], "cannot be sorted by 'colour'"),
        (["v1", "v2", "--ignore", "colour"], "'colour' is no class to ignore"),
        (["v1:absent.safetensors", "v2:model.safetensors"], "there is no file 'absent.safetensors' in 'v1'"),
        (["--no-index", "model.safetensors"], "--no-index compares two files"),
        (["--cached", "v1..v2"], "--cached compares the index with one revision"),
        (["v1", "v2", "--metric", "colour"], "'colour' is no metric that is known here (histogram, sketch, spectrum)"),
    ],
)
def test_what_makes_no_sense_is_said(kinds: Work, arguments: list[str], words: str) -> None:
    result = kinds.theta("diff", *arguments)

    assert result.status in (2, 129)
    assert words in result.err


def test_a_file_in_no_known_format_is_compared_as_a_whole(work: Work) -> None:
    work.install()
    work.theta("track", "*.weird")
    (work.path / "a.weird").write_bytes(b"\1" * 5000)
    work.git("add", "-A")
    work.commit("one")
    (work.path / "a.weird").write_bytes(b"\2" * 6000)
    work.git("add", "-A")
    work.commit("two")

    result = work.theta("diff", "HEAD~1", "HEAD")

    assert "content: 5000 -> 6000 bytes, in no known format" in result.out


def test_names_cannot_forge_lines_or_markup(work: Work) -> None:
    name = "a\nM\tx<script>`|\x1b[31m"
    work.save("one", {name: np.ones(4, "f4")})
    work.save("two", {name: np.zeros(4, "f4")})

    text = work.theta("diff", "HEAD~1", "HEAD").out
    page = work.path / "page.html"
    work.theta("diff", "HEAD~1", "HEAD", "--html", str(page))

    assert "\x1b" not in text
    assert len(work.theta("diff", "HEAD~1", "HEAD", "--name-status").out.splitlines()) == 1
    assert "<script" not in page.read_text()


# The page


def test_the_page_stands_alone(kinds: Work) -> None:
    page = kinds.path / "page.html"

    result = kinds.theta("diff", "v1", "v2", "--html", str(page))

    text = page.read_text()
    assert result.status == 0, result.err
    assert not re.search(r"(?:src|href)=|url\(|@import|<script|<link", text)
    assert text.count("<svg") >= 3
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "layers.2.attn.q.weight -&gt; layers.2.attn.query.weight" in text


def test_two_equal_files_have_no_diff_whatever_they_are_called(work: Work) -> None:
    work.write(model(), "a.safetensors")
    work.write(model(), "b.safetensors")

    result = work.theta("diff", "--exit-code", "--no-index", "a.safetensors", "b.safetensors")

    assert (result.status, result.out) == (0, "")


def test_a_bare_repository_has_revisions_to_compare(kinds: Work) -> None:
    kinds.git("clone", "-q", "--bare", ".", "bare.git")

    result = kinds.theta("diff", "v1", "HEAD", "--name-status", cwd="bare.git")

    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 9
    assert "there is no work tree here" in kinds.theta("diff", cwd="bare.git").err


def test_shards_can_be_taken_for_one_model(work: Work) -> None:
    arrays = model()
    names = sorted(arrays)
    work.add({name: arrays[name] for name in names[:6]}, "model-1-of-2.safetensors")
    work.add({name: arrays[name] for name in names[6:]}, "model-2-of-2.safetensors")
    work.commit("two shards")
    arrays["layers.1.mlp.up.weight"][0, 0] += 1
    work.git("rm", "-q", "--cached", "*.safetensors")
    for at in range(3):
        work.add({name: arrays[name] for name in names[at::3]}, f"model-{at + 1}-of-3.safetensors")
    work.commit("three shards")

    result = work.theta("diff", "HEAD~1", "HEAD", "--joined")

    assert result.status == 0, result.err
    assert result.out.startswith("2 files -> 3 files: 1 changed of 13 tensors  (HEAD~1 -> HEAD)")
    assert "sparse" in result.out


def test_files_that_share_names_are_not_one_model(work: Work) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        work.add(model(), name)
    work.commit("one")

    result = work.theta("diff", "--joined", "--cached", "HEAD")
    work.git("rm", "-q", "--cached", "*.safetensors")
    clash = work.theta("diff", "--joined", "--cached")

    assert (result.status, result.out) == (0, "")
    assert "'a.safetensors' and 'b.safetensors' both have 'embed.weight'" in clash.err


def test_dashes_tell_a_revision_from_a_file_of_the_same_name(kinds: Work) -> None:
    kinds.git("branch", "model.safetensors", "v1")

    unclear = kinds.theta("diff", "model.safetensors")

    assert "'model.safetensors' is both a revision and a file" in unclear.err
    assert changed(kinds, "model.safetensors", "v2", "--") == changed(kinds, "v1", "v2")
    assert changed(kinds, "--", "model.safetensors") == []
