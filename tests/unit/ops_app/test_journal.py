"""The journal keeps a thousand of each sort, numbers them, and is held up by nobody."""

from __future__ import annotations

import json
import threading

from resilience.events import AttemptSucceeded, CircuitClosed, CircuitOpened, Event
from resilience.ops.journal import Journal
from resilience.ops.traffic import Traffic
from resilience.outcome import Kind
from resilience.telemetry.counting import Labels

ATTEMPT = AttemptSucceeded("chat", "gpt", "openai", 0.1, 1, stream=False)
CHANGE = CircuitOpened("gpt", "openai", "failure_rate", Kind.TIMEOUT, 5, 20, 0.25, 10.0, 2)


def test_a_busy_minute_does_not_push_out_why_a_circuit_opened() -> None:
    journal = Journal()
    journal.hear(CHANGE)
    for _ in range(5000):
        journal.hear(ATTEMPT)
    news = journal.after(0)
    assert len(news.entries) == 1001
    assert news.entries[0].event is CHANGE
    assert [entry.number for entry in news.entries] == sorted(entry.number for entry in news.entries)


def test_a_reader_hears_each_event_once_in_order_and_is_told_what_it_missed() -> None:
    journal = Journal(kept=10)
    for _ in range(5):
        journal.hear(ATTEMPT)
    news = journal.after(0)
    assert ([entry.number for entry in news.entries], news.head, news.missed) == ([1, 2, 3, 4, 5], 5, False)
    assert journal.after(5).entries == []
    for _ in range(12):
        journal.hear(ATTEMPT)
    news = journal.after(5)
    assert ([entry.number for entry in news.entries], news.missed) == (list(range(8, 18)), True)
    assert journal.after(5, changes_only=True) == ([], 17, False)


def test_numbers_of_another_run_mean_nothing_here() -> None:
    journal = Journal()
    journal.hear(CHANGE)
    assert journal.cursor(f"{journal.run}-1") == 1
    assert journal.cursor(f"{journal.run}-999") == 1
    for strange in ("0000-1", None, "", "1", f"{journal.run}-", f"{journal.run}-x", f"{journal.run}-" + "9" * 99):
        assert journal.cursor(strange) == 0


def test_what_is_sent_is_one_event_whatever_its_text() -> None:
    journal = Journal()
    journal.hear(CircuitClosed("a\n\ndata: forged\r\nevent: end", None, "</script>", 1.0, 2))
    wire = journal.wire(journal.after(0).entries[0]).decode()
    assert wire.endswith("\n\n")
    assert wire.count("\n") == 4
    assert wire.count("\r") == 0
    head, kind, data = wire.strip().split("\n")
    assert (head, kind) == (f"id: {journal.run}-1", "event: fact")
    assert json.loads(data.removeprefix("data: "))["event"] == "circuit.closed"


def test_threads_share_one_numbering() -> None:
    journal = Journal()
    threads = [threading.Thread(target=lambda: [journal.hear(ATTEMPT) for _ in range(200)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.number for entry in journal.after(0).entries] == list(range(1, 1001))


def test_every_event_there_is_can_be_told() -> None:
    import dataclasses

    journal = Journal()
    kinds = [kind for kind in Event.__subclasses__() if kind.__module__ == "resilience.events"]
    assert len(kinds) > 10
    for kind in kinds:
        fields = {field.name: Kind.TIMEOUT if field.name == "kind" else 1 for field in dataclasses.fields(kind)}
        journal.hear(kind(**fields))
    for entry in journal.after(0).entries:
        told = json.loads(journal.wire(entry).decode().split("data: ")[1])
        assert set(told) >= {field.name for field in dataclasses.fields(entry.event)}


def test_a_forked_child_does_not_wait_for_its_parents_locks() -> None:
    journal, traffic, labels = Journal(), Traffic(), Labels(3)
    for one in (journal, traffic, labels):
        one._lock.acquire()
        one.renew_after_fork()
    journal.hear(ATTEMPT)
    traffic.hear(ATTEMPT)
    assert (journal.head, traffic.targets()["gpt"]["completed"], labels.of("a")) == (1, 1, "a")
