"""Which answer of a server means what: to be tried again, there already, not there, or refused."""

from __future__ import annotations

import pytest

from thetastore.backends.fsspec_requests import FsspecRequests, Limits
from thetastore.backends.requests import PassingError
from thetastore.errors import BackendError


class BotoError(Exception):
    """What botocore raises."""

    def __init__(self, status: int) -> None:
        super().__init__(f"An error occurred ({status})")
        self.response = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}


class HttpError(Exception):
    """What aiohttp and azure raise."""

    def __init__(self, status: int) -> None:
        super().__init__("refused")
        self.status = self.status_code = status


def sorted_of(error: Exception) -> Exception:
    return FsspecRequests(object(), "bucket", Limits()).sorted(error)


@pytest.mark.parametrize("kind", [BotoError, HttpError])
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_what_may_be_otherwise_in_a_moment_is_tried_again(kind, status):
    assert isinstance(sorted_of(kind(status)), PassingError)


@pytest.mark.parametrize("kind", [BotoError, HttpError])
def test_a_condition_that_does_not_hold_says_that_the_file_is_there(kind):
    assert isinstance(sorted_of(kind(412)), FileExistsError)
    assert isinstance(sorted_of(kind(404)), FileNotFoundError)


@pytest.mark.parametrize("status", [400, 401, 403, 405, 501])
def test_what_is_refused_is_not_tried_again(status):
    error = sorted_of(BotoError(status))

    assert isinstance(error, BackendError)
    assert not isinstance(error, PassingError)
