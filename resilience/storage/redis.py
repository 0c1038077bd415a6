"""The store: every command that a fleet sends to Redis or Valkey, through the redis-py client and four scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError, ResilienceError
from resilience.settings.storage import split_address
from resilience.storage.cluster import moved_to, nodes
from resilience.storage.names import Name, read_name, write_name
from resilience.storage.row import Row, read_row
from resilience.storage.server_clock import ServerClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resilience.storage.cluster import Place

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 1.0
"""A store that takes longer for one command is as good as away."""
EAGER_PAUSE_SECONDS: Final = 1.0
MEMBER_SECONDS: Final = 15.0
"""A process that has not shown itself for so long is not counted any more."""
NAMED_SECONDS: Final = 900.0
"""A breaker of which nobody has said for so long that he has it is not listed any more."""
_NO_REVISION: Final = 1 << 52
"""Later than any."""


class UnusableKeyError(ResilienceError):
    """Under a key of ours stands what is none of ours. It is not ours to delete either; its name tells a person."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a script answered: its word, the row as it now stands, and a time where it gives one."""

    word: str
    row: Row | None
    at: float = 0.0


class Store(Protocol):
    """What the agent asks of a store. `RedisStore` is the real one; the simulator has another."""

    clock: ServerClock

    async def connect(self) -> None:
        """Connect, and read the server's clock."""

    async def close(self) -> None:
        """Hang up."""

    async def time(self) -> float:
        """Ask the server for its time. Returns the seconds that the round trip took."""

    async def revision(self) -> int:
        """A number that grows with every change."""

    async def changed(self, since: int) -> list[str]:
        """The ids of the breakers that changed after a revision."""

    async def rows(self, ids: Sequence[str]) -> dict[str, Row | None]:
        """Rows by id."""

    async def news(self, seconds: float) -> bytes | None:
        """The next message, None if none comes in time."""

    async def show(self, member: str) -> None:
        """Show that this process lives."""

    async def leave(self, member: str) -> None:
        """Say that this process goes."""

    async def introduce(self, names: Sequence[Name]) -> None:
        """Say which breakers this process has, for the people who look from outside."""

    async def move(self, identity: str, mode: str, generation: int, state: str, payload: str) -> Reply:
        """Compare and set one transition."""

    async def lease(
        self, identity: str, kind: str, generation: int, ticket: str, permits: int, seconds: float, doublings: int
    ) -> Reply:
        """Ask for the right to one probe. At most ``permits`` live at once, doubled as often as places are earned."""

    async def settle(self, identity: str, generation: int, seconds: float, entries: str) -> Reply:
        """Tell what became of leases."""

    async def count(self, ids: Sequence[str], batches: str) -> list[list[int]]:
        """Add window counts of several breakers. Returns the fleet's sums for each."""


class RedisStore:
    """One connection for commands and one for news, both on the loop that made them.

    Args:
        address: A ``redis://``, ``rediss://``, ``valkey://`` or ``unix://`` address; ``?prefix=`` names the keys.

    Attributes:
        clock: The server's time in ours.
    """

    def __init__(self, address: str) -> None:
        self._url, prefix = split_address(address)
        # One hash tag for all keys: in a cluster they live on one node, and a script may use several of them.
        self._base = f"{{{prefix}}}:"
        self.channel = f"{self._base}news"
        self._index, self._revision = self._base + "index", self._base + "revision"
        self._members, self._breakers = self._base + "members", self._base + "breakers"
        self.clock = ServerClock()
        self._monotonic = SYSTEM_CLOCK.monotonic
        self._client: Any = None
        self._news: Any = None
        # Where to try, in this order: the address itself, then a cluster's other nodes.
        self._places: deque[Place] = deque([{}])

    # -- life -----------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, follow a cluster's redirection to the node that has our keys, and read the server's clock.

        In a cluster each failed try is followed by one at the next node that is known: the one in the address may be
        the one that died.
        """
        await self.close()
        try:
            # As a whole: whoever waits for news has no limit of its own, not while it connects either.
            async with asyncio.timeout(CONNECT_SECONDS + 4 * ANSWER_SECONDS):
                await self._connect()
        except Exception:
            self._places.rotate(-1)
            raise

    async def _connect(self) -> None:
        place = self._places[0]
        self._client = self._connected(place)
        try:
            await self.revision()
        except _redis().exceptions.ResponseError as error:
            moved = moved_to(error)
            if moved is None:
                raise
            await self._client.aclose()
            place = moved
            self._client = self._connected(place)
            await self.revision()
        await self.time()
        listening = self._connected(place, patient=True)
        self._news = listening.pubsub(ignore_subscribe_messages=True)
        await self._news.subscribe(self.channel)
        await self._learn_nodes()

    async def _learn_nodes(self) -> None:
        try:
            known = nodes(await self._client.execute_command("CLUSTER", "SLOTS"))
        except _redis().exceptions.ResponseError:
            return  # no cluster, or this user may not ask: then there is the address
        self._places = deque([{}, *known])

    def _connected(self, place: Place, *, patient: bool = False) -> Any:
        redis = _redis()
        client = redis.asyncio.Redis.from_url(
            self._url,
            protocol=2,
            socket_connect_timeout=CONNECT_SECONDS,
            # News come when there are any.
            socket_timeout=None if patient else ANSWER_SECONDS,
            retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
            health_check_interval=0,
            **({} if self._url.startswith("unix") else {"socket_keepalive": True}),
        )
        client.connection_pool.connection_kwargs.update(place)
        return client

    async def close(self) -> None:
        """Hang up. Errors on the way are no news: the store may be gone."""
        client, news = self._client, self._news
        self._client = self._news = None
        for connection in (news, news.connection_pool if news is not None else None, client):
            if connection is None:
                continue
            end = getattr(connection, "aclose", None) or connection.disconnect
            with contextlib.suppress(Exception):  # nobody is left to tell, and the others are to be closed as well
                await end()

    # -- reading --------------------------------------------------------------------------------------------

    async def time(self) -> float:
        """Ask the server for its time. Returns the seconds that the round trip took."""
        sent = self._monotonic()
        seconds, microseconds = await self._client.time()
        received = self._monotonic()
        self.clock.sample(sent, received, int(seconds) * 1000 + int(microseconds) / 1000)
        return received - sent

    async def revision(self) -> int:
        """A number that grows with every change; smaller than before only where the store has forgotten."""
        with _naming(self._revision):
            found = await self._client.get(self._revision)
        try:
            return int(found or 0)
        except ValueError:
            raise UnusableKeyError(f"the key {self._revision} holds no number; delete it to go on") from None

    async def changed(self, since: int) -> list[str]:
        """The ids of the breakers that changed after a revision."""
        with _naming(self._index):
            found = await self._client.zrange(self._index, f"({since}" if since else "-inf", "+inf", byscore=True)
        return [identity.decode(errors="replace") for identity in found]

    async def rows(self, ids: Sequence[str]) -> dict[str, Row | None]:
        """Rows by id; None where there is none, or one that cannot be read."""
        return {identity: read_row(raw, self.clock) for identity, raw in (await self.raw_rows(ids)).items()}

    async def raw_rows(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """What stands where rows should, by id; None where there is nothing, or something of another type."""
        if not ids:
            return {}
        found = await self._client.mget([self._row_key(identity) for identity in ids])
        return dict(zip(ids, found, strict=True))

    async def type_of(self, identity: str) -> str:
        """The store's own type of what stands where a row should: ``string``, ``list`` ..., or ``none``."""
        return bytes(await self._client.type(self._row_key(identity))).decode()

    async def news(self, seconds: float) -> bytes | None:
        """The next message, None if none comes within ``seconds``."""
        message = await self._news.get_message(timeout=seconds)
        return message["data"] if message is not None and message.get("type") == "message" else None

    async def members(self) -> list[str]:
        """The processes that have shown themselves lately."""
        alive_since = self.clock.server_ms(self._monotonic()) - MEMBER_SECONDS * 1000
        with _naming(self._members):
            found = await self._client.zrange(self._members, f"({alive_since}", "+inf", byscore=True)
        return [member.decode(errors="replace") for member in found]

    async def names(self) -> list[Name]:
        """The breakers that processes have lately said to have, the latest word last."""
        since = self.clock.server_ms(self._monotonic()) - NAMED_SECONDS * 1000
        with _naming(self._breakers):
            found = await self._client.zrange(self._breakers, f"({since}", "+inf", byscore=True)
        return [name for raw in found if (name := read_name(raw)) is not None]

    # -- writing --------------------------------------------------------------------------------------------

    async def show(self, member: str) -> None:
        """Show that this process lives; also proves that the store takes writes."""
        now = self.clock.server_ms(self._monotonic())
        async with self._client.pipeline(transaction=False) as together:
            together.zadd(self._members, {member: now})
            together.zremrangebyscore(self._members, "-inf", now - 4 * MEMBER_SECONDS * 1000)
            together.pexpire(self._members, 3_600_000)
            await together.execute()

    async def leave(self, member: str) -> None:
        """Say that this process goes."""
        await self._client.zrem(self._members, member)

    async def introduce(self, names: Sequence[Name]) -> None:
        """Say which breakers this process has. Each ages by itself: callers' own addresses make ever new providers."""
        if not names:
            return
        now = self.clock.server_ms(self._monotonic())
        # For people only: where this key is not to be had, state is shared all the same.
        with contextlib.suppress(_redis().exceptions.ResponseError):
            async with self._client.pipeline(transaction=False) as together:
                together.zadd(self._breakers, {write_name(name): now for name in names})
                together.zremrangebyscore(self._breakers, "-inf", now - NAMED_SECONDS * 1000)
                together.pexpire(self._breakers, round(NAMED_SECONDS * 1000))
                await together.execute()

    async def move(self, identity: str, mode: str, generation: int, state: str, payload: str) -> Reply:
        """Compare and set one transition. ``mode``: move, force (a person's word) or extend (a later end)."""
        return await self._reply("move", identity, mode, generation, state, payload)

    async def lease(
        self, identity: str, kind: str, generation: int, ticket: str, permits: int, seconds: float, doublings: int
    ) -> Reply:
        """Ask for the right to one probe. ``kind``: probe or eager."""
        ends, pause = round(seconds * 1000), round(EAGER_PAUSE_SECONDS * 1000)
        return await self._reply("lease", identity, kind, generation, ticket, permits, ends, pause, doublings)

    async def settle(self, identity: str, generation: int, seconds: float, entries: str) -> Reply:
        """Tell what became of leases: a JSON list of [ticket, what, source, milliseconds]."""
        return await self._reply("settle", identity, generation, round(seconds * 1000), entries)

    async def count(self, ids: Sequence[str], batches: str) -> list[list[int]]:
        """Add window counts of several breakers. Returns the fleet's sums for each."""
        keys = [key for identity in ids for key in (self._row_key(identity), self._count_key(identity))]
        sent = self._monotonic()
        server_ms, found = await self._run("count", keys, batches, self.channel)
        self.clock.sample(sent, self._monotonic(), server_ms)
        return [list(map(int, entry)) for entry in found]

    # -- the parts ------------------------------------------------------------------------------------------

    def _row_key(self, identity: str) -> str:
        return f"{self._base}row:{identity}"

    def _count_key(self, identity: str) -> str:
        return f"{self._base}count:{identity}"

    async def _reply(self, name: str, identity: str, *arguments: str | float) -> Reply:
        keys = [self._row_key(identity), self._count_key(identity), self._index, self._revision]
        sent = self._monotonic()
        word, server_ms, raw, *more = await self._run(name, keys, self.channel, *arguments)
        self.clock.sample(sent, self._monotonic(), server_ms)
        at = self.clock.local(more[0]) if more and more[0] else 0.0
        return Reply(word.decode(), read_row(raw, self.clock), at)

    async def _run(self, name: str, keys: Sequence[str], *arguments: str | float) -> Any:
        source, digest = _SCRIPTS[name]
        try:
            try:
                return await self._client.evalsha(digest, len(keys), *keys, *arguments)
            except _redis().exceptions.NoScriptError:
                return await self._client.eval(source, len(keys), *keys, *arguments)
        except _redis().exceptions.ResponseError as error:
            if any(word in str(error) for word in ("WRONGTYPE", "not an integer")):
                # A script does not say on which key it has stumbled; to read those that all rows share does.
                await self.revision()
                await self.changed(_NO_REVISION)
            raise


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Name the key, as the server does not, where something of another type stands."""
    try:
        yield
    except _redis().exceptions.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        message = f"the key {key} holds something of another type (WRONGTYPE); delete it to go on"
        raise UnusableKeyError(message) from None


def load_client() -> None:
    """Import the redis client here and now.

    Raises:
        ConfigurationError: It is not installed.
    """
    _redis()


def client_errors() -> type[Exception]:
    """What the redis client raises."""
    errors: type[Exception] = _redis().exceptions.RedisError
    return errors


def _redis() -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415 (an extra: loaded by those who share state)
        import redis.backoff  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "storage: the redis client is not installed; pip install 'litellm-resilience[redis]'"
        ) from error
    return redis


def _script(name: str) -> tuple[str, str]:
    here = files("resilience.storage")
    source = "".join((here / f"{part}.lua").read_text(encoding="utf-8") for part in ("row", name))
    return source, sha1(source.encode(), usedforsecurity=False).hexdigest()


_SCRIPTS: Final = {name: _script(name) for name in ("move", "lease", "settle", "count")}
