"""S3 as SeaweedFS has it, a real server."""

from __future__ import annotations

import pytest

from thetastore.backends.opening import open_remote
from thetastore.backends.urls import parse_url
from thetastore.testing import BackendConformance

pytestmark = pytest.mark.xdist_group("seaweedfs")


class TestSeaweedfs(BackendConformance):
    @pytest.fixture
    def place(self, seaweedfs):
        return seaweedfs.fresh()

    @pytest.fixture
    def backend(self, place):
        return open_remote(parse_url(place.url), place.options)

    @pytest.fixture
    def peer(self, place):
        return open_remote(parse_url(place.url), place.options)
