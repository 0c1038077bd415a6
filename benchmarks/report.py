"""Reports: what a benchmark found, as Markdown and JSON, with the kind of machine it was found on."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.picture import RESULTS, draw
from resilience.clock import SYSTEM_CLOCK

_PACKAGES = ("litellm-resilience", "litellm", "pybreaker", "pydantic", "openai")

Cell = str | float | int | None


@dataclass(slots=True)
class Table:
    """Rows with a name each.

    Attributes:
        title: What it compares.
        columns: Their names, units included; the first is the row's name.
        rows: One list of cells per row, None where a cell has no value.
        note: How to read it.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: Cell) -> None:
        """Add one row."""
        assert len(cells) == len(self.columns), f"{self.title}: {len(cells)} cells for {len(self.columns)} columns"
        self.rows.append(list(cells))

    def as_markdown(self) -> str:
        """A heading, the note and the table."""
        lines = [f"## {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines += [f"| {' | '.join(self.columns)} |", f"|{'|'.join(['---'] + ['---:'] * (len(self.columns) - 1))}|"]
        lines += [f"| {' | '.join(_shown(cell) for cell in row)} |" for row in self.rows]
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """One benchmark's findings.

    Attributes:
        name: The benchmark's file name.
        question: What it answers.
        method: How, in a sentence or two.
        tables: The findings.
        seed: Of chance, where there is any.
    """

    name: str
    question: str
    method: str
    tables: list[Table]
    seed: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "benchmark": self.name,
            "question": self.question,
            "method": self.method,
            "machine": machine(),
            "seed": self.seed,
            "tables": [
                {
                    "title": table.title,
                    "note": table.note,
                    "rows": [dict(zip(table.columns, map(_exact, row), strict=True)) for row in table.rows],
                }
                for table in self.tables
            ],
        }

    def as_markdown(self) -> str:
        """The same for people."""
        kind = machine()
        packages = ", ".join(f"{name} {number}" for name, number in kind["packages"].items())
        head = [
            f"# {self.question}",
            "",
            self.method,
            "",
            f"{kind['date']}, {kind['cpu']}, {kind['cores']} cores, {kind['python']}; {packages}.",
            "",
            f"![{self.question}]({self.name}.svg)",
        ]
        return "\n".join(head) + "\n\n" + "\n\n".join(table.as_markdown() for table in self.tables) + "\n"


def machine() -> dict[str, Any]:
    """What kind of machine this is, and the versions of what was measured. Nothing that tells whose it is."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": SYSTEM_CLOCK.now().date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages,
    }


def arguments(question: str) -> argparse.ArgumentParser:
    """The command line that every benchmark has."""
    # LiteLLM would fetch its price map from the network when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it runs; writes no results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    return parser


def deliver(report: Report, options: argparse.Namespace) -> None:
    """Print a report, and write it to ``benchmarks/results`` unless it was a quick one."""
    found = json.dumps(report.as_json(), indent=2) + "\n"
    text = report.as_markdown()
    sys.stdout.write(found if options.json else text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{report.name}.md").write_text(text, encoding="utf-8")
        (RESULTS / f"{report.name}.json").write_text(found, encoding="utf-8")
        draw(report.name)


def kept(name: str, tables: list[Table], order: list[str]) -> list[Table]:
    """These tables, and those of the last results that are not among them, in the order of their titles."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.exists() else []
    found = {table.title: table for table in tables}
    for table in before:
        if table["title"] not in found and table["title"] in order:
            rows = [list(row.values()) for row in table["rows"]]
            found[table["title"]] = Table(table["title"], tuple(table["rows"][0]), rows, table["note"])
    return sorted(found.values(), key=lambda table: order.index(table.title))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _exact(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return None if not math.isfinite(cell) else float(f"{cell:.4g}")
    return cell


def _shown(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"  # noqa: RUF001 (an en dash, as tables have it)
    if isinstance(cell, float):
        size = abs(cell)
        return f"{cell:,.0f}" if size >= 100 else f"{cell:.1f}" if size >= 10 else f"{cell:.3g}"
    return str(cell)
