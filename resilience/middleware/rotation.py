"""Rotation of sync Routers: open deployments count among those that the Router itself has put aside."""

from __future__ import annotations

import inspect
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

from resilience.settings.adoption.router import member

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilience.middleware.callbacks import ResilienceCallback

# What LiteLLM calls it by; another signature is another LiteLLM.
_SEAM: Final = "get_active_cooldowns"
_ARGUMENTS: Final = ("model_ids", "parent_otel_span")
_CHANGED: Final = (
    "this LiteLLM's Router has no place for a sync rotation that is known here; an open deployment is rejected after "
    "it was chosen, and the Router then goes to its next group"
)


def rotate(router: Any, callback: ResilienceCallback) -> bool:
    """Let a Router's sync calls leave open deployments out, as its async ones do.

    It is an inner part of LiteLLM's, on the one object only. A group that is open as a whole is left in: the check
    after the choice rejects it at once, where an empty group would be asked again after seconds.

    Returns:
        Whether it could be done; a warning says so where not.
    """
    cache = member(router, "cooldown_cache")
    original = getattr(cache, _SEAM, None)
    if original is None or not _fits(original) or not isinstance(member(router, "model_list"), list):
        warnings.warn(_CHANGED, stacklevel=3)
        return False

    def active(model_ids: list[str], parent_otel_span: Any) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = list(original(model_ids=model_ids, parent_otel_span=parent_otel_span))
        put_aside = {identity for identity, _ in found}
        ours = _put_aside(member(router, "model_list"), put_aside, callback)
        return found + [(identity, _entry()) for identity in model_ids if identity in ours]

    setattr(cache, _SEAM, active)
    return True


def stop_rotating(router: Any) -> None:
    """Take it out again."""
    vars(member(router, "cooldown_cache")).pop(_SEAM, None)


def _fits(function: Callable[..., Any]) -> bool:
    return tuple(inspect.signature(function).parameters) == _ARGUMENTS


def _put_aside(deployments: list[Any], already: set[str], callback: ResilienceCallback) -> set[str]:
    groups: dict[str, list[tuple[str, bool]]] = {}
    for one in deployments:
        identity = one["model_info"]["id"]
        out = identity in already or callback.is_out(one)
        groups.setdefault(one["model_name"], []).append((identity, out))
    return {
        identity
        for group in groups.values()
        if not all(out for _, out in group)
        for identity, out in group
        if out and identity not in already
    }


def _entry() -> dict[str, Any]:
    now = time.time()  # noqa: TID251 (LiteLLM's own entries hold the wall clock)
    return {"exception_received": "resilience: open", "status_code": "503", "timestamp": now, "cooldown_time": 1.0}
