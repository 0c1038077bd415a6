"""Whole answers through real LiteLLM: one attempt is one request, and what an answer is worth."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import litellm
import pytest
from asks import ASKS, MESSAGES, TIMEOUTS, becomes_true, needs_mcp

from resilience.outcome import Kind
from resilience.testing import Fault
from resilience.upstream import AttemptRecord, CallTimeouts, Operation

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WAYS = [
    pytest.param("openai", Operation.COMPLETION, id="openai"),
    pytest.param("anthropic", Operation.COMPLETION, id="anthropic"),
    pytest.param("embedding", Operation.EMBEDDING, id="embedding"),
    pytest.param("openai", Operation.RESPONSES, id="responses", marks=needs_mcp),
]


async def _ask(upstream, mode, target, operation, params=None, timeouts=TIMEOUTS):
    params = ASKS[operation] if params is None else params
    if mode == "sync":
        return upstream.call(target, operation, params, timeouts)
    return await upstream.acall(target, operation, params, timeouts)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("dialect", "operation"), WAYS)
async def test_a_good_answer_is_litellms_own_and_one_request(provider, upstream, target, mode, dialect, operation):
    answer = await _ask(upstream, mode, target(dialect), operation)
    assert provider.count() == 1
    assert upstream.judge(answer, operation, ASKS[operation]) is Kind.SUCCESS
    expected = {Operation.COMPLETION: "ModelResponse", Operation.EMBEDDING: "EmbeddingResponse"}
    assert type(answer).__name__ == expected.get(operation, "ResponsesAPIResponse")
    assert upstream.text_of(answer) == ("" if operation is Operation.EMBEDDING else provider.answer)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("dialect", "operation"), WAYS)
async def test_nothing_of_ours_is_in_the_request(provider, upstream, target, mode, dialect, operation):
    await _ask(upstream, mode, target(dialect), operation)
    known = {"model", "messages", "input", "max_tokens", "include", "encoding_format"}
    assert set(provider.bodies[0]) <= known


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("dialect", "operation"), WAYS)
@pytest.mark.parametrize("everywhere", [None, 2])
async def test_retries_set_elsewhere_make_no_second_request(
    provider, upstream, target, monkeypatch, mode, dialect, operation, everywhere
):
    monkeypatch.setattr(litellm, "num_retries", everywhere)
    provider.set(Fault.http(500))
    asked = {**ASKS[operation], "num_retries": 3, "max_retries": 3}
    with pytest.raises(litellm.InternalServerError):
        await _ask(upstream, mode, target(dialect, max_retries=4), operation, asked)
    assert provider.count() == 1
    assert "retry_policy" not in provider.bodies[0]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_callers_parameters_win_over_the_targets(provider, upstream, target, mode):
    asked = {"messages": MESSAGES, "temperature": 0.5, "model": "chat", "timeout": 99}
    await _ask(upstream, mode, target(temperature=0.1, top_p=0.3), Operation.COMPLETION, asked)
    body = provider.bodies[0]
    assert (body["temperature"], body["top_p"], body["model"]) == (0.5, 0.3, "gpt-4o-mini")


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_tools_work_without_litellms_mcp_extra(provider, upstream, target, mode, dialect):
    asked = {"messages": MESSAGES, "tools": TOOLS}
    answer = await _ask(upstream, mode, target(dialect), Operation.COMPLETION, asked)
    assert upstream.text_of(answer) == provider.answer
    assert provider.count() == 1


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_an_answer_without_anything_is_empty(provider, upstream, target, mode, dialect):
    provider.set(Fault.empty())
    answer = await _ask(upstream, mode, target(dialect), Operation.COMPLETION)
    assert upstream.judge(answer, Operation.COMPLETION, ASKS[Operation.COMPLETION]) is Kind.EMPTY


async def test_after_a_tool_an_empty_answer_is_a_success(provider, upstream, target):
    provider.set(Fault.empty())
    asked = {
        "messages": [
            *MESSAGES,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
        ]
    }
    answer = await upstream.acall(target(), Operation.COMPLETION, asked, TIMEOUTS)
    assert upstream.judge(answer, Operation.COMPLETION, asked) is Kind.SUCCESS


@pytest.mark.parametrize(
    "fault",
    [
        Fault.answer("", fields={"tool_calls": [CALL], "content": None}),
        Fault.answer("", fields={"refusal": "no", "content": None}),
        Fault.answer("", fields={"reasoning_content": "hm"}),
        Fault.answer("", stop="length"),
        Fault.answer("", stop="content_filter"),
        Fault.answer(" "),
    ],
    ids=["tool-call", "refusal", "reasoning", "length", "content-filter", "blank"],
)
async def test_whatever_carries_something_is_not_empty(provider, upstream, target, fault):
    provider.set(fault)
    answer = await upstream.acall(target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    assert upstream.judge(answer, Operation.COMPLETION, ASKS[Operation.COMPLETION]) is Kind.SUCCESS


async def test_no_choices_at_all_is_empty(upstream):
    answer = litellm.ModelResponse(choices=[])
    assert upstream.judge(answer, Operation.COMPLETION, {}) is Kind.EMPTY
    assert upstream.text_of(answer) == ""


@needs_mcp
async def test_an_empty_response_is_empty(provider, upstream, target):
    provider.set(Fault.empty())
    answer = await upstream.acall(target(), Operation.RESPONSES, {"input": "hi"}, TIMEOUTS)
    assert upstream.judge(answer, Operation.RESPONSES, {"input": "hi"}) is Kind.EMPTY


async def test_an_answer_costs_what_litellms_price_map_says(provider, upstream, target):
    answer = await upstream.acall(target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    assert upstream.cost_usd(answer) == pytest.approx(litellm.completion_cost(answer))
    assert upstream.cost_usd(answer) > 0
    assert upstream.cost_usd(litellm.ModelResponse(model="nobody-knows-it")) is None
    assert upstream.cost_usd(object()) is None


async def test_a_window_is_known_or_none(upstream, target):
    assert upstream.context_window(target()) == 128_000
    assert upstream.context_window(target("anthropic")) == 200_000
    assert upstream.context_window(replace(target(), model="openai/nobody-knows-it")) is None


@pytest.mark.parametrize(("dialect", "operation"), WAYS)
async def test_attempts_are_written_into_the_answer(provider, upstream, target, dialect, operation):
    answer = await upstream.acall(target(dialect), operation, ASKS[operation], TIMEOUTS)
    record = AttemptRecord("t", "p", Kind.SUCCESS, 0.1)
    upstream.attach(answer, (record,))
    (written,) = answer._hidden_params["resilience"]
    assert written == replace(record, cost_usd=upstream.cost_usd(answer))
    assert "resilience" not in str(answer.model_dump())


async def test_attempts_of_an_answer_that_takes_none_are_dropped(upstream):
    for answer in ({}, "text", None, 7):
        upstream.attach(answer, ())


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_cancelled_call_is_cancelled_and_hangs_up(provider, upstream, target, dialect):
    provider.set(Fault.hang())
    ask = ASKS[Operation.COMPLETION]
    calling = asyncio.ensure_future(upstream.acall(target(dialect), Operation.COMPLETION, ask, TIMEOUTS))
    assert await becomes_true(lambda: provider.count() == 1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await calling
    assert upstream.classify(caught.value).kind is Kind.CANCELLED
    assert await becomes_true(lambda: provider.hangups == 1)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_no_key_and_no_prompt_is_in_an_outcome(provider, upstream, target, dialect):
    provider.set(Fault.unauthorized())
    with pytest.raises(litellm.AuthenticationError) as caught:
        await upstream.acall(target(dialect), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    outcome = upstream.classify(caught.value)
    assert "planted" not in repr((outcome.kind, outcome.status, outcome.retry_after_seconds))
    assert "planted" not in repr(target(dialect))


async def test_limits_that_differ_share_one_connection(provider, upstream, target):
    ask = ASKS[Operation.COMPLETION]
    made = target(api_key="sk-another-client")
    for attempt in range(5):
        await upstream.acall(made, Operation.COMPLETION, ask, CallTimeouts(3.0 + attempt / 997, 3.0, 3.0))
    assert (provider.count(), provider.connections) == (5, 1)
    for attempt in range(5):
        upstream.call(made, Operation.COMPLETION, ask, CallTimeouts(3.0 + attempt / 997, 3.0, 3.0))
    assert (provider.count(), provider.connections) == (10, 2)
