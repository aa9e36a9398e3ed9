"""What `thetastore init` finds out about real servers, and says of ways in that are none."""

from __future__ import annotations

import socket
import time

import pytest

from thetastore.backends.fsspec_requests import Limits, harmless
from thetastore.backends.opening import open_remote
from thetastore.backends.requests import PassingError
from thetastore.backends.urls import parse_url
from thetastore.errors import BackendError, ThetaError
from thetastore.store import Store


@pytest.mark.xdist_group("moto")
def test_a_way_in_that_is_none_is_told_without_the_secret(moto):
    place = moto.fresh()
    wrong = {**place.options, "endpoint_url": "http://127.0.0.1:9"}

    with pytest.raises(BackendError) as caught:
        Store.open(place.url, options=wrong)
    assert place.url in str(caught.value)
    for create in (True, False):
        with pytest.raises(BackendError, match="make it first"):
            Store.open("s3://no-such-bucket/x", create=create, options=place.options)
    for options in ({"stall_seconds": "soon"}, {"no_such_option_of_s3fs": 1, "secret": place.options["secret"]}):
        with pytest.raises(ThetaError) as caught:
            Store.open(place.url, create=True, options=options)
        assert str(place.options["secret"]) not in str(caught.value)


@pytest.mark.xdist_group("moto")
def test_a_server_that_does_not_answer_in_time_is_given_up(moto):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {**moto.options, "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "stall_seconds": 0.3}

        with pytest.raises(BackendError, match="no answer in time"):
            Store.open("s3://models/x", options=options)


@pytest.mark.xdist_group("moto")
@pytest.mark.parametrize("place", ["S3", "Google"])
def test_a_server_that_stops_taking_what_is_sent_is_given_up_long_before_the_body_could_have_come(place, request):
    body = bytes(16 << 20)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        options = {"endpoint_url": f"http://127.0.0.1:{deaf.getsockname()[1]}", "stall_seconds": 0.3}
        if place == "S3":
            url, options = "s3://models/x", {**request.getfixturevalue("moto").options, **options}
        else:
            url, options = "gs://models/x", {"token": "anon", "project": "none", **options}
        requests = open_remote(parse_url(url), options).requests
        assert Limits(0.3).of(len(body)) > 500
        started_s = time.monotonic()

        with pytest.raises(PassingError, match="no answer in time"):
            requests.put_new("packs/one", body)
        assert time.monotonic() - started_s < 60


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("gs://models/x", {"endpoint_url": "http://127.0.0.1:9", "token": "anon", "project": "none"}),
        ("sftp://theta@127.0.0.1/x", {"port": 9, "known_hosts": None, "config": []}),
        ("https://127.0.0.1:9/x", {}),
    ],
)
def test_a_place_that_is_down_is_told_within_seconds(url, options):
    started_s = time.monotonic()

    with pytest.raises(PassingError):
        Store.open(url, options=options)
    assert time.monotonic() - started_s < 20


@pytest.mark.xdist_group("seaweedfs")
def test_a_bucket_that_is_not_there_is_told_though_the_server_has_an_internal_error(seaweedfs):
    with pytest.raises(BackendError, match="make it first"):
        Store.open("s3://no-such-bucket/x", create=True, options=seaweedfs.options)


def test_words_of_a_library_keep_the_server_of_a_url_and_nothing_behind_it():
    said = ConnectionError('cannot connect to "http://me:secret@127.0.0.1:9/models/one/thetastore.json?sig=abc" today')

    assert harmless(said) == 'cannot connect to "http://127.0.0.1:9/…" today'


@pytest.mark.xdist_group("seaweedfs")
def test_seaweedfs_is_for_many_writers(seaweedfs):
    place = seaweedfs.fresh()
    with Store.open(place.url, create=True, options=place.options) as store:
        assert store.is_for_many_writers
        assert [name for name in store.backend.list("") if name != "thetastore.json"] == []
    with Store.open(place.url, options=place.options) as again:
        assert again.is_for_many_writers


@pytest.mark.xdist_group("s3rver")
def test_s3rver_is_for_one_writer(s3rver):
    place = s3rver.fresh()

    with Store.open(place.url, create=True, options=place.options) as store:
        assert not store.is_for_many_writers
