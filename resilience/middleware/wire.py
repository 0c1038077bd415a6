"""The wire of a stream: its last bytes, its last error, one broken event left out, and refusals that LiteLLM drops."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import httpx
from pydantic_core import from_json

from resilience.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# The providers' own signs of the end. A text that says the same stands within quotes, and its own quotes are escaped.
_TERMINATOR: Final = re.compile(rb'(?m)^(?:data:)?\s*\[DONE\]|^event:\s*message_stop|"type":\s*"message_stop"')
_TAIL: Final = 128
_LONGEST_EVENT: Final = 4096
_LONGEST_DOCUMENT: Final = 65_536
# What stands before the first letter of a text, in most dialects.
_TEXT: Final = re.compile(rb'"(?:delta|parts)":\s?\[?\{[^{}]*?"(?:content|text)":\s?"')
_QUOTE: Final = ord('"')
_UNKNOWN: Final = b"\0"  # no event begins with it
_SKIPS: Final = 1  # one broken event is an accident; with two of them the stream is not to be trusted
# A key of a chat chunk; within a text its quotes would be escaped. A refusal of null is none.
_REFUSAL: Final = b'"refusal"'
_REFUSED: Final = re.compile(rb'"refusal"\s*:\s*("(?:[^"\\]|\\.)+")')
# LiteLLM drops a chunk with nothing but a refusal. Here it puts that of a whole answer, and a chunk with it passes.
_PASSING: Final = rb'\g<0>,"provider_specific_fields":{"refusal":\1}'
# Comments, pings, and deltas of nothing. LiteLLM and the SDKs read on after each: nobody above them hears of it.
_NOTHING: Final = re.compile(
    rb"(?:(?::[^\n]*"
    rb"|event:\s?ping"
    rb"|data:\s?\{\"type\":\s?\"ping\"\}"
    rb"|data:(?![^\n]*\"finish_reason\":\s?\")(?:(?!\"delta\")[^\n])*"
    rb"\"delta\":\s?\{(?:\"\w+\":\s?(?:null|\"\"|\"assistant\"|\[\])(?:,\s?)?)*\}(?:(?!\"delta\")[^\n])*"
    rb")?\r?\n)+"
)
# Where LiteLLM's wrappers keep what they read from, on the way down to the HTTP response.
_WAY_DOWN: Final = (
    "completion_stream",
    "response",
    "http_response",
    "streaming_response",
    "response_iterator",
    "_stream",
    "_response",
)


def http_response(answer: Any) -> httpx.Response | None:
    """The HTTP response that a LiteLLM stream reads from; None where there is none (mocks, caches)."""
    waiting, seen = [answer], 0
    while waiting and seen < 20:
        at = waiting.pop()
        seen += 1
        if isinstance(at, httpx.Response):
            return at
        frame = getattr(at, "ag_frame", None) or getattr(at, "gi_frame", None)
        if frame is not None:  # `response.aiter_lines()`: the generator knows whose lines it reads
            waiting.append(frame.f_locals.get("self"))
        waiting.extend(value for name in reversed(_WAY_DOWN) if (value := getattr(at, name, None)) is not None)
    return None


def is_event_stream(response: httpx.Response) -> bool:
    """Whether the bytes of a response are server-sent events that can be read as they are."""
    kind = response.headers.get("content-type", "")
    return kind.startswith("text/event-stream") and "content-encoding" not in response.headers


class Watched:
    """What went by, of which LiteLLM keeps nothing. Looked at when somebody asks: most bytes are never asked for.

    Args:
        sifts: Whether the bytes are server-sent events. Then a JSON event that cannot be parsed is left out, once;
            LiteLLM and the SDKs would give up on it. Whether what is left is whole, the end of the stream tells.
            And what a model says to refuse is written where LiteLLM lets it pass, each piece in its place.
    """

    def __init__(self, *, sifts: bool = False) -> None:
        self._tail = b""
        self._rest = b""
        self._doubtful = b""
        self._head = _UNKNOWN
        self._text_at = len(_UNKNOWN)
        self._sifts = sifts
        self._skips = _SKIPS
        self._is_json = False
        self._document: bytearray | None = bytearray()
        self._is_over = False

    def see(self, data: bytes) -> bytes:
        """Look at the next bytes. Returns those that are to be read now: of events, whole lines."""
        # One event, as most come: up to its text it is as one before it that was parsed, and there is a text. To parse
        # each would cost as much as all the rest.
        at = self._text_at
        if (
            data.startswith(self._head)
            and data.find(b"\n", at) == len(data) - 2
            and data.endswith(b"}\n\n")
            and data[at] != _QUOTE
        ):
            self._tail = b""  # whatever a text says, it is no sign of the end
            return data
        self._tail = (self._tail + data)[-max(_TAIL, len(data)) :]
        if (document := self._document) is not None:
            document += data
            if len(document) > _LONGEST_DOCUMENT or (self._sifts and document.lstrip()[:1] not in b"<{["):
                self._document = None  # events begin with a field's name or a colon
        return self._sifted(data) if self._sifts else data

    @property
    def is_text(self) -> bool:
        """Whether the last bytes were found at a glance to be one event that carries text."""
        return not self._tail

    @property
    def error(self) -> bytes:
        """The last error event."""
        data = self._tail
        at = data.find(b'"error"')
        if at < 0:
            return b""
        start = data.rfind(b"\n", 0, at) + 1
        return data[start : start + _LONGEST_EVENT].partition(b"\n")[0]

    @property
    def document(self) -> bytes:
        """At the end of the wire: all that came, where it is short and does not begin like events."""
        return bytes(self._document or b"") if self._is_over else b""

    def rest(self) -> bytes:
        """At the end of the wire: what is left of a line that was not ended."""
        self._is_over = True
        rest, self._rest = self._doubtful + self._rest, b""
        return b"" if rest and self._skips and not self._is_good(rest) else rest

    @property
    def terminated(self) -> bool:
        """Whether the last bytes hold a provider's own sign of the end."""
        return _TERMINATOR.search(self._tail[-_TAIL:]) is not None

    def _sifted(self, data: bytes) -> bytes:
        self._head, self._text_at = _UNKNOWN, len(_UNKNOWN)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        kept = []
        for line in lines:
            if self._doubtful:
                doubtful, self._doubtful = self._doubtful, b""
                if not line.strip():
                    self._skips -= 1
                    continue
                # Its data has several lines: one alone need not be JSON. This stream is left as it is.
                self._skips = 0
                kept.append(doubtful)
            if self._skips and not self._is_good(line):
                self._doubtful = line
                continue
            kept.append(_REFUSED.sub(_PASSING, line) if _REFUSAL in line and b'"choices"' in line else line)
        if kept and kept == lines and not self._rest and self._is_json and (begins := _TEXT.search(data)) is not None:
            # Whatever went by whole, and ended where an event ends: it may have been several.
            self._head = data[: begins.end()]
            self._text_at = len(self._head)
        return b"\n".join(kept) + b"\n" if kept else b""

    def _is_good(self, line: bytes) -> bool:
        """Whether a line is anything but broken JSON."""
        if not line.startswith(b"data:"):
            return True
        payload = line[5:].strip()
        if payload[:1] != b"{":
            # Some providers send plain text, and their sign of the end is none: only among JSON it is out of place.
            return not self._is_json or payload[:1] in b"["
        try:
            from_json(payload)
        except ValueError:
            try:
                json.loads(payload)  # it takes more, such as half an emoji
            except ValueError:
                return False
        self._is_json = True
        return True


class WatchedSync(httpx.SyncByteStream):
    """A response's bytes, watched as they go by, with a limit on silence that comments and empty deltas do not break.

    A read timeout hears every byte; that a provider has nothing to say, but says so every second, is seen here only.

    Args:
        inner: The bytes.
        watched: Who looks at them.
        first_seconds: How long they may be without any content at the beginning.
        pause_seconds: How long later.
    """

    def __init__(self, inner: Any, watched: Watched, first_seconds: float, pause_seconds: float) -> None:
        self._inner = inner
        self._watched = watched
        self._limits = (first_seconds, pause_seconds)

    def __iter__(self) -> Iterator[bytes]:
        see, monotonic = self._watched.see, SYSTEM_CLOCK.monotonic
        limit, pause = self._limits
        waited, started = 0.0, monotonic()
        for data in self._inner:
            seen = see(data)
            if self._watched.is_text or _NOTHING.fullmatch(data) is None:
                waited, limit = 0.0, pause
            else:
                waited += monotonic() - started
                if waited > limit:
                    raise httpx.ReadTimeout(f"nothing but comments and empty events within {limit:.3g} s")
            if seen:
                yield seen
            started = monotonic()  # what its reader did meanwhile is not the provider's time
        if rest := self._watched.rest():
            yield rest

    def close(self) -> None:
        """Close what is below."""
        self._inner.close()


class WatchedAsync(httpx.AsyncByteStream):
    """The same for asyncio."""

    def __init__(self, inner: Any, watched: Watched) -> None:
        self._inner = inner
        self._watched = watched

    async def __aiter__(self) -> AsyncIterator[bytes]:
        see = self._watched.see
        async for data in self._inner:
            if seen := see(data):
                yield seen
        if rest := self._watched.rest():
            yield rest

    async def aclose(self) -> None:
        """Close what is below."""
        await self._inner.aclose()
