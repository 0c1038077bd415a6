"""LiteLLM's module state: what stands in it, put back after a test, and what of ours is in it."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

_MODULES: Final = ("litellm", "litellm.main", "litellm.utils")
# What LiteLLM keeps for itself: a cache of its model map's keys, and how often the map has changed.
_ITS_OWN: Final = frozenset(
    {"litellm.utils._model_cost_lowercase_map", "litellm.utils._model_cost_mutation_generation"}
)


def containers() -> dict[str, tuple[Any, Any]]:
    """Every list, dict and set at the top of LiteLLM's modules, by name, and a copy of what is in it."""
    found = {}
    for module in _MODULES:
        for name, value in list(vars(importlib.import_module(module)).items()):
            if isinstance(value, (list, dict, set)) and not name.startswith("__"):
                found[f"{module}.{name}"] = (value, _copy(value))
    return found


def put_back(before: dict[str, tuple[Any, Any]]) -> None:
    """Restore them: other objects and other contents; what LiteLLM has loaded since stays."""
    for path, (value, content) in before.items():
        module, _, name = path.rpartition(".")
        home = sys.modules[module]
        if getattr(home, name, None) is not value:
            setattr(home, name, value)
        if isinstance(value, list):
            value[:] = content
        elif isinstance(value, dict):
            if len(value) != len(content) or value.keys() != content.keys():
                value.clear()
                value.update(content)
        else:
            value.intersection_update(content)
            value.update(content)


def snapshot() -> dict[str, Any]:
    """Whatever stands at the top of LiteLLM's modules, deep enough to compare: content, identity, or value."""
    found: dict[str, Any] = {}
    for module in _MODULES:
        for name, value in list(vars(importlib.import_module(module)).items()):
            path = f"{module}.{name}"
            if name.startswith("__") or path in _ITS_OWN:
                continue
            if isinstance(value, (list, tuple)):
                found[path] = [_seen(item) for item in value]
            elif isinstance(value, (set, frozenset)):
                found[path] = {_seen(item) for item in value}
            elif isinstance(value, dict):
                found[path] = {key: _seen(item) for key, item in value.items()}
            else:
                found[path] = _seen(value)
    return found


def ours() -> list[str]:
    """Where in any of LiteLLM's loaded modules something of this package's stands, or its name."""
    return [
        f"{module}.{name}"
        for module, home in list(sys.modules.items())
        if module.partition(".")[0] == "litellm" and home is not None
        for name, value in list(vars(home).items())
        if not name.startswith("__") and _is_ours(value, depth=3)
    ]


def _is_ours(value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return value == "resilience" or value.startswith(("resilience/", "resilience."))
    if isinstance(value, type):
        return value.__module__.startswith("resilience.")
    if type(value).__module__.startswith("resilience.") or getattr(value, "__module__", "").startswith("resilience."):
        return True
    if not depth or not isinstance(value, (list, tuple, set, frozenset, dict)):
        return False
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
    return any(_is_ours(part, depth - 1) for part in parts)


def _copy(value: Any) -> Any:
    return value.copy()


def _seen(item: Any) -> Any:
    if item is None or isinstance(item, (str, int, float, bool, bytes)):
        return item
    if isinstance(item, dict) and len(item) < 200:
        return tuple(sorted((str(key), repr(part)) for key, part in item.items()))
    return id(item)
