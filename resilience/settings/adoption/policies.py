"""A Router's limits: its timeouts, retries, allowed failures and cooldowns as ours."""

from __future__ import annotations

from typing import Any

from resilience.settings.adoption.arguments import (
    ALLOWED_FAILS_COUNTED,
    ALLOWED_FAILS_DECIDED,
    RETRIES_COUNTED,
    RETRIES_DECIDED,
)
from resilience.settings.adoption.reading import Reading, plain
from resilience.settings.complaints import nearest
from resilience.settings.routes import TimeoutSettings

_LIMITS = TimeoutSettings()


def timeouts_of(targets: list[dict[str, Any]], reading: Reading) -> dict[str, float]:
    """A Router's timeout bounds a whole answer, its stream_timeout every wait of a stream (else its timeout does)."""
    limits: dict[str, float] = {}
    if seconds := reading.number_or_none("timeout"):
        limits["attempt_seconds"] = seconds
        limits["first_token_seconds"] = min(seconds, _LIMITS.first_token_seconds)
        limits["stall_seconds"] = min(seconds, _LIMITS.stall_seconds)
    if seconds := reading.number_or_none("stream_timeout"):
        limits["first_token_seconds"] = limits["stall_seconds"] = seconds
    own = [target.get(key, 0.0) for target in targets for key in ("timeout", "stream_timeout", "request_timeout")]
    longest = max([*limits.values(), *own], default=0.0)
    if longest > _LIMITS.deadline_seconds:  # a Router has no deadline: ours must not cut what it allowed
        limits["deadline_seconds"] = longest
    return limits


def retries_of(name: str, reading: Reading) -> dict[str, Any]:
    """A Router's retries, by kind of error where it has a policy. Which kinds are retried, our table decides."""
    by_group = reading.mapping("model_group_retry_policy")
    label = "model_group_retry_policy" if name in by_group else "retry_policy"
    policy = (plain(by_group[name]) or {}) if name in by_group else reading.mapping("retry_policy")
    counts = []
    for key, value in policy.items():
        if value is None:
            continue
        if key in RETRIES_COUNTED:
            counts.append(reading.whole(label, value, (label, key)) or 0)
        elif key not in RETRIES_DECIDED:
            near = nearest(key, {*RETRIES_COUNTED, *RETRIES_DECIDED})
            reading.error((label, key), "unknown key" + (f"; did you mean {near!r}?" if near else ""))
        elif value:
            reading.leave_out(f"{label}.{key}", "such errors are not retried on the same target")
    if len(set(counts)) > 1:
        reading.leave_out(f"{label} for each kind of error", "the largest number holds for all")
    if counts:
        return {"num_retries": max(counts)}
    number = reading.whole_or_none("num_retries")
    return {} if number is None else {"num_retries": number}


def breakers_of(reading: Reading) -> tuple[dict[str, Any], dict[str, Any]]:
    """The policy of all breakers, and of targets': a Router cools single deployments, after more than allowed_fails."""
    breaker: dict[str, Any] = {}
    if seconds := reading.number_or_none("cooldown_time"):
        breaker["open_seconds"] = seconds
    if reading.said("disable_cooldowns"):
        breaker["shadow"] = True
    fails = reading.whole_or_none("allowed_fails")
    counts = [] if fails is None else [fails]
    for key, value in reading.mapping("allowed_fails_policy").items():
        if value is None:
            continue
        if key in ALLOWED_FAILS_COUNTED:
            counts.append(reading.whole("allowed_fails_policy", value, ("allowed_fails_policy", key)) or 0)
        elif key in ALLOWED_FAILS_DECIDED:
            reading.leave_out(f"allowed_fails_policy.{key}", "such errors do not count as failures in a row")
        else:
            near = nearest(key, {*ALLOWED_FAILS_COUNTED, *ALLOWED_FAILS_DECIDED})
            reading.error(("allowed_fails_policy", key), "unknown key" + (f"; did you mean {near!r}?" if near else ""))
    if len(set(counts)) > 1:
        reading.leave_out("allowed_fails_policy for each kind of error", "the smallest number holds for all")
    # One more than allowed, of any kind: a timeout counts once in a Router.
    return breaker, {"consecutive_failures": min(counts) + 1, "timeout_weight": 1} if counts else {}
