"""`except litellm.RateLimitError` and its siblings catch through a route what they catch in a bare call."""

from __future__ import annotations

import litellm
import openai
import pytest
from door2 import CLAUDE, GPT, MODES, ask, settings, target

import resilience
from resilience.testing import Fault

MODELS = {"openai": GPT, "anthropic": CLAUDE}
# The rows of LiteLLM's table of exceptions: what comes over the wire.
STATUSES = [400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529]
ANSWERED = [
    *(Fault.http(status, headers={"retry-after": "7"}) for status in STATUSES),
    Fault.insufficient_quota(),
    Fault.context_window(),
    Fault.content_policy(),
    Fault.model_missing(),
    Fault.forbidden(),
    Fault.overloaded(),
    Fault.reset(),
]
# Answers of status 200 that are none; a stream of them is a matter of its own.
WHOLE = [Fault.html(), Fault.bad_json(), Fault.error_object()]
# Each by its name, too: what the table promises, whatever the bare call does.
CLASSES = [
    (Fault.http(400), litellm.BadRequestError),
    (Fault.http(401), litellm.AuthenticationError),
    (Fault.http(404), litellm.NotFoundError),
    (Fault.http(408), litellm.Timeout),
    (Fault.http(422), litellm.BadRequestError),
    (Fault.rate_limited(7), litellm.RateLimitError),
    (Fault.insufficient_quota(), litellm.RateLimitError),
    (Fault.http(500), litellm.InternalServerError),
    (Fault.http(502), litellm.BadGatewayError),
    (Fault.http(503), litellm.ServiceUnavailableError),
    (Fault.http(504), litellm.Timeout),
    (Fault.reset(), litellm.InternalServerError),
    (Fault.context_window(), litellm.ContextWindowExceededError),
]


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]


@pytest.fixture
def plan(provider, model):
    return settings(provider, targets=[target(provider, model)], max_attempts=1)


async def caught(mode, **params):
    with pytest.raises(openai.APIError) as found:
        await ask(mode, **params)
    return found.value


def retry_after(error):
    headers = dict(getattr(error, "litellm_response_headers", None) or {})
    return {name.lower().removeprefix("llm_provider-"): value for name, value in headers.items()}.get("retry-after")


async def compared(provider, plan, model, mode, fault):
    provider.set(fault)
    bare = await caught(mode, **target(provider, model), max_retries=0)
    assert provider.count() == 1
    provider.forget()
    resilience.install(plan)
    try:
        through = await caught(mode)
    finally:
        resilience.uninstall()
    assert provider.count() == 1
    return bare, through


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ANSWERED, ids=str)
async def test_a_route_raises_what_a_bare_call_raises(provider, upstream, plan, model, mode, fault):
    bare, through = await compared(provider, plan, model, mode, fault)
    assert isinstance(through, type(bare)), (type(bare), type(through).__mro__)
    assert int.__eq__(through.status_code, bare.status_code)
    # Where the provider says nothing, the route tells when it will have somebody again.
    assert retry_after(bare) in {None, retry_after(through)}
    if fault.headers:
        assert retry_after(through) == "7"


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("fault", WHOLE, ids=str)
async def test_an_answer_that_is_none_is_the_same_error(provider, upstream, plan, model, mode, fault):
    bare, through = await compared(provider, plan, model, mode, fault)
    assert isinstance(through, type(bare)), (type(bare), type(through).__mro__)
    assert through.status_code == bare.status_code


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fault", "expected"), CLASSES, ids=[fault.name for fault, _ in CLASSES])
async def test_each_class_by_its_name(provider, upstream, mode, fault, expected):
    provider.set(fault)
    resilience.install(settings(provider, targets=[target(provider)], max_attempts=1))
    try:
        with pytest.raises(expected) as found:
            await ask(mode)
    finally:
        resilience.uninstall()
    assert not isinstance(found.value, resilience.ResilienceError)
    if fault.headers:
        assert retry_after(found.value) == "7"
