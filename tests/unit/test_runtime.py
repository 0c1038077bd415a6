"""The runtime: every door of the contract, what goes through it untouched, and what it refuses."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import resilience
from resilience.outcome import Kind
from resilience.testing.clock import ManualClock
from resilience.testing.upstream import Act, Fail, Say, ScriptedAnswer, ScriptedUpstream

ASKED = [{"role": "user", "content": "planted-prompt"}]
TARGETS = [
    {"model": "openai/gpt-4o", "name": "first", "api_key": "sk-planted-1", "temperature": 0.5},
    {"model": "anthropic/claude-haiku-4-5", "name": "second", "api_key": "sk-planted-2"},
]


class Recording(ScriptedUpstream):
    """Also keeps what each call carried."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.carried: list[tuple[str, dict[str, Any]]] = []
        self.limits: list[float] = []

    def call(self, target: Any, operation: Any, params: Any, timeouts: Any) -> Any:
        self.carried.append((operation.value, dict(params)))
        self.limits.append(timeouts.attempt)
        answer = super().call(target, operation, params, timeouts)
        answer.id = f"resp-{len(self.carried)}"
        return answer

    async def acall(self, target: Any, operation: Any, params: Any, timeouts: Any) -> Any:
        self.carried.append((operation.value, dict(params)))
        self.limits.append(timeouts.attempt)
        answer = await super().acall(target, operation, params, timeouts)
        answer.id = f"resp-{len(self.carried)}"
        return answer


def world(
    route: dict[str, Any] | None = None, *, settings: dict[str, Any] | None = None, **script: Act | list[Act]
) -> tuple[resilience.MultiProviderFallback, Recording]:
    clock = ManualClock()
    upstream = Recording(script, clock=clock)
    chat = {"targets": TARGETS, "num_retries": 0, "on_exhausted": "fail", **(route or {})}
    config = {"routes": {"chat": chat}, "breaker": {"jitter": 0}, **(settings or {})}
    return resilience.MultiProviderFallback(config, clock=clock, upstream=upstream), upstream


# ---- the doors


@pytest.mark.parametrize("model", ["chat", None])
async def test_model_and_messages_are_taken_by_position_and_by_name(model: str | None) -> None:
    fb, upstream = world()
    for answer in (
        await fb.acompletion(model, ASKED),
        await fb.acompletion(model=model, messages=ASKED),
        await fb.acompletion(messages=ASKED),
        fb.completion(model, ASKED),
        fb.completion(model=model, messages=ASKED, stream=False),
    ):
        assert isinstance(answer, ScriptedAnswer)
        assert [one.target for one in resilience.attempts(answer)] == ["first"]
    assert upstream.carried == [("completion", {"messages": ASKED})] * 5


async def test_embeddings_and_responses_have_the_same_two_doors() -> None:
    fb, upstream = world()
    await fb.aembedding("chat", "text")
    fb.embedding(model="chat", input=["text"])
    await fb.aresponses("chat", "text")
    fb.responses(model="chat", input="text")
    assert [operation for operation, _ in upstream.carried] == ["embedding", "embedding", "responses", "responses"]
    assert [params["input"] for _, params in upstream.carried] == ["text", ["text"], "text", "text"]


@pytest.mark.parametrize(
    ("sync", "is_async"), [("completion", "acompletion"), ("embedding", "aembedding"), ("responses", "aresponses")]
)
def test_the_two_doors_take_the_same_arguments(sync: str, is_async: str) -> None:
    one = inspect.signature(getattr(resilience.MultiProviderFallback, sync))
    assert one == inspect.signature(getattr(resilience.MultiProviderFallback, is_async))
    assert list(one.parameters)[1] == "model"
    assert one.parameters["model"].default is None


async def test_what_is_not_ours_passes_through_untouched() -> None:
    fb, upstream = world()
    given = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "metadata": {"trace": "t"},
        "user": "u",
        "stream_options": {"include_usage": True},
        "temperature": 0.9,
        "extra_headers": {"x": "y"},
        "seed": None,
    }
    await fb.acompletion("chat", ASKED, **given)
    fb.completion("chat", ASKED, **given)
    assert upstream.carried == [("completion", {"messages": ASKED, **given})] * 2


async def test_what_is_ours_does_not_reach_the_provider() -> None:
    fb, upstream = world()
    fb.completion("chat", ASKED, timeout=5, num_retries=1, max_retries=1, priority=1, validate=bool)
    assert upstream.carried == [("completion", {"messages": ASKED})]


def test_a_calls_timeout_caps_its_attempts_and_is_its_deadline() -> None:
    fb, upstream = world(first=Fail(Kind.SERVER_ERROR, after_seconds=2), second=Say(after_seconds=9))
    fb.completion("chat", ASKED, timeout=20)
    assert upstream.limits == [20, 18]
    with pytest.raises(resilience.DeadlineExceededError) as raised:
        fb.completion("chat", ASKED, timeout=4)
    assert raised.value.deadline_seconds == 4
    assert [one.kind for one in resilience.attempts(raised.value)] == [Kind.SERVER_ERROR, Kind.TIMEOUT]
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value.__cause__, ExceptionGroup)


def test_a_timeout_of_httpx_is_taken_by_its_read_limit() -> None:
    import httpx

    fb, upstream = world()
    fb.completion("chat", ASKED, timeout=httpx.Timeout(3.0, connect=1.0))
    fb.completion("chat", ASKED, timeout=httpx.Timeout(None))
    fb.completion("chat", ASKED, timeout=float("inf"))
    assert upstream.limits == [3.0, 60.0, 60.0]


@pytest.mark.parametrize("word", ["num_retries", "max_retries"])
def test_a_calls_num_retries_replaces_the_routes(word: str) -> None:
    fb, upstream = world({"max_attempts": 20, "backoff_seconds": 0}, first=Kind.SERVER_ERROR)
    fb.completion("chat", ASKED, **{word: 2})
    assert upstream.log == ["first"] * 3 + ["second"]


async def test_a_validator_sends_the_request_on_and_streams_and_embeddings_are_not_asked() -> None:
    clock = ManualClock()
    upstream = Recording({"first": "no", "second": "yes"}, clock=clock)
    fb = resilience.MultiProviderFallback(
        {"routes": {"chat": {"targets": TARGETS}}}, clock=clock, upstream=upstream, validate=lambda text: text == "yes"
    )
    assert (await fb.acompletion("chat", ASKED)).text == "yes"
    assert fb.completion("chat", ASKED, validate=lambda text: text == "no").text == "no"
    assert fb.embedding("chat", "text").text == "no"
    assert [chunk.text for chunk in fb.completion("chat", ASKED, stream=True)] == ["no"]


# ---- what is behind an answer


async def test_attempts_can_be_read_from_answers_streams_and_errors() -> None:
    fb, _ = world({"max_attempts": 2}, first=Kind.SERVER_ERROR, second=[Say("a b"), Say("a b"), Kind.SERVER_ERROR])
    answer = fb.completion("chat", ASKED)
    assert [(one.target, one.kind) for one in resilience.attempts(answer)] == [
        ("first", "server_error"),
        ("second", "success"),
    ]
    assert answer._hidden_params["resilience"] == resilience.attempts(answer)
    stream = await fb.acompletion("chat", ASKED, stream=True)
    during = resilience.attempts(stream)
    assert [chunk.text async for chunk in stream] == ["a", " b"]
    assert [one.target for one in during] == ["first", "second"]
    assert resilience.attempts(stream) == during
    with pytest.raises(resilience.RouteExhaustedError) as raised:
        fb.completion("chat", ASKED)
    assert [one.target for one in resilience.attempts(raised.value)] == ["first", "second"]


def test_attempts_of_what_never_was_one_are_none() -> None:
    class Chatty:
        attempts = "many"

    for thing in (None, "text", {"attempts": 3}, object(), ValueError("x"), Chatty()):
        assert resilience.attempts(thing) == ()


def test_attempts_of_a_single_model_are_on_the_providers_own_error() -> None:
    fb, _ = world(first=Kind.SERVER_ERROR)
    with pytest.raises(Exception, match="told to fail") as raised:
        fb.completion("first", ASKED, num_retries=0)
    assert [(one.target, one.kind) for one in resilience.attempts(raised.value)] == [("first", "server_error")]


# ---- what cannot move


def test_a_response_that_continues_another_stays_on_its_target() -> None:
    fb, upstream = world(first=[Kind.SERVER_ERROR, "from the first"], second="from the second")
    begun: Any = fb.responses("chat", "hi")
    assert upstream.log == ["first", "second"]
    again: Any = fb.responses("chat", "more", previous_response_id=begun.id)
    assert upstream.log[2:] == ["second"]
    upstream.tell("second", Kind.SERVER_ERROR)
    with pytest.raises(resilience.RouteExhaustedError):
        fb.responses("chat", "more", previous_response_id=again.id)
    assert set(upstream.log[3:]) == {"second"}
    assert upstream.carried[-1][1]["previous_response_id"] == again.id


def test_a_response_of_another_process_stays_on_the_first_target() -> None:
    fb, upstream = world()
    fb.responses("chat", "more", previous_response_id="resp-of-somebody-else")
    assert upstream.log == ["first"]


def test_a_tenants_response_stays_on_the_tenants_target() -> None:
    fb, upstream = world()
    begun: Any = fb.responses("chat", "hi", api_key="sk-planted-tenant")
    fb.responses("chat", "more", api_key="sk-planted-tenant", previous_response_id=begun.id)
    assert upstream.log[0] == upstream.log[1]
    assert upstream.log[0].startswith("first@")


def test_remembered_responses_are_bounded_under_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience.routing.homes._REMEMBERED", 50)
    fb, upstream = world()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fb.responses("chat", "hi"), range(300)))
    assert len(fb._homes._targets) <= 50
    assert upstream.attempts == {"first": 300}


# ---- what is refused

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": 7}),
    ("model", {"model": ["chat"]}),
    ("messages", {"messages": "planted-prompt"}),
    ("messages", {"messages": None}),
    ("messages", {"messages": {"role": "user", "content": "planted-prompt"}}),
    ("timeout", {"timeout": 0}),
    ("timeout", {"timeout": -1}),
    ("timeout", {"timeout": True}),
    ("timeout", {"timeout": "30"}),
    ("timeout", {"timeout": float("nan")}),
    ("num_retries", {"num_retries": -1}),
    ("num_retries", {"num_retries": "3"}),
    ("num_retries", {"num_retries": 1.5}),
    ("num_retries", {"num_retries": True}),
    ("priority", {"priority": "high"}),
    ("priority", {"priority": 0.5}),
    ("validate", {"validate": "yes"}),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=repr)
async def test_a_wrong_argument_is_named_with_what_is_allowed(name: str, wrong: dict[str, Any]) -> None:
    fb, upstream = world()
    given: dict[str, Any] = {"model": "chat", "messages": ASKED, **wrong}
    for call in (fb.completion, fb.acompletion):
        with pytest.raises(resilience.ConfigurationError, match=f"^{name}: ") as raised:
            answer = call(**given)
            await answer if inspect.isawaitable(answer) else None
        assert "planted" not in str(raised.value)
    assert upstream.log == []


@pytest.mark.parametrize("door", ["embedding", "responses"])
def test_an_input_that_was_forgotten_is_named(door: str) -> None:
    fb, _ = world()
    with pytest.raises(resilience.ConfigurationError, match=r"^input: "):
        getattr(fb, door)("chat")


def test_none_is_not_given_for_every_option() -> None:
    fb, upstream = world()
    fb.completion(
        None, ASKED, timeout=None, num_retries=None, priority=None, validate=None, fallbacks=None, stream=None
    )
    assert upstream.log == ["first"]


@pytest.mark.parametrize("routes", [{"chat": {}}, {"chat": {"targets": []}}])
def test_a_route_without_targets_is_refused(routes: dict[str, Any]) -> None:
    with pytest.raises(resilience.ConfigurationError, match=r"routes\.chat\.targets"):
        resilience.MultiProviderFallback({"routes": routes})


def test_a_model_nobody_knows_in_the_settings_is_refused_at_the_start() -> None:
    with pytest.raises(resilience.ConfigurationError, match="nonsense"):
        resilience.MultiProviderFallback({"routes": {"chat": {"targets": ["nonsense"]}}})


async def test_a_closed_runtime_takes_no_call() -> None:
    async with world()[0] as one:
        pass
    with world()[0] as other:
        pass
    closed, _ = world()
    closed.close()
    closed.close()
    await closed.aclose()
    for fb in (one, other, closed):
        for door in ("completion", "embedding", "responses"):
            with pytest.raises(resilience.ConfigurationError, match="closed"):
                getattr(fb, door)("chat", ASKED)
            with pytest.raises(resilience.ConfigurationError, match="closed"):
                await getattr(fb, f"a{door}")("chat", ASKED)


async def test_a_call_in_flight_ends_as_it_would_have_and_is_heard() -> None:
    heard: list[str] = []
    fb, _ = world(first=Say("a b"))
    fb.registry.subscribe(lambda event: heard.append(type(event).__name__))
    stream = await fb.acompletion("chat", ASKED, stream=True)
    await fb.aclose()
    assert [chunk.text async for chunk in stream] == ["a", " b"]
    assert heard == ["AttemptSucceeded"]


# ---- settings, snapshot, registry


def test_a_runtime_shows_its_settings_its_registry_and_a_snapshot() -> None:
    fb, _ = world()
    assert isinstance(fb.settings, resilience.Settings)
    assert isinstance(fb.registry, resilience.HealthRegistry)
    assert isinstance(fb.snapshot(), resilience.Snapshot)
    assert list(fb.registry.targets) == ["first", "second"]
    assert list(fb.registry.providers) == ["openai", "anthropic"]
    assert [str(name) for name in fb.registry.rotation("chat")] == ["first", "second"]
    assert fb.registry.providers["openai"].current_state == "closed"


def test_settings_objects_and_short_forms_are_taken_too() -> None:
    settings = resilience.Settings.load({"routes": {"chat": {"targets": TARGETS}}})
    assert resilience.MultiProviderFallback(settings, upstream=ScriptedUpstream()).settings is settings
    short = {"primary_model": "openai/gpt-4o", "fallback_model": "openai/gpt-4o", "max_retries": 3}
    fb = resilience.MultiProviderFallback(config=short, upstream=ScriptedUpstream())
    assert (fb.settings.default_route, list(fb.registry.targets)) == ("default", ["openai/gpt-4o"])
    assert fb.settings.routes["default"].num_retries == 3


def test_no_settings_at_all_serve_single_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESILIENCE_CONFIG", raising=False)
    upstream = ScriptedUpstream({"openai/gpt-4o": "hello"})
    with resilience.MultiProviderFallback(upstream=upstream) as fb:
        assert fb.completion("openai/gpt-4o", ASKED).text == "hello"


def test_a_single_model_whose_breaker_is_open_is_rejected_at_once() -> None:
    fb, upstream = world(settings={"breaker": {"consecutive_failures": 2, "jitter": 0}}, first=Kind.SERVER_ERROR)
    for _ in range(2):
        with pytest.raises(Exception, match="told to fail"):
            fb.completion("first", ASKED, num_retries=0)
    with pytest.raises(resilience.CircuitOpenError) as raised:
        fb.completion("first", ASKED)
    assert upstream.log == ["first"] * 2
    assert raised.value.retry_after == pytest.approx(10)


# ---- tenants


def test_twenty_thousand_tenants_stay_bounded_and_their_keys_are_nowhere() -> None:
    heard: list[str] = []
    fb, upstream = world(settings={"warm": False})
    fb.registry.subscribe(lambda event: heard.append(repr(event)))
    upstream.carried = upstream.limits = upstream.log = _Nothing()  # type: ignore[assignment]  # counts are not kept
    for number in range(20_000):
        fb.completion("chat", ASKED, api_key=f"sk-planted-tenant-{number}")
        if number % 1000 == 0:
            assert len(fb.registry.targets) < 11_000
    assert len(fb.registry.targets) < 11_000
    assert len(fb.registry.providers) == 2
    told = [*heard, *fb.registry.targets, fb.snapshot().model_dump_json(), repr(fb.settings)]
    assert [line for line in told if "planted" in line] == []


class _Nothing(list[Any]):
    """Forgets what it is given."""

    def append(self, _: Any) -> None:
        return


async def test_tasks_and_threads_share_one_runtime() -> None:
    fb, upstream = world(first=Kind.OVERLOADED, second="ok")

    def in_a_loop_of_its_own() -> list[str]:
        async def several() -> list[Any]:
            return await asyncio.gather(*(fb.acompletion("chat", ASKED) for _ in range(10)))

        return [answer.text for answer in asyncio.run(several())]

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(in_a_loop_of_its_own) for _ in range(3)]
        threads = [pool.submit(fb.completion, "chat", ASKED) for _ in range(30)]
        assert [text for loop in loops for text in loop.result()] == ["ok"] * 30
        assert [thread.result().text for thread in threads] == ["ok"] * 30
    assert upstream.attempts["second"] == 60
    assert [one.in_flight for one in fb.snapshot().targets.values()] == [0, 0]
