"""What a check found and a repair did, in words and as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from thetastore.checking.check import Check, LostFile, Named
from thetastore.checking.repair import Repaired
from thetastore.digest import Digest
from thetastore.output import Rows
from thetastore.tables import count_text, printable, size_text
from thetastore.upkeep.verify import Finding, Level, Problem

NameOf = Callable[[Digest], list[str]]
"""Returns what people call the file of a manifest: its paths and revisions."""
_MOST_NAMES = 3
_MOST_PARTS = 20
_MOST_ALIKE = 5
_LEVEL_WORDS = {
    Level.LISTING: "looked at which files are there and how long they are",
    Level.TABLES: "looked at the tables, and that every base is there; no weights were read",
    Level.STORED: "compared everything stored with its checksum; --level raw decodes it, too",
    Level.RAW: "read and decoded everything, and compared it with its digests",
}
"""What was done, whatever was found."""
_ALIKE_WORDS = {
    Problem.INDEX: "that the index does not have",
    Problem.PACK: "that cannot be read",
    Problem.RECORD: "that are damaged",
    Problem.BASE: "that stand on what cannot be had",
    Problem.MISSING: "that are not there",
}

CHECK_ROWS = (
    Rows("findings", ("file", "problem", "object", "reason")),
    Rows("lost", ("manifest", "names", "raw_bytes")),
)
"""What `--porcelain` says of a check."""


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each finding as it comes; of many alike in one file the first ones, and how many there are more.

    One lost pack of a chain of fine-tunes is a finding for each difference that stands on it.
    """
    file_name, counts = "", Counter[Problem]()
    for finding in findings:
        if finding.file_name != file_name:
            yield from _more_alike(file_name, counts)
            file_name, counts = finding.file_name, Counter()
        counts[finding.problem] += 1
        if counts[finding.problem] <= _MOST_ALIKE:
            yield printable(str(finding))
    yield from _more_alike(file_name, counts)


def _more_alike(file_name: str, counts: Counter[Problem]) -> Iterator[str]:
    for problem, count in counts.items():
        if count > _MOST_ALIKE:
            more = count_text(count - _MOST_ALIKE, "more object", "more objects")
            yield printable(f"{file_name}: {more} {_ALIKE_WORDS[problem]} (--json names each)")


def names_in(named: Iterable[Named]) -> NameOf:
    """Return what gives a file the names that a store itself has for it: those of refs and pins, or its manifest."""
    names: dict[Digest, list[str]] = {}
    for file in named:
        names.setdefault(file.manifest_digest, []).append(file.name)
    return lambda digest: names.get(digest) or [f"manifest {digest}"]


def lost_text(files: Sequence[LostFile], name_of: NameOf) -> str:
    """Return what is lost, file by file."""
    lines = []
    for file in files:
        lines.append(f"lost: {_named(name_of(file.manifest_digest))}")
        lines += [f"    {printable(str(part))}" for part in file.parts[:_MOST_PARTS]]
        if len(file.parts) > _MOST_PARTS:
            lines.append(f"    and {count_text(len(file.parts) - _MOST_PARTS, 'part')} more")
    return "".join(f"{line}\n" for line in lines)


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return printable(", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else ""))


def repaired_text(repaired: Repaired) -> str:
    """Return what a repair did, a line for each thing."""
    lines = []
    for mended in repaired.set_aside:
        kept = count_text(mended.kept_count, "sound object was kept", "sound objects were kept")
        lines.append(f"set aside: {mended.file_name}; {kept}")
    for brought in repaired.brought:
        if not brought.object_count and not brought.failure:
            continue
        what = count_text(brought.object_count, "object")
        failed = f" ({brought.failure})" if brought.failure else ""
        lines.append(f"brought back: {what} from '{printable(brought.source_name)}'{failed}")
    if repaired.lost_count and not repaired.lost:
        what = count_text(repaired.lost_count, "object")
        lines.append(f"lost: {what} that no file needs which this store knows")
    return "".join(f"{line}\n" for line in lines)


def summary(check: Check, lost: Sequence[LostFile], store_url: str, is_repaired: bool = False) -> str:
    """Return one line about how far a check came and what it found, and that it was repaired."""
    words = _LEVEL_WORDS[check.level]
    if not check.is_whole:
        done = check.skipped_count + check.done_count
        words += f"; {done} of {count_text(check.pack_count, 'pack')} so far"
        words += ", the next run with a budget goes on there" if check.is_remembered else ", which cannot be remembered"
    found = count_text(len(check.found), "problem") if check.found else "no damage" if lost else "no problems"
    found += " mended" if check.found and is_repaired and not lost else ""
    losses = f", something of {count_text(len(lost), 'file')} is lost" if lost else ""
    return f"'{store_url}': {found}{losses} ({words})"


def check_values(
    check: Check, lost: Sequence[LostFile], repaired: Repaired | None, store_url: str, name_of: NameOf
) -> dict[str, Any]:
    """Return all of it for programs."""
    return {
        "store": store_url,
        "level": check.level.name.lower(),
        "packs": {"count": check.pack_count, "checked": check.done_count, "checked_before": check.skipped_count},
        "findings": [_finding_values(finding) for finding in check.found],
        "lost": [_lost_values(file, name_of) for file in lost],
        "repaired": None if repaired is None else repaired_values(repaired, name_of),
    }


def _finding_values(finding: Finding) -> dict[str, Any]:
    return {
        "file": finding.file_name,
        "problem": str(finding.problem),
        "object": None if finding.digest is None else str(finding.digest),
        "reason": finding.reason,
    }


def _lost_values(file: LostFile, name_of: NameOf) -> dict[str, Any]:
    parts = [
        {"tensor": part.tensor, "first_row": part.first_row, "stop_row": part.stop_row, "raw_bytes": part.raw_bytes}
        for part in file.parts
    ]
    names = name_of(file.manifest_digest)
    return {"manifest": str(file.manifest_digest), "names": names, "raw_bytes": file.raw_bytes, "parts": parts}


def repaired_values(repaired: Repaired, name_of: NameOf) -> dict[str, Any]:
    """Return what a repair did, for programs."""
    return {
        "set_aside": [
            {"file": mended.file_name, "kept_count": mended.kept_count, "lost": [str(one) for one in mended.lost]}
            for mended in repaired.set_aside
        ],
        "brought_back": [
            {"source": one.source_name, "object_count": one.object_count, "failure": one.failure}
            for one in repaired.brought
        ],
        "lost_count": repaired.lost_count,
        "lost": [_lost_values(file, name_of) for file in repaired.lost],
    }


def set_aside_text(names_and_bytes: Sequence[tuple[str, int]], command: str) -> str:
    """Return what to say of what repairs have set aside, and how it is deleted; empty where nothing is."""
    if not names_and_bytes:
        return ""
    aside = f"{_damaged_files(names_and_bytes)} set aside in 'damaged/', which nothing reads"
    return f"{aside}; when nobody wants to look at that any more: {command}\n"


def deleted_text(names_and_bytes: Sequence[tuple[str, int]]) -> str:
    """Return what to say when what was set aside has been deleted."""
    if not names_and_bytes:
        return "nothing is set aside\n"
    return f"deleted {_damaged_files(names_and_bytes)} that were set aside\n"


def _damaged_files(names_and_bytes: Sequence[tuple[str, int]]) -> str:
    total = size_text(sum(nbytes for _, nbytes in names_and_bytes))
    return f"{count_text(len(names_and_bytes), 'damaged file')} ({total})"
