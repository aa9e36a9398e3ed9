"""What `thetastore du` and `thetastore stats` share: the same figures, of each file or of all together."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from thetastore.cli.opening import EXIT_DONE, open_store
from thetastore.output import painter, print_values, wants_values
from thetastore.tables import count_text, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thetastore.digest import Digest
    from thetastore.store import Store
    from thetastore.upkeep.usage_report import Report

FIGURES = """\
figures:
  logical  bytes of the files
  unique   raw bytes of distinct chunks that one row needs and no other
  shared   raw bytes of distinct chunks that other rows need as well; unique + shared: a row's distinct chunks
  stored   what the records of these chunks, of their manifests and pages take in packs, each once
  added    the part of stored that no row above has
  base     objects held only as base: no manifest names them, but a difference needs them
  leaning on   differences and copies, by the file that they were taken from
  unused   objects that no manifest names and no difference needs
  twice    records of objects that have another one

A row is a manifest: one version of a file, by the first name that it has. No chunk is read.
"""


_Name = tuple[int, str, int, str]
"""Sorts models first, by name and version; then the number and the path of a file."""
_LAST: _Name = (1, "", 0, "")


def _names(store: Store) -> dict[Digest, _Name]:
    """Return what people call each manifest that a model has; of several versions, the first."""
    from thetastore.refs import Refs
    from thetastore.versions.names import MODELS

    names: dict[Digest, _Name] = {}
    for entry in Refs(store.backend).live():
        kind, _, name = entry.name.partition("/")
        for file in entry.files if kind == MODELS else ():
            names.setdefault(file.manifest_digest, (0, name, entry.number, file.path))
    return names


def _labels(store: Store, names: Mapping[Digest, _Name], report: Report) -> dict[str, str]:
    """Return what is shown for each manifest of a report; of one that has no name, what kind of file it is."""
    from thetastore.digest import Digest

    labels = {str(digest): _label(name) for digest, name in names.items()}
    shown = {row.name for rows in report.tables.values() for row in rows} | {name for name, _ in report.bases if name}
    for name in shown - labels.keys():
        manifest = store.get_manifest(Digest.parse(name))
        what = f"{manifest.format}, {size_text(manifest.file_bytes)}, {count_text(len(manifest.tensors), 'tensor')}"
        labels[name] = f"{name} ({what})"
    return labels


def _label(name: _Name) -> str:
    return f"{name[1]}@v{name[2]} {name[3]}"


def show_usage(options: argparse.Namespace, has_files: bool, has_tensors: bool) -> int:
    """Print what takes how many bytes.

    Args:
        options: of the command.
        has_files: whether there is a row for each file.
        has_tensors: whether there is one for each tensor, too.
    """
    from thetastore.upkeep.usage import Group, Usage
    from thetastore.upkeep.usage_report import report_of, report_text, report_values

    with open_store(options) as store:
        usage = Usage(store.objects)
        contents = usage.scan()
        totals = usage.totals(contents.manifests)
        names = _names(store)
        files = sorted(contents.manifests, key=lambda file: (*names.get(file.manifest_digest, _LAST), file))
        groups = [Group(str(file.manifest_digest), [file]) for file in files]
        tables = {"files": usage.rows(groups)} if has_files else {}
        if has_tensors:
            tables["tensors"] = usage.tensor_rows(groups)
        report = report_of(usage, totals, tables, groups)._replace(contents=contents, unreached=usage.unreached())
        labels = {} if wants_values(options) else _labels(store, names, report)
    if wants_values(options):
        labels = {str(digest): _label(names[digest]) for digest in names}
        print_values(options, {**report_values(report), "names": labels})
    else:
        sys.stdout.write(report_text(report, labels, painter(options)))
    return EXIT_DONE
