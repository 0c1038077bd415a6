"""The promise, in whole worlds: as long as one provider works, every request is answered, whatever befalls others."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.simulator import Scenario, simulate
from resilience.simulator.scenario import Fails

SECONDS = 90.0
TARGETS = ["openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
# What breaks a stream after its first content is the caller's to see, unless it is held back.
KINDS = sorted(get_args(Fails))


@st.composite
def outages(draw: st.DrawFn) -> dict[str, Any]:
    fails = draw(st.sampled_from(KINDS))
    found: dict[str, Any] = {
        "fails": fails,
        "at_seconds": draw(st.floats(0, 80)),
        "lasts_seconds": draw(st.floats(0.1, 60)),
        "share": draw(st.sampled_from([0.05, 0.25, 0.5, 0.9, 1.0])),
        "targets": draw(st.sampled_from([None, TARGETS[:1], TARGETS[1:2]])),
        "flaps_seconds": draw(st.sampled_from([None, None, 0.5, 4.0])),
    }
    if fails == "slow":
        found |= {"slowdown": draw(st.floats(1, 100)), "hang_share": draw(st.floats(0, 1))}
    if fails in {"rate_limited", "overloaded", "server_error", "quota_exhausted"}:
        found["retry_after_seconds"] = draw(st.sampled_from([None, 0.0, 3.0, 600.0]))
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(outages(), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from(["wait", "fail", "panic"]),
)
def test_as_long_as_one_provider_works_every_request_is_answered(
    broken: list[dict[str, Any]], seed: int, streams: float, on_exhausted: str
) -> None:
    route = {
        "targets": TARGETS,
        "timeouts": {"attempt_seconds": 5, "first_token_seconds": 5, "stall_seconds": 5, "deadline_seconds": 120},
        "on_exhausted": on_exhausted,
        "stream": {"buffer": "full"},
    }
    scenario = Scenario.load(
        {
            "seed": seed,
            "lasts_seconds": SECONDS,
            "settings": {"routes": {"chat": route}},
            "traffic": {"per_second": 8.0, "stream_share": streams},
            "providers": {"openai": {"outages": broken}},
        }
    )
    found = simulate(scenario).findings[0]
    assert found.errors == {}
    assert found.answered == found.requests
