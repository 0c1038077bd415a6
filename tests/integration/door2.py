"""What the tests of door 2 share: settings on a loopback provider, the four ways to ask, and an ear for events."""

from __future__ import annotations

import asyncio
import gc
from datetime import datetime
from typing import TYPE_CHECKING, Any

import litellm
from asks import LITELLM, MESSAGES, becomes_true
from litellm.integrations.custom_logger import CustomLogger

if TYPE_CHECKING:
    import pytest

    import resilience
    from resilience.testing import LoopbackProvider

GPT, CLAUDE = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
EMBEDDING = "openai/text-embedding-3-small"
MODES = ["sync", "async", "stream", "astream"]


def target(provider: LoopbackProvider, model: str = GPT, key: str = "sk-planted-secret") -> dict[str, Any]:
    """A model on the loopback provider, as settings and as LiteLLM's own parameters."""
    base = provider.url if model.startswith("anthropic/") else provider.openai_base
    return {"model": model, "api_base": base, "api_key": key}


def note_sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let Routers not sleep before they ask again, and note how long they would have."""
    noted: list[float] = []
    if LITELLM >= (1, 110):
        from litellm.router_python_host import PythonHost

        async def sleep(_: PythonHost, seconds: float) -> None:
            noted.append(seconds)

        monkeypatch.setattr(PythonHost, "sleep", sleep)
        monkeypatch.setattr(PythonHost, "sleep_sync", lambda _, seconds: noted.append(seconds))
        return noted
    before = litellm.Router._time_to_sleep_before_retry

    def instead(*args: Any, **named: Any) -> float:
        noted.append(before(*args, **named))
        return 0.0

    monkeypatch.setattr(litellm.Router, "_time_to_sleep_before_retry", instead)
    return noted


def settings(provider: LoopbackProvider, **route: Any) -> dict[str, Any]:
    """A route of two providers that walks once and gives up at once."""
    chat = {
        "num_retries": 0,
        "max_attempts": 2,
        "on_exhausted": "fail",
        "targets": [target(provider), {**target(provider, CLAUDE), "name": "claude"}],
        **route,
    }
    return {"warm": False, "routes": {"chat": chat}}


async def ask(mode: str, model: str = "resilience/chat", **params: Any) -> tuple[str, Any, list[Any]]:
    """Ask in one of the four ways. Returns the text, LiteLLM's answer or stream, and a stream's chunks."""
    params = {"messages": MESSAGES, **params}
    if mode == "sync":
        answer = litellm.completion(model=model, **params)
    elif mode == "async":
        answer = await litellm.acompletion(model=model, **params)
    elif mode == "stream":
        answer = litellm.completion(model=model, stream=True, **params)
        chunks = list(answer)
    else:
        answer = await litellm.acompletion(model=model, stream=True, **params)
        chunks = [chunk async for chunk in answer]
    if mode in {"sync", "async"}:
        return answer.choices[0].message.content or "", answer, []
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), answer, chunks


async def is_idle(runtime: resilience.MultiProviderFallback) -> bool:
    """Whether every call in flight is given back before long."""

    def fact() -> bool:
        gc.collect()
        snapshot = runtime.snapshot()
        return all(reading.in_flight == 0 and not reading.probes_in_flight for reading in snapshot.targets.values())

    return await becomes_true(fact)


async def background() -> None:
    """Let LiteLLM's background events come: what would come twice has come then."""
    await asyncio.sleep(0.05)


def retire(router: litellm.Router) -> None:
    """Give up a Router: LiteLLM has two names for it."""
    (router.retire if hasattr(router, "retire") else router.discard)()


class Ear(CustomLogger):
    """Hears what any user's callback hears: (what, model, total tokens, cost).

    LiteLLM tells of a call some time after it: those of an earlier test are not heard.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, str, int, float]] = []
        self.began = datetime.now()  # noqa: DTZ005 (as LiteLLM notes its times)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if kwargs["start_time"] < self.began:
            return
        usage = getattr(response_obj, "usage", None)
        cost = kwargs.get("response_cost") or 0.0
        self.heard.append(("success", kwargs["model"], usage.total_tokens if usage else 0, cost))

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        if kwargs["start_time"] < self.began:
            return
        self.heard.append(("failure", kwargs["model"], 0, 0.0))

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)
