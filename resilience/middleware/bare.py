"""Bare calls: which target a call belongs to that LiteLLM makes without our engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from litellm import get_llm_provider

from resilience.errors import ConfigurationError
from resilience.middleware.targets import build_target, derive_provider
from resilience.middleware.translation import PROVIDER
from resilience.routing.table import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.health.registry import HealthRegistry
    from resilience.upstream import Target

# Callers' keys and models; past it the memory starts anew, which costs each of them some microseconds once.
_REMEMBERED: Final = 10_000


class BareTargets:
    """Finds the target of a call by its model and credentials, and remembers it.

    The same model and credentials as a target of the settings are that target, with its breaker; anything else is
    a dynamic one. A model of the custom provider is none: the engine judges its attempts itself.
    """

    def __init__(self) -> None:
        self._found: dict[object, Target | None] = {}
        self._registry: HealthRegistry | None = None

    def find(self, registry: HealthRegistry, model: str | None, params: Mapping[str, Any]) -> Target | None:
        """The registered target of a call, None where there is nothing to guard.

        Args:
            registry: Where targets are registered.
            model: The model string that LiteLLM was given.
            params: The call's parameters, or a Router deployment's ``litellm_params``.
        """
        if registry is not self._registry:
            self._registry, self._found = registry, {}
        # In the order of the caller's own keywords: another order is another entry for the same target.
        given = [part for item in params.items() if item[0] in CREDENTIALS and item[1] is not None for part in item]
        key: object = (model, *given)
        try:
            return self._found[key]
        except KeyError:
            pass
        except TypeError:  # credentials in a dict, as Vertex takes them
            key = repr(key)
            if key in self._found:
                return self._found[key]
        if len(self._found) >= _REMEMBERED:
            self._found = {}
        found = self._found[key] = _target(registry, model, params)
        return found

    def find_sent(
        self, registry: HealthRegistry, family: str, model: str, base: str | None, key: str | None
    ) -> Target | None:
        """The registered target of a call that has been sent, by what LiteLLM's log tells of it.

        LiteLLM has filled in and rewritten addresses and keys by then: the same provider, model and key is the
        same target.

        Args:
            registry: Where targets are registered.
            family: LiteLLM's provider name.
            model: The model's name, with its prefix or without.
            base: The address that was asked.
            key: The key that was sent.
        """
        model = model if model.startswith(f"{family}/") else f"{family}/{model}"
        _, _, default_key, default_base = get_llm_provider(model)
        params = {"api_base": base if base and _host(base) != _host(default_base) else None}
        params["api_key"] = key if key != default_key else None
        sought = {name: value for name, value in params.items() if value}
        provider = derive_provider(model, sought)
        like = [
            target
            for name in list(registry.targets)
            if (target := registry.target(name)) is not None
            and target.provider == provider
            and model in {target.model, f"{family}/{target.model}"}
        ]
        for wanted in (key, None):
            for target in like:
                if target.params.get("api_key") == wanted:
                    return target
        return self.find(registry, model, sought)


def _host(base: str | None) -> str | None:
    return urlsplit(base).netloc if base else None


def _target(registry: HealthRegistry, model: str | None, params: Mapping[str, Any]) -> Target | None:
    if not isinstance(model, str) or not model:
        return None
    if model.startswith(f"{PROVIDER}/") or params.get("custom_llm_provider") == PROVIDER:
        return None
    credentials = {name: params[name] for name in CREDENTIALS if params.get(name) is not None}
    try:
        target = build_target(model, credentials, dynamic=True)
    except ConfigurationError:
        return None  # LiteLLM will say what is wrong with it
    known = registry.known(target)
    if known is not None:
        return known
    if credentials or registry.target(model) is not None:
        target = replace(target, name=f"{model}@{target.identity[:6]}")
    return registry.add(target)
