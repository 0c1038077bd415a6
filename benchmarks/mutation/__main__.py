"""Do the tests notice when a small fault is put into the breaker or into a request's plan?"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks.mutation.examining import Job, Room, Verdict, examine
from benchmarks.mutation.keeping import Equivalents, Tests, Verdicts, told
from benchmarks.mutation.mutants import Mutant, mutants_of

if TYPE_CHECKING:
    from benchmarks.report import Report

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".mutation"
SEED = 6
GOAL_PERCENT = 90
_LAST = "tests/property/"
_RIGID = Verdict("rigid")  # no verdict yet: its function cannot be swapped, so that it has to be imported

_BREAKER = (
    "window", "trip", "states", "chance", "tuning", "refusal", "telling", "rules", "stock",
    "permit", "held", "guard", "shared", "steering", "circuit",
)  # fmt: skip
FILES = (
    *(f"resilience/breaker/{name}.py" for name in _BREAKER),
    *(f"resilience/execution/{name}.py" for name in ("plan", "walk", "decision", "history")),
)
TESTS = (
    "tests/unit/breaker",
    "tests/unit/execution",
    "tests/unit/health",
    "tests/unit/routing",
    "tests/behaviour",
    "tests/property",
    # It imports LiteLLM, and knows nothing of these files.
    "--ignore=tests/property/test_classify_total.py",
    # These take seconds, for what others hold as well.
    "--deselect=tests/behaviour/test_held.py::test_a_protected_guarded_call_is_recorded_once_by_each_breaker",
    "--deselect=tests/unit/health/test_registry.py::test_ten_thousand_targets_stay_under_fifty_megabytes",
)


class Examination:
    """One run: which mutants there are, what is known of them, and what this run adds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.mutants = [one for file in FILES if _is_asked(file, options) for one in mutants_of(ROOT / file, file)]
        self.excluded = Equivalents(Path(__file__).with_name("equivalent.toml"), self.mutants)
        self.tests = Tests.measured(TESTS, FILES, ROOT, STORE / "tests.json")
        if options.fresh:
            (STORE / "verdicts.jsonl").unlink(missing_ok=True)
        self.kept = Verdicts(STORE / "verdicts.jsonl")
        self.verdicts: dict[str, Verdict] = {}
        self._noticed = self.kept.noticed()
        self.ends_at = time.perf_counter() + options.seconds
        self._by_file = {file: self.tests.for_file(file) for file in FILES}

    def run(self) -> bool:
        """Examine what nothing is known of.

        Returns:
            Whether some are left that need a new process.
        """
        in_functions, in_functions_again, at_import, passed = [], [], [], []
        for mutant in self.mutants:
            if mutant.key in self.excluded.reasons:
                continue
            known = self.kept.of(mutant)
            if known is not None and known.what in {"killed", "timeout"}:
                self.verdicts[mutant.key] = known
                continue
            able = self._able_to_see(mutant)
            tests = self.tests.unseen(able, self.kept.survived(mutant))
            if not tests:
                self.verdicts[mutant.key] = known or Verdict("survived", "no test runs it")
            elif mutant.at_import:
                first = [] if known is not None else self._by_file[mutant.file]
                (at_import if first else passed).append(Job(mutant, first or tests))
            elif known == _RIGID:
                at_import.append(Job(mutant, tests))
            else:
                # Property tests take as long as all the others; they see what has survived those.
                quick = [test for test in tests if not test.startswith(_LAST)]
                (in_functions if quick else in_functions_again).append(Job(mutant, quick or tests))
        # One kind a process: what is swapped must have been imported, what is imported must not.
        jobs = in_functions or at_import or in_functions_again or passed
        random.Random(SEED).shuffle(jobs)
        if self.options.quick:
            del jobs[4:]
        room = Room(ROOT, TESTS, self.tests.seconds, self.options.jobs, self.ends_at, self._noticed)
        rigid = (
            examine([], jobs, room, self._heard)
            if jobs in (in_functions, in_functions_again)
            else examine(jobs, [], room, self._heard)
        )
        for job in rigid:
            self.kept.add(job.mutant, _RIGID, {})
        return bool(jobs) and not self.options.quick

    def _able_to_see(self, mutant: Mutant) -> list[str]:
        return self.tests.every() if mutant.at_import else self.tests.for_lines(mutant)

    def _heard(self, job: Job, verdict: Verdict) -> None:
        seen = {}
        if verdict.what == "survived":
            # It may only have been shown to a part of them: to the files that know it best, or to those that are new.
            seen = {**self.kept.survived(job.mutant), **self.tests.seen(job.tests)}
            if not self.tests.unseen(self._able_to_see(job.mutant), seen):
                print(f"survived: {job.mutant}", file=sys.stderr, flush=True)
        self._noticed[verdict.by] += 1
        self.verdicts[job.mutant.key] = verdict
        self.kept.add(job.mutant, verdict, seen)


def _go_on(options: argparse.Namespace, ends_at: float) -> NoReturn:
    """Begin again in a new process, with what is known by now."""
    again = [f"--seconds={ends_at - time.perf_counter()}", f"--jobs={options.jobs}"]
    again += ["--json"] if options.json else []
    again += ["--only", *options.only] if options.only else []
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.mutation", *again])  # noqa: S606


def _is_asked(file: str, options: argparse.Namespace) -> bool:
    return not options.only or any(file.endswith(f"{part}.py") for part in options.only)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--only", default=[], nargs="+", metavar="PART", help="files whose path ends so; no results")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this; the next run goes on")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default 1)")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have found")
    parser.add_argument("--quick", action="store_true", help="a few mutants, to see that it runs; writes no results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    options = parser.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.chdir(ROOT)
    STORE.mkdir(exist_ok=True)
    (STORE / ".gitignore").write_text("*\n", encoding="utf-8")
    examination = Examination(options)
    if examination.run() and time.perf_counter() < examination.ends_at:
        _go_on(options, examination.ends_at)
    counts = Counter(verdict.what for verdict in examination.verdicts.values())
    left = len(examination.mutants) - len(examination.excluded.reasons) - counts.total()
    print(f"{dict(counts)}, excluded {len(examination.excluded.reasons)}, left {left}", file=sys.stderr)
    for row in examination.excluded.stale:
        print(f"equivalent.toml has a row that fits nothing: {row}", file=sys.stderr)
    from benchmarks.report import deliver  # not before: it imports the package, which the forks must find untouched

    options.quick = options.quick or bool(options.only) or left > 0
    deliver(report(examination), options)
    return 0


def report(examination: Examination) -> Report:
    """What was found, by file, and what nobody noticed."""
    from benchmarks.report import Report, Table

    files = Table(
        "By file",
        ("file", "mutants", "excluded", "killed", "timed out", "survived", "score %"),
        note=f"Goal: {GOAL_PERCENT} % of those that are not excluded. One that times out has been noticed as well.",
    )
    total = [0] * 5
    for file in (file for file in FILES if _is_asked(file, examination.options)):
        mine = [mutant for mutant in examination.mutants if mutant.file == file]
        whats = Counter(examination.verdicts[one.key].what for one in mine if one.key in examination.verdicts)
        excluded = sum(one.key in examination.excluded.reasons for one in mine)
        row = [len(mine), excluded, whats["killed"], whats["timeout"], whats["survived"]]
        total = [sum(pair) for pair in zip(total, row, strict=True)]
        files.add(file.removeprefix("resilience/"), *row, _score(row))
    files.add("all", *total, _score(total))
    survivors = Table("Survivors", ("where", "was", "becomes"), note=_SURVIVORS)
    for mutant in examination.mutants:
        if examination.verdicts.get(mutant.key, _RIGID).what == "survived":
            survivors.add(f"{mutant.file.removeprefix('resilience/')}:{mutant.first_line}", *_change(mutant))
    equivalent = Table(
        "Excluded as equivalent", ("where", "was", "becomes", "why"), note="Nobody could see the difference."
    )
    for mutant in examination.mutants:
        if mutant.key in examination.excluded.reasons:
            where = f"{mutant.file.removeprefix('resilience/')}:{mutant.first_line}"
            equivalent.add(where, *_change(mutant), examination.excluded.reasons[mutant.key])
    tables = [table for table in (files, survivors, equivalent) if table.rows]
    tools = ", ".join(f"{name} {version(name)}" for name in ("mutmut", "hypothesis", "pytest"))
    return Report("mutation", str(__doc__).strip(), f"{_METHOD} {tools}; seed {SEED}.", tables)


_SURVIVORS = (
    "What the tests do not notice. What a forked child does is held by a test in a process of its own, which sees the "
    "code as it is on the disk."
)
_METHOD = (
    "mutmut's operators, and four more (ask the opposite, return nothing, leave a statement out, say something else) "
    "change one thing at a time. The tests that run the changed statement decide; property tests draw at most "
    "15 examples, always the same."
)


def _score(row: list[int]) -> float | None:
    mutants, excluded, killed, timed_out, survived = row
    return 100.0 * (killed + timed_out) / (killed + timed_out + survived) if mutants > excluded else None


def _change(mutant: Mutant) -> tuple[str, str]:
    before, after = told(mutant.before), told(mutant.after)
    return _cell(before), _cell(after)


def _cell(text: str) -> str:
    shown = text if len(text) <= 90 else f"{text[:87]}..."
    return f"`{shown.replace('|', chr(92) + '|')}`" if shown else "nothing"


if __name__ == "__main__":
    sys.exit(main())
