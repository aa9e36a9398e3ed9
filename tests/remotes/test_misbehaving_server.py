"""A server that misbehaves at one request: no wrong bytes, no hang, no false success, and it can be done again."""

from __future__ import annotations

import pytest

from benchmarks.reliability.serving import SERVED, Misdeed, Server, misserved

pytestmark = pytest.mark.xdist_group("moto")


@pytest.fixture
def server(moto) -> Server:
    return Server(int(str(moto.options["endpoint_url"]).rpartition(":")[2]), moto.url, moto.options)


def check(tally) -> None:
    assert tally.runs > 0
    assert tally.bad == 0, f"{tally.example} ({tally})"
    assert tally.succeeded + tally.failed == tally.runs


@pytest.mark.parametrize("misdeed", Misdeed)
@pytest.mark.parametrize("deed", SERVED)
def test_a_server_that_misbehaves_costs_nothing_committed(server, deed, misdeed):
    number = list(Misdeed).index(misdeed)
    check(misserved(server, SERVED[deed], misdeed, every=67, first=number * 5))


@pytest.mark.deep
@pytest.mark.parametrize("misdeed", Misdeed)
@pytest.mark.parametrize("deed", SERVED)
def test_a_server_that_misbehaves_at_any_request_costs_nothing_committed(server, deed, misdeed):
    check(misserved(server, SERVED[deed], misdeed))
