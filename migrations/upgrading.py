"""A store from the version that it has to a newer one, in numbered steps; `docs/format/store.md`, "Upgrades".

A step is a module `vNNN_to_vNNN` of this package. It says which files are of the older version, and makes a newer file
of one: first the new, then away with the old, so that it can be done again. Everything else is done here:

1. A record of the upgrade is made, then the descriptor says that it is under way. Who opens the store now is refused;
   who has it open is refused when it is about to make durable what it wrote.
2. All files of the older version are converted.
3. The descriptor says the new version, and what came late is converted too.

A process may die anywhere; the next upgrade goes on. Two at once do the same work twice, and no harm.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.descriptor import (
    DESCRIPTOR,
    UPGRADES,
    UPGRADING,
    VERSION,
    Descriptor,
    check_descriptor,
    encode_descriptor,
    parse_descriptor,
    read_descriptor,
)
from thetastore.errors import BackendError, StoreMissingError, UnsupportedError

_MOST_TRIES = 20
_INCOMING = "incoming"


class Step(NamedTuple):
    """From one version to the next."""

    summary: str
    """What is different, for people."""
    needs: str
    """The first release that reads the new version, such as `thetastore 1.2`."""
    pending: Callable[[Backend], Iterator[str]]
    """Yields the names of the files that are of the older version; asked again until there are none."""
    convert: Callable[[Backend, str], None]
    """Makes a newer file of one and deletes the older, once what it has read has its checksums. May meet that it, or
    another process, has done a part of it."""


Steps = Mapping[int, Step]
"""By the version that they start from."""


def known_steps() -> Steps:
    """Return the steps that this thetastore knows."""
    import pkgutil

    import migrations

    found = {}
    for module in pkgutil.iter_modules(migrations.__path__):
        numbers = re.fullmatch(r"v(\d{3})_to_v(\d{3})", module.name)
        if numbers:
            start, stop = map(int, numbers.groups())
            assert stop == start + 1, f"{module.name} leaves a version out"
            found[start] = _step_of(__import__(f"migrations.{module.name}", fromlist=["convert"]))
    return found


def _step_of(module: ModuleType) -> Step:
    return Step(module.SUMMARY, module.NEEDS, module.pending, module.convert)


class Planned(NamedTuple):
    """What an upgrade would do first."""

    start: int
    stop: int
    summaries: list[str]
    """Of the steps, in order."""
    file_count: int
    """Files that the first step would convert; what later ones will find cannot be known."""
    stored_bytes: int


def plan(backend: Backend, steps: Steps, target: int = VERSION) -> Planned:
    """Say what an upgrade would do, and do nothing.

    Raises:
        StoreMissingError: there is no store.
        UnsupportedError: the store is newer than this thetastore, or a step is missing.
    """
    descriptor = _current(backend)
    _check_steps(backend, descriptor, steps, target)
    versions = range(descriptor.version, target)
    names = [*steps[descriptor.version].pending(backend)] if versions else []
    nbytes = sum(backend.size(name) for name in names)
    return Planned(descriptor.version, target, [steps[n].summary for n in versions], len(names), nbytes)


class Upgraded(NamedTuple):
    """What an upgrade did."""

    start: int
    stop: int
    file_count: int


def upgrade(
    backend: Backend,
    steps: Steps,
    target: int = VERSION,
    report: Callable[[int], None] = lambda count: None,
) -> Upgraded:
    """Bring a store to a version.

    Args:
        backend: where it is.
        steps: see `known_steps`.
        target: the version that it is to have.
        report: called with the number of files converted so far.

    Raises:
        StoreMissingError: there is no store.
        UnsupportedError: the store is newer than this thetastore, or a step is missing.
        BackendError: `EBUSY` where a process on this machine writes to it; others as of the place. What is done stays
            done, and the next upgrade goes on.
    """
    descriptor = _current(backend)
    _check_steps(backend, descriptor, steps, target)
    start, count = descriptor.version, 0
    while descriptor.version < target:
        step = steps[descriptor.version]
        _check_nobody_writes(backend)
        descriptor = _begun(backend, descriptor)
        _check_nobody_writes(backend)
        count = _convert_all(backend, step, count, report)
        descriptor = _ended(backend, descriptor, step)
        count = _convert_all(backend, step, count, report)
        _replace(backend, descriptor)  # a server may have deleted the one before late, and so this one
    return Upgraded(start, descriptor.version, count)


def _current(backend: Backend) -> Descriptor:
    """Return the descriptor; where an upgrade died between two of them, the one that it began with."""
    try:
        return read_descriptor(backend)
    except FileNotFoundError:
        records = sorted(name for name in backend.list(UPGRADES) if name.rpartition("/")[2].isdigit())
    if not records:
        raise StoreMissingError(f"there is no thetastore at '{backend.url}'")
    return parse_descriptor(backend.read(records[-1]), backend.url)


def _check_steps(backend: Backend, descriptor: Descriptor, steps: Steps, target: int) -> None:
    if descriptor.version > target or (descriptor.upgrading_to or 0) > max(target, 0):
        check_descriptor(descriptor, backend.url)
    unknown = [name for name in descriptor.required if not name.startswith(UPGRADING)]
    if unknown:
        check_descriptor(descriptor._replace(required=tuple(unknown)), backend.url)
    for version in range(descriptor.version, target):
        if version not in steps:
            raise UnsupportedError(
                f"the store '{backend.url}' has version {version}, and this thetastore knows no way from there: "
                "upgrade it with an older release first"
            )


def _begun(backend: Backend, descriptor: Descriptor) -> Descriptor:
    """Say that an upgrade is under way: who reads or writes the older version is refused from now on."""
    stop = descriptor.version + 1
    settled = tuple(name for name in descriptor.required if not name.startswith(UPGRADING))
    descriptor = descriptor._replace(required=settled)
    try:
        backend.create(f"{UPGRADES}/{stop:04d}", encode_descriptor(descriptor))
    except FileExistsError:
        pass  # of one that died, or that goes on beside us
    begun = descriptor._replace(required=(*settled, f"{UPGRADING}{stop}"))
    _replace(backend, begun)
    return begun


def _ended(backend: Backend, begun: Descriptor, step: Step) -> Descriptor:
    settled = tuple(name for name in begun.required if not name.startswith(UPGRADING))
    ended = begun._replace(version=begun.version + 1, required=settled, needs=step.needs)
    _replace(backend, ended)
    return ended


def _replace(backend: Backend, descriptor: Descriptor) -> None:
    """Put another descriptor in the place of the one that is there; between the two there is none for a moment."""
    for _ in range(_MOST_TRIES):
        try:
            if read_descriptor(backend) == descriptor:
                return
        except FileNotFoundError:
            pass
        backend.delete(DESCRIPTOR)
        try:
            backend.create(DESCRIPTOR, encode_descriptor(descriptor))
        except FileExistsError:
            continue
        return
    raise BackendError(errno.EAGAIN, "others replace it all the time", DESCRIPTOR)


def _convert_all(backend: Backend, step: Step, count: int, report: Callable[[int], None]) -> int:
    while names := [*step.pending(backend)]:
        for name in names:
            step.convert(backend, name)
            count += 1
            report(count)
    return count


def _check_nobody_writes(backend: Backend) -> None:
    """Refuse while a process of this machine writes. Far away nobody is seen; they are refused at their seal."""
    if backend.is_remote:
        return
    for name in backend.list(_INCOMING):
        try:
            backend.reopen(name).close()
        except BlockingIOError:
            raise BackendError(
                errno.EBUSY, "a process writes to the store: try again when it has ended", name
            ) from None
        except FileNotFoundError:
            continue
