"""A cluster's redirection is followed, however the client tells it."""

from __future__ import annotations

import pytest
from redis.exceptions import MovedError, ResponseError

from resilience.storage.redis import _moved_to


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (MovedError("3217 10.0.0.7:6379"), {"host": "10.0.0.7", "port": 6379}),
        (ResponseError("MOVED 3217 10.0.0.7:6379"), {"host": "10.0.0.7", "port": 6379}),  # redis-py 5
        (ResponseError("MOVED 3217 2001:db8::7:6379"), {"host": "2001:db8::7", "port": 6379}),
        (ResponseError("CLUSTERDOWN The cluster is down"), {}),
        (ResponseError("MOVED"), {}),
    ],
)
def test_a_redirection_names_the_node(error: ResponseError, place: dict[str, object]) -> None:
    assert _moved_to(error) == place
