"""Where everything stands, in words: who is out, why, since when, until when, who serves instead. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from resilience.events import CircuitOpened
    from resilience.snapshots import BreakerSnapshot, RouteSnapshot, Snapshot

# What a stranger understands. The table of kinds itself stands in `resilience.outcome`.
KINDS: Final = {
    "connection": "it cannot be reached (connection, DNS or TLS)",
    "timeout": "its answers do not come in time",
    "server_error": "it answers with server errors (5xx)",
    "overloaded": "it says that it is overloaded",
    "malformed": "its answers are broken",
    "interrupted": "its streams break off",
    "rate_limited": "it asked to wait (rate limit, 429)",
    "quota_exhausted": "the quota is used up",
    "auth": "it refuses the key (401 or 403)",
    "model_unavailable": "it does not know the model",
    "empty": "its answers are empty",
    "rejected": "its answers were rejected by your validator",
    "unknown": "unknown errors",
}
COUNTS: Final = {
    "consecutive_failures": "{failures} failures in a row",
    "failure_rate": "{failures} of {calls} calls failed",
    "slow_call_rate": "{failures} of {calls} calls were slow",
}
WORDS: Final = {
    "working": "working",
    "out": "out",
    "probing": "probing",
    "isolated": "isolated",
    "hanging": "hanging",
    "with_provider": "out with its provider",
}
# Targets of callers' own keys may be thousands: those in trouble are shown, and so many of the rest.
SHOWN: Final = 100


def stand(
    snapshot: Snapshot,
    opening: Callable[[str], CircuitOpened | None],
    routes: Mapping[str, Any],
    targets: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole document that the page and ``resilience status`` show.

    Args:
        snapshot: The registry's reading.
        opening: The last opening of a breaker, where somebody has heard it.
        routes: What users felt, by route.
        targets: What targets did.
    """
    named = {name for route in snapshot.routes.values() for name in route.targets}
    shown = _shown(snapshot, named)
    breakers = [
        _breaker(one, snapshot, opening(one.name), targets)
        for one in (*snapshot.providers.values(), *(snapshot.targets[name] for name in shown))
    ]
    served = [_route(route, snapshot, routes.get(route.name)) for route in snapshot.routes.values()]
    return {
        "at": snapshot.at.isoformat(timespec="milliseconds"),
        "headline": headline(breakers, served),
        "routes": served,
        "breakers": breakers,
        "other": routes.get("other"),
        "hidden_targets": len(snapshot.targets) - len(shown),
        "fleet_trouble": fleet_trouble(snapshot.storage_trouble),
        "sink_errors": snapshot.sink_errors,
    }


def headline(breakers: Iterable[Mapping[str, Any]], routes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """One sentence for two in the morning, and how bad it is: ``good``, ``warn`` or ``bad``."""
    out = [one for one in breakers if one["standing"] not in {"working", "with_provider"}]
    dead = [route["name"] for route in routes if not route["eligible"]]
    if dead:
        names = ", ".join(dead)
        text = f"Nothing can serve {names}: every target is out." if len(dead) == 1 else f"Nothing can serve: {names}."
        return {"tone": "bad", "text": text}
    if not out:
        return {"tone": "good", "text": "Everything works."}
    providers = {one["name"] for one in out if one["kind"] == "provider"}
    # A target that went out with its provider is no news of its own.
    culprits = [one for one in out if one["kind"] == "provider" or one["provider"] not in providers]
    names = _listed([str(one["name"]) for one in culprits])
    standings = {one["standing"] for one in culprits}
    word = WORDS[standings.pop()] if len(standings) == 1 else "out"
    if word == "probing":
        word = "being probed"
    if len(culprits) > 1:
        return {"tone": "warn", "text": f"{names} are {word}. Every route is still served."}
    because = f": {culprits[0]['why']}" if culprits[0]["why"] else ""
    return {"tone": "warn", "text": f"{names} is {word}{because}. Every route is still served."}


def fleet_trouble(reason: str | None) -> str | None:
    """What it means that the fleet's store is out of reach."""
    if reason is None:
        return None
    return (
        f"The fleet's store is out of reach ({reason}): this process goes on alone. What you see, isolate and reset "
        "here is this process only, until the store is back."
    )


def _listed(names: list[str]) -> str:
    if len(names) > 3:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(", ".join(names).rsplit(", ", 1))


def why(one: BreakerSnapshot, opened: CircuitOpened | None, *, with_provider: bool) -> str | None:
    """Why it is not in rotation, as a sentence without its end."""
    if one.state == "isolated":
        return f"a person took it out: {one.reason}" if one.reason else "a person took it out"
    if one.state == "closed":
        if one.overdue:
            usual = "" if one.typical_seconds is None else f", usually they take {one.typical_seconds:.2g} s"
            return f"{one.in_flight} calls hang{usual}"
        return f"its provider {one.provider} is out" if with_provider else None
    kind = KINDS.get(one.last_error_kind or "")
    if opened is not None and opened.reason in COUNTS:
        counted = COUNTS[opened.reason].format(failures=opened.failures, calls=opened.calls)
        return f"{counted}: {kind}" if kind else counted
    if kind:
        return kind
    return (one.reason or "unknown").replace("_", " ")


def _breaker(
    one: BreakerSnapshot, snapshot: Snapshot, opened: CircuitOpened | None, targets: Mapping[str, Any]
) -> dict[str, Any]:
    provider = snapshot.providers.get(one.provider or "") if one.role == "target" else None
    with_provider = one.state == "closed" and not one.eligible and not one.overdue and provider is not None
    standing = (
        "with_provider" if with_provider
        else {"open": "out", "half-open": "probing", "isolated": "isolated"}.get(one.state)
        or ("hanging" if one.overdue else "working")
    )  # fmt: skip
    end = provider if with_provider and provider is not None else one
    return {
        "kind": one.role,
        "name": one.name,
        "provider": one.provider,
        "state": one.state,
        "standing": standing,
        "word": WORDS[standing],
        "shadow": one.shadow,
        "eligible": one.eligible,
        "reason": one.reason,
        "why": why(one, opened, with_provider=with_provider),
        "since": ((end.out_since if standing != "working" else None) or one.since).isoformat(timespec="milliseconds"),
        "until": end.next_probe_at.isoformat(timespec="milliseconds") if end.next_probe_at is not None else None,
        "instead": _instead(one, snapshot) if standing != "working" else [],
        "failed_probes": one.probe_rounds_failed,
        "opens": one.opens,
        "holds": one.holds,
        "rejected": one.rejected,
        "in_flight": one.in_flight,
        "last_error_kind": one.last_error_kind,
        "calls": one.calls,
        "failure_rate": one.failure_rate,
        "traffic": targets.get(one.name),
    }


def _instead(one: BreakerSnapshot, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Who serves in its place, route by route; a route that nobody serves says so with null."""
    found = []
    for route in snapshot.routes.values():
        mine = [
            name
            for name in route.targets
            if name == one.name or (one.role == "provider" and snapshot.targets[name].provider == one.name)
        ]
        if mine:
            others = [name for name in route.eligible if name not in mine]
            found.append({"route": route.name, "target": others[0] if others else None})
    return found


def _route(route: RouteSnapshot, snapshot: Snapshot, felt: Any) -> dict[str, Any]:
    serving = route.eligible[0] if route.eligible else None
    return {
        "name": route.name,
        "serving": serving,
        "eligible": list(route.eligible),
        "targets": [
            {
                "name": name,
                "provider": snapshot.targets[name].provider,
                "eligible": name in route.eligible,
                "serving": name == serving,
            }
            for name in route.targets
        ],
        "requests": felt,
    }


def _shown(snapshot: Snapshot, named: set[str]) -> list[str]:
    trouble = [name for name, one in snapshot.targets.items() if name not in named and one.state != "closed"]
    rest = [name for name, one in snapshot.targets.items() if name not in named and one.state == "closed"]
    chosen = named | set(trouble[:SHOWN]) | set(rest[: max(0, SHOWN - len(trouble))])
    return [name for name in snapshot.targets if name in chosen]
