"""What door 2 costs: the callback per bare call, and the custom provider over LiteLLM's own dispatch of one."""

from __future__ import annotations

import asyncio
import os
import statistics
from time import perf_counter
from typing import TYPE_CHECKING, Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
from litellm.llms.custom_llm import CustomLLM

import resilience
from resilience.middleware.callbacks import ResilienceCallback
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS, CALLS, HOOKS = 7, 20, 1000
MESSAGES = [{"role": "user", "content": "hi"}]


class _Log:
    model_call_details: dict[str, Any] = {}  # noqa: RUF012 (a stand-in for LiteLLM's)
    model = "openai/gpt-4o-mini"


async def hooks(*, routed: bool) -> float:
    """Microseconds of the pre hook and the success hook of one call; under a Router also of its filter."""
    answer = litellm.ModelResponse(choices=[{"message": {"content": "hi"}}])
    deployments = [{"litellm_params": {"model": f"openai/gpt-4o-mini-{n}", "api_key": "sk"}} for n in range(2)]
    with resilience.MultiProviderFallback({"warm": False}, sinks=()) as runtime:
        callback = ResilienceCallback(lambda: runtime)
        best = float("inf")
        for _ in range(ROUNDS):
            began = perf_counter()
            for number in range(HOOKS):
                asked = {"litellm_logging_obj": _Log(), "litellm_call_id": str(number), "model": "openai/gpt-4o-mini",
                         "api_key": "sk", "messages": MESSAGES}  # fmt: skip
                if routed:
                    await callback.async_filter_deployments("group", deployments)
                await callback.async_pre_call_deployment_hook(asked, "acompletion")
                await callback.async_post_call_success_deployment_hook(asked, answer, "acompletion")
            best = min(best, (perf_counter() - began) / HOOKS)
    return best * 1e6


class _Plain(CustomLLM):  # type: ignore[misc]  # LiteLLM's classes are Any to the checker
    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self._ask = ask

    async def acompletion(self, *_: Any, **__: Any) -> Any:
        return await self._ask()


async def provider() -> tuple[float, float, float]:
    """Milliseconds of the engine called directly, through LiteLLM as a plain custom provider, and through ours."""
    with LoopbackProvider() as loopback:
        target = {"model": "openai/gpt-4o-mini", "api_base": loopback.openai_base, "api_key": "sk"}
        plan = {"warm": False, "routes": {"chat": {"targets": [target]}}}
        with resilience.MultiProviderFallback(plan, sinks=()) as runtime:
            resilience.install(runtime)

            async def direct() -> Any:
                return await runtime.acompletion("chat", MESSAGES, **{"no-log": True})

            litellm.custom_provider_map.append({"provider": "plain", "custom_handler": _Plain(direct)})
            litellm.utils.custom_llm_setup()
            ways = {
                "direct": direct,
                "plain": lambda: litellm.acompletion("plain/chat", MESSAGES),
                "ours": lambda: litellm.acompletion("resilience/chat", MESSAGES),
            }
            took: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, ask in ways.items():
                    began = perf_counter()
                    for _ in range(CALLS):
                        await ask()
                    took[name].append((perf_counter() - began) / CALLS)
            resilience.uninstall()
    direct_, plain, ours = (statistics.median(took[name]) * 1e3 for name in ("direct", "plain", "ours"))
    return direct_, plain, ours


async def main() -> None:
    bare, routed = await hooks(routed=False), await hooks(routed=True)
    direct, plain, ours = await provider()
    print(f"callback, bare acompletion      {bare:6.1f} us   goal 15")
    print(f"callback, under a Router        {routed:6.1f} us   goal 25")
    print(f"engine called directly          {direct:6.2f} ms")
    print(f"  through a plain provider      {plain:6.2f} ms   {plain / direct:.2f} x direct")
    print(f"  through resilience/<route>    {ours:6.2f} ms   {ours / direct:.2f} x direct")
    print(f"dispatch, ours over plain       {(ours - direct) / (plain - direct):6.2f} x    goal 1.3")


if __name__ == "__main__":
    asyncio.run(main())
