"""The picture: a timeline of every target as SVG. Written by hand, readable in light and dark, no script in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from resilience.simulator.ledger import CLOSED, HALF_OPEN, OPEN, OVERDUE
from resilience.simulator.report import duration, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilience.simulator.report import Simulation
    from resilience.simulator.world import World

WIDTH: Final = 960
LEFT: Final = 16
RIGHT: Final = 16
TOP: Final = 74
BARS: Final = 44
"""How high traffic is drawn."""
BAND: Final = 8
"""How high a state is drawn, one band for each process."""
MOST_PROCESSES: Final = 8
_GAP: Final = 44
_STATES: Final = {CLOSED: "in rotation", HALF_OPEN: "half-open, or due", OVERDUE: "overdue", OPEN: "open"}
# No custom properties: many programs that show SVG outside a browser know none.
_STYLE: Final = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; }
.paper { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; } .line { stroke: #d1d9e0; }
.title { font-weight: 600; font-size: 14px; }
.ok { fill: #8fb8ff; } .bad { fill: #d1242f; } .fault { fill: #d1242f; fill-opacity: .14; }
.closed { fill: #4ac26b; } .half-open { fill: #d4a72c; } .overdue { fill: #e16f24; } .open { fill: #cf222e; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; } text { fill: #f0f6fc; } .faint { fill: #9198a1; } .line { stroke: #3d444d; }
  .ok { fill: #316dca; } .bad { fill: #ff7b72; } .fault { fill: #ff7b72; }
  .closed { fill: #2ea043; } .half-open { fill: #bb8009; } .overdue { fill: #db6d28; } .open { fill: #da3633; } }
""".strip()


class _Axis:
    """Time to the right. What was not simulated takes no room; a thin line marks where it was left out."""

    def __init__(self, world: World) -> None:
        self.spans = world.spans
        self._scale = (WIDTH - LEFT - RIGHT) / world.watched_seconds

    def x(self, when: float) -> float:
        passed = 0.0
        for start, stop in self.spans:
            if when < start:
                break
            passed += min(when, stop) - start
        return LEFT + passed * self._scale

    def rect(self, start: float, stop: float, y: float, height: float, kind: str, title: str = "") -> str:
        left, right = self.x(start), self.x(stop)
        if right - left < 0.01:
            return ""
        told = f"<title>{escape(title)}</title>" if title else ""
        shape = f'x="{_n(left)}" y="{_n(y)}" width="{_n(max(0.6, right - left))}" height="{_n(height)}"'
        return f'<rect class="{kind}" {shape}>{told}</rect>'


def draw(simulation: Simulation) -> str:
    """The timeline of a simulation's first policy: faults, states and traffic of every target."""
    world = simulation.world
    axis = _Axis(world)
    rows = min(len(world.ledger.changes), MOST_PROCESSES)
    step = BARS + rows * BAND + _GAP
    height = TOP + step * len(world.targets) + 30
    label = escape(world.scenario.about, {'"': "&quot;"})
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        *_head(simulation),
    ]
    for at, name in enumerate(world.targets):
        parts += _target(world, axis, name, TOP + at * step, rows)
    parts += _ruler(world, axis, height - 22)
    return "\n".join(part for part in [*parts, "</svg>"] if part) + "\n"


def _head(simulation: Simulation) -> Iterator[str]:
    found = simulation.findings[0]
    said = (
        f"seed {simulation.seed} · {found.requests:,} requests · {percent(found.availability)} answered · "
        f"{found.wasted:,} wasted attempts"
    )
    yield f'<text class="title" x="{LEFT}" y="24">{escape(simulation.world.scenario.about)}</text>'
    yield f'<text class="faint" x="{LEFT}" y="42">{escape(said)}</text>'
    x = float(LEFT)
    legend = [*_STATES.items(), ("ok", "attempts that worked"), ("bad", "that failed"), ("fault", "an incident lasts")]
    for kind, word in legend:
        yield f'<rect class="{kind}" x="{_n(x)}" y="52" width="10" height="10" rx="2"/>'
        yield f'<text class="faint" x="{_n(x + 14)}" y="61">{escape(word)}</text>'
        x += 30 + 6.4 * len(word)


def _target(world: World, axis: _Axis, name: str, top: float, rows: int) -> Iterator[str]:
    ledger = world.ledger
    yield f'<text x="{LEFT}" y="{_n(top + 22)}">{escape(name)}</text>'
    bars = top + 30
    for one in world.incidents:
        if name in one.targets:
            share = "" if one.outage.share == 1 else f", {percent(one.outage.share)} of requests"
            title = f"{one.outage.fails}{share}, for {duration(one.outage.lasts_seconds)}"
            yield axis.rect(one.starts_at, one.ends_at, bars, BARS + rows * BAND, "fault", title)
    most = max((sum(counts) for buckets in ledger.traffic.values() for counts in buckets.values()), default=1)
    width = ledger.bucket_seconds
    for bucket, (worked, not_worked) in sorted(ledger.traffic[name].items()):
        start, good, bad = bucket * width, BARS * worked / most, BARS * not_worked / most
        yield axis.rect(start, start + width, bars + BARS - good, good, "ok") if worked else ""
        yield axis.rect(start, start + width, bars + BARS - good - bad, bad, "bad") if not_worked else ""
    for process in range(rows):
        y = bars + BARS + process * BAND
        entered, state = 0.0, CLOSED
        for when, following in [*ledger.changes[process][name], (world.scenario.lasts_seconds, CLOSED)]:
            yield axis.rect(entered, when, y + 1, BAND - 1, state, _STATES[state])
            entered, state = when, following


def _ruler(world: World, axis: _Axis, y: float) -> Iterator[str]:
    yield f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_n(y)}" y2="{_n(y)}"/>'
    if len(world.spans) > 1:
        for start, _ in world.spans:
            x = _n(axis.x(start))
            yield f'<line class="line" x1="{x}" x2="{x}" y1="{TOP}" y2="{_n(y)}"/>'
        left_out = "between the thin lines nothing was simulated: the hours without an incident"
        yield f'<text class="faint" x="{LEFT}" y="{_n(y + 15)}">{left_out}</text>'
        return
    start, stop = world.spans[0]
    for mark in range(6):
        when = start + (stop - start) * mark / 5
        anchor = "start" if mark == 0 else "end" if mark == 5 else "middle"
        x, told = _n(axis.x(when)), escape(duration(when))
        yield f'<text class="faint" x="{x}" y="{_n(y + 15)}" text-anchor="{anchor}">{told}</text>'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
