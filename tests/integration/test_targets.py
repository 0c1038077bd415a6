"""Targets: providers named like the design's words, identities, environment variables, warm code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from resilience.errors import ConfigurationError
from resilience.middleware.targets import build_target, derive_provider, identity
from resilience.middleware.warm import warm

ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("model", "params", "provider"),
    [
        ("openai/gpt-4o-mini", {}, "openai"),
        ("gpt-4o-mini", {}, "openai"),
        ("anthropic/claude-haiku-4-5", {}, "anthropic"),
        ("claude-haiku-4-5", {}, "anthropic"),
        ("openai/x", {"api_base": "http://127.0.0.1:8080/v1"}, "openai/127.0.0.1:8080"),
        ("openai/x", {"base_url": "http://host/v1"}, "openai/host:80"),
        ("azure/gpt", {"api_base": "https://East.example.com"}, "azure/east.example.com:443"),
        ("azure/gpt", {"api_base": "https://user:secret@east.example.com/x"}, "azure/east.example.com:443"),
        ("openai/x", {"api_base": "https://[::1]:9/v1"}, "openai/[::1]:9"),
        ("openai/x", {"api_base": "host.example.com/v1"}, "openai/host.example.com:443"),
        ("bedrock/anthropic.claude-v2", {"aws_region_name": "us-east-1"}, "bedrock/us-east-1"),
        ("bedrock/us-west-2/anthropic.claude-v2", {}, "bedrock/us-west-2"),
        ("bedrock/anthropic.claude-v2", {}, "bedrock"),
        (f"bedrock/arn:aws:bedrock:us-west-2:{ACCOUNT}:inference-profile/us.anthropic.claude", {}, "bedrock/us-west-2"),
        (f"bedrock/converse/arn:aws-us-gov:bedrock:us-gov-west-1:{ACCOUNT}:x/y", {}, "bedrock/us-gov-west-1"),
        ("bedrock/anthropic.claude-v2", {"model_id": f"arn:aws:bedrock:eu-west-1:{ACCOUNT}:x/y"}, "bedrock/eu-west-1"),
        ("vertex_ai/gemini-2.0-flash", {"vertex_location": "europe-west4"}, "vertex_ai/europe-west4"),
        ("gemini/gemini-2.0-flash", {}, "gemini"),
        ("anything", {"custom_llm_provider": "openai"}, "openai"),
    ],
)
def test_a_provider_is_what_fails_together(model, params, provider):
    assert derive_provider(model, params) == provider


def test_an_unknown_model_is_named_with_what_is_allowed(capsys):
    with pytest.raises(ConfigurationError, match=r"'no-such-model' .* provider/model") as caught:
        derive_provider("no-such-model", {})
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("base", ["http://", "https://:80/x", "http://host:port", "http://[::1"])
def test_an_address_without_a_host_is_refused_and_not_shown(base):
    with pytest.raises(ConfigurationError, match="api_base") as caught:
        derive_provider("openai/x", {"api_base": base + "?key=planted"})
    assert "planted" not in str(caught.value)


def test_equal_targets_have_one_identity_and_keys_cannot_be_read_from_it():
    one = build_target("openai/x", {"api_key": "sk-planted", "temperature": 1}, name="one")
    two = build_target("openai/x", {"temperature": 1, "api_key": "sk-planted"}, name="two")
    other = build_target("openai/x", {"temperature": 1, "api_key": "sk-other"})
    assert one.identity == two.identity != other.identity
    assert "planted" not in repr(one) + one.identity


@pytest.mark.parametrize(
    ("params", "same"),
    [
        ({"base_url": "http://h/v1"}, {"api_base": "http://h/v1"}),
        ({"api_key": None, "temperature": 1}, {"temperature": 1}),
    ],
)
def test_what_means_the_same_is_one_target(params, same):
    assert build_target("openai/x", params).identity == build_target("openai/x", same).identity


def test_parameters_that_are_no_json_count_as_what_they_are():
    one, two = object(), object()
    assert identity("m", "p", {"client": one}) == identity("m", "p", {"client": one})
    assert identity("m", "p", {"client": one}) != identity("m", "p", {"client": two})


def test_a_target_takes_its_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("RESILIENCE_TEST_KEY", "sk-planted")
    monkeypatch.delenv("RESILIENCE_TEST_NONE", raising=False)
    params = {"api_key": "os.environ/RESILIENCE_TEST_KEY", "organization": "os.environ/RESILIENCE_TEST_NONE"}
    target = build_target("openai/x", params)
    assert dict(target.params) == {"api_key": "sk-planted", "organization": None}


def test_what_a_request_says_reads_no_environment(monkeypatch):
    monkeypatch.setenv("RESILIENCE_TEST_KEY", "sk-planted")
    target = build_target("openai/x", {"api_key": "os.environ/RESILIENCE_TEST_KEY"}, dynamic=True)
    assert target.params["api_key"] == "os.environ/RESILIENCE_TEST_KEY"
    assert target.dynamic


def test_the_parameters_of_a_target_cannot_be_changed():
    given = {"temperature": 1}
    target = build_target("openai/x", given)
    given["temperature"] = 2
    assert target.params["temperature"] == 1
    with pytest.raises(TypeError):
        target.params["temperature"] = 3


def test_warming_sends_nothing_and_leaves_nothing_to_import(provider, target):
    warm([target("openai"), target("anthropic")]).join()
    assert (provider.count(), provider.connections) == (0, 0)
    assert "openai.resources.chat" in sys.modules


def test_warming_what_cannot_be_loaded_is_harmless():
    targets = [build_target("x", {"custom_llm_provider": "openai"}, provider="no-such-family/host:1")]
    thread = warm(targets)
    thread.join()
    assert thread.daemon


FIRST_CALL = """
import sys
from resilience.middleware.call import LiteLLMUpstream
from resilience.middleware.targets import build_target
from resilience.middleware.warm import warm
from resilience.testing import LoopbackProvider
from resilience.upstream import CallTimeouts, Operation

MODELS = {"openai": "openai/gpt-4o-mini", "anthropic": "anthropic/claude-haiku-4-5"}
with LoopbackProvider() as provider:
    base = provider.openai_base if sys.argv[1] == "openai" else provider.url
    target = build_target(MODELS[sys.argv[1]], {"api_base": base, "api_key": "x"})
    upstream = LiteLLMUpstream()
    warm([target]).join()
    before = set(sys.modules)
    ask = {"messages": [{"role": "user", "content": "hi"}]}
    upstream.call(target, Operation.COMPLETION, ask, CallTimeouts(9, 9, 9))
    heavy = ("openai.", "anthropic.", "tiktoken", "httpcore", "litellm.proxy")
    print(sorted(name for name in set(sys.modules) - before if name.startswith(heavy)))
"""


@pytest.mark.parametrize("family", ["openai", "anthropic"])
def test_after_warming_the_first_call_imports_nothing_heavy(family):
    line = [sys.executable, "-W", "ignore", "-c", FIRST_CALL, family]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
