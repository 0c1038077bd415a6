"""Adoption: the arguments of a LiteLLM Router as settings. What has no counterpart is named in one warning."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from resilience.errors import ConfigurationError
from resilience.settings.adoption.arguments import MAPPED, STRATEGIES, WITHOUT_COUNTERPART
from resilience.settings.adoption.followers import followers_of
from resilience.settings.adoption.groups import groups_of
from resilience.settings.adoption.policies import breakers_of
from resilience.settings.adoption.reading import Reading
from resilience.settings.adoption.routes import add_aliases, route_names, route_of
from resilience.settings.complaints import listed, nearest, refusal, told
from resilience.settings.root import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


def adopt(model_list: Any, fallbacks: Any, arguments: Mapping[str, Any]) -> Settings:
    """See `Settings.from_model_list`."""
    reading = Reading(arguments)
    _check_names(reading)
    groups = groups_of(model_list, reading)
    follow = followers_of(fallbacks, reading)
    breaker, target_breaker = breakers_of(reading)
    routes = {name: route_of(name, groups, follow, reading) for name in route_names(groups, follow, reading)}
    add_aliases(routes, reading)
    if reading.wrong:
        raise ConfigurationError(listed(reading.wrong, "the Router's arguments"))
    message = None
    try:
        settings = Settings.model_validate({"routes": routes, "breaker": breaker, "target_breaker": target_breaker})
    except ValidationError as error:
        message = told(error)
    if message is not None:  # outside the except clause: pydantic's error holds the values, keys included
        raise ConfigurationError(message)
    if reading.unmapped:
        named = "; ".join(f"{name} ({instead})" if instead else name for name, instead in reading.unmapped.items())
        warnings.warn(f"no exact counterpart for these arguments of a LiteLLM Router: {named}", stacklevel=3)
    return settings


def _check_names(reading: Reading) -> None:
    for name, value in reading.arguments.items():
        if name in MAPPED:
            continue
        if name not in WITHOUT_COUNTERPART:
            near = nearest(name, {*MAPPED, *WITHOUT_COUNTERPART})
            reading.error((name,), "not an argument of a Router" + (f"; did you mean {near!r}?" if near else ""))
        elif value and value != WITHOUT_COUNTERPART[name]:
            reading.leave_out(name)
    strategy = getattr(reading.arguments.get("routing_strategy"), "value", reading.arguments.get("routing_strategy"))
    if strategy is not None and strategy not in STRATEGIES:
        reading.error(("routing_strategy",), refusal(strategy, ", ".join(STRATEGIES)))
    elif strategy is not None and strategy != "simple-shuffle":
        reading.leave_out("routing_strategy", "targets of equal order share the load by weight")
