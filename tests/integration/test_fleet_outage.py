"""Six processes, one provider of two down for 8 s, the store killed in the middle: nobody who asks notices."""

from __future__ import annotations

from contextlib import ExitStack

from fleet_clients import RATE, ask_steadily
from fleet_members import PATIENCE_SECONDS, SPAWN

from resilience.clock import SYSTEM_CLOCK
from resilience.testing import Fault, LoopbackProvider
from resilience.testing.store import LoopbackStore

PROCESSES, SECONDS = 6, 24.0
DOWN_AT, KILLED_AT, UP_AT, RESTARTED_AT = 3.0, 7.0, 11.0, 13.0


def test_a_fleet_answers_every_request_and_wastes_little_also_without_its_store() -> None:
    with ExitStack() as stack:
        store = stack.enter_context(LoopbackStore())
        first, second = (stack.enter_context(LoopbackProvider("ok")) for _ in range(2))
        members = []
        for number in range(PROCESSES):
            pipe, theirs = SPAWN.Pipe()
            bases = (first.openai_base, second.openai_base)
            process = SPAWN.Process(
                target=ask_steadily, args=(theirs, store.url, bases, number, PROCESSES, SECONDS), daemon=True
            )
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            members.append(pipe)
        assert all(pipe.poll(PATIENCE_SECONDS) and pipe.recv() == "ready" for pipe in members)
        begin = SYSTEM_CLOCK.monotonic() + 0.3
        for pipe in members:
            pipe.send(begin)
        for at, act in (
            # A failing provider that takes its time: probes of two processes would overlap.
            (DOWN_AT, lambda: first.set(Fault.http(503).after(0.05))),
            (DOWN_AT + 1.5, lambda: setattr(first, "max_concurrency", first.active)),
            (KILLED_AT, store.kill),
            (UP_AT, first.clear),
            (RESTARTED_AT, store.start),
        ):
            SYSTEM_CLOCK.sleep(max(0.0, begin + at - SYSTEM_CLOCK.monotonic()))
            if at == KILLED_AT:
                at_once = first.max_concurrency
            act()
        assert all(pipe.poll(PATIENCE_SECONDS) for pipe in members)
        results = [pipe.recv() for pipe in members]
        attempts = first.count() + second.count()
    wrong = [error for _, errors, _ in results for error in errors]
    assert wrong == []
    good = sum(good for good, _, _ in results)
    assert good == RATE * SECONDS
    assert attempts - good <= 0.05 * attempts, f"{attempts - good} of {attempts} wasted"
    assert at_once <= 1, "probes in flight while the store was there"
    for _, _, events in results:
        assert events.count("StorageDegraded") == events.count("StorageRestored") == 1
