"""Under load: 200 readers of events, 200 requests a second, slow readers, half-open sockets, bodies of all sorts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ops_server import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

SECONDS = 3.0
RATE = 200
READERS = 200
SLOW = 20
SILENT = 100
MEGABYTES = 64
HERE = Path(__file__).parent


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "ops_child.py"), env=environment(PYTHONPATH=str(HERE)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(child.stdout.readline(), 60)).decode().strip()
        yield child, urlsplit(line).port
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


def memory(pid: int) -> float:
    """Resident megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def ask(port: int, request: bytes) -> int:
    """One request on a connection of its own; the answer's status, 0 where the server hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        head = await asyncio.wait_for(reader.readline(), 20)
        return int(head.split()[1]) if head else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


def post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Client:
    """Requests one after the other on one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.statuses: Counter[int] = Counter()
        self.completed = 0

    async def run(self, count: int, pause: float, started: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number * pause - time.perf_counter()))
            writer.write(post("/process", b'{"input": "hi"}'))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            self.statuses[int(head.split()[1])] += 1
            self.completed += json.loads(body)["status"] == "completed"
        writer.close()


class Reader:
    """Somebody who reads events, whether fast or not at all."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.facts: list[int] = []
        self.standings = 0
        self.gaps = 0
        self.status = 0

    async def run(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        writer.write(f"GET /events?{self.query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.status = int((await reader.readline()).split()[1])
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                while True:
                    line = await reader.readline()
                    if not line:
                        break
                    if line.startswith(b"id: "):
                        self.facts.append(int(line.rpartition(b"-")[2]))
                    elif line.startswith(b"event: standing"):
                        self.standings += 1
                    elif line.startswith(b"event: gap"):
                        self.gaps += 1
            finally:
                writer.close()


def never_reading(port: int) -> socket.socket:
    """A reader with a small buffer that never reads."""
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.connect(("127.0.0.1", port))
    silent.sendall(b"GET /events?standing=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return silent


async def test_it_serves_all_of_them_in_bounded_memory_and_loses_nothing() -> None:  # noqa: C901, PLR0912 (one load, all at once)
    async with server() as (child, port):
        assert await ask(port, post("/process", b'{"input": "hi"}')) == 200
        before = memory(child.pid)
        readers = [Reader("" if number % 10 == 0 else "standing=1&only=changes") for number in range(READERS)]
        reading = [asyncio.create_task(reader.run(port)) for reader in readers]
        slow = [never_reading(port) for _ in range(SLOW)]
        half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(SILENT)]
        for number, one in enumerate(half_open):
            if number % 2:
                one.sendall(b"POST /process HTTP/1.1\r\nHost: loc")
        while not all(reader.status for reader in readers):
            await asyncio.sleep(0.05)

        connections = 20
        clients = [Client(port) for _ in range(connections)]
        per_client = int(SECONDS * RATE / connections)
        started = time.perf_counter()
        load = [
            asyncio.create_task(client.run(per_client, connections / RATE, started + number / RATE))
            for number, client in enumerate(clients)
        ]
        bad: Counter[int] = Counter()
        changes = 0
        while not all(task.done() for task in load):
            for request in (
                post("/process", b"{"),
                post("/process", b'"' + b"x" * 2_000_000 + b'"'),
                post("/process", b"[" * 100_000),
                post("/process", b"\xff\xfe\x00"),
                post("/process", b'{"input": "hi", "priority": "first"}'),
                post("/process", b"a=1", "application/x-www-form-urlencoded"),
                b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"POST /process HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
                post("/breakers/provider/" + "x" * 500 + "/isolate", b"{}"),
            ):
                bad[await ask(port, request)] += 1
            for action in ("isolate", "reset"):
                assert await ask(port, post(f"/breakers/target/claude/{action}", b"{}")) == 200
                changes += 1
        await asyncio.gather(*load)

        statuses: Counter[int] = sum((client.statuses for client in clients), Counter())
        assert statuses == {200: connections * per_client}
        assert sum(client.completed for client in clients) == connections * per_client
        assert not [status for status in bad if status >= 500], bad
        assert {400, 413, 415, 422, 404} <= bad.keys(), bad

        everything = connections * per_client + 1 + changes
        async with asyncio.timeout(30):
            while not all(len(reader.facts) >= (changes if reader.query else everything) for reader in readers):
                await asyncio.sleep(0.05)
        for reader in readers:
            told = reader.facts
            assert told == sorted(set(told))
            assert reader.gaps == 0
            if reader.query:
                assert (len(told), reader.standings > 0) == (changes, True)
            else:
                # Attempts and changes, from the very first request on: none is missing.
                assert told == list(range(1, max(told) + 1))
                assert len(told) == everything
        for one in half_open:
            one.settimeout(5)
            with contextlib.suppress(ConnectionError):
                while one.recv(4096):
                    pass
            one.close()
        grown = memory(child.pid) - before
        assert grown < MEGABYTES, f"{grown:.0f} MB more"
        assert await ask(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for one in slow:
            one.close()
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 30) == 0
        assert b"Traceback" not in await child.stderr.read()


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ops_server import scripted, serving

    monkeypatch.setattr("resilience.ops.intake.BODY_SECONDS", 0.1)
    async with scripted() as fb, serving(fb) as running:
        unfinished = post("/process", b" " * 100)[:-50]
        assert await ask(running.port, unfinished) == 408
