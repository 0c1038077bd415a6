"""A call cut off while LiteLLM prepares it in a thread leaves a coroutine that nobody awaits, and a warning about it.

LiteLLM's async functions build the request in a thread and await the coroutine that comes back. Nobody takes what a
thread gives back to a call that was cancelled meanwhile. Nothing had been sent, and nothing is left open: the warning
is all there is to it, and the tests let that one pass.
"""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import litellm
import pytest

import resilience
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

ASKED = [{"role": "user", "content": "hi"}]
NO_RETRIES = {"max_retries": 0, "num_retries": 0, "api_key": "sk-none"}


class Late(ThreadPoolExecutor):
    """Threads that begin their work only when they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_go_on = threading.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def late() -> Any:
            self.begun.set()
            self.may_go_on.wait()
            return work(*args, **kwargs)

        return super().submit(late)


@pytest.fixture
def provider() -> Iterator[LoopbackProvider]:
    with LoopbackProvider() as provider:
        yield provider


@pytest.fixture
def allowed(pytestconfig: pytest.Config) -> re.Pattern[str]:
    """What the tests' own settings let pass of these warnings."""
    (line,) = [line for line in pytestconfig.getini("filterwarnings") if "never awaited" in line]
    return re.compile(line.split(":")[1])


def told_after(cut_off: Callable[[Late], Coroutine[Any, Any, None]]) -> list[str]:
    """The warnings of a program whose threads are late, after everything is over."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with asyncio.Runner() as runner:
            late = Late()
            runner.get_loop().set_default_executor(late)
            try:
                runner.run(cut_off(late))
            finally:
                late.may_go_on.set()
            late.shutdown(wait=True)
        gc.collect()
    return [str(one.message) for one in told if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "azure/gpt", "groq/llama-3.1-8b-instant"]
)
def test_litellm_drops_what_it_has_prepared_for_a_cancelled_call(
    provider: LoopbackProvider, allowed: re.Pattern[str], model: str, stream: bool
) -> None:
    async def cut_off(late: Late) -> None:
        call = litellm.acompletion(
            model=model, messages=ASKED, stream=stream, api_base=provider.url, api_version="2024-10-21", **NO_RETRIES
        )
        await cancelled(call, late)

    (told,) = told_after(cut_off)
    assert allowed.match(told)
    assert provider.count() == 0


@pytest.mark.parametrize("operation", ["aembedding", "aresponses", "aimage_generation"])
def test_so_do_its_other_operations(provider: LoopbackProvider, allowed: re.Pattern[str], operation: str) -> None:
    model, asked = {
        "aembedding": ("openai/text-embedding-3-small", {"input": ["hi"]}),
        "aresponses": ("openai/gpt-4o-mini", {"input": "hi"}),
        "aimage_generation": ("openai/dall-e-3", {"prompt": "hi"}),
    }[operation]

    async def cut_off(late: Late) -> None:
        await cancelled(
            getattr(litellm, operation)(model=model, api_base=provider.openai_base, **asked, **NO_RETRIES), late
        )

    (told,) = told_after(cut_off)
    assert allowed.match(told)
    assert provider.count() == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_cut_off_before_the_wire_gives_its_place_back_and_sends_nothing(
    provider: LoopbackProvider, allowed: re.Pattern[str], stream: bool
) -> None:
    target = {"model": "openai/gpt-4o-mini", "api_base": provider.openai_base, "api_key": "sk-none"}
    places: list[tuple[int, int]] = []

    async def cut_off(late: Late) -> None:
        limits = {"openai": {"max_concurrency": 1}}
        settings = {"warm": False, "providers": limits, "routes": {"chat": {"targets": [target]}}}
        async with resilience.MultiProviderFallback(settings) as fb:
            for _ in range(2):  # the second finds the one place free
                with pytest.raises(resilience.DeadlineExceededError):
                    await fb.acompletion("chat", ASKED, stream=stream, timeout=0.05)
                seen = fb.snapshot().targets["openai/gpt-4o-mini"]
                places.append((seen.calls, seen.in_flight))
            late.may_go_on.set()  # closing needs a thread

    told = told_after(cut_off)
    assert len(told) == 2
    assert all(map(allowed.match, told))
    assert (places, provider.count()) == ([(1, 0), (2, 0)], 0)


async def cancelled(call: Coroutine[Any, Any, Any], late: Late) -> None:
    task = asyncio.ensure_future(call)
    while not late.begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
