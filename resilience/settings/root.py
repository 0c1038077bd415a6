"""The whole: routes, breakers and providers, what they share, and where they are read from."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from resilience.errors import UnknownNameError
from resilience.settings.breaker import BreakerSettings
from resilience.settings.complaints import (
    NOT_AVAILABLE,
    complaint,
    nearest,
    not_yet,
    path,
    refusal,
    shown,
    unknown_key,
)
from resilience.settings.routes import RouteSettings
from resilience.settings.section import Count, Flag, Section, Text, given_over
from resilience.settings.storage import checked_address

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic_core import InitErrorDetails

SHORT_FORM = ("primary_model", "fallback_model", "max_retries")


class ProviderSettings(Section):
    """What holds for one provider."""

    breaker: BreakerSettings = Field(BreakerSettings(), description="Left-out keys come from the top-level breaker.")
    max_concurrency: Count | None = Field(None, description="Calls in flight at the same time; null: no limit.")


class ProbingSettings(Section):
    """How a tripped breaker is tried again."""

    mode: Annotated[Literal["passive", "active"], AfterValidator(not_yet("active", allowed="'passive'"))] = Field(
        "passive",
        description="passive: a caller's own request. active: a request of the prober (not available in this version).",
    )


def _with_targets(route: RouteSettings) -> RouteSettings:
    if not route.targets:
        empty = complaint("a route needs at least one target", "targets")
        raise ValidationError.from_exception_data("RouteSettings", [empty], hide_input=True)
    return route


class Settings(Section):
    """Everything that can be set. An empty one is valid: decorators and the callback need no route."""

    default_route: Text | None = Field(None, description="The route of a request without a model. Default: the first.")
    routes: dict[Text, Annotated[RouteSettings, AfterValidator(_with_targets)]] = Field(
        default_factory=dict, description="Routes by name."
    )
    breaker: BreakerSettings = Field(BreakerSettings(), description="Every breaker's policy.")
    target_breaker: BreakerSettings = Field(
        BreakerSettings(), description="The policy of targets' breakers; left-out keys come from breaker."
    )
    providers: dict[Text, ProviderSettings] = Field(
        default_factory=dict,
        description="What holds for single providers; a key matches by longest prefix: azure also means "
        "azure/east.example.com:443.",
    )
    probing: ProbingSettings = Field(ProbingSettings(), description="Who probes a tripped breaker.")
    warm: Flag = Field(
        default=True, description="Load the providers' SDKs in the background at the start; sends nothing."
    )
    storage: Annotated[str | None, BeforeValidator(checked_address)] = Field(
        None,
        repr=False,
        description="Where breaker state lives. null: this process. redis://, rediss://, valkey:// or unix://: shared "
        "by every process that names the same store and prefix (?prefix=resilience).",
    )

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None) -> Settings:
        """Settings from wherever they stand.

        Args:
            source: A YAML or JSON file, a mapping, settings (returned as they are), or None: the file that
                the environment's RESILIENCE_CONFIG names, else empty settings.

        Raises:
            ConfigurationError: Names everything that is wrong, its path and what is allowed.
        """
        from resilience.settings.loading import load  # noqa: PLC0415 (it builds Settings: the import would go in a circle)

        return load(source)

    @classmethod
    def from_model_list(
        cls, model_list: Sequence[Mapping[str, Any]], fallbacks: Sequence[Any] = (), **router_arguments: Any
    ) -> Settings:
        """Settings from the arguments of a LiteLLM Router. What has no counterpart is named in one warning.

        Args:
            model_list: The Router's deployments; a group of them becomes a route.
            fallbacks: The Router's ``fallbacks``: the groups that follow in each route.
            **router_arguments: Any other argument of the Router.

        Raises:
            ConfigurationError: Names everything that is wrong, its path and what is allowed.
        """
        from resilience.settings.adoption import adopt  # noqa: PLC0415 (likewise)

        return adopt(model_list, fallbacks, router_arguments)

    def provider(self, name: str) -> ProviderSettings:
        """What holds for a provider: the entry with the longest matching prefix, else the defaults.

        A key matches whole words: ``azure`` means ``azure/east.example.com:443`` but not ``azure_ai``.
        """
        fits = [key for key in self.providers if _is_prefix(key, name)]
        return self.providers[max(fits, key=len)] if fits else ProviderSettings(breaker=self.breaker)

    def unmatched_providers(self, names: Iterable[str]) -> list[str]:
        """The keys of ``providers`` that mean none of these providers."""
        wanted = list(names)
        return [key for key in self.providers if not any(_is_prefix(key, name) for name in wanted)]

    def route(self, name: str | None = None) -> RouteSettings:
        """A route by its name, None for the default one.

        Raises:
            UnknownNameError: Lists the routes.
        """
        wanted = self.default_route if name is None else name
        if wanted in self.routes:
            return self.routes[wanted]
        if wanted is None:
            raise UnknownNameError("the settings have no routes, so there is no default route")
        raise UnknownNameError(_no_such_route(wanted, self.routes))

    def match(self, model: str) -> tuple[str, RouteSettings] | None:
        """The route that serves ``model``: the one of that name, else the longest wildcard route that fits.

        A route called ``openai/*`` serves every ``openai/...``; what the star stands for is put into its
        targets' models, as LiteLLM's Router does.

        Returns:
            The route's name in the settings and the route for this model, or None.
        """
        if model in self.routes:
            return model, self.routes[model]
        for name in sorted((name for name in self.routes if "*" in name), key=len, reverse=True):
            found = re.fullmatch("(.*)".join(map(re.escape, name.split("*"))), model, re.DOTALL)
            if found:
                route = self.routes[name]
                targets = tuple(target.starred(model, found.groups()) for target in route.targets)
                return name, route.model_copy(update={"targets": targets})
        return None

    @classmethod
    def _sort_keys(cls, data: dict[Any, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
        short = {key: data[key] for key in SHORT_FORM if key in data}
        known = [*cls.model_fields, *SHORT_FORM]
        # A route's, and not built yet: where it stands does not matter.
        wrong = [
            complaint(NOT_AVAILABLE if key == "hedge" else unknown_key(key, known), str(key))
            for key in data
            if key not in known
        ]
        if "model_list" in data:
            wrong.append(complaint("a LiteLLM Router's arguments go to Settings.from_model_list"))
        ours = {key: value for key, value in data.items() if key in cls.model_fields}
        if short:
            routes, more = _long_form(short, ours)
            wrong += more
            ours |= routes
        chosen, routes = ours.get("default_route"), ours.get("routes", {})
        if isinstance(chosen, str) and chosen.strip() and isinstance(routes, dict) and chosen not in routes:
            # Told here, from what was given: it is worth knowing also when a route has errors of its own.
            wrong.append(complaint(_no_such_route(ours.pop("default_route"), routes), "default_route"))
        return ours, wrong

    def _settle(self) -> list[InitErrorDetails]:
        if self.default_route is None:
            self._fill(default_route=next(iter(self.routes), None))
        wrong: list[InitErrorDetails] = []
        with _told_at(wrong, "target_breaker"):
            self._fill(target_breaker=given_over(self.breaker, self.target_breaker))
        merged = {}
        for name, provider in self.providers.items():
            with _told_at(wrong, "providers", name, "breaker"):
                merged[name] = provider.model_copy(update={"breaker": given_over(self.breaker, provider.breaker)})
        self._fill(providers=merged)
        return wrong + _names_told(self.routes)


def _is_prefix(key: str, name: str) -> bool:
    rest = name.removeprefix(key) if name.startswith(key) else None
    return rest is not None and (not rest or not key[-1].isalnum() or not (rest[0].isalnum() or rest[0] == "_"))


def _no_such_route(name: str, routes: Mapping[Any, Any]) -> str:
    known = [str(route) for route in routes]
    if not known:
        return f"{shown(name)} is not a route: there are no routes"
    near = nearest(name, known)
    guess = f"did you mean {near!r}? " if near else ""
    return f"{shown(name)} is not a route; {guess}routes: {', '.join(known)}"


def _long_form(short: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
    """The short form as a route called ``default``."""
    wrong = [
        complaint("the short form stands alone: name either routes or primary_model", key)
        for key in ("routes", "default_route")
        if key in ours
    ]
    models = [short.get("primary_model"), short.get("fallback_model")]
    if "primary_model" not in short:
        wrong.append(complaint("required", "primary_model"))
    for key in ("primary_model", "fallback_model"):
        # A fallback that is null is no fallback; a primary that is null is a mistake.
        blank = key in short and not (isinstance(short[key], str) and short[key].strip())
        if blank and not (key == "fallback_model" and short[key] is None):
            wrong.append(complaint(refusal(short[key], "a LiteLLM model string, such as openai/gpt-4o-mini"), key))
    retries = short.get("max_retries", RouteSettings().num_retries)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        wrong.append(complaint(refusal(retries, "a whole number, 0 or more"), "max_retries"))
    if wrong:
        return {}, wrong
    targets = [{"model": model} for model in models if model is not None]
    route: dict[str, Any] = {"targets": targets}
    if "max_retries" in short:
        route["num_retries"] = retries
    return {"routes": {"default": route}}, []


@contextmanager
def _told_at(wrong: list[InitErrorDetails], *loc: str) -> Iterator[None]:
    """Collect the errors of a merged section as errors at ``loc``."""
    try:
        yield
    except ValidationError as error:
        wrong += [complaint(found["msg"], *loc, *found["loc"]) for found in error.errors(include_url=False)]


def _names_told(routes: Mapping[str, RouteSettings]) -> list[InitErrorDetails]:
    """A name belongs to one target, and a target has one name."""
    wrong = []
    named: dict[str, tuple[str, str]] = {}
    names: dict[str, tuple[str, str]] = {}
    for route_name, route in routes.items():
        for at, target in enumerate(route.targets):
            if target.name is None:
                continue
            loc = ("routes", route_name, "targets", at, "name")
            here, core = path(loc[:-1]), target.core
            first_core, first_at = named.setdefault(target.name, (core, here))
            if first_core != core:
                text = f"{target.name!r} is the name of another target too ({first_at}); allowed: an own one"
                wrong.append(complaint(text, *loc))
                continue
            first_name, first_at = names.setdefault(core, (target.name, here))
            if first_name != target.name:
                text = f"{target.name!r} is the same target as {first_name!r} ({first_at}); allowed: one name"
                wrong.append(complaint(text, *loc))
    return wrong
