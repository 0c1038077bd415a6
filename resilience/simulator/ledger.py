"""The ledger: what happened in one simulation, written down as it happens. It judges nothing."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOSED: Final = "closed"
HALF_OPEN: Final = "half-open"
OVERDUE: Final = "overdue"
OPEN: Final = "open"


class Ledger:
    """Counts, times and transitions.

    Args:
        targets: Their names.
        processes: How many there are.
        bucket_seconds: How finely traffic is kept, for the picture.

    Attributes:
        requests: That have arrived.
        answered: That got a right answer.
        refused: Wrong requests that were told so: the right answer to them.
        wrong: Wrong requests.
        struck: Requests that arrived while an incident lasted.
        struck_answered: Those of them that got a right answer.
        quiet: Requests before the first incident of a watched span.
        quiet_answered: Those of them that got a right answer.
        attempts: Requests on the wire.
        probes: Attempts that a breaker waited for.
        cost_usd: Of all answers.
        latencies: Seconds until the answer, or to a stream's first content, of those that were answered.
        added: Seconds beyond what the target that answered takes on a good day.
        errors: How many callers got which error.
        changes: For each process and target: when it went into which state.
        traffic: For each target: attempts that worked and that did not, by bucket.
    """

    def __init__(self, targets: Sequence[str], processes: int, bucket_seconds: float) -> None:
        self.bucket_seconds = bucket_seconds
        self.requests = self.answered = self.refused = self.wrong = 0
        self.struck = self.struck_answered = 0
        self.quiet = self.quiet_answered = 0
        self.attempts = self.probes = 0
        self.cost_usd = 0.0
        self.latencies = array("d")
        self.added = array("d")
        self.errors: dict[str, int] = {}
        self.changes: list[dict[str, list[tuple[float, str]]]] = [
            {name: [] for name in targets} for _ in range(processes)
        ]
        self.traffic: dict[str, dict[int, list[int]]] = {name: {} for name in targets}

    def attempted(self, target: str, now: float, *, worked: bool) -> None:
        """An attempt has ended."""
        buckets = self.traffic[target]
        bucket = int(now // self.bucket_seconds)
        counts = buckets.get(bucket)
        if counts is None:
            counts = buckets[bucket] = [0, 0]
        counts[not worked] += 1

    def mark(self, process: int, target: str, now: float, state: str) -> None:
        """A target went into a state, as a process sees it."""
        changes = self.changes[process][target]
        if (changes[-1][1] if changes else CLOSED) != state:
            changes.append((now, state))

    def state_at(self, process: int, target: str, when: float) -> str:
        """The state of a target at a time."""
        state = CLOSED
        for at, entered in self.changes[process][target]:
            if at > when:
                break
            state = entered
        return state


class Standing:
    """A process's view of its targets: the worst of a target's own state, its provider's, and whether it is overdue.

    Args:
        ledger: Where changes are written down.
        process: Whose view.
        providers: The provider of each target.
    """

    def __init__(self, ledger: Ledger, process: int, providers: dict[str, str]) -> None:
        self._ledger = ledger
        self._process = process
        self._providers = providers
        self._targets = dict.fromkeys(providers, CLOSED)
        self._whole = dict.fromkeys(providers.values(), CLOSED)
        self._overdue: set[str] = set()

    def circuit(self, breaker: str, provider: str | None, state: str, now: float) -> None:
        """A circuit went into a state: a provider's own where both names are the same."""
        if breaker == provider and breaker in self._whole:
            self._whole[breaker] = state
        if breaker in self._targets:
            self._targets[breaker] = state
        self._tell(now)

    def overdue(self, target: str, now: float, *, is_so: bool) -> None:
        """A target became overdue, or is on time again."""
        (self._overdue.add if is_so else self._overdue.discard)(target)
        self._tell(now)

    def _tell(self, now: float) -> None:
        for target, provider in self._providers.items():
            states = {self._targets[target], self._whole[provider]}
            state = next((one for one in (OPEN, HALF_OPEN) if one in states), CLOSED)
            if target in self._overdue and state == CLOSED:
                state = OVERDUE
            self._ledger.mark(self._process, target, now, state)
