"""Reports: what a simulation found, as text for people and JSON for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilience.simulator.findings import Findings
    from resilience.simulator.scenario import FleetSettings
    from resilience.simulator.world import World


@dataclass(frozen=True, slots=True)
class Simulation:
    """A scenario under one policy or several, all with the same seed.

    Attributes:
        world: The world of the first policy, for the picture.
        seed: Of all chance.
        findings: One for each policy; the first is this package's own.
    """

    world: World
    seed: int
    findings: tuple[Findings, ...]

    def as_json(self) -> str:
        """For programs: the same seed gives the same text."""
        scenario = self.world.scenario
        found: dict[str, Any] = {
            "about": scenario.about,
            "seed": self.seed,
            "simulated_seconds": round(self.world.watched_seconds, 6),
            "lasts_seconds": scenario.lasts_seconds,
            "policies": [one.as_json() for one in self.findings],
        }
        return json.dumps(found, indent=2)

    def as_text(self) -> str:
        """For people."""
        world, first = self.world, self.findings[0]
        scenario = world.scenario
        lines = [
            f"{scenario.about} (seed {self.seed})",
            f"{first.requests:,} requests in {duration(world.watched_seconds)} of virtual time"
            + (
                f" around {len(world.incidents)} incidents in {duration(scenario.lasts_seconds)}"
                if scenario.watch
                else ""
            )
            + _fleet(scenario.fleet),
            "",
            *_table(_ROWS, self.findings),
            "",
            *_incidents(first),
        ]
        return "\n".join(lines).rstrip() + "\n"


_ROWS: list[tuple[str, Callable[[Findings], str]]] = [
    ("answered", lambda one: percent(one.availability)),
    ("... during incidents", lambda one: percent(one.struck_availability)),
    ("... of the whole time", lambda one: percent(one.whole_availability)),
    ("not answered", lambda one: f"{one.requests - one.answered:,}"),
    ("latency p50, p99", lambda one: f"{seconds(one.latency_seconds['p50'])}, {seconds(one.latency_seconds['p99'])}"),
    ("added latency mean", lambda one: seconds(one.added_seconds["mean"])),
    ("added latency p50, p99", lambda one: f"{seconds(one.added_seconds['p50'])}, {seconds(one.added_seconds['p99'])}"),
    ("wasted attempts", lambda one: f"{one.wasted:,} ({percent(one.wasted_share)})"),
    ("probes", lambda one: f"{one.probes:,}"),
    ("time to eject, worst", lambda one: _pair(one.eject_seconds)),
    ("time to recover, worst", lambda one: _pair(one.recover_seconds)),
    ("ejected nothing", lambda one: f"{one.unnoticed}"),
    ("cost", lambda one: f"${one.cost_usd:,.2f}"),
]


def _table(rows: Sequence[tuple[str, Callable[[Findings], str]]], findings: Sequence[Findings]) -> list[str]:
    shown = [["", *(one.policy for one in findings)]]
    for name, cell in rows:
        cells = [cell(one) for one in findings]
        if any(text != "-" for text in cells):
            shown.append([name, *cells])
    widths = [max(len(row[at]) for row in shown) for at in range(len(shown[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in shown
    ]


def _fleet(fleet: FleetSettings) -> str:
    if fleet.processes == 1:
        return ""
    return f", {fleet.processes} processes {'that share a store' if fleet.shared else 'on their own'}"


def _incidents(found: Findings) -> list[str]:
    if not found.turns:
        return []
    lines = [f"incidents under {found.policy}:"]
    for one in found.turns:
        who = one.provider if len(one.targets) > 1 else one.targets[0]
        share = "" if one.share == 1 else f" {percent(one.share)} of requests"
        out = "not ejected" if one.eject_seconds is None else f"out after {seconds(one.eject_seconds)}"
        back = "" if one.recover_seconds is None else f", back {seconds(one.recover_seconds)} after its end"
        when = f"at {duration(one.starts_seconds)} for {duration(one.lasts_seconds)}"
        lines.append(f"  {when}: {who} {one.fails}{share}: {out}{back}")
    return lines


def percent(share: float | None) -> str:
    """``99.987 %``; never rounded up to 100."""
    if share is None:
        return "-"
    value = 100 * share
    text = f"{value:.3f}"
    if share < 1 and text == "100.000":
        text = "99.999+"
    return f"{text.rstrip('0').rstrip('.') if '.' in text and not text.endswith('+') else text} %"


def seconds(value: float | None) -> str:
    """A few digits and a unit."""
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:.3g} s" if value < 1000 else duration(value)


def _pair(values: dict[str, float | None]) -> str:
    return "-" if values["median"] is None else f"{seconds(values['median'])}, {seconds(values['worst'])}"


def duration(value: float) -> str:
    """Days, hours, minutes or seconds, whatever reads best."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * length:
            return f"{value / length:.3g} {unit}"
    return f"{value:.3g} s"
