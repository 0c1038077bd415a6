"""A fleet from outside: reads and steers the shared state in its store, without being a member."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError, ResilienceError, UnknownNameError
from resilience.settings.storage import shown_address
from resilience.storage.redis import RedisStore, client_errors, load_client
from resilience.storage.row import closed_row, isolated_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resilience.storage.row import Row

T = TypeVar("T")

_KINDS: Final = ("provider", "target")


class StorageError(ResilienceError):
    """The store cannot be reached, or does not take the command."""


@dataclass(frozen=True, slots=True)
class SharedBreaker:
    """One breaker as the fleet knows it.

    Attributes:
        name: What people call it.
        kind: ``provider`` or ``target``.
        state: ``closed``, ``open``, ``half-open`` or ``isolated``.
        reason: Why it is not closed.
        since_seconds: How long it has been so.
        next_probe_seconds: In how many seconds its open time ends, None unless it is open.
        probes: Probes in flight in the whole fleet.
        generation: Number of its era in the fleet.
    """

    name: str
    kind: str
    state: str
    reason: str | None
    since_seconds: float
    next_probe_seconds: float | None
    probes: int
    generation: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What the store knows: breakers that have ever left closed, and the processes that live."""

    breakers: tuple[SharedBreaker, ...]
    members: tuple[str, ...]


def read_fleet(address: str) -> FleetStatus:
    """Read the fleet's state.

    Raises:
        StorageError: The store cannot be reached.
        ConfigurationError: The redis client is not installed, or the address is none.
    """
    return _with_store(address, _status)


def steer_fleet(address: str, action: str, name: str, *, kind: str | None = None, reason: str = "") -> SharedBreaker:
    """Isolate or reset one breaker in every process of the fleet.

    Args:
        address: The store's address.
        action: ``isolate`` or ``reset``.
        name: The breaker's. Isolating a provider that the store has never heard of is allowed with ``kind``.
        kind: ``provider`` or ``target``; None: whichever the store knows by that name.
        reason: Why, for the people who read the snapshots and the errors.

    Raises:
        UnknownNameError: The store knows no breaker of that name; lists those that it knows.
        StorageError: The store cannot be reached, or takes no writes.
    """

    async def steer(store: RedisStore) -> SharedBreaker:
        known = [row for row in await _rows(store) if row.name == name and kind in {None, row.role}]
        if len(known) > 1:
            raise UnknownNameError(f"{name!r} is a provider and a target; say which with --kind")
        if known:
            identity, role = known[0].id, known[0].role
        elif kind == "provider":
            identity, role = f"provider:{name}", kind
        else:
            names = ", ".join(sorted(row.name for row in await _rows(store))) or "none"
            raise UnknownNameError(
                f"the fleet knows no breaker {name!r}; known: {names}; one that has never left closed is not known "
                "to the store: for a provider add --kind provider"
            )
        now, nonce = SYSTEM_CLOCK.monotonic(), f"command-line:{secrets.token_hex(4)}"
        make = isolated_row if action == "isolate" else closed_row
        payload = make(identity, name, role, nonce, reason, now)
        reply = await store.move(identity, "force", 0, "", payload)
        if reply.row is None:
            raise StorageError(f"a newer version of this package wrote {name!r}; use that one to {action} it")
        return _shared(reply.row)

    return _with_store(address, steer)


def render(status: FleetStatus) -> str:
    """The status as lines for a terminal."""
    head = ("", "STATE", "SINCE", "PROBE IN", "PROBES", "WHY")
    lines = [head]
    for one in status.breakers:
        due = "" if one.next_probe_seconds is None else f"{one.next_probe_seconds:.1f} s"
        name = f"{one.kind} {one.name}"
        lines.append((name, one.state, f"{one.since_seconds:.0f} s", due, str(one.probes), one.reason or ""))
    # Names and reasons come from outside: nothing in them may steer a terminal.
    clean = [tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in line) for line in lines]
    widths = [max(len(line[column]) for line in clean) for column in range(len(head))]
    table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in clean]
    count = len(status.members)
    said = f"{count} process{'' if count == 1 else 'es'} in the fleet"
    return "\n".join([said, "", *(table if status.breakers else ["Every breaker has been closed all along."])])


def as_json(status: FleetStatus) -> str:
    """The status for programs."""
    breakers = [{field: getattr(one, field) for field in one.__slots__} for one in status.breakers]
    return json.dumps({"members": list(status.members), "breakers": breakers}, indent=2)


async def _status(store: RedisStore) -> FleetStatus:
    rows = sorted(await _rows(store), key=lambda row: (_KINDS.index(row.role) if row.role in _KINDS else 9, row.name))
    return FleetStatus(tuple(map(_shared, rows)), tuple(sorted(await store.members())))


async def _rows(store: RedisStore) -> list[Row]:
    found = await store.rows(await store.changed(0))
    return [row for row in found.values() if row is not None]


def _shared(row: Row) -> SharedBreaker:
    now, state = SYSTEM_CLOCK.monotonic(), row.state
    left = state.until - now
    is_open = state.state.value == "open"
    return SharedBreaker(
        name=row.name,
        kind=row.role,
        state=state.state.value,
        reason=state.reason,
        since_seconds=max(0.0, now - state.since),
        next_probe_seconds=max(0.0, left) if is_open else None,
        probes=row.leases,
        generation=row.generation,
    )


def _with_store(address: str, work: Callable[[RedisStore], Awaitable[T]]) -> T:
    load_client()
    try:
        store = RedisStore(address)
    except ValueError as error:
        raise ConfigurationError(f"--storage: {error}") from None

    async def run() -> T:
        try:
            await store.connect()
            return await work(store)
        except (OSError, client_errors()) as error:
            said = " ".join(str(error).split()) or "no answer"
            raise StorageError(f"{shown_address(address)}: {said}") from None
        finally:
            await store.close()

    return asyncio.run(run())
