"""Pictures: one SVG of bars for each results file, drawn from its JSON, readable in light and in dark."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WIDTH, LABEL, VALUE, BAR, GAP, TOP = 900, 250, 62, 15, 4, 64
# Blue, orange and grey of Okabe and Ito's palette, which the colour-blind can tell apart.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }
  .group { font-weight: 600; }
  .quiet { fill: #59636e; font-size: 12px; }
  .c0 { fill: #0072b2; } .c1 { fill: #8c959f; } .c2 { fill: #e69f00; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .quiet { fill: #9198a1; } .c0 { fill: #56b4e9; } .c1 { fill: #7d8590; }
  }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One row of bars: which column of which tables.

    Attributes:
        title: What the bars say, units included.
        table: What the tables' titles begin with. Several tables make a group each.
        column: What the column's name begins with.
        rows: What the rows' names begin with; "" takes them all.
        log: Whether lengths are logarithms.
    """

    title: str
    table: str
    column: str
    rows: str = ""
    log: bool = False


PANELS: dict[str, tuple[Panel, ...]] = {
    "failover": (
        Panel("right answers, %", "Fault:", "right answers"),
        Panel("p99 during the fault, ms", "Fault:", "p99", log=True),
    ),
    "overhead": (
        Panel("closed: ns over the bare call (log)", "Guard", "ns over bare", "async", log=True),
        Panel("open: ns for a rejection (log)", "Rejection", "ns over bare", "async", log=True),
    ),
    "contention": (Panel("16 threads: times the ideal (log)", "Threads", "x ideal", log=True),),
    "scale": (
        Panel("µs a request", "Targets", "µs a request"),
        Panel("KB a request in flight", "In flight", "KB a request"),
    ),
    "memory": (Panel("MB for ten thousand targets", "10,000 targets", "MB"),),
    "mutation": (Panel("mutants noticed, %", "By file", "score"),),
    "door2": (Panel("CPU milliseconds of a call that LiteLLM answers itself", "The custom provider", "CPU ms"),),
    "imports": (Panel("seconds over an empty interpreter", "Import", "s over an empty"),),
}


def draw(name: str) -> None:
    """Draw the picture of one results file, and show it in its Markdown."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    panels = PANELS.get(name) or (_first(found),)
    columns = [_groups(found, panel) for panel in panels]
    (RESULTS / f"{name}.svg").write_text(_svg(found["question"], panels, columns), encoding="utf-8")
    page = RESULTS / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    if f"({name}.svg)" not in text:
        head, _, rest = text.partition("\n## ")
        page.write_text(f"{head}\n![{found['question']}]({name}.svg)\n\n## {rest}", encoding="utf-8")


def _first(found: dict[str, Any]) -> Panel:
    table = found["tables"][0]
    column = next(name for name, cell in list(table["rows"][0].items())[1:] if isinstance(cell, (int, float)))
    return Panel(f"{table['title']}: {column}", table["title"], column, log=True)


def _groups(found: dict[str, Any], panel: Panel) -> list[tuple[str, list[tuple[str, float | None]]]]:
    """Group by group the bars: their names and lengths."""
    groups = []
    tables = [table for table in found["tables"] if table["title"].startswith(panel.table)]
    for table in tables:
        bars = []
        for row in table["rows"]:
            name = str(next(iter(row.values())))
            value = next((cell for key, cell in row.items() if key.startswith(panel.column)), None)
            if name.startswith(panel.rows):
                bars.append((name.removeprefix(panel.rows).strip(), value))
        groups.append((table["title"].removeprefix(panel.table).strip() if len(tables) > 1 else "", bars))
    return groups


def _svg(question: str, panels: tuple[Panel, ...], columns: list[list[Any]]) -> str:
    width = (WIDTH - LABEL) / len(panels)
    parts = [f'<text class="title" x="0" y="18">{escape(question)}</text>']
    height = TOP
    for at, (panel, groups) in enumerate(zip(panels, columns, strict=True)):
        x, y = LABEL + at * width, TOP
        parts.append(f'<text class="quiet" x="{x:.0f}" y="{TOP - 16}">{escape(panel.title)}</text>')
        values = [value for _, bars in groups for _, value in bars if value]
        for group, bars in groups:
            if group:
                parts += [f'<text class="group" x="0" y="{y + 12}">{escape(group)}</text>'] if at == 0 else []
                y += BAR + GAP
            for name, value in bars:
                colour = 0 if name.split(", ")[0] == "resilience" else 2 if name.endswith("tuned") else 1
                length = _length(value, values, panel.log) * (width - VALUE)
                if at == 0:
                    parts.append(f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name[:36])}</text>')
                parts.append(
                    f'<rect class="c{colour}" x="{x:.0f}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
                    f'<text x="{x + length + 5:.1f}" y="{y + 12}">{_said(value)}</text>'
                )
                y += BAR + GAP
            y += 2 * GAP
        height = max(height, y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>{escape(question)}</title><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _length(value: float | None, values: list[float], log: bool) -> float:
    if not value or not values:
        return 0.0
    if not log:
        return max(0.0, value / max(values))
    low, high = math.log10(min(values)) - 0.5, math.log10(max(values))
    return (math.log10(value) - low) / (high - low)


def _said(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in RESULTS.glob("*.json")):
        draw(name)
