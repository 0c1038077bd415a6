"""Examining: runs the tests of one mutant in a fork of a process that has everything imported and collected."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest

from benchmarks.mutation.swapping import CannotSwapError, MutantFinder, codes, live_functions, swap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import CodeType, FunctionType

    from benchmarks.mutation.mutants import Mutant

# A test that computes this much longer than without the fault hangs: as good as failed. Processor time, since a busy
# machine must not look like a fault; one that only waits is given six times as long on the wall.
PATIENCE_SECONDS = 5.0
PATIENCE_FACTOR = 20
_WAITING_FACTOR = 6
OPTIONS = (
    "-q",
    "-s",
    "-p",
    "no:faulthandler",
    "-o",
    "timeout=0",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "--no-header",
    "-m",
    "not dev_integration",
)
_SAID, _BROKEN, _RIGID = 3, 4, 5
# What most of a process's start is spent on. None of it imports the package, or is rewritten by pytest.
_QUICK_START = (
    "yaml",
    "pydantic",
    "pybreaker",
    "structlog",
    "fakeredis",
    "tornado.gen",
    "hypothesis.stateful",
    "logging",
)
_TICK_SECONDS = 0.004


@dataclass(frozen=True, slots=True)
class Job:
    """A mutant and the tests that may notice it."""

    mutant: Mutant
    tests: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one mutant.

    Attributes:
        what: "killed", "timeout" or "survived".
        by: The test that noticed it.
        seconds: How long that took.
    """

    what: str
    by: str = ""
    seconds: float = 0.0


# ---- pytest's side

Use = Callable[["Examiner"], None]


class Examiner:
    """A pytest plugin: instead of running the session, it lends out its tests.

    Args:
        use: Is given this when all the tests are collected.
        first: Is given this before that, with the plugins loaded and nothing of the package imported.
    """

    def __init__(self, use: Use, first: Use | None = None) -> None:
        self._use = use
        self._first = first
        self._session: pytest.Session | None = None
        self._hasty = False
        self.items: dict[str, pytest.Item] = {}
        self.failed: list[str] = []

    def pytest_collection(self, session: pytest.Session) -> None:
        """Lend out the process as it is before anything is collected."""
        self._session = session
        # It would speak from every fork.
        session.config.pluginmanager.unregister(name="terminalreporter")
        if self._first is not None:
            self._first(self)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Take over when everything is collected."""
        self._take(session.items)
        self._use(self)
        return True

    def collect(self, files: Sequence[str]) -> bool:
        """Collect these only; in a fork, before anything is collected. Returns whether all could be imported."""
        assert self._session is not None
        self._take(self._session.perform_collect(files))
        return not self._session.testsfailed

    def _take(self, items: Sequence[pytest.Item | pytest.Collector]) -> None:
        for item in items:
            assert isinstance(item, pytest.Item)
            _hurry(item)
            self.items[item.nodeid] = item

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
        """Say only that it failed: to show it nicely takes longer than all the rest."""
        if not self._hasty or call.excinfo is None or isinstance(call.excinfo.value, pytest.skip.Exception):
            return None
        return pytest.TestReport(item.nodeid, item.location, {}, "failed", "", call.when)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed."""
        if report.failed:
            self.failed.append(report.nodeid)

    def first_failure(self, tests: list[str], seconds: dict[str, float]) -> str:
        """Run tests until one fails, and return which, else "". One that hangs ends the process."""
        self._hasty = True
        items = [self.items[test] for test in tests if test in self.items]
        assert items, "none of the chosen tests was collected"
        for item, following in zip(items, [*items[1:], None], strict=True):
            limit = PATIENCE_SECONDS + PATIENCE_FACTOR * seconds.get(item.nodeid, 0.0)
            signal.setitimer(signal.ITIMER_PROF, limit)  # nobody handles SIGPROF: it ends the process
            faulthandler.dump_traceback_later(_WAITING_FACTOR * limit, exit=True)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return self.failed[0]
        return ""


def _hurry(item: pytest.Item) -> None:
    """Fewer examples, always the same ones, and no search for the smallest: one failure is enough."""
    from hypothesis import HealthCheck, Phase, settings

    function, cls = getattr(item, "obj", None), getattr(item, "cls", None)
    for place, name in ((function, "_hypothesis_internal_use_settings"), (cls, "settings")):
        given = getattr(place, name, None)
        if isinstance(given, settings):
            brief = settings(
                given,
                max_examples=min(given.max_examples, 15),
                derandomize=True,
                database=None,
                deadline=None,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            )
            setattr(getattr(place, "__func__", place), name, brief)


def lend(tests: Iterable[str], use: Use, first: Use | None = None) -> None:
    """Start pytest, and hand over its process and its tests."""
    pytest.main([*OPTIONS, *tests], plugins=[Examiner(use, first)])


# ---- forks


def fork(work: Callable[[], str]) -> tuple[int, int]:
    """Do ``work`` in a child that is silent, and leads a group of its own.

    Returns:
        The child's id, and the end of a pipe that carries what ``work`` returned.
    """
    ear, mouth = os.pipe()
    child = os.fork()
    if child:
        os.close(mouth)
        return child, ear
    status = _BROKEN
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        try:
            said = work()
            status = _SAID if said else 0
        except CannotSwapError:
            said, status = "", _RIGID
        except BaseException:
            said = traceback.format_exc()
        os.write(mouth, said.encode())
    finally:
        os._exit(status)


class Ward:
    """Forks that are running, each with a limit."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._running: dict[int, tuple[Job, int, float, float]] = {}

    def add(self, job: Job, work: Callable[[], str], limit: float) -> None:
        """Start one."""
        child, ear = fork(work)
        started = time.perf_counter()
        self._running[child] = (job, ear, started, started + limit)

    def finished(self, *, wait_for_all: bool = False) -> Iterator[tuple[Job, Verdict]]:
        """Those that are over; waits until there is room for another, or for all."""
        while len(self._running) >= self._places or (wait_for_all and self._running):
            over = [child for child in self._running if self._is_over(child)]
            if not over:
                time.sleep(_TICK_SECONDS)
            for child in over:
                yield self._end(child)

    def _is_over(self, child: int) -> bool:
        _, _, _, limit = self._running[child]
        if time.perf_counter() > limit:
            os.killpg(child, signal.SIGKILL)
        state = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return state is not None

    def _end(self, child: int) -> tuple[Job, Verdict]:
        job, ear, started, _ = self._running.pop(child)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # whatever a test has left behind
        said = b""
        os.set_blocking(ear, False)
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(ear, 65536):
                said += piece
        os.close(ear)
        seconds = round(time.perf_counter() - started, 3)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return job, Verdict("survived", "", seconds)
        if code == _SAID:
            return job, Verdict("killed", said.decode(), seconds)
        if code == _BROKEN:
            raise RuntimeError(f"{job.mutant}: the examination itself failed\n{said.decode()}")
        # 1 is faulthandler's, whose watchdog ends a test that waits for ever.
        hung = code in {1, -signal.SIGPROF, -signal.SIGKILL}
        return job, Verdict("timeout" if hung else "killed", f"exit status {code}", seconds)


@dataclass(frozen=True, slots=True)
class Room:
    """Where mutants are examined.

    Attributes:
        root: The root of the repository.
        tests: Files and folders with the tests, and pytest's options for them.
        seconds: How long each test takes.
        places: How many forks may run at a time.
        limit: Seconds after which no further mutant is started.
        noticed: How many mutants each test has noticed so far: the sharp ones are asked first.
    """

    root: Path
    tests: Sequence[str]
    seconds: dict[str, float]
    places: int
    limit: float
    noticed: Counter[str] = field(default_factory=Counter)

    def in_order(self, tests: Iterable[str]) -> list[str]:
        """The tests by what it costs to learn something from them."""
        return sorted(tests, key=lambda test: ((self.seconds[test] + _TICK_SECONDS) / (1 + self.noticed[test]), test))

    def limit_of(self, job: Job) -> float:
        """When a fork is given up as a whole. Its single tests are watched closer than that."""
        return 600.0 + PATIENCE_FACTOR * sum(self.seconds.get(test, 0.0) for test in job.tests)


Tell = Callable[[Job, Verdict], None]


def measure(tests: Sequence[str], sources: Sequence[str], out: Path) -> dict[str, Any]:
    """Run all the tests without a fault, and find out what each runs and how long it takes.

    Returns:
        By test, its duration in seconds, and by file the lines that it runs.

    Raises:
        RuntimeError: One of them failed.
    """

    def use(examiner: Examiner) -> None:
        import coverage

        watch = coverage.Coverage(data_file=None, config_file=False, include=list(sources), messages=False)
        watch.start()
        found: dict[str, float] = {}
        for number, (name, item) in enumerate(items := [*examiner.items.items()]):
            watch.switch_context(name)
            started = time.perf_counter()
            following = items[number + 1][1] if number + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            found[name] = round(time.perf_counter() - started, 4)
        watch.stop()
        lines: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        data = watch.get_data()
        for file in data.measured_files():
            for line, names in data.contexts_by_lineno(file).items():
                for name in names:
                    lines[name][file].append(line)
        tests_found = {name: {"seconds": seconds, "lines": lines.get(name, {})} for name, seconds in found.items()}
        out.write_text(json.dumps({"failed": examiner.failed, "tests": tests_found}), encoding="utf-8")

    out.unlink(missing_ok=True)
    child, ear = fork(lambda: lend(tests, use) or "")
    os.close(ear)
    os.waitpid(child, 0)
    if not out.exists():
        raise RuntimeError(f"the tests could not be collected: {' '.join(tests)}")
    found = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    if found["failed"]:
        raise RuntimeError(f"without any fault, this fails already: {', '.join(found['failed'])}")
    return cast("dict[str, Any]", found["tests"])


def examine(at_import: Sequence[Job], in_functions: Sequence[Job], room: Room, tell: Tell) -> list[Job]:
    """Examine mutants, in one fork each.

    Args:
        at_import: Mutants of what runs when a module is imported: their forks have not imported it yet, and collect
            the files of their tests.
        in_functions: Mutants of functions: in their forks everything is collected, and the functions are swapped.
        room: Where.
        tell: Hears each verdict.

    Returns:
        Those that could not be swapped: they close over other names than before, and have to be imported.
    """
    rigid: list[Job] = []

    def first(examiner: Examiner) -> None:
        for module in _QUICK_START:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        _in_forks(at_import, room, tell, lambda job: _with_import(job, room, examiner))

    def then(examiner: Examiner) -> None:
        paths = [room.root / file for file in {job.mutant.file for job in in_functions}]
        functions = live_functions(paths)
        for path in paths:
            codes(path, path.read_text(encoding="utf-8"))  # once, before the forks
        _in_forks(in_functions, room, hear, lambda job: _with_swap(job, room, examiner, functions))

    def hear(job: Job, verdict: Verdict) -> None:
        if verdict.by == f"exit status {_RIGID}":
            rigid.append(job)
        else:
            tell(job, verdict)

    lend(room.tests, then, first)
    return rigid


def _in_forks(jobs: Sequence[Job], room: Room, tell: Tell, work: Callable[[Job], str]) -> None:
    ward = Ward(room.places)
    gc.collect()
    gc.freeze()
    for job in jobs:
        if time.perf_counter() > room.limit:
            break
        ordered = Job(job.mutant, room.in_order(job.tests))
        ward.add(ordered, partial(work, ordered), room.limit_of(job))
        for over in ward.finished():
            tell(*over)
    for over in ward.finished(wait_for_all=True):
        tell(*over)


def _with_import(job: Job, room: Room, examiner: Examiner) -> str:
    """Which test notices the fault, in a process that imports the mutant."""
    name = job.mutant.file.removesuffix(".py").replace("/", ".")
    assert name not in sys.modules, "the package has been imported too early"
    sys.meta_path.insert(0, MutantFinder(room.root / job.mutant.file, name, job.mutant.source))
    if not examiner.collect(sorted({test.partition("::")[0] for test in job.tests})):
        return "the import"
    return examiner.first_failure(job.tests, room.seconds)


def _with_swap(job: Job, room: Room, examiner: Examiner, functions: dict[CodeType, list[FunctionType]]) -> str:
    """Which test notices the fault, in a process that has everything."""
    swap(functions, room.root / job.mutant.file, job.mutant.source)
    return examiner.first_failure(job.tests, room.seconds)
