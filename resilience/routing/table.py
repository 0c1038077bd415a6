"""Which route serves a request: routes by name, single model strings, and callers' own credentials."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilience.errors import ConfigurationError
from resilience.routing.following import followers, joined, without_first
from resilience.routing.route import Route, RoutedTarget
from resilience.settings import RouteSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resilience.health.registry import HealthRegistry
    from resilience.settings import Settings, TargetSettings
    from resilience.upstream import Target

# A caller's value for one of these says who serves: another provider ...
_PLACES: Final = frozenset(
    {
        "api_base",
        "base_url",
        "custom_llm_provider",
        "aws_region",
        "aws_region_name",
        "aws_bedrock_runtime_endpoint",
        "vertex_location",
        "vertex_ai_location",
    }
)
_BASES: Final = frozenset({"api_base", "base_url"})
# ... or another account. Both make another target: a tenant's bad key opens nobody else's breaker.
CREDENTIALS: Final = _PLACES | {
    "api_key",
    "api_version",
    "organization",
    "azure_ad_token",
    "azure_ad_token_provider",
    "azure_username",
    "azure_password",
    "tenant_id",
    "client_id",
    "client_secret",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_session_name",
    "aws_profile_name",
    "aws_role_name",
    "aws_web_identity_token",
    "vertex_project",
    "vertex_ai_project",
    "vertex_credentials",
    "vertex_ai_credentials",
}
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

    Attributes:
        routes: Those of the settings by name, but for the wildcards.

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
        self.routes = self._build()
        self._alone = {
            place.target.name: Route(None, (place,), self._single, single=True)
            for route in self.routes.values()
            for place in route.targets
        }

    @property
    def targets(self) -> list[Target]:
        """Every target of the settings, once."""
        return list(
            {place.target.identity: place.target for route in self.routes.values() for place in route.targets}.values()
        )

    def find(self, model: str | None, params: Mapping[str, Any]) -> tuple[Route, dict[str, Any]]:
        """The route for a request, and the parameters that are left for its calls.

        Args:
            model: A route's name, a target's name, or a model string; None for the default route.
            params: The caller's LiteLLM parameters.

        Raises:
            ConfigurationError: ``model`` is neither; the message lists the routes.
        """
        credentials, rest = {}, dict(params)
        if not CREDENTIALS.isdisjoint(params):
            # What is None was not given: it must not hide the target's own.
            taken = {key: rest.pop(key) for key in params.keys() & CREDENTIALS}
            credentials = {key: value for key, value in taken.items() if value is not None}
        name = self._settings.default_route if model is None else model
        if name is None:
            raise ConfigurationError(
                "no model was given and the settings have no route; give a model string, such as openai/gpt-4o-mini"
            )
        if not isinstance(name, str):
            raise ConfigurationError(
                f"model: {name!r} is not allowed; allowed: a route's name, a model string, None for the default route"
            )
        route = self.routes.get(name)
        if route is not None and not credentials:
            return route, rest
        return self._remembered(name, credentials), rest

    def following(self, route: Route, model: str | None, fallbacks: Any, *, is_mock: bool) -> Route | None:
        """The route with a call's own fallbacks after it. The caller's credentials are not theirs.

        Args:
            route: What serves first.
            model: What the caller asked for.
            fallbacks: As LiteLLM takes them, None for none.
            is_mock: LiteLLM's ``mock_testing_fallbacks``: the route's first order is taken as failed; with
                ``fallbacks`` all of it.

        Returns:
            None if ``is_mock`` leaves nothing.

        Raises:
            ConfigurationError: They have a form that is not known, or name a model that nobody knows.
        """
        wanted = followers(fallbacks, model if model is not None else route.name or "") if fallbacks else []
        made = [self._follower(name, params) for name, params in wanted]
        key = ("following", is_mock, route, *(place.target.identity for one in made for place in one.targets))
        if not is_mock:
            return self._derived(key, lambda: joined(route, made)) if made else route
        left = without_first(route, joined(route, made) if made else None)
        return self._derived(key, lambda: left) if left is not None else None

    def _follower(self, name: str, params: dict[str, Any]) -> Route:
        if not params:
            return self.find(name, {})[0]
        key = (name, "with", tuple(sorted((key, _hashable(value)) for key, value in params.items())))
        return self._derived(key, lambda: self._make(name, params))

    def pinned(self, route: Route, target: Target) -> Route:
        """The route with this target only, for what cannot move."""
        return self._derived((route, target.identity), lambda: _with(route, [target]))

    def embedding(self, route: Route) -> Route:
        """The part of a route that answers in the same vector space: the first target's model and dimensions."""
        return self._derived((route, "embedding"), lambda: _with(route, _same_space(route)))

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()

    def _remembered(self, name: str, credentials: dict[str, Any]) -> Route:
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

    def _make(self, name: str, credentials: dict[str, Any]) -> Route:
        route = self.routes.get(name) or self._alone.get(name) or self._fitting(name)
        if route is None:
            route = self._of_model(name, credentials)
        elif credentials:
            places = [replace(place, target=self._with(place.target, credentials)) for place in route.targets]
            route = replace(route, targets=tuple(places))
        places = [replace(place, target=self._registry.add(place.target)) for place in route.targets]
        return replace(route, targets=tuple(places))

    def _of_model(self, name: str, credentials: dict[str, Any]) -> Route:
        try:
            target = self._make_target(name, credentials, dynamic=True)
        except ConfigurationError as error:
            routes = ", ".join(self._settings.routes) or "none"
            raise ConfigurationError(f"{name!r} is not a route (routes: {routes}), and {error}") from error
        place = RoutedTarget(_distinct(target) if credentials else target, 1, 1.0, self._single.timeouts)
        return Route(None, (place,), self._single, single=True)

    def _fitting(self, name: str) -> Route | None:
        """The wildcard route that serves a model. Its targets come and go with the models that are asked for."""
        found = self._settings.match(name)
        if found is None:
            return None
        label, settings = found
        if label == name:
            raise ConfigurationError(f"route {name!r} is a pattern; allowed: a model that fits it")
        made = [(replace(self._target(one), dynamic=True), one) for one in settings.targets]
        return Route(label, tuple(_placed(target, one) for target, one in made), settings)

    def _build(self) -> dict[str, Route]:
        """The routes of the settings, but for the wildcards."""
        wanted = {name: route for name, route in self._settings.routes.items() if "*" not in name}
        made = {name: [(self._target(one), one) for one in route.targets] for name, route in wanted.items()}
        names = _names([pair for pairs in made.values() for pair in pairs])
        routes = {}
        for name, pairs in made.items():
            places = [_placed(self._registry.add(replace(t, name=names[t.identity])), one) for t, one in pairs]
            routes[name] = Route(name, tuple(places), wanted[name])
            self._registry.add_route(name, [place.target for place in places])
        return routes

    def _target(self, wanted: TargetSettings) -> Target:
        return self._make_target(wanted.model, wanted.params, provider=wanted.provider, name=wanted.name)

    def _with(self, target: Target, credentials: dict[str, Any]) -> Target:
        """The same model for another account or at another place."""
        provider = target.provider if credentials.keys().isdisjoint(_PLACES) else None
        # An address has two names: the caller's, by either, takes the place of ours.
        gone = frozenset() if _BASES.isdisjoint(credentials) else _BASES
        params = {key: value for key, value in target.params.items() if key not in gone} | credentials
        made = self._make_target(target.model, params, name=target.name, provider=provider, dynamic=True)
        return _distinct(made)


def _names(made: Sequence[tuple[Target, TargetSettings]]) -> dict[str, str]:
    """A name for each different target, by identity: its own, else the model string, then model#2 and so on."""
    names = {target.identity: wanted.name for target, wanted in made if wanted.name is not None}
    taken = set(names.values())
    for target, _ in made:
        if target.identity not in names:
            numbered = (f"{target.model}#{number}" for number in count(2))
            name = next(name for name in chain([target.model], numbered) if name not in taken)
            names[target.identity] = name
            taken.add(name)
    return names


def _distinct(target: Target) -> Target:
    # Ten digits of the digest: nothing can be read back from them, and ten thousand tenants do not collide.
    return replace(target, name=f"{target.name}@{target.identity[:10]}")


def _placed(target: Target, wanted: TargetSettings) -> RoutedTarget:
    return RoutedTarget(target, wanted.order or 1, wanted.weight, wanted.timeouts, wanted.prefill)


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
