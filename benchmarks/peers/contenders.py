"""Contenders that are libraries: each stores versions in a directory of its own and writes them out again.

What they read and write are files, as a user's are. Those that are re-implemented here say so in `about`; their bytes
can be compared, their speed is that of a Python program that leaves the work to numpy, zstd and LZ4. Imports are made
when a contender is made: what is not installed is reported as absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Files = Mapping[str, Path]
"""The files of a version, by the path that they have in a work tree."""


class AbsentError(Exception):
    """A contender is not installed; the message says what is missing."""


class Contender(Protocol):
    """Stores versions, numbered from 0 in the order in which they come."""

    about: ClassVar[str]

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        """Store a version. Contenders that find bases by themselves ignore `base`, others ignore `parent`."""

    def checkout(self, number: int, target: Path) -> None:
        """Write the files of a version into an empty directory."""

    def stored_bytes(self) -> int:
        """Return what it takes on the disk."""


class Steps:
    """What a contender may do beside what is measured: nothing, unless it says otherwise."""

    def prepare(self, files: Files) -> None:
        """Put a version where it is taken from."""

    def settle(self) -> None:
        """Come to rest after a version was added."""

    def finish(self) -> None:
        """Do what is done once all versions are there; this is measured, by itself."""

    def clear(self, number: int) -> None:
        """Remove what stands where a version is written to."""

    def place_of(self, target: Path) -> Path:
        """Return where versions are written to."""
        return target


def threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function in as many threads as there are processors; all contenders may use all of them."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, items))


class _Directory(Steps):
    """Where a contender that keeps files keeps them: a directory for each version."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        del parent
        for name, path in files.items():
            self._add_file(path, self._place(self.count, name, create=True), base)
        self.count += 1

    def checkout(self, number: int, target: Path) -> None:
        for stored in sorted((self.directory / str(number)).iterdir()):
            self._write_file(stored, target / stored.name)

    def _place(self, number: int, name: str, create: bool = False) -> Path:
        place = self.directory / str(number) / name
        if create:
            place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _add_file(self, source: Path, stored: Path, base: int | None) -> None:
        raise NotImplementedError

    def _write_file(self, stored: Path, target: Path) -> None:
        raise NotImplementedError

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())


class Copy(_Directory):
    about = "cp: whole files, the physical limit"

    def _add_file(self, source: Path, stored: Path, base: int | None) -> None:
        import shutil

        shutil.copyfile(source, stored)

    def _write_file(self, stored: Path, target: Path) -> None:
        self._add_file(stored, target, None)


class Zstd(_Directory):
    about = "zstd -3, each file by itself, all processors"

    def _add_file(self, source: Path, stored: Path, base: int | None) -> None:
        import zstandard

        with source.open("rb") as raw, stored.open("wb") as sink:
            zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(raw, sink, size=source.stat().st_size)

    def _write_file(self, stored: Path, target: Path) -> None:
        import zstandard

        with stored.open("rb") as frame, target.open("wb") as sink:
            zstandard.ZstdDecompressor().copy_stream(frame, sink)


class ZipNN(_Directory):
    about = "ZipNN, each file by itself"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._zipnn = zipnn_class()

    def _add_file(self, source: Path, stored: Path, base: int | None) -> None:
        raw = bytearray(source.read_bytes())  # its own: ZipNN overwrites what it is given
        dtype = "bfloat16" if raw[:100_000].count(b'"BF16"') > raw[:100_000].count(b'"F32"') else "float32"
        stored.write_bytes(self._zipnn(input_format="byte", bytearray_dtype=dtype).compress(raw))

    def _write_file(self, stored: Path, target: Path) -> None:
        target.write_bytes(self._zipnn(input_format="byte").decompress(stored.read_bytes()))


def zipnn_class() -> Any:
    """Return ZipNN's class.

    Raises:
        AbsentError: it is not installed.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from zipnn import ZipNN as Class
    except ImportError as error:
        raise AbsentError(f"zipnn cannot be imported ({error}); `make peers` installs it, with torch: 4 GB") from error
    return Class


class Ours(Steps):
    about = "thetastore: Store.put_file and Store.write_file"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._versions: list[dict[str, Any]] = []

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        del base  # to be found without being told
        from thetastore.store import Store

        added = {}
        with Store.open(str(self._directory), create=True) as store:
            for name, path in files.items():
                before = self._versions[parent].get(name) if parent is not None else None
                with path.open("rb", buffering=0) as source:
                    added[name] = store.put_file(source, before)
        self._versions.append({name: ingested.manifest_digest for name, ingested in added.items()})

    def checkout(self, number: int, target: Path) -> None:
        from thetastore.store import Store

        with Store.open(str(self._directory)) as store:
            for name, digest in self._versions[number].items():
                with (target / name).open("wb", buffering=0) as sink:
                    store.write_file(store.get_manifest(digest), digest, sink.fileno())

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())


class OursRepacked(Ours):
    about = "the same after `thetastore repack --aggressive`, as an archive: up to 8 bases deep, dearer to read"

    def finish(self) -> None:
        """Store everything anew, once all versions are there."""
        from thetastore.store import Store
        from thetastore.upkeep.repack import AGGRESSIVE, repack

        with Store.open(str(self._directory)) as store:
            repack(store.objects, store.pool, AGGRESSIVE)
