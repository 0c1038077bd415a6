"""The live view: one shared reading for everybody who looks, and the stream of events and readings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from resilience.ops.journal import Journal
from resilience.ops.standing import stand
from resilience.ops.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from resilience.events import Event
    from resilience.runtime import MultiProviderFallback

# A change is on the page within half a second: a tenth to notice it, the rest for the wire and the browser.
LOOK_SECONDS: Final = 0.1
# Many readers look less often, so that all of them together cost a bounded share of the process.
LONGEST_LOOK_SECONDS: Final = 0.3
_LOOKS_A_SECOND: Final = 800
# Without a change, numbers and open times that are over are read this often.
CALM_SECONDS: Final = 1.0
# A line now and then, so that proxies do not cut what seems dead and the dead are noticed.
ALIVE_SECONDS: Final = 15.0
# A reading may take this share of the time, however many targets there are.
_SHARE: Final = 0.05
_BATCH: Final = 200
RECONNECT_MS: Final = 1000


class Live:
    """What the ops app knows of one runtime.

    Args:
        runtime: Whose.
    """

    def __init__(self, runtime: MultiProviderFallback) -> None:
        self._registry = runtime.registry
        self._clock = runtime.registry.clock
        self.journal = Journal(clock=self._clock)
        self.traffic = Traffic(clock=self._clock, names=tuple(runtime.settings.routes))
        self._document: dict[str, Any] = {}
        self._body = b""
        self._version = 0
        self._read_at = float("-inf")
        self._cost = 0.0
        self._seen_change = -1
        self._readers = 0
        self._ends = [self._registry.subscribe(self._hear), runtime.observe(self.traffic)]

    def close(self) -> None:
        """Hear nothing any more."""
        for end in self._ends:
            end()

    def _hear(self, event: Event) -> None:
        self.journal.hear(event)

    def read(self, *, fresh: bool = True) -> dict[str, Any]:
        """Where everything stands; without ``fresh`` what stood there a moment ago will do."""
        now = self._clock.monotonic()
        age = now - self._read_at
        changed = self.journal.changed != self._seen_change
        if age >= CALM_SECONDS or ((changed or fresh) and age * _SHARE >= self._cost):
            self._seen_change, self._read_at = self.journal.changed, now
            traffic = self.traffic
            document = stand(self._registry.snapshot(), traffic.opening, traffic.routes(), traffic.targets())
            self._cost = self._clock.monotonic() - now
            if {**document, "at": None} != {**self._document, "at": None}:
                self._version += 1
            self._document = document
            self._body = b""
        return self._document

    def standing_event(self, heard: int) -> tuple[int, bytes]:
        """The reading as server-sent event, if it is another than the one ``heard``; its version, and bytes."""
        document = self.read(fresh=False)
        if heard == self._version:
            return heard, b""
        if not self._body:
            body = json.dumps(document, separators=(",", ":"))
            self._body = f"event: standing\ndata: {body}\n\n".encode()
        return self._version, self._body

    async def stream(
        self, last_id: str | None, *, standing: bool, changes_only: bool, ended: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Server-sent events: what is kept since ``last_id``, then what happens.

        A reader that is slow holds up nobody: it gets what is still kept when it comes back to read, and a
        ``gap`` where something has been forgotten.

        Args:
            last_id: Where the reader was.
            standing: Whether it wants readings too.
            changes_only: Whether it does without what every request makes.
            ended: Says that the server wants to stop.
        """
        clock, journal = self._clock, self.journal
        number, version, said_at = journal.cursor(last_id), -1, clock.monotonic()
        self._readers += 1
        try:
            yield f"retry: {RECONNECT_MS}\n\n".encode()
            while not ended():
                parts = []
                if standing:
                    version, body = self.standing_event(version)
                    parts.append(body)
                news = journal.after(number, changes_only=changes_only)
                number = news.head
                if news.missed:
                    parts.append(b"event: gap\ndata: {}\n\n")
                for start in range(0, len(news.entries), _BATCH):
                    parts += [journal.wire(entry) for entry in news.entries[start : start + _BATCH]]
                    yield b"".join(parts)
                    parts = []
                    said_at = clock.monotonic()
                said = b"".join(parts)
                if not said and clock.monotonic() - said_at >= ALIVE_SECONDS:
                    said = b": alive\n\n"
                if said:
                    yield said
                    said_at = clock.monotonic()
                await clock.asleep(min(LONGEST_LOOK_SECONDS, max(LOOK_SECONDS, self._readers / _LOOKS_A_SECOND)))
            yield b"event: end\ndata: {}\n\n"
        finally:
            self._readers -= 1
