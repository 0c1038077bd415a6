"""Traces through the real OpenTelemetry SDK: requests, attempts, circuits; sync, async, threads, streams."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as semconv
from ops_server import CONFIG, scripted

import resilience
from resilience.outcome import Kind
from resilience.telemetry.genai import PROVIDERS
from resilience.telemetry.tracing import Tracing
from resilience.testing import Fault, LoopbackProvider
from resilience.testing.upstream import Fail, Say, ScriptedUpstream

HI = [{"role": "user", "content": "planted-prompt"}]


class Recorder:
    """A tracer provider whose spans can be read."""

    def __init__(self, **more: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**more)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracing = Tracing(self.provider, self.meters)

    @property
    def spans(self) -> list[Any]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self) -> list[str]:
        return [span.name for span in self.spans]

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


async def test_a_request_is_a_span_and_each_attempt_is_one_below_it() -> None:
    recorder = Recorder()
    async with scripted({"gpt": Fail(Kind.SERVER_ERROR, status=503)}) as fb:
        fb.observe(recorder.tracing)
        await fb.acompletion("chat", HI, temperature=0.5, num_retries=0)
    assert recorder.named() == ["resilience chat", "chat gpt-4o-mini", "chat claude-haiku-4-5"]
    request, failed, worked = recorder.spans
    assert {span.context.trace_id for span in recorder.spans} == {request.context.trace_id}
    assert failed.parent.span_id == worked.parent.span_id == request.context.span_id
    assert failed.attributes[semconv.GEN_AI_PROVIDER_NAME] == "openai"
    assert failed.attributes[semconv.GEN_AI_OPERATION_NAME] == "chat"
    assert failed.attributes[semconv.GEN_AI_REQUEST_MODEL] == "gpt-4o-mini"
    assert failed.attributes[semconv.GEN_AI_REQUEST_TEMPERATURE] == 0.5
    assert failed.attributes["http.response.status_code"] == 503
    assert failed.attributes["error.type"] == "ScriptedError"
    assert (failed.status.status_code.name, failed.status.description) == ("ERROR", "server_error")
    assert worked.attributes["resilience.attempt.kind"] == "success"
    assert worked.status.status_code.name == "UNSET"
    assert (request.attributes["resilience.attempts"], request.attributes["resilience.target"]) == (2, "claude")
    assert [event.name for event in request.events] == ["resilience.fallback.taken"]
    assert all(span.end_time >= span.start_time for span in recorder.spans)


async def test_real_answers_tell_model_tokens_finish_and_address_and_never_what_was_said() -> None:
    recorder = Recorder()
    with LoopbackProvider("planted-answer") as provider:
        target = {"model": "openai/gpt-4o-mini", "api_base": provider.openai_base, "api_key": "sk-planted-secret"}
        async with resilience.MultiProviderFallback({"routes": {"chat": {"targets": [target]}}}, sinks=()) as fb:
            fb.observe(recorder.tracing)
            await fb.acompletion("chat", HI)
            stream = await fb.acompletion("chat", HI, stream=True, stream_options={"include_usage": True})
            async for _ in stream:
                pass
            provider.set(Fault.http(500))
            with pytest.raises(resilience.RouteExhaustedError):
                await asyncio.to_thread(fb.completion, "chat", HI, num_retries=0, timeout=1)
    whole, streamed = (
        span for span in recorder.spans if span.kind.name == "CLIENT" and "error.type" not in span.attributes
    )
    for span in (whole, streamed):
        assert span.attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] > 0
        assert span.attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] > 0
        assert span.attributes[semconv.GEN_AI_RESPONSE_MODEL] == "gpt-4o-mini"
        assert tuple(span.attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS]) == ("stop",)
        assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", provider.port)
    assert streamed.attributes[semconv.GEN_AI_REQUEST_STREAM] is True
    assert streamed.attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] > 0
    written = "".join(span.to_json() for span in recorder.spans)
    for secret in ("planted-prompt", "planted-answer", "sk-planted-secret"):
        assert secret not in written


@pytest.mark.parametrize("stream", [False, True])
async def test_spans_below_an_attempt_belong_to_it_in_tasks_threads_and_streams(  # noqa: C901 (four doors in one)
    stream: bool,
) -> None:
    recorder = Recorder()
    tracer = recorder.provider.get_tracer("http client")

    class Client(ScriptedUpstream):
        def call(self, *arguments: Any) -> Any:
            with tracer.start_as_current_span("POST"):
                return super().call(*arguments)

        async def acall(self, *arguments: Any) -> Any:
            with tracer.start_as_current_span("POST"):
                return await super().acall(*arguments)

        def open(self, *arguments: Any) -> Any:
            with tracer.start_as_current_span("POST"):
                return super().open(*arguments)

        async def aopen(self, *arguments: Any) -> Any:
            with tracer.start_as_current_span("POST"):
                return await super().aopen(*arguments)

    def in_a_thread(fb: resilience.MultiProviderFallback) -> None:
        answer = fb.completion("chat", HI, stream=stream)
        if stream:
            for _ in answer:
                assert trace.get_current_span() is trace.INVALID_SPAN  # the reader's own code is not below us

    with resilience.MultiProviderFallback(CONFIG, upstream=Client({"gpt": Say("a b c")}), sinks=()) as fb:
        fb.observe(recorder.tracing)
        answer = await fb.acompletion("chat", HI, stream=stream)
        if stream:
            async for _ in answer:
                assert trace.get_current_span() is trace.INVALID_SPAN
        thread = threading.Thread(target=in_a_thread, args=(fb,))
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.gather(*(fb.acompletion("chat", HI) for _ in range(3)))
    by_id = {span.context.span_id: span for span in recorder.spans}
    chains = []
    for span in recorder.spans:
        if span.name == "POST":
            attempt = by_id[span.parent.span_id]
            chains.append((attempt.name, by_id[attempt.parent.span_id].name))
    assert chains == [("chat gpt-4o-mini", "resilience chat")] * 5
    assert len({span.context.trace_id for span in recorder.spans}) == 5


async def test_a_request_joins_the_callers_trace() -> None:
    recorder = Recorder()
    async with scripted() as fb:
        fb.observe(recorder.tracing)
        with recorder.provider.get_tracer("app").start_as_current_span("my work") as mine:
            await fb.acompletion("chat", HI)
            assert trace.get_current_span() is mine
    request = next(span for span in recorder.spans if span.name == "resilience chat")
    assert request.parent.span_id == mine.get_span_context().span_id


async def test_circuits_are_span_events_and_metrics() -> None:
    recorder = Recorder()
    async with scripted({"gpt": Fail(Kind.CONNECTION)}) as fb:
        fb.observe(recorder.tracing)
        for _ in range(6):
            await fb.acompletion("chat", HI)
        told = [event for span in recorder.spans for event in span.events if event.name == "resilience.circuit.opened"]
        assert {event.attributes["breaker"] for event in told} == {"openai", "gpt"}
        assert {event.attributes["kind"] for event in told} == {"connection"}
        found = recorder.metrics()
        assert ({"breaker": "gpt", "kind": "connection"}, 1) in found["resilience.circuit.opens"]
        assert ({"breaker": "gpt", "state": "open"}, 1) in found["resilience.circuit.state"]
        fb.registry.targets["gpt"].reset()
        assert ({"breaker": "gpt", "state": "closed"}, 1) in recorder.metrics()["resilience.circuit.state"]


async def test_a_stream_that_is_left_and_a_task_that_is_cancelled_end_their_spans() -> None:
    recorder = Recorder()
    async with scripted({"gpt": [Say("a b c d"), Say("late", after_seconds=30)]}) as fb:
        fb.observe(recorder.tracing)
        stream = await fb.acompletion("chat", HI, stream=True)
        await anext(stream)
        await stream.aclose()
        task = asyncio.create_task(fb.acompletion("chat", HI))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert recorder.named() == ["resilience chat", "chat gpt-4o-mini"] * 2
    for span in recorder.spans:
        assert span.status.status_code.name == "UNSET"
        assert "error.type" not in span.attributes


async def test_what_is_sampled_out_stays_out_below_as_well() -> None:
    recorder = Recorder(sampler=ParentBased(ALWAYS_OFF))
    seen = []

    class Client(ScriptedUpstream):
        async def acall(self, *arguments: Any) -> Any:
            seen.append(trace.get_current_span().get_span_context())
            return await super().acall(*arguments)

    with resilience.MultiProviderFallback(CONFIG, upstream=Client({}), sinks=()) as fb:
        fb.observe(recorder.tracing)
        await fb.acompletion("chat", HI)
    assert recorder.spans == []
    assert seen[0].is_valid
    assert not seen[0].trace_flags.sampled


async def test_without_an_sdk_the_callers_span_stays_the_current_one() -> None:
    recorder = Recorder()
    seen = []

    class Client(ScriptedUpstream):
        async def acall(self, *arguments: Any) -> Any:
            seen.append(trace.get_current_span())
            return await super().acall(*arguments)

    async with resilience.MultiProviderFallback(CONFIG, upstream=Client({}), sinks=()) as fb:
        fb.observe(Tracing(trace.NoOpTracerProvider()))
        with recorder.provider.get_tracer("caller").start_as_current_span("caller") as span:
            await fb.acompletion("chat", HI)
    assert (seen, recorder.named()) == ([span], ["caller"])


async def test_a_global_provider_that_comes_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    recorder = Recorder()
    async with scripted({}) as fb:
        fb.observe(Tracing())
        await fb.acompletion("chat", HI)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", recorder.provider)
        await fb.acompletion("chat", HI)
    assert recorder.named() == ["resilience chat", "chat gpt-4o-mini"]


async def test_a_trace_ends_with_its_observation() -> None:
    recorder = Recorder()
    async with scripted() as fb:
        end = fb.observe(recorder.tracing)
        fb.observe(recorder.tracing)  # twice is once
        await fb.acompletion("chat", HI)
        end()
        end()
        await fb.acompletion("chat", HI)
    assert recorder.named() == ["resilience chat", "chat gpt-4o-mini"]


def test_the_names_of_providers_are_those_of_the_conventions() -> None:
    known = {one.value for one in semconv.GenAiProviderNameValues}
    assert set(PROVIDERS.values()) <= known
