"""Processes of a fleet for the tests: each does what a pipe tells it."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

from resilience.clock import SYSTEM_CLOCK
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.storage.agent import Agent
from resilience.upstream import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_SECONDS = 60.0


class Peer:
    """A registry in a fleet: what a process has, without LiteLLM."""

    def __init__(self, url: str, **breaker: Any) -> None:
        self.registry = HealthRegistry(Settings.model_validate({"breaker": {"jitter": 0.0, **breaker}}))
        self.events: list[Any] = []
        self.registry.subscribe(self.events.append)
        self.agent = Agent(url, self.registry.publish)
        self.registry.share(self.agent.join)
        self.target = self.registry.add(Target("t", "openai", "openai/m", identity="t"))
        self.agent.start()
        self.breaker = self.registry.providers["openai"]

    @property
    def state(self) -> str:
        return self.breaker.current_state

    def fail(self, count: int, kind: Kind = Kind.CONNECTION) -> None:
        for _ in range(count):
            self.breaker.acquire().failure(kind=kind)

    def attempt(self, kind: Kind = Kind.SUCCESS) -> None:
        self.registry.admit(self.target).settle(Outcome(kind))

    def told(self, name: str) -> int:
        return sum(type(event).__name__ == name for event in self.events)

    def close(self) -> None:
        self.agent.close()


def eventually(holds: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Wait until something holds; the limit is for broken code only."""
    end = SYSTEM_CLOCK.monotonic() + seconds
    while not holds():
        if SYSTEM_CLOCK.monotonic() > end:
            return False
        SYSTEM_CLOCK.sleep(0.01)
    return True


def live(pipe: Connection, url: str, breaker: dict[str, Any]) -> None:
    """A process of the fleet."""
    peer = Peer(url, **breaker)
    eventually(lambda: peer.agent.online)
    held = []
    while True:
        word, *arguments = pipe.recv()
        found: Any = None
        if word == "state":
            found = peer.state
        elif word == "fail":
            peer.fail(*arguments)
        elif word == "hold":
            found = eventually(peer.breaker.is_eligible)
            held.append(peer.breaker.acquire())
        elif word == "isolate":
            peer.breaker.isolate(*arguments)
        elif word == "end":
            peer.close()
        pipe.send(found)
        if word == "end":
            return


class Member:
    """A process that runs `live`."""

    def __init__(self, url: str, **breaker: Any) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=live, args=(theirs, url, breaker), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, *words: Any) -> Any:
        self.pipe.send(words)
        if not self.pipe.poll(PATIENCE_SECONDS):
            raise RuntimeError("a member of the fleet does not answer")
        return self.pipe.recv()
