"""When every target waited for an account, the route's error had no retry_after, and HTTP answers no Retry-After.

Each member of the error said 60 s, and a client that honours the header asked again at once.
"""

from __future__ import annotations

import pytest

import resilience
from resilience.outcome import Kind
from resilience.testing import Fail, ManualClock, ScriptedUpstream

ASKED = [{"role": "user", "content": "hi"}]


def fallback(clock: ManualClock, **script: Fail) -> resilience.MultiProviderFallback:
    targets = [{"model": "openai/a", "name": "a"}, {"model": "anthropic/b", "name": "b"}]
    settings = {"warm": False, "routes": {"chat": {"targets": targets}}}
    return resilience.MultiProviderFallback(
        settings, clock=clock, upstream=ScriptedUpstream(script, clock=clock), sinks=()
    )


def exhausted(fb: resilience.MultiProviderFallback) -> resilience.RouteExhaustedError:
    with pytest.raises(resilience.RouteExhaustedError) as caught:
        fb.completion("chat", ASKED)
    return caught.value


def test_an_exhausted_route_says_when_the_soonest_account_is_asked_again() -> None:
    clock = ManualClock()
    quota = Fail(Kind.QUOTA_EXHAUSTED, retry_after_seconds=280)
    fb = fallback(clock, a=quota, b=Fail(Kind.QUOTA_EXHAUSTED))
    assert exhausted(fb).retry_after == pytest.approx(60)  # those that opened just now, by this request
    clock.advance(20)
    error = exhausted(fb)  # and those that were open before
    assert error.retry_after == pytest.approx(40)
    assert [cause.retry_after for cause in error.exceptions] == [pytest.approx(260), pytest.approx(40)]  # type: ignore[union-attr]
    assert error.status_code == 429


def test_an_account_that_comes_back_before_a_long_rate_limit_is_the_soonest() -> None:
    fb = fallback(ManualClock(), a=Fail(Kind.RATE_LIMITED, retry_after_seconds=120), b=Fail(Kind.AUTH))
    assert exhausted(fb).retry_after == pytest.approx(60)


def test_what_waits_for_a_person_has_no_time() -> None:
    fb = fallback(ManualClock(), a=Fail(Kind.AUTH), b=Fail(Kind.AUTH))
    for provider in fb.registry.providers.values():
        provider.isolate("bad deploy")
    assert exhausted(fb).retry_after is None
