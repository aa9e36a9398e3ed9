"""What is compared, how much of it is read, and what plug-ins may do."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from gitbridge.reports.figures import remark_text
from thetastore.comparing.changes import Change, Entry, changes_between
from thetastore.comparing.comparison import Comparison
from thetastore.comparing.sides import FileSide, Part, Side, StoredSide
from thetastore.digest import digest_of
from thetastore.statistics import Pair, Piece
from thetastore.store import Store

if TYPE_CHECKING:
    from conftest import Compare

RANDOM = np.random.default_rng(3)


def entry(name: str, content: bytes = b"abcd", dtype: str = "uint8", shape: tuple[int, ...] = (4,)) -> Entry:
    return Entry(name, dtype, shape, digest_of(content))


def kinds(changes: list[Change]) -> list[tuple[str, str | None, str | None]]:
    return [(c.kind, c.before and c.before.name, c.after and c.after.name) for c in changes]


def test_a_tensor_with_the_same_bytes_and_another_name_was_renamed() -> None:
    assert kinds(changes_between([entry("a")], [entry("b")])) == [("renamed", "a", "b")]


def test_of_several_equal_tensors_those_whose_names_end_alike_belong_together() -> None:
    before = [entry(f"layer.{at}.norm") for at in range(3)]
    after = [entry(f"model.layer.{at}.norm") for at in range(2)] + [entry("model.final.norm")]

    found = kinds(changes_between(before, after))

    assert ("renamed", "layer.0.norm", "model.layer.0.norm") in found
    assert ("renamed", "layer.1.norm", "model.layer.1.norm") in found


def test_empty_tensors_are_not_taken_for_renamed_ones() -> None:
    found = kinds(changes_between([entry("a", b"", shape=(0,))], [entry("b", b"", shape=(0,))]))

    assert found == [("removed", "a", None), ("added", None, "b")]


def test_another_shape_goes_before_another_type_and_that_before_other_values() -> None:
    before = [entry("a"), entry("b"), entry("c")]
    after = [entry("a", b"xyzwxyzw", "int8", (8,)), entry("b", b"xyzw", "int8"), entry("c", b"xyzw")]

    assert [kind for kind, _, _ in kinds(changes_between(before, after))] == ["reshaped", "recast", "changed"]


class Recording:
    """A side that notes what is read of it."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.read_ranges: list[tuple[str, int, int]] = []

    def parts(self, name: str) -> Sequence[Part]:
        return self._side.parts(name)

    def read(self, name: str, start: int, stop: int, out: memoryview) -> None:
        self.read_ranges.append((name, start, stop))
        self._side.read(name, start, stop, out)

    def skeleton(self) -> Any:
        return self._side.skeleton()

    def has(self, *tensor: Any) -> bool:
        return self._side.has(*tensor)


def two_versions() -> tuple[dict[str, Any], dict[str, Any]]:
    before = {"big": RANDOM.standard_normal((4096, 300)).astype("f4"), "same": np.ones(1000, "f4")}
    after = {name: array.copy() for name, array in before.items()}
    after["big"][4000] += 1
    return before, after


def test_only_the_chunk_that_changed_is_read(store: Store) -> None:
    sides, tables = [], []
    for arrays in two_versions():
        digest, manifest = store.put_file(io.BytesIO(_file(arrays)))
        sides.append(Recording(StoredSide(store.objects, store.tensors(manifest, digest))))
        tables.append([Entry(t.name, t.dtype, t.shape, t.digest) for t in manifest.tensors])

    with Comparison(*sides) as comparison:
        (measured,) = comparison.measure(changes_between(*tables))

    chunk_bytes = 512 * 300 * 4
    assert measured.read_bytes == 2 * chunk_bytes
    for side in sides:
        assert side.read_ranges == [("big", 7 * chunk_bytes, 8 * chunk_bytes)]
    assert measured.changed == 300
    assert measured.moments is not None
    assert not measured.moments.has_read_all


def test_bounds_from_what_was_read_hold_for_the_whole(compare: Compare) -> None:
    before, after = two_versions()
    (measured,) = compare(before, after)
    (whole,) = compare(before, after, read_all=True)

    assert measured.moments is not None
    assert whole.moments is not None
    a, b = before["big"].astype("f8"), after["big"].astype("f8")
    relative = np.linalg.norm(b - a) / np.linalg.norm(a)
    cosine = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert measured.moments.relative >= relative
    assert measured.moments.cosine <= cosine
    assert whole.moments.has_read_all
    assert whole.moments.relative == pytest.approx(relative, rel=1e-12)
    assert whole.moments.cosine == pytest.approx(cosine, rel=1e-12)
    assert (measured.changed, measured.rows) == (whole.changed, whole.rows) == (300, (1, 4096))


def test_a_recast_tensor_is_compared_by_values(compare: Compare) -> None:
    before = RANDOM.standard_normal((600, 700)).astype("f4")
    rounded = before.astype(ml_dtypes.bfloat16)
    other = rounded.copy()
    other[5, 5] = 77

    (only_rounded,) = compare({"w": before}, {"w": rounded})
    (back,) = compare({"w": rounded}, {"w": rounded.astype("f4")})
    (changed,) = compare({"w": before}, {"w": other})

    assert only_rounded.looks is not None
    assert back.looks is not None
    assert changed.looks is not None
    assert (only_rounded.looks.word, back.looks.word) == ("rounded", "same")
    assert changed.looks.word != "rounded"
    assert changed.moments is not None
    assert changed.moments.largest == pytest.approx(abs(77 - float(before[5, 5])), rel=1e-6)
    assert only_rounded.changed == np.count_nonzero(rounded.astype("f4") != before)


def test_the_same_bytes_of_another_type_are_other_values(compare: Compare) -> None:
    before = RANDOM.standard_normal((20, 30)).astype("f2")

    (measured,) = compare({"w": before}, {"w": before.view(ml_dtypes.bfloat16)})

    assert measured.change.kind == "recast"
    assert measured.changed == 600
    assert measured.looks is not None
    assert measured.looks.word == "dense"


def test_a_reshaped_tensor_of_the_same_bytes_has_the_same_values(compare: Compare) -> None:
    before = RANDOM.standard_normal((20, 30)).astype("f2")

    (measured,) = compare({"w": before}, {"w": before.reshape(600)})

    assert (measured.change.kind, measured.read_bytes) == ("reshaped", 0)
    assert measured.looks is not None
    assert measured.looks.word == "same"


def test_a_reshaped_tensor_is_compared_element_by_element(compare: Compare) -> None:
    before = RANDOM.standard_normal((30, 40)).astype("f4")
    after = before.reshape(40, 30).copy()
    after[0, 0] += 1

    (measured,) = compare({"w": before}, {"w": after})

    assert (measured.change.kind, measured.changed, measured.compared) == ("reshaped", 1, 1200)


def test_of_a_longer_vocabulary_the_common_rows_are_compared(compare: Compare) -> None:
    before = RANDOM.standard_normal((5000, 100)).astype("f4")
    after = np.concatenate([before, np.zeros((24, 100), "f4")])
    after[17] += 1

    (measured,) = compare({"w": before}, {"w": after})

    assert (measured.change.kind, measured.changed, measured.compared) == ("reshaped", 100, 500_000)
    assert measured.rows == (1, 5000)


def test_quantised_blocks_are_counted_by_their_bytes(compare_files: Any, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "fixtures" / "gguf" / "blocks.gguf"
    changed = tmp_path / "changed.gguf"
    with FileSide(str(source)) as side:
        tensors = {tensor.name: tensor for tensor in side.layout.tensors}
    tensor = next(t for t in tensors.values() if t.dtype == "gguf_q8_0")
    raw = bytearray(source.read_bytes())
    raw[tensor.offset + 34 + 5] ^= 1  # one bit in the second block of 34 bytes
    changed.write_bytes(raw)

    (measured,) = compare_files(source, changed)

    assert measured.change.name == tensor.name
    assert (measured.unit, measured.changed, measured.compared) == ("block", 1, tensor.raw_bytes // 34)
    assert measured.moments is None


def test_plain_files_of_two_formats_are_compared_by_their_tensors(compare_files: Any, tmp_path: Path) -> None:
    fixtures = Path(__file__).parents[1] / "fixtures" / "torch"

    assert compare_files(fixtures / "model.pt", fixtures / "model.safetensors") == []


def test_views_that_do_not_lie_in_order_are_gathered(compare_files: Any) -> None:
    """The same file is compared with itself through a renamed copy of its table."""
    source = Path(__file__).parents[1] / "fixtures" / "torch" / "views.pt"
    with FileSide(str(source)) as side, Comparison(side, side, read_all=True) as comparison:
        table = [Entry(t.name, t.dtype, t.shape, t.digest) for t in side.named_tensors()]
        measured = list(comparison.measure(Change("changed", one, one) for one in table))

    assert len(measured) == len(table) > 0
    assert all(one.changed == 0 for one in measured)


# Plug-ins


class MeanChange:
    """What a package could add."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def feed(self, piece: Piece) -> None:
        self.total += float(piece.change.sum())
        self.count += piece.change.size

    def merge(self, other: MeanChange) -> None:
        self.total += other.total
        self.count += other.count

    def result(self) -> dict[str, float]:
        return {"mean": self.total / max(self.count, 1)}


class Broken(MeanChange):
    def feed(self, piece: Piece) -> None:
        raise RuntimeError("out of order")


class Writing(MeanChange):
    def feed(self, piece: Piece) -> None:
        piece.change[:] = 0


class NotJson(MeanChange):
    def result(self) -> dict[str, float]:
        return {"mean": float("nan")}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that offers metrics, as pip would: its metadata and its module on the path."""
    package = tmp_path / "site"
    info = package / "diff_metrics_example-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diff-metrics-example\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[thetastore.metrics]\nmean = diff_metrics_example:mean\nbroken = diff_metrics_example:broken\n"
        "not-json = diff_metrics_example:not_json\nwriting = diff_metrics_example:writing\n"
        "leaving = diff_metrics_example:leaving\n"
    )
    (package / "diff_metrics_example.py").write_text("mean = broken = not_json = writing = leaving = None\n")
    monkeypatch.syspath_prepend(str(package))
    import diff_metrics_example  # type: ignore[import-not-found]

    diff_metrics_example.mean = lambda pair: MeanChange()
    diff_metrics_example.broken = lambda pair: Broken()
    diff_metrics_example.not_json = lambda pair: NotJson()
    diff_metrics_example.writing = lambda pair: Writing()
    diff_metrics_example.leaving = lambda pair: sys.exit(0)


@pytest.mark.usefixtures("installed")
def test_another_package_s_metric_is_fed_and_merged_like_ours(compare: Compare) -> None:
    before = RANDOM.standard_normal((1024, 600)).astype("f4")

    (measured,) = compare({"w": before}, {"w": before + np.float32(0.5)}, "mean")

    assert measured.metrics["mean"]["mean"] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.usefixtures("installed")
def test_a_metric_that_raises_is_reported_and_harms_no_other(compare: Compare) -> None:
    before = RANDOM.standard_normal((64, 60)).astype("f4")

    (measured,) = compare({"w": before}, {"w": before + 1}, "broken", "not-json", "writing", "leaving", "mean")

    assert measured.metrics["broken"] == {"error": "RuntimeError: out of order"}
    assert measured.metrics["not-json"]["error"].startswith("ValueError")
    assert measured.metrics["writing"]["error"].startswith("ValueError")
    assert measured.metrics["leaving"] == {"error": "SystemExit: 0"}
    assert "mean: mean 1" in remark_text(measured)
    assert "broken: RuntimeError: out of order" in remark_text(measured)
    assert measured.metrics["mean"]["mean"] == pytest.approx(1, rel=1e-4)
    assert measured.changed == before.size


def test_a_pair_knows_its_rows() -> None:
    from thetastore.statistics import TensorKind

    kind = TensorKind("complex64", (3, 5))
    assert Pair(kind, kind).row_numbers == 10


def _file(arrays: dict[str, Any]) -> bytes:
    header, body = {}, b""
    for name, array in arrays.items():
        raw = array.tobytes()
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_a_hundred_thousand_equal_tensors_are_paired_in_a_moment() -> None:
    before = [entry(f"old.{at}") for at in range(100_000)]
    after = [entry(f"new.{at}") for at in range(100_000)]

    found = changes_between(before, after)

    assert len(found) == 100_000
    assert {change.kind for change in found} == {"renamed"}


_MEASURE = """
import resource, sys
from thetastore.comparing.changes import Entry, changes_between
from thetastore.comparing.comparison import Comparison
from thetastore.comparing.sides import FileSide
with FileSide(sys.argv[1]) as a, FileSide(sys.argv[2]) as b, Comparison(a, b, ["histogram"]) as comparison:
    tables = [[Entry(t.name, t.dtype, t.shape, t.digest) for t in side.named_tensors()] for side in (a, b)]
    (measured,) = comparison.measure(changes_between(*tables))
print(measured.changed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_bytes(directory: Path, rows: int) -> int:
    """The most memory that a process takes to compare two matrices of 4,096 columns."""
    names = []
    for number in (1, 2):
        header = {"w": {"dtype": "F32", "shape": [rows, 4096], "data_offsets": [0, rows * 16384]}}
        text = json.dumps(header).encode()
        names.append(directory / f"{number}.safetensors")
        with names[-1].open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _ in range(rows // 500):
                file.write(np.full(500 * 4096, number, "f4").data)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _MEASURE, *names], env=environment, capture_output=True, check=True)
    changed, peak_kb = map(int, done.stdout.split())
    assert changed == rows * 4096
    return peak_kb * 1024


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    small, large = peak_bytes(tmp_path, 1_000), peak_bytes(tmp_path, 6_000)

    assert large - small < 16e6, "82 MB more of one tensor take as much memory"
