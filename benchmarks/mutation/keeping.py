"""Keeping: what is known of tests and mutants from earlier runs, so that a run goes on where the last one stopped."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.mutation.examining import Verdict, measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.mutation.mutants import Mutant

# Test files that a mutant of a module's own level is first shown to; the rest is collected for what survives them.
_FIRST_FILES = 4


@dataclass(slots=True)
class Tests:
    """What each test runs, and for how long.

    Attributes:
        seconds: The duration of each test.
        digests: Of each file with tests.
    """

    seconds: dict[str, float]
    digests: dict[str, str]
    _by_line: dict[tuple[str, int], set[str]]

    @classmethod
    def measured(cls, places: Sequence[str], files: Sequence[str], root: Path, store: Path) -> Tests:
        """Run what has changed since the last time, and remember the rest."""
        options = [place for place in places if place.startswith("-")]
        left_out = {option.partition("=")[2] for option in options}
        digests = {
            str(path.relative_to(root)): _digest([path])
            for place in places
            if place not in options
            for path in sorted((root / place).rglob("test_*.py"))
            if str(path.relative_to(root)) not in left_out
        }
        conftests = sorted((root / "tests").rglob("conftest.py"))
        sources = _digest([*sorted((root / "resilience").rglob("*.py")), *conftests])
        kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        known = kept.get("files", {}) if kept.get("sources") == sources else {}
        known = {file: one for file, one in known.items() if digests.get(file) == one["digest"]}
        changed = [file for file in digests if file not in known]
        if changed:
            found = measure([*options, *changed], [str(root / file) for file in files], store.with_suffix(".new"))
            known |= {file: {"digest": digests[file], "tests": {}} for file in changed}
            for test, one in found.items():
                known[test.partition("::")[0]]["tests"][test] = one
            store.write_text(json.dumps({"sources": sources, "files": known}), encoding="utf-8")
        by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
        seconds = {}
        for one in known.values():
            for test, what in one["tests"].items():
                seconds[test] = what["seconds"]
                for file, lines in what["lines"].items():
                    for line in lines:
                        by_line[file, line].add(test)
        relative = {(str(file).removeprefix(f"{root}/"), line): tests for (file, line), tests in by_line.items()}
        return cls(seconds, digests, relative)

    def for_lines(self, mutant: Mutant) -> list[str]:
        """The tests that run a mutant's statement."""
        lines = range(mutant.first_line, mutant.last_line + 1)
        return sorted({test for line in lines for test in self._by_line.get((mutant.file, line), ())})

    def every(self) -> list[str]:
        """All of them."""
        return sorted(self.seconds)

    def for_file(self, file: str) -> list[str]:
        """The tests in those files that know a source file best."""
        counts: dict[str, set[str]] = defaultdict(set)
        for (source, _), tests in self._by_line.items():
            if source == file:
                for test in tests:
                    counts[test.partition("::")[0]].add(test)
        best = sorted(counts, key=lambda name: -len(counts[name]))[:_FIRST_FILES]
        return sorted(test for test in self.seconds if test.partition("::")[0] in best)

    def seen(self, tests: Iterable[str]) -> dict[str, str]:
        """The files that these tests are in, as they stand now."""
        return {file: self.digests[file] for file in sorted({test.partition("::")[0] for test in tests})}

    def unseen(self, tests: Sequence[str], seen: dict[str, str]) -> list[str]:
        """Those of the tests that are new, or stand in a file that has changed since."""
        return [test for test in tests if seen.get(file := test.partition("::")[0]) != self.digests[file]]


class Verdicts:
    """What came of each mutant, kept in a file to which every verdict is added at once."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, dict[str, Any]] = {}
        if store.exists():
            for line in store.read_text(encoding="utf-8").splitlines():
                one = json.loads(line)
                self._known[one["key"]] = one

    def of(self, mutant: Mutant) -> Verdict | None:
        """What is known of a mutant, None where nothing is."""
        one = self._known.get(mutant.key)
        return None if one is None else Verdict(one["what"], one["by"], one["seconds"])

    def noticed(self) -> Counter[str]:
        """How many mutants each test has killed."""
        return Counter(one["by"] for one in self._known.values() if one["what"] == "killed")

    def survived(self, mutant: Mutant) -> dict[str, str]:
        """The files with tests that it has survived already, as they were then."""
        return dict(self._known.get(mutant.key, {}).get("seen", {}))

    def add(self, mutant: Mutant, verdict: Verdict, seen: dict[str, str]) -> None:
        """Keep one."""
        one = {"key": mutant.key, "what": verdict.what, "by": verdict.by, "seconds": verdict.seconds, "seen": seen}
        self._known[mutant.key] = one
        with self._store.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(one) + "\n")


class Equivalents:
    """The table of mutants that change nothing anybody could see, each with its reason.

    Attributes:
        reasons: The reason, by the mutant's key.
        stale: Rows that fit no mutant any more.
    """

    def __init__(self, table: Path, mutants: Sequence[Mutant]) -> None:
        rows = tomllib.loads(table.read_text(encoding="utf-8")).get("mutant", []) if table.exists() else []
        files = {mutant.file for mutant in mutants}
        self.reasons: dict[str, str] = {}
        self.stale: list[str] = []
        for row in rows:
            if _file_of(row) not in files:
                continue
            fitting = [mutant for mutant in mutants if _fits(row, mutant)]
            self.reasons |= {mutant.key: row["why"] for mutant in fitting}
            if not fitting:
                self.stale.append(f"{row['in']}: `{row['was']}` -> `{row['becomes']}` in `{row['at']}`")


def _file_of(row: dict[str, str]) -> str:
    return f"resilience/{row['in'].partition(':')[0]}.py"


def _fits(row: dict[str, str], mutant: Mutant) -> bool:
    if (_file_of(row), row["in"].partition(":")[2]) != (mutant.file, mutant.function):
        return False
    if row["at"] != mutant.statement:
        return False
    return row["was"] == told(mutant.before) and row["becomes"] == told(mutant.after)


def told(text: str) -> str:
    """A piece of code in one line."""
    return " ".join(text.split())


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]
