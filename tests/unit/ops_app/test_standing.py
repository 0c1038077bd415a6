"""Where everything stands, in words that answer: who, why, since when, until when, who instead."""

from __future__ import annotations

from typing import Any

import pytest

import resilience
from resilience.events import StorageDegraded
from resilience.ops.standing import KINDS, SHOWN, stand
from resilience.ops.status import duration, render, table
from resilience.ops.traffic import Traffic
from resilience.outcome import VERDICTS, Effect, Kind
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Fail, ScriptedUpstream

HI = [{"role": "user", "content": "hi"}]


class Desk:
    """A runtime, and what its page would show."""

    def __init__(self, script: Any = None, targets: Any = None, **more: Any) -> None:
        self.clock = ManualClock()
        config = {
            "routes": {
                "chat": {
                    "on_exhausted": "fail",
                    "num_retries": 0,
                    "targets": targets
                    or [
                        {"model": "openai/gpt-4o-mini", "name": "gpt", "provider": "openai"},
                        {"model": "anthropic/claude-haiku-4-5", "name": "claude", "provider": "anthropic"},
                    ],
                }
            },
            "breaker": {"jitter": 0},
            **more,
        }
        upstream = ScriptedUpstream(script or {}, clock=self.clock)
        self.fb = resilience.MultiProviderFallback(config, upstream=upstream, clock=self.clock, sinks=())
        self.traffic = Traffic(clock=self.clock, names=("chat",))
        self.fb.observe(self.traffic)

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            try:
                self.fb.completion("chat", HI)
            except resilience.ResilienceError:
                continue

    def document(self) -> dict[str, Any]:
        traffic = self.traffic
        return stand(self.fb.snapshot(), traffic.opening, traffic.routes(), traffic.targets())

    def breaker(self, name: str) -> dict[str, Any]:
        return next(one for one in self.document()["breakers"] if one["name"] == name)


def test_when_all_is_well_it_says_so_and_no_more() -> None:
    desk = Desk()
    desk.ask(3)
    told = desk.document()
    assert told["headline"] == {"tone": "good", "text": "Everything works."}
    assert {one["standing"] for one in told["breakers"]} == {"working"}
    assert told["routes"][0]["requests"]["completed"] == 3


def test_an_outage_names_the_provider_the_reason_and_who_serves_instead() -> None:
    desk = Desk({"gpt": Fail(Kind.SERVER_ERROR, status=503)})
    desk.ask(6)
    told = desk.document()
    text = "openai is out: 5 failures in a row: it answers with server errors (5xx). Every route is still served."
    assert told["headline"] == {"tone": "warn", "text": text}
    one = desk.breaker("openai")
    assert (one["standing"], one["instead"]) == ("out", [{"route": "chat", "target": "claude"}])
    assert one["until"] is not None
    assert told["routes"][0]["serving"] == "claude"
    desk.clock.advance(11)
    assert desk.breaker("openai")["standing"] == "probing"


def test_an_outage_is_dated_from_its_beginning_through_vain_probes() -> None:
    desk = Desk({"gpt": Fail(Kind.SERVER_ERROR, status=503)})
    desk.ask(5)
    began = desk.breaker("openai")["since"]
    desk.clock.advance(11)
    assert (desk.breaker("openai")["standing"], desk.breaker("openai")["since"]) == ("probing", began)
    desk.ask(2)  # the first one is the probe, in vain
    one = desk.breaker("openai")
    assert (one["standing"], one["opens"], one["since"]) == ("out", 2, began)
    desk.fb.registry.providers["openai"].reset()
    desk.fb.registry.targets["gpt"].reset()
    assert desk.fb.snapshot().providers["openai"].out_since is None


def test_a_hang_is_dated_from_when_it_was_found() -> None:
    desk = Desk()
    desk.ask(20)
    desk.clock.advance(100)
    in_flight = desk.fb.registry._roster.targets["gpt"].in_flight
    in_flight.overdue_since = desk.clock.monotonic()
    found = desk.clock.now()
    desk.clock.advance(3)
    one = desk.breaker("gpt")
    assert (one["standing"], one["since"]) == ("hanging", found.isoformat(timespec="milliseconds"))


def test_a_target_with_a_trouble_of_its_own_is_named_beside_a_provider_that_is_out() -> None:
    desk = Desk(
        {"gpt": Fail(Kind.SERVER_ERROR, status=503), "claude": Fail(Kind.AUTH, status=401)},
        targets=[
            {"model": "openai/gpt-4o-mini", "name": "gpt", "provider": "openai"},
            {"model": "anthropic/claude-haiku-4-5", "name": "claude", "provider": "anthropic"},
            {"model": "mistral/mistral-small", "name": "small", "provider": "mistral"},
        ],
    )
    desk.ask(6)
    assert desk.document()["headline"]["text"] == "openai and claude are out. Every route is still served."


def test_a_fleets_store_that_is_gone_is_told_with_what_it_means() -> None:
    desk = Desk()
    assert desk.document()["fleet_trouble"] is None
    desk.fb.registry.publish(StorageDegraded("redis://store:6379: \x1b[31mrefused"))
    shown = render(desk.document())
    assert "The fleet's store is out of reach (redis://store:6379: " in shown
    assert "this process only" in shown
    assert "\x1b" not in shown


def test_a_route_without_anybody_is_the_worst_news() -> None:
    desk = Desk({name: Fail(Kind.AUTH, status=401) for name in ("gpt", "claude")})
    desk.ask(2)
    told = desk.document()
    assert told["headline"] == {"tone": "bad", "text": "Nothing can serve chat: every target is out."}
    assert desk.breaker("gpt")["why"] == "it refuses the key (401 or 403)"
    assert desk.breaker("gpt")["instead"] == [{"route": "chat", "target": None}]


def test_an_isolated_one_tells_the_persons_reason_and_its_targets_go_with_it() -> None:
    desk = Desk()
    desk.fb.registry.providers["openai"].isolate("bad deploy")
    assert desk.breaker("openai")["why"] == "a person took it out: bad deploy"
    assert desk.breaker("gpt")["standing"] == "with_provider"
    assert desk.breaker("gpt")["why"] == "its provider openai is out"


def test_a_hold_tells_that_it_was_asked_to_wait() -> None:
    desk = Desk({"gpt": Fail(Kind.RATE_LIMITED, status=429, retry_after_seconds=30)})
    desk.ask()
    one = desk.breaker("gpt")
    assert (one["standing"], one["why"]) == ("out", "it asked to wait (rate limit, 429)")


@pytest.mark.parametrize(
    "kind", [kind for kind, row in VERDICTS.items() if row.target in {Effect.FAILURE, Effect.ACCOUNT}]
)
def test_every_kind_that_opens_a_circuit_has_words(kind: Kind) -> None:
    assert kind.value in KINDS


def test_callers_own_targets_do_not_flood_the_page() -> None:
    desk = Desk()
    for number in range(SHOWN + 50):
        desk.fb.completion("openai/gpt-4o-mini", HI, api_key=f"sk-{number}")
    told = desk.document()
    assert len([one for one in told["breakers"] if one["kind"] == "target"]) == SHOWN + 2
    assert told["hidden_targets"] == 50


def test_a_minute_forgets_what_is_older() -> None:
    desk = Desk({"gpt": [Fail(Kind.SERVER_ERROR), "ok"]})
    desk.ask(10)
    felt = desk.traffic.targets()["gpt"]
    assert (felt["completed"], felt["failed"]) == (9, 1)
    desk.clock.advance(61)
    assert desk.traffic.targets()["gpt"]["completed"] == 0
    assert desk.traffic.routes()["chat"]["p50_ms"] is None


def test_the_terminal_shows_the_same_and_obeys_nothing() -> None:
    desk = Desk({"gpt": Fail(Kind.SERVER_ERROR, status=503)})
    desk.ask(6)
    desk.fb.registry.targets["claude"].isolate("\x1b[31mred\x07")
    shown = render(desk.document())
    assert "\x1b" not in shown
    assert "\x07" not in shown
    for part in ("Nothing can serve chat", "nobody", "5 failures in a row", "reset by hand", "probe in 10 s"):
        assert part in shown, part


def test_a_table_is_as_wide_as_what_stands_in_it() -> None:
    assert table(("A", "BB"), [("ccc", "d")]) == "A    BB\nccc  d"
    assert [duration(one) for one in (-1, 0.4, 59.6, 130, 11_100)] == [
        "0 s",
        "0 s",
        "1 min 0 s",
        "2 min 10 s",
        "3 h 5 min",
    ]
