"""`resilience status`: where everything stands, as a table for a terminal. Text from outside is made harmless."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from resilience.ops.words import NOTHING, seconds, share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BREAKERS: Final = ("", "STATE", "SINCE", "UNTIL", "INSTEAD", "WHY")
_ROUTES: Final = ("ROUTE", "SERVED BY", "REQ/S", "FAILED", "MEDIAN", "P95", "RUNNING")


def render(document: Mapping[str, Any]) -> str:
    """The server's document as lines.

    Args:
        document: What ``/status`` gave.
    """
    at = datetime.fromisoformat(document["at"])
    routes = [_route(route) for route in document["routes"]]
    breakers = [_breaker(one, at) for one in _ordered(document["breakers"])]
    parts = [harmless(document["headline"]["text"])]
    if document.get("fleet_trouble"):
        parts.append(harmless(document["fleet_trouble"]))
    if routes:
        parts.append(table(_ROUTES, routes))
    parts.append(table(_BREAKERS, breakers) if breakers else "There are no breakers yet.")
    if document.get("hidden_targets"):
        parts.append(f"{document['hidden_targets']} more targets of callers' own keys work and are not shown.")
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what stands in them."""
    lines = [tuple(head), *(tuple(harmless(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def harmless(text: object) -> str:
    """Without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def duration(length: float) -> str:
    """``12 s``, ``2 min 10 s``, ``3 h 5 min``."""
    whole = max(0, round(length))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _ordered(breakers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    ordered = []
    for provider in (one for one in breakers if one["kind"] == "provider"):
        ordered.append(provider)
        ordered += [one for one in breakers if one["kind"] == "target" and one["provider"] == provider["name"]]
    return ordered


def _breaker(one: Mapping[str, Any], at: datetime) -> tuple[str, ...]:
    name = f"  {one['name']}" if one["kind"] == "target" else str(one["name"])
    if one["standing"] == "working":
        return name, str(one["word"]), "", "", "", ""
    since = datetime.fromisoformat(one["since"])
    instead = sorted({place["target"] or "nobody" for place in one["instead"]})
    return (
        name,
        str(one["word"]),
        f"{since.astimezone():%H:%M:%S} ({duration((at - since).total_seconds())})",
        _until(one, at),
        ", ".join(instead) or NOTHING,
        str(one["why"] or ""),
    )


def _until(one: Mapping[str, Any], at: datetime) -> str:
    if one["standing"] == "isolated":
        return "reset by hand"
    if one["standing"] == "probing":
        return "its probes work"
    if one["standing"] == "hanging":
        return "an answer comes"
    if not one["until"]:
        return "its provider is back"
    left = (datetime.fromisoformat(one["until"]) - at).total_seconds()
    return f"probe in {duration(left)}" if left > 0 else "the next request"


def _route(route: Mapping[str, Any]) -> tuple[str, ...]:
    felt = route["requests"] or {}
    completed, failed = felt.get("completed", 0), felt.get("failed", 0)
    return (
        str(route["name"]),
        str(route["serving"] or "nobody"),
        f"{felt.get('per_second', 0.0):g}",
        share(failed, completed + failed),
        _ms(felt.get("p50_ms")),
        _ms(felt.get("p95_ms")),
        str(felt.get("active", 0)),
    )


def _ms(value: float | None) -> str:
    return NOTHING if value is None else seconds(value / 1000)
