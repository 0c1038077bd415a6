"""The rest of the custom provider: embeddings, reasoning parameters, and what LiteLLM's lookups say of a route."""

from __future__ import annotations

import litellm
import pytest
from asks import LITELLM, MESSAGES, becomes_true, needs_mcp
from door2 import Ear, background, settings, target

import resilience
from resilience.testing import Fault

EMBEDDING = "openai/text-embedding-3-small"
# After an error OpenAI's SDK asks twice more by itself; before 1.109 LiteLLM has no way to say no (see its facts).
PER_PICTURE = 1 if LITELLM >= (1, 109) else 3


@pytest.fixture
def plan(provider):
    made = settings(provider)
    # LiteLLM refuses a call's own `dimensions` for a provider that it does not know: they stand on the target.
    first, second = ({**target(provider, EMBEDDING, key), "dimensions": 8} for key in ("sk-1", "sk-2"))
    made["routes"]["vectors"] = {"targets": [first, {**second, "name": "twin"}], "num_retries": 0}
    made["routes"]["pictures"] = {
        "targets": [target(provider, "openai/dall-e-3"), {**target(provider, "openai/dall-e-2"), "name": "older"}],
        "num_retries": 0,
        "on_exhausted": "fail",
        "max_attempts": 2,
    }
    made["routes"]["thinking"] = {"targets": [target(provider, "openai/gpt-5-mini")], "num_retries": 0}
    return made


@pytest.fixture
def installed(plan, upstream):
    yield resilience.install(plan)
    resilience.uninstall()


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_embeddings_go_through_the_route_and_count_once(installed, provider, mode, monkeypatch):
    ear = Ear()
    monkeypatch.setattr(litellm, "callbacks", [*litellm.callbacks, ear])
    provider.set(Fault.http(503), times=1)
    ask = {"model": "resilience/vectors", "input": ["hi"]}
    try:
        answer = litellm.embedding(**ask) if mode == "sync" else await litellm.aembedding(**ask)
        assert len(answer.data[0]["embedding"]) > 0
        assert [record.target for record in resilience.attempts(answer)] == [EMBEDDING, "twin"]
        assert provider.requests[-1].body["dimensions"] == 8
        assert provider.count() == 2
        assert await becomes_true(lambda: bool(ear.heard))
        await background()
        assert [what for what, *_ in ear.heard] == ["success"]
        assert ear.heard[0][2] == answer.usage.total_tokens
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


@needs_mcp
@pytest.mark.parametrize("name", ["text_completion", "responses", "anthropic_messages"])
async def test_apis_that_litellm_turns_into_chats_go_through_the_route(installed, provider, name):
    provider.set(Fault.http(503), model="gpt-4o-mini")
    model = "resilience/chat"
    if name == "text_completion":
        answer = await litellm.atext_completion(model=model, prompt="hi")
        text = answer.choices[0].text
    elif name == "responses":
        answer = await litellm.aresponses(model=model, input="hi")
        text = answer.output[0].content[0].text
    else:
        answer = await litellm.anthropic.messages.acreate(model=model, messages=MESSAGES, max_tokens=9)
        text = answer["content"][0]["text"]
    assert text == provider.answer
    assert (provider.count("gpt-4o-mini"), provider.count("claude-haiku-4-5")) == (1, 1)


async def draw(mode, model="resilience/pictures", **params):
    if mode == "sync":
        return litellm.image_generation(prompt="a cat", model=model, **params)
    return await litellm.aimage_generation(prompt="a cat", model=model, **params)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("fault", [Fault.http(503), Fault.empty()], ids=str)
async def test_pictures_go_through_the_route_and_count_once(installed, provider, mode, fault, monkeypatch):
    ear = Ear()
    monkeypatch.setattr(litellm, "callbacks", [*litellm.callbacks, ear])
    provider.set(fault, model="dall-e-3")
    try:
        answer = await draw(mode, size="1024x1024")
        assert answer.data[0].url
        assert [record.target for record in resilience.attempts(answer)] == ["openai/dall-e-3", "older"]
        first = 1 if fault.status == 200 else PER_PICTURE
        assert (provider.count("dall-e-3"), provider.count("dall-e-2")) == (first, 1)
        body = provider.requests[-1].body
        assert body["prompt"] == "a cat"
        if mode == "async" or LITELLM >= (1, 109, 3):
            assert body["size"] == "1024x1024"
        else:  # most earlier releases drop it in sync calls without a word, and run no hook that could save it
            assert body.get("size") in {None, "1024x1024"}
        assert await becomes_true(lambda: bool(ear.heard))
        await background()
        assert [what for what, *_ in ear.heard] == ["success"]
    finally:
        litellm.logging_callback_manager._reset_all_callbacks()


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_picture_that_nobody_makes_is_litellms_own_error(installed, provider, mode):
    provider.set(Fault.http(429))
    with pytest.raises(litellm.RateLimitError) as caught:
        await draw(mode)
    assert len(resilience.attempts(caught.value)) == 2
    assert provider.count() == 2 * PER_PICTURE


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_runtime_makes_pictures_by_itself(installed, provider, mode):
    provider.set(Fault.http(500), model="dall-e-3")
    ask = {"model": "pictures", "prompt": "a cat"}
    answer = installed.image_generation(**ask) if mode == "sync" else await installed.aimage_generation(**ask)
    assert answer.data[0].url
    assert [str(record.kind) for record in resilience.attempts(answer)] == ["server_error", "success"]


async def test_an_exhausted_embedding_route_raises_litellms_own(installed, provider):
    provider.set(Fault.http(429))
    with pytest.raises(litellm.RateLimitError):
        await litellm.aembedding(model="resilience/vectors", input=["hi"], timeout=0.5)


def test_lookups_answer_for_what_all_targets_can_do(installed):
    assert litellm.supports_function_calling("resilience/chat")
    assert litellm.supports_vision("resilience/chat")
    # claude can, gpt-4o-mini cannot
    assert litellm.supports_reasoning("anthropic/claude-haiku-4-5")
    assert not litellm.supports_reasoning("resilience/chat")
    assert litellm.get_model_info("resilience/chat")["max_input_tokens"] == 128_000


def test_uninstall_forgets_the_routes(installed):
    assert any(name.startswith("resilience/") for name in litellm.model_cost)
    resilience.uninstall()
    assert [name for name in litellm.model_cost if name.startswith("resilience/")] == []
    assert not litellm.supports_function_calling("resilience/chat")


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_effort_travels(installed, provider, stream):
    answer = await litellm.acompletion(
        "resilience/thinking", MESSAGES, reasoning_effort="low", verbosity="low", stream=stream
    )
    if stream:
        assert [chunk async for chunk in answer]
    assert provider.requests[-1].body["reasoning_effort"] == "low"
    assert provider.requests[-1].body["verbosity"] == "low"


def test_sync_calls_may_name_it_themselves(installed, provider):
    litellm.completion(
        "resilience/thinking", MESSAGES, reasoning_effort="low", allowed_openai_params=["reasoning_effort"]
    )
    assert provider.requests[-1].body["reasoning_effort"] == "low"
