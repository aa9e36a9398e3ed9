"""The file format of pins, against its document; and how repositories are named in them."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from gitbridge.pins import identity
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import digest_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.pins import Pin, PinName, encode_pin, leanable, list_pins, parse_pin, read_pin, repository_of, write_pin

DOCUMENT = Path(__file__).parents[2] / "docs" / "format" / "pins.md"
URL, COMMIT, OTHER = "https://example.org/models/bert.git", "2b7e151628aed2a6abf7158809cf4f3c762e7160", "1" * 40
REPOSITORY = repository_of(URL)
NAME = PinName(REPOSITORY, COMMIT, "0" * 32)
PIN = Pin(URL, COMMIT, tuple(sorted(map(digest_of, [b"a", b"b", b"c"]))), (OTHER,), ("refs/heads/main",))


def test_the_example_of_the_document_is_what_we_write_and_read():
    match = re.search(r"```json\n(.*?\n)```", DOCUMENT.read_text(), re.DOTALL)
    assert match
    pin = Pin(URL, COMMIT, (digest_of(b""),), (), ("refs/heads/main",))

    assert encode_pin(pin).decode() == match[1]
    assert parse_pin(match[1].encode(), NAME) == pin
    assert f"pins/{REPOSITORY}/{COMMIT}." in DOCUMENT.read_text()


def test_pins_are_written_and_listed_and_marked():
    backend = MemoryBackend()

    one, two = write_pin(backend, PIN), write_pin(backend, PIN._replace(is_partial=True))
    backend.create("pins/other", b"")
    backend.create(f"{one.file_name}.tmp", b"")
    lone = PinName(REPOSITORY, OTHER, "1" * 32).mark_name
    backend.create(lone, b"")

    listing = list_pins(backend)
    assert set(listing.names) == {one, two}
    assert (listing.unknown, listing.lone_marks) == ((f"{one.file_name}.tmp", "pins/other"), (lone,))
    assert read_pin(backend, one) == PIN
    assert read_pin(backend, two) == PIN._replace(is_partial=True)
    assert leanable(backend, REPOSITORY) == {COMMIT}

    backend.create(one.mark_name, b"")

    assert one._replace(is_going=True) in list_pins(backend).names
    assert leanable(backend, REPOSITORY) == set()
    assert one.mark_name < one.file_name, "listings show the mark first"


GOOD = json.loads(encode_pin(PIN))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "pin"},
        {"url": "https://example.org/other"},
        {"url": None},
        {"commit": OTHER},
        {"leans_on": None},
        {"leans_on": [COMMIT]},
        {"leans_on": ["main"]},
        {"leans_on": [OTHER, OTHER]},
        {"refs": "refs/heads/main"},
        {"refs": [1]},
        {"alive_s": "1764000000"},
        {"alive_s": True},
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


@pytest.mark.parametrize("url", ["", "https://example.org/\u00e9", "https://example.org/\n", "x" * 5000])
def test_a_url_that_is_no_plain_text_is_refused(url):
    name = NAME._replace(repository=repository_of(url))

    with pytest.raises(MalformedError):
        parse_pin(json.dumps({**GOOD, "url": url}).encode(), name)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(MalformedError):
        parse_pin(content, NAME)


def test_a_newer_version_is_not_guessed_at():
    with pytest.raises(UnsupportedError):
        parse_pin(json.dumps({**GOOD, "version": 99}).encode(), NAME)


def test_a_pin_tells_when_its_writer_was_alive_where_somebody_knows():
    pin = PIN._replace(alive_s=1764000000)

    assert parse_pin(encode_pin(pin), NAME) == pin
    assert b"alive_s" not in encode_pin(PIN)


def test_unknown_keys_are_ignored():
    parse_pin(json.dumps({**GOOD, "note": "x"}).encode(), NAME)


@pytest.mark.parametrize(
    ("git_url", "text"),
    [
        ("https://ada:secret@Example.org/models/bert.git/", "https://example.org/models/bert.git"),
        ("https://token@example.org:8443/m", "https://example.org:8443/m"),
        ("ssh://git:secret@example.org/m.git", "ssh://git@example.org/m.git"),
        ("git@example.org:m.git", "git@example.org:m.git"),
        ("git@github.com:Ada/Bert.git", "https://github.com/ada/bert"),
        ("https://secret@github.com/Ada/Bert", "https://github.com/ada/bert"),
        ("ssh://git@gitlab.com/a/b.git", "https://gitlab.com/a/b"),
        ("https://example.org/m\u00e9", "https://example.org/m%C3%A9"),
    ],
)
def test_a_repository_is_named_without_credentials(make_work, git_url, text):
    with make_work().repository() as repository:
        assert identity(repository, git_url) == text


@pytest.mark.parametrize("git_url", ["https://example.org/m?private_token=secret", "ext::ssh -i secret host"])
def test_what_may_be_a_secret_is_named_by_its_digest(make_work, git_url):
    with make_work().repository() as repository:
        text = identity(repository, git_url)
        assert "secret" not in text
        assert text != identity(repository, git_url + "x")


def test_a_directory_is_named_with_its_machine(make_work, tmp_path):
    bare = make_work("bare.git", "--bare")
    with make_work().repository() as repository:
        assert identity(repository, str(bare.path)) == f"file://{socket.gethostname()}{bare.path.resolve()}"
        assert identity(repository, f"file://{bare.path}") == identity(repository, str(bare.path))
