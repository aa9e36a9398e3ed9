"""The file format of pins, against its document."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gitbridge.pins import Pin, PinName, encode_pin, parse_pin, pin_names, read_pin, write_pin
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import digest_of
from thetastore.errors import MalformedError, UnsupportedError

DOCUMENT = Path(__file__).parents[2] / "docs" / "format" / "pins.md"
REPOSITORY, COMMIT = "8f3c0d5ab1c95f7c8d1b1e1f6f1c0c2f5d9f3a10", "2b7e151628aed2a6abf7158809cf4f3c762e7160"
NAME = PinName(REPOSITORY, COMMIT, False)


def test_the_example_of_the_document_is_what_we_write_and_read():
    match = re.search(r"```json\n(.*?\n)```", DOCUMENT.read_text(), re.DOTALL)
    assert match
    pin = Pin(REPOSITORY, COMMIT, True, (digest_of(b""),))

    assert encode_pin(pin).decode() == match[1]
    assert parse_pin(match[1].encode(), NAME) == pin


def test_pins_are_written_once_and_listed():
    backend = MemoryBackend()
    pin = Pin(REPOSITORY, COMMIT, True, tuple(sorted(map(digest_of, [b"a", b"b", b"c"]))))
    shallow = pin._replace(is_shallow=True, whole_history=False)

    assert write_pin(backend, pin) is True
    assert write_pin(backend, pin._replace(manifests=())) is False
    assert write_pin(backend, shallow) is True
    backend.create("pins/other", b"")
    backend.create(f"pins/{REPOSITORY}/{COMMIT}.json.tmp", b"")

    assert pin_names(backend) == [NAME, NAME._replace(is_shallow=True)]
    assert read_pin(backend, NAME) == pin
    assert read_pin(backend, NAME._replace(is_shallow=True)) == shallow


GOOD = json.loads(encode_pin(Pin(REPOSITORY, COMMIT, True, tuple(sorted(map(digest_of, [b"a", b"b"]))))))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pin"},
        {"repository": COMMIT},
        {"commit": REPOSITORY},
        {"whole_history": 1},
        {"manifests": None},
        {"manifests": [1]},
        {"manifests": GOOD["manifests"][::-1]},
        {"manifests": GOOD["manifests"][:1] * 2},
        {"manifests": ["ABCD"]},
        {"manifests": [GOOD["manifests"][0].upper()]},
    ],
)
def test_whatever_the_document_forbids_is_refused(change):
    with pytest.raises(MalformedError):
        parse_pin(json.dumps({**GOOD, **change}).encode(), NAME)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(MalformedError):
        parse_pin(content, NAME)


def test_a_newer_version_is_not_guessed_at():
    with pytest.raises(UnsupportedError):
        parse_pin(json.dumps({**GOOD, "version": 1}).encode(), NAME)


def test_unknown_keys_are_ignored():
    parse_pin(json.dumps({**GOOD, "note": "x"}).encode(), NAME)
