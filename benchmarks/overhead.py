"""What does a guarded call cost over the bare one, a rejection, and a request through the engine?"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PEERS
from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import Sample, arefused, awaiting, calling, measure, refused
from benchmarks.upstream import ImmediateUpstream
from resilience import BreakerSettings, CircuitBreaker, HealthRegistry, MultiProviderFallback
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.upstream import Target

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "What does a guarded call cost over the bare one, a rejection, and a request through the engine?"
METHOD = (
    "Cases take turns in rounds, in a shuffled order, with the garbage collector off inside a round. Given is the "
    "median over rounds of the difference to the baseline of the same round, ± the median absolute deviation. "
    "A pass-through decorator is the floor for anything written in Python: the ratio to it says more about the code "
    "than nanoseconds, which say as much about the machine."
)
MESSAGES = [{"role": "user", "content": "hi"}]


def bare() -> int:
    return 1


async def abare() -> int:
    return 1


def passed_through(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapped


def apassed_through(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    return wrapped


def guards(runner: asyncio.Runner, rounds: int, calls: int) -> Table:
    """A closed breaker with its default policy, as a decorator, beside the peers."""
    cases: dict[str, Any] = {
        "sync bare": calling(bare, calls),
        "sync pass-through": calling(passed_through(bare), calls),
        "sync resilience": calling(_breaker()(bare), calls),
        "async bare": awaiting(runner, abare, calls),
        "async pass-through": awaiting(runner, apassed_through(abare), calls),
        "async resilience": awaiting(runner, _breaker()(abare), calls),
    }
    for peer in PEERS:
        if peer.is_installed and peer.sync:
            cases[f"sync {peer.name}"] = calling(peer.sync(5, 60)(bare), calls)
        if peer.is_installed and peer.coroutine:
            cases[f"async {peer.name}"] = awaiting(runner, peer.coroutine(5, 60)(abare), calls)
    found = measure(cases, rounds)
    return _compared("Guard: a call through a closed breaker", found, goals={"sync": 100, "async": 150})


def rejections(runner: asyncio.Runner, rounds: int, calls: int) -> Table:
    """An open breaker says no."""

    def raising() -> None:
        raise RuntimeError("no")

    async def araising() -> None:
        raise RuntimeError("no")

    cases: dict[str, Any] = {
        "sync bare": calling(bare, calls),
        "sync pass-through": refused(passed_through(raising), calls),
        "sync resilience": refused(_opened(bare), calls),
        "async bare": awaiting(runner, abare, calls),
        "async pass-through": arefused(runner, apassed_through(araising), calls),
        "async resilience": arefused(runner, _opened(abare), calls),
    }
    for peer in PEERS:
        if peer.is_installed and peer.sync:
            func = peer.sync(5, 60)(raising)
            _fail(func)
            cases[f"sync {peer.name}"] = refused(func, calls)
        if peer.is_installed and peer.coroutine:
            func = peer.coroutine(5, 60)(araising)
            runner.run(_afail(func))
            cases[f"async {peer.name}"] = arefused(runner, func, calls)
    found = measure(cases, rounds)
    table = _compared("Rejection: a call through an open breaker", found, goals={"sync": 450, "async": 450})
    table.note += " The floor here is a pass-through decorator around a function that raises a RuntimeError."
    return table


def permits(rounds: int, calls: int) -> Table:
    """The parts that the engine is made of."""
    breaker = _breaker()
    registry = HealthRegistry(Settings())
    target = registry.add(Target("t", "p", "openai/gpt-4o-mini", {}, "t"))
    worked = Outcome(Kind.SUCCESS, latency_seconds=0.1)

    def permit() -> None:
        breaker.acquire().success()

    def block() -> None:
        with breaker.acquire() as taken:
            taken.success()

    def admission() -> None:
        registry.is_eligible(target)
        registry.admit(target).settle(worked)

    cases = {"bare": bare, "permit": permit, "permit in a with block": block, "admission": admission}
    found = measure({name: calling(func, calls) for name, func in cases.items()}, rounds)
    table = Table(
        "Permits: taken and told of a success",
        ("what", "ns over an empty function", "±"),
        note="An admission is both permits of an attempt, the target's and the provider's, with the question "
        "whether the target is eligible.",
    )
    for name in list(cases)[1:]:
        over = found[name].over(found["bare"])
        table.add(name, over.median, over.deviation)
    return table


def engine_alone(runner: asyncio.Runner, rounds: int, calls: int) -> Table:
    """A whole request on a route, with an upstream that answers at once."""
    upstream = ImmediateUpstream()
    settings = {"routes": {"chat": {"targets": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]}}}
    quiet = MultiProviderFallback(settings, upstream=upstream, sinks=())
    heard = MultiProviderFallback(settings, upstream=upstream)
    ask = {"model": "chat", "messages": MESSAGES}

    async def direct(**_: Any) -> Any:
        return await upstream.acall()

    cases = {
        "sync bare": calling(lambda **_: upstream.call(), calls, **ask),
        "sync resilience": calling(quiet.completion, calls, **ask),
        "sync resilience, default sink": calling(heard.completion, calls, **ask),
        "async bare": awaiting(runner, direct, calls, **ask),
        "async resilience": awaiting(runner, quiet.acompletion, calls, **ask),
        "async resilience, default sink": awaiting(runner, heard.acompletion, calls, **ask),
    }
    found = measure(cases, rounds)
    table = Table(
        "Engine alone: a request on a route of two targets, with an upstream that answers at once",
        ("case", "µs over bare", "±", "goal, µs"),
    )
    for mode, goal in (("sync", 5), ("async", 8)):
        base = found[f"{mode} bare"]
        for name, sample in found.items():
            if name.startswith(mode) and name != f"{mode} bare":
                over = sample.over(base)
                table.add(name, over.median / 1e3, over.deviation / 1e3, goal)
    return table


def engine(runner: asyncio.Runner, rounds: int) -> Table:
    """The same through LiteLLM, beside LiteLLM's own Router."""
    import litellm

    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    model, answer = "openai/gpt-4o-mini", "Hello."
    params = {"model": model, "api_key": "sk-none", "mock_response": answer}
    settings = {"warm": False, "routes": {"chat": {"targets": [params]}}}
    runtime = MultiProviderFallback(settings)
    router = litellm.Router(model_list=[{"model_name": "chat", "litellm_params": params}])
    ask, route = {**params, "messages": MESSAGES}, {"model": "chat", "messages": MESSAGES}
    # LiteLLM leaves its logging to threads and tasks: it must not run in the next case's time.
    turn = {"calls": 1, "pause_seconds": 0.003}
    cases = {
        "sync bare": calling(litellm.completion, **turn, **ask),
        "sync resilience": calling(runtime.completion, **turn, **route),
        "sync LiteLLM Router": calling(router.completion, **turn, **route),
        "async bare": awaiting(runner, litellm.acompletion, **turn, **ask),
        "async resilience": awaiting(runner, runtime.acompletion, **turn, **route),
        "async LiteLLM Router": awaiting(runner, router.acompletion, **turn, **route),
    }
    found = measure(cases, rounds)
    table = Table(
        "Engine: a request through LiteLLM with mock_response",
        ("case", "µs per call", "µs over bare", "±", "share of what the Router adds"),
        note="Bare is `litellm.completion` and `litellm.acompletion`; each round is one call of each case. "
        "Goal: 15 µs over bare. The ± of the difference is that of single calls, not of the median. After a "
        "millisecond of LiteLLM the processor's caches hold none of our code, so that this is more than the engine "
        "alone; LiteLLM's Router runs under the same conditions.",
    )
    for mode in ("sync", "async"):
        base = found[f"{mode} bare"]
        added = found[f"{mode} LiteLLM Router"].over(base).median
        table.add(f"{mode} bare", base.median / 1e3, None, base.deviation / 1e3, None)
        for name in (f"{mode} resilience", f"{mode} LiteLLM Router"):
            over = found[name].over(base)
            table.add(name, found[name].median / 1e3, over.median / 1e3, over.deviation / 1e3, over.median / added)
    return table


def own_part(runner: asyncio.Runner, rounds: int, calls: int) -> Table:
    """The same again, with LiteLLM's answer there already: what is left is ours, and nothing blurs it."""
    import litellm

    params = {"model": "openai/gpt-4o-mini", "api_key": "sk-none"}
    runtime = MultiProviderFallback({"warm": False, "routes": {"chat": {"targets": [params]}}})
    answer = litellm.completion(**params, messages=MESSAGES, mock_response="Hello.")

    def answered(**_: Any) -> Any:
        return answer

    async def aanswered(**_: Any) -> Any:
        return answer

    ask = {"model": "chat", "messages": MESSAGES}
    cases = {
        "sync bare": calling(answered, calls, **ask),
        "sync resilience": calling(runtime.completion, calls, **ask),
        "async bare": awaiting(runner, aanswered, calls, **ask),
        "async resilience": awaiting(runner, runtime.acompletion, calls, **ask),
    }
    before = litellm.completion, litellm.acompletion
    litellm.completion, litellm.acompletion = answered, aanswered
    try:
        found = measure(cases, rounds)
    finally:
        litellm.completion, litellm.acompletion = before
    table = Table(
        "Engine: our own part of that request",
        ("case", "µs over bare", "±", "goal, µs"),
        note="LiteLLM's function gives an answer that it made before, and bare is that function: the engine, the "
        "arguments for LiteLLM, the look at its answer, the default sink, the attempts written into the answer. "
        "The processor's caches are warm, as they are not after a millisecond of LiteLLM.",
    )
    for mode in ("sync", "async"):
        over = found[f"{mode} resilience"].over(found[f"{mode} bare"])
        table.add(f"{mode} resilience", over.median / 1e3, over.deviation / 1e3, 15)
    return table


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(name="bench", policy=BreakerSettings())


def _opened(func: Callable[..., Any]) -> Callable[..., Any]:
    breaker = CircuitBreaker(name="bench", policy=BreakerSettings(open_seconds=300))
    guarded = breaker(func)
    while breaker.current_state == "closed":
        breaker.acquire().failure(ConnectionError("refused"))
    return guarded


def _fail(func: Callable[[], Any]) -> None:
    for _ in range(10):
        try:  # noqa: SIM105 (plain, as in the rounds)
            func()
        except Exception:  # noqa: S110 (that is how it opens)
            pass


async def _afail(func: Callable[[], Any]) -> None:
    for _ in range(10):
        try:  # noqa: SIM105 (plain, as in the rounds)
            await func()
        except Exception:  # noqa: S110 (that is how it opens)
            pass


def _compared(title: str, found: dict[str, Sample], goals: dict[str, int]) -> Table:
    table = Table(
        title,
        ("case", "trips on", "ns over bare", "±", "ratio to pass-through", "goal, ns"),
        note="Bare is the undecorated function, called without arguments.",
    )
    rules = {peer.name: peer.rule for peer in PEERS} | {"pass-through": "never", "resilience": "in a row and rate"}
    for mode, goal in goals.items():
        base = found[f"{mode} bare"]
        floor = found[f"{mode} pass-through"].over(base)
        for name, rule in (("pass-through", ""), ("resilience", ""), *((peer.name, peer.rule) for peer in PEERS)):
            peer = next((peer for peer in PEERS if peer.name == name), None)
            if peer is not None and (peer.sync if mode == "sync" else peer.coroutine) is None:
                continue
            if f"{mode} {name}" not in found:
                table.add(f"{mode} {name}", "not installed", None, None, None, None)
                continue
            over = found[f"{mode} {name}"].over(base)
            own = goal if name == "resilience" else None
            table.add(f"{mode} {name}", rule or rules[name], over.median, over.deviation, over.ratio(floor), own)
    return table


def main() -> None:
    parser = arguments(QUESTION)
    parser.add_argument("--rounds", type=int, default=101, help="rounds of the guard (default %(default)s)")
    options = parser.parse_args()
    rounds, calls, slow = (3, 200, 3) if options.quick else (options.rounds, 2000, 800)
    logging.disable(logging.WARNING)
    with asyncio.Runner() as runner:
        tables = [
            guards(runner, rounds, calls),
            rejections(runner, rounds // 2 or 1, calls // 2),
            permits(rounds // 2 or 1, calls // 2),
            engine_alone(runner, rounds // 2 or 1, calls // 10),
            engine(runner, slow),
            own_part(runner, rounds // 2 or 1, calls // 10),
        ]
    deliver(Report("overhead", QUESTION, METHOD, tables), options)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
