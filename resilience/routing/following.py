"""Fallbacks of one call: what its caller wants asked after the route, as a Router's user writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import ConfigurationError
from resilience.routing.route import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALLOWED: Final = 'a list of models and routes, {"model": ...} with parameters, or {"route": ["next route"]}'


def followers(fallbacks: Any, model: str) -> list[tuple[str, dict[str, Any]]]:
    """What follows ``model``: names of routes or models, each with parameters of its own.

    Args:
        fallbacks: LiteLLM's forms: ``["claude", {"model": "gpt", "temperature": 0}]`` as its SDK takes them,
            ``[{"chat": ["spare"]}, {"*": ["last"]}]`` as its Router does.
        model: What the call asked for.

    Raises:
        ConfigurationError: It has another form.
    """
    if isinstance(fallbacks, str | Mapping) or not isinstance(fallbacks, Sequence):
        raise ConfigurationError(f"fallbacks: {type(fallbacks).__name__} is not allowed; allowed: {_ALLOWED}")
    found: list[tuple[str, dict[str, Any]]] = []
    tables: dict[str, list[Any]] = {}
    for item in fallbacks:
        if isinstance(item, Mapping) and "model" not in item:
            for name, entries in item.items():
                tables.setdefault(name, []).extend([entries] if isinstance(entries, str | Mapping) else entries)
        else:
            found.append(_entry(item))
    return found + [_entry(item) for item in tables.get(model, tables.get("*", []))]


def _entry(item: Any) -> tuple[str, dict[str, Any]]:
    named = item.get("model") if isinstance(item, Mapping) else item
    if not isinstance(named, str) or not named:
        raise ConfigurationError(f"fallbacks: an entry of {type(item).__name__} is not allowed; allowed: {_ALLOWED}")
    params = {key: value for key, value in item.items() if key != "model"} if isinstance(item, Mapping) else {}
    if "messages" in params or "input" in params:
        raise ConfigurationError("fallbacks: other messages for a fallback are not available; make a call of your own")
    return named, params


def joined(route: Route, following: Iterable[Route]) -> Route:
    """One route that asks ``route`` first and then each of those that follow, in order.

    It walks by the first one's settings; its number of attempts is raised so that nobody goes unasked. After a
    single model it stays one round, whose last error is the provider's own, as LiteLLM's SDK has it.
    """
    places, last = list(route.targets), max(place.order for place in route.targets)
    for other in following:
        places += [replace(place, order=place.order + last) for place in other.targets]
        last = max(place.order for place in places)
    settings = route.settings
    enough = len(places) * (1 + settings.num_retries)
    if settings.max_attempts < enough:
        settings = settings.model_copy(update={"max_attempts": enough})
    return Route(route.name or route.targets[0].name, tuple(places), settings, route.single)


def without_first(route: Route, following: Route | None) -> Route | None:
    """What is left when the first ones are taken as failed: LiteLLM's ``mock_testing_fallbacks``.

    Args:
        route: What was asked for.
        following: It with the call's own fallbacks, None without such: then its targets of the first order fail.

    Returns:
        None if nothing is left.
    """
    if following is not None:
        gone = {place.target.identity for place in route.targets}
        kept = [place for place in following.targets if place.target.identity not in gone]
        return Route(following.name, tuple(kept), following.settings, following.single) if kept else None
    rest = [place for group in route.groups[1:] for place in group]
    return Route(route.name, tuple(rest), route.settings, route.single) if rest else None
