"""The simulated store says what the real one says: the same words, rows and sums for the same random commands."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import redis

from resilience.simulator.store import StoreServer
from resilience.storage.redis import _SCRIPTS
from resilience.testing.store import LoopbackStore

NAMES = ("provider:openai", "target:a")
PREFIX = "{simulated}:"


class Both:
    """A real store and a simulated one whose clock is the real one's."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.now = 0
        self.told: list[str] = []
        self.simulated = StoreServer(lambda: self.now, self.told.append)

    def real(self, script: str, keys: list[str], *arguments: Any) -> Any:
        source, _ = _SCRIPTS[script]
        return self.client.eval(source, len(keys), *keys, *arguments)

    def ask(self, script: str, identity: str, real: tuple[Any, ...], ours: tuple[Any, ...]) -> str:
        keys = [PREFIX + "row:" + identity, PREFIX + "count:" + identity, PREFIX + "index", PREFIX + "revision"]
        word, self.now, raw, *more = self.real(script, keys, PREFIX + "news", *real)
        said, row, at = getattr(self.simulated, script)(identity, *ours)
        assert said == word.decode()
        assert plain(row) == plain(json.loads(raw) if raw else None)
        assert int(at) == int(more[0] if more else 0)
        return said

    def count(self, batches: dict[str, Any]) -> None:
        keys = [PREFIX + kind + name for name in batches for kind in ("row:", "count:")]
        told = json.dumps(list(batches.values()))
        self.now, found = self.real("count", keys, told, PREFIX + "news")
        assert self.simulated.count(list(batches), told) == found


def plain(value: Any) -> Any:
    """Without the difference between an empty list and an empty mapping, which Lua does not know."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if one is not None} or []
    return value


def payload(rng: random.Random, identity: str, state: str, nonce: str) -> str:
    row = {"v": 1, "id": identity, "name": identity, "role": "target", "nonce": nonce, "state": state}
    times = {name: rng.randint(-50, 50) for name in ("since_in", "until_in", "first_since_in", "remembers_in")}
    doubters = {"a": rng.randint(1, 50)} if rng.random() < 0.3 else {}
    return json.dumps({**row, **times, "failures": 1, "calls": 2, "successes": 0, "earned": 0, "doubters": doubters})


def batch(rng: random.Random, generation: int) -> dict[str, Any]:
    calls = rng.randint(0, 9)
    failures = rng.choice([0, calls, rng.randint(0, calls)])
    sources = rng.sample(["*", "a", "b"], rng.randint(0, 2)) if failures else []
    tail = float(rng.randint(0, failures))
    counts = {"c": calls, "f": failures, "w": 0, "fw": 1.5 * failures, "tail": tail, "tn": int(tail)}
    return {"gen": generation, **counts, "src": sorted(sources), "wc": 50, "ws": rng.choice([200, 30_000])}


@pytest.mark.parametrize("seed", range(4))
def test_the_simulated_store_says_what_the_scripts_say(seed: int) -> None:
    rng, words = random.Random(seed), set()
    with LoopbackStore() as store, redis.Redis(port=store.port) as client:
        both = Both(client)
        tickets: list[str] = []
        for step in range(600):
            identity = rng.choice(NAMES)
            row = both.simulated._rows.get(identity) or {}
            generation = max(0, row.get("gen", 0) + rng.choice([0, 0, 0, 0, -1, 1]))
            ticket = f"ticket-{step}"
            what = rng.choice(["move", "lease", "lease", "settle", "settle", "count"])
            if what == "move":
                mode = rng.choice(["move", "move", "extend", "force"])
                state = rng.choice([row.get("state", "closed"), "closed", "open"])
                new = payload(rng, identity, rng.choice(["open", "open", "half-open", "closed"]), ticket)
                words.add(both.ask("move", identity, (mode, generation, state, new), (mode, generation, state, new)))
            elif what == "lease":
                kind = rng.choice(["probe", "probe", "eager"])
                told, doublings = (kind, generation, ticket, 1, rng.choice([5, 10_000])), rng.choice([0, 1, 3])
                words.add(both.ask("lease", identity, (*told, 1000, doublings), (*told, doublings)))
                tickets.append(ticket)
            elif what == "settle":
                told_of = rng.sample(tickets[-6:], min(2, len(tickets)))
                verbs = ("worked", "free", "earned", "renewed", "doubted", "eager")
                entries = [[one, rng.choice(verbs), rng.choice(["a", "earned"]), 40] for one in told_of]
                told_s = (generation, 10_000, json.dumps(entries))
                words.add(both.ask("settle", identity, told_s, told_s))
            else:
                both.count({name: batch(rng, (both.simulated._rows.get(name) or {}).get("gen", 0)) for name in NAMES})
        changes = [message for message in both.told if "row" in json.loads(message)]
        assert int(client.get(PREFIX + "revision") or 0) == both.simulated.revision == len(changes)
        known = client.zrange(PREFIX + "index", "-inf", "+inf", byscore=True)
        assert [name.decode() for name in known] == both.simulated.changed(0)
    assert {"done", "lost", "granted", "wait"} <= words
