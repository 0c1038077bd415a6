"""Capabilities: what LiteLLM's model map says of ``resilience/<route>``: that which all its targets can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import litellm

from resilience.middleware.translation import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilience.settings import Settings

_ABLE: Final = "supports_"
_LIMITS: Final = ("max_input_tokens", "max_output_tokens", "max_tokens", "output_vector_size")


def register(settings: Settings) -> tuple[str, ...]:
    """Write every route of the settings into LiteLLM's model map. Prices are none of it: the attempts have them.

    Returns:
        What was written, for `forget`.
    """
    made = {}
    for name, route in settings.routes.items():
        info = None if "*" in name else common(_info(target.model) for target in route.targets)
        if info is not None and f"{PROVIDER}/{name}" not in litellm.model_cost:
            made[f"{PROVIDER}/{name}"] = {**info, "litellm_provider": PROVIDER}
    if made:
        # Into the map itself: `litellm.register_model` notes it in further places, out of which nothing takes it.
        litellm.model_cost.update(made)
        _forget_lookups()
    return tuple(made)


def forget(names: Iterable[str]) -> None:
    """Take them out again."""
    gone = [name for name in names if litellm.model_cost.pop(name, None) is not None]
    if gone:
        _forget_lookups()


def _forget_lookups() -> None:
    """LiteLLM remembers what it has looked up; a map that has changed must be read again."""
    invalidate = getattr(litellm.utils, "_invalidate_model_cost_lowercase_map", None)
    if invalidate is not None:
        invalidate()


def common(infos: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What all of them can do, and the smallest of their limits; None where one of them is unknown."""
    known = list(infos)
    if not known or any(info is None for info in known):
        return None
    every = [info for info in known if info is not None]
    able = {key for info in every for key in info if key.startswith(_ABLE)}
    found: dict[str, Any] = {key: all(info.get(key) is True for info in every) for key in able}
    for key in _LIMITS:
        limits = [info.get(key) for info in every]
        if all(isinstance(limit, int) for limit in limits):
            found[key] = min(limit for limit in limits if limit is not None)
    modes = {info.get("mode") for info in every}
    if len(modes) == 1 and None not in modes:
        found["mode"] = modes.pop()
    return found


def _info(model: str) -> Mapping[str, Any] | None:
    try:
        return litellm.get_model_info(model)  # type: ignore[no-any-return]  # LiteLLM is Any to the checker
    except Exception:  # noqa: BLE001 (LiteLLM raises a plain Exception for a model that it does not know)
        return None
