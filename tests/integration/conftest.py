"""Real LiteLLM against a loopback provider."""

from __future__ import annotations

import inspect
import os
import sys

# LiteLLM fetches its price map from the network when it is imported; tests stay on 127.0.0.1.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from typing import TYPE_CHECKING, Any

import litellm_state
import pytest
import pytest_asyncio

from resilience.middleware.call import LiteLLMUpstream
from resilience.middleware.targets import build_target
from resilience.testing import LoopbackProvider
from resilience.testing.store import LoopbackStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from resilience.upstream import Target


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Asked again once, and reported as such: here are browsers, processes, sockets and two busy cores.

    What has a law stands in unit, property, behaviour and issues, and is asked once only.
    """
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True)
def litellms_own() -> Iterator[None]:
    """LiteLLM's module state as it was: what a test, or a Router of its, writes there is not the next one's."""
    if "litellm" not in sys.modules:
        yield
        return
    before = litellm_state.containers()
    yield
    litellm_state.put_back(before)


@pytest.fixture(scope="module")
def running_store() -> Iterator[LoopbackStore]:
    with LoopbackStore() as store:
        yield store


@pytest.fixture
def store(running_store: LoopbackStore) -> LoopbackStore:
    """A real store with nothing in it."""
    running_store.command("FLUSHALL")
    return running_store


@pytest.fixture(scope="session")
def running() -> Iterator[LoopbackProvider]:
    # One address for all tests: LiteLLM keeps clients by address, and closes those it forgets much later.
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def provider(running: LoopbackProvider) -> LoopbackProvider:
    """A provider without faults that has seen nothing yet."""
    running.clear()
    running.forget()
    return running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def upstream() -> AsyncIterator[LiteLLMUpstream]:
    import litellm

    litellm.suppress_debug_info = True  # else it prints advice at every error
    yield LiteLLMUpstream()
    await litellm.close_litellm_async_clients()
    for client in list(litellm.in_memory_llm_clients_cache.cache_dict.values()):
        if not inspect.iscoroutinefunction(getattr(client, "close", None)):
            client.close()


@pytest.fixture
def target(provider: LoopbackProvider) -> Callable[..., Target]:
    """Makes a target of a dialect on the provider."""

    def make(dialect: str = "openai", **params: Any) -> Target:
        model, base = {
            "openai": ("openai/gpt-4o-mini", provider.openai_base),
            "embedding": ("openai/text-embedding-3-small", provider.openai_base),
            "anthropic": ("anthropic/claude-haiku-4-5", provider.url),
        }[dialect]
        return build_target(model, {"api_base": base, "api_key": "sk-planted-secret", **params})

    return make
