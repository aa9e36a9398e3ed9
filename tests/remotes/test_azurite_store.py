"""Azure Blob Storage as Azurite has it."""

from __future__ import annotations

import pytest

from thetastore.backends.opening import open_remote
from thetastore.backends.urls import parse_url
from thetastore.testing import BackendConformance

pytestmark = pytest.mark.xdist_group("azurite")


class TestAzurite(BackendConformance):
    @pytest.fixture
    def place(self, azurite):
        return azurite.fresh()

    @pytest.fixture
    def backend(self, place):
        return open_remote(parse_url(place.url), place.options)

    @pytest.fixture
    def peer(self, place):
        return open_remote(parse_url(place.url), place.options)
