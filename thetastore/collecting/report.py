"""What a collection did, for people and for programs."""

from __future__ import annotations

from typing import Any

from thetastore import pins
from thetastore.collecting.collect import Amount, Collected
from thetastore.collecting.explaining import Explained
from thetastore.collecting.meaning import Meaning
from thetastore.collecting.roots import Root
from thetastore.collecting.undeleting import LetGo
from thetastore.packs.retirement_notes import Stage
from thetastore.tables import count_text, printable, size_text, table

_MOST_NAMED = 10


def collected_values(collected: Collected, is_dry: bool, elapsed_s: float) -> dict[str, Any]:
    """Return a report as values for programs."""
    values = {
        key: value._asdict() if isinstance(value, Amount) else value for key, value in collected._asdict().items()
    }
    return {"dry_run": is_dry, **values, "elapsed_s": round(elapsed_s, 3)}


def collected_text(collected: Collected, is_dry: bool, elapsed_s: float) -> str:
    """Return a report as text."""
    would = "would be " if is_dry else ""
    bases = f", {collected.base_count} of them only as bases" if collected.base_count else ""
    files = count_text(collected.root_count, "named file")
    needed = count_text(collected.needed_count, "object")
    lines = [
        (size_text(collected.needed_bytes), f"needed: {files}, {needed}{bases}"),
        (size_text(collected.unneeded_bytes), "not needed, and not condemned before"),
    ]
    if collected.staying_bytes:
        why = "in packs of which most is needed, or that are too young"
        lines.append((size_text(collected.staying_bytes), f"of that stays for now: {why}"))
    steps = (
        (collected.returned, f"{would}taken back from the trash: it is needed"),
        (collected.condemned, f"{would}condemned"),
        (collected.waiting, "condemned before, and waiting"),
        (collected.trashed, f"{would}put in the trash: nobody reads it there, and it can be taken back"),
        (collected.in_trash, "in the trash, and waiting"),
        (collected.deleted, f"{would}deleted"),
    )
    lines += [
        (size_text(amount.nbytes), f"{text} ({count_text(amount.pack_count, 'pack')})")
        for amount, text in steps
        if amount.pack_count
    ]
    if collected.copied_bytes:
        lines.append((size_text(collected.copied_bytes), "copied out of these packs first, since it is needed"))
    return table(lines, right=(0,)) + _what_next(collected, is_dry, elapsed_s)


def _what_next(collected: Collected, is_dry: bool, elapsed_s: float) -> str:
    freed = collected.deleted.nbytes - collected.copied_bytes
    if collected.deleted.pack_count:
        text = f"{'would free' if is_dry else 'freed'} {size_text(max(freed, 0))} now"
    else:
        text = f"nothing {'would be' if is_dry else 'was'} freed yet" if _is_any(collected) else "nothing to free now"
    text += f"; {elapsed_s:.1f} s\n"
    if collected.held_by:
        text += f"waiting for whoever is at work: {', '.join(collected.held_by)}\n"
    if collected.next_s is not None and collected.next_s > 0:
        text += f"the next step can be taken in {span_text(collected.next_s)}: run this again then\n"
    return text


def _is_any(collected: Collected) -> bool:
    steps = (collected.condemned, collected.waiting, collected.trashed, collected.in_trash)
    return any(amount.pack_count for amount in steps)


def span_text(span_s: float) -> str:
    """Return a length of time in one or two units: `3 days`, `5 h`, `12 min`."""
    for unit_s, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if span_s >= unit_s:
            return count_text(round(span_s / unit_s), noun)
    return count_text(max(1, round(span_s)), "second")


def let_go_values(found: list[LetGo]) -> list[dict[str, Any]]:
    """Return what is condemned or in the trash, as values for programs."""
    return [{**one._asdict(), "stage": _stage(one), "since_s": round(one.since_s)} for one in found]


def let_go_text(found: list[LetGo]) -> str:
    """Return what is condemned or in the trash, as text."""
    rows = []
    for one in found:
        since, packs = f"for {span_text(one.since_s)}", count_text(one.pack_count, "pack")
        rows.append((one.id, _stage(one), since, packs, size_text(one.nbytes)))
    return table(rows, right=(4,))


def _stage(one: LetGo) -> str:
    return "condemned" if one.stage is Stage.CONDEMNED else "trash"


def explained_values(meaning: Meaning, explained: Explained) -> dict[str, Any]:
    """Return what a digest is of and why that is kept, as values for programs."""
    return {
        "digest": str(meaning.digest),
        "is": list(meaning.words),
        "object_count": explained.object_count,
        "missing_count": explained.missing_count,
        "is_kept": explained.is_kept,
        "places": list(explained.places),
        "named_by": [{"name": root.name, "manifest": str(root.manifest_digest)} for root in explained.named_by],
        "base_of": [str(digest) for digest in explained.base_of],
    }


def explained_text(meaning: Meaning, explained: Explained) -> str:
    """Return what a digest is of and why that is kept, as text."""
    lines = [str(meaning.digest), *_first([f"is {printable(words)}" for words in meaning.words])]
    if explained.object_count > 1:
        lines.append(f"is made of {explained.object_count} objects")
    lines += _first([f"lies in {place}" for place in explained.places])
    if explained.missing_count:
        what = "" if explained.object_count == 1 else f"with {count_text(explained.missing_count, 'object')} that "
        lines.append(f"{what}is not in the store")
    lines += _first(list(dict.fromkeys(f"is needed by {_named(root)}" for root in explained.named_by)))
    if explained.base_of:
        count = count_text(len(explained.base_of), "object")
        verb = "leans" if len(explained.base_of) == 1 else "lean"
        lines.append(f"is a base: {count} more of these files {verb} on it, such as {str(explained.base_of[0])[:16]}…")
    if explained.places and not explained.named_by:
        lines.append("is needed by nothing that has a name: it will be let go of")
    return "\n".join(lines) + "\n"


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_NAMED
    return [*lines[:_MOST_NAMED], f"and {more} more"] if more > 0 else lines


def _named(root: Root) -> str:
    """Say who names a file: of a pin, whose file name is long, the commit."""
    directory, _, rest = root.name.partition("/")
    if directory == pins.DIRECTORY:
        return f"commit {rest.partition('/')[2].partition('.')[0]}, which was pushed ({root.name})"
    return f"{printable(root.name)} (manifest {str(root.manifest_digest)[:16]}…)"
