"""Each benchmark runs and reports what it promises to. Only shapes are looked at here, never times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import picture

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main()" in path.read_text(encoding="utf-8")
)


def run_quick(name: str) -> dict:
    before = sorted((ROOT / "benchmarks" / "results").glob("*"))
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"],
        cwd=ROOT,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted((ROOT / "benchmarks" / "results").glob("*")) == before, "a quick run must write nowhere"
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_result_has_one_picture_that_stands_in_its_page(path: Path) -> None:
    drawn = path.with_suffix(".svg").read_text(encoding="utf-8")
    tree = ET.fromstring(drawn)  # noqa: S314 (our own file)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert tree.findtext("{http://www.w3.org/2000/svg}title") == found["question"]
    widths = [float(bar.get("width", "0")) for bar in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert sum(width > 0 for width in widths) >= 2, "a picture of nothing"
    assert "prefers-color-scheme: dark" in drawn
    assert path.with_suffix(".md").read_text(encoding="utf-8").count(f"({path.stem}.svg)") == 1


def test_pictures_are_drawn_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "RESULTS", tmp_path)
    rows = [{"case": "resilience", "s": 1.0}, {"case": "bare & <odd>", "s": 2.0}, {"case": "gone", "s": None}]
    table = {"title": "One", "note": "", "rows": rows}
    (tmp_path / "new.json").write_text(json.dumps({"question": "Which?", "tables": [table]}), encoding="utf-8")
    (tmp_path / "new.md").write_text("# Which?\n\nSo.\n\n## One\n", encoding="utf-8")
    for _ in range(2):
        picture.draw("new")
    assert (tmp_path / "new.md").read_text(encoding="utf-8") == "# Which?\n\nSo.\n\n![Which?](new.svg)\n\n## One\n"
    tree = ET.parse(tmp_path / "new.svg")  # noqa: S314 (likewise)
    widths = [float(bar.get("width", "0")) for bar in tree.iter("{http://www.w3.org/2000/svg}rect")]
    assert 0 == widths[2] < widths[0] < widths[1]


def rows(report: dict, title: str) -> list[dict]:
    return next(table["rows"] for table in report["tables"] if table["title"].startswith(title))


def value(row: dict, column: str) -> object:
    return next(cell for name, cell in row.items() if name.startswith(column))


@pytest.fixture(scope="module")
def reports() -> dict[str, dict]:
    return {}


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_answers_its_question_in_tables(name: str, reports: dict[str, dict]) -> None:
    report = reports[name] = run_quick(name)
    assert report["benchmark"] == name
    assert report["question"].endswith("?")
    assert report["tables"]
    for table in report["tables"]:
        assert table["rows"], table["title"]
        assert len({tuple(row) for row in table["rows"]}) == 1, "all rows of a table have the same columns"


@pytest.mark.parametrize("name", NAMES)
def test_a_report_tells_the_kind_of_machine_and_not_which_one(name: str, reports: dict[str, dict]) -> None:
    report = reports.get(name) or run_quick(name)
    assert set(report["machine"]) == {"date", "cpu", "cores", "python", "packages"}
    assert {"litellm", "pybreaker"} <= set(report["machine"]["packages"])
    text = json.dumps(report)
    assert str(ROOT) not in text


def test_overhead_compares_with_the_bare_call_and_with_litellms_router(reports: dict[str, dict]) -> None:
    report = reports.get("overhead") or run_quick("overhead")
    for title in ("Guard", "Rejection"):
        cases = {row["case"] for row in rows(report, title)}
        assert {"sync pass-through", "sync resilience", "async pass-through", "async resilience"} <= cases
    engine = {row["case"] for row in rows(report, "Engine:")}
    assert engine == {f"{mode} {who}" for mode in ("sync", "async") for who in ("bare", "resilience", "LiteLLM Router")}


def test_one_probe_reaches_a_dead_backend_per_open_time(reports: dict[str, dict]) -> None:
    report = reports.get("contention") or run_quick("contention")
    ours = [row for row in rows(report, "Probes") if row["case"].startswith("resilience")]
    assert [value(row, "reached") for row in ours] == [1, 1]


def test_importing_the_package_leaves_litellm_alone(reports: dict[str, dict]) -> None:
    report = reports.get("imports") or run_quick("imports")
    there = {row["after `import resilience`"]: row["in sys.modules"] for row in rows(report, "Loaded")}
    assert there["litellm"] == there["openai"] == "no"


def test_nobody_notices_a_fault_of_one_provider(reports: dict[str, dict]) -> None:
    report = reports.get("failover") or run_quick("failover")
    ours = rows(report, "Fault: 503")[0]
    assert ours["contender"] == "resilience"
    assert value(ours, "right answers") == 100
    assert value(ours, "wasted attempts") > 0, "the fault was never met, so nothing was shown"
