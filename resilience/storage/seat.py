"""Seats: a breaker's place in the fleet. Reads memory and leaves notes for the agent; never waits for anything."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from resilience.breaker.shared import adopt_locked, describe_locked, merge_locked
from resilience.breaker.states import CircuitState, Closed, HalfOpen, Open
from resilience.storage.counting import Counting

if TYPE_CHECKING:
    from resilience.breaker.circuit import CircuitBreaker
    from resilience.breaker.permit import ProbePermit
    from resilience.breaker.rules import PolicyRules
    from resilience.breaker.shared import SharedState
    from resilience.storage.row import Row

ASK_SECONDS: Final = 0.02
"""When to look again for a lease that has been asked for."""
RETRY_SECONDS: Final = 1.0
"""A lease that somebody else has is asked for again after this, or sooner when the fleet tells that it is free."""
HOLD_SECONDS: Final = 5.0
"""How long a lease waits here unused where nobody knows how often this process would use one."""
EAGER_HOLD_SECONDS: Final = 1.0
MOST_NOTES: Final = 256


class Office(Protocol):
    """What a seat needs of its agent."""

    @property
    def online(self) -> bool:
        """Whether the store answers."""

    def wake(self) -> None:
        """There are notes to deliver."""


class Lease(NamedTuple):
    """A right to one probe: its number, until when it waits here unused, until when it is ours, and of which kind."""

    ticket: str
    held_until: float
    ends: float
    eager: bool = False


class Pending(NamedTuple):
    """A transition on its way to the store."""

    nonce: str
    era: object
    state: SharedState
    mode: str
    generation: int
    expected: str


class Seat:
    """One breaker's place in the fleet. The breaker's lock guards it.

    Args:
        office: The agent, or the share in one.
        breaker: The breaker.
        identity: Its name in the whole fleet.

    Attributes:
        generation: The fleet's number of the era that this process knows.
        alone: A newer version wrote this breaker's row: this process keeps out of it.
        asking: The kinds of lease that the agent shall ask for.
        leases: Leases that wait for a probe.
        notes: What became of leases, for the store.
    """

    __slots__ = (
        "__weakref__",
        "_adopting",
        "_ask_again_at",
        "_by_hand",
        "_counting",
        "_dirty",
        "_earned",
        "_known_era",
        "_known_state",
        "_out",
        "_pending",
        "_wanted_at",
        "_wanted_every",
        "alone",
        "asking",
        "breaker",
        "eager",
        "generation",
        "identity",
        "leases",
        "notes",
        "office",
        "recheck_at",
    )

    def __init__(self, office: Office, breaker: CircuitBreaker, identity: str) -> None:
        self.office = office
        self.breaker = breaker
        self.identity = identity
        self.generation, self.alone = 0, False
        self._known_era: object = breaker.window
        self._known_state = CircuitState.CLOSED
        self._dirty = self._by_hand = self._adopting = False
        self._pending: Pending | None = None
        self._counting = Counting(breaker.window)
        self.recheck_at = inf
        self._wanted_at, self._wanted_every = -inf, 0.0
        self._ask_again_at = {"probe": -inf, "eager": -inf}
        self._forget_leases()

    def _forget_leases(self) -> None:
        self.asking: set[str] = set()
        self.leases: list[Lease] = []
        self.eager: Lease | None = None
        self.notes: list[list[Any]] = []
        # Leases with the probe that uses them, by the permit's ticket.
        self._out: dict[int, Lease] = {}
        self._earned: set[int] = set()

    @property
    def rules(self) -> PolicyRules:
        """The breaker's rules."""
        return cast("PolicyRules", self.breaker.rules)

    @property
    def is_dirty(self) -> bool:
        """Whether the breaker has moved and the store does not know."""
        return self._dirty and not self.alone

    @property
    def is_ready_locked(self) -> bool:
        """Whether an attempt would pass this breaker now, as far as leases go."""
        return isinstance(self.rules.state, Closed) or bool(self.leases) or self.eager is not None

    # -- called by the breaker ------------------------------------------------------------------------------

    def moved_locked(self, *, by_hand: bool = False) -> None:
        """The circuit has entered another state, or moved its end."""
        if self._adopting:
            return
        self._dirty = True
        self._by_hand = self._by_hand or by_hand
        if self.breaker.window is not self._known_era:
            self._forget_leases()
        self.office.wake()

    def failed_locked(self) -> None:
        """A call failed and the circuit stayed closed: the fleet's sum may say otherwise."""
        self.recheck_at = min(self.recheck_at, 0.0)
        self.office.wake()

    def wait_locked(self, now: float, until: float) -> None:  # noqa: ARG002 (the agent reads the end when it is due)
        """Somebody asked while the open time runs: this process will want to probe at its end."""
        self._wants(now)

    def probe_chance_locked(self, now: float) -> float | None:
        """Monotonic time from which a probe may go; None: this process is on its own."""
        if self.alone or not self.office.online:
            return None
        self._wants(now)
        while self.leases and self.leases[0].ends <= now:
            del self.leases[0]
        return now if self.leases else self._ask(now, "probe")

    def eager_chance_locked(self, now: float) -> float | None:
        """The same for the once-a-second probe past an open time or a doubt."""
        if self.alone or not self.office.online:
            return None
        if self.eager is not None and self.eager.held_until > now:
            return now
        return self._ask(now, "eager")

    def take_probe_locked(self, permit: ProbePermit, now: float) -> None:
        """A probe goes out: it uses a lease."""
        if permit.eager:
            lease, self.eager = self.eager, None
        else:
            lease = self.leases.pop(0) if self.leases else None
        if lease is None:
            return
        self._out[permit.ticket] = lease
        seconds = self.rules.policy.probe_lease_seconds
        if not permit.eager and lease.ends - now < seconds - 1.0:
            self._note(lease.ticket, "renewed")

    def probed_locked(self, ticket: int, *, worked: bool, doubted: str | None = None) -> None:
        """A probe has ended."""
        lease = self._out.pop(ticket, None)
        if lease is None:
            return  # of an era that is over, or sent while alone
        now = self.breaker.monotonic()
        if lease.eager:
            self._note(lease.ticket, "eager", doubted or "")
        elif worked:
            self._note(lease.ticket, "worked", "earned" if ticket in self._earned else "")
        elif doubted is not None:
            self._note(lease.ticket, "doubted", doubted, round(self.rules.policy.open_seconds * 1000))
        elif lease.ends > now and ticket not in self._earned:
            self.leases.append(lease._replace(held_until=self._hold_until(now)))
        else:
            self._note(lease.ticket, "free")
        self._earned.discard(ticket)

    def earned_locked(self, ticket: int) -> None:
        """A streaming probe has earned its place."""
        if ticket in self._out:
            self._earned.add(ticket)
            self._note(self._out[ticket].ticket, "earned")

    def renewed_locked(self, ticket: int) -> None:
        """A streaming probe shows life."""
        if ticket in self._out and not any(note[0] == self._out[ticket].ticket for note in self.notes):
            self._note(self._out[ticket].ticket, "renewed")

    # -- called by the agent --------------------------------------------------------------------------------

    def news_locked(self, row: Row, now: float, *, whole: bool = False) -> None:
        """Take in what the store says.

        Args:
            row: The breaker's row.
            now: Monotonic time.
            whole: Whether it was read just now, as opposed to a message that may be late.
        """
        pending = self._pending
        if pending is not None and pending.nonce == row.nonce:
            self._accepted_locked(pending, row)
        elif row.generation > self.generation:
            if not self._by_hand:
                self._adopt_locked(row, now)
        elif row.generation == self.generation:
            if self.breaker.window is self._known_era:
                self._merge_locked(row, now)
            elif whole:
                self._dirty = True
        elif whole:
            self.forgotten_locked()
        self._ask_again_at["probe"] = -inf
        if isinstance(self.rules.state, HalfOpen) and now - self._wanted_at < RETRY_SECONDS and not self.leases:
            self.asking.add("probe")
            self.office.wake()

    def forgotten_locked(self) -> None:
        """The store does not know what this process knows: tell it."""
        if not isinstance(self.rules.state, Closed):
            self._dirty = True
            self._known_era = None

    def push_locked(self, nonce: str) -> Pending | None:
        """The breaker's own state, to be told; None if there is nothing to tell."""
        if not self._dirty or self.alone:
            return None
        state, era = describe_locked(self.rules), self.breaker.window
        same = era is self._known_era
        self._dirty = False
        if same and state.state is not CircuitState.OPEN and not self._by_hand:
            return None
        mode = "force" if self._by_hand else "extend" if same else "move"
        self._pending = Pending(nonce, era, state, mode, self.generation, self._known_state.value)
        return self._pending

    def pushed_locked(self, pending: Pending, word: str, row: Row | None, now: float) -> None:
        """The store has answered."""
        if word == "newer":
            self.alone = True
        elif word == "done" and row is not None:
            self._accepted_locked(pending, row)
        elif row is not None and row.generation > self.generation:
            self._adopt_locked(row, now)
        if self._pending is pending:
            self._pending = None

    def failed_push_locked(self, pending: Pending) -> None:
        """The store did not answer: try again later."""
        self._dirty = True
        if self._pending is pending:
            self._pending = None

    def granted_locked(self, kind: str, ticket: str, row: Row, ends: float, now: float) -> None:
        """The store gave a lease."""
        if row.generation > self.generation and not self._by_hand and not self._dirty:
            self._adopt_locked(row, now)
        if row.generation != self.generation or self.breaker.window is not self._known_era:
            return  # it moved meanwhile; the lease belongs to an era that is over
        if kind == "eager":
            self.eager = Lease(ticket, now + EAGER_HOLD_SECONDS, ends, eager=True)
        elif isinstance(self.rules.state, HalfOpen):
            self.leases.append(Lease(ticket, self._hold_until(now), ends))

    def refused(self, kind: str, now: float, again_at: float) -> None:
        """The store gave none."""
        self._ask_again_at[kind] = min(max(again_at, now + ASK_SECONDS), now + RETRY_SECONDS)

    def give_back_locked(self, now: float) -> None:
        """Give back leases that waited here for nothing."""
        for lease in [lease for lease in self.leases if lease.held_until <= now]:
            self.leases.remove(lease)
            self._note(lease.ticket, "free")
        if self.eager is not None and self.eager.held_until <= now:
            self._note(self.eager.ticket, "eager")
            self.eager = None

    def due_locked(self, now: float) -> float:
        """Monotonic time at which the agent has to look at this seat again."""
        state = self.rules.state
        due = min((lease.held_until for lease in self.leases), default=inf)
        due = min(due, self.recheck_at) if self.recheck_at > now else due
        if self.eager is not None:
            due = min(due, self.eager.held_until)
        wanted = self._wanted_at > now - HOLD_SECONDS and not self.leases
        if wanted and isinstance(state, Open) and self._ask_again_at["probe"] <= state.until:
            if now >= state.until:
                self.asking.add("probe")  # so that the first request after the open time finds a lease
            due = min(due, max(state.until, now))
        return due

    def batch_locked(self, now: float, *, whole: bool = False) -> dict[str, Any] | None:
        """What the window has counted since the last time, None where there is nothing to tell."""
        batch = self._counting.take_locked(self.rules, now, again=whole or now >= self.recheck_at)
        if batch is not None:
            self.recheck_at = inf
            batch["gen"] = self.generation
        return batch

    def notes_taken(self) -> str:
        """The notes, as the store takes them; afterwards there are none."""
        notes, self.notes = self.notes, []
        return json.dumps(notes)

    def on_its_own_locked(self) -> None:
        """The store is gone: what it gave is worth nothing now."""
        self._forget_leases()
        self._pending, self._ask_again_at = None, {"probe": -inf, "eager": -inf}

    # -- the parts ------------------------------------------------------------------------------------------

    def _adopt_locked(self, row: Row, now: float) -> None:
        local, state = self.rules.state, row.state
        unknown = self.breaker.window is not self._known_era
        together = isinstance(local, Open) and state.state is CircuitState.OPEN and unknown
        self._adopting = True
        try:
            if together:  # both tripped at once: one opening, the later end
                merge_locked(self.rules, state, now)
            else:
                adopt_locked(self.rules, state, now)
        finally:
            self._adopting = False
        self.generation, self._known_era, self._known_state = row.generation, self.breaker.window, state.state
        self._dirty = self._by_hand = False
        self._forget_leases()

    def _merge_locked(self, row: Row, now: float) -> None:
        # A later end is the fleet's already; a circuit that closes on the sum of its probes is a move of our own.
        self._adopting = isinstance(self.rules.state, Open)
        try:
            merge_locked(self.rules, row.state, now)
        finally:
            self._adopting = False

    def _accepted_locked(self, pending: Pending, row: Row) -> None:
        self.generation = max(self.generation, row.generation)
        if pending.mode == "extend":
            return
        self._known_era, self._known_state = pending.era, pending.state.state
        if self.breaker.window is pending.era:
            self._by_hand = False
        self._pending = None

    def _wants(self, now: float) -> None:
        since = now - self._wanted_at
        if since > ASK_SECONDS:
            self._wanted_every = since
        self._wanted_at = now

    def _hold_until(self, now: float) -> float:
        # Who asks every 10 s needs a lease that waits for the next time; who never asks again must not keep it.
        seconds = 2 * self._wanted_every if self._wanted_every < inf else HOLD_SECONDS
        return now + min(max(seconds, 1.0), self.rules.policy.probe_lease_seconds)

    def _ask(self, now: float, kind: str) -> float:
        again = self._ask_again_at[kind]
        if now < again:
            return again
        if kind not in self.asking:
            self.asking.add(kind)
            self.office.wake()
        return now + ASK_SECONDS

    def _note(self, ticket: str, what: str, source: str = "", milliseconds: int = 0) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes.append([ticket, what, source, milliseconds])
        self.office.wake()
