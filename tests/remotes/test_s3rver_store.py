"""S3 as s3rver has it, which ignores conditions: one writer at a time."""

from __future__ import annotations

import pytest

from thetastore.backends.opening import open_remote
from thetastore.backends.urls import parse_url
from thetastore.testing import BackendConformance

pytestmark = pytest.mark.xdist_group("s3rver")


def one_writer(place):
    backend = open_remote(parse_url(place.url), place.options)
    backend.look_before_creating()
    return backend


class TestS3rver(BackendConformance):
    @pytest.fixture
    def place(self, s3rver):
        return s3rver.fresh()

    @pytest.fixture
    def backend(self, place):
        return one_writer(place)

    @pytest.fixture
    def peer(self, place):
        return one_writer(place)

    test_of_many_creators_one_wins = None
