"""The mutation runner makes the faults it promises, and tells a fault that tests notice from one that they do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.mutation.examining import Verdict
from benchmarks.mutation.keeping import Equivalents, Verdicts
from benchmarks.mutation.mutants import mutants_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def faults(tmp_path: Path):
    def make(text: str) -> set[tuple[str, str]]:
        path = tmp_path / "made.py"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        mutants = mutants_of(path, "made.py")
        assert len({mutant.key for mutant in mutants}) == len({mutant.source for mutant in mutants}) == len(mutants)
        return {(mutant.before.strip(), mutant.after.strip()) for mutant in mutants}

    return make


def test_decisions_constants_properties_and_words_are_changed(faults) -> None:
    made = faults(
        """
        LIMIT: Final = 3

        class Door:
            @property
            def is_open(self) -> bool:
                return self.count < LIMIT

            def say(self) -> str:
                if self.is_open:
                    self.count += 1
                return f"{self.count} came"
        """
    )
    assert made == {
        ("LIMIT: Final = 3", "LIMIT: Final = None"),
        ("3", "4"),
        ("return self.count < LIMIT", "return None"),
        ("< LIMIT", "<= LIMIT"),
        ("self.is_open", "not (self.is_open)"),
        ("self.count += 1", "self.count = 1"),
        ("self.count += 1", "self.count -= 1"),
        ("1", "2"),
        ('return f"{self.count} came"', "return None"),
        ("came", "XX cameXX"),
    }


def test_declarations_and_what_only_people_and_type_checkers_read_are_left_alone(faults) -> None:
    assert not faults(
        '''
        """A module."""
        from typing import TYPE_CHECKING, TypeVar, overload

        if TYPE_CHECKING:
            import os

        T = TypeVar("T")
        __all__ = ["Door"]

        @dataclass(frozen=True)
        class Door:
            """A door."""
            __slots__ = ("key",)
            key: dict[str, int]
            """Its key."""

            @overload
            def open(self, times: int = 3) -> "Door": ...
        '''
    )


def test_a_row_of_the_table_excludes_its_mutant_and_a_row_without_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "made.py"
    path.write_text("def f(x):\n    return x < 1\n", encoding="utf-8")
    table = tmp_path / "equivalent.toml"
    row = '[[mutant]]\nin = "made:{}"\nat = "return x < 1"\nwas = "< 1"\nbecomes = "<= 1"\nwhy = "x is never 1"\n'
    table.write_text(row.format("f") + row.format("g"), encoding="utf-8")
    mutants = mutants_of(path, "resilience/made.py")
    excluded = Equivalents(table, mutants)
    assert [(mutant.before, excluded.reasons[mutant.key]) for mutant in mutants if mutant.key in excluded.reasons] == [
        (" < 1", "x is never 1")
    ]
    assert excluded.stale == ["made:g: `< 1` -> `<= 1` in `return x < 1`"]


def test_verdicts_outlive_the_process_and_survivors_remember_whom_they_met(tmp_path: Path) -> None:
    path = tmp_path / "made.py"
    path.write_text("def f(x):\n    return x < 1\n", encoding="utf-8")
    killed, survived = mutants_of(path, "made.py")[:2]
    kept = Verdicts(tmp_path / "verdicts.jsonl")
    kept.add(killed, Verdict("killed", "test_f", 0.5), {})
    kept.add(survived, Verdict("survived", "", 0.5), {"test_made.py": "digest"})
    later = Verdicts(tmp_path / "verdicts.jsonl")
    assert (later.of(killed), later.of(survived)) == (Verdict("killed", "test_f", 0.5), Verdict("survived", "", 0.5))
    assert (later.survived(killed), later.survived(survived)) == ({}, {"test_made.py": "digest"})
    assert later.noticed() == {"test_f": 1}


RUN = """
import json, sys
from dataclasses import replace
from pathlib import Path
from benchmarks.mutation.examining import Job, Room, examine
from benchmarks.mutation.mutants import mutants_of

root, file, tests = Path.cwd(), "resilience/breaker/trip.py", "tests/unit/breaker/test_trip.py"
names = ["test_a_timeout_counts_twice", "test_jitter_shortens_only"]
made = mutants_of(root / file, file)
weight = next(one for one in made if one.function == "streak_weight" and one.before == "is")
limit = next(one for one in made if one.before == "ACCOUNT_MULTIPLIER: Final = 4")
none = replace(weight, source=(root / file).read_text())
broken = replace(limit, source="import nothing_of_that_name")
tests_of = [f"{tests}::{name}" for name in names]
room = Room(root, [tests], dict.fromkeys(tests_of, 0.1), 2, float("inf"))
found = {}
def tell(job, verdict):
    found[job.mutant.source] = [verdict.what, verdict.by.rpartition(":")[2]]
jobs = [[Job(one, tests_of) for one in pair] for pair in ((limit, broken), (weight, none))]
assert not examine(*jobs, room, tell)
Path(sys.argv[1]).write_text(json.dumps([found[one.source] for one in (weight, none, limit, broken)]))
"""


def test_a_noticed_fault_is_killed_by_the_test_that_noticed_and_no_fault_survives(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(out)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text(encoding="utf-8")) == [
        ["killed", "test_a_timeout_counts_twice"],
        ["survived", ""],
        ["survived", ""],  # these two tests ask nothing about accounts
        ["killed", "the import"],
    ]
