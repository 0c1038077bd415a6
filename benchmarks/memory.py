"""How much memory do ten thousand targets take?"""

from __future__ import annotations

import gc
import tracemalloc

from benchmarks.report import Report, Table, arguments, deliver
from resilience import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.upstream import Target

QUESTION = "How much memory do ten thousand targets take?"
METHOD = (
    "Python's own count of allocated bytes (tracemalloc) before and after, the garbage collected first. "
    "The targets themselves are made before and not counted."
)
SUCCESSES, FAILURES = 64, 12


def targets(count: int, providers: int) -> list[Target]:
    return [
        Target(f"target {number}", f"provider {number % providers}", "openai/gpt-4o-mini", {}, f"identity {number}")
        for number in range(count)
    ]


def filled(entries: list[Target], *, traffic: bool, failing: bool) -> HealthRegistry:
    registry = HealthRegistry(Settings())
    worked = Outcome(Kind.SUCCESS, latency_seconds=0.1)
    failed = Outcome(Kind.SERVER_ERROR, ConnectionError("refused"), status=503)
    for target in entries:
        registry.add(target)
        for _ in range(SUCCESSES if traffic else 0):
            registry.admit(target).settle(worked)
    for target in entries if failing else ():
        for _ in range(FAILURES):
            if not registry.is_eligible(target):
                break
            registry.admit(target).settle(failed)
    return registry


def occupied(count: int, providers: int, *, traffic: bool = False, failing: bool = False) -> int:
    """Bytes that a registry of ``count`` targets holds."""
    entries = targets(count, providers)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    registry = filled(entries, traffic=traffic, failing=failing)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del registry
    return after - before


def main() -> None:
    options = arguments(QUESTION).parse_args()
    count = 200 if options.quick else 10_000
    table = Table(
        f"{count:,} targets in a registry",
        ("case", "MB", "bytes per target", "goal, MB"),
        note=f"Traffic: {SUCCESSES} successes each. Failing: then failures until the target is out of rotation.",
    )
    idle, busy, dead = {}, {"traffic": True}, {"traffic": True, "failing": True}
    for name, providers, kinds in (
        ("idle, 20 providers", 20, idle),
        ("idle, a provider each", count, idle),
        ("after traffic, a provider each", count, busy),
        ("all failing, a provider each", count, dead),
    ):
        size = occupied(count, providers, **kinds)
        table.add(name, size / 1e6, size / count, 50)
    deliver(Report("memory", QUESTION, METHOD, [table]), options)


if __name__ == "__main__":
    main()
