"""What door 2 takes for granted about LiteLLM: each hook, and each trap. A change of LiteLLM's is learned here."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import json
import subprocess
import sys
from datetime import datetime

import litellm
import pytest
from asks import LITELLM, MESSAGES, becomes_true, needs_mcp
from door2 import background, note_sleeps, retire, target
from litellm.exceptions import MidStreamFallbackError
from litellm.integrations.custom_logger import CustomLogger

from resilience.testing import Fault

PRE, OK, FAILED = "pre", "success hook", "failure hook"
LOG_OK, LOG_FAILED = "async log success", "async log failure"
SYNC_PRE, SYNC_OK, SYNC_FAILED = "log pre", "log success", "log failure"


class Hooks(CustomLogger):
    """Writes down every hook that fires, with the logging object's identity and the call id.

    LiteLLM tells of a call some time after it: those of an earlier test are not heard.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fired: list[str] = []
        self.ids: list[str | None] = []
        self.objects: list[int] = []
        self.models: list[str | None] = []
        self.details: list[dict] = []
        self.reject: Exception | None = None
        self.add: dict = {}
        self.began = datetime.now()  # noqa: DTZ005 (as LiteLLM notes its times)

    def note(self, what, kwargs):
        log = kwargs.get("litellm_logging_obj")
        if (kwargs["start_time"] if log is None else log.start_time) < self.began:
            return
        self.fired.append(what)
        self.models.append(getattr(log, "model", None))
        self.ids.append(kwargs.get("litellm_call_id"))
        self.objects.append(id(kwargs.get("litellm_logging_obj")))
        self.details.append(dict(kwargs))

    async def async_pre_call_deployment_hook(self, kwargs, call_type):
        self.note(PRE, kwargs)
        if self.reject:
            raise self.reject
        return {**kwargs, **self.add} if self.add else None

    async def async_post_call_success_deployment_hook(self, request_data, response, call_type):
        self.note(OK, request_data)

    async def async_post_call_failure_deployment_hook(self, request_data, exception, *_, **__):
        self.note(FAILED, request_data)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.note(LOG_OK, kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.note(LOG_FAILED, kwargs)

    def log_pre_api_call(self, model, messages, kwargs):
        self.note(SYNC_PRE, kwargs)
        if self.reject:
            raise self.reject

    def log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.note(SYNC_OK, kwargs)

    def log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.note(SYNC_FAILED, kwargs)

    def of(self, *wanted):
        return [what for what in self.fired if what in wanted]


@pytest.fixture
def hooks(provider, upstream, monkeypatch):
    made = Hooks()
    monkeypatch.setattr(litellm, "callbacks", [made])
    yield made
    litellm.logging_callback_manager._reset_all_callbacks()


@pytest.fixture
def ask(provider):
    return {**target(provider), "messages": MESSAGES, "max_retries": 0}


ASYNC = (PRE, OK, FAILED, LOG_OK, LOG_FAILED)


# -- which hook fires ---------------------------------------------------------------------------------------


async def test_acompletion_ok(hooks, ask):
    await litellm.acompletion(**ask)
    assert hooks.of(*ASYNC)[:2] == [PRE, OK]  # both before the caller has the answer
    assert await becomes_true(lambda: hooks.of(*ASYNC) == [PRE, OK, LOG_OK])


@pytest.mark.parametrize("stream", [False, True])
async def test_acompletion_error_and_stream_creation_error(hooks, ask, provider, stream):
    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        await litellm.acompletion(**ask, stream=stream)
    assert FAILED in hooks.fired
    assert await becomes_true(lambda: sorted(set(hooks.of(*ASYNC))) == sorted([PRE, FAILED, LOG_FAILED]))


async def test_async_stream_ok_has_no_success_hook(hooks, ask):
    stream = await litellm.acompletion(**ask, stream=True)
    assert hooks.of(*ASYNC) == [PRE]
    assert [chunk async for chunk in stream]
    assert await becomes_true(lambda: LOG_OK in hooks.fired)
    await background()
    assert hooks.of(*ASYNC) == [PRE, LOG_OK]


async def test_async_stream_that_breaks_has_no_failure_hook(hooks, ask, provider):
    provider.set(Fault.cut())
    stream = await litellm.acompletion(**ask, stream=True)
    with pytest.raises(MidStreamFallbackError):
        [chunk async for chunk in stream]
    assert await becomes_true(lambda: LOG_FAILED in hooks.fired)
    assert hooks.of(PRE, OK, FAILED) == [PRE]


async def test_sync_calls_fire_log_events_only(hooks, ask, provider):
    litellm.completion(**ask)
    assert await becomes_true(lambda: SYNC_OK in hooks.fired)
    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        litellm.completion(**ask)
    assert hooks.of(SYNC_PRE, SYNC_FAILED)[-2:] == [SYNC_PRE, SYNC_FAILED]  # inline
    assert hooks.of(SYNC_PRE, SYNC_OK)[:2] == [SYNC_PRE, SYNC_OK]
    assert hooks.of(PRE, OK, FAILED) == []


async def test_a_rejection_in_the_pre_hook_sends_nothing_and_is_logged_as_a_failure(hooks, ask, provider):
    hooks.reject = litellm.ServiceUnavailableError("no", "openai", "x")
    with pytest.raises(litellm.ServiceUnavailableError):
        await litellm.acompletion(**ask)
    assert provider.count() == 0
    assert await becomes_true(lambda: LOG_FAILED in hooks.fired)
    assert FAILED not in hooks.fired


async def test_deployment_hooks_are_those_of_litellm_callbacks_only(provider, upstream, ask, monkeypatch):
    elsewhere = Hooks()
    monkeypatch.setattr(litellm, "callbacks", [])
    monkeypatch.setattr(litellm, "success_callback", [elsewhere])
    monkeypatch.setattr(litellm, "_async_success_callback", [elsewhere])
    await litellm.acompletion(**ask)
    await background()
    assert elsewhere.of(PRE, OK, FAILED) == []


@pytest.mark.parametrize("sync", [False, True])
async def test_log_events_give_these_arguments_by_name(provider, upstream, ask, monkeypatch, sync):
    given = []

    class Named(CustomLogger):
        async def async_log_success_event(self, kwargs, response_obj, **named):
            given.append(sorted(named))

        def log_success_event(self, kwargs, response_obj, **named):
            given.append(sorted(named))

    monkeypatch.setattr(litellm, "callbacks", [Named()])
    try:
        litellm.completion(**ask) if sync else await litellm.acompletion(**ask)
        assert await becomes_true(lambda: given == [["end_time", "start_time"]])
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


async def test_a_model_given_by_position_is_known_to_the_logging_object_only(hooks, ask):
    rest = {key: value for key, value in ask.items() if key not in {"model", "messages"}}
    await litellm.acompletion(ask["model"], ask["messages"], **rest)
    (seen,) = (details for what, details in zip(hooks.fired, hooks.details, strict=True) if what == PRE)
    assert seen.get("model") is None
    assert hooks.models[0] == ask["model"]


# -- the ten traps ------------------------------------------------------------------------------------------


async def test_trap_1_a_callback_cannot_stop_a_sync_call(hooks, ask, provider):
    hooks.reject = ValueError("no")
    assert litellm.completion(**ask).choices
    assert provider.count() == 1


@pytest.mark.parametrize("name", ["embedding", "text_completion"])
async def test_trap_1_nor_its_siblings(hooks, provider, name):
    hooks.reject = ValueError("no")
    model = "openai/text-embedding-3-small" if name == "embedding" else "openai/gpt-4o-mini"
    asked = {"input": ["hi"]} if name == "embedding" else {"prompt": "hi"}
    with contextlib.suppress(litellm.NotFoundError):  # the loopback provider has no old completions
        getattr(litellm, name)(**target(provider, model), **asked)
    assert hooks.of(PRE) == []
    assert provider.count() == 1


async def test_trap_2_an_abandoned_stream_fires_no_outcome_hook(hooks, ask, provider):
    provider.set(Fault.drip(0.02))
    stream = await litellm.acompletion(**ask, stream=True)
    await anext(stream)
    del stream
    gc.collect()
    await background()
    assert hooks.of(*ASYNC) == [PRE]


async def test_trap_2_cancellation_fires_no_outcome_hook(hooks, ask, provider):
    provider.set(Fault.slow(0.5))
    task = asyncio.create_task(litellm.acompletion(**ask))
    assert await becomes_true(lambda: provider.count() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()
    await background()
    assert hooks.of(*ASYNC) == [PRE]


async def test_trap_3_one_hook_several_requests(hooks, provider):
    provider.set(Fault.http(500))
    ask = {**target(provider), "messages": MESSAGES}
    with pytest.raises(litellm.InternalServerError):
        await litellm.acompletion(**ask)
    assert (hooks.of(PRE), provider.count()) == ([PRE], 3)  # the SDK's own two retries


async def test_trap_3_embeddings_take_no_zero_for_an_answer(hooks, provider):
    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        await litellm.aembedding(**target(provider, "openai/text-embedding-3-small"), input=["hi"], max_retries=0)
    assert provider.count() == 3


async def test_trap_3_a_zero_that_is_true_stops_them(hooks, provider):
    from resilience.middleware.call import _NO_RETRIES

    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        await litellm.aembedding(
            **target(provider, "openai/text-embedding-3-small"), input=["hi"], max_retries=_NO_RETRIES
        )
    assert provider.count() == 1


async def test_trap_3_before_1_109_pictures_are_asked_for_three_times_whatever_is_said(hooks, provider):
    from resilience.middleware.call import _NO_RETRIES

    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        await litellm.aimage_generation(**target(provider, "openai/dall-e-3"), prompt="a cat", max_retries=_NO_RETRIES)
    assert provider.count() == (1 if LITELLM >= (1, 109) else 3)


async def test_trap_3_num_retries_ask_again_below_the_hooks(hooks, ask, provider):
    provider.set(Fault.http(500))
    with pytest.raises(litellm.InternalServerError):
        await litellm.acompletion(**ask, num_retries=2)
    assert provider.count() > hooks.fired.count(FAILED) >= 1
    assert provider.count() >= 3


@needs_mcp
async def test_trap_4_a_bridge_runs_two_pre_hooks_on_one_id_and_one_object(hooks, provider):
    await litellm.aresponses(**target(provider, "anthropic/claude-haiku-4-5"), input="hi")
    await background()
    pre = [place for place, what in enumerate(hooks.fired) if what == PRE]
    assert len(pre) == 2
    assert len({hooks.ids[place] for place in pre}) == 1
    assert len({hooks.objects[place] for place in pre}) == 1
    assert provider.count() == 1


async def test_trap_4_fallbacks_share_an_id(hooks, ask, provider):
    provider.set(Fault.http(500), model="gpt-4o-mini")
    await litellm.acompletion(**ask, fallbacks=[{**target(provider, "openai/gpt-4o"), "max_retries": 0}])
    await background()
    ids = [identity for what, identity in zip(hooks.fired, hooks.ids, strict=True) if what == PRE]
    assert len(set(ids)) < len(ids)


async def test_trap_5_a_fault_before_the_wire_leaves_its_import_error_in_the_chain():
    from resilience.middleware.classify import classify
    from resilience.outcome import Kind

    # What a missing extra looks like; LiteLLM wraps it as an outage.
    error = litellm.APIConnectionError("no module", "openai", "x")
    error.__cause__ = ModuleNotFoundError("No module named 'mcp'")
    assert error.status_code == 500
    assert classify(error).kind is Kind.LOCAL


WITHOUT_MCP = """
import asyncio, json, sys
sys.modules["mcp"] = None
import litellm
from resilience.middleware.classify import classify
litellm.suppress_debug_info = True
tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
try:
    asyncio.run(litellm.acompletion(**json.loads(sys.argv[1]), tools=tools))
    print("answered")
except Exception as error:
    print(type(error).__name__, error.status_code, classify(error).kind)
"""


def test_trap_5_without_mcp_tools_are_asked_for_or_fail_before_the_wire_as_an_outage(ask, provider):
    # LiteLLM 1.106 to the first 1.108 fails; those before and the later ones no longer import mcp for every tool.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MCP, json.dumps(ask)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout.split(), provider.count()) in (
        (["answered"], 1),
        (["APIConnectionError", "500", "local"], 0),
    ), done.stderr[-2000:]


@pytest.mark.parametrize("where", ["reset", "http://nowhere.invalid/v1"])
async def test_trap_6_reset_and_no_such_host_are_500_too(hooks, ask, provider, where):
    provider.set(Fault.reset())
    base = ask["api_base"] if where == "reset" else where
    with pytest.raises(litellm.InternalServerError) as caught:
        await litellm.acompletion(**{**ask, "api_base": base})
    assert caught.value.status_code == 500


async def test_trap_6_refused_is_500_and_a_read_timeout_408(hooks, ask, provider):
    with pytest.raises(litellm.InternalServerError) as refused:
        await litellm.acompletion(**{**ask, "api_base": "http://127.0.0.1:9/v1"})
    provider.set(Fault.slow(1))
    with pytest.raises(litellm.Timeout) as late:
        await litellm.acompletion(**ask, timeout=0.05)
    assert (refused.value.status_code, late.value.status_code) == (500, 408)


async def test_trap_7_a_truncated_stream_counts_as_success(hooks, ask, provider):
    provider.set(Fault.eof())
    stream = await litellm.acompletion(**ask, stream=True)
    if hasattr(stream, "uses_openai_chat_stream"):  # LiteLLM 1.109 has learned it, for what comes through OpenAI's SDK
        with pytest.raises(MidStreamFallbackError, match="ended before a finish_reason was received"):
            [chunk async for chunk in stream]
        assert await becomes_true(lambda: LOG_FAILED in hooks.fired)
        return
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert stream.received_finish_reason is None
    assert await becomes_true(lambda: LOG_OK in hooks.fired)


async def test_trap_7_a_stream_without_a_body_is_no_error(hooks, ask, provider):
    provider.set(Fault.no_body())
    stream = await litellm.acompletion(**ask, stream=True)
    assert not [chunk for chunk in [chunk async for chunk in stream] if chunk.choices[0].delta.content]


def test_trap_8_the_success_event_is_best_effort(hooks, ask):
    async def once():
        await litellm.acompletion(**ask, mock_response="hi")

    for _ in range(5):
        asyncio.run(once())
    assert hooks.fired.count(OK) == 5
    assert hooks.fired.count(LOG_OK) < 5


@pytest.mark.dev_integration  # LiteLLM's cache imports fastapi
async def test_trap_9_the_pre_hook_runs_before_the_cache(hooks, ask, provider, monkeypatch):
    monkeypatch.setattr(litellm, "cache", litellm.Cache())
    for list_ in ("input_callback", "success_callback", "_async_success_callback"):
        monkeypatch.setattr(litellm, list_, [*getattr(litellm, list_)])
    await litellm.acompletion(**ask, caching=True)
    assert await becomes_true(lambda: LOG_OK in hooks.fired)
    await litellm.acompletion(**ask, caching=True)
    assert provider.count() == 1
    assert hooks.of(PRE) == [PRE, PRE]
    assert await becomes_true(lambda: hooks.fired.count(LOG_OK) == 2)
    assert hooks.details[len(hooks.fired) - 1 - hooks.fired[::-1].index(LOG_OK)]["cache_hit"] is True


async def test_trap_10_private_keys_of_a_hook_reach_the_provider(hooks, ask, provider):
    hooks.add = {"my_private_key": "here"}
    await litellm.acompletion(**ask)
    assert provider.requests[-1].body["my_private_key"] == "here"


async def test_trap_10_context_variables_of_a_hook_leak_into_the_callers_context(provider, upstream, ask, monkeypatch):
    leaked = contextvars.ContextVar("leaked", default=False)

    class Leaky(CustomLogger):
        async def async_pre_call_deployment_hook(self, kwargs, call_type):
            leaked.set(True)

    monkeypatch.setattr(litellm, "callbacks", [Leaky()])
    await litellm.acompletion(**ask)
    assert leaked.get()


# -- the Router ---------------------------------------------------------------------------------------------


class RouterHooks(Hooks):
    async def async_filter_deployments(self, model, healthy_deployments, *_, **__):
        self.fired.append("filter")
        return healthy_deployments

    async def async_pre_call_check(self, deployment, parent_otel_span):
        self.fired.append("async check")
        return deployment

    def pre_call_check(self, deployment):
        self.fired.append("check")
        return deployment


async def test_a_router_asks_in_this_order_and_sync_only_once(provider, upstream, monkeypatch, ask):
    hooks = RouterHooks()
    monkeypatch.setattr(litellm, "callbacks", [hooks])
    params = {key: value for key, value in ask.items() if key != "messages"}
    router = litellm.Router(model_list=[{"model_name": "g", "litellm_params": params}], num_retries=0)
    asked = ("filter", "async check", "check", PRE)
    try:
        await router.acompletion(model="g", messages=MESSAGES)
        assert hooks.of(*asked) == ["filter", "async check", PRE]
        hooks.fired.clear()
        router.completion(model="g", messages=MESSAGES)
        assert hooks.of(*asked) == ["check"]
    finally:
        retire(router)
        litellm.logging_callback_manager._reset_all_callbacks()


class Filter(CustomLogger):
    """Leaves nothing in rotation, or raises."""

    def __init__(self, rejection: Exception | None = None) -> None:
        super().__init__()
        self.rejection = rejection
        self.asked = 0

    async def async_filter_deployments(self, model, healthy_deployments, *_, **__):
        self.asked += model == "g"
        if self.rejection is not None and model == "g":
            raise self.rejection
        return [] if model == "g" else healthy_deployments


def rejection(**fields):
    made = litellm.ServiceUnavailableError("no", "openai", "x")
    made.__dict__.update(fields)
    return made


@pytest.mark.parametrize(
    ("raised", "retries"),
    [(None, True), (rejection(), True), (rejection(num_retries=0), False)],
    ids=["an empty group", "a plain rejection", "one that wants no retries"],
)
async def test_what_a_filter_raises_decides_whether_the_router_asks_again(
    provider, upstream, monkeypatch, ask, raised, retries
):
    gate = Filter(raised)
    monkeypatch.setattr(litellm, "callbacks", [gate])
    note_sleeps(monkeypatch)
    params = {key: value for key, value in ask.items() if key != "messages"}
    spare = {"model_name": "spare", "litellm_params": params}
    router = litellm.Router(
        model_list=[{"model_name": "g", "litellm_params": params}, spare], fallbacks=[{"g": ["spare"]}], num_retries=2
    )
    try:
        assert (await router.acompletion(model="g", messages=MESSAGES)).choices
        assert (gate.asked > 1) is retries
        assert provider.count() == 1
    finally:
        retire(router)


def test_the_routers_inner_seam_is_where_it_was():
    from litellm.router_utils.cooldown_cache import CooldownCache

    names = list(inspect.signature(CooldownCache.get_active_cooldowns).parameters)
    assert names == ["self", "model_ids", "parent_otel_span"]
    if LITELLM >= (1, 110):
        from litellm.redis.stores.router_cooldowns import RouterCooldownStore

        assert list(inspect.signature(RouterCooldownStore.active_sync).parameters) == ["self", "model_ids"]


def test_each_function_has_two_places():
    from litellm import main

    for name in ("completion", "embedding"):
        assert getattr(litellm, name) is not getattr(main, name)
