"""Traces: incidents drawn from published statistics of LLM providers. Pure, but for chance.

Published (Chu et al., An empirical characterization of outages and incidents in public services for large language
models, ICPE 2025, arXiv 2501.12469; data: atlarge-research/llm-service-analysis):

* OpenAI's API, 222 incidents to 2024-08: one in 5.6 days, minutes at the 25th, 50th, 75th, 90th and 99th percentile
  33, 74, 180, 301, 1723, which a lognormal with mu 4.32 and sigma 1.17 fits. Anthropic, 72 incidents: one in 5.2 days,
  20, 46, 105, 247, 2260: mu 3.92, sigma 1.39.
* Starts cluster: the gaps' 10th percentile and median are about 3.7 and 49 hours. A Weibull distribution through both
  has shape 0.73; its scale is set so that the mean gap is the published one.
* Most minutes are partial: partial to major 4.7 : 1 for OpenAI, 1675 : 0 for Anthropic.

Not published, and therefore assumptions that stand here to be disputed: how an incident fails (`_PARTIAL`, `_MAJOR`),
and which share of the requests a partial one strikes: from 10 to 60 %, around the 25 % of 2025-06-10. That one
incident often strikes one model only is known (Anthropic, March 2026: 11 incidents in 4 days, most of one model), how
often is not: `TraceSettings.model_only_share`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma
from random import Random
from typing import TYPE_CHECKING, Final

from resilience.simulator.scenario import OutageSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilience.simulator.scenario import TraceSettings

_SHAPE: Final = 0.73
_DAY: Final = 86400.0
_SHARES: Final = (0.1, 0.6)
_PARTIAL: Final = {"server_error": 9, "overloaded": 5, "slow": 3, "hang": 3}
_MAJOR: Final = {"server_error": 5, "connection": 3, "hang": 2}


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of one provider: days between incidents, their length's mu and sigma in minutes, major minutes."""

    gap_days: float
    mu: float
    sigma: float
    major_share: float


PUBLISHED: Final = {
    "openai": Published(5.6, 4.32, 1.17, 1 / 5.7),
    "anthropic": Published(5.2, 3.92, 1.39, 0.0),
}


def draw_trace(
    trace: TraceSettings, provider: str, targets: Sequence[str], seed: int, lasts_seconds: float
) -> list[OutageSettings]:
    """The incidents of one provider, in order.

    Args:
        trace: Whose statistics, and how many.
        provider: Its name: two providers draw independently, as both at once are nearly as rare as chance has it.
        targets: Its targets, for incidents of one only.
        seed: The scenario's.
        lasts_seconds: Until when they start.
    """
    rng = Random(f"{seed}:trace:{provider}")  # a text is hashed by SHA-512, and not by this process's own seed
    known = PUBLISHED[trace.published]
    return [_incident(trace, known, at, targets, rng) for at in _starts(trace.outages, known, lasts_seconds, rng)]


def _starts(count: int | None, known: Published, lasts_seconds: float, rng: Random) -> list[float]:
    if count is not None:
        gaps = [rng.weibullvariate(1.0, _SHAPE) for _ in range(count + 1)]
        stretch = lasts_seconds / sum(gaps)
        return [stretch * sum(gaps[: at + 1]) for at in range(count)]
    scale = known.gap_days * _DAY / gamma(1 + 1 / _SHAPE)
    starts, at = [], rng.weibullvariate(scale, _SHAPE)
    while at < lasts_seconds:
        starts.append(at)
        at += rng.weibullvariate(scale, _SHAPE)
    return starts


def _incident(trace: TraceSettings, known: Published, at: float, targets: Sequence[str], rng: Random) -> OutageSettings:
    minutes = rng.lognormvariate(known.mu, known.sigma)
    major = rng.random() < known.major_share
    forms = _MAJOR if major else _PARTIAL
    fails = rng.choices(list(forms), list(forms.values()))[0]
    share = 1.0 if major else rng.uniform(*_SHARES)
    only = rng.random() < trace.model_only_share
    struck = rng.choice(list(targets))
    return OutageSettings.model_validate(
        {
            "fails": fails,
            "at_seconds": at,
            "lasts_seconds": min(60.0 * minutes, trace.longest_seconds),
            "share": share,
            "targets": [struck] if only and len(targets) > 1 else None,
        }
    )
