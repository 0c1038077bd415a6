"""The states of a circuit as a tagged union, each with its own data, and the table of allowed transitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pybreaker import CircuitOpenState

from resilience.breaker.trip import BY_RATE, NOT_OUTAGE, Reason

if TYPE_CHECKING:
    from resilience.outcome import Kind


class CircuitState(StrEnum):
    """The names of the states, in pybreaker's words."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    ISOLATED = "isolated"


# From each state, where a transition may lead. An isolated circuit is left by a person's reset only.
TRANSITIONS: Final = {
    CircuitState.CLOSED: frozenset(
        {CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.ISOLATED}
    ),
    CircuitState.OPEN: frozenset(
        {CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED, CircuitState.ISOLATED}
    ),
    CircuitState.HALF_OPEN: frozenset(
        {CircuitState.OPEN, CircuitState.CLOSED, CircuitState.HALF_OPEN, CircuitState.ISOLATED}
    ),
    CircuitState.ISOLATED: frozenset({CircuitState.CLOSED, CircuitState.ISOLATED}),
}

_WORDS: Final = {
    Reason.CONSECUTIVE_FAILURES: "{failures} failures in a row",
    Reason.FAILURE_RATE: "{failures} of {calls} calls failed",
    Reason.SLOW_CALL_RATE: "{failures} of {calls} calls were slow",
    Reason.ACCOUNT: "an account error",
    Reason.RATE_LIMITED: "a rate limit",
    Reason.FORCED: "it was opened from outside",
}


@dataclass(slots=True)
class Closed:
    """Calls pass.

    Attributes:
        since: Monotonic time of entry.
        rounds: Failed probe rounds of the last opening, still remembered.
        account_rounds: The same for account errors.
        remembers_until: When they are forgotten: after staying closed as long as it was last open.
    """

    since: float
    rounds: int = 0
    account_rounds: int = 0
    remembers_until: float = 0.0

    name = CircuitState.CLOSED


@dataclass(slots=True)
class Open:
    """Nothing passes before ``until``.

    Attributes:
        label: The breaker's name, for the sentence.
        since: Monotonic time of this opening.
        until: Monotonic end; only ever moved to later.
        first_since: When the circuit left closed.
        reason: The rule that opened it.
        kind: The failure kind that did.
        failures: Failures, or slow calls, that the rule saw.
        calls: Calls that it saw.
        rounds: Failed probe rounds so far, of an outage.
        account_rounds: Failed probe rounds so far, of an account error. Each kind escalates by itself: a wrong
            key after a long outage is a first wrong key.
        eager: Ticket of the eager probe in flight, in half-open of one that goes past a doubt.
        eager_at: When the last eager probe was sent, or a doubt began.
    """

    label: str
    since: float
    until: float
    first_since: float
    reason: Reason
    kind: Kind | None = None
    failures: int = 0
    calls: int = 0
    rounds: int = 0
    account_rounds: int = 0
    eager: int | None = None
    eager_at: float | None = None

    name = CircuitState.OPEN

    @property
    def by_rate(self) -> bool:
        """Whether most calls still work."""
        return self.reason in BY_RATE

    @property
    def is_outage(self) -> bool:
        """Whether the breaker suspects a fault, as opposed to an account or a rate limit."""
        return self.reason not in NOT_OUTAGE

    def __call__(self, seconds_left: float | None) -> str:
        """Say why and until when. Called as late as an error is read: most rejections never are."""
        cause = _WORDS[self.reason].format(failures=self.failures, calls=self.calls)
        kind = f" ({self.kind})" if self.kind is not None else ""
        vain = self.account_rounds if self.reason is Reason.ACCOUNT else self.rounds
        again = f", probed {vain} times in vain" if vain > 1 else ""
        due = f"next probe in {seconds_left:.1f} s" if seconds_left and seconds_left > 0 else "a probe is due"
        return f"{self.label} is open after {cause}{kind}{again}; {due}"


@dataclass(slots=True)
class HalfOpen:
    """Probes pass, a few at first.

    Attributes:
        since: Monotonic time of entry.
        opened: The opening that it follows.
        successes: Probes that worked to the end.
        earned: Places earned in the ramp; a stream earns its place with the first content.
        probes: Tickets of the probes in flight and the time their lease ends. Not the permits themselves, so
            that a dropped permit is noticed.
        doubters: Sources whose probe failed in this round and who must not probe before this time. One of several
            targets that fails is no evidence against them all: a sibling's probe decides.
    """

    since: float
    opened: Open
    successes: int = 0
    earned: int = 0
    probes: dict[int, float] = field(default_factory=dict)
    doubters: dict[str, float] = field(default_factory=dict)

    name = CircuitState.HALF_OPEN

    def doubted_until(self, source: str | None) -> float:
        """The time before which ``source`` must not probe again."""
        return self.doubters.get(source, 0.0) if source is not None else 0.0


@dataclass(slots=True)
class Isolated:
    """A person opened it."""

    since: float
    reason: str

    name = CircuitState.ISOLATED


State = Closed | Open | HalfOpen | Isolated


def opening(state: State) -> Open | None:
    """The opening that a circuit is in, or that its probes follow."""
    if isinstance(state, HalfOpen):
        return state.opened
    return state if isinstance(state, Open) else None


class CircuitIsolatedState(CircuitOpenState):
    """What pybreaker's listeners see of an isolated circuit: open, by another name."""

    @property
    def name(self) -> str:
        """The state's name."""
        return CircuitState.ISOLATED.value
