"""A fleet from outside: reads and steers the shared state in its store, without being a member."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError, ResilienceError, UnknownNameError
from resilience.ops.status import harmless
from resilience.settings.storage import shown_address
from resilience.storage.names import Name
from resilience.storage.redis import RedisStore, UnusableKeyError, client_errors, load_client
from resilience.storage.row import closed_row, isolated_row, read_row, why_no_row

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
        since_seconds: How long it has been so, None where it has been closed all along.
        next_probe_seconds: In how many seconds its open time ends, None unless it is open.
        probes: Probes in flight in the whole fleet.
        generation: Number of its era in the fleet; 0 where it has been closed all along.
    """

    name: str
    kind: str
    state: str
    reason: str | None
    since_seconds: float | None
    next_probe_seconds: float | None
    probes: int
    generation: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A breaker whose state stands in the store in a form that is not known here.

    Attributes:
        name: What people call it, as far as that is known.
        kind: ``provider`` or ``target``, as far as that is known.
        why: What is wrong with its row.
    """

    name: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What the store knows.

    Attributes:
        breakers: Those that have moved, and those of which a process says that it has them.
        members: The processes that live.
        unreadable: Breakers of which nobody here can say where they stand.
    """

    breakers: tuple[SharedBreaker, ...]
    members: tuple[str, ...]
    unreadable: tuple[Unreadable, ...] = ()


def read_fleet(address: str) -> FleetStatus:
    """Read the fleet's state.

    Raises:
        StorageError: The store cannot be reached.
        ConfigurationError: The redis client is not installed, or the address is none.
    """
    return _with_store(address, _status)


def steer_fleet(
    address: str,
    action: str,
    name: str,
    *,
    kind: str | None = None,
    reason: str = "",
    warn: Callable[[str], None] | None = None,
) -> SharedBreaker:
    """Isolate or reset one breaker in every process of the fleet.

    Args:
        address: The store's address.
        action: ``isolate`` or ``reset``.
        name: The breaker's. A provider of which the store has never heard may come later: allowed with ``kind``.
        kind: ``provider`` or ``target``; None: whichever the fleet knows by that name.
        reason: Why, for the people who read the snapshots and the errors.
        warn: Told where no process of the fleet has such a breaker: it may be a slip of the pen.

    Raises:
        UnknownNameError: The fleet knows no breaker of that name; lists those that it knows.
        StorageError: The store cannot be reached, or takes no writes.
    """

    async def steer(store: RedisStore) -> SharedBreaker:
        there = await store.names()
        moved = await _moved(store)
        meant = {one.id: one for one in (*moved, *there) if one.name == name and kind in {None, one.role}}
        if len(meant) > 1:
            kinds = {one.role for one in meant.values()}
            which = "say which with --kind" if len(kinds) > 1 else "steer it in its own processes, with --url"
            raise UnknownNameError(f"{name!r} means {len(meant)} breakers of the fleet; {which}")
        known = ", ".join(sorted({one.name for one in (*moved, *there)})) or "none"
        one = next(iter(meant.values()), None)
        if one is None and kind != "provider":
            later = "" if kind == "target" else "; for a provider that comes later add --kind provider"
            raise UnknownNameError(f"the fleet knows no {kind or 'breaker'} {name!r}; known: {known}{later}")
        one = one or Name(f"provider:{name}", name, "provider")
        if warn is not None and one.id not in {other.id for other in there}:
            present = ", ".join(sorted({other.name for other in there if other.role == one.role})) or "none"
            warn(f"no process of the fleet has a {one.role} {name!r}; known: {present}")
        now, nonce = SYSTEM_CLOCK.monotonic(), f"command-line:{secrets.token_hex(4)}"
        make = isolated_row if action == "isolate" else closed_row
        reply = await store.move(one.id, "force", 0, "", make(one.id, name, one.role, nonce, reason, now))
        if reply.row is None:
            raise StorageError(f"a newer version of this package wrote {name!r}; use that one to {action} it")
        return _shared(reply.row)

    return _with_store(address, steer)


def render(status: FleetStatus) -> str:
    """The status as lines for a terminal."""
    head = ("", "STATE", "SINCE", "PROBE IN", "PROBES", "WHY")
    lines = []
    for one in status.breakers:
        due = "" if one.next_probe_seconds is None else f"{one.next_probe_seconds:.1f} s"
        since = "" if one.since_seconds is None else f"{one.since_seconds:.0f} s"
        lines.append((f"{one.kind} {one.name}", one.state, since, due, str(one.probes), one.reason or ""))
    # Names and reasons come from outside: nothing in them may steer a terminal.
    clean = [head, *(tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in line) for line in lines)]
    widths = [max(len(line[column]) for line in clean) for column in range(len(head))]
    table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in clean]
    count = len(status.members)
    said = [f"{count} process{'' if count == 1 else 'es'} in the fleet"]
    said += [harmless(f"{one.kind} {one.name} cannot be read: {one.why}") for one in status.unreadable]
    if not lines and not status.unreadable:
        table = ["Nothing is known of any breaker: none has moved, and no process has said which it has."]
    return "\n".join([*said, "", *table] if lines or not status.unreadable else said)


def as_json(status: FleetStatus) -> str:
    """The status for programs."""
    return json.dumps(asdict(status), indent=2)


async def _status(store: RedisStore) -> FleetStatus:
    names = {one.id: one for one in await store.names()}
    raw = await store.raw_rows(sorted({*await store.changed(0), *names}))
    rows = {identity: read_row(found, store.clock) for identity, found in raw.items()}
    breakers, unreadable = [], []
    for identity, row in rows.items():
        named, found = names.get(identity), raw[identity]
        if row is not None:
            breakers.append(_shared(row))
        elif found is not None or (what := await store.type_of(identity)) not in {"none", "string"}:
            why = why_no_row(found) if found is not None else f"what stands there is garbage (a {what})"
            who = named or _by_id(identity)
            unreadable.append(Unreadable(who.name, who.role, why))
        elif named is not None:
            breakers.append(SharedBreaker(named.name, named.role, "closed", None, None, None, 0, 0))
    breakers.sort(key=_order)
    return FleetStatus(tuple(breakers), tuple(sorted(await store.members())), tuple(sorted(unreadable, key=_order)))


def _order(one: SharedBreaker | Unreadable) -> tuple[int, str]:
    return _KINDS.index(one.kind) if one.kind in _KINDS else len(_KINDS), one.name


async def _moved(store: RedisStore) -> list[Name]:
    """Breakers that have a row; of one that cannot be read the id tells the rest."""
    names = []
    for identity, raw in (await store.raw_rows(await store.changed(0))).items():
        row = read_row(raw, store.clock)
        if row is not None:
            names.append(Name(row.id, row.name, row.role))
        elif raw is not None:
            names.append(_by_id(identity))
    return names


def _by_id(identity: str) -> Name:
    role, _, name = identity.partition(":")
    return Name(identity, name, role)


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
        except (OSError, UnusableKeyError, client_errors()) as error:
            said = " ".join(str(error).split()) or "no answer"
            raise StorageError(f"{shown_address(address)}: {said}") from None
        finally:
            await store.close()

    return asyncio.run(run())
