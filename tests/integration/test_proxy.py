"""A LiteLLM Proxy with the contract's two lines, started as people start it and asked by the real openai client."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [
    pytest.mark.dev_integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("litellm_proxy_extras") is None, reason="needs litellm[proxy]"),
]

import openai  # noqa: E402 (below the marks, as its neighbours)
from asks import MESSAGES  # noqa: E402
from door2 import GPT, settings, target  # noqa: E402
from proxies import KEY, Proxy  # noqa: E402

from resilience.testing import Fault, LoopbackProvider  # noqa: E402

ANSWER, SPARE = "The first one answers.", "The spare one answers."


@pytest.fixture(scope="module")
def first():
    with LoopbackProvider(ANSWER) as made:
        yield made


@pytest.fixture(scope="module")
def spare():
    with LoopbackProvider(SPARE) as made:
        yield made


def config(first, spare):
    chat = settings(first, targets=[target(first, key="sk-one"), {**target(spare, GPT, "sk-two"), "name": "spare"}])
    # Breakers that stay closed: each request of a test then finds the same state.
    return {**chat, "breaker": {"consecutive_failures": 1000, "failure_rate": 1.0, "minimum_calls": 1000,
                                "window_calls": 1000}}  # fmt: skip


def deployments(first, spare):
    return [
        {"model_name": "chat", "litellm_params": {"model": "resilience/chat"}},
        {"model_name": "group", "litellm_params": {**target(first, "openai/gpt-4o", "sk-3"), "max_retries": 0}},
        {"model_name": "group", "litellm_params": {**target(spare, "openai/gpt-4o", "sk-4"), "max_retries": 0}},
    ]


@pytest.fixture(scope="module")
def proxy(first, spare, tmp_path_factory):
    with Proxy(tmp_path_factory.mktemp("proxy"), config(first, spare), deployments(first, spare)) as made:
        yield made


@pytest.fixture
def client(proxy, first, spare):
    for one in (first, spare):
        one.clear()
        one.forget()
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def ask(client, model="chat", *, stream=False, **params):
    """The text and the headers."""
    raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, stream=stream, **params)
    answer = raw.parse()
    if not stream:
        return answer.choices[0].message.content, raw.headers
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices), raw.headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_route_answers_and_says_who_served(client, first, stream):
    text, headers = ask(client, stream=stream)
    assert (text, first.count()) == (ANSWER, 1)
    assert headers["x-resilience-served-by"] == GPT
    assert headers["x-resilience-attempts"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_first_target_is_an_answer_of_the_second(client, first, spare, stream):
    first.set(Fault.http(500))
    text, headers = ask(client, stream=stream)
    assert (text, first.count(), spare.count()) == (SPARE, 1, 1)
    assert headers["x-resilience-served-by"] == "spare"
    assert headers["x-resilience-attempts"] == "2"


@pytest.mark.parametrize("stream", [False, True])
def test_when_all_fail_the_client_hears_the_last_one_and_how_many_there_were(client, first, spare, stream):
    for one in (first, spare):
        one.set(Fault.http(500))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, stream=stream)
    # The Proxy's own Router asks again; each time both were asked.
    assert first.count() == spare.count() >= 1
    if not stream:  # headers of a stream's error are the Proxy's own
        assert caught.value.response.headers["x-resilience-attempts"] == "2"


def test_usage_comes_through(client):
    answer = client.chat.completions.create(model="chat", messages=MESSAGES)
    assert answer.usage.total_tokens > 0
    chunks = list(
        client.chat.completions.create(
            model="chat", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [answer.usage.total_tokens]


@pytest.mark.parametrize("stream", [False, True])
def test_the_proxys_own_groups_say_who_served_too(client, stream):
    text, headers = ask(client, "group", stream=stream)
    assert text in {ANSWER, SPARE}
    assert headers["x-resilience-served-by"].startswith("openai/gpt-4o@")
    assert headers["x-resilience-attempts"] == "1"


def test_the_breakers_are_shown_to_whom_the_proxy_knows(client, proxy):
    ask(client)
    shown = proxy.get("/resilience/breakers")
    assert shown.status_code == 200
    assert shown.json()["targets"][GPT]["state"] == "closed"
    assert list(shown.json()["routes"]) == ["chat"]
    assert "sk-one" not in shown.text
    for key in (None, "sk-nobody"):
        refused = proxy.get("/resilience/breakers", key)
        assert refused.status_code >= 400
        assert GPT not in refused.text


def test_two_workers_and_a_dead_provider_answer_every_request(first, spare, tmp_path):
    for one in (first, spare):
        one.clear()
        one.forget()
    first.set(Fault.http(503))
    plan = settings(first, targets=[target(first), {**target(spare, GPT, "sk-two"), "name": "spare"}])
    plan["breaker"] = {"open_seconds": 300}  # on a busy machine the test outlasts the ten seconds of the default
    with Proxy(tmp_path, plan, deployments(first, spare), workers=2) as proxy:
        texts = []
        for number in range(60):  # a client each: connections stay with one worker
            with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=KEY, max_retries=0) as client:
                texts.append(ask(client, stream=number % 2 == 1)[0])
        assert texts == [SPARE] * 60
        # Each answer is one request. By its model: each worker once asks every provider for its list of models.
        assert spare.count("gpt-4o-mini") == 60
        # Five in a row open a worker's breaker: no worker asks the dead one more often.
        assert 5 <= first.count("gpt-4o-mini") <= 2 * 5
        assert workers(proxy) == 2


def workers(proxy):
    """How many processes answer. Some at once: one that is idle may take all that come one after the other."""
    seen = set()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            seen.update(answer.json()["worker"] for answer in pool.map(proxy.get, ["/resilience/breakers"] * 8))
            if len(seen) > 1:
                break
    return len(seen)
