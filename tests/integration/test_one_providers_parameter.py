"""A parameter that one provider's model does not take must not stop a request that others can serve.

LiteLLM refuses it before anything is sent. During an outage of the first target that error, raised for the second,
was the caller's, although a third one was fine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import litellm
import pytest

import resilience
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = [{"role": "user", "content": "Hello"}]
OURS = {"seed": 3}  # Anthropic's models take none


@pytest.fixture
def places() -> Iterator[dict[str, LoopbackProvider]]:
    with LoopbackProvider() as west, LoopbackProvider() as claude, LoopbackProvider() as east:
        yield {"west": west, "claude": claude, "east": east}


def runtime(places: dict[str, LoopbackProvider], names: str, **route: Any) -> resilience.MultiProviderFallback:
    targets = []
    for name in names.split():
        place = places[name]
        model, base = (
            ("anthropic/claude-haiku-4-5", place.url) if name == "claude" else ("openai/gpt-4o-mini", place.openai_base)
        )
        targets.append({"name": name, "model": model, "api_base": base, "api_key": "sk"})
    chat = {"targets": targets, "num_retries": 0, "on_exhausted": "fail", **route}
    return resilience.MultiProviderFallback({"warm": False, "routes": {"chat": chat}}, sinks=())


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_target_is_asked_and_nobody_is_blamed(places: dict[str, LoopbackProvider], stream: bool) -> None:
    places["west"].set(Fault.http(503))
    with runtime(places, "west claude east") as fb:
        answer = fb.completion("chat", ASKED, stream=stream, **OURS)
        if stream:
            list(answer)
        tried = [(attempt.target, attempt.kind) for attempt in resilience.attempts(answer)]
        assert tried == [("west", "server_error"), ("claude", "local"), ("east", "success")]
        assert [places[name].count() for name in ("west", "claude", "east")] == [1, 0, 1]
        assert fb.snapshot().targets["claude"].failures == 0


def test_where_everybody_refuses_it_the_caller_gets_the_refusal(places: dict[str, LoopbackProvider]) -> None:
    with runtime(places, "claude") as fb, pytest.raises(litellm.UnsupportedParamsError):
        fb.completion("chat", ASKED, **OURS)
    assert places["claude"].count() == 0


def test_who_refused_it_is_not_asked_in_another_round(places: dict[str, LoopbackProvider]) -> None:
    places["west"].set(Fault.http(503))
    given_up = pytest.raises(resilience.RouteExhaustedError)
    with runtime(places, "claude west", max_attempts=3, backoff_seconds=0) as fb, given_up as caught:
        fb.completion("chat", ASKED, **OURS)
    assert [attempt.target for attempt in caught.value.attempts] == ["claude", "west", "west"]
    assert places["west"].count() == 2
