"""Several processes share one store: does an outage cost a fleet more than one process, and what does sharing cost?"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import calling, measure, quantile
from resilience.clock import SYSTEM_CLOCK
from resilience.errors import RejectedError
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.testing import Fault, LoopbackProvider
from resilience.testing.store import LoopbackStore
from resilience.upstream import Target

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

QUESTION = (
    "Several processes share one store: does an outage cost a fleet more than one process, and what does it cost?"
)
RATE, PROCESSES, DEADLINE_SECONDS = 40, 6, 5.0
MESSAGES = [{"role": "user", "content": "hi"}]
SPAWN = multiprocessing.get_context("spawn")
monotonic = SYSTEM_CLOCK.monotonic


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds before the outage, of it, and after it; with the time at which the server is killed, and restarted."""

    before: float
    fault: float
    after: float
    killed: float | None = None
    restarted: float | None = None

    @property
    def whole(self) -> float:
        """Seconds altogether."""
        return self.before + self.fault + self.after


class Member:
    """One process of the fleet, told by a pipe what to do."""

    def __init__(self, work: Any, *args: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def hear(self) -> Any:
        """What it says next."""
        if not self.pipe.poll(300):
            raise RuntimeError("a member of the fleet said nothing for 300 s")
        return self.pipe.recv()

    def tell(self, word: Any) -> None:
        """Say something to it."""
        self.pipe.send(word)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)


# -- one of two providers is down -------------------------------------------------------------------------------


def ask_steadily(pipe: Connection, number: int, store: str | None, bases: tuple[str, str], seconds: float) -> None:
    """A process of the fleet: its share of the requests, through LiteLLM, on real HTTP."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    from resilience import MultiProviderFallback

    litellm.suppress_debug_info = True
    names = ("primary", "backup")
    targets = [
        {"model": f"openai/{name}", "api_base": base, "api_key": "sk-none"}
        for name, base in zip(names, bases, strict=True)
    ]
    facts: list[str] = []

    async def run() -> None:
        for name, base in zip(names, bases, strict=True):
            await litellm.acompletion(model=f"openai/{name}", messages=MESSAGES, api_base=base, api_key="sk-none")
        route = {"targets": targets, "timeouts": {"attempt_seconds": 1}}
        runtime = MultiProviderFallback(
            {"storage": store, "breaker": {"open_seconds": 2}, "routes": {"chat": route}, "warm": False},
            sinks=[lambda event: facts.append(type(event).__name__)],
        )
        pipe.send("ready")
        begin = await asyncio.to_thread(pipe.recv)
        good = bad = 0

        async def one() -> None:
            nonlocal good, bad
            try:
                await runtime.acompletion(model="chat", messages=MESSAGES, timeout=DEADLINE_SECONDS)
            except Exception as error:
                bad += 1
                facts.append(repr(error)[:300])
            else:
                good += 1

        tasks = []
        for turn in range(number, int(RATE * seconds), PROCESSES):
            await SYSTEM_CLOCK.asleep(max(0.0, begin + turn / RATE - monotonic()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
        pipe.send((good, bad, facts))
        await runtime.aclose()

    asyncio.run(run())


def outage(  # noqa: C901 (a script)
    window: Window, fault: Fault, *, shared: bool = True, known_after: float = 1.6
) -> dict[str, float]:
    """The whole fleet, one provider of two down for a while; what comes ``known_after`` seconds is a probe."""
    with ExitStack() as stack:
        store = stack.enter_context(LoopbackStore())
        first, second = (stack.enter_context(LoopbackProvider("ok", name=name)) for name in ("primary", "backup"))
        bases = (first.openai_base, second.openai_base)
        url = store.url if shared else None
        members = [
            stack.enter_context(Member(ask_steadily, number, url, bases, window.whole)) for number in range(PROCESSES)
        ]
        for member in members:
            member.hear()
        for provider in (first, second):
            provider.forget()
        begin = monotonic() + 0.3
        for member in members:
            member.tell(begin)
        moments = [(window.before, lambda: first.set(fault)), (window.before + window.fault, first.clear)]
        tripped_at = window.before + known_after
        counted: dict[str, int] = {}

        def tripped() -> None:
            counted["before"] = first.count()
            first.max_concurrency = first.active

        def over() -> None:
            counted["probes"], counted["worst"] = first.count() - counted["before"], first.max_concurrency

        moments += [(tripped_at, tripped), (window.before + window.fault - 0.05, over)]
        if window.killed is not None:
            moments.append((window.killed, store.kill))
        if window.restarted is not None:
            moments.append((window.restarted, lambda: store.start() and None))
        for at, act in sorted(moments, key=lambda moment: moment[0]):
            SYSTEM_CLOCK.sleep(max(0.0, begin + at - monotonic()))
            act()
        results = [member.hear() for member in members]
        attempts = first.count() + second.count()
    good, bad = sum(result[0] for result in results), sum(result[1] for result in results)
    facts = [fact for result in results for fact in result[2]]
    for fact in facts:
        if "Error" in fact:
            sys.stderr.write(fact + "\n")
    return {
        "requests": good + bad,
        "answered, %": 100 * good / (good + bad),
        "attempts": attempts,
        "wasted attempts": attempts - good,
        "wasted, % of attempts": 100 * (attempts - good) / attempts,
        "probes during the outage": counted["probes"],
        "most probes at once": counted["worst"],
        "told that the store is gone": facts.count("StorageDegraded"),
        "told that it is back": facts.count("StorageRestored"),
    }


# -- registries alone -------------------------------------------------------------------------------------------


def registry_of(store: str | None, **breaker: Any) -> tuple[HealthRegistry, Target, Any]:
    """A registry with one target, and its agent if it shares."""
    registry = HealthRegistry(Settings.model_validate({"breaker": breaker}))
    agent = None
    if store is not None:
        from resilience.storage.agent import Agent

        agent = Agent(store, registry.publish)
        registry.share(agent.join)
    target = registry.add(Target("t", "openai", "openai/m", identity="t"))
    if agent is not None:
        agent.start()
    return registry, target, agent


def watch(pipe: Connection, store: str) -> None:
    """A process that tells when it knows of a trip, and trips on demand."""
    registry, _, agent = registry_of(store)
    heard: list[tuple[str, float]] = []
    registry.subscribe(lambda event: heard.append((type(event).__name__, monotonic())))
    give_up_at = monotonic() + 60
    while not agent.online and monotonic() < give_up_at:
        SYSTEM_CLOCK.sleep(0.05)
    pipe.send(agent.online)
    breaker = registry.providers["openai"]
    while True:
        word = pipe.recv()
        if word == "trip":
            at = monotonic()
            for _ in range(5):
                breaker.acquire().failure(kind=Kind.CONNECTION)
            pipe.send(at)
        elif word == "reset":
            breaker.reset()
        elif word == "heard":
            pipe.send([at for name, at in heard if name == "CircuitOpened"])
            heard.clear()
        else:
            agent.close()
            pipe.send("gone")
            return


def known_everywhere(processes: int, trips: int, idle_seconds: float) -> tuple[Table, Table]:
    """How long a trip takes to be known to everybody, and what idle processes cost the server."""
    rng, waits, late = random.Random(7), [], 0
    with ExitStack() as stack:
        store = stack.enter_context(LoopbackStore())
        members = [stack.enter_context(Member(watch, store.url)) for _ in range(processes)]
        assert all(member.hear() for member in members), "a member is not in the fleet"
        SYSTEM_CLOCK.sleep(1.0)
        before, at = store.commands, monotonic()
        SYSTEM_CLOCK.sleep(idle_seconds)
        # The question itself is a command.
        load = (store.commands - before - 1) / (monotonic() - at) / processes
        for _ in range(trips):
            chosen = rng.choice(members)
            chosen.tell("trip")
            tripped = chosen.hear()
            SYSTEM_CLOCK.sleep(0.5)
            for member in members:
                member.tell("heard")
                found = member.hear()
                late += not found
                if member is not chosen:
                    waits += [heard - tripped for heard in found[:1]]
            chosen.tell("reset")
            SYSTEM_CLOCK.sleep(0.3)
        for member in members:
            member.tell("end")
            member.hear()
    push = Table("A trip becomes known", ("processes", "trips", "p50 ms", "p99 ms", "worst ms", "not within 0.5 s"))
    push.add(processes, trips, *(1e3 * quantile(waits, share) for share in (0.5, 0.99, 1.0)), late)
    idle = Table("Load of idle processes", ("processes", "commands a second and process"))
    idle.add(processes, load)
    return push, idle


def commands_of_requests(requests: int, seconds: float) -> Table:
    """Commands that the server sees while nobody asks, and while many do, in each state."""
    table = Table(
        "Round trips on the request path",
        ("state", "admissions", "commands meanwhile", "commands while idle as long"),
    )
    with LoopbackStore() as store:
        for state in ("closed", "open", "half-open", "isolated"):
            registry, target, agent = registry_of(f"{store.url}?prefix={state}", open_seconds=0.5, jitter=0.0)
            breaker = registry.providers["openai"]
            if state == "isolated":
                breaker.isolate("bench")
            elif state == "open":
                registry.settings.provider("openai")
                breaker.open()
                breaker.extend(monotonic() + 3600)
            elif state == "half-open":
                breaker.open()
                SYSTEM_CLOCK.sleep(0.6)
                breaker.is_eligible()
                SYSTEM_CLOCK.sleep(0.1)
                held = breaker.acquire()  # somebody probes, for as long as this takes
            SYSTEM_CLOCK.sleep(0.4)
            before = store.commands
            SYSTEM_CLOCK.sleep(seconds)
            idle = store.commands - before
            before, end = store.commands, monotonic() + seconds
            for _ in range(requests):
                try:
                    registry.admit(target).settle(Outcome(Kind.SUCCESS))
                except RejectedError:
                    continue
            SYSTEM_CLOCK.sleep(max(0.0, end - monotonic()))
            table.add(state, requests, store.commands - before, idle)
            if state == "half-open":
                held.ignore()
            agent.close()
    return table


def path_cost(rounds: int, calls: int) -> Table:
    """An admission and its success, with the store and without."""
    table = Table("Request path, store on over store off", ("what", "off ns", "on ns", "on / off"))
    with LoopbackStore() as store:
        alone, shared = registry_of(None), registry_of(store.url)

        def admitting(registry: HealthRegistry, target: Target) -> Any:
            fine = Outcome(Kind.SUCCESS)
            return calling(lambda: registry.admit(target).settle(fine), calls)

        def guarding(registry: HealthRegistry) -> Any:
            breaker = registry.providers["openai"]
            return calling(lambda: breaker.acquire().success(), calls)

        cases = {
            "off admit": admitting(*alone[:2]),
            "on admit": admitting(*shared[:2]),
            "off permit": guarding(alone[0]),
            "on permit": guarding(shared[0]),
        }
        found = measure(cases, rounds)
        shared[2].close()
    for what, name in (("admission and success", "admit"), ("permit and success", "permit")):
        off, on = found[f"off {name}"], found[f"on {name}"]
        table.add(what, off.median, on.median, quantile(ratios(on, off), 0.5))
    return table


def ratios(on: Any, off: Any) -> list[float]:
    return [one / other for one, other in zip(on.values, off.values, strict=True)]


def main() -> None:
    parser = arguments(QUESTION)
    parser.add_argument("--part", choices=("outage", "push", "path"), help="only one part; writes nothing")
    options = parser.parse_args()
    tables: list[Table] = []
    quick = options.quick
    if options.part in {None, "path"}:
        tables.append(path_cost(*((3, 200) if quick else (31, 5000))))
        tables.append(commands_of_requests(*((200, 0.3) if quick else (20_000, 4.0))))
    if options.part in {None, "push"}:
        tables += known_everywhere(*((2, 1, 0.5) if quick else (50, 20, 10.0)))
    if options.part in {None, "outage"} and not quick:
        window, down = Window(3, 8, 9), Fault.http(503)
        scenes = {
            "shared": outage(window, down),
            "shared, server killed in the middle": outage(Window(3, 8, 9, killed=7, restarted=14), down),
            "shared, hangs instead of 503": outage(window, Fault.hang(), known_after=2.6),
            "each process alone": outage(window, down, shared=False),
        }
        table = Table("One provider of two is down for 8 of 20 s", ("fleet", *scenes["shared"]))
        for name, found in scenes.items():
            table.add(name, *found.values())
        tables.append(table)
    method = (
        f"A real Valkey server, processes started afresh (spawn), real HTTP on the loopback interface. Outage: "
        f"{PROCESSES} processes, {RATE} requests a second in total through LiteLLM, attempt_seconds 1, open_seconds 2, "
        "defaults otherwise; wasted is every attempt on the wire that became no answer; probes are counted from 1.6 s "
        "after the outage began, of a hang a second later: the calls that found it out are stuck in it for as long. "
        "Push: from before the first of five failures in one process until each other one's "
        "sinks hear it, everything on one machine of few cores. Load: commands inside of scripts count as well."
    )
    if options.part:
        for table in tables:
            sys.stdout.write(table.as_markdown() + "\n")
        return
    deliver(Report("fleet", QUESTION, method, tables), options)


if __name__ == "__main__":
    gc.collect()
    main()
