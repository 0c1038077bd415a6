"""Frameworks on top of LiteLLM: each answers through resilience/chat while the first target is down."""

from __future__ import annotations

import json

import pytest
from asks import MESSAGES
from door2 import GPT, settings, target

import resilience
from resilience.testing import Fault, LoopbackProvider

pytestmark = [
    pytest.mark.dev_integration,
    # The frameworks' own and their dependencies': nothing of ours.
    pytest.mark.filterwarnings("default"),
]

MODEL = "resilience/chat"


@pytest.fixture
def spare():
    with LoopbackProvider("The spare one answers.") as made:
        yield made


@pytest.fixture(autouse=True)
def installed(provider, spare, upstream):
    provider.set(Fault.http(503))
    made = resilience.install(
        settings(provider, targets=[target(provider), {**target(spare, GPT, "sk-two"), "name": "spare"}])
    )
    yield made
    resilience.uninstall()


def was_asked(provider, spare):
    return provider.count() >= 1 and spare.count() >= 1


def test_instructor(provider, spare):
    import instructor
    import litellm
    from pydantic import BaseModel

    class User(BaseModel):
        name: str

    spare.answer = json.dumps({"name": "Ada"})
    client = instructor.from_litellm(litellm.completion, mode=instructor.Mode.JSON)
    user = client.chat.completions.create(model=MODEL, messages=MESSAGES, response_model=User)
    assert user.name == "Ada"
    assert was_asked(provider, spare)


def test_dspy(provider, spare):
    import dspy

    spare.answer = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
    with dspy.context(lm=dspy.LM(MODEL, cache=False), adapter=dspy.ChatAdapter()):
        assert dspy.Predict("question -> answer")(question="What is the capital of France?").answer == "Paris"
    assert was_asked(provider, spare)


@pytest.mark.parametrize("stream", [False, True])
def test_langchain(provider, spare, stream):
    import langchain_litellm as langchain

    chat = langchain.ChatLiteLLM(model=MODEL, max_retries=0)
    if stream:
        assert "".join(chunk.content for chunk in chat.stream("hi")) == spare.answer
    else:
        assert chat.invoke("hi").content == spare.answer
    assert was_asked(provider, spare)


async def test_langchain_async(provider, spare):
    import langchain_litellm as langchain

    assert (await langchain.ChatLiteLLM(model=MODEL, max_retries=0).ainvoke("hi")).content == spare.answer
    assert was_asked(provider, spare)


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_agents(provider, spare, stream):
    import agents
    from agents.extensions.models.litellm_model import LitellmModel

    agents.set_tracing_disabled(True)
    agent = agents.Agent(name="test", instructions="Answer.", model=LitellmModel(model=MODEL))
    if stream:
        result = agents.Runner.run_streamed(agent, "hi")
        async for _ in result.stream_events():
            pass
    else:
        result = await agents.Runner.run(agent, "hi")
    assert result.final_output == spare.answer
    assert was_asked(provider, spare)
