"""Recordings keep what sinks were told, and answer what tests ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from resilience.events import AttemptFailed, AttemptSucceeded, CircuitOpened, FallbackTaken
from resilience.outcome import Kind
from resilience.runtime import MultiProviderFallback
from resilience.testing import Recording, ScriptedUpstream, record_events

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE = {"routes": {"chat": {"targets": ["openai/a", "groq/b"], "num_retries": 0}}}


@pytest.fixture
def fb() -> Iterator[MultiProviderFallback]:
    with MultiProviderFallback(ROUTE, upstream=ScriptedUpstream({"openai/a": Kind.SERVER_ERROR})) as runtime:
        yield runtime


@pytest.fixture
def events(fb: MultiProviderFallback) -> Iterator[Recording]:
    with record_events(fb) as recording:
        yield recording


def test_it_is_the_whole_body_of_a_fixture(fb: MultiProviderFallback, events: Recording) -> None:
    fb.completion("chat", [])
    assert events.names == ["AttemptFailed", "FallbackTaken", "AttemptSucceeded"]
    assert (len(events), events[0], list(events)[-1]) == (3, events.all[0], events.all[-1])
    assert events.of(AttemptFailed, kind=Kind.SERVER_ERROR, provider="openai") == [events[0]]
    assert events.count(AttemptFailed, provider="groq") == 0
    assert events.one(AttemptSucceeded).target == "groq/b"
    events.forget()
    assert events.names == []


def test_it_takes_a_registry_and_ends_with_its_block(fb: MultiProviderFallback) -> None:
    with record_events(fb.registry) as events:
        fb.completion("chat", [])
    fb.completion("chat", [])
    assert events.count(FallbackTaken) == 1


def test_not_one_says_what_was_heard(fb: MultiProviderFallback, events: Recording) -> None:
    with pytest.raises(AssertionError, match=r"0 events of CircuitOpened, provider='openai', not 1; heard: nothing"):
        events.one(CircuitOpened, provider="openai")
    fb.completion("chat", [])
    with pytest.raises(AssertionError, match="heard: AttemptFailed, FallbackTaken, AttemptSucceeded"):
        events.one(CircuitOpened)


def test_an_unknown_field_is_a_mistake_and_not_an_empty_list(events: Recording) -> None:
    with pytest.raises(TypeError, match="CircuitOpened has no field porvider; it has: breaker, provider"):
        events.of(CircuitOpened, porvider="openai")
