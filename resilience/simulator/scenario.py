"""Scenarios: what a simulation is told of traffic, providers, outages and processes. Values only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, WrapValidator

from resilience.errors import ConfigurationError
from resilience.outcome import Kind
from resilience.settings import Settings  # noqa: TC001 (pydantic reads it when the model is built)
from resilience.settings.complaints import complaint, nearest, says, told
from resilience.settings.loading import read_mapping
from resilience.settings.section import Count, CountOrZero, Factor, Flag, Seconds, SecondsOrZero, Section, Share, Text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from pydantic_core import InitErrorDetails

    from resilience.settings import RouteSettings, TargetSettings

_Number = Field(strict=True, allow_inf_nan=False)
ShareOrZero = Annotated[float, _Number, Field(ge=0, le=1), WrapValidator(says("a number from 0 to 1"))]
Rate = Annotated[float, _Number, Field(gt=0), WrapValidator(says("a number above 0"))]
Sigma = Annotated[float, _Number, Field(ge=0), WrapValidator(says("a number, 0 or more"))]
Price = Annotated[float, _Number, Field(ge=0), WrapValidator(says("US dollars, 0 or more"))]
Seed = Annotated[int, Field(strict=True, ge=0), WrapValidator(says("a whole number, 0 or more"))]

Fails = Literal[
    "server_error",
    "connection",
    "overloaded",
    "malformed",
    "empty",
    "rate_limited",
    "quota_exhausted",
    "auth",
    "model_unavailable",
    "bad_request",
    "hang",
    "slow",
    "cut",
    "stall",
]
WHOLE_KINDS: Final = {
    "server_error": (Kind.SERVER_ERROR, 503),
    "connection": (Kind.CONNECTION, None),
    "overloaded": (Kind.OVERLOADED, 529),
    "malformed": (Kind.MALFORMED, 200),
    "rate_limited": (Kind.RATE_LIMITED, 429),
    "quota_exhausted": (Kind.QUOTA_EXHAUSTED, 429),
    "auth": (Kind.AUTH, 401),
    "model_unavailable": (Kind.MODEL_UNAVAILABLE, 404),
    "bad_request": (Kind.BAD_REQUEST, 400),
}
"""Ways to fail that answer with an error, and its HTTP status."""


def _unused(section: Section, kind: str, uses: Mapping[str, str]) -> list[InitErrorDetails]:
    """A key that only means something under another ``kind`` was meant for one."""
    said = section.model_fields_set
    return [complaint(f"only {of} uses it, not {kind}", name) for name, of in uses.items() if name in said]


class LatencySettings(Section):
    """How long an answer takes."""

    kind: Literal["lognormal", "constant"] = Field("lognormal", description="The distribution.")
    median_seconds: Seconds = Field(1.0, description="Half of the answers are here by then.")
    sigma: Sigma = Field(0.4, description="Spread of the logarithm: 0.4 puts the 99th percentile at 2.5 medians.")

    def _settle(self) -> list[InitErrorDetails]:
        return _unused(self, "constant", {"sigma": "lognormal"}) if self.kind == "constant" else []


class CapacitySettings(Section):
    """What a target takes before it refuses: a bucket of tokens, one a request."""

    per_second: Rate = Field(..., description="Requests a second that it serves for ever.")
    burst: Count | None = Field(None, description="Requests at once. Default: one second's.")
    answers: Literal["rate_limited", "slow_down"] = Field(
        "rate_limited", description="rate_limited: 429. slow_down: OpenAI's word for traffic that grew too fast."
    )
    retry_after_seconds: SecondsOrZero | None = Field(None, description="Its Retry-After; null: none is sent.")


class OutageSettings(Section):
    """One incident."""

    fails: Fails = Field("server_error", description="How its requests fail, in the words of the table of outcomes.")
    at_seconds: SecondsOrZero = Field(..., description="When it starts.")
    lasts_seconds: Seconds = Field(..., description="For how long.")
    share: Share = Field(1.0, description="Of the requests, which it strikes: below 1 it is a grey one.")
    targets: tuple[Text, ...] | None = Field(None, description="Which ones, by name; null: all of the provider.")
    flaps_seconds: Seconds | None = Field(None, description="On and off for so long each; null: on all the time.")
    retry_after_seconds: SecondsOrZero | None = Field(None, description="Its Retry-After; null: none is sent.")
    slowdown: Factor = Field(10.0, description="slow: how many times longer an answer takes.")
    hang_share: ShareOrZero = Field(0.0, description="slow: in its second half, so many requests never end.")

    def _settle(self) -> list[InitErrorDetails]:
        wrong = _unused(self, self.fails, {"slowdown": "slow", "hang_share": "slow"}) if self.fails != "slow" else []
        if self.fails not in {"rate_limited", "overloaded", "server_error", "quota_exhausted"}:
            wrong += _unused(self, self.fails, {"retry_after_seconds": "an answer with an HTTP status of its own"})
        return wrong


class TraceSettings(Section):
    """Incidents drawn from published statistics; see `resilience.simulator.traces` for each number's source."""

    published: Literal["openai", "anthropic"] = Field(..., description="Whose statistics.")
    outages: CountOrZero | None = Field(None, description="How many; null: as often as was published.")
    longest_seconds: Seconds = Field(86400.0, description="A longer one is cut to this.")
    model_only_share: ShareOrZero = Field(0.3, description="How many strike one target and spare its siblings.")


class TargetModel(Section):
    """What one target is like. Left-out keys come from its provider."""

    latency: LatencySettings = Field(LatencySettings(), description="Of a whole answer.")
    first_token: LatencySettings | None = Field(None, description="Of a stream; null: a quarter of its answer's.")
    capacity: CapacitySettings | None = Field(None, description="null: it takes everything.")
    price_usd: Price = Field(0.0, description="Of one answer.")


class ProviderModel(TargetModel):
    """What a provider is like, and what befalls it."""

    outages: tuple[OutageSettings, ...] = Field((), description="Its incidents.")
    trace: TraceSettings | None = Field(None, description="More of them, drawn from published statistics.")
    targets: dict[Text, TargetModel] = Field(default_factory=dict, description="What is different for a target.")

    def model_of(self, target: str) -> TargetModel:
        """A target's own keys over the provider's."""
        own = self.targets.get(target)
        said = {} if own is None else {name: getattr(own, name) for name in own.model_fields_set}
        return TargetModel.model_validate({**{name: getattr(self, name) for name in TargetModel.model_fields}, **said})


class TrafficSettings(Section):
    """Who asks, and when."""

    arrivals: Literal["poisson", "constant", "diurnal", "bursts"] = Field("poisson", description="The process.")
    per_second: Rate = Field(10.0, description="Requests a second, on the average.")
    peak_factor: Factor = Field(3.0, description="diurnal: the busiest hour over the quietest.")
    day_seconds: Seconds = Field(86400.0, description="diurnal: the length of a day.")
    burst_every_seconds: Seconds = Field(60.0, description="bursts: from one burst to the next.")
    burst_requests: Count = Field(100, description="bursts: how many come at the same moment, beside the others.")
    stream_share: ShareOrZero = Field(0.0, description="Of the requests, which ask for a stream.")
    deadline_seconds: Seconds | None = Field(None, description="The callers' own timeout; null: the route's.")

    def _settle(self) -> list[InitErrorDetails]:
        uses = {
            "diurnal": ("peak_factor", "day_seconds"),
            "bursts": ("burst_every_seconds", "burst_requests"),
        }
        others = {name: kind for kind, names in uses.items() if kind != self.arrivals for name in names}
        return _unused(self, self.arrivals, others)


class AwaySettings(Section):
    """A time without the store."""

    at_seconds: SecondsOrZero = Field(..., description="From when.")
    lasts_seconds: Seconds = Field(..., description="For how long.")


class FleetSettings(Section):
    """Processes that serve the same traffic, and how they share what they know."""

    processes: Count = Field(1, description="Requests go to them in turn.")
    shared: Flag = Field(default=False, description="Whether they share a store; else each learns by itself.")
    delay_seconds: Seconds = Field(0.002, description="Median of one way to the store and of a message; lognormal.")
    lost_share: ShareOrZero = Field(0.0, description="Of the messages between processes, which never arrive.")
    away: tuple[AwaySettings, ...] = Field((), description="When the store cannot be reached.")


class WatchSettings(Section):
    """Simulate only the time around incidents, and count the rest at what was seen before them."""

    before_seconds: Seconds = Field(600.0, description="Before each incident; also the measure of quiet time.")
    after_seconds: Seconds = Field(900.0, description="After its end: recovery takes its time.")


class Scenario(Section):
    """A whole simulation."""

    about: Text = Field("a simulation", description="One sentence for the report.")
    seed: Seed = Field(1, description="Of all chance.")
    lasts_seconds: Seconds = Field(600.0, description="How long requests arrive.")
    route: Text | None = Field(None, description="Which route serves; null: the default route.")
    settings: Settings = Field(..., description="The settings that are tried out, as `resilience check` reads them.")
    traffic: TrafficSettings = Field(TrafficSettings(), description="Who asks, and when.")
    providers: dict[Text, ProviderModel] = Field(default_factory=dict, description="By the targets' providers.")
    fleet: FleetSettings = Field(FleetSettings(), description="Who serves.")
    watch: WatchSettings | None = Field(None, description="null: all of the time is simulated.")

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Scenario) -> Scenario:
        """A scenario from a YAML or JSON file, or from a mapping.

        Raises:
            ConfigurationError: It cannot be read or something in it is wrong; the message names what, where, and
                what is allowed.
        """
        if isinstance(source, Scenario):
            return source
        data, called = read_mapping(source, "the scenario")
        return validated(cls, data, called)

    @property
    def route_name(self) -> str:
        """The route that serves."""
        return self.route or self.settings.default_route or next(iter(self.settings.routes))

    @property
    def places(self) -> tuple[TargetSettings, ...]:
        """The targets of that route."""
        return self.settings.routes[self.route_name].targets

    @property
    def route_settings(self) -> RouteSettings:
        """The settings of that route."""
        return self.settings.routes[self.route_name]

    def _settle(self) -> list[InitErrorDetails]:
        if not self.settings.routes:
            return [complaint("a simulation needs at least one route", "settings", "routes")]
        if self.settings.storage is not None:
            return [complaint("not allowed here; fleet: {shared: true} simulates a store", "settings", "storage")]
        if self.route is not None and self.route not in self.settings.routes:
            return [_unknown(self.route, self.settings.routes, "route")]
        twins = self._twins()
        return twins or [wrong for name, model in self.providers.items() for wrong in self._wrong_in(name, model)]

    def _twins(self) -> list[InitErrorDetails]:
        """Different targets of one model need names: this file speaks of them by name."""
        known: dict[str, object] = {}
        for route, settings in self.settings.routes.items():
            for at, place in enumerate(settings.targets):
                name, what = place.name or place.model, (place.model, provider_of(place), place.params)
                if known.setdefault(name, what) != what:
                    told = f"another target is called {name!r} already; give one of them a name"
                    return [complaint(told, "settings", "routes", route, "targets", at)]
        return []

    def _wrong_in(self, name: str, model: ProviderModel) -> list[InitErrorDetails]:
        by_provider: dict[str, set[str]] = {}
        for place in self.places:
            by_provider.setdefault(provider_of(place), set()).add(place.name or place.model)
        if name not in by_provider:
            return [_unknown(name, by_provider, "providers", name)]
        mine = by_provider[name]
        wrong = [_unknown(target, mine, "providers", name, "targets", target) for target in model.targets.keys() - mine]
        for at, outage in enumerate(model.outages):
            where = ("providers", name, "outages", at)
            if outage.at_seconds >= self.lasts_seconds:
                end = f"the simulation is over by then (lasts_seconds: {self.lasts_seconds:g})"
                wrong.append(complaint(end, *where, "at_seconds"))
            strangers = [target for target in outage.targets or () if target not in mine]
            wrong += [_unknown(target, mine, *where, "targets") for target in strangers]
        return wrong


def provider_of(place: TargetSettings) -> str:
    """A target's provider: what its settings say, else the first part of its model string."""
    return place.provider or place.model.split("/", 1)[0]


def validated(kind: type[Scenario], data: Mapping[str, Any], source: str | None) -> Scenario:
    """A scenario of a mapping; see `Scenario.load`."""
    from pydantic import ValidationError  # noqa: PLC0415 (beside the name that is caught)

    message = None
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        message = told(error, source, "the scenario")
    raise ConfigurationError(message)


def _unknown(name: str, known: Iterable[str], *where: str | int) -> InitErrorDetails:
    near = nearest(name, known)
    guess = f"did you mean {near!r}? " if near else ""
    return complaint(f"nobody knows {name!r}; {guess}allowed: {', '.join(sorted(known))}", *where)
