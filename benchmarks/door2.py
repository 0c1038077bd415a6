"""What door 2 costs: the callback per call, our provider over any other, and a Router whose primary is down."""

from __future__ import annotations

import asyncio
import os
import statistics
from time import perf_counter, process_time
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

ROUNDS, CALLS, HOOKS = 15, 30, 1000
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
    """CPU milliseconds of the engine called directly, through LiteLLM as a plain custom provider, and through ours."""
    target = {"model": "openai/gpt-4o-mini", "api_key": "sk", "mock_response": "Hello from nobody."}
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
        for number in range(rounds + 1):
            for name, ask in ways.items():
                began = process_time()
                for _ in range(CALLS):
                    await ask()
                if number:  # the first round loads what is loaded once
                    took[name].append((process_time() - began) / CALLS)
        resilience.uninstall()
    direct_, plain, ours = (statistics.median(took[name]) * 1e3 for name in ("direct", "plain", "ours"))
    return direct_, plain, ours


async def _asked(router: litellm.Router, group: str, calls: int, *, is_async: bool) -> float:
    began = perf_counter()
    for _ in range(calls):
        if is_async:
            await router.acompletion(group, MESSAGES)
        else:
            router.completion(group, MESSAGES)
    return (perf_counter() - began) / calls


async def router(rounds: int, calls: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of a Router's request to the group that serves, and to one that falls back to it, by kind."""
    found: dict[str, tuple[float, float]] = {}
    with LoopbackProvider() as loopback:
        base = {"api_base": loopback.openai_base, "api_key": "sk"}
        groups = {"main": "openai/gpt-4o", "spare": "openai/gpt-4o-mini"}
        model_list = [
            {"model_name": name, "litellm_params": {"model": model, **base}} for name, model in groups.items()
        ]
        made = litellm.Router(model_list=model_list, fallbacks=[{"main": ["spare"]}])
        with resilience.MultiProviderFallback({"warm": False}, sinks=()) as runtime:
            for kind in ("async", "sync", "sync, rotating"):
                resilience.install(runtime, routers=[made] if kind == "sync, rotating" else ())
                for name in groups:
                    await made.acompletion(name, MESSAGES)
                down = next(name for name in runtime.registry.targets if name.startswith("openai/gpt-4o@"))
                runtime.registry.targets[down].isolate("down")
                took: dict[str, list[float]] = {name: [] for name in groups}
                for number in range(rounds + 1):
                    for name in groups:
                        seconds = await _asked(made, name, calls, is_async=kind == "async")
                        if number:
                            took[name].append(seconds)
                found[kind] = (statistics.median(took["spare"]) * 1e3, statistics.median(took["main"]) * 1e3)
                for breaker in runtime.registry.targets.values():
                    breaker.reset()
                resilience.uninstall()
    return found


QUESTION = "What does door 2 cost: the callback, our provider over any other, and a Router whose primary is down?"
METHOD = (
    "The callback's hooks alone, the best of the rounds. The custom provider: CPU time, medians of interleaved rounds "
    "of answers that LiteLLM makes up, through the engine directly, through a plain custom provider that asks the same "
    "engine, and through ours. The Router: medians of interleaved rounds of real calls to a loopback provider, to the "
    "group that serves, and to a group whose one deployment is open and that falls back to it; LiteLLM's own defaults."
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
    fallback = Table(
        "The Router whose primary is down",
        ("calls", "the fallback alone, ms", "with the primary down, ms", "more, ms", "goal, ms"),
    )
    for kind, (alone, down) in (await router(call_rounds, CALLS // 3)).items():
        fallback.add(kind, alone, down, down - alone, 10.0)
    return [callback, dispatch, fallback]


def main() -> None:
    """Measure and report."""
    options = arguments(QUESTION).parse_args()
    rounds = (2, 2) if options.quick else (ROUNDS, ROUNDS)
    deliver(Report("door2", QUESTION, METHOD, asyncio.run(measure(*rounds))), options)


if __name__ == "__main__":
    main()
