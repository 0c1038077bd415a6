"""One exchange: an HTTP request as it is read from a socket, and the answer or the fault that is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from resilience.testing.dialects import PATHS, Reply, count_tokens, script, stream_error, whole
from resilience.testing.faults import Break, Fault, Wire

if TYPE_CHECKING:
    from resilience.testing.provider import LoopbackProvider


_GARBLED = b'data: {"id": "chatcmpl-loopback", "choices": [{"del\n\n'


class HungUpError(Exception):
    """The client left, or the provider stops: end this connection."""


class Exchange:
    """One request on a connection and its answer."""

    def __init__(self, provider: LoopbackProvider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._provider = provider
        self._reader = reader
        self._writer = writer

    async def run(self) -> bool:
        """Answer one request; False: the connection is over."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        _, path, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }
        raw = await self._body(headers)
        path = path.partition("?")[0]
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {}
        fault = self._provider.arrive(path, body, headers)
        client_left = False
        try:
            return await self._answer(path, body, fault)
        except (HungUpError, ConnectionError, asyncio.CancelledError):
            client_left = True
            raise
        finally:
            self._provider.leave(whole_answer=not client_left)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int((await self._reader.readline()).split(b";")[0], 16):
                parts.append(await self._reader.readexactly(size))
                await self._reader.readline()
            await self._reader.readline()
            return b"".join(parts)
        return await self._reader.readexactly(int(headers.get("content-length", "0")))

    async def _answer(self, path: str, body: dict[str, Any], fault: Fault) -> bool:
        if fault.wire is Wire.HANG:
            await self._wait(None)
        if fault.wire is not Wire.ANSWER:
            self._writer.transport.abort()
            return False
        await self._wait(self._provider.latency_seconds + fault.latency_seconds)
        dialect = PATHS.get(path)
        if dialect is None:
            fault = Fault.http(404, message=f"no such path; there are {', '.join(sorted(PATHS))}")
            dialect = "chat"
        if fault.status != HTTPStatus.OK or fault.body is not None:
            await self._whole(fault, fault.answer_to(dialect).encode())
            return True
        answer = self._provider.answer
        text = fault.text if fault.text is not None else answer if isinstance(answer, str) else answer(body)
        reply = Reply(str(body.get("model", "")), text, count_tokens(body), fault)
        if body.get("stream"):
            return await self._stream(dialect, reply, body)
        raw = json.dumps(whole(dialect, reply, body)).encode()
        return await self._whole(fault, raw, half=fault.stream_break in {Break.CUT, Break.STALL})

    async def _whole(self, fault: Fault, raw: bytes, *, half: bool = False) -> bool:
        length = ("content-length", str(len(raw)))
        head = _head(fault, fault.status, ("content-type", fault.content_type), length)
        self._writer.write(head + (raw[: len(raw) // 2] if half else raw))
        await self._writer.drain()
        return await self._break_off(fault) if half else True

    async def _stream(self, dialect: str, reply: Reply, body: dict[str, Any]) -> bool:
        fault = reply.fault
        parts = script(dialect, reply, body)
        kind = ("content-type", "text/event-stream")
        self._writer.write(_head(fault, 200, kind, ("transfer-encoding", "chunked")))
        for raw in parts.opening:
            await self._send(raw)
        for _ in range(fault.keep_alives):
            await self._wait(fault.first_token_seconds / (fault.keep_alives + 1))
            await self._send(b": OPENROUTER PROCESSING\n\n")
        await self._wait(fault.first_token_seconds / (fault.keep_alives + 1))
        pause = self._provider.token_seconds + fault.token_seconds
        for position, raw in enumerate(_tokens(parts.tokens, fault.garbled_at)):
            if fault.stream_break is not None and position >= fault.at:
                break
            await self._wait(pause)
            await self._send(raw)
        if fault.stream_break is None:
            for raw in parts.closing:
                await self._send(raw)
        elif fault.stream_break in {Break.CUT, Break.STALL}:
            return await self._break_off(fault)
        elif fault.stream_break is Break.ERROR:
            await self._send(stream_error(dialect, reply))
        elif fault.stream_break is Break.MALFORMED:
            await self._send(_GARBLED)
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _break_off(self, fault: Fault) -> bool:
        if fault.stream_break is Break.STALL:
            await self._wait(None)
        # What was written must arrive before the connection goes: close, do not reset.
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        return False

    async def _send(self, raw: bytes) -> None:
        if self._reader.at_eof() or self._writer.transport.is_closing():
            raise HungUpError
        self._writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        await self._writer.drain()

    async def _wait(self, seconds: float | None) -> None:
        """Wait for this long (None: for ever), but not for a client that has left."""
        if seconds is not None and seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # A client that waits for its answer sends nothing: whatever wakes this is its leaving.
                await self._reader.read(1)
            raise HungUpError


def _tokens(events: list[bytes], garbled_at: int | None) -> list[bytes]:
    return events if garbled_at is None else [*events[:garbled_at], _GARBLED, *events[garbled_at:]]


def _head(fault: Fault, status: int, *headers: tuple[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Loopback"  # 529 has no phrase
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers + fault.headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
