"""Coming from a LiteLLM Router: the same object, the same per-call arguments, the same answers."""

from __future__ import annotations

import warnings

import litellm
import pytest
from asks import MESSAGES
from door2 import CLAUDE, GPT, retire, settings, target

import resilience
from resilience.testing import Fault

FIRST, SECOND, SPARE = "gpt-4o-mini", "gpt-4o", "gpt-4.1"


@pytest.fixture
def router(provider):
    made = litellm.Router(
        model_list=[
            {"model_name": "main", "litellm_params": target(provider, GPT, "sk-1")},
            {"model_name": "spare", "litellm_params": target(provider, "openai/gpt-4.1", "sk-3")},
            {"model_name": "openai/*", "litellm_params": target(provider, "openai/*", "sk-4")},
        ],
        fallbacks=[{"main": ["spare"]}],
        model_group_alias={"nick": "main"},
    )
    yield made
    retire(made)


@pytest.fixture
def adopted(router, upstream):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing here is without counterpart
        runtime = resilience.MultiProviderFallback.from_router(router)
    with runtime:
        yield runtime


@pytest.fixture
def runtime(provider, upstream):
    with resilience.MultiProviderFallback(settings(provider, num_retries=0)) as made:
        yield made


def test_a_router_becomes_routes(adopted):
    routes = adopted.settings.routes
    assert [one.model for one in routes["main"].targets] == [GPT, "openai/gpt-4.1"]
    assert [one.model for one in routes["nick"].targets] == [GPT, "openai/gpt-4.1"]
    assert adopted.settings.match("openai/gpt-4o") is not None
    # What the Router filled in by itself is not taken for a wish.
    fresh = resilience.Settings()
    assert adopted.settings.breaker == fresh.breaker
    assert routes["main"].num_retries == resilience.RouteSettings().num_retries
    assert not any("pass_through" in name for one in routes["main"].targets for name in one.params)


def test_what_its_user_said_is_kept_and_what_has_no_counterpart_is_named(provider, upstream):
    router = litellm.Router(
        model_list=[{"model_name": "main", "litellm_params": target(provider)}],
        num_retries=4,
        cooldown_time=7,
        allowed_fails=1,
        timeout=33,
        stream_timeout=11,
        enable_tag_filtering=True,
        default_fallbacks=["main"],
    )
    try:
        with pytest.warns(UserWarning, match="enable_tag_filtering"):
            runtime = resilience.MultiProviderFallback.from_router(router)
        with runtime:
            route = runtime.settings.routes["main"]
            assert (route.num_retries, route.timeouts.attempt_seconds) == (4, 33)
            assert route.timeouts.first_token_seconds == 11
            assert runtime.settings.breaker.open_seconds == 7
            assert runtime.settings.target_breaker.consecutive_failures == 2
    finally:
        retire(router)


def test_what_is_no_router_is_refused():
    with pytest.raises(resilience.ConfigurationError, match=r"dict is not allowed; allowed: a litellm\.Router"):
        resilience.MultiProviderFallback.from_router({})


async def test_an_adopted_router_falls_back(adopted, provider):
    provider.set(Fault.http(400), model="nothing")
    provider.set(Fault.http(529), model=FIRST)
    answer = await adopted.acompletion("nick", MESSAGES)
    assert answer.choices[0].message.content == provider.answer
    assert (provider.count(FIRST), provider.count(SPARE)) == (1, 1)
    assert adopted.completion("openai/gpt-4o", MESSAGES).choices
    assert provider.count(SECOND) == 1


FALLBACKS = {
    "names": lambda one: ["elsewhere", "spare"],
    "mappings": lambda one: [{**one, "temperature": 0.5}],
    "by group": lambda one: [{"other": ["nobody/knows"]}, {"chat": ["spare"]}],
    "by star": lambda one: [{"*": ["spare"]}],
}


@pytest.mark.parametrize("form", FALLBACKS)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_calls_own_fallbacks_are_asked_after_the_route(provider, upstream, form, mode):
    one = target(provider, "openai/gpt-4.1", "sk-own")
    plan = settings(provider)
    plan["routes"] |= {"elsewhere": {"targets": [{**target(provider, "openai/gpt-4o"), "name": "two"}],
                                     "num_retries": 0}}  # fmt: skip
    plan["routes"] |= {"spare": {"targets": [{**target(provider, "openai/gpt-4.1"), "name": "three"}]}}
    provider.set(Fault.http(529), model=FIRST)
    provider.set(Fault.http(529), model=CLAUDE.split("/")[1])
    provider.set(Fault.http(529), model=SECOND)
    with resilience.MultiProviderFallback(plan) as runtime:
        params = {"fallbacks": FALLBACKS[form](one), "temperature": 0.9} if form != "mappings" else {
            "fallbacks": FALLBACKS[form](one)
        }  # fmt: skip
        if mode == "sync":
            answer = runtime.completion("chat", MESSAGES, **params)
        else:
            answer = await runtime.acompletion("chat", MESSAGES, **params)
        asked = [request.model for request in provider.requests]
        last = ["gpt-4o", "gpt-4.1"] if form == "names" else ["gpt-4.1"]
        assert asked == [FIRST, CLAUDE.split("/")[1], *last]
        assert len(resilience.attempts(answer)) == len(asked)
        sent = provider.requests[-1].body
        assert "fallbacks" not in sent
        assert sent["temperature"] == (0.5 if form == "mappings" else 0.9)


async def test_a_single_model_has_fallbacks_too(runtime, provider):
    one = target(provider)
    provider.set(Fault.http(503), model=FIRST)
    answer = await runtime.acompletion(
        GPT, MESSAGES, api_base=one["api_base"], api_key="sk-tenant", fallbacks=["chat"], num_retries=0
    )
    # The route's own first target is the model with another key; the tenant's key goes nowhere else.
    assert [request.model for request in provider.requests] == [FIRST, FIRST, CLAUDE.split("/")[1]]
    assert resilience.attempts(answer)[-1].target == "claude"
    assert "sk-tenant" not in str(provider.requests[-1].headers)


@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
async def test_mock_testing_fallbacks_answers_from_the_fallback(runtime, provider, mode):
    if mode == "async":
        answer = await runtime.acompletion("chat", MESSAGES, mock_testing_fallbacks=True)
    else:
        answer = runtime.completion("chat", MESSAGES, mock_testing_fallbacks=True, stream=mode == "stream")
        assert mode == "sync" or list(answer)
    assert [record.target for record in resilience.attempts(answer)] == ["claude"]
    assert (provider.count(FIRST), provider.count()) == (0, 1)
    assert "mock_testing_fallbacks" not in provider.requests[0].body


async def test_mock_testing_fallbacks_goes_to_the_calls_own(runtime, provider):
    own = target(provider, "openai/gpt-4.1")
    await runtime.acompletion("chat", MESSAGES, mock_testing_fallbacks=True, fallbacks=[own])
    assert [request.model for request in provider.requests] == [SPARE]


async def test_mock_testing_fallbacks_without_any_is_the_routers_error(runtime, provider):
    with pytest.raises(litellm.InternalServerError, match="has no fallback"):
        await runtime.acompletion("claude", MESSAGES, mock_testing_fallbacks=True)
    assert provider.count() == 0


@pytest.mark.parametrize(("fallbacks", "told"), [
    ("spare", "str is not allowed"),
    ([3], "entry of int"),
    ([{"model": GPT, "messages": []}], "other messages"),
    (["nobody/knows-this"], "'nobody/knows-this' is not a route"),
])  # fmt: skip
async def test_wrong_fallbacks_are_named(runtime, provider, fallbacks, told):
    with pytest.raises(resilience.ConfigurationError, match=told):
        await runtime.acompletion("chat", MESSAGES, fallbacks=fallbacks)
    assert provider.count() == 0


async def test_a_calls_own_retries_and_timeout(runtime, provider):
    provider.set(Fault.http(503))
    with pytest.raises(litellm.ServiceUnavailableError):  # a single model: the provider's own error
        await runtime.acompletion("claude", MESSAGES, num_retries=0, fallbacks=[target(provider)], timeout=5)
    assert provider.count() == 2
