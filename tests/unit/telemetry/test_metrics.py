"""Metrics as the official parser reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import resilience
from resilience.events import StorageDegraded, StorageRestored
from resilience.outcome import Kind
from resilience.telemetry.metrics import Metrics
from resilience.testing.upstream import Fail, Say, ScriptedUpstream

CONFIG: dict[str, Any] = {
    "routes": {
        "chat": {
            "targets": [
                {"model": "openai/gpt-4o-mini", "name": "gpt", "provider": "openai"},
                {"model": "anthropic/claude-haiku-4-5", "name": "claude", "provider": "anthropic"},
            ]
        }
    }
}
HI = [{"role": "user", "content": "hi"}]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics).get((name, tuple(sorted((key.rstrip("_"), text) for key, text in labels.items()))), 0.0)


def runtime(script: Any = None) -> tuple[resilience.MultiProviderFallback, Metrics]:
    fb = resilience.MultiProviderFallback(CONFIG, upstream=ScriptedUpstream(script or {}), sinks=())
    metrics = Metrics(CollectorRegistry())
    fb.observe(metrics)
    return fb, metrics


async def test_a_request_and_its_attempts_are_counted() -> None:
    fb, metrics = runtime({"gpt": Fail(Kind.SERVER_ERROR, status=503)})
    await fb.acompletion("chat", HI, num_retries=0)
    assert value(metrics, "ai_requests_total", model="chat", status="completed") == 1
    assert value(metrics, "ai_request_duration_seconds_count") == 1
    assert value(metrics, "ai_active_requests") == 0
    assert value(metrics, "resilience_attempts_total", target="gpt", kind="server_error") == 1
    assert value(metrics, "resilience_attempts_total", target="claude", kind="success") == 1
    assert value(metrics, "resilience_fallbacks_total", route="chat", from_="gpt", to="claude") == 1


async def test_a_failed_and_a_cancelled_request_say_so() -> None:
    fb, metrics = runtime({name: [Fail(Kind.AUTH), Say("late", after_seconds=30)] for name in ("gpt", "claude")})
    with pytest.raises(resilience.RouteExhaustedError):
        fb.completion("chat", HI)
    for breakers in (fb.registry.targets, fb.registry.providers):
        for breaker in breakers.values():
            breaker.reset()
    task = asyncio.create_task(fb.acompletion("chat", HI))
    await asyncio.sleep(0.02)
    assert value(metrics, "ai_active_requests") == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert value(metrics, "ai_requests_total", model="chat", status="failed") == 1
    assert value(metrics, "ai_requests_total", model="chat", status="cancelled") == 1
    assert value(metrics, "ai_active_requests") == 0


async def test_a_stream_is_counted_at_its_end_with_its_first_token() -> None:
    fb, metrics = runtime({"gpt": Say("a b c")})
    stream = await fb.acompletion("chat", HI, stream=True)
    await anext(stream)
    assert value(metrics, "ai_active_requests") == 1
    assert value(metrics, "ai_requests_total", model="chat", status="completed") == 0
    async for _ in stream:
        pass
    assert value(metrics, "ai_requests_total", model="chat", status="completed") == 1
    assert value(metrics, "resilience_first_token_seconds_count", target="gpt") == 1
    left = fb.completion("chat", HI, stream=True)
    next(left)
    left.close()
    assert value(metrics, "ai_requests_total", model="chat", status="cancelled") == 1
    dropped = fb.completion("chat", HI, stream=True)
    del dropped
    assert value(metrics, "ai_requests_total", model="chat", status="cancelled") == 2
    assert value(metrics, "ai_active_requests") == 0


def test_a_circuit_stands_in_exactly_one_state() -> None:
    fb, metrics = runtime({"gpt": Fail(Kind.CONNECTION)})

    def standing(breaker: str) -> list[str]:
        found = samples(metrics)
        return [
            state
            for state in ("closed", "open", "half-open", "isolated")
            if found.get(("resilience_circuit_state", (("breaker", breaker), ("state", state)))) == 1
        ]

    metrics.refresh(fb.snapshot())
    assert standing("gpt") == ["closed"]
    for _ in range(6):
        fb.completion("chat", HI)
    assert standing("gpt") == ["open"]
    assert value(metrics, "resilience_circuit_opens_total", breaker="gpt", kind="connection") == 1
    fb.registry.targets["gpt"].isolate("x")
    assert standing("gpt") == ["isolated"]
    fb.registry.targets["gpt"].reset()
    assert standing("gpt") == ["closed"]


def test_labels_are_bounded_whatever_callers_ask_for() -> None:
    metrics = Metrics(CollectorRegistry(), max_values=5)
    fb = resilience.MultiProviderFallback({"routes": {}}, upstream=ScriptedUpstream({}), sinks=())
    fb.observe(metrics)
    for number in range(50):
        fb.completion(f"openai/gpt-{number}", HI, api_key=f"sk-{number}")
    found = samples(metrics)
    for name in ("ai_requests_total", "resilience_attempts_total"):
        assert len([key for key in found if key[0] == name]) == 6
    assert value(metrics, "ai_requests_total", model="other", status="completed") == 45
    metrics.refresh(fb.snapshot())
    assert len({dict(key[1])["breaker"] for key in samples(metrics) if key[0] == "resilience_circuit_state"}) == 5
    assert not any("sk-" in str(key) for key in samples(metrics))


def test_the_fleets_store_has_a_metric() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.hear(StorageDegraded("gone"))
    assert value(metrics, "resilience_fleet_degraded") == 1
    metrics.hear(StorageRestored(3.0))
    assert value(metrics, "resilience_fleet_degraded") == 0


def test_an_observer_that_raises_is_not_felt(caplog: pytest.LogCaptureFixture) -> None:
    fb, metrics = runtime()
    metrics.count = None  # type: ignore[assignment,method-assign]  # whatever breaks it
    assert fb.completion("chat", HI).text == "ok"
    assert fb.completion("chat", HI).text == "ok"
    assert len([record for record in caplog.records if "raised" in record.message]) <= 1


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "resilience.telemetry.metrics", raising=False)
    with pytest.raises(resilience.ConfigurationError, match=r"litellm-resilience\[prometheus\]"):
        importlib.import_module("resilience.telemetry.metrics")
