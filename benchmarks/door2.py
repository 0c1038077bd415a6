"""What door 2 costs: the callback per call, our provider over any other, and a Router whose primary is down."""

from __future__ import annotations

import asyncio
import os
from time import process_time_ns
from typing import TYPE_CHECKING, Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
from litellm.llms.custom_llm import CustomLLM

import resilience
from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import awaiting, calling, measure
from resilience.middleware.callbacks import ResilienceCallback
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS, CALLS, HOOKS = 40, 25, 1000
PAUSE_SECONDS = 0.02  # for what LiteLLM does in the background when a call is over
MESSAGES = [{"role": "user", "content": "hi"}]

QUESTION = "What does door 2 cost: the callback, our provider over any other, and a Router whose primary is down?"
METHOD = (
    "The callback: CPU time of what LiteLLM runs of it for one call, called again and again. The custom provider: CPU "
    "time of answers that LiteLLM makes up, through the engine called directly, through a plain custom provider that "
    "asks the same engine while this package is not installed, and through ours. The Router: real calls to a loopback "
    "provider, to the group that serves, and to a group whose one deployment is open and that falls back to it, by "
    "the clock; LiteLLM's own defaults."
)


def _spending(runner: asyncio.Runner, ask: Callable[[], Awaitable[Any]], calls: int = CALLS) -> Callable[[], float]:
    """A round of calls by their CPU time, which a busy machine does not stretch."""

    async def one_round() -> float:
        await asyncio.sleep(PAUSE_SECONDS)  # noqa: TID251 (an event loop of our own; the case before is over then)
        began = process_time_ns()
        for _ in range(calls):
            await ask()
        return (process_time_ns() - began) / calls

    return lambda: runner.run(one_round())


class _Log:
    model_call_details: dict[str, Any] = {}  # noqa: RUF012 (a stand-in for LiteLLM's)
    model = "openai/gpt-4o-mini"


def callback(runner: asyncio.Runner, rounds: int) -> Table:
    """The hooks of one call that answers."""
    answer = litellm.ModelResponse(choices=[{"message": {"content": "hi"}}])
    deployments = [{"litellm_params": {"model": f"openai/gpt-4o-mini-{n}", "api_key": "sk"}} for n in range(2)]
    table = Table("The callback", ("call", "CPU µs", "±", "goal, µs"))
    with resilience.MultiProviderFallback({"warm": False}, sinks=()) as runtime:
        ours = ResilienceCallback(lambda: runtime)

        async def bare() -> None:
            asked = {"litellm_logging_obj": _Log(), "litellm_call_id": "1", "model": "openai/gpt-4o-mini",
                     "api_key": "sk", "messages": MESSAGES}  # fmt: skip
            await ours.async_pre_call_deployment_hook(asked, "acompletion")
            await ours.async_post_call_success_deployment_hook(asked, answer, "acompletion")
            await ours.async_log_success_event(asked)

        async def routed() -> None:
            await ours.async_filter_deployments("group", deployments)
            await bare()

        cases = {"a bare acompletion": bare, "under a Router": routed}
        found = measure({name: _spending(runner, case, HOOKS) for name, case in cases.items()}, rounds)
    for (name, sample), goal in zip(found.items(), (15.0, 25.0), strict=True):
        table.add(name, sample.median / 1e3, sample.deviation / 1e3, goal)
    return table


class _Plain(CustomLLM):  # type: ignore[misc]  # LiteLLM's classes are Any to the checker
    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self._ask = ask

    async def acompletion(self, *_: Any, **__: Any) -> Any:
        return await self._ask()


def provider(runner: asyncio.Runner, rounds: int) -> Table:
    """CPU time of the engine called directly, through LiteLLM as a plain custom provider, and through ours."""
    target = {"model": "openai/gpt-4o-mini", "api_key": "sk", "mock_response": "Hello from nobody."}
    plan = {"warm": False, "routes": {"chat": {"targets": [target]}}}
    with resilience.MultiProviderFallback(plan, sinks=()) as runtime:

        async def direct() -> Any:
            return await runtime.acompletion("chat", MESSAGES, **{"no-log": True})

        entry = {"provider": "plain", "custom_handler": _Plain(direct)}
        litellm.custom_provider_map.append(entry)
        litellm.utils.custom_llm_setup()
        spend = {
            "the engine directly": _spending(runner, direct),
            "a plain custom provider": _spending(runner, lambda: litellm.acompletion("plain/chat", MESSAGES)),
            "resilience": _spending(runner, lambda: litellm.acompletion("resilience/chat", MESSAGES)),
        }

        def installed() -> float:
            resilience.install(runtime)
            try:
                return spend["resilience"]()
            finally:
                resilience.uninstall()

        found = measure({**spend, "resilience": installed}, rounds)
        litellm.custom_provider_map.remove(entry)
    engine = found["the engine directly"]
    plain, ours = (found[name].over(engine).median for name in ("a plain custom provider", "resilience"))
    table = Table(
        "The custom provider",
        ("way", "CPU ms", "±", "over the engine, ms"),
        note=f"Our dispatch over a plain custom provider's: {ours / plain:.2f} x, goal 1.3.",
    )
    for way, sample in found.items():
        over = None if sample is engine else sample.over(engine).median / 1e6
        table.add(way, sample.median / 1e6, sample.deviation / 1e6, over)
    return table


def router(runner: asyncio.Runner, rounds: int) -> Table:
    """A Router's request to the group that serves, and to one that falls back to it."""
    table = Table(
        "The Router whose primary is down",
        ("calls", "the fallback alone, ms", "with the primary down, ms", "more, ms", "±", "goal, ms"),
    )
    with LoopbackProvider() as loopback, resilience.MultiProviderFallback({"warm": False}, sinks=()) as runtime:
        base = {"api_base": loopback.openai_base, "api_key": "sk"}
        groups = {"main": "openai/gpt-4o", "spare": "openai/gpt-4o-mini"}
        model_list = [
            {"model_name": name, "litellm_params": {"model": model, **base}} for name, model in groups.items()
        ]
        made = litellm.Router(model_list=model_list, fallbacks=[{"main": ["spare"]}])
        for kind in ("async", "sync", "sync, rotating"):
            resilience.install(runtime, routers=[made] if kind == "sync, rotating" else ())
            for name in groups:
                runner.run(made.acompletion(name, MESSAGES))
            down = next(name for name in runtime.registry.targets if name.startswith("openai/gpt-4o@"))
            runtime.registry.targets[down].isolate("down")
            found = measure(
                {
                    name: awaiting(runner, made.acompletion, CALLS // 2, model=name, messages=MESSAGES)
                    if kind == "async"
                    else calling(made.completion, CALLS // 2, model=name, messages=MESSAGES)
                    for name in groups
                },
                rounds // 2,
            )
            more = found["main"].over(found["spare"])
            alone, fallen = found["spare"].median / 1e6, found["main"].median / 1e6
            table.add(kind, alone, fallen, more.median / 1e6, more.deviation / 1e6, 10.0)
            runtime.registry.targets[down].reset()
            resilience.uninstall()
    return table


def main() -> None:
    """Measure and report."""
    options = arguments(QUESTION).parse_args()
    rounds = 2 if options.quick else ROUNDS
    with asyncio.Runner() as runner:
        tables = [callback(runner, rounds), provider(runner, rounds), router(runner, rounds)]
    deliver(Report("door2", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
