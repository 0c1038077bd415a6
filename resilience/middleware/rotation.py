"""Rotation of sync Routers: open deployments count among those that the Router itself has put aside."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from resilience.settings.adoption.router import member

if TYPE_CHECKING:
    from resilience.middleware.callbacks import ResilienceCallback

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
    seam = _seam(router)
    if seam is None or not isinstance(member(router, "model_list"), Sequence):
        warnings.warn(_CHANGED, stacklevel=3)
        return False
    place, name = seam
    original = getattr(place, name)

    def active(model_ids: Sequence[str], *rest: Any, **named: Any) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = list(original(model_ids, *rest, **named))
        put_aside = {identity for identity, _ in found}
        ours = _put_aside(member(router, "model_list"), put_aside, callback)
        return found + [(identity, _entry()) for identity in model_ids if identity in ours]

    setattr(place, name, active)
    return True


def stop_rotating(router: Any) -> None:
    """Take it out again."""
    for place, name, _ in _places(router):
        vars(place).pop(name, None)


def _seam(router: Any) -> tuple[Any, str] | None:
    for place, name, arguments in _places(router):
        if tuple(inspect.signature(getattr(place, name)).parameters) == arguments:
            return place, name
    return None


def _places(router: Any) -> list[tuple[Any, str, tuple[str, ...]]]:
    """Where Routers read who is put aside, and the arguments' names, of which others mean another LiteLLM."""
    cache = member(router, "cooldown_cache")
    store = getattr(cache, "cooldown_store", None)
    # Since 1.110 the Router's Rust core asks the store, which the cache asks as well; before, there is no such store.
    found = [(store, "active_sync", ("model_ids",)), (cache, "get_active_cooldowns", ("model_ids", "parent_otel_span"))]
    return [(place, name, arguments) for place, name, arguments in found if hasattr(place, name)]


def _put_aside(deployments: Sequence[Any], already: set[str], callback: ResilienceCallback) -> set[str]:
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
