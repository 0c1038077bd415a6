"""Rows: one breaker's shared state as it stands in the store, and what of it can be believed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from resilience.breaker.shared import SharedState
from resilience.breaker.states import CircuitState

if TYPE_CHECKING:
    from resilience.storage.server_clock import ServerClock

VERSION: Final = 1
_STATES: Final = frozenset(CircuitState)


@dataclass(frozen=True, slots=True)
class Row:
    """One breaker in the store.

    Attributes:
        id: Role and name, the same in every process.
        generation: Number of its present era in the fleet.
        nonce: Who wrote this era.
        state: The state in this process's time.
        name: What people call it.
        role: ``provider`` or ``target``.
        leases: Probes in flight in the whole fleet, as far as the store knows.
    """

    id: str
    generation: int
    nonce: str
    state: SharedState
    name: str = ""
    role: str = ""
    leases: int = 0


def read_json(raw: bytes | str | None) -> dict[str, Any] | None:
    """A JSON object, None for anything else."""
    try:
        found = json.loads(raw) if raw else None
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_newer(found: dict[str, Any]) -> bool:
    """Whether a newer version of this package wrote it: not for us to judge."""
    version = found.get("v")
    return isinstance(version, int) and version > VERSION


def why_no_row(raw: bytes | str) -> str:
    """Why what stands in the store cannot be read as a row, for people."""
    found = read_json(raw)
    if found is not None and is_newer(found):
        return f"a newer version of this package wrote it (format {found['v']}, known here: {VERSION})"
    return "what stands there is garbage"


def read_row(raw: bytes | str | None, clock: ServerClock) -> Row | None:
    """A row as it stands in the store; None where it is garbage or a newer version's."""
    found = read_json(raw)
    if found is None or is_newer(found) or str(found.get("state")) not in _STATES:
        return None
    try:
        return Row(
            id=str(found["id"]),
            generation=int(found["gen"]),
            nonce=str(found.get("nonce", "")),
            state=_state(found, clock),
            name=str(found.get("name", "")),
            role=str(found.get("role", "")),
            leases=len(found.get("leases") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _state(found: dict[str, Any], clock: ServerClock) -> SharedState:
    return SharedState(
        state=CircuitState(found["state"]),
        since=clock.local(float(found.get("since_ms", 0))),
        reason=_text(found.get("reason")),
        kind=_text(found.get("kind")),
        until=clock.local(float(found.get("until_ms", 0))),
        first_since=clock.local(float(found.get("first_since_ms", 0))),
        failures=int(found.get("failures", 0)),
        calls=int(found.get("calls", 0)),
        rounds=int(found.get("rounds", 0)),
        account_rounds=int(found.get("account_rounds", 0)),
        remembers_until=clock.local(float(found.get("remembers_ms", 0))),
        successes=int(found.get("successes", 0)),
        earned=int(found.get("earned", 0)),
        doubters={str(source): clock.local(float(end)) for source, end in (found.get("doubters") or {}).items()},
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def write_state(identity: str, name: str, role: str, nonce: str, state: SharedState, now: float) -> str:
    """A row on its way to the store: times relative to now, which the script makes the server's."""

    def ahead(at: float) -> int:
        return round((at - now) * 1000)

    return json.dumps(
        {
            "v": VERSION,
            "id": identity,
            "name": name,
            "role": role,
            "nonce": nonce,
            "state": state.state.value,
            "reason": state.reason,
            "kind": state.kind,
            "since_in": ahead(state.since),
            "until_in": ahead(state.until) if state.until else 0,
            "first_since_in": ahead(state.first_since or state.since),
            "remembers_in": ahead(state.remembers_until) if state.remembers_until else 0,
            "failures": state.failures,
            "calls": state.calls,
            "rounds": state.rounds,
            "account_rounds": state.account_rounds,
            "successes": state.successes,
            "earned": state.earned,
            "doubters": {source: ahead(end) for source, end in state.doubters.items()},
        }
    )


def isolated_row(identity: str, name: str, role: str, nonce: str, reason: str, now: float) -> str:
    """The row of a breaker that a person isolates from outside."""
    return write_state(identity, name, role, nonce, SharedState(CircuitState.ISOLATED, now, reason), now)


def closed_row(identity: str, name: str, role: str, nonce: str, reason: str, now: float) -> str:
    """The row of a breaker that a person resets from outside."""
    return write_state(identity, name, role, nonce, SharedState(CircuitState.CLOSED, now, reason or "reset"), now)
