"""/metrics as Prometheus scrapes it: from a live server, and summed over several processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ops_server import environment, scripted, serving
from prometheus_client.parser import text_string_to_metric_families

import resilience
from resilience.testing import Fault, LoopbackProvider

NAMES = {
    "ai_requests_total",
    "ai_request_duration_seconds_count",
    "ai_active_requests",
    "resilience_circuit_state",
    "resilience_circuit_opens_total",
    "resilience_attempts_total",
    "resilience_fallbacks_total",
    "resilience_first_token_seconds_count",
    "resilience_tokens_total",
    "resilience_cost_usd_total",
    "resilience_fleet_degraded",
}


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_official_parser_reads_what_a_server_shows() -> None:
    with LoopbackProvider() as first, LoopbackProvider() as second:
        targets = [
            {"model": "openai/gpt-4o-mini", "provider": "openai", "api_base": first.openai_base, "api_key": "sk-a"},
            {"model": "anthropic/claude-haiku-4-5", "provider": "anthropic", "api_base": second.url, "api_key": "sk-b"},
        ]
        config = {"routes": {"metered": {"targets": targets}}}
        async with resilience.MultiProviderFallback(config, sinks=()) as fb, serving(fb) as running:
            assert (await running.client.post("/process", json={"input": "hi"})).json()["status"] == "completed"
            messages = [{"role": "user", "content": "hi"}]
            stream = await fb.acompletion("metered", messages, stream=True, stream_options={"include_usage": True})
            async for _ in stream:
                pass
            first.set(Fault.refuse())
            for _ in range(6):
                await running.client.post("/process", json={"input": "hi"})
            answer = await running.client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            found = read(answer.text)
            assert {name for name, _ in found} >= NAMES
            assert found["ai_requests_total", frozenset({("model", "metered"), ("status", "completed")})] == 8
            standing = frozenset({("breaker", "openai"), ("state", "open")})
            assert found["resilience_circuit_state", standing] == 1
            for kind in ("input", "output"):
                used = frozenset({("target", "openai/gpt-4o-mini"), ("type", kind)})
                assert found["resilience_tokens_total", used] > 0
            paid = found["resilience_cost_usd_total", frozenset({("target", "openai/gpt-4o-mini")})]
            whole = 8 * 0.15e-6 + 5 * 0.6e-6
            assert paid > 1.5 * whole  # the stream's as well as the answer's


async def test_an_open_time_that_is_over_is_seen_without_a_request() -> None:
    config = {
        "routes": {"chat": {"targets": [{"model": "openai/gpt-4o-mini", "name": "gone", "provider": "gone-provider"}]}},
        "breaker": {"open_seconds": 0.05, "jitter": 0},
    }
    async with scripted(config=config) as fb, serving(fb) as running:
        for _ in range(5):
            fb.registry.targets["gone"].acquire().failure(ConnectionError("gone"))
        await asyncio.sleep(0.1)
        found = read((await running.client.get("/metrics")).text)
        assert found["resilience_circuit_state", frozenset({("breaker", "gone"), ("state", "half-open")})] == 1


WORKER = """
import sys
from ops_server import scripted
from resilience.telemetry.metrics import default_metrics
fb = scripted()
fb.observe(default_metrics())
for _ in range(int(sys.argv[1])):
    fb.completion("chat", [{"role": "user", "content": "hi"}])
fb.registry.targets["claude"].isolate("x")
sys.stdout.write("done\\n")
sys.stdout.flush()
sys.stdin.read()
"""
ASKER = """
import sys
from resilience.telemetry.metrics import default_metrics
sys.stdout.write(default_metrics().text().decode())
"""


async def test_several_processes_are_one_sum(tmp_path: Path) -> None:
    variables = environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path), PYTHONPATH=str(Path(__file__).parent))

    async def child(code: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *arguments, env=variables,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    workers = [await child(WORKER, str(count)) for count in (3, 4)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert await asyncio.wait_for(worker.stdout.readline(), 60) == b"done\n"
        out, _ = await asyncio.wait_for((await child(ASKER)).communicate(), 60)
    finally:
        for worker in workers:
            await worker.communicate(b"")
    found = read(out.decode())
    assert found["ai_requests_total", frozenset({("model", "chat"), ("status", "completed")})] == 7
    assert found["resilience_attempts_total", frozenset({("target", "gpt"), ("kind", "success")})] == 7
    assert found["ai_active_requests", frozenset()] == 0
    # In how many of them it stands there.
    assert found["resilience_circuit_state", frozenset({("breaker", "claude"), ("state", "isolated")})] == 2
