"""Findings: what a ledger comes to. Pure sums; shares without anything to share are None."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from resilience.simulator.ledger import CLOSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilience.simulator.arrivals import Span
    from resilience.simulator.ledger import Ledger
    from resilience.simulator.world import Incident, World


@dataclass(frozen=True, slots=True)
class Turn:
    """How one incident's targets left the rotation and came back, the median of all processes.

    Attributes:
        provider: Whose incident.
        targets: The targets that it struck.
        fails: How.
        share: Of the requests, that it struck.
        starts_seconds: When it began.
        lasts_seconds: For how long.
        eject_seconds: From its start until its targets were out; None where they never were.
        recover_seconds: From its end until they were back, in simulated time; None where they were not out by then,
            or were not back at the end.
    """

    provider: str
    targets: tuple[str, ...]
    fails: str
    share: float
    starts_seconds: float
    lasts_seconds: float
    eject_seconds: float | None
    recover_seconds: float | None


@dataclass(frozen=True, slots=True)
class Findings:
    """One policy in one world.

    Attributes:
        policy: Its name.
        requests: That arrived.
        answered: That got a right answer; for a wrong request that is the provider's 400.
        availability: The share of these.
        struck_availability: The same of the requests that came while an incident lasted.
        whole_availability: The same of the whole time, where only a part of it was simulated: what was left out
            counts as the quiet before incidents did.
        latency_seconds: p50 and p99, to the answer or a stream's first content.
        added_seconds: Mean, p50 and p99 beyond what the target that answered takes on a good day.
        attempts: Requests on the wire.
        wasted: Attempts that did not become a right answer.
        wasted_share: Wasted attempts per request.
        probes: Attempts that a breaker waited for.
        eject_seconds: Median and worst of the incidents that ejected anything.
        recover_seconds: The same for the way back.
        unnoticed: Incidents that ejected nothing.
        cost_usd: Of all answers.
        errors: What callers got instead of an answer, and how many of them.
        turns: Each incident.
    """

    policy: str
    requests: int
    answered: int
    availability: float | None
    struck_availability: float | None
    whole_availability: float | None
    latency_seconds: dict[str, float | None]
    added_seconds: dict[str, float | None]
    attempts: int
    wasted: int
    wasted_share: float | None
    probes: int
    eject_seconds: dict[str, float | None]
    recover_seconds: dict[str, float | None]
    unnoticed: int
    cost_usd: float
    errors: dict[str, int]
    turns: tuple[Turn, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs. Figures are rounded to nine digits, which every machine's arithmetic agrees on."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def findings_of(policy: str, world: World) -> Findings:
    """What one run came to."""
    ledger = world.ledger
    right = ledger.answered + ledger.refused
    wasted = ledger.attempts - right
    availability = _share(right, ledger.requests)
    struck_right = ledger.struck_answered + ledger.refused  # wrong requests come in an incident of their own
    turns = tuple(_turn(one, ledger, world.spans) for one in world.incidents if one.outage.fails != "bad_request")
    latencies, added = sorted(ledger.latencies), sorted(ledger.added)
    return Findings(
        policy,
        ledger.requests,
        right,
        availability,
        _share(struck_right, ledger.struck),
        _whole(world, right),
        {"p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99)},
        {
            "mean": sum(added) / len(added) if added else None,
            "p50": quantile(added, 0.5),
            "p99": quantile(added, 0.99),
        },
        ledger.attempts,
        wasted,
        _share(wasted, ledger.requests),
        ledger.probes,
        _middle_and_worst([one.eject_seconds for one in turns]),
        _middle_and_worst([one.recover_seconds for one in turns]),
        sum(one.eject_seconds is None for one in turns),
        ledger.cost_usd,
        dict(sorted(ledger.errors.items())),
        turns,
    )


def _whole(world: World, right: int) -> float | None:
    if world.scenario.watch is None:
        return None
    ledger = world.ledger
    quiet = _share(ledger.quiet_answered, ledger.quiet)
    if quiet is None:
        return None
    # As many requests as arrive on the average while nobody looks.
    left_out = (world.scenario.lasts_seconds - world.watched_seconds) * world.scenario.traffic.per_second
    return (right + quiet * left_out) / (ledger.requests + left_out)


def _turn(incident: Incident, ledger: Ledger, spans: Sequence[Span]) -> Turn:
    ejects: list[float] = []
    returns: list[float] = []
    for process, changes in enumerate(ledger.changes):
        for name in incident.targets:
            if ledger.state_at(process, name, incident.starts_at) != CLOSED:
                ejects.append(0.0)
            else:
                out = [at for at, state in changes[name] if incident.starts_at < at < incident.ends_at]
                ejects += [out[0] - incident.starts_at] if out else []
            if ledger.state_at(process, name, incident.ends_at) != CLOSED:
                back = [at for at, state in changes[name] if at > incident.ends_at and state == CLOSED]
                returns += [_watched(spans, incident.ends_at, back[0])] if back else []
    outage = incident.outage
    return Turn(
        incident.provider,
        incident.targets,
        outage.fails,
        outage.share,
        incident.starts_at,
        outage.lasts_seconds,
        median(ejects) if ejects else None,
        median(returns) if returns else None,
    )


def _watched(spans: Sequence[Span], start: float, stop: float) -> float:
    """Seconds between two times, without those that nobody simulated: without requests nothing recovers."""
    return sum(max(0.0, min(stop, end) - max(start, begin)) for begin, end in spans)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of the ordered values lie; None for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _middle_and_worst(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {"median": median(known) if known else None, "worst": max(known, default=None)}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
