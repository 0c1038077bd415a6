"""Sync bare calls: recorded after the fact, because LiteLLM has no hook there that may say no."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import RejectedError
from resilience.middleware.answers import is_empty
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.middleware.inside import failure_in
from resilience.middleware.translation import PROVIDER
from resilience.outcome import Kind, Outcome
from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from resilience.health.registry import HealthRegistry
    from resilience.middleware.bare import BareTargets

_SYNC: Final = {
    "completion": Operation.COMPLETION,
    "text_completion": Operation.COMPLETION,
    "embedding": Operation.EMBEDDING,
    "image_generation": Operation.IMAGE,
}
_SHAPES: Final = {
    Operation.COMPLETION: "choices",
    Operation.EMBEDDING: "data",
    Operation.IMAGE: "data",
    Operation.RESPONSES: "output",
}
# What LiteLLM writes down as the key of an answer that it made up (``mock_response``).
_MOCK_KEYS: Final = frozenset({"mock-key", "my-secret-key"})


def record_sync(registry: HealthRegistry, targets: BareTargets, details: Mapping[str, Any], answer: Any) -> None:
    """Tell both breakers what a sync call came to. While one of them is open nobody waits for it: it is dropped.

    Args:
        registry: Whose breakers.
        targets: Who knows which target it was.
        details: What LiteLLM tells its callbacks.
        answer: The answer, None after a failure.
    """
    operation = _SYNC.get(details.get("call_type") or "")
    family, model = details.get("custom_llm_provider"), details.get("model")
    if operation is None or details.get("cache_hit") or not isinstance(family, str) or not isinstance(model, str):
        return
    outcome = outcome_of(details, answer, operation)
    key = details.get("api_key")
    if outcome is None or family == PROVIDER or key in _MOCK_KEYS:
        return
    base = (details.get("litellm_params") or {}).get("api_base")
    target = targets.find_sent(registry, family, model, base, key)
    if target is None:
        return
    breaker = registry.targets[target.name]
    if breaker.current_state != "closed" and registry.monotonic() - _seconds(details) < breaker.since:
        return  # it began before the circuit opened: no probe, and no witness
    try:
        admission = registry.admit(target)
    except RejectedError:
        return
    admission.settle(outcome)


def holds_nothing(answer: Any, operation: Operation, params: Mapping[str, Any]) -> bool:
    """Whether an answer is an empty one. What has not the shape of one (a callback made it) is not judged."""
    held = getattr(answer, _SHAPES[operation], None)
    if held is None:
        return False
    if operation is Operation.COMPLETION and held and getattr(getattr(held[0], "message", None), "content", None):
        return False  # the usual case, at a third of the cost
    return is_empty(answer, operation, params)


def outcome_in(answer: Any, operation: Operation, params: Mapping[str, Any], latency: float) -> Outcome:
    """What a whole answer comes to: not all that came well are one."""
    error = failure_in(answer) if operation is Operation.RESPONSES else None
    if error is not None:
        return replace(classify(error), latency_seconds=latency)
    if holds_nothing(answer, operation, params):
        return Outcome(Kind.EMPTY, latency_seconds=latency)
    return Outcome.success(latency)


def outcome_of(details: Mapping[str, Any], answer: Any, operation: Operation) -> Outcome | None:
    """What LiteLLM's log tells of a call as an outcome, None where it tells nothing of the target."""
    latency = _seconds(details)
    if answer is not None:
        return outcome_in(answer, operation, details, latency)
    error = details.get("exception")
    if not isinstance(error, Exception) or isinstance(error, RejectedError):
        return None
    sent = details.get("api_call_start_time") is not None
    if details.get("stream") and details.get("completion_start_time") is not None:
        mark(error, Mark(sent=sent, streaming=True))
    return replace(classify(error, sent=sent), latency_seconds=latency)


def _seconds(details: Mapping[str, Any]) -> float:
    """To the first chunk of a stream, else to the whole answer."""
    started: datetime | None = details.get("start_time")
    ended: datetime | None = details.get("completion_start_time") or details.get("end_time")
    return max(0.0, (ended - started).total_seconds()) if started is not None and ended is not None else 0.0
