"""Frozen readings for people and programs: what each breaker is, why, since when and until when."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 (pydantic resolves the annotations)
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    # Built at the first use: whoever imports the package to guard one function reads no snapshot.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BreakerSnapshot(_Frozen):
    """One breaker at one moment."""

    name: str
    role: Literal["provider", "target", "breaker"] = "breaker"
    provider: str | None = None
    state: Literal["closed", "open", "half-open", "isolated"]
    reason: str | None = Field(None, description="why it is not closed; for an isolated one the person's own words")
    since: datetime = Field(description="when it entered this state, UTC")
    out_since: datetime | None = Field(
        None, description="when it went out of rotation, failed probes included, UTC; null while it is in"
    )
    next_probe_at: datetime | None = Field(None, description="when the open time ends, UTC; null unless open")
    eligible: bool = Field(description="whether a call would be let through now")
    calls: int = Field(description="calls in the window now")
    failures: int = Field(description="failures in the window now")
    slow_calls: int = 0
    failure_rate: float | None = Field(None, description="failures over calls; null before the first call")
    consecutive_failures: float = 0
    opens: int = Field(0, description="trips since the start; holds are not counted")
    holds: int = Field(0, description="times a rate limit held it")
    rejected: int = Field(0, description="attempts refused since the start")
    probe_rounds_failed: int = 0
    probes_in_flight: int = 0
    last_error_kind: str | None = None
    generation: int = 1
    shadow: bool = False
    in_flight: int = Field(0, description="calls on the wire now (targets only)")
    overdue: bool = Field(
        default=False, description="calls hang: out of rotation but for one call a second (targets only)"
    )
    typical_seconds: float | None = Field(None, description="median time to the first token or answer (targets only)")


class RouteSnapshot(_Frozen):
    """One route at one moment."""

    name: str
    targets: tuple[str, ...]
    eligible: tuple[str, ...] = Field(description="targets in rotation now, in order")


class Snapshot(_Frozen):
    """Everything the registry knows at one moment."""

    at: datetime
    providers: dict[str, BreakerSnapshot]
    targets: dict[str, BreakerSnapshot]
    routes: dict[str, RouteSnapshot] = Field(default_factory=dict)
    sink_errors: int = Field(0, description="how often a sink raised")
    storage_trouble: str | None = Field(None, description="why the fleet's store is out of reach; null where it is not")
