"""A response that says `status: failed` came with HTTP 200, counted as a success and was handed to the caller.

The same in a stream is an event `response.failed`, and was judged by its code all along.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import litellm
import pytest

import resilience
from resilience.outcome import OUTAGE_KINDS, VERDICTS, Kind, Onward
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="LiteLLM's responses calls import mcp")

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
CODES = [
    ("server_error", Kind.SERVER_ERROR),
    ("nobody knows", Kind.SERVER_ERROR),
    (None, Kind.SERVER_ERROR),
    ("rate_limit_exceeded", Kind.RATE_LIMITED),
    ("insufficient_quota", Kind.QUOTA_EXHAUSTED),
    ("server_is_overloaded", Kind.OVERLOADED),
    ("vector_store_timeout", Kind.TIMEOUT),
    ("invalid_prompt", Kind.BAD_REQUEST),
    ("invalid_image_url", Kind.BAD_REQUEST),
    ("image_content_policy_violation", Kind.CONTENT_POLICY),
    ("context_length_exceeded", Kind.CONTEXT_WINDOW),
    ("model_not_found", Kind.MODEL_UNAVAILABLE),
    ("invalid_api_key", Kind.AUTH),
]


def response(status: str, **more: Any) -> Fault:
    usual = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "output": [], "model": "gpt-4o"}
    head = {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None}
    return Fault.http(200, body={**head, **usual, **more})


def failed(code: str | None) -> Fault:
    return response("failed", error=None if code is None else {"code": code, "message": "it did not work"})


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def fb(provider: LoopbackProvider, told: list[Any]) -> resilience.MultiProviderFallback:
    targets = [
        {"model": model, "name": name, "api_base": provider.openai_base, "api_key": "sk-1"}
        for model, name in (("openai/gpt-4o", "a"), ("openai/gpt-4o-mini", "b"))
    ]
    settings = {"routes": {"chat": {"targets": targets, "num_retries": 0}}, "warm": False}
    return resilience.MultiProviderFallback(settings, sinks=(told.append,))


async def ask(fb: resilience.MultiProviderFallback, mode: str, model: str = "chat", **more: Any) -> Any:
    if mode == "sync":
        return fb.responses(model=model, input="hi", **more)
    return await fb.aresponses(model=model, input="hi", **more)


def kinds(told: list[Any]) -> list[Kind]:
    return [event.kind for event in told if type(event).__name__ in {"AttemptFailed", "AttemptIgnored"}]


@MODES
@pytest.mark.parametrize(("code", "kind"), CODES)
async def test_a_failed_response_is_of_the_kind_that_its_code_says(
    provider: LoopbackProvider, fb: resilience.MultiProviderFallback, told: list[Any], mode: str, code: str, kind: Kind
) -> None:
    provider.set(failed(code), model="gpt-4o")
    if VERDICTS[kind].next_target is Onward.YES:
        answer = await ask(fb, mode)
        assert [attempt.target for attempt in resilience.attempts(answer)] == ["a", "b"]
    else:
        with pytest.raises(litellm.BadRequestError, match="it did not work"):
            await ask(fb, mode)
    assert kinds(told) == [kind]
    (owner,) = fb.snapshot().providers.values()
    assert owner.failures == (1 if kind in OUTAGE_KINDS else 0)


@MODES
@pytest.mark.parametrize(("code", "kind"), [pair for pair in CODES if pair[0]])
async def test_a_stream_that_ends_so_is_of_the_same_kind(
    provider: LoopbackProvider, fb: resilience.MultiProviderFallback, told: list[Any], mode: str, code: str, kind: Kind
) -> None:
    provider.set(Fault.error_event(0, form="failed", code=code), model="gpt-4o")
    try:
        stream = await ask(fb, mode, stream=True)
    except Exception:
        assert VERDICTS[kind].next_target is not Onward.YES
    else:
        await stream.aclose() if mode == "async" else stream.close()
    assert kinds(told)[0] is kind


@MODES
async def test_without_a_route_the_caller_gets_litellms_own_error(
    provider: LoopbackProvider, fb: resilience.MultiProviderFallback, mode: str
) -> None:
    provider.set(failed("rate_limit_exceeded"))
    with pytest.raises(litellm.RateLimitError, match="it did not work"):
        await ask(fb, mode, model="a")


@MODES
async def test_an_incomplete_response_is_an_answer(
    provider: LoopbackProvider, fb: resilience.MultiProviderFallback, told: list[Any], mode: str
) -> None:
    provider.set(response("incomplete", incomplete_details={"reason": "max_output_tokens"}))
    assert (await ask(fb, mode)).status == "incomplete"
    assert kinds(told) == []


async def test_the_callback_counts_a_failed_response_of_a_bare_call(
    provider: LoopbackProvider, fb: resilience.MultiProviderFallback, told: list[Any]
) -> None:
    provider.set(failed("server_error"))
    resilience.install(fb)
    try:
        answer = await litellm.aresponses(
            model="openai/gpt-4o", input="hi", api_base=provider.openai_base, api_key="sk-1", num_retries=0
        )
    finally:
        resilience.uninstall()
    assert answer.status == "failed"  # LiteLLM's own; nobody asked for another target
    assert [one.failures for one in fb.snapshot().targets.values() if one.calls] == [1]
