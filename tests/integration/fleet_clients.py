"""Processes that send requests over real HTTP through an engine of their own; without LiteLLM, which loads long."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fleet_members import eventually

from resilience.clock import SYSTEM_CLOCK
from resilience.execution import CallOptions, Engine
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.routing import Route, RoutedTarget
from resilience.settings import RouteSettings, Settings
from resilience.storage.agent import Agent
from resilience.upstream import Operation, Target

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RATE = 40


class HttpUpstream:
    """`resilience.upstream.Upstream` on the standard library's client."""

    def call(self, target: Target, operation: Operation, params: Any, timeouts: Any) -> Any:
        base = urlsplit(target.params["api_base"])
        wire = http.client.HTTPConnection(base.hostname or "", base.port, timeout=timeouts.attempt)
        try:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            wire.request("POST", f"{base.path}/chat/completions", body, {"Content-Type": "application/json"})
            answer = wire.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise ConnectionAbortedError(answer.status)
            return json.loads(text)
        finally:
            wire.close()

    def classify(self, error: BaseException) -> Outcome:
        if isinstance(error, ConnectionAbortedError):
            return Outcome(Kind.SERVER_ERROR, error)
        return Outcome(Kind.TIMEOUT if isinstance(error, TimeoutError) else Kind.CONNECTION, error)

    def judge(self, *_: Any) -> Kind:
        return Kind.SUCCESS

    def cost_usd(self, *_: Any) -> float | None:
        return None

    def context_window(self, *_: Any) -> int | None:
        return None

    def attach(self, *_: Any) -> None:
        return None


def ask_steadily(pipe: Connection, url: str, bases: tuple[str, str], number: int, of: int, seconds: float) -> None:
    """One process: its share of the requests. Tells how many were answered, and what went wrong."""
    registry = HealthRegistry(Settings.model_validate({"breaker": {"open_seconds": 2}}))
    events: list[str] = []
    registry.subscribe(lambda event: events.append(type(event).__name__))
    agent = Agent(url, registry.publish)
    registry.share(agent.join)
    settings = RouteSettings.model_validate({"timeouts": {"attempt_seconds": 1}})
    places = tuple(
        RoutedTarget(
            registry.add(Target(name, f"of-{name}", "m", {"api_base": base}, identity=name)), at, 1.0, settings.timeouts
        )
        for at, (name, base) in enumerate(zip(("primary", "backup"), bases, strict=True))
    )
    engine = Engine(HttpUpstream(), registry)
    route = Route("chat", places, settings)
    agent.start()
    eventually(lambda: agent.online)
    pipe.send("ready")
    begin = pipe.recv()
    wrong: list[str] = []

    def one() -> bool:
        try:
            engine.run(route, Operation.COMPLETION, {}, CallOptions(deadline_seconds=5.0))
        except Exception as error:
            wrong.append(repr(error))
            return False
        return True

    with ThreadPoolExecutor(32) as threads:
        asked = []
        for turn in range(number, int(RATE * seconds), of):
            SYSTEM_CLOCK.sleep(max(0.0, begin + turn / RATE - SYSTEM_CLOCK.monotonic()))
            asked.append(threads.submit(one))
        good = sum(future.result() for future in asked)
    pipe.send((good, wrong, events))
    agent.close()
