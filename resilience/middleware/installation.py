"""Door 2: puts the callback and the custom provider into LiteLLM, and takes every trace of them out again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import litellm
from litellm import utils as litellm_utils

from resilience.decorators import default
from resilience.middleware.callbacks import ResilienceCallback
from resilience.middleware.capabilities import forget, register
from resilience.middleware.provider import ResilienceProvider
from resilience.middleware.rotation import rotate, stop_rotating
from resilience.middleware.translation import PROVIDER
from resilience.middleware.wrapping import unwrap, wrap
from resilience.runtime import MultiProviderFallback

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from resilience.settings import Settings

# Where LiteLLM spreads a callback that stands in `litellm.callbacks` once a call has been made.
_LISTS: Final = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
_NAMES: Final = ("provider_list", "_custom_providers")

_LOCK: Final = threading.Lock()
_INSTALLED: Final[list[_Installation]] = []


@dataclass(eq=False)
class _Installation:
    """What stands in LiteLLM because of us.

    Attributes:
        runtime: Whose breakers and routes.
        owned: Whether it was made for this and goes with it.
        callback: In `litellm.callbacks`.
        entry: In `litellm.custom_provider_map`.
        displaced: Entries of the same provider name that stood there before.
        names: Which lists of provider names did not have ours.
        models: What we wrote into its model map.
        wrapped: Functions that stand behind ours.
        rotating: Routers whose sync rotation asks us.
        advising: Whether LiteLLM printed advice at errors before a runtime of ours turned it off.
    """

    runtime: MultiProviderFallback
    owned: bool
    callback: ResilienceCallback
    entry: dict[str, Any]
    displaced: list[Any]
    names: tuple[str, ...]
    models: tuple[str, ...]
    wrapped: list[Any]
    rotating: list[Any]
    advising: bool


def install(
    config: Settings | MultiProviderFallback | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    wrap_sync: bool = False,
    routers: Iterable[Any] = (),
) -> MultiProviderFallback:
    """Guard what goes through LiteLLM in this process.

    After it, ``litellm.completion(model="resilience/<route>", ...)`` and ``acompletion`` serve a route, from any
    framework that speaks LiteLLM; and bare async calls (``litellm.acompletion(model="openai/gpt-4o-mini")`` and
    its siblings) and async Routers ask their target's and their provider's breaker: a call to an open one is
    rejected before anything is sent, with an error that is both LiteLLM's (``litellm.ServiceUnavailableError``, or
    ``litellm.RateLimitError`` where a rate limit or a quota opened it) and a `resilience.CircuitOpenError`.

    Bare **sync** calls cannot be rejected by a callback of LiteLLM's; what they come to is recorded. Use
    ``resilience/<route>`` or `resilience.MultiProviderFallback` for them, or ``wrap_sync``.

    A **sync Router** asks once, after it has chosen: it then goes to its next group, past healthy siblings. Those
    given as ``routers`` leave open deployments out of their rotation, as async ones do by themselves.

    Whoever assigns ``litellm.callbacks`` or ``litellm.custom_provider_map`` anew afterwards takes us out.

    Args:
        config: As for `MultiProviderFallback`, or one that you have; it is then yours to close. None shares
            `resilience.default()`, also one configured later.
        wrap_sync: Replace ``litellm.completion``, ``text_completion`` and ``embedding`` by functions that ask
            first. ``from litellm import completion`` before it keeps the bare one.
        routers: ``litellm.Router`` objects whose sync calls are to rotate. Where LiteLLM's inside has changed,
            a warning says so and they do what other sync Routers do.

    Returns:
        The runtime behind it. Installing again replaces what was installed.

    Raises:
        ConfigurationError: The settings are wrong; what was installed before stays.
    """
    advising = not litellm.suppress_debug_info or any(installed.advising for installed in _INSTALLED)
    if config is None:
        runtime, owned, source = default(), False, default
    else:
        owned = not isinstance(config, MultiProviderFallback)
        runtime = config if isinstance(config, MultiProviderFallback) else MultiProviderFallback(config)
        source = lambda: runtime  # noqa: E731 (the one line that tells the two cases apart)
    callback = ResilienceCallback(source)
    entry = {"provider": PROVIDER, "custom_handler": ResilienceProvider(source)}
    with _LOCK:
        _take_out()
        litellm.suppress_debug_info = True  # the runtime's wish; one that was replaced has just taken its own back
        displaced = [item for item in litellm.custom_provider_map if item["provider"] == PROVIDER]
        names = tuple(name for name in _NAMES if PROVIDER not in getattr(litellm, name))
        for item in displaced:
            litellm.custom_provider_map.remove(item)
        litellm.custom_provider_map.append(entry)
        litellm_utils.custom_llm_setup()
        # Last: a guardrail that stands before it and says no has then taken no permit.
        litellm.callbacks.append(callback)
        models = register(runtime.settings)
        _INSTALLED.append(_Installation(runtime, owned, callback, entry, displaced, names, models, [], [], advising))
        if wrap_sync:
            _INSTALLED[-1].wrapped.extend(wrap(callback))
        _INSTALLED[-1].rotating.extend(router for router in routers if rotate(router, callback))
    return runtime


def uninstall() -> None:
    """Take everything out of LiteLLM again. Without an installation it does nothing.

    Calls in flight end as they would have. A runtime that `install` made is closed.
    """
    with _LOCK:
        _take_out()


def _take_out() -> None:
    for installed in _INSTALLED:
        for found in _callback_lists():
            _remove(found, installed.callback)
        providers = litellm.custom_provider_map
        if _remove(providers, installed.entry):
            providers.extend(installed.displaced)
        for name in installed.names:
            found = getattr(litellm, name)
            while PROVIDER in found:
                found.remove(PROVIDER)
        forget(installed.models)
        unwrap(installed.wrapped)
        for router in installed.rotating:
            stop_rotating(router)
        if installed.owned:
            installed.runtime.close()
            litellm.suppress_debug_info = not installed.advising
    _INSTALLED.clear()


def _callback_lists() -> Iterator[list[Any]]:
    for name in _LISTS:
        found = getattr(litellm, name, None)
        if isinstance(found, list):
            yield found
    yield litellm_utils.callback_list


def _remove(found: list[Any], what: object) -> bool:
    """Take ``what`` out, by identity: other people's entries may compare as they like."""
    places = [place for place, other in enumerate(found) if other is what]
    for place in reversed(places):
        del found[place]
    return bool(places)
