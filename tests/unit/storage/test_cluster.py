"""A cluster's redirection is followed, however the client tells it, and its nodes are known."""

from __future__ import annotations

import pytest
from redis.exceptions import MovedError, ResponseError

from resilience.storage.cluster import moved_to, nodes


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (MovedError("3217 10.0.0.7:6379"), {"host": "10.0.0.7", "port": 6379}),
        (ResponseError("MOVED 3217 10.0.0.7:6379"), {"host": "10.0.0.7", "port": 6379}),  # redis-py 5
        (ResponseError("MOVED 3217 2001:db8::7:6379"), {"host": "2001:db8::7", "port": 6379}),
        (MovedError("3217 :6379"), {"port": 6379}),  # a node that keeps its name to itself
        (ResponseError("MOVED 3217 ?:6379"), {"port": 6379}),
        (ResponseError("CLUSTERDOWN The cluster is down"), None),
        (ResponseError("MOVED"), None),
    ],
)
def test_a_redirection_names_the_node(error: ResponseError, place: dict[str, object] | None) -> None:
    assert moved_to(error) == place


def test_every_node_is_known_once_replicas_too() -> None:
    slots = [
        [0, 5460, [b"10.0.0.7", 6379, b"id7", []], [b"10.0.0.8", 6379, b"id8", []]],
        [5461, 16383, [b"10.0.0.7", 6379, b"id7", []], [None, 6380, b"id9", []]],
    ]
    assert nodes(slots) == [{"host": "10.0.0.7", "port": 6379}, {"host": "10.0.0.8", "port": 6379}, {"port": 6380}]
    assert nodes([]) == []
