"""LiteLLM's async Router with the callback: who is in rotation, and how fast it moves on."""

from __future__ import annotations

import asyncio

import litellm
import pytest
from asks import MESSAGES
from door2 import GPT, background, note_sleeps, retire, settings, target

import resilience
from resilience.testing import Fault
from resilience.testing.clock import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def runtime(provider, upstream, clock):
    # Three targets of one provider: here it is the targets' own breakers that trip, whatever the Router picks.
    quiet = {"openai": {"breaker": {"consecutive_failures": None, "failure_rate": None}}}
    with resilience.MultiProviderFallback({"warm": False, "providers": quiet}, clock=clock) as runtime:
        yield resilience.install(runtime)
        resilience.uninstall()


@pytest.fixture
def slept(monkeypatch):
    """How long the Router slept before its retries."""
    return note_sleeps(monkeypatch)


@pytest.fixture
def router(provider):
    """One group of two deployments, and one to fall back to; LiteLLM's own cooldowns are off."""

    def deployment(group, model, key):
        return {
            "model_name": group,
            "litellm_params": {**target(provider, model, f"sk-{key}"), "max_retries": 0},
            "model_info": {"id": key},
        }

    made = litellm.Router(
        model_list=[
            deployment("main", GPT, "first"),
            deployment("main", "openai/gpt-4o", "second"),
            deployment("alone", GPT, "first"),
            deployment("spare", "openai/gpt-4.1", "third"),
        ],
        fallbacks=[{"main": ["spare"]}, {"alone": ["spare"]}],
        num_retries=2,
        disable_cooldowns=True,
    )
    yield made
    retire(made)


FIRST, SECOND, SPARE = "gpt-4o-mini", "gpt-4o", "gpt-4.1"


def named(runtime, model):
    (name,) = (name for name in runtime.registry.targets if name.split("/")[-1].split("@")[0] == model)
    return name


async def trip(router, runtime, provider, model):
    provider.set(Fault.http(500), model=model)
    for _ in range(60):
        if any(model == name.split("/")[-1].split("@")[0] for name in runtime.registry.targets) and (
            runtime.registry.targets[named(runtime, model)].current_state == "open"
        ):
            break
        await router.acompletion(model="main", messages=MESSAGES)
    provider.forget()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_open_deployment_leaves_the_rotation_and_its_sibling_serves(runtime, router, provider, slept, stream):
    await trip(router, runtime, provider, FIRST)
    slept.clear()
    for _ in range(12):
        answer = await router.acompletion(model="main", messages=MESSAGES, stream=stream)
        if stream:
            assert [chunk async for chunk in answer]
    assert (provider.count(FIRST), provider.count(SECOND), provider.count(SPARE)) == (0, 12, 0)
    assert slept == []


@pytest.mark.parametrize("group", ["main", "alone"])
async def test_a_group_that_is_all_open_falls_back_at_once(runtime, router, provider, slept, group):
    await trip(router, runtime, provider, FIRST)
    await trip(router, runtime, provider, SECOND)
    slept.clear()
    for _ in range(5):
        await router.acompletion(model=group, messages=MESSAGES)
    assert (provider.count(FIRST), provider.count(SECOND), provider.count(SPARE)) == (0, 0, 5)
    assert slept == []


async def test_a_deployment_comes_back_by_one_probe_at_a_time(runtime, router, provider, clock):
    await trip(router, runtime, provider, FIRST)
    clock.advance(12)
    provider.set(Fault.slow(0.1), model=FIRST)
    await asyncio.gather(*(router.acompletion(model="main", messages=MESSAGES) for _ in range(20)))
    assert provider.count(FIRST) == 1
    assert provider.count() == 20
    provider.clear()
    for _ in range(40):
        await router.acompletion(model="main", messages=MESSAGES)
    assert runtime.registry.targets[named(runtime, FIRST)].current_state == "closed"


async def test_when_all_is_open_the_error_is_both_and_nothing_is_sent(runtime, router, provider, slept):
    for model in (FIRST, SECOND):
        await trip(router, runtime, provider, model)
    await router.acompletion(model="spare", messages=MESSAGES)
    runtime.registry.targets[named(runtime, SPARE)].isolate("test")
    provider.forget()
    slept.clear()
    with pytest.raises(resilience.CircuitOpenError) as caught:
        await router.acompletion(model="main", messages=MESSAGES)
    assert isinstance(caught.value, litellm.ServiceUnavailableError)
    assert (provider.count(), slept) == (0, [])
    # For the Proxy's clients; on the response the Router itself would sleep for it.
    assert int(caught.value.headers["retry-after"]) in range(8, 13)
    assert "retry-after" not in caught.value.response.headers


async def test_a_success_through_the_router_counts_once(runtime, router, provider):
    await router.acompletion(model="alone", messages=MESSAGES)
    await background()
    reading = runtime.snapshot().targets[named(runtime, FIRST)]
    assert (reading.calls, reading.failures, reading.in_flight) == (1, 0, 0)


async def test_routes_work_as_deployments(provider, upstream):
    resilience.install(settings(provider))
    router = litellm.Router(model_list=[{"model_name": "any", "litellm_params": {"model": "resilience/chat"}}])
    try:
        provider.set(Fault.http(500), model=FIRST)
        answer = await router.acompletion(model="any", messages=MESSAGES)
        assert answer.choices[0].message.content == provider.answer
        assert [record.target for record in resilience.attempts(answer)] == [GPT, "claude"]
    finally:
        retire(router)
        resilience.uninstall()
