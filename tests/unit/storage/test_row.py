"""Rows: what comes back is what was written, and nothing that somebody else put there does harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker.shared import SharedState
from resilience.breaker.states import CircuitState
from resilience.storage.row import read_json, read_row, write_state
from resilience.storage.server_clock import ServerClock


def clock() -> ServerClock:
    same = ServerClock()
    same.sample(0.0, 0.0, 0.0)
    return same


def stored(payload: str, now: float) -> dict[str, object]:
    """What the script makes of a payload: relative times become the server's."""
    row = json.loads(payload)
    for name in ("since", "until", "first_since", "remembers"):
        row[f"{name}_ms"] = round(now * 1000) + row.pop(f"{name}_in")
    row["doubters"] = {source: round(now * 1000) + left for source, left in row["doubters"].items()}
    return {**row, "gen": 4}


def test_a_row_comes_back_as_it_was_written() -> None:
    state = SharedState(
        CircuitState.HALF_OPEN,
        since=90.0,
        reason="failure_rate",
        kind="timeout",
        until=100.0,
        first_since=80.0,
        failures=12,
        calls=20,
        rounds=2,
        account_rounds=1,
        remembers_until=110.0,
        successes=1,
        earned=2,
        doubters={"a": 105.0},
    )
    row = read_row(json.dumps(stored(write_state("provider:x", "x", "provider", "me:1", state, 100.0), 100.0)), clock())
    # An end of exactly now is written as 0 milliseconds ahead.
    assert row is not None
    assert (row.id, row.generation, row.nonce, row.state) == ("provider:x", 4, "me:1", state)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"\xff\xfe",
        "5",
        "[]",
        "{}",
        '{"state": "open"}',
        '{"id": "x", "gen": "many", "state": "open"}',
        '{"id": "x", "gen": 1, "state": "melted"}',
        '{"id": "x", "gen": 1, "state": ["open"]}',
        '{"id": "x", "gen": 1, "state": "open", "until_ms": "soon"}',
        '{"id": "x", "gen": 1, "state": "open", "doubters": 3}',
        '{"v": 2, "id": "x", "gen": 1, "state": "open"}',
        "[" * 100_000,
    ],
)
def test_garbage_and_newer_versions_are_no_rows(raw: bytes | str | None) -> None:
    assert read_row(raw, clock()) is None


@given(st.binary() | st.text())
def test_no_payload_raises(raw: bytes | str) -> None:
    read_json(raw)
    read_row(raw, clock())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(["v", "id", "gen", "state", "until_ms", "since_ms", "doubters", "leases", "successes", "kind"]),
        json_values | st.sampled_from(sorted(CircuitState)),
    )
)
def test_no_object_raises(found: dict[str, object]) -> None:
    read_row(json.dumps({"id": "x", "gen": 1, "state": "open", **found}), clock())
