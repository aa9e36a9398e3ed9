"""What a repack did, for people and for programs."""

from __future__ import annotations

from typing import Any

from thetastore.tables import count_text, printable, size_text, table
from thetastore.upkeep.holdings import Amount, State
from thetastore.upkeep.repack import Repacked


def repack_values(repacked: Repacked, is_dry: bool, elapsed_s: float) -> dict[str, Any]:
    """Return a report as values for programs."""
    before, after = repacked.before, repacked.after
    return {
        "dry_run": is_dry,
        "before": _state_values(before),
        "after": _state_values(after),
        "saved_bytes": before.pack_bytes - after.pack_bytes,
        "rewritten_count": repacked.rewritten_count,
        "old_packs_are_gone": repacked.is_swept,
        "elapsed_s": round(elapsed_s, 3),
    }


def _state_values(state: State) -> dict[str, Any]:
    codecs = [{"codec": codec, **amount._asdict()} for codec, amount in _codecs(state)]
    depths = [{"depth": depth, "object_count": count} for depth, count in state.by_depth.items()]
    return {**state._asdict(), "by_codec": codecs, "by_depth": depths}


def repack_text(repacked: Repacked, is_dry: bool, elapsed_s: float) -> str:
    """Return a report as aligned text."""
    before, after = repacked.before, repacked.after
    lines: list[tuple[str, ...]] = [("before", "after", "")]
    names = dict.fromkeys(codec for state in (before, after) for codec, _ in _codecs(state))
    for codec in names:
        amounts = [state.by_codec.get(codec, Amount(0, 0)) for state in (before, after)]
        counts = _from_to(*(amount.object_count for amount in amounts))
        lines.append(
            (*(size_text(amount.stored_bytes) for amount in amounts), f"{printable(codec)}, objects: {counts}")
        )
    lines.append(
        (size_text(before.duplicate_bytes), size_text(after.duplicate_bytes), "of objects stored another time")
    )
    total = f"in all, packs and their tables: {_from_to(before.pack_count, after.pack_count)}"
    lines.append((size_text(before.pack_bytes), size_text(after.pack_bytes), total))
    depths = [max(state.by_depth, default=0) for state in (before, after)]
    lines.append((str(depths[0]), str(depths[1]), "bases, at most, stand behind an object"))
    return table(lines, right=(0, 1)) + _summary(repacked, is_dry, elapsed_s)


def _from_to(before: int, after: int) -> str:
    return str(before) if before == after else f"{before}, then {after}"


def _summary(repacked: Repacked, is_dry: bool, elapsed_s: float) -> str:
    saved = repacked.before.pack_bytes - repacked.after.pack_bytes
    share = f" ({100 * max(saved, 0) / repacked.before.pack_bytes:.1f} %)" if repacked.before.pack_bytes else ""
    objects = count_text(repacked.rewritten_count, "object")
    if is_dry and (saved or repacked.rewritten_count):
        return (
            f"would save about {size_text(max(saved, 0))}{share}: {objects} would be stored anew; {elapsed_s:.1f} s\n"
        )
    if not repacked.rewritten_count and repacked.before.pack_bytes == repacked.after.pack_bytes:
        return f"nothing to save: all of it was looked at in {elapsed_s:.1f} s, and is stored as well as can be\n"
    if not repacked.is_swept:
        return (
            f"{objects} stored anew in {elapsed_s:.1f} s; the old packs go when the processes that are writing to this "
            "store have ended: with the next one that writes, or with another repack\n"
        )
    if saved < 0:
        grew = f"the store grew by {size_text(-saved)} meanwhile, as somebody else wrote to it"
        return f"{objects} stored anew in {elapsed_s:.1f} s; {grew}\n"
    return f"saved {size_text(saved)}{share}: {objects} stored anew in {elapsed_s:.1f} s\n"


def _codecs(state: State) -> list[tuple[str, Amount]]:
    return sorted(state.by_codec.items(), key=lambda pair: (-pair[1].stored_bytes, pair[0]))
