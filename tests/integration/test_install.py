"""Installing into LiteLLM, and leaving no trace in it."""

from __future__ import annotations

import subprocess
import sys

import litellm
import pytest
from asks import MESSAGES, becomes_true
from door2 import GPT, MODES, Ear, ask, settings, target

import resilience
from resilience.testing import Fault

LISTS = [
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
    "custom_provider_map",
    "_custom_providers",
    "provider_list",
]


@pytest.fixture(autouse=True)
def clean(provider, upstream):
    yield
    resilience.uninstall()


def state():
    """LiteLLM's lists, each with its identity: somebody may hold on to one. One of them it makes anew itself."""
    found = {name: (id(getattr(litellm, name)), list(getattr(litellm, name))) for name in LISTS}
    return {**found, "callback_list": (0, list(litellm.utils.callback_list))}


async def use(provider):
    for mode in MODES:
        await ask(mode)
        await ask(mode, **target(provider))
    provider.set(Fault.http(400))
    for mode in ("sync", "async"):
        with pytest.raises(litellm.BadRequestError):
            await ask(mode, **target(provider))


@pytest.mark.parametrize("before", [False, True], ids=["alone", "beside-others"])
async def test_uninstall_leaves_no_trace(provider, before):
    others = [Ear()] if before else []
    litellm.callbacks.extend(others)
    try:
        # LiteLLM makes its lists, and spreads a callback to them, at the first call.
        await ask("async", **target(provider))
        found = state()
        resilience.install(settings(provider))
        assert state() != found
        await use(provider)
        resilience.uninstall()
        assert state() == found
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


async def test_after_uninstall_nobody_is_guarded(provider):
    runtime = resilience.install(settings(provider))
    runtime.registry.targets[GPT].isolate("test")
    resilience.uninstall()
    assert (await ask("async", **target(provider)))[0] == provider.answer
    with pytest.raises(litellm.BadRequestError):
        await ask("async")


async def test_installing_again_replaces(provider):
    first = resilience.install(settings(provider))
    found = state()
    second = resilience.install(settings(provider))
    assert {name: len(kept) for name, (_, kept) in state().items()} == {name: len(k) for name, (_, k) in found.items()}
    await ask("async")
    assert (first.snapshot().targets[GPT].calls, second.snapshot().targets[GPT].calls) == (0, 1)
    with pytest.raises(resilience.ResilienceError, match="closed"):
        await first.acompletion("chat", MESSAGES)


async def test_wrong_settings_leave_what_was_installed(provider):
    runtime = resilience.install(settings(provider))
    with pytest.raises(resilience.ConfigurationError):
        resilience.install({"rutes": {}})
    await ask("async")
    assert runtime.snapshot().targets[GPT].calls == 1


async def test_every_kind_of_settings_is_taken(provider, tmp_path):
    config = settings(provider)
    file = tmp_path / "resilience.json"
    file.write_text(str(config).replace("'", '"').replace("False", "false"))
    for given in (config, resilience.Settings.load(config), file, str(file)):
        runtime = resilience.install(given)
        assert [str(name) for name in runtime.registry.rotation("chat")] == [GPT, "claude"]


async def test_a_runtime_that_was_given_stays_its_owners(provider):
    with resilience.MultiProviderFallback(settings(provider)) as runtime:
        assert resilience.install(runtime) is runtime
        resilience.uninstall()
        await runtime.acompletion("chat", MESSAGES)


async def test_without_settings_the_process_wide_runtime_is_shared(provider):
    resilience.configure(settings(provider))
    assert resilience.install() is resilience.default()
    await ask("async")
    assert resilience.default().snapshot().targets[GPT].calls == 1
    later = resilience.configure(settings(provider))
    await ask("async")
    await ask("async", **target(provider))
    assert later.snapshot().targets[GPT].calls == 2
    resilience.uninstall()
    await later.acompletion("chat", MESSAGES)


async def test_a_provider_of_the_same_name_comes_back(provider):
    class Own(litellm.CustomLLM):
        async def acompletion(self, *_, **__):
            return litellm.ModelResponse(choices=[{"message": {"content": "own"}}])

    litellm.custom_provider_map.append({"provider": "resilience", "custom_handler": Own()})
    try:
        resilience.install(settings(provider))
        assert (await ask("async"))[0] == provider.answer
        resilience.uninstall()
        assert (await ask("async"))[0] == "own"
    finally:
        litellm.custom_provider_map.clear()
        litellm._custom_providers.remove("resilience")
        litellm.provider_list.remove("resilience")


async def test_uninstalling_without_an_installation_is_no_harm():
    found = state()
    resilience.uninstall()
    assert state() == found


async def test_the_proxys_names_share_one_runtime(provider, monkeypatch):
    from resilience.middleware import proxy

    runtime = resilience.configure(settings(provider))
    assert proxy.callback is proxy.callback
    monkeypatch.setattr(litellm, "callbacks", [proxy.callback])
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "resilience", "custom_handler": proxy.provider}])
    try:
        await ask("async")
        await ask("async", **target(provider))
        assert await becomes_true(lambda: runtime.snapshot().targets[GPT].calls == 2)
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()
        litellm._custom_providers.clear()
        litellm.provider_list.remove("resilience")
    with pytest.raises(AttributeError, match="callbak"):
        proxy.callbak  # noqa: B018 (the access is the test)


@pytest.mark.parametrize("module", ["resilience", "resilience.middleware", "resilience.middleware.proxy"])
def test_importing_is_cheap(module):
    script = f"import sys, {module}; sys.exit('litellm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 0
