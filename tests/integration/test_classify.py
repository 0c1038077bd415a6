"""Every row of the table, really sent, seen through real LiteLLM. One attempt is one request."""

from __future__ import annotations

import pytest
from asks import ASKS, MESSAGES, SHORT, TIMEOUTS, needs_mcp

from resilience.outcome import Kind, Outcome
from resilience.testing import Fault
from resilience.upstream import Operation

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOTH = ("openai", "anthropic")
GOOGLE = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "slow down please",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "39s"}],
    }
}
GOOGLE_DAILY = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "used up",
        "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]}],
    }
}
SPEND = {
    "type": "error",
    "error": {
        "type": "rate_limit_error",
        "message": "This organization has reached a limit.",
        "details": {"error_code": "enforced_spend_limit_reached"},
    },
}

ROWS: list[tuple[Fault, Kind]] = [
    (Fault.refuse(), Kind.CONNECTION),
    (Fault.reset(), Kind.CONNECTION),
    (Fault.cut(), Kind.CONNECTION),
    (Fault.hang(), Kind.TIMEOUT),
    (Fault.stall(), Kind.TIMEOUT),
    (Fault.http(408), Kind.TIMEOUT),
    (Fault.http(500), Kind.SERVER_ERROR),
    (Fault.http(502), Kind.SERVER_ERROR),
    (Fault.http(503), Kind.SERVER_ERROR),
    (Fault.http(504), Kind.SERVER_ERROR),
    (Fault.http(503, body="<html>upstream connect error</html>"), Kind.SERVER_ERROR),
    (Fault.http(520, body=""), Kind.SERVER_ERROR),
    (Fault.overloaded(), Kind.OVERLOADED),
    (Fault.server_is_overloaded(), Kind.OVERLOADED),
    (Fault.http(429, code="slow_down", type="slow_down", body={"error": {"code": "slow_down"}}), Kind.OVERLOADED),
    (Fault.http(503, message="The model is overloaded. Please try again later."), Kind.OVERLOADED),
    (Fault.html(), Kind.MALFORMED),
    (Fault.bad_json(), Kind.MALFORMED),
    (Fault.no_body(), Kind.MALFORMED),
    (Fault.error_object(), Kind.SERVER_ERROR),
    (Fault.rate_limited(), Kind.RATE_LIMITED),
    (Fault.rate_limited(7), Kind.RATE_LIMITED),
    (Fault.http(429, body="slow down"), Kind.RATE_LIMITED),
    (Fault.http(429, body=GOOGLE), Kind.RATE_LIMITED),
    (Fault.http(429, body=GOOGLE_DAILY), Kind.QUOTA_EXHAUSTED),
    (Fault.http(429, body=SPEND), Kind.QUOTA_EXHAUSTED),
    (Fault.insufficient_quota(), Kind.QUOTA_EXHAUSTED),
    (Fault.http(402), Kind.QUOTA_EXHAUSTED),
    (Fault.http(400, message="Your credit balance is too low to access the API."), Kind.QUOTA_EXHAUSTED),
    (Fault.unauthorized(), Kind.AUTH),
    (Fault.http(401, body=""), Kind.AUTH),
    (Fault.forbidden(), Kind.AUTH),
    (Fault.forbidden("billing_not_active"), Kind.AUTH),
    (Fault.http(403, body={"error": {"message": "not today", "code": "nope"}}), Kind.BAD_REQUEST),
    (Fault.http(403, body={"error": {"message": "input was flagged by moderation"}}), Kind.CONTENT_POLICY),
    (Fault.model_missing(), Kind.MODEL_UNAVAILABLE),
    (Fault.http(410), Kind.MODEL_UNAVAILABLE),
    (Fault.context_window(), Kind.CONTEXT_WINDOW),
    (Fault.content_policy(), Kind.CONTENT_POLICY),
    (Fault.http(400), Kind.BAD_REQUEST),
    (Fault.http(404), Kind.BAD_REQUEST),
    (Fault.http(409), Kind.BAD_REQUEST),
    (Fault.http(413), Kind.BAD_REQUEST),
    (Fault.http(422), Kind.BAD_REQUEST),
    (Fault.http(418), Kind.UNKNOWN),
]


def _id(value):
    return str(value).replace(" ", "_") if isinstance(value, (Fault, Kind)) else None


def _failed(upstream, target, operation, params, timeouts) -> Outcome:
    with pytest.raises(Exception) as caught:
        upstream.call(target, operation, params, timeouts)
    return upstream.classify(caught.value)


async def _afailed(upstream, target, operation, params, timeouts) -> Outcome:
    with pytest.raises(Exception) as caught:
        await upstream.acall(target, operation, params, timeouts)
    return upstream.classify(caught.value)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(("fault", "kind"), ROWS, ids=_id)
async def test_a_failed_answer_is_of_its_kind_and_one_attempt_is_one_request(
    provider, upstream, target, dialect, mode, fault, kind
):
    provider.set(fault)
    timeouts = SHORT if fault.name in {"hang", "stall"} else TIMEOUTS
    arguments = (upstream, target(dialect), Operation.COMPLETION, ASKS[Operation.COMPLETION], timeouts)
    outcome = _failed(*arguments) if mode == "sync" else await _afailed(*arguments)
    assert outcome.kind is kind
    assert provider.count() == (0 if fault.name == "refuse" else 1)
    if fault.status != 200:
        assert outcome.status == fault.status or kind is Kind.TIMEOUT


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.refuse(), Kind.CONNECTION),
        (Fault.reset(), Kind.CONNECTION),
        (Fault.hang(), Kind.TIMEOUT),
        (Fault.http(500), Kind.SERVER_ERROR),
        (Fault.overloaded(), Kind.OVERLOADED),
        (Fault.html(), Kind.MALFORMED),
        (Fault.bad_json(), Kind.MALFORMED),
        (Fault.error_object(), Kind.SERVER_ERROR),
        (Fault.rate_limited(7), Kind.RATE_LIMITED),
        (Fault.insufficient_quota(), Kind.QUOTA_EXHAUSTED),
        (Fault.unauthorized(), Kind.AUTH),
        (Fault.model_missing(), Kind.MODEL_UNAVAILABLE),
        (Fault.http(400), Kind.BAD_REQUEST),
    ],
    ids=_id,
)
@pytest.mark.parametrize("operation", [Operation.EMBEDDING, pytest.param(Operation.RESPONSES, marks=needs_mcp)])
async def test_embeddings_and_responses_fail_with_the_same_kinds_and_one_request(
    provider, upstream, target, operation, mode, fault, kind
):
    provider.set(fault)
    made = target("embedding" if operation is Operation.EMBEDDING else "openai")
    arguments = (upstream, made, operation, ASKS[operation], SHORT if fault.name == "hang" else TIMEOUTS)
    outcome = _failed(*arguments) if mode == "sync" else await _afailed(*arguments)
    assert outcome.kind is kind
    assert provider.count() == (0 if fault.name == "refuse" else 1)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504, 529])
async def test_retry_after_survives_litellm_with_every_status(provider, upstream, target, dialect, mode, status):
    provider.set(Fault.http(status, headers={"Retry-After": "0.75", "x-should-retry": "false"}))
    arguments = (upstream, target(dialect), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    outcome = _failed(*arguments) if mode == "sync" else await _afailed(*arguments)
    assert outcome.retry_after_seconds == 0.75
    assert outcome.should_retry is False


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault.http(429, headers={"retry-after": "7", "retry-after-ms": "1500"}), 1.5),
        (Fault.http(429, headers={"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}), 360.0),
        (Fault.http(429, headers={"x-ratelimit-remaining-tokens": "3", "x-ratelimit-reset-tokens": "6m0s"}), None),
        (Fault.http(429, body=GOOGLE), 39.0),
        (Fault.http(429, message="Rate limit reached. Please try again in 41.724s."), 41.724),
        (Fault.http(429), None),
    ],
)
async def test_a_rate_limit_ends_when_the_provider_says(provider, upstream, target, dialect, fault, seconds):
    provider.set(fault)
    ask = ASKS[Operation.COMPLETION]
    outcome = await _afailed(upstream, target(dialect), Operation.COMPLETION, ask, TIMEOUTS)
    assert (outcome.kind, outcome.retry_after_seconds) == (Kind.RATE_LIMITED, seconds)


async def test_a_spending_limit_ends_with_the_month(provider, upstream, target):
    provider.set(Fault.http(429, body=SPEND))
    ask = ASKS[Operation.COMPLETION]
    outcome = await _afailed(upstream, target("anthropic"), Operation.COMPLETION, ask, TIMEOUTS)
    assert outcome.kind is Kind.QUOTA_EXHAUSTED
    assert outcome.reset_seconds is not None
    assert 0 < outcome.reset_seconds <= 31 * 86400


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dialect", BOTH)
async def test_input_that_litellm_refuses_is_local_and_nothing_is_sent(provider, upstream, target, dialect, mode):
    ask = {"messages": MESSAGES, "n": 2, "parallel_tool_calls": True, "logit_bias": {"50256": -100}}
    if dialect == "openai":
        ask = {"messages": "not a list"}
    arguments = (upstream, target(dialect), Operation.COMPLETION, ask, TIMEOUTS)
    outcome = _failed(*arguments) if mode == "sync" else await _afailed(*arguments)
    assert outcome.kind is Kind.LOCAL
    assert provider.count() == 0


async def test_a_missing_key_is_a_fault_of_the_target(provider, upstream, target, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ask = ASKS[Operation.COMPLETION]
    outcome = await _afailed(upstream, target("anthropic", api_key=None), Operation.COMPLETION, ask, TIMEOUTS)
    assert outcome.kind is Kind.AUTH
    assert provider.count() == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_error_that_was_being_handled_is_no_part_of_the_next_one(provider, upstream, target, mode):
    provider.set(Fault.http(500))
    arguments = (upstream, target(), Operation.COMPLETION, ASKS[Operation.COMPLETION], TIMEOUTS)
    try:
        raise ImportError("somebody else's")
    except ImportError:
        outcome = _failed(*arguments) if mode == "sync" else await _afailed(*arguments)
    assert outcome.kind is Kind.SERVER_ERROR
    bad = (upstream, target("anthropic", api_key=None, api_base="nonsense://x"), *arguments[2:])
    try:
        raise TimeoutError("somebody else's")
    except TimeoutError:
        outcome = _failed(*bad) if mode == "sync" else await _afailed(*bad)
    assert outcome.kind is not Kind.TIMEOUT
