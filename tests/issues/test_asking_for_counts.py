"""In a simulated fleet, who asked for counts with a short window took the older ones away from everybody else."""

from __future__ import annotations

import json

from resilience.simulator.store import StoreServer


def batch(calls: int, window_ms: int) -> str:
    counts = {"c": calls, "f": 0, "w": 0, "fw": 0.0, "tail": 0.0, "tn": 0, "src": []}
    return json.dumps([{"gen": 1, **counts, "wc": 50, "ws": window_ms}])


def test_who_only_asks_changes_nothing() -> None:
    now = 1_000
    store = StoreServer(lambda: now, lambda _: None)
    assert store.count(["a"], batch(7, 30_000))[0][0] == 7
    now = 2_000
    assert store.count(["a"], batch(0, 200))[0][0] == 0
    assert store.count(["a"], batch(0, 30_000))[0][0] == 7
