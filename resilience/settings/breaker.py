"""A breaker's policy: when it trips, how long it stays open, how it comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from resilience.settings.section import Count, Factor, Flag, Jitter, Seconds, Section, Share

if TYPE_CHECKING:
    from pydantic_core import InitErrorDetails


class BreakerSettings(Section):
    """When a breaker trips, how long it stays open, and how it comes back.

    The defaults and their reasons stand in the design's *Rules of behaviour*; null turns a rule off.
    """

    consecutive_failures: Count | None = Field(5, description="Trip after this many failures in a row; null: off.")
    timeout_weight: Count = Field(
        2, description="A timeout counts this often among the failures in a row: it costs its caller most."
    )
    failure_rate: Share | None = Field(
        0.25, description="Trip when this share of the last window_calls calls failed; null: off."
    )
    window_calls: Count = Field(50, description="How many of the latest calls the rates look at.")
    window_seconds: Seconds = Field(30.0, description="Seconds after which a failure is forgotten.")
    minimum_calls: Count = Field(20, description="The rates say nothing before this many calls; at most window_calls.")
    slow_call_seconds: Seconds | None = Field(
        None,
        description="Seconds from which a call is slow (a stream: to its first token); null: no call is.",
    )
    slow_call_rate: Share = Field(0.5, description="Trip when this share of the last window_calls calls was slow.")
    overdue_factor: Factor | None = Field(
        5.0,
        description="A target whose fifth-oldest call in flight is this many times older than its typical "
        "time to the first token or answer, and at least 0.25 s, is set aside until one succeeds; null: off.",
    )
    open_seconds: Seconds = Field(10.0, description="Seconds a tripped breaker stays open before it is probed.")
    open_multiplier: Factor = Field(
        2.0,
        description="The open time grows by this with each failed round of probes; forgotten after staying "
        "closed as long as it was last open.",
    )
    open_max_seconds: Seconds = Field(300.0, description="Seconds that an open time, or a Retry-After, is capped at.")
    account_open_seconds: Seconds = Field(
        60.0,
        description="Seconds open after a wrong key, an empty account or a model that is gone; times 4 each "
        "round, at most an hour, or until the reset the provider names.",
    )
    jitter: Jitter = Field(0.1, description="Share by which an open time varies, drawn once per opening.")
    probe_permits: Count = Field(1, description="Calls a half-open breaker admits; doubles with each success.")
    probe_successes: Count = Field(3, description="Successful probes that close it.")
    probe_lease_seconds: Seconds = Field(60.0, description="Seconds after which a vanished probe loses its slot.")
    shadow: Flag = Field(default=False, description="Observe and report, never reject.")

    def _settle(self) -> list[InitErrorDetails]:
        return self._order("minimum_calls", "window_calls") + self._order("open_seconds", "open_max_seconds")
