"""Requests as values, and `process`: one text in, one response out, a status instead of an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

import resilience
from resilience.outcome import Kind
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Act, Say, ScriptedUpstream

PROMPT = "planted-prompt"
ROUTE = {
    "targets": [
        {"model": "openai/gpt-4o", "name": "first", "api_key": "sk-planted-1"},
        {"model": "anthropic/claude-haiku-4-5", "name": "second", "api_key": "sk-planted-2"},
    ],
    "num_retries": 0,
    "max_attempts": 2,
    "on_exhausted": "fail",
}


def world(**script: Act | list[Act]) -> tuple[resilience.MultiProviderFallback, ScriptedUpstream]:
    clock = ManualClock()
    upstream = ScriptedUpstream(script, clock=clock)
    return resilience.MultiProviderFallback({"routes": {"chat": ROUTE}}, clock=clock, upstream=upstream), upstream


# ---- the values


def test_a_request_needs_nothing_but_its_input() -> None:
    one, other = resilience.AIRequest(input="hi"), resilience.AIRequest(input="hi")
    assert (one.model, one.priority, one.metadata) == (None, 5, {})
    assert one.id != other.id
    assert one.created_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - one.created_at) < timedelta(minutes=5)


def test_created_at_is_kept_in_utc_and_never_naive() -> None:
    east = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    kept = resilience.AIRequest(input="hi", created_at=east).created_at
    assert (kept, kept.tzinfo) == (east, UTC)
    with pytest.raises(ValidationError, match="timezone"):
        resilience.AIRequest(input="hi", created_at=datetime(2026, 1, 2))  # noqa: DTZ001 (that it is naive is tested)


@pytest.mark.parametrize("priority", [1, 10])
def test_priorities_reach_from_one_to_ten(priority: int) -> None:
    assert resilience.AIRequest(input="hi", priority=priority).priority == priority


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("priority", 0),
        ("priority", 11),
        ("priority", "urgent"),
        ("input", ""),
        ("input", "  \n "),
        ("input", [PROMPT]),
        ("id", ""),
        ("model", 7),
        ("metadata", "x"),
        ("nonsense", PROMPT),
    ],
)
def test_a_wrong_field_is_named_and_the_prompt_is_not(field: str, wrong: Any) -> None:
    with pytest.raises(ValidationError) as raised:
        resilience.AIRequest(**{"input": PROMPT, field: wrong})
    assert field in str(raised.value)
    assert PROMPT not in str(raised.value)


def test_requests_and_responses_are_frozen_and_do_not_show_texts() -> None:
    request = resilience.AIRequest(input=PROMPT, metadata={"note": PROMPT})
    response = resilience.AIResponse(request_id="1", output=PROMPT, status="completed")
    assert "planted" not in repr(request) + repr(response)
    with pytest.raises(ValidationError, match="frozen"):
        request.input = "other"
    with pytest.raises(ValidationError, match="frozen"):
        response.output = "other"


def test_the_states_of_processing_are_the_promised_words() -> None:
    assert [str(one) for one in resilience.ProcessingStatus] == ["pending", "processing", "completed", "failed"]


# ---- process


async def test_a_response_says_who_served_and_what_was_tried() -> None:
    fb, upstream = world(first=Kind.SERVER_ERROR, second=Say("  the answer \n", after_seconds=0.25))
    request = resilience.AIRequest(input=PROMPT)
    for response in (await fb.process(request), fb.process_sync(request)):
        assert isinstance(response, resilience.AIResponse)
        assert (response.request_id, response.status, response.error) == (request.id, "completed", None)
        assert response.output == "the answer"
        assert (response.model_used, response.provider) == ("anthropic/claude-haiku-4-5", "anthropic")
        assert [(one.target, one.kind) for one in response.attempts] == [
            ("first", "server_error"),
            ("second", "success"),
        ]
        assert response.latency_ms == pytest.approx(250)
        assert resilience.attempts(response) == response.attempts
    assert upstream.log == ["first", "second"] * 2


async def test_an_empty_text_means_the_next_target() -> None:
    fb, upstream = world(first=Say(" \n\t "), second="hello")
    response = await fb.process(resilience.AIRequest(input="hi"))
    assert (response.output, upstream.log) == ("hello", ["first", "second"])
    assert response.attempts[0].kind is Kind.REJECTED


async def test_a_long_text_is_cut_at_fifty_thousand_characters() -> None:
    fb, _ = world(first=" " + "x" * 60_000)
    assert (await fb.process(resilience.AIRequest(input="hi"))).output == "x" * 50_000


@pytest.mark.parametrize(
    "kind",
    [kind for kind in Kind if kind not in {Kind.SUCCESS, Kind.CANCELLED}],
    ids=str,
)
async def test_no_failure_of_a_provider_is_raised(kind: Kind) -> None:
    fb, _ = world(first=kind, second=kind)
    for response in (
        await fb.process(resilience.AIRequest(input=PROMPT)),
        fb.process_sync(resilience.AIRequest(input=PROMPT)),
        await fb.process(resilience.AIRequest(input=PROMPT, model="first")),
    ):
        assert (response.status, response.model_used, response.output) == ("failed", "none", "")
        assert (response.provider, response.tokens_used, response.cost_usd) == ("none", 0, None)
        assert response.error
        assert "planted" not in response.error


async def test_when_nothing_is_eligible_the_response_says_so() -> None:
    fb, upstream = world()
    for name in ("first", "second"):
        fb.registry.targets[name].isolate("bad deploy")
    response = await fb.process(resilience.AIRequest(input="hi"))
    assert (response.status, response.attempts, upstream.log) == ("failed", (), [])
    assert response.error is not None
    assert "bad deploy" in response.error


async def test_an_exception_of_nobodys_making_is_a_status_too() -> None:
    fb, _ = world(first=KeyError("planted"), second=KeyError("planted"))
    response = await fb.process(resilience.AIRequest(input="hi"))
    assert response.status == "failed"
    assert "planted" not in (response.error or "")


async def test_what_the_caller_did_wrong_is_raised() -> None:
    fb, upstream = world()
    with pytest.raises(resilience.ConfigurationError, match="routes: chat"):
        await fb.process(resilience.AIRequest(input="hi", model="nonsense"))
    with pytest.raises(resilience.ConfigurationError, match="stream"):
        await fb.process(resilience.AIRequest(input="hi"), stream=True)
    with pytest.raises(resilience.ConfigurationError, match="AIRequest"):
        await fb.process("hi")  # type: ignore[arg-type]  # that it is wrong is tested
    fb.close()
    with pytest.raises(resilience.ConfigurationError, match="closed"):
        fb.process_sync(resilience.AIRequest(input="hi"))
    assert upstream.log == []


async def test_a_request_names_its_route_and_passes_parameters_on() -> None:
    fb, upstream = world(first="from the first", second="no")
    response = await fb.process(resilience.AIRequest(input="hi", model="second"), validate=lambda text: text == "no")
    assert (response.output, upstream.log) == ("no", ["second"])
    response = fb.process_sync(resilience.AIRequest(input="hi"), model="second")
    assert response.model_used == "anthropic/claude-haiku-4-5"


async def test_a_response_can_be_written_down_and_read_again() -> None:
    fb, _ = world(first=Kind.TIMEOUT)
    response = await fb.process(resilience.AIRequest(input="hi"))
    assert '"kind":"timeout"' in response.model_dump_json()
    assert resilience.AIResponse.model_validate_json(response.model_dump_json()).output == response.output
