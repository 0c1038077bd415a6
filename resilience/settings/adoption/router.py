"""A Router object back into the arguments that it was made of, as far as it still knows them."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import ConfigurationError
from resilience.settings.adoption.arguments import MAPPED, WITHOUT_COUNTERPART

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a Router holds where nobody said anything; those are its habits and not its user's wishes. `default_fallbacks`
# it has already written into its fallbacks.
_HABITS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **WITHOUT_COUNTERPART,
        "allowed_fails": 3,
        "cooldown_time": 5,
        "default_fallbacks": None,
        "max_fallbacks": 5,
        "num_retries": 2,
        "retry_after": 0,
        "routing_strategy": "simple-shuffle",
        "timeout": 6000.0,
    }
)
# What a Router writes into every deployment.
_FILLED_IN: Final = frozenset(
    {
        "allow_client_keepalive_override",
        "db_model",
        "member_auto_router",
        "merge_reasoning_content_in_choices",
        "use_in_pass_through",
        "use_litellm_proxy",
        "use_xai_oauth",
    }
)
# ... and into what goes with every call.
_HABITS_OF_CALLS: Final = (("max_retries", 0), ("metadata", {"caching_groups": None}))
# Behind which entry point of a Router a member stands, where it has entry points (LiteLLM 1.109); the rest of them
# stand in its `settings()`, or still on itself.
_MOVED: Final = MappingProxyType(
    {
        "cache": ("health", "store"),
        "cooldown_cache": ("health", "cooldowns"),
        "model_group_alias": ("registry", "aliases"),
        "model_list": ("registry", "all"),
        "routing_groups": ("registry", "routing_groups"),
    }
)


def member(router: Any, name: str) -> Any:
    """One of a Router's members by its old name, wherever this LiteLLM keeps it; None where it has none.

    Args:
        router: A ``litellm.Router``.
        name: What the member was called before Routers had entry points.
    """
    entry, moved = _MOVED.get(name, ("settings", name))
    opened = getattr(router, entry, None)
    view = opened() if callable(opened) else None
    if not hasattr(view, moved):
        return getattr(router, name, None)
    found = getattr(view, moved)
    return found() if inspect.ismethod(found) else found


def arguments_of(router: Any) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """What `Settings.from_model_list` takes, read from a Router: the model list, the fallbacks, and the rest.

    A value that is the Router's own default is left out: then ours holds.

    Raises:
        ConfigurationError: It is not a Router.
    """
    model_list = member(router, "model_list")
    if not isinstance(model_list, list) or member(router, "model_group_alias") is None:
        raise ConfigurationError(f"{type(router).__name__} is not allowed; allowed: a litellm.Router")
    said = {}
    for name in sorted(MAPPED | WITHOUT_COUNTERPART.keys()):
        value = member(router, name)
        if value and value != _HABITS.get(name) and getattr(value, "model_fields_set", True):
            said[name] = value
    if getattr(member(router, "cache"), "redis_cache", None) is not None:
        said["redis_url"] = "given"
    if "default_litellm_params" in said:
        said["default_litellm_params"] = _without_filling(said["default_litellm_params"])
    return [_deployment(one) for one in model_list], list(member(router, "fallbacks") or ()), said


def _deployment(entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("litellm_params"), dict):
        return entry
    made = {**entry, "litellm_params": _without_filling(entry["litellm_params"])}
    if isinstance(entry.get("model_info"), dict):
        made["model_info"] = _without_filling(entry["model_info"])
    return made


def _without_filling(given: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in given.items() if value is not None and not _is_filling(key, value)}
    return {key: value for key, value in found.items() if value != {}}


def _is_filling(key: str, value: object) -> bool:
    return (key in _FILLED_IN and value is False) or (key, value) in _HABITS_OF_CALLS
