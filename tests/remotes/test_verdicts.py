"""What `thetastore init` finds out about real servers, and says of ways in that are none."""

from __future__ import annotations

import pytest

from thetastore.errors import BackendError, ThetaError
from thetastore.store import Store


@pytest.mark.xdist_group("moto")
def test_a_way_in_that_is_none_is_told_without_the_secret(moto):
    place = moto.fresh()
    wrong = {**place.options, "endpoint_url": "http://127.0.0.1:9"}

    with pytest.raises(BackendError) as caught:
        Store.open(place.url, options=wrong)
    assert place.url in str(caught.value)
    with pytest.raises(BackendError, match="make it first"):
        Store.open("s3://no-such-bucket/x", create=True, options=place.options)
    for options in ({"stall_seconds": "soon"}, {"no_such_option_of_s3fs": 1, "secret": place.options["secret"]}):
        with pytest.raises(ThetaError) as caught:
            Store.open(place.url, create=True, options=options)
        assert str(place.options["secret"]) not in str(caught.value)


@pytest.mark.xdist_group("moto")
def test_a_server_that_does_not_answer_in_time_is_given_up(moto):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {**moto.options, "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}", "stall_seconds": 0.3}

        with pytest.raises(BackendError, match="no answer in time"):
            Store.open("s3://models/x", options=options)


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
