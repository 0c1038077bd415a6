"""The main job: as long as one provider works, the call works, and the broken one sees only probes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import litellm
import pytest

import resilience
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = [{"role": "user", "content": "Hello, planted-prompt"}]
LIMIT = 0.5  # seconds for an attempt at the first target, which may hang
BACKUP = "Hello from the backup."
FAULTS = {
    "refused": Fault.refuse(),
    "hanging": Fault.hang(),
    "401": Fault.unauthorized(),
    "429": Fault.rate_limited(),
    "500": Fault.http(500),
    "503": Fault.http(503),
    "529": Fault.overloaded(),
    "html": Fault.html(),
    "empty": Fault.empty(),
    "reset": Fault.reset(),
}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LoopbackProvider, LoopbackProvider]]:
    with LoopbackProvider() as first, LoopbackProvider() as second:
        second.answer = BACKUP
        for dialect in ("openai", "anthropic"):
            # The SDKs are loaded by now, so that a limit of 0.4 s judges the provider and not this machine.
            with resilience.MultiProviderFallback(settings(first, second, dialect, limit=30)) as fb:
                fb.completion("chat", ASKED)
        yield first, second


@pytest.fixture
def world(pair: tuple[LoopbackProvider, LoopbackProvider]) -> tuple[LoopbackProvider, LoopbackProvider]:
    for provider in pair:
        provider.clear()
        provider.forget()
    return pair


def settings(
    first: LoopbackProvider, second: LoopbackProvider, dialect: str = "openai", limit: float = LIMIT, **breaker: Any
) -> dict[str, Any]:
    models = {
        "openai": ("openai/gpt-4o-mini", first.openai_base),
        "anthropic": ("anthropic/claude-haiku-4-5", first.url),
    }
    model, base = models[dialect]
    targets = [
        {"model": model, "name": "first", "api_base": base, "api_key": "sk-planted-1", "timeout": limit},
        {"model": "openai/gpt-4o", "name": "second", "api_base": second.openai_base, "api_key": "sk-planted-2"},
    ]
    return {
        "routes": {"chat": {"targets": targets, "backoff_seconds": 0.01}},
        "breaker": {"jitter": 0, **breaker},
    }


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.usefixtures("upstream")
async def test_whatever_the_first_target_does_the_second_answers(
    fault: Fault, dialect: str, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    async with resilience.MultiProviderFallback(settings(first, second, dialect)) as fb:
        first.set(fault)
        answer = await fb.acompletion("chat", ASKED)
        assert answer.choices[0].message.content == BACKUP
        behind = resilience.attempts(answer)
        assert (behind[-1].target, behind[-1].kind) == ("second", resilience.Kind.SUCCESS)
        assert {attempt.target for attempt in behind[:-1]} == {"first"}
        assert second.count() == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.usefixtures("upstream")
async def test_after_the_trip_the_first_target_sees_only_probes(
    fault: Fault, world: tuple[LoopbackProvider, LoopbackProvider]
) -> None:
    first, second = world
    async with resilience.MultiProviderFallback(settings(first, second)) as fb:
        first.set(fault)
        for _ in range(8):
            answer = await fb.acompletion("chat", ASKED)
            assert answer.choices[0].message.content == BACKUP
            if "first" not in fb.registry.rotation("chat"):
                break
        assert fb.registry.rotation("chat") == ["second"]
        assert fb.registry.targets["first"].current_state in {"open", "half-open"}
        seen = first.count()
        answers = await asyncio.gather(*(fb.acompletion("chat", ASKED) for _ in range(20)))
        assert [answer.choices[0].message.content for answer in answers] == [BACKUP] * 20
        held = fault == FAULTS["429"]
        # A hold without Retry-After lasts a second, so the twenty may just meet its probe.
        assert first.count() - seen <= (1 if held else 0)


@pytest.mark.usefixtures("upstream")
async def test_a_recovered_target_is_probed_back_in_without_a_stampede(
    world: tuple[LoopbackProvider, LoopbackProvider],
) -> None:
    first, second = world
    fast = settings(first, second, open_seconds=0.3, consecutive_failures=2)
    async with resilience.MultiProviderFallback(fast) as fb:
        first.set(Fault.http(503))
        while "first" in fb.registry.rotation("chat"):
            await fb.acompletion("chat", ASKED)
        first.clear()
        first.forget()
        first.latency_seconds = 0.05
        try:
            while fb.registry.targets["first"].current_state == "open":
                await asyncio.sleep(0.01)
            await asyncio.gather(*(fb.acompletion("chat", ASKED) for _ in range(30)))
            assert first.max_concurrency == 1
            while fb.registry.targets["first"].current_state != "closed":
                await fb.acompletion("chat", ASKED)
        finally:
            first.latency_seconds = 0.0
        answer = await fb.acompletion("chat", ASKED)
        assert resilience.attempts(answer)[-1].target == "first"


@pytest.mark.usefixtures("upstream")
async def test_one_attempt_is_one_request_on_the_wire(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    async with resilience.MultiProviderFallback(settings(first, second)) as fb:
        first.set(Fault.http(503))
        answer = await fb.acompletion("chat", ASKED)
        assert (first.count(), second.count()) == (2, 1)  # one retry on the same target, then the next
        assert len(resilience.attempts(answer)) == 3


@pytest.mark.usefixtures("upstream")
async def test_with_every_target_down_the_error_holds_every_cause(
    world: tuple[LoopbackProvider, LoopbackProvider],
) -> None:
    first, second = world
    config = settings(first, second)
    config["routes"]["chat"] |= {"on_exhausted": "fail", "num_retries": 0, "max_attempts": 2}
    async with resilience.MultiProviderFallback(config) as fb:
        first.set(Fault.http(503))
        second.set(Fault.http(500))
        with pytest.raises(resilience.RouteExhaustedError) as raised:
            await fb.acompletion("chat", ASKED)
        error = raised.value
        assert [type(cause) for cause in error.exceptions] == [
            litellm.ServiceUnavailableError,
            litellm.InternalServerError,
        ]
        assert error.status_code == 503
        assert [attempt.target for attempt in resilience.attempts(error)] == ["first", "second"]
        assert "planted" not in error.message


@pytest.mark.usefixtures("upstream")
async def test_a_request_error_is_the_providers_own_and_nobody_else_is_asked(
    world: tuple[LoopbackProvider, LoopbackProvider],
) -> None:
    first, second = world
    async with resilience.MultiProviderFallback(settings(first, second)) as fb:
        first.set(Fault.http(400))
        for _ in range(10):
            with pytest.raises(litellm.BadRequestError):
                await fb.acompletion("chat", ASKED)
        assert (first.count(), second.count()) == (10, 0)
        assert fb.registry.rotation("chat") == ["first", "second"]


@pytest.mark.usefixtures("upstream")
async def test_a_tenants_bad_key_opens_nobody_elses_breaker(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    async with resilience.MultiProviderFallback(settings(first, second)) as fb:
        first.set(Fault.unauthorized(), times=1)
        await fb.acompletion("chat", ASKED, api_key="sk-planted-tenant")
        assert fb.registry.targets["first"].current_state == "closed"
        opened = [name for name, one in fb.snapshot().targets.items() if one.state == "open"]
        assert len(opened) == 1
        assert opened[0].startswith("first@")
        assert "planted" not in opened[0]


@pytest.mark.usefixtures("upstream")
def test_threads_are_served_like_tasks(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(first, second)) as fb:
        first.set(Fault.http(503))
        answer = fb.completion("chat", ASKED)
        assert answer.choices[0].message.content == BACKUP
        response = fb.process_sync(resilience.AIRequest(input="hi"))
        assert (response.status, response.model_used, response.output) == ("completed", "openai/gpt-4o", BACKUP)
        assert response.tokens_used > 0
        assert response.cost_usd is not None
        assert response.cost_usd > 0


@pytest.mark.usefixtures("upstream")
async def test_process_tells_a_failure_as_a_status(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    first, second = world
    config = settings(first, second)
    config["routes"]["chat"] |= {"on_exhausted": "fail", "max_attempts": 2}
    async with resilience.MultiProviderFallback(config) as fb:
        first.set(Fault.unauthorized())
        second.set(Fault.unauthorized())
        response = await fb.process(resilience.AIRequest(input="planted-prompt"))
        assert (response.status, response.model_used, response.output) == ("failed", "none", "")
        assert response.error is not None
        assert "planted" not in response.error


@pytest.mark.usefixtures("upstream")
async def test_the_short_form_with_one_model_twice_is_one_target(
    world: tuple[LoopbackProvider, LoopbackProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = world
    monkeypatch.setenv("OPENAI_API_BASE", first.openai_base)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    config = {"primary_model": "openai/gpt-4o-mini", "fallback_model": "openai/gpt-4o-mini", "max_retries": 3}
    async with resilience.MultiProviderFallback(config=config) as fb:
        assert list(fb.registry.targets) == ["openai/gpt-4o-mini"]
        first.set(Fault.http(503), times=2)
        response = await fb.process(resilience.AIRequest(input="hi"))
        assert (response.status, first.count()) == ("completed", 3)


@pytest.mark.usefixtures("upstream")
async def test_an_unknown_model_lists_the_routes(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    async with resilience.MultiProviderFallback(settings(*world)) as fb:
        with pytest.raises(resilience.ConfigurationError, match="routes: chat"):
            await fb.acompletion("nonsense", ASKED)
        with pytest.raises(resilience.ConfigurationError, match="first, second"):
            fb.registry.targets["nonsense"]


async def test_a_closed_runtime_says_so(world: tuple[LoopbackProvider, LoopbackProvider]) -> None:
    fb = resilience.MultiProviderFallback(settings(*world))
    await fb.aclose()
    with pytest.raises(resilience.ResilienceError, match="closed"):
        await fb.acompletion("chat", ASKED)


@pytest.mark.usefixtures("upstream")
async def test_no_prompt_answer_or_key_in_any_event_log_or_error(
    world: tuple[LoopbackProvider, LoopbackProvider], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = world
    first.answer = "planted-answer"
    told: list[str] = []
    try:
        for fault in (None, *FAULTS.values(), Fault.cut(2), Fault.http(400)):
            async with resilience.MultiProviderFallback(settings(first, second)) as fb:
                fb.registry.subscribe(lambda event: told.append(repr(event)))
                if fault is not None:
                    first.set(fault)
                    second.set(fault)
                with caplog.at_level("DEBUG", logger="resilience"):
                    for stream in (False, True):
                        try:
                            answer = await fb.acompletion("chat", ASKED, stream=stream, timeout=1.0)
                            if stream:
                                async for _ in answer:
                                    pass
                        except resilience.ResilienceError as error:
                            told.append(error.message if hasattr(error, "message") else str(error))
                        except litellm.BadRequestError:
                            pass
                told.extend((fb.snapshot().model_dump_json(), repr(fb.settings)))
                first.clear()
                second.clear()
    finally:
        first.answer = "Hello from the loopback provider."
    told.extend(record.getMessage() for record in caplog.records if record.name == "resilience")
    assert len(told) > 50
    assert [line for line in told if "planted" in line] == []
