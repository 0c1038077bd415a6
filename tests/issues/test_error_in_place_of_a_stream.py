"""What came in place of a stream, a page or an error object in a status of 200, was taken for a stream that broke off.

LiteLLM finds no event in it and ends without a word. So a quota that was used up, or a rate limit, opened nothing and
counted against the provider, and a page of some proxy was not the malformed answer that it is without `stream`.
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import litellm
import openai
import pytest

import resilience
from resilience.middleware.classify import classify
from resilience.middleware.inside import failure_in_place
from resilience.middleware.wire import Watched
from resilience.outcome import OUTAGE_KINDS, Kind
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDS_MCP = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="LiteLLM's responses calls import mcp")
MODES = pytest.mark.parametrize("mode", ["sync", "async"])
DIALECTS = pytest.mark.parametrize("dialect", ["openai", "anthropic", pytest.param("responses", marks=NEEDS_MCP)])
ASKED = [{"role": "user", "content": "hi"}]
EVENTS = "text/event-stream"


def error(kind: str, message: str = "no", **more: Any) -> Fault:
    """An error as OpenAI and Anthropic write it in the body of an HTTP error, in a status of 200."""
    return Fault.http(200, body={"type": "error", "error": {"type": kind, "message": message, **more}})


FAULTS: list[tuple[Fault, Kind]] = [
    (Fault.html(), Kind.MALFORMED),
    (replace(Fault.html(), content_type=EVENTS), Kind.MALFORMED),
    (Fault.bad_json(), Kind.MALFORMED),
    (Fault.http(200, body="[]"), Kind.MALFORMED),
    (Fault.http(200, body='{"id": "x", "object": "chat.completion", "choices": []}'), Kind.MALFORMED),
    (Fault.error_object(), Kind.SERVER_ERROR),
    (Fault.error_object("nobody knows"), Kind.SERVER_ERROR),
    (Fault.error_object("overloaded_error"), Kind.OVERLOADED),
    (Fault.error_object("rate_limit_exceeded"), Kind.RATE_LIMITED),
    (Fault.error_object("insufficient_quota"), Kind.QUOTA_EXHAUSTED),
    (replace(Fault.error_object("insufficient_quota"), content_type=EVENTS), Kind.QUOTA_EXHAUSTED),
    (error("authentication_error"), Kind.AUTH),
    (error("invalid_request_error", code="invalid_api_key"), Kind.AUTH),
    (error("not_found_error", "model: gone"), Kind.MODEL_UNAVAILABLE),
    (error("invalid_request_error", "Your credit balance is too low"), Kind.QUOTA_EXHAUSTED),
    (error("invalid_request_error", code="context_length_exceeded"), Kind.CONTEXT_WINDOW),
    (error("invalid_request_error"), Kind.BAD_REQUEST),
    (error("timeout_error"), Kind.TIMEOUT),
    (Fault.http(200, body=[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}]), Kind.RATE_LIMITED),  # type: ignore[arg-type]
    (Fault.http(200, body={"error": "in plain words"}), Kind.SERVER_ERROR),
]


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def told() -> list[Any]:
    return []


def runtime(
    provider: LoopbackProvider, dialect: str, told: list[Any], *others: dict[str, str]
) -> resilience.MultiProviderFallback:
    model, base = ("anthropic/claude-haiku-4-5", provider.url)
    if dialect != "anthropic":
        model, base = "openai/gpt-4o", provider.openai_base
    targets = [{"model": model, "name": "a", "api_base": base, "api_key": "sk-1"}, *others]
    chat = {"targets": targets, "num_retries": 0, "max_attempts": len(targets), "on_exhausted": "fail"}
    settings = {"routes": {"chat": chat}, "warm": False}
    return resilience.MultiProviderFallback(settings, sinks=(told.append,))


async def read(fb: resilience.MultiProviderFallback, dialect: str, mode: str, model: str = "chat") -> list[Any]:
    asked: dict[str, Any] = {"input": "hi"} if dialect == "responses" else {"messages": ASKED}
    call = ("a" if mode == "async" else "") + ("responses" if dialect == "responses" else "completion")
    stream = getattr(fb, call)(model=model, stream=True, **asked)
    if mode == "async":
        return [chunk async for chunk in await stream]
    return list(stream)


def kinds(told: list[Any]) -> list[Kind]:
    return [event.kind for event in told if type(event).__name__ in {"AttemptFailed", "AttemptIgnored"}]


@MODES
@DIALECTS
@pytest.mark.parametrize(("fault", "kind"), FAULTS)
async def test_what_stands_in_place_of_a_stream_is_of_its_kind(
    provider: LoopbackProvider, told: list[Any], dialect: str, mode: str, fault: Fault, kind: Kind
) -> None:
    provider.set(fault)
    fb = runtime(provider, dialect, told)
    with pytest.raises(Exception):  # noqa: B017 (of which class depends on the kind)
        await read(fb, dialect, mode)
    assert kinds(told) == [kind]
    (owner,) = fb.snapshot().providers.values()
    assert owner.failures == (1 if kind in OUTAGE_KINDS else 0)
    assert provider.count() == 1


@MODES
@DIALECTS
async def test_a_quota_told_in_place_of_a_stream_opens_its_target_and_the_next_one_answers(
    provider: LoopbackProvider, told: list[Any], dialect: str, mode: str
) -> None:
    provider.set(Fault.error_object("insufficient_quota"), times=1)
    other = {"model": "openai/gpt-4o-mini", "name": "b", "api_base": provider.openai_base, "api_key": "sk-2"}
    fb = runtime(provider, dialect, told, other)
    assert await read(fb, dialect, mode)
    assert (kinds(told), fb.registry.rotation("chat")) == ([Kind.QUOTA_EXHAUSTED], ["b"])


@MODES
@DIALECTS
async def test_without_a_route_the_caller_gets_litellms_own_error(
    provider: LoopbackProvider, told: list[Any], dialect: str, mode: str
) -> None:
    fb = runtime(provider, dialect, told)
    raised: list[type[Exception]] = []
    for fault in (Fault.html(), error("rate_limit_error"), error("authentication_error")):
        provider.set(fault)
        with pytest.raises(openai.APIError) as caught:
            await read(fb, dialect, mode, model="a")
        raised.append(type(caught.value))
        fb.registry.targets["a"].reset()
    assert raised == [litellm.InternalServerError, litellm.RateLimitError, litellm.AuthenticationError]


# ---- what may have been a stream is left as it is

PAGE = b"<html></html>"


@pytest.mark.parametrize(
    ("raw", "headers", "kind"),
    [
        (PAGE, {"content-type": "text/html"}, Kind.MALFORMED),
        (PAGE, {}, Kind.MALFORMED),
        (gzip.compress(PAGE), {"content-type": "text/html", "content-encoding": "gzip"}, Kind.MALFORMED),
        (PAGE, {"content-type": "text/html", "content-encoding": "gzip"}, Kind.MALFORMED),  # unpacked by somebody
        (
            gzip.compress(b'{"error": {"code": "insufficient_quota"}}'),
            {"content-type": "application/json", "content-encoding": "gzip"},
            Kind.QUOTA_EXHAUSTED,
        ),
        (b'{"error": {"code": "slow_down"}}', {"content-type": "application/x-ndjson"}, Kind.OVERLOADED),
        (b'{"done": false}\n{"done": false}\n', {"content-type": "application/x-ndjson"}, None),
        (b"\x00\x00\x01", {"content-type": "application/vnd.amazon.eventstream"}, None),
        (b'data: {"error": {"code": "slow_down"}}\n\n', {"content-type": EVENTS}, None),
        (gzip.compress(b": wait\n\n"), {"content-type": EVENTS, "content-encoding": "gzip"}, None),
    ],
)
def test_only_what_is_no_stream_is_judged(raw: bytes, headers: dict[str, str], kind: Kind | None) -> None:
    found = failure_in_place(httpx.Response(200, headers=headers), raw, "gpt-4o", "openai")
    assert (None if found is None else classify(found).kind) is kind


def test_of_a_long_answer_nothing_is_kept_and_of_events_not_even_the_first() -> None:
    for sifts, data in ((True, b'data: {"a": 1}\n\n'), (False, b"{" + b" " * 70_000), (True, b"{" + b" " * 70_000)):
        watched = Watched(sifts=sifts)
        watched.see(data)
        watched.rest()
        assert watched.document == b""


def test_a_document_that_has_not_come_whole_is_not_judged() -> None:
    watched = Watched()
    watched.see(PAGE)
    assert watched.document == b""
    watched.rest()
    assert watched.document == PAGE
