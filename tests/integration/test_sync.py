"""Sync LiteLLM behind the breakers: wrapped functions and Routers, on request."""

from __future__ import annotations

import litellm
import pytest
from asks import MESSAGES, becomes_true
from door2 import GPT, is_idle, retire, target

import resilience
from resilience.middleware import rotation
from resilience.settings.adoption.router import member
from resilience.testing import Fault
from resilience.testing.clock import ManualClock

FIRST, SECOND, SPARE = "gpt-4o-mini", "gpt-4o", "gpt-4.1"


@pytest.fixture
def runtime(provider, upstream):
    with resilience.MultiProviderFallback({"warm": False}, clock=ManualClock()) as made:
        yield made
        resilience.uninstall()


def ask(provider, *, stream=False, model=GPT, **params):
    answer = litellm.completion(**{**target(provider, model), "messages": MESSAGES, "max_retries": 0}, stream=stream,
                                **params)  # fmt: skip
    return list(answer) if stream else answer


def one(runtime):
    (name,) = runtime.registry.targets
    return runtime.registry.targets[name]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrapped_sync_call_is_rejected_while_its_target_is_open(runtime, provider, stream):
    resilience.install(runtime, wrap_sync=True)
    provider.set(Fault.http(500))
    for _ in range(5):
        with pytest.raises(litellm.InternalServerError):
            ask(provider, stream=stream)
    assert one(runtime).current_state == "open"
    provider.forget()
    with pytest.raises(litellm.ServiceUnavailableError) as caught:
        ask(provider, stream=stream)
    assert isinstance(caught.value, resilience.CircuitOpenError)
    assert provider.count() == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrapped_call_counts_once_and_its_probes_close_the_circuit(runtime, provider, stream):
    resilience.install(runtime, wrap_sync=True)
    ask(provider, stream=stream)
    assert await becomes_true(lambda: runtime.snapshot().targets[one(runtime).name].calls == 1)
    provider.set(Fault.http(500))
    for _ in range(5):
        with pytest.raises(litellm.InternalServerError):
            ask(provider, stream=stream)
    provider.clear()
    runtime.registry.clock.advance(12) if hasattr(runtime.registry, "clock") else runtime._clock.advance(12)
    for _ in range(3):
        ask(provider, stream=stream)
        assert await is_idle(runtime)
    assert await becomes_true(lambda: one(runtime).current_state == "closed")


async def test_a_wrapped_stream_that_is_given_up_returns_its_permit(runtime, provider):
    resilience.install(runtime, wrap_sync=True)
    stream = litellm.completion(**target(provider), messages=MESSAGES, stream=True)
    next(iter(stream))
    del stream
    assert await is_idle(runtime)


async def test_async_calls_and_routes_are_not_asked_twice(runtime, provider):
    resilience.install(runtime, wrap_sync=True)
    await litellm.acompletion(**target(provider), messages=MESSAGES)
    runtime.completion(GPT, MESSAGES, **{key: target(provider)[key] for key in ("api_base", "api_key")})
    assert await becomes_true(lambda: sum(reading.calls for reading in runtime.snapshot().targets.values()) == 2)
    assert provider.count() == 2


def test_uninstall_puts_the_functions_back(runtime):
    from litellm import main

    names = [(module, name) for module in (litellm, main) for name in ("completion", "text_completion", "embedding")]
    before = [getattr(module, name) for module, name in names]
    resilience.install(runtime, wrap_sync=True)
    assert all(getattr(module, name) is not old for (module, name), old in zip(names, before, strict=True))
    resilience.uninstall()
    assert [getattr(module, name) for module, name in names] == before


@pytest.fixture
def strategy():
    return "simple-shuffle"


@pytest.fixture
def router(provider, strategy):
    def deployment(group, model, key):
        return {
            "model_name": group,
            "litellm_params": {**target(provider, model, f"sk-{key}"), "max_retries": 0},
            "model_info": {"id": key},
        }

    made = litellm.Router(
        model_list=[deployment("main", GPT, "first"), deployment("main", "openai/gpt-4o", "second"),
                    deployment("spare", "openai/gpt-4.1", "third")],
        fallbacks=[{"main": ["spare"]}],
        routing_strategy=strategy,
        num_retries=0,
        disable_cooldowns=True,
    )  # fmt: skip
    yield made
    retire(made)


def isolate(runtime, router, model):
    """Open the breaker of every target of a model by hand, once the Router has used it."""
    callback = next(one for one in litellm.callbacks if type(one).__name__ == "ResilienceCallback")
    for one in member(router, "model_list"):
        found = callback.target_of(one["litellm_params"]["model"], one["litellm_params"])
        if found.model.endswith("/" + model):
            runtime.registry.targets[found.name].isolate("test")


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "latency-based-routing"])
def test_a_sync_router_that_was_given_leaves_an_open_deployment_out(runtime, router, provider):
    resilience.install(runtime, routers=[router])
    isolate(runtime, router, FIRST)
    for _ in range(8):
        router.completion("main", MESSAGES)
    assert (provider.count(FIRST), provider.count(SECOND), provider.count(SPARE)) == (0, 8, 0)


def test_a_sync_group_that_is_all_open_falls_back_at_once(runtime, router, provider):
    resilience.install(runtime, routers=[router])
    isolate(runtime, router, FIRST)
    isolate(runtime, router, SECOND)
    for _ in range(3):
        router.completion("main", MESSAGES)
    assert (provider.count(FIRST), provider.count(SECOND), provider.count(SPARE)) == (0, 0, 3)


def test_the_lesser_mode_sends_nothing_to_an_open_deployment_either(runtime, router, provider):
    resilience.install(runtime)
    isolate(runtime, router, FIRST)
    for _ in range(8):
        router.completion("main", MESSAGES)
    assert provider.count(FIRST) == 0
    assert provider.count() == 8


def test_another_litellm_inside_means_the_lesser_mode_and_a_warning(runtime, router, monkeypatch):
    place, name, _ = rotation._places(router)[0]
    monkeypatch.setattr(type(place), name, lambda self, ids: [])
    cache = type(member(router, "cooldown_cache"))
    monkeypatch.setattr(cache, "get_active_cooldowns", lambda self, ids: [])
    with pytest.warns(UserWarning, match="no place for a sync rotation"):
        resilience.install(runtime, routers=[router])


def test_uninstall_gives_the_router_back(runtime, router):
    resilience.install(runtime, routers=[router])
    place, name, _ = rotation._places(router)[0]
    assert name in vars(place)
    resilience.uninstall()
    assert name not in vars(place)
