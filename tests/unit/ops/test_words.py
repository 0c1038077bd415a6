"""Words: a reader learns who, why and until when, and no number is rounded into a lie."""

from __future__ import annotations

import pytest

from resilience.events import (
    AttemptSucceeded,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolated,
    CircuitOpened,
    PermitRefused,
    TargetOnTime,
    TargetOverdue,
)
from resilience.ops.story import Story
from resilience.ops.tally import Asked, End, Tally
from resilience.ops.words import HEADINGS, Narrator, aligned, meaning, rows, seconds, share, totals
from resilience.outcome import Kind


def opened(reason: str = "consecutive_failures", kind: Kind = Kind.CONNECTION) -> CircuitOpened:
    return CircuitOpened("gpt", "openai", reason, kind, 5, 20, 0.25, 2.5, 2)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (opened(), ["gpt", "5 failures in a row", "connection", "2.5 s"]),
        (opened("failure_rate", Kind.SERVER_ERROR), ["5 of 20 calls failed", "server error"]),
        (opened("slow_call_rate"), ["5 of 20 calls were slow"]),
        (opened("rate_limited", Kind.RATE_LIMITED), ["429"]),
        (opened("account", Kind.AUTH), ["account", "auth"]),
        (opened("forced"), ["forced"]),
        (CircuitHalfOpened("gpt", "openai", 3), ["gpt", "probation"]),
        (CircuitClosed("gpt", "openai", "probes", 3.21, 4), ["gpt", "back", "3.2 s"]),
        (CircuitIsolated("gpt", "openai", "bad deploy", 4), ["gpt", "bad deploy"]),
        (TargetOverdue("gpt", "openai", 7, 1.0, 0.12), ["gpt", "7 calls hang", "0.12 s"]),
        (TargetOnTime("gpt", "openai", 1.0), ["gpt"]),
    ],
)
def test_an_event_is_told_with_who_and_why(event, said: list[str]) -> None:
    sentence = Narrator().tell(event)
    assert sentence is not None
    assert [part for part in said if part not in sentence] == []


@pytest.mark.parametrize(
    "event",
    [
        AttemptSucceeded("chat", "gpt", "openai", 0.1, 1, stream=False),
        PermitRefused("gpt", "openai", "open", 1.0),
    ],
)
def test_events_of_single_calls_are_not_told(event) -> None:
    assert Narrator().tell(event) is None


def test_a_failed_probe_reads_differently_from_a_first_trip() -> None:
    narrator = Narrator()
    first = narrator.tell(opened())
    narrator.tell(CircuitHalfOpened("gpt", "openai", 3))
    again = narrator.tell(opened())
    assert first is not None
    assert again is not None
    assert "again" in again
    assert "again" not in first
    assert narrator.tell(opened()) == first


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 0, "-"), (0, 5, "0 %"), (5, 5, "100 %"), (99_999, 100_000, "99.9 %"), (1, 100_000, "0.1 %"), (1, 8, "12.5 %")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (0.0, "0 ms"), (0.0994, "99 ms"), (0.21, "0.21 s"), (12.34, "12.3 s")]
)
def test_seconds_are_short(value: float | None, said: str) -> None:
    assert seconds(value) == said


def test_the_summary_stops_where_the_run_was_stopped() -> None:
    tally = Tally(["openai", "anthropic", "mistral"])
    tally.ended(Asked(0.1, 0.2, End.ANSWERED, "openai"))
    table = rows(Story(40), tally)
    assert len(table) == 1
    assert all(len(row) == len(HEADINGS) for row in table)
    assert "nothing" in meaning(Tally(["openai"])).lower()


def test_a_lost_request_is_what_the_summary_speaks_about() -> None:
    tally = Tally(["openai", "anthropic"])
    tally.ended(Asked(0.1, 0.2, End.ANSWERED, "openai"))
    tally.ended(Asked(0.1, 0.2, End.FAILED, None, error="RouteExhaustedError"))
    assert "1 of 2 requests failed although a provider was up" in meaning(tally)
    assert "RouteExhaustedError" in meaning(tally)
    assert "failed while a provider was up 1" in totals(tally)


def test_an_interrupted_stream_is_told_and_not_hidden_in_the_answers() -> None:
    tally = Tally(["openai", "anthropic"])
    tally.ended(Asked(0.1, 0.2, End.INTERRUPTED, "openai"))
    assert "answered 0, interrupted 1, failed 0" in totals(tally)
    assert "1 stream broke" in meaning(tally)


def test_columns_stand_under_each_other() -> None:
    lines = aligned([("a", "bb"), ("longer", "c")])
    assert [line.index(word) for line, word in zip(lines, ("bb", "c"), strict=True)] == [8, 8]
