"""After `uninstall()` LiteLLM is as it was: its lists, dicts and functions, and nobody of ours in its modules."""

from __future__ import annotations

import gc
import weakref

import litellm
import litellm_state
import pytest
from asks import MESSAGES, becomes_true
from door2 import EMBEDDING, MODES, Ear, ask, retire, settings, target

import resilience
from resilience.middleware import rotation
from resilience.testing import Fault


@pytest.fixture(autouse=True)
def clean(provider, upstream):
    yield
    resilience.uninstall()


async def use(provider):
    """Everything that LiteLLM does for us: routes, bare calls, streams, embeddings, failures, lookups."""
    for mode in MODES:
        await ask(mode)
        await ask(mode, **target(provider))
    embedding = {**target(provider, EMBEDDING), "input": ["hi"]}
    litellm.embedding(**embedding)
    await litellm.aembedding(**embedding)
    litellm.supports_function_calling("resilience/chat")
    provider.set(Fault.http(400))
    for mode in ("sync", "async"):
        with pytest.raises(litellm.BadRequestError):
            await ask(mode, **target(provider))
        with pytest.raises(litellm.BadRequestError):
            await ask(mode)
    provider.clear()


@pytest.mark.parametrize("wrap_sync", [False, True])
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-others"])
async def test_litellms_module_state_is_as_it_was(provider, wrap_sync, others):
    litellm.callbacks.extend(Ear() for _ in range(others))
    # LiteLLM makes lists and loads names at its first calls: after them it has its shape.
    resilience.install(settings(provider))
    await use(provider)
    resilience.uninstall()
    before = litellm_state.snapshot()
    assert not litellm_state.ours()
    resilience.install(settings(provider), wrap_sync=wrap_sync)
    assert litellm_state.snapshot() != before
    assert litellm_state.ours()
    await use(provider)
    resilience.uninstall()
    after = litellm_state.snapshot()
    assert {name: (kept, after.get(name)) for name, kept in before.items() if after.get(name) != kept} == {}
    assert after.keys() == before.keys()
    assert litellm_state.ours() == []


@pytest.mark.parametrize("times", [1, 2])
def test_what_install_alone_changes_is_put_back(provider, monkeypatch, times):
    # The first install of a process: nobody has called anything.
    monkeypatch.setattr(litellm, "suppress_debug_info", False)
    before = litellm_state.snapshot()
    for _ in range(times):
        resilience.install(settings(provider), wrap_sync=True)
    assert litellm.suppress_debug_info
    resilience.uninstall()
    after = litellm_state.snapshot()
    assert {name: (kept, after.get(name)) for name, kept in before.items() if after.get(name) != kept} == {}


async def test_nothing_holds_the_callback_or_the_provider(provider):
    runtime = resilience.install(settings(provider), wrap_sync=True)
    await use(provider)
    held = [weakref.ref(litellm.callbacks[-1]), weakref.ref(litellm.custom_provider_map[-1]["custom_handler"])]
    assert all(one() is not None for one in held)
    resilience.uninstall()
    assert await runtime_closed(runtime)
    for _ in range(5):  # whoever still works on a late event of LiteLLM's lets go with it
        await litellm.acompletion(**target(provider), messages=MESSAGES)

    def gone():
        gc.collect()
        return not any(one() for one in held)

    assert await becomes_true(gone)


async def runtime_closed(runtime):
    with pytest.raises(resilience.ResilienceError, match="closed"):
        await runtime.acompletion("chat", MESSAGES)
    return True


async def test_a_routers_seam_and_methods_are_its_own_again(provider):
    params = target(provider)
    router = litellm.Router(model_list=[{"model_name": "g", "litellm_params": params}])
    try:
        place, name, _ = rotation._places(router)[0]
        before = dict(vars(place)), router.completion, getattr(place, name)
        resilience.install(settings(provider), routers=[router])
        assert vars(place) != before[0]
        resilience.uninstall()
        assert (vars(place), router.completion, getattr(place, name)) == before
    finally:
        retire(router)
