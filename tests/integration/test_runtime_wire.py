"""The runtime on real HTTP: what goes over the wire, and that every way to leave gives everything back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import litellm
import pytest
from asks import becomes_true, needs_mcp

import resilience
from resilience.middleware.warm import warm
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resilience.upstream import Target

pytestmark = [
    pytest.mark.usefixtures("upstream"),
    # LiteLLM's own: how it copies the chunk with the usage.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute:DeprecationWarning"),
]
ASKED = [{"role": "user", "content": "planted-prompt"}]
FIRST, BACKUP = "Hello from the loopback provider.", "Hello from the backup."
Pair = tuple[LoopbackProvider, LoopbackProvider]


@pytest.fixture(scope="module")
def pair(running: LoopbackProvider) -> Iterator[Pair]:
    with LoopbackProvider(BACKUP) as second:
        yield running, second


@pytest.fixture
def world(pair: Pair) -> Iterator[Pair]:
    for provider in pair:
        provider.clear()
        provider.forget()
    yield pair
    for provider in pair:
        provider.latency_seconds = provider.token_seconds = 0.0


def settings(world: Pair, **more: Any) -> dict[str, Any]:
    first, second = world
    chat = [
        {"model": "openai/gpt-4o-mini", "name": "first", "api_base": first.openai_base, "api_key": "sk-planted-1"},
        {"model": "openai/gpt-4o", "name": "second", "api_base": second.openai_base, "api_key": "sk-planted-2"},
    ]
    vectors = [
        {**chat[0], "model": "openai/text-embedding-3-small", "name": "near"},
        {**chat[1], "model": "openai/text-embedding-3-large", "name": "other space"},
        {**chat[1], "model": "openai/text-embedding-3-small", "name": "far"},
    ]
    walk = {"backoff_seconds": 0.01, "max_wait_seconds": 0.2}
    return {
        "routes": {"chat": {"targets": chat, **walk, **more}, "vectors": {"targets": vectors, **walk}},
        "breaker": {"jitter": 0},
        "warm": False,
    }


def in_use(fb: resilience.MultiProviderFallback) -> tuple[int, int]:
    """Calls in flight, and probes: what a request holds."""
    told = fb.snapshot()
    everybody = [*told.targets.values(), *told.providers.values()]
    return sum(one.in_flight for one in everybody), sum(one.probes_in_flight for one in everybody)


def targets(thing: Any) -> list[str]:
    return [one.target for one in resilience.attempts(thing)]


# ---- what goes over the wire


async def test_a_caller_s_parameters_win_and_the_rest_of_the_target_s_travel_along(world: Pair) -> None:
    first, _ = world
    config = settings(world)
    config["routes"]["chat"]["targets"][0] |= {"temperature": 0.5, "max_tokens": 9}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    given = {
        "temperature": 0.9,
        "tools": [tool],
        "response_format": {"type": "json_object"},
        "user": "u-7",
        "seed": 7,
        "metadata": {"trace": "t"},
    }
    with resilience.MultiProviderFallback(config) as fb:
        await fb.acompletion("chat", ASKED, **given)
        fb.completion("chat", ASKED, **given)
    for body in first.bodies:
        assert body["messages"] == ASKED
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o-mini", 0.9, 9)
        assert (body["tools"], body["response_format"]) == ([tool], {"type": "json_object"})
        assert (body["user"], body["seed"]) == ("u-7", 7)
        assert {"num_retries", "max_retries", "priority", "resilience"}.isdisjoint(body)
    assert first.count() == 2


async def test_a_key_from_the_environment_is_sent_and_not_shown(world: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = world
    monkeypatch.setenv("PLANTED_KEY", "sk-planted-environment")
    config = settings(world)
    config["routes"]["chat"]["targets"][0]["api_key"] = "os.environ/PLANTED_KEY"
    with resilience.MultiProviderFallback(config) as fb:
        await fb.acompletion("chat", ASKED)
        assert "planted-environment" not in fb.snapshot().model_dump_json() + repr(fb.settings)
    assert first.requests[0].headers["authorization"] == "Bearer sk-planted-environment"


async def test_a_tenants_key_is_sent_and_its_refusal_opens_nobody_elses_breaker(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.unauthorized())
        second.set(Fault.unauthorized())
        with pytest.raises(resilience.RouteExhaustedError) as raised:
            await fb.acompletion("chat", ASKED, api_key="sk-planted-tenant")
        assert first.requests[0].headers["authorization"] == "Bearer sk-planted-tenant"
        first.clear()
        assert targets(await fb.acompletion("chat", ASKED)) == ["first"]
        told = [str(raised.value), fb.snapshot().model_dump_json(), *map(repr, resilience.attempts(raised.value))]
        assert [line for line in told if "planted" in line] == []
        assert raised.value.retry_after is None or raised.value.retry_after > 1


async def test_a_callers_address_is_asked_instead_of_the_targets(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        for word in ("api_base", "base_url"):
            answer = await fb.acompletion("chat", ASKED, api_key="k", **{word: second.openai_base})
            assert resilience.attempts(answer)[0].provider == f"openai/127.0.0.1:{second.port}"
        answer = fb.completion("openai/gpt-4o-mini", ASKED, api_key="k", api_base=second.openai_base)
        assert answer.choices[0].message.content == BACKUP
    assert (first.count(), second.count()) == (0, 3)


async def test_embeddings_fall_back_within_their_space(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.http(503))
        for answer in (await fb.aembedding("vectors", ["hi"]), fb.embedding("vectors", "hi")):
            assert isinstance(answer, litellm.EmbeddingResponse)
            assert targets(answer) == ["near", "near", "far"]
        second.set(Fault.http(503))
        with pytest.raises(resilience.RouteExhaustedError):
            fb.embedding("vectors", "hi")
    assert {request.model for request in second.requests} == {"text-embedding-3-small"}
    assert (first.count(), second.count(), in_use(fb)) == (first.count(), second.count(), (0, 0))


@needs_mcp
async def test_a_response_that_continues_another_stays_on_its_target(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.http(503), times=2)
        begun = await fb.aresponses("chat", "hi")
        assert targets(begun) == ["first", "first", "second"]
        again = fb.responses("chat", "more", previous_response_id=begun.id)
        assert targets(again) == ["second"]
        second.set(Fault.http(503))
        with pytest.raises(resilience.RouteExhaustedError) as raised:
            fb.responses("chat", "more", previous_response_id=again.id)
        assert set(targets(raised.value)) == {"second"}
        assert first.count() == 2


@needs_mcp
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")  # LiteLLM's own, of a stream's usage
async def test_a_response_that_continues_a_streamed_one_stays_on_its_target(world: Pair) -> None:
    first, _ = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        for is_async in (True, False):
            first.set(Fault.http(503), times=2)
            opened = fb.aresponses("chat", "hi", stream=True) if is_async else None
            stream = await opened if opened else fb.responses("chat", "hi", stream=True)
            events = [event async for event in stream] if is_async else list(stream)
            again = await fb.aresponses("chat", "more", previous_response_id=events[-1].response.id)
            assert (targets(stream)[-1], targets(again)) == ("second", ["second"])


# ---- limits


async def test_a_calls_timeout_is_its_deadline(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.hang())
        second.set(Fault.hang())
        for call in (
            fb.acompletion("chat", ASKED, timeout=0.2),
            asyncio.to_thread(fb.completion, "chat", ASKED, timeout=0.2),
        ):
            with pytest.raises(resilience.DeadlineExceededError) as raised:
                await call
            assert raised.value.deadline_seconds == 0.2
            assert targets(raised.value) == ["first"]
        assert (second.count(), in_use(fb)) == (0, (0, 0))


@pytest.mark.parametrize("retries", [0, 2])
async def test_num_retries_is_the_number_of_requests_more(retries: int, world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.http(500))
        answer = await fb.acompletion("chat", ASKED, num_retries=retries)
        assert (first.count(), second.count()) == (1 + retries, 1)
        assert targets(answer) == ["first"] * (1 + retries) + ["second"]


# ---- streams


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_streams_are_litellms_own_chunks_and_fall_back_before_the_first(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.http(503))
        stream = await fb.acompletion("chat", ASKED, stream=True, stream_options={"include_usage": True})
        during = targets(stream)
        chunks = [chunk async for chunk in stream]
        other = fb.completion("chat", ASKED, stream=True)
        assert text_of(list(other)) == BACKUP
        assert text_of(chunks) == BACKUP
        assert {type(chunk).__name__ for chunk in chunks} == {"ModelResponseStream"}
        assert chunks[-1].usage.total_tokens > 0
        assert during == targets(stream) == targets(other) == ["first", "first", "second"]
        assert second.bodies[0]["stream_options"] == {"include_usage": True}
        assert in_use(fb) == (0, 0)


async def test_a_stream_that_breaks_after_content_tells_what_came(world: Pair) -> None:
    first, second = world
    with resilience.MultiProviderFallback(settings(world)) as fb:
        first.set(Fault.cut(2))
        seen: list[Any] = []
        with pytest.raises(resilience.StreamInterruptedError) as raised:
            async for chunk in await fb.acompletion("chat", ASKED, stream=True):
                seen.append(chunk)  # noqa: PERF401 (an extended list would lose what came before the break)
        sync: list[Any] = []
        with pytest.raises(resilience.StreamInterruptedError) as other:
            sync.extend(fb.completion("chat", ASKED, stream=True))
        assert raised.value.partial == text_of(seen) != ""
        assert other.value.partial == text_of(sync)
        assert raised.value.provider == f"openai/127.0.0.1:{first.port}"
        assert targets(raised.value) == ["first"]
        assert (second.count(), in_use(fb)) == (0, (0, 0))


# ---- leaving in the middle gives everything back


async def begin(fb: resilience.MultiProviderFallback, *, stream: bool) -> Any:
    answer = await fb.acompletion("chat", ASKED, stream=stream)
    return [chunk async for chunk in answer] if stream else answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", [Fault.hang(), Fault.stall(1), Fault.http(503)], ids=str)
async def test_a_cancelled_request_gives_everything_back_wherever_it_is(
    fault: Fault, stream: bool, world: Pair
) -> None:
    first, second = world
    # With 503 it sleeps before its retry, or waits for its second target.
    with resilience.MultiProviderFallback(settings(world, backoff_seconds=8, num_retries=3)) as fb:
        first.set(fault)
        second.set(Fault.hang())
        for turns in (0, 1, 2, 5, 20, None):
            task = asyncio.ensure_future(begin(fb, stream=stream))
            before = first.count() + second.count()
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            if turns is None:
                assert await becomes_true(lambda seen=before: first.count() + second.count() > seen)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert in_use(fb) == (0, 0)
        if fault.name != Fault.http(503).name:
            assert {one.failures for one in fb.snapshot().targets.values()} == {0}
        first.clear()
        assert targets(await fb.acompletion("chat", ASKED)) == ["first"]


async def test_a_cancelled_waiter_leaves_the_queue(world: Pair) -> None:
    with resilience.MultiProviderFallback(settings(world, max_wait_seconds=30)) as fb:
        for name in ("first", "second"):
            for _ in range(5):
                with fb.registry.targets[name].acquire() as permit:
                    permit.failure(ConnectionError())
        world[0].set(Fault.hang())  # the eager probes
        world[1].set(Fault.hang())
        waiting = [asyncio.ensure_future(fb.acompletion("chat", ASKED)) for _ in range(5)]
        assert await becomes_true(lambda: world[0].count() + world[1].count() > 0)
        for task in waiting:
            task.cancel()
        assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 5
        assert in_use(fb) == (0, 0)


@pytest.mark.parametrize("leave", ["break", "close", "drop"])
async def test_a_stream_left_early_gives_everything_back(leave: str, world: Pair) -> None:
    first, _ = world
    first.token_seconds = 0.02
    with resilience.MultiProviderFallback(settings(world)) as fb:
        for is_async in (True, False):
            stream = (
                await fb.acompletion("chat", ASKED, stream=True)
                if is_async
                else fb.completion("chat", ASKED, stream=True)
            )
            chunk = await anext(stream) if is_async else next(stream)
            assert chunk is not None
            assert in_use(fb)[0] <= 1
            if leave == "close":
                await stream.aclose() if is_async else stream.close()
            elif leave == "drop":
                del stream
            else:
                async with stream if is_async else _Sync(stream):
                    pass
            assert in_use(fb) == (0, 0)
        assert [one.failures for one in fb.snapshot().targets.values()][:2] == [0, 0]


class _Sync:
    """A sync stream's ``with`` block, where the test has an async one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> None:
        self._stream.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)


# ---- loops, threads, processes


SCRIPT = """
import asyncio, os, sys, threading
import litellm
import resilience

ASKED = [{"role": "user", "content": "hi"}]
BASE = sys.argv[1]
fb = resilience.MultiProviderFallback(
    {"routes": {"chat": {"targets": [{"model": "openai/gpt-4o-mini", "api_base": BASE, "api_key": "k"}]}}}
)
"""


def run(code: str, provider: LoopbackProvider) -> subprocess.CompletedProcess[str]:
    """Run a program with a runtime in a process of its own."""
    whole = SCRIPT + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", whole, provider.openai_base],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_one_runtime_serves_several_loops_and_threads(world: Pair) -> None:
    first, second = world
    first.set(Fault.http(503))
    code = f"""
    fb = resilience.MultiProviderFallback({settings(world, num_retries=0)!r})
    told, start = [], threading.Barrier(4)
    def in_a_loop_of_its_own():
        async def several():
            for _ in range(3):
                told.extend(await asyncio.gather(*(fb.acompletion("chat", ASKED) for _ in range(3))))
        start.wait()
        asyncio.run(several())
    def in_a_thread():
        start.wait()
        told.extend(fb.completion("chat", ASKED) for _ in range(9))
    threads = [threading.Thread(target=work) for work in (in_a_loop_of_its_own, in_a_thread) * 2]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    left = sum(one.in_flight for one in fb.snapshot().targets.values())
    print(len(told), {{one.choices[0].message.content for one in told}}, left)
    """
    told = run(code, first)
    assert told.stdout.splitlines() == [f"36 {{{BACKUP!r}}} 0"], told.stderr
    assert second.count() == 36


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.parametrize("moment", ["while warming", "after a call"])
def test_a_forked_child_serves_with_the_parents_runtime(moment: str, world: Pair) -> None:
    code = f"""
    if {moment!r} == "after a call":
        fb.completion("chat", ASKED)
        fb.process_sync(resilience.AIRequest(input="hi"))
    fb._lock.acquire()  # as another thread of the parent's might, at just this moment
    fb._table._lock.acquire()
    child = os.fork()
    if child == 0:
        told = [fb.completion("chat", ASKED), asyncio.run(fb.acompletion("chat", ASKED, api_key="mine"))]
        assert [one.in_flight for one in fb.snapshot().targets.values()] == [0, 0]
        print(*(one.choices[0].message.content for one in told), sep="|", flush=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    told = run(code, world[0])
    assert told.stdout.splitlines() == [f"{FIRST}|{FIRST}", "0"], told.stderr


SHUTDOWNS = {
    "while warming": "",
    "after a call": "fb.completion('chat', ASKED)",
    "with a stream open": "stream = fb.completion('chat', ASKED, stream=True); next(stream)",
    "with an async stream open": """
        async def ask():
            global stream
            stream = await fb.acompletion('chat', ASKED, stream=True)
            await anext(stream)
            await litellm.close_litellm_async_clients()
        asyncio.run(ask())
        """,
    "with a thread waiting": """
        fb.registry.targets["openai/gpt-4o-mini"].isolate("bad deploy")
        started = threading.Event()
        def ask():
            started.set()
            try:
                fb.completion('chat', ASKED)
            except resilience.RouteExhaustedError:
                pass
        threading.Thread(target=ask, daemon=True).start()
        started.wait()
        """,
}


@pytest.mark.parametrize("code", SHUTDOWNS.values(), ids=SHUTDOWNS)
def test_an_interpreter_that_ends_with_a_runtime_alive_is_silent(code: str, world: Pair) -> None:
    told = run(code, world[0])
    assert told.returncode == 0, told.stderr
    assert told.stdout == ""
    # The isolated breaker is a warning, and meant to be seen.
    assert [line for line in told.stderr.splitlines() if not line.startswith("event='resilience.circuit")] == []


# ---- warming


def families(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Whose families are warmed from now on."""
    seen: list[list[str]] = []

    def noted(wanted: list[Target]) -> None:
        seen.append(sorted(target.provider.partition("/")[0] for target in wanted))

    monkeypatch.setattr("resilience.middleware.warm.warm", noted)
    return seen


def test_a_runtime_warms_every_family_when_it_starts(world: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = families(monkeypatch)
    config = settings(world)
    config["routes"]["chat"]["targets"].append("anthropic/claude-haiku-4-5")
    resilience.MultiProviderFallback({**config, "warm": False})
    resilience.MultiProviderFallback({"warm": True})
    assert seen == []
    resilience.MultiProviderFallback({**config, "warm": True})
    assert [set(one) for one in seen] == [{"openai", "anthropic"}]


def test_warming_sends_nothing(world: Pair, target: Callable[..., Target]) -> None:
    warm([target(), target("anthropic")]).join()
    assert (world[0].connections, world[0].count()) == (0, 0)
