"""Which route serves a request: routes by name, single model strings, and callers' own credentials."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilience.errors import ConfigurationError
from resilience.routing.route import Route, RoutedTarget
from resilience.settings import RouteSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from resilience.health.registry import HealthRegistry
    from resilience.settings import Settings, TargetSettings
    from resilience.upstream import Target

# A caller's value for one of these makes another target: a tenant's bad key opens nobody else's breaker.
CREDENTIALS: Final = frozenset(
    {
        "api_key",
        "api_base",
        "base_url",
        "api_version",
        "organization",
        "custom_llm_provider",
        "azure_ad_token",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_region_name",
        "aws_profile_name",
        "aws_role_name",
        "vertex_project",
        "vertex_location",
        "vertex_credentials",
    }
)
# Routes made for callers' own models and keys; the registry bounds their breakers by itself.
_REMEMBERED: Final = 1024


class MakeTarget(Protocol):
    """Makes a target of a model and its parameters; `resilience.middleware.targets.build_target`."""

    def __call__(
        self,
        model: str,
        params: Mapping[str, Any],
        *,
        name: str | None = None,
        provider: str | None = None,
        dynamic: bool = False,
    ) -> Target:
        """Make it, or raise ConfigurationError for a model that nobody knows."""
        ...


class RouteTable:
    """Every route of the settings, and those made on the way for single models and callers' own keys.

    Args:
        settings: The routes.
        registry: Where targets are registered.
        make_target: Makes a target of a model and its parameters.

    Raises:
        ConfigurationError: A target's model has no provider that LiteLLM knows.
    """

    def __init__(self, settings: Settings, registry: HealthRegistry, make_target: MakeTarget) -> None:
        self._settings = settings
        self._registry = registry
        self._make_target = make_target
        self._lock = threading.Lock()
        self._made: OrderedDict[object, Route] = OrderedDict()
        self._single = RouteSettings(on_exhausted="fail")
        self._names: set[str] = set()
        self._routes: dict[str, Route] = {}
        for name, route in settings.routes.items():
            if "*" not in name:
                self._routes[name] = self._build(name, route)
                registry.add_route(name, [place.target for place in self._routes[name].targets])
        self._by_name = {place.target.name: place for route in self._routes.values() for place in route.targets}

    @property
    def targets(self) -> list[Target]:
        """Every target of the settings, once."""
        return list(
            {place.target.identity: place.target for route in self._routes.values() for place in route.targets}.values()
        )

    def find(self, model: str | None, params: Mapping[str, Any]) -> tuple[Route, dict[str, Any]]:
        """The route for a request, and the parameters that are left for its calls.

        Args:
            model: A route's name, a target's name, or a model string; None for the default route.
            params: The caller's LiteLLM parameters.

        Raises:
            ConfigurationError: ``model`` is neither; the message lists the routes.
        """
        credentials = {key: params[key] for key in params.keys() & CREDENTIALS if params[key] is not None}
        rest = {key: value for key, value in params.items() if key not in CREDENTIALS} if credentials else dict(params)
        name = self._settings.default_route if model is None else model
        if name is None:
            raise ConfigurationError(
                "no model was given and the settings have no route; give a model string, such as openai/gpt-4o-mini"
            )
        route = self._routes.get(name)
        if route is not None and not credentials:
            return route, rest
        return self._remembered(name, credentials), rest

    def pinned(self, route: Route, target: Target) -> Route:
        """The route with this target only, for what cannot move."""
        return self._derived((route, target.identity), lambda: _with(route, [target]))

    def embedding(self, route: Route) -> Route:
        """The part of a route that answers in the same vector space: the first target's model and dimensions."""
        return self._derived((route, "embedding"), lambda: _with(route, _same_space(route)))

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()

    def _remembered(self, name: str, credentials: Mapping[str, Any]) -> Route:
        key = (name, tuple(sorted((key, _hashable(value)) for key, value in credentials.items())))
        return self._derived(key, lambda: self._make(name, credentials))

    def _derived(self, key: object, make: Any) -> Route:
        with self._lock:
            route = self._made.get(key)
            if route is not None:
                self._made.move_to_end(key)
                return route
        made: Route = make()
        with self._lock:
            route = self._made.setdefault(key, made)
            while len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        return route

    def _make(self, name: str, credentials: Mapping[str, Any]) -> Route:
        known = self._routes.get(name)
        if known is not None:
            places = [self._with_credentials(place, credentials) for place in known.targets]
            return Route(known.name, tuple(places), known.settings)
        place = self._by_name.get(name)
        if place is not None:  # a target's own name: that target alone, with the parameters of the settings
            place = self._with_credentials(place, credentials) if credentials else place
            return Route(None, (place,), self._single, single=True)
        matched = self._settings.match(name)
        if matched is not None:
            wildcard, settings = matched
            return self._build(name, settings, credentials, dynamic=True, label=wildcard)
        try:
            target = self._make_target(name, credentials, dynamic=True)
        except ConfigurationError as error:
            raise ConfigurationError(self._unknown(name)) from error
        return Route(None, (self._place(self._add(target), None),), self._single, single=True)

    def _build(
        self,
        name: str,
        settings: RouteSettings,
        credentials: Mapping[str, Any] | None = None,
        *,
        dynamic: bool = False,
        label: str | None = None,
    ) -> Route:
        places = []
        for wanted in settings.targets:
            params = {**wanted.params, **(credentials or {})}
            provider = None if credentials else wanted.provider
            target = self._make_target(wanted.model, params, provider=provider, name=wanted.name, dynamic=dynamic)
            places.append(self._place(self._add(target, named=wanted.name is not None), wanted))
        return Route(label or name, tuple(places), settings)

    def _with_credentials(self, place: RoutedTarget, credentials: Mapping[str, Any]) -> RoutedTarget:
        model = place.target.model
        params = {**place.target.params, **credentials}
        keeps_provider = credentials.keys().isdisjoint({"api_base", "base_url", "custom_llm_provider"})
        target = self._make_target(
            model,
            params,
            name=place.target.name,
            provider=place.target.provider if keeps_provider else None,
            dynamic=True,
        )
        return RoutedTarget(self._add(target), place.order, place.weight, place.timeouts, place.prefill)

    def _add(self, target: Target, *, named: bool = False) -> Target:
        """Register under a name of its own: the model string, then model#2 and so on for different ones."""
        registered = self._registry.known(target)
        if registered is not None:
            return registered
        if target.dynamic:
            name = f"{target.name}@{target.identity[:6]}" if target.params else target.name
            return self._registry.add(_renamed(target, name))
        name, number = target.name, 1
        while name in self._names and not named:
            number += 1
            name = f"{target.name}#{number}"
        self._names.add(name)
        return self._registry.add(_renamed(target, name))

    @staticmethod
    def _place(target: Target, wanted: TargetSettings | None) -> RoutedTarget:
        if wanted is None:
            return RoutedTarget(target, 1, 1.0, RouteSettings().timeouts)
        return RoutedTarget(target, wanted.order or 1, wanted.weight, wanted.timeouts, wanted.prefill)

    def _unknown(self, name: str) -> str:
        routes = ", ".join(self._settings.routes) or "none"
        return f"{name!r} is neither a route nor a model that LiteLLM knows a provider for; routes: {routes}"


def _renamed(target: Target, name: str) -> Target:
    if target.name == name:
        return target
    return type(target)(name, target.provider, target.model, target.params, target.identity, target.dynamic)


def _with(route: Route, targets: Iterable[Target]) -> Route:
    kept = {target.identity for target in targets}
    places = tuple(place for place in route.targets if place.target.identity in kept)
    return route if len(places) == len(route.targets) else Route(route.name, places, route.settings, route.single)


def _same_space(route: Route) -> list[Target]:
    first = route.targets[0].target
    return [place.target for place in route.targets if _space(place.target) == _space(first)]


def _space(target: Target) -> tuple[str, Any]:
    # A provider's prefix does not change the model: openai/text-embedding-3-small is azure/text-embedding-3-small.
    return target.model.rsplit("/", 1)[-1], target.params.get("dimensions")


def _hashable(value: Any) -> object:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
