"""The demo's story: which providers there are, what breaks when, and breaker times that fit its length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from resilience.testing import Fault

ROUTE: Final = "chat"


@dataclass(frozen=True, slots=True)
class Cast:
    """One provider of the demo.

    Attributes:
        provider: What people see, and the provider's name in the registry.
        target: Its one target's name.
        model: LiteLLM's model string: its first part decides which dialect is spoken.
        latency_seconds: How long its answers take.
        token_seconds: The pause between the pieces of its streams.
    """

    provider: str
    target: str
    model: str
    latency_seconds: float
    token_seconds: float

    @property
    def is_anthropic(self) -> bool:
        """Whether it speaks Anthropic's dialect."""
        return self.model.startswith("anthropic/")

    @property
    def answer(self) -> str:
        """What it says to everybody. Whoever gets less than this has not been answered."""
        return f"This is {self.provider}, with an answer of a dozen words in as many pieces."


PLAYERS: Final = (
    Cast("openai", "gpt-4o-mini", "openai/gpt-4o-mini", 0.08, 0.010),
    Cast("anthropic", "claude-haiku-4-5", "anthropic/claude-haiku-4-5", 0.11, 0.012),
    Cast("mistral", "mistral-small", "openai/mistral-small", 0.15, 0.014),
)


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is wrong with one provider, for the wire and in words."""

    fault: Fault
    word: str


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the story.

    Attributes:
        title: One short sentence.
        starts: Seconds from the start.
        ends: Seconds from the start.
        broken: By provider, what is wrong with it. Who is not named works.
    """

    title: str
    starts: float
    ends: float
    broken: dict[str, Breakage]


@dataclass(frozen=True, slots=True)
class Story:
    """A whole demo of ``seconds``."""

    seconds: float

    @property
    def pace(self) -> float:
        """How fast this one is told: 1 for 40 seconds."""
        return self.seconds / 40.0

    @property
    def patience_seconds(self) -> float:
        """How long an attempt may take. A busy machine needs some tenths for a right answer."""
        return max(1.5, 2.0 * self.pace)

    @property
    def retry_after_seconds(self) -> float:
        """What the rate-limited provider asks for: a part of the time it stays limited."""
        return round(max(0.3, 2.0 * self.pace), 1)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What happens when."""
        down = Breakage(Fault.refuse(), "refuses connections")
        hang = Breakage(Fault.hang(), "never answers")
        wait = f"{self.retry_after_seconds:g}"
        limit = Breakage(
            Fault.http(
                429, code="rate_limit_exceeded", type="requests", message="slow down", headers={"retry-after": wait}
            ),
            f"429, retry after {wait} s",
        )
        cut = Breakage(Fault.cut(4), "cuts answers off")
        first, second, calm = PLAYERS[0].provider, PLAYERS[1].provider, "all three work"
        plot: tuple[tuple[float, str, dict[str, Breakage]], ...] = (
            (0.08, calm, {}),
            (0.12, f"{first} down", {first: down}),
            (0.14, f"{first} down, {second} hangs", {first: down, second: hang}),
            (0.12, f"{first} down, {second} back", {first: down}),
            (0.11, calm, {}),
            (0.12, f"{first} rate-limited", {first: limit}),
            (0.09, calm, {}),
            (0.12, f"{first} cuts streams", {first: cut}),
            (0.10, calm, {}),
        )
        phases, at = [], 0.0
        for share, title, broken in plot:
            ends = at + share * self.seconds
            phases.append(Phase(title, at, ends, broken))
            at = ends
        return tuple(phases)

    def settings(self, addresses: dict[str, str]) -> dict[str, Any]:
        """The settings of the runtime, as anybody would write them.

        Args:
            addresses: By provider, the ``api_base``.
        """
        pace, patience = self.pace, self.patience_seconds
        return {
            "routes": {
                ROUTE: {
                    "targets": [
                        {
                            "model": cast.model,
                            "name": cast.target,
                            "provider": cast.provider,
                            "api_base": addresses[cast.provider],
                            "api_key": "no-key-needed",
                        }
                        for cast in PLAYERS
                    ],
                    "timeouts": {
                        "attempt_seconds": patience,
                        "first_token_seconds": patience,
                        "stall_seconds": patience,
                        "deadline_seconds": 8.0,
                    },
                    "max_wait_seconds": 5.0,
                }
            },
            "warm": False,  # the demo waits for it before its clock starts
            # The real defaults are ten times as long: nobody watches a demo for an hour.
            "breaker": {"open_seconds": 1.0 * pace, "open_max_seconds": max(0.3, 2.0 * pace)},
        }
