"""Logs: one line per event, where the application wants it, and never where it does not."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog

import resilience
from resilience import events
from resilience.outcome import Kind
from resilience.telemetry.log import log_event

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY = [
    event for _, event in inspect.getmembers(events, inspect.isclass)
    if issubclass(event, events.Event) and event is not events.Event
]  # fmt: skip
OPENED = events.CircuitOpened("x", "openai", "failure rate", Kind.SERVER_ERROR, 12, 20, 0.6, 10.0, 2)


@pytest.fixture
def structured() -> Iterator[list[Any]]:
    """What structlog hears."""
    with structlog.testing.capture_logs() as lines:
        yield lines
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def made(kind: type[events.Event]) -> events.Event:
    return kind(**{field.name: field.name for field in dataclasses.fields(kind)})


def test_a_line_has_the_promised_name_and_the_events_own_fields(structured: list[Any]) -> None:
    log_event(OPENED)
    assert structured == [
        {
            "event": "resilience.circuit.opened",
            "log_level": "warning",
            "breaker": "x",
            "provider": "openai",
            "reason": "failure rate",
            "kind": "server_error",
            "failures": 12,
            "calls": 20,
            "failure_rate": 0.6,
            "open_seconds": 10.0,
            "generation": 2,
            "shadow": False,
        }
    ]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_event_is_one_line_with_all_its_fields(kind: type[events.Event], structured: list[Any]) -> None:
    log_event(made(kind))
    (line,) = structured
    first, *rest = line.pop("event").removeprefix("resilience.").split(".")
    assert "".join(word.title() for word in (first, *"_".join(rest).split("_"))) == kind.__name__
    assert line.pop("log_level") in {"debug", "info", "warning"}
    assert line == {field.name: field.name for field in dataclasses.fields(kind)}


def test_every_promised_event_exists() -> None:
    promised = (
        "CircuitOpened CircuitHalfOpened CircuitClosed CircuitIsolated PermitRefused AttemptSucceeded AttemptFailed "
        "AttemptIgnored FallbackTaken HedgeStarted BudgetExhausted DeadlineExceeded StreamInterrupted StorageDegraded "
        "StorageRestored TargetOverdue TargetOnTime"
    )
    assert set(promised.split()) <= {kind.__name__ for kind in EVERY}


def test_without_structlog_configured_the_standard_logger_hears_it(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="resilience"):
        log_event(OPENED)
        log_event(events.AttemptSucceeded("chat", "a", "openai", 0.1, 1, stream=False))
    (opened, succeeded) = caplog.records
    assert (opened.name, opened.levelname, succeeded.levelname) == ("resilience", "WARNING", "DEBUG")
    assert opened.getMessage().startswith("event='resilience.circuit.opened' breaker='x'")
    assert "kind='server_error'" in opened.getMessage()
    assert capsys.readouterr().out == ""


def test_a_level_that_nobody_wants_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="resilience"):
        log_event(events.AttemptSucceeded("chat", "a", "openai", 0.1, 1, stream=False))
    assert caplog.records == []


def test_a_runtime_logs_by_itself(structured: list[Any]) -> None:
    fb = resilience.MultiProviderFallback({"breaker": {"consecutive_failures": 1, "jitter": 0}})
    fb.registry.provider_breaker("openai").isolate("bad deploy")
    assert [(line["event"], line["reason"]) for line in structured] == [("resilience.circuit.isolated", "bad deploy")]


def test_a_raising_sink_is_counted_and_not_felt(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[events.Event] = []

    def broken(event: events.Event) -> None:
        raise RuntimeError("sink")

    fb = resilience.MultiProviderFallback({}, sinks=[broken, heard.append])
    breaker = fb.registry.provider_breaker("openai")
    breaker.isolate("bad deploy")
    breaker.reset()
    assert len(heard) == 2
    assert fb.snapshot().sink_errors == 2
    # The first is told with its traceback, the rest are numbers.
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_nothing_is_printed_to_stdout() -> None:
    code = (
        "import resilience\n"
        "fb = resilience.MultiProviderFallback({'breaker': {'consecutive_failures': 1}})\n"
        "@resilience.protect('openai', runtime=fb)\n"
        "def ask(): raise ConnectionError\n"
        "for _ in range(3):\n"
        "    try: ask()\n"
        "    except Exception: pass\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == ""
    assert "resilience.circuit.opened" in told.stderr  # a warning, as any library's
