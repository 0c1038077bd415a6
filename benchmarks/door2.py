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
from benchmarks.report import Report, Table, arguments, deliver
from resilience.middleware.callbacks import ResilienceCallback
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS, CALLS, HOOKS = 7, 20, 1000
MESSAGES = [{"role": "user", "content": "hi"}]


class _Log:
    model_call_details: dict[str, Any] = {}  # noqa: RUF012 (a stand-in for LiteLLM's)
    model = "openai/gpt-4o-mini"


async def hooks(rounds: int, *, routed: bool) -> float:
    """Microseconds of the pre hook and the success hook of one call; under a Router also of its filter."""
    answer = litellm.ModelResponse(choices=[{"message": {"content": "hi"}}])
    deployments = [{"litellm_params": {"model": f"openai/gpt-4o-mini-{n}", "api_key": "sk"}} for n in range(2)]
    with resilience.MultiProviderFallback({"warm": False}, sinks=()) as runtime:
        callback = ResilienceCallback(lambda: runtime)
        best = float("inf")
        for _ in range(rounds):
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


async def provider(rounds: int) -> tuple[float, float, float]:
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
            for _ in range(rounds):
                for name, ask in ways.items():
                    began = perf_counter()
                    for _ in range(CALLS):
                        await ask()
                    took[name].append((perf_counter() - began) / CALLS)
            resilience.uninstall()
    direct_, plain, ours = (statistics.median(took[name]) * 1e3 for name in ("direct", "plain", "ours"))
    return direct_, plain, ours


QUESTION = "What does door 2 cost: the callback per bare call, and the custom provider over LiteLLM's own dispatch?"
METHOD = (
    "The callback's hooks alone, the best of the rounds. The custom provider: medians of interleaved rounds of real "
    "calls to a loopback provider, through the engine directly, through a plain custom provider, and through ours."
)


async def measure(hook_rounds: int, call_rounds: int) -> list[Table]:
    """Both tables."""
    callback = Table("The callback", ("call", "µs", "goal, µs"))
    callback.add("a bare acompletion", await hooks(hook_rounds, routed=False), 15.0)
    callback.add("under a Router", await hooks(hook_rounds, routed=True), 25.0)
    direct, plain, ours = await provider(call_rounds)
    dispatch = Table(
        "The custom provider",
        ("way", "ms", "over the engine"),
        note=f"Our dispatch over a plain custom provider's: {(ours - direct) / (plain - direct):.2f} x, goal 1.3.",
    )
    for way, took in (("the engine directly", direct), ("a plain provider", plain), ("resilience/<route>", ours)):
        dispatch.add(way, took, took / direct)
    return [callback, dispatch]


def main() -> None:
    """Measure and report."""
    options = arguments(QUESTION).parse_args()
    rounds = (2, 2) if options.quick else (ROUNDS, ROUNDS)
    deliver(Report("door2", QUESTION, METHOD, asyncio.run(measure(*rounds))), options)


if __name__ == "__main__":
    main()
