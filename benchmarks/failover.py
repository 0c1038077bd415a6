"""One provider of two is at fault for some seconds: what do callers notice, beside LiteLLM's own Router?"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import random
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, Table, arguments, deliver, kept
from benchmarks.rounds import quantile
from resilience.clock import SYSTEM_CLOCK
from resilience.testing import Fault, LoopbackProvider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

QUESTION = "One provider of two is at fault for some seconds: what do callers notice, beside LiteLLM's own Router?"
ROOT = Path(__file__).parent.parent
RATE, DEADLINE_SECONDS = 40, 5.0
MESSAGES = [{"role": "user", "content": "hi"}]
RIGHT = "The right answer."
# How a provider counts as out of rotation, and as back in it.
FEW, MOST, LOOK_SECONDS = 0.1, 0.75, 0.5
SEED = 7


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong.

    Attributes:
        fault: Of the first provider.
        stream: Whether the requests are streams.
        both: Whether the second provider has it too.
        fault_seconds: How long, where it is not the window's own.
    """

    fault: Fault
    stream: bool = False
    both: bool = False
    fault_seconds: float | None = None


FAULTS = {
    "503": Scenario(Fault.http(503)),
    "refused": Scenario(Fault.refuse()),
    "hangs": Scenario(Fault.hang()),
    "brownout": Scenario(Fault.brownout(0.3, 1, of=5)),
    "40 % 500s": Scenario(Fault.http(500).some(2, of=5)),
    "429": Scenario(Fault.rate_limited()),
    "empty": Scenario(Fault.empty()),
    "stream cut": Scenario(Fault.cut(at=2), stream=True),
    "stream stalls": Scenario(Fault.stall(at=2), stream=True),
    "all down for 4 s": Scenario(Fault.http(503), both=True, fault_seconds=4),
}


@dataclass(frozen=True, slots=True)
class Window:
    """When the fault is: seconds before it, of it, and after it."""

    before: float
    fault: float
    after: float

    @property
    def whole(self) -> float:
        """Seconds altogether."""
        return self.before + self.fault + self.after


@dataclass(slots=True)
class Meter:
    """What goes out on the wire: counted where LiteLLM's clients send, so that refused connections count too."""

    sent: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    active: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    crowd: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def attach(self) -> None:
        """Count everything that this process sends through httpx."""
        import httpx

        send = httpx.AsyncClient.send

        async def counted(client: Any, request: Any, **options: Any) -> Any:
            port = request.url.port
            self.sent[port].append(perf_counter())
            self.active[port] += 1
            self.crowd[port].append(self.active[port])
            try:
                return await send(client, request, **options)
            finally:
                self.active[port] -= 1

        httpx.AsyncClient.send = counted  # type: ignore[method-assign]

    def forget(self) -> None:
        """Start from nothing."""
        self.sent.clear()
        self.crowd.clear()

    def worst(self, port: int, begin: float, end: float) -> int:
        """The most at once on one port that were sent between two times."""
        there = zip(self.sent[port], self.crowd[port], strict=True)
        return max((crowd for at, crowd in there if begin <= at < end), default=0)


def resilience_door(first: str, second: str) -> Callable[..., Awaitable[Any]]:
    """A route of two targets, with the tuned Router's limits of an attempt and its open time."""
    from resilience import MultiProviderFallback

    targets = [
        {"model": "openai/primary", "api_base": first, "api_key": "sk-none"},
        {"model": "openai/backup", "api_base": second, "api_key": "sk-none"},
    ]
    timeouts = {"attempt_seconds": 1, "first_token_seconds": 1, "stall_seconds": 1}
    route = {"targets": targets, "timeouts": timeouts, "stream": {"buffer": "full"}}
    runtime = MultiProviderFallback({"breaker": {"open_seconds": 2}, "routes": {"chat": route}})
    return lambda **more: runtime.acompletion(model="chat", messages=MESSAGES, timeout=DEADLINE_SECONDS, **more)


def router_door(first: str, second: str, **arguments: Any) -> Callable[..., Awaitable[Any]]:
    """LiteLLM's Router with a group for each provider and a fallback from one to the other."""
    import litellm

    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": base, "api_key": "sk-none"}}
        for name, base in (("primary", first), ("backup", second))
    ]
    router = litellm.Router(model_list=models, fallbacks=[{"primary": ["backup"]}], **arguments)
    return lambda **more: router.acompletion(model="primary", messages=MESSAGES, **more)


CONTENDERS: dict[str, Callable[[str, str], Callable[..., Awaitable[Any]]]] = {
    "resilience": resilience_door,
    "LiteLLM Router, as documented": router_door,
    "LiteLLM Router, tuned": lambda first, second: router_door(
        first, second, allowed_fails=1, cooldown_time=2, timeout=1, stream_timeout=1, num_retries=0
    ),
}


async def scene(name: str, scenario: Scenario, window: Window, meter: Meter) -> dict[str, float | None]:
    """One contender, one fault, from the first request to the last answer."""
    stream = {"stream": True} if scenario.stream else {}
    if scenario.fault_seconds is not None:
        window = replace(window, fault=scenario.fault_seconds)
    with (
        LoopbackProvider(RIGHT, name="primary", seed=SEED) as first,
        LoopbackProvider(RIGHT, name="backup", seed=SEED + 1) as second,
    ):
        ask = CONTENDERS[name](first.openai_base, second.openai_base)
        await _warm(first, second)
        for _ in range(5):
            await _text(await ask(**stream))
        meter.forget()
        results: list[tuple[float, float, bool]] = []
        started = perf_counter()
        fault_at, over_at = started + window.before, started + window.before + window.fault
        faulty = [first, second] if scenario.both else [first]
        steered = asyncio.create_task(_steer(faulty, scenario.fault, window))
        tasks: list[asyncio.Task[Any]] = [steered]
        for number in range(int(RATE * window.whole)):
            await SYSTEM_CLOCK.asleep(max(0.0, started + number / RATE - perf_counter()))
            tasks.append(asyncio.create_task(_request(lambda: ask(**stream), results)))
        await asyncio.gather(*tasks)
        arrivals = meter.sent[first.port]
        attempts = len(arrivals) + len(meter.sent[second.port])
        # A stream has been sent when its head is there; how many are open, the provider knows.
        worst = max(meter.worst(first.port, fault_at, over_at), steered.result())
    during = [(took, right) for began, took, right in results if fault_at <= began < over_at]
    right = sum(ok for _, _, ok in results)
    return {
        "right answers, %": 100 * right / len(results),
        "right during the fault, %": 100 * sum(ok for _, ok in during) / len(during),
        "wasted attempts": float(attempts - right),
        "wasted per request": (attempts - right) / len(results),
        "most at once on the faulty one": float(worst),
        "p50 ms during": 1e3 * quantile([took for took, _ in during], 0.5),
        "p99 ms during": 1e3 * quantile([took for took, _ in during], 0.99),
        "s to eject": _first(arrivals, fault_at, over_at, lambda share: share <= FEW),
        "s to recover": _first(arrivals, over_at, started + window.whole, lambda share: share >= MOST),
    }


def _first(arrivals: list[float], begin: float, end: float, holds: Callable[[float], bool]) -> float | None:
    """Seconds after ``begin`` at which a look at the traffic to the first provider shows what is asked for."""
    look = begin
    while look + LOOK_SECONDS <= end + 1e-9:
        count = sum(look <= arrival < look + LOOK_SECONDS for arrival in arrivals)
        if holds(count / (LOOK_SECONDS * RATE)):
            return look - begin
        look += 0.05
    return None


async def _steer(providers: list[LoopbackProvider], fault: Fault, window: Window) -> int:
    """Bring the fault and take it away. Returns the most requests that the first one had at once meanwhile."""
    await SYSTEM_CLOCK.asleep(window.before)
    for provider in providers:
        await asyncio.to_thread(provider.set, fault)
        provider.forget()
    await SYSTEM_CLOCK.asleep(window.fault)
    worst = providers[0].max_concurrency
    for provider in providers:
        await asyncio.to_thread(provider.clear)
    return worst


async def _request(ask: Callable[[], Awaitable[Any]], results: list[tuple[float, float, bool]]) -> None:
    began = perf_counter()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS + 0.1):
            right = await _text(await ask()) == RIGHT
    except Exception:
        right = False
    results.append((began, perf_counter() - began, right))


async def _text(answer: Any) -> str | None:
    if not hasattr(answer, "__aiter__"):
        return str(answer.choices[0].message.content)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


async def _warm(*providers: LoopbackProvider) -> None:
    # LiteLLM's first call of a provider family imports and builds for a third of a second: not what is asked here.
    import litellm

    for provider in providers:
        await litellm.acompletion(
            model="openai/warm", messages=MESSAGES, api_base=provider.openai_base, api_key="sk-none"
        )


def contend(name: str, faults: list[str], window: Window) -> None:
    """As a child process: wait for a line, then go through the faults and print a line of JSON for each."""
    logging.disable(logging.CRITICAL)
    import litellm

    litellm.suppress_debug_info = True
    meter = Meter()
    meter.attach()

    async def run() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for fault in faults:
            sys.stdin.readline()
            found = await scene(name, FAULTS[fault], window, meter)
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()

    asyncio.run(run())


def compete(names: list[str], faults: list[str], window: Window) -> list[Table]:
    """Fault by fault, each contender in a process of its own, one after the other in a shuffled order."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    spans = ",".join(str(span) for span in (window.before, window.fault, window.after))
    command = [sys.executable, "-m", "benchmarks.failover", "--faults", ",".join(faults), "--window", spans]
    children = {
        name: subprocess.Popen(  # noqa: S603 (ourselves)
            [*command, "--contend", name],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    rng, tables = random.Random(SEED), []
    try:
        for child in children.values():
            _next_line(child)  # it has imported what it needs
        for fault in faults:
            found = {}
            for name in rng.sample(names, len(names)):
                child = children[name]
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
                found[name] = json.loads(_next_line(child))
            table = Table(f"Fault: {fault}", ("contender", *found[names[0]]))
            for name in names:
                cells = found[name].values()
                table.add(name, *(None if cell is None or math.isnan(cell) else cell for cell in cells))
            tables.append(table)
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()
            child.communicate()
    return tables


def _next_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"a contender ended early with exit status {child.wait()}; run it alone with --contend")
    return line


def main() -> None:
    parser = arguments(QUESTION)
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, separated by commas (default: all)")
    parser.add_argument("--window", default="2,8,8", help="seconds before, during and after (default %(default)s)")
    parser.add_argument("--add", action="store_true", help="keep what the results hold of other faults")
    parser.add_argument("--contend", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    faults = [fault for fault in options.faults.split(",") if fault]
    unknown = [fault for fault in faults if fault not in FAULTS]
    if unknown:
        parser.error(f"unknown faults: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    window = Window(*map(float, options.window.split(",")))
    if options.contend:
        contend(options.contend, faults, window)
        return
    names = list(CONTENDERS)
    if options.quick:
        names, faults, window = names[:1], faults[:1], Window(0.5, 0.5, 0.5)
    tables = compete(names, faults, window)
    method = (
        f"Real HTTP on the loopback interface, {RATE} requests a second whether answers come or not, each with a "
        f"deadline of {DEADLINE_SECONDS:g} s. The first of two providers is at fault for {window.fault:g} of "
        f"{window.whole:g} s. For each fault the contenders take turns, each in a process of its own. Every attempt "
        "on the wire that did not become a right answer is wasted; out of rotation means that at most "
        f"{FEW:.0%} of half a second's requests reach the provider, back in it that {MOST:.0%} do (none if not within "
        f"the {window.after:g} s). Resilience has limits of 1 s for an attempt, a first token and a pause in a stream, "
        "open_seconds 2, and streams held back until they are whole (`buffer: full`), defaults otherwise; the tuned "
        "Router has timeout 1, stream_timeout 1, cooldown_time 2, allowed_fails 1 and no retries; the other one is "
        "LiteLLM's documented example, a list of models and fallbacks. A brownout answers 0.3 s late and leaves a "
        f"fifth of the requests hanging. Chance has the seed {SEED}."
    )
    if options.add:
        tables = kept("failover", tables, [f"Fault: {fault}" for fault in FAULTS])
    deliver(Report("failover", QUESTION, method, tables, seed=SEED), options)


if __name__ == "__main__":
    main()
