"""The custom provider: `resilience/<route>` through LiteLLM's own functions, on real HTTP."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from asks import MESSAGES, becomes_true
from door2 import CLAUDE, GPT, MODES, Ear, ask, background, is_idle, retire, settings

import resilience
from resilience.testing import Fault

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
FORMAT = {"type": "json_object"}
PLAIN, SLUG = "gpt-4o-mini", "claude-haiku-4-5"


@pytest.fixture
def runtime(provider, upstream):
    yield resilience.install(settings(provider))
    resilience.uninstall()


def causes(error):
    """An error and everything behind it."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize("mode", MODES)
async def test_a_route_answers_like_a_model(runtime, provider, mode):
    text, answer, _ = await ask(mode)
    assert text == provider.answer
    assert provider.count() == 1
    assert [record.target for record in resilience.attempts(answer)] == [GPT]


@pytest.mark.parametrize("mode", MODES)
async def test_the_next_target_answers_where_the_first_is_down(runtime, provider, mode):
    provider.set(Fault.http(500), model=PLAIN)
    text, answer, _ = await ask(mode)
    assert text == provider.answer
    assert (provider.count(PLAIN), provider.count(SLUG)) == (1, 1)
    kinds = [(record.target, str(record.kind)) for record in resilience.attempts(answer)]
    assert kinds == [(GPT, "server_error"), ("claude", "success")]


@pytest.mark.parametrize("mode", MODES)
async def test_a_model_string_is_a_route_of_one(runtime, provider, mode):
    text, _, _ = await ask(mode, f"resilience/{GPT}")  # the target's own name
    assert (text, provider.count(PLAIN)) == (provider.answer, 1)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_usage_and_cost_are_the_providers(runtime, provider, mode):
    _, answer, _ = await ask(mode)
    bare = await litellm.acompletion(messages=MESSAGES, **_bare(provider))
    assert answer.usage.total_tokens == bare.usage.total_tokens > 0
    assert answer._hidden_params["response_cost"] == bare._hidden_params["response_cost"] > 0
    assert resilience.attempts(answer)[-1].cost_usd == answer._hidden_params["response_cost"]


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_streams_tell_the_providers_usage(runtime, provider, mode):
    _, _, chunks = await ask(mode, stream_options={"include_usage": True})
    bare = await litellm.acompletion(messages=MESSAGES, **_bare(provider))
    told = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert [usage.total_tokens for usage in told] == [bare.usage.total_tokens]
    finished = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert [reason for reason in finished if reason] == ["stop"]


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_usage_that_nobody_asked_for_is_not_in_the_chunks(runtime, provider, mode):
    _, _, chunks = await ask(mode)
    assert not [chunk for chunk in chunks if getattr(chunk, "usage", None)]


@pytest.mark.parametrize("mode", MODES)
async def test_users_callbacks_hear_of_a_call_once(runtime, provider, mode, monkeypatch):
    ear = Ear()
    monkeypatch.setattr(litellm, "callbacks", [*litellm.callbacks, ear])
    provider.set(Fault.http(500), model=PLAIN)
    try:
        await ask(mode)
        assert await becomes_true(lambda: bool(ear.heard))
        await background()
        assert [(what, model) for what, model, _, _ in ear.heard] == [("success", "chat")]
        assert ear.heard[0][2] > 0
        assert ear.heard[0][3] > 0
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


@pytest.mark.parametrize("mode", MODES)
async def test_tool_calls_survive(runtime, provider, mode):
    provider.set(Fault.answer("", stop="tool_calls", fields={"tool_calls": [CALL], "content": None}))
    # Without its extra `mcp`, LiteLLM fails on any tools before it asks a provider.
    _, answer, chunks = await ask(mode, tools=TOOLS, _skip_mcp_handler=True)
    assert provider.bodies[0]["tools"] == TOOLS
    if chunks:
        answer = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    message, finish = answer.choices[0].message, answer.choices[0].finish_reason
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [("f", '{"a": 1}')]
    assert finish == "tool_calls"


@pytest.mark.parametrize("mode", MODES)
async def test_the_callers_parameters_reach_the_provider(runtime, provider, mode):
    asked = {
        "user": "u1",
        "temperature": 0.3,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": FORMAT,
        "max_tokens": 7,
        "stop": ["x"],
        "top_k": 4,
    }
    await ask(mode, **asked, metadata={"mine": 1}, extra_headers={"x-mine": "1"})
    body = provider.bodies[0]
    assert {name: body.get(name) for name in asked} == asked
    assert set(body) <= {*asked, "model", "messages", "stream", "stream_options"}
    assert provider.requests[0].headers["x-mine"] == "1"


@pytest.mark.parametrize("mode", MODES)
async def test_a_limit_of_tokens_keeps_the_name_that_the_caller_gave_it(runtime, provider, mode):
    for name in ("max_tokens", "max_completion_tokens"):
        await ask(mode, **{name: 7})
        body = provider.bodies[-1]
        assert {key: value for key, value in body.items() if key.startswith("max")} == {name: 7}


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_callers_metadata_reaches_the_callbacks(runtime, provider, mode, monkeypatch):
    seen = []

    class Reader(Ear):
        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            seen.append(kwargs["litellm_params"]["metadata"])

    monkeypatch.setattr(litellm, "callbacks", [*litellm.callbacks, Reader()])
    try:
        await ask(mode, metadata={"mine": 1})
        assert await becomes_true(lambda: bool(seen))
        assert seen[0]["mine"] == 1
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


# What the last target of the route has, and LiteLLM's class for it.
FAULTS = [
    (Fault.rate_limited(7), litellm.RateLimitError),
    (Fault.http(500), litellm.InternalServerError),
    (Fault.http(503), litellm.ServiceUnavailableError),
    (Fault.unauthorized(), litellm.AuthenticationError),
    (Fault.http(400), litellm.BadRequestError),
    (Fault.reset(), litellm.InternalServerError),
    (Fault.empty(), litellm.BadGatewayError),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fault", "expected"), FAULTS, ids=[fault.name for fault, _ in FAULTS])
async def test_errors_keep_litellms_class(provider, upstream, mode, fault, expected):
    provider.set(fault)
    try:
        resilience.install(settings(provider, max_attempts=1))
        with pytest.raises(expected) as caught:
            await ask(mode)
    finally:
        resilience.uninstall()
    assert provider.count() == 1
    if expected is not litellm.BadRequestError:
        assert any(isinstance(error, resilience.RouteExhaustedError) for error in causes(caught.value))
        assert [record.target for record in resilience.attempts(caught.value)] == [GPT]
    if expected is litellm.RateLimitError:
        assert caught.value.litellm_response_headers["retry-after"] == "7"


@pytest.mark.parametrize("mode", MODES)
async def test_the_last_cause_gives_the_class(runtime, provider, mode):
    provider.set(Fault.http(500), model=PLAIN)
    provider.set(Fault.rate_limited(7), model=SLUG)
    with pytest.raises(litellm.RateLimitError) as caught:
        await ask(mode)
    exhausted = next(error for error in causes(caught.value) if isinstance(error, resilience.RouteExhaustedError))
    assert [type(cause).__name__ for cause in exhausted.exceptions] == ["InternalServerError", "RateLimitError"]
    assert caught.value.litellm_response_headers["retry-after"] == "7"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "expected"), [(Fault.rate_limited(30), litellm.RateLimitError), (None, litellm.ServiceUnavailableError)]
)
async def test_a_route_that_is_all_open_says_when_to_come_back(runtime, provider, mode, fault, expected):
    if fault is None:
        for name in runtime.registry.targets:
            runtime.registry.targets[name].isolate("test")
    else:
        provider.set(fault)
        with pytest.raises(litellm.RateLimitError):
            await ask(mode)
    sent = provider.count()
    with pytest.raises(expected) as caught:
        await ask(mode)
    assert provider.count() == sent
    if fault is not None:
        assert 29 <= int(caught.value.response.headers["retry-after"]) <= 30
        assert 29 <= int(caught.value.litellm_response_headers["retry-after"]) <= 30


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_route_is_a_bad_request_that_lists_the_routes(runtime, provider, mode):
    with pytest.raises(litellm.BadRequestError, match=r"nope.*routes: chat"):
        await ask(mode, "resilience/nope")
    assert provider.count() == 0


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_a_break_after_content_is_litellms_own_error_with_the_text(runtime, provider, mode):
    provider.set(Fault.cut(2), model=PLAIN)
    with pytest.raises(litellm.exceptions.MidStreamFallbackError) as caught:
        await ask(mode)
    assert caught.value.generated_content == "Hello from"
    assert not caught.value.is_pre_first_chunk
    assert any(isinstance(error, resilience.StreamInterruptedError) for error in causes(caught.value))
    assert (provider.count(PLAIN), provider.count(SLUG)) == (1, 0)


async def test_before_the_first_chunk_an_async_streams_error_says_so(runtime, provider):
    provider.set(Fault.rate_limited(7))
    with pytest.raises(litellm.RateLimitError) as caught:
        await ask("astream")
    # A Router moves on to another deployment by these.
    assert isinstance(caught.value, litellm.exceptions.MidStreamFallbackError)
    assert caught.value.is_pre_first_chunk


@pytest.mark.parametrize("mode", ["async", "astream"])
async def test_a_cancelled_call_hangs_up_and_holds_nothing(runtime, provider, mode):
    provider.set(Fault.hang())
    task = asyncio.create_task(ask(mode))
    assert await becomes_true(lambda: provider.count() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    assert await is_idle(runtime)
    assert await becomes_true(lambda: provider.hangups == 1)
    assert runtime.snapshot().targets[GPT].failures == 0


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_an_abandoned_stream_hangs_up_and_holds_nothing(runtime, provider, mode):
    provider.set(Fault.drip(0.02))
    if mode == "stream":
        stream = litellm.completion(model="resilience/chat", messages=MESSAGES, stream=True)
        next(stream)
    else:
        stream = await litellm.acompletion(model="resilience/chat", messages=MESSAGES, stream=True)
        await anext(stream)
    assert runtime.snapshot().targets[GPT].calls == 0
    del stream
    assert await is_idle(runtime)
    assert await becomes_true(lambda: provider.hangups == 1)
    assert runtime.snapshot().targets[GPT].failures == 0


@pytest.mark.parametrize("mode", ["async", "astream"])
async def test_the_callers_timeout_is_the_deadline_and_litellms_default_is_not(provider, upstream, mode):
    provider.set(Fault.hang())
    limits = {"deadline_seconds": 0.2, "first_token_seconds": 0.2, "attempt_seconds": 0.2}
    try:
        for given, configured in (({"timeout": 0.1}, {}), ({}, limits)):
            provider.forget()
            resilience.install(settings(provider, timeouts=configured))
            with pytest.raises(litellm.Timeout):
                await ask(mode, **given)
            assert provider.count(SLUG) <= 1
    finally:
        resilience.uninstall()


@pytest.mark.parametrize("mode", ["sync", "async", "astream"])
@pytest.mark.parametrize(("limit", "expected"), [(None, None), (33, 33)], ids=["its default", "its user's"])
async def test_what_a_router_fills_in_is_no_deadline(runtime, provider, monkeypatch, mode, limit, expected):
    seen = []
    name = "completion" if mode == "sync" else "acompletion"
    original = getattr(runtime, name)

    def noted(*args, **params):
        seen.append(params.get("timeout"))
        return original(*args, **params)

    monkeypatch.setattr(runtime, name, noted)
    groups = [{"model_name": "any", "litellm_params": {"model": "resilience/chat"}}]
    router = litellm.Router(model_list=groups, timeout=limit)
    try:
        if mode == "sync":
            router.completion("any", MESSAGES)
        elif mode == "async":
            await router.acompletion("any", MESSAGES)
        else:
            assert [chunk async for chunk in await router.acompletion("any", MESSAGES, stream=True)]
    finally:
        retire(router)
    assert seen == [expected]


async def test_no_breaker_is_kept_for_the_outer_call(runtime, provider):
    await ask("async")
    await ask("sync")
    assert set(runtime.snapshot().targets) == {GPT, "claude"}
    assert runtime.snapshot().targets[GPT].calls == 2


def _bare(provider):
    found = settings(provider)["routes"]["chat"]["targets"][0]
    assert CLAUDE not in found["model"]
    return found
