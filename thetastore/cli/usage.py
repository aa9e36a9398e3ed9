"""What `thetastore du` and `thetastore stats` share: the same figures, of each file or of all together."""

from __future__ import annotations

import argparse
import sys

from thetastore.cli.opening import EXIT_DONE, open_store
from thetastore.command_line import print_json

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

A row is a manifest: one version of a file. No chunk is read.
"""


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
        groups = [Group(str(file.manifest_digest), [file]) for file in sorted(contents.manifests)]
        tables = {"files": usage.rows(groups)} if has_files else {}
        if has_tensors:
            tables["tensors"] = usage.tensor_rows(groups)
        report = report_of(usage, totals, tables, groups)._replace(contents=contents, unreached=usage.unreached())
    if options.json:
        print_json(report_values(report))
    else:
        sys.stdout.write(report_text(report))
    return EXIT_DONE
