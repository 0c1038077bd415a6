"""The decorator that feeds the metrics of any function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

import resilience
from resilience.telemetry.metrics import Metrics
from resilience.telemetry.monitor import monitor
from resilience.testing.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def counted(metrics: Metrics, model: str, status: str) -> float:
    return metrics.registry.get_sample_value("ai_requests_total", {"model": model, "status": status}) or 0.0


def active(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("ai_active_requests")


async def test_it_counts_functions_of_every_kind_by_the_model_that_is_asked(metrics: Metrics) -> None:
    @monitor(metrics=metrics)
    def plain(text: str, model: str = "") -> str:
        assert active(metrics) == 1
        return text

    @monitor(metrics=metrics)
    async def task(text: str, *, model: str) -> str:
        assert active(metrics) == 1
        return text

    @monitor("named", metrics=metrics)
    def pieces() -> Iterator[int]:
        yield from range(3)

    @monitor("named", metrics=metrics)
    async def apieces() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    assert plain("a", "gpt") == "a"
    assert plain("a") == "a"
    assert await task("b", model="claude") == "b"
    assert list(pieces()) == [0, 1, 2]
    assert [number async for number in apieces()] == [0, 1, 2]
    assert [counted(metrics, name, "completed") for name in ("gpt", "plain", "claude", "named")] == [1, 1, 1, 2]
    assert active(metrics) == 0
    assert metrics.registry.get_sample_value("ai_request_duration_seconds_count") == 5
    assert inspect.isasyncgenfunction(apieces)
    assert inspect.isgeneratorfunction(pieces)
    assert inspect.iscoroutinefunction(task)


async def test_failures_and_readers_that_leave_are_told_apart(metrics: Metrics) -> None:
    @monitor("m", metrics=metrics)
    async def broken() -> None:
        raise LookupError("mine")

    @monitor("m", metrics=metrics)
    def pieces() -> Iterator[int]:
        yield 1
        yield 2

    with pytest.raises(LookupError, match="mine"):
        await broken()
    reading = pieces()
    next(reading)
    reading.close()
    assert counted(metrics, "m", "failed") == 1
    assert counted(metrics, "m", "cancelled") == 1
    assert active(metrics) == 0


async def test_a_stream_that_a_function_returns_is_followed_to_its_end(metrics: Metrics) -> None:
    @monitor("m", metrics=metrics)
    async def opened() -> Any:
        async def numbers() -> AsyncIterator[int]:
            yield 1
            yield 2

        return numbers()

    stream = await opened()
    assert (counted(metrics, "m", "completed"), active(metrics)) == (0, 1)
    assert [number async for number in stream] == [1, 2]
    assert (counted(metrics, "m", "completed"), active(metrics)) == (1, 0)


async def test_an_observed_runtime_inside_is_one_request_not_two(metrics: Metrics) -> None:
    config = {"routes": {"chat": {"targets": ["openai/gpt-4o-mini"]}}}
    fb = resilience.MultiProviderFallback(config, upstream=ScriptedUpstream({}), sinks=())
    fb.observe(metrics)

    @monitor("outer", metrics=metrics)
    async def ask() -> Any:
        return await fb.acompletion("chat", [{"role": "user", "content": "hi"}])

    await ask()
    assert (counted(metrics, "outer", "completed"), counted(metrics, "chat", "completed")) == (1, 0)
    await fb.acompletion("chat", [{"role": "user", "content": "hi"}])
    assert counted(metrics, "chat", "completed") == 1


async def test_an_answer_that_says_failed_is_a_failure(metrics: Metrics) -> None:
    @monitor("m", metrics=metrics)
    async def ask() -> resilience.AIResponse:
        return resilience.AIResponse(request_id="1", status=resilience.ProcessingStatus.FAILED)

    await ask()
    assert counted(metrics, "m", "failed") == 1


def test_bare_it_takes_the_functions_name_and_the_clients_own_registry() -> None:
    from prometheus_client import REGISTRY

    @monitor
    def a_name_of_its_own() -> int:
        return 7

    assert a_name_of_its_own() == 7
    labels = {"model": "a_name_of_its_own", "status": "completed"}
    assert REGISTRY.get_sample_value("ai_requests_total", labels) == 1


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(resilience.ConfigurationError, match="@monitor"):
        monitor(7)  # type: ignore[call-overload]
