"""Settings of routes and their targets: who serves, in which order, within which limits."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from resilience.settings.complaints import complaint, is_slip, not_yet, refusal, shown
from resilience.settings.section import (
    Count,
    CountOrZero,
    Flag,
    Seconds,
    SecondsOrZero,
    Section,
    Text,
    Weight,
    given_over,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema, InitErrorDetails

# LiteLLM's own parameters that are a letter away from a key of ours, so no slip of the pen (held by a test).
LITELLM_NEIGHBOURS = frozenset({"timeout", "models"})
# LiteLLM's limits and ours. Its stream_timeout is a read timeout: it bounds each wait for the next bytes.
LITELLM_LIMITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "timeout": ("attempt_seconds",),
        "request_timeout": ("attempt_seconds",),
        "stream_timeout": ("first_token_seconds", "stall_seconds"),
    }
)


class TimeoutSettings(Section):
    """Limits in seconds; the deadline caps all of them."""

    attempt_seconds: Seconds = Field(60.0, description="Seconds for one attempt at a whole answer.")
    first_token_seconds: Seconds = Field(20.0, description="Seconds to a stream's first content.")
    stall_seconds: Seconds = Field(20.0, description="Seconds between two pieces of a stream.")
    deadline_seconds: Seconds = Field(
        180.0,
        description="Seconds for a whole request with all its attempts; of a stream, to the first content that "
        "its reader gets, and again after a break.",
    )


class StreamSettings(Section):
    """What happens when a stream breaks after its first content."""

    on_interruption: Literal["raise", "continue"] = Field(
        "raise",
        description="raise: StreamInterruptedError with the partial text. continue: another target that takes a "
        "prefill writes on from there; plain text only.",
    )
    buffer: Literal["none", "full"] = Field(
        "none",
        description="full: hold the answer back until it is whole, so that no break is ever seen; it must then be "
        "whole by the deadline.",
    )


class ValidationSettings(Section):
    """What an answer must be, and what happens when a provider refuses one."""

    reject_empty: Flag = Field(default=True, description="An answer without any content goes to the next target.")
    max_chars: Count | None = Field(None, description="An answer longer than this many characters is rejected.")
    fallback_on_content_policy: Flag = Field(
        default=False, description="Try the next target when a provider's content policy refused."
    )


class TargetSettings(Section):
    """One way to serve. Any key that is not listed here is a LiteLLM parameter and travels with the call."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    model: Text = Field(description="LiteLLM's model string, such as openai/gpt-4o-mini.")
    name: Text | None = Field(
        None,
        description="Unique; what logs and the registry call it. Default: the model string, then model#2 and "
        "so on for different targets of one model.",
    )
    provider: Text | None = Field(None, description="What fails together with it. Default: derived from the model.")
    order: Count | None = Field(
        None,
        description="LiteLLM's word: targets of equal order share the load, the next order is the fallback. "
        "Default: the position under strategy ordered, else 1.",
    )
    weight: Weight = Field(1.0, description="Its share of the load among targets of equal order.")
    timeouts: TimeoutSettings = Field(
        TimeoutSettings(), description="Limits of its own; left-out ones come from the route."
    )
    prefill: Flag | None = Field(
        None,
        description="May a broken answer be continued here? null: what LiteLLM's model map says, unknown "
        "models are tried.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="LiteLLM parameters that travel with each call. They may as well stand beside model and "
        "name; os.environ/NAME stands for an environment variable.",
    )

    @classmethod
    def _normal(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else super()._normal(given)

    @classmethod
    def _sort_keys(cls, data: dict[Any, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
        ours = {key: value for key, value in data.items() if key in cls.model_fields}
        wrong: list[InitErrorDetails] = []
        params: dict[str, Any] = {}
        for key, value in data.items():
            if key in ours:
                continue
            if not isinstance(key, str):
                wrong.append(complaint(f"{shown(key)} is not allowed as a key; allowed: a text"))
            elif meant := cls._meant(key):
                hint = f"did you mean {meant!r}? A parameter of the model's own goes under params"
                wrong.append(complaint(f"unknown key; {hint}", key))
            else:
                params[key] = value
        ours, more = _limits_from(params, ours)
        if params:
            under = ours.get("params", {})
            if isinstance(under, dict):
                more += [
                    complaint(f"given twice: also under params.{key}", key) for key in sorted(params.keys() & under)
                ]
                ours["params"] = {**under, **params}
        return ours, wrong + more

    @classmethod
    def _meant(cls, key: str) -> str | None:
        """The key of ours that was meant, None for a parameter of LiteLLM's or the model's."""
        if key in LITELLM_NEIGHBOURS:
            return None
        return next((name for name in cls.model_fields if is_slip(key, name)), None)

    def routed(self, position: int, route: RouteSettings) -> TargetSettings:
        """The same with what the route says where this one says nothing."""
        order = position if route.strategy == "ordered" else 1
        return self.model_copy(
            update={
                "order": self.order if self.order is not None else order,
                "timeouts": given_over(route.timeouts, self.timeouts),
            }
        )

    def starred(self, asked: str, stood_for: tuple[str, ...]) -> TargetSettings:
        """The target of a wildcard route for the model that was asked for, as LiteLLM's Router makes it.

        Each star is replaced by what it stood for; with fewer stars than that, the model is what was asked for.
        """
        stars = self.model.count("*")
        model = asked if 0 < stars < len(stood_for) else self.model
        for text in stood_for if stars >= len(stood_for) else ():
            model = model.replace("*", text, 1)
        name = self.name and f"{self.name}:{model}"
        return self if model == self.model else self.model_copy(update={"model": model, "name": name})

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, describe: GetJsonSchemaHandler) -> JsonSchemaValue:
        whole = describe(core)
        short = {"type": "string", "description": cls.model_fields["model"].description}
        return {"anyOf": [short, whole]}

    @property
    def core(self) -> str:
        """What makes a target: equal texts, equal targets. Holds keys: never shown."""
        return repr((self.model, self.provider, sorted(self.params.items())))


def _limits_from(params: dict[str, Any], ours: dict[str, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
    """Take LiteLLM's ``timeout`` and ``stream_timeout`` out of ``params`` and put them with our limits.

    The engine sets each call's timeout itself, so they would have no effect where they are.
    """
    said = ours.get("timeouts", {})
    limits = (
        dict(said)
        if isinstance(said, dict)
        else said.model_dump(exclude_unset=True)
        if isinstance(said, TimeoutSettings)
        else None
    )
    wrong = []
    for name, fields in LITELLM_LIMITS.items():
        if params.get(name) is None:
            params.pop(name, None)
            continue
        value = params.pop(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            wrong.append(complaint(refusal(value, "a number of seconds above 0"), name))
        elif limits is not None:
            if fields[0] in limits:
                wrong.append(complaint(f"given twice: also as timeouts.{fields[0]}", name))
            limits.update({field: value for field in fields if field not in limits})
    return ({**ours, "timeouts": limits} if limits else ours), wrong


class RouteSettings(Section):
    """A named list of targets and how a request walks it."""

    strategy: Annotated[
        Literal["ordered", "weighted", "fastest", "cheapest"],
        AfterValidator(not_yet("fastest", "cheapest", allowed="'ordered' or 'weighted'")),
    ] = Field(
        "ordered",
        description="How targets of equal order are ranked (fastest and cheapest: not available in this version).",
    )
    targets: tuple[TargetSettings, ...] = Field((), description="At least one; a text is short for its model.")
    timeouts: TimeoutSettings = Field(TimeoutSettings(), description="Limits for every target of the route.")
    num_retries: CountOrZero = Field(1, description="Retries on the same target, where the kind of failure allows.")
    max_attempts: Count = Field(
        6, description="Attempts of one request on all targets. Default: 6, or one whole round where that is more."
    )
    backoff_seconds: SecondsOrZero = Field(
        0.25, description="Seconds of the first pause between rounds; doubles, with full jitter."
    )
    backoff_max_seconds: SecondsOrZero = Field(8.0, description="Seconds a pause is capped at.")
    on_exhausted: Literal["wait", "fail", "panic"] = Field(
        "wait",
        description="When no target is eligible: wait for the first to come back, fail at once, or use every "
        "target that an outage opened.",
    )
    max_wait_seconds: SecondsOrZero = Field(10.0, description="Seconds that a request waits at most.")
    max_waiters: CountOrZero = Field(1000, description="Requests that may wait at the same time.")
    stream: StreamSettings = Field(StreamSettings(), description="What happens when a stream breaks.")
    validation: ValidationSettings = Field(ValidationSettings(), description="Which answers count as answers.")
    hedge: Annotated[dict[str, Any] | None, BeforeValidator(not_yet())] = Field(
        None, description="A delayed parallel attempt (not available in this version)."
    )

    def _settle(self) -> list[InitErrorDetails]:
        distinct: list[TargetSettings] = []
        for target in self.targets:  # a target that is listed twice is one target
            if target not in distinct:
                distinct.append(target)
        self._fill(targets=tuple(target.routed(at, self) for at, target in enumerate(distinct, start=1)))
        if "max_attempts" not in self.model_fields_set:
            # No target may go unasked because of a number that nobody chose.
            self._fill(max_attempts=max(self.max_attempts, len(distinct) * (1 + self.num_retries)))
        return self._order("backoff_seconds", "backoff_max_seconds")
