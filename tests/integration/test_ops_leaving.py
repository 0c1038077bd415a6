"""The end of `resilience serve`: balancers see it coming, requests are answered, and nobody is cut off in silence."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from ops_server import process, where, written

from resilience.clock import SYSTEM_CLOCK
from resilience.ops import leaving
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_SECONDS = 20


async def left(child: Any, since: float) -> tuple[int, float]:
    """Its exit status, and how long it took."""
    status = await asyncio.wait_for(child.wait(), PATIENCE_SECONDS)
    return status, SYSTEM_CLOCK.monotonic() - since


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_readiness_goes_first_while_old_and_new_connections_are_served(
    tmp_path: Path, sig: signal.Signals
) -> None:
    with LoopbackProvider() as provider:
        arguments = ("serve", written(tmp_path, provider), "--port", "0", "--notice-seconds", "2")
        async with process(*arguments) as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                assert (await client.get("/ready")).status_code == 200
                sent = SYSTEM_CLOCK.monotonic()
                child.send_signal(sig)
                while (answer := await client.get("/ready")).status_code == 200:
                    await asyncio.sleep(0.01)
                assert (answer.status_code, answer.json()["status"]) == (503, "draining")
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as stranger:
                    assert (await stranger.get("/ready")).status_code == 503
                    assert (await stranger.post("/process", json={"input": "hi"})).json()["status"] == "completed"
            status, seconds = await left(child, sent)
            assert status == 0
            assert seconds >= 2
            assert b"Traceback" not in await child.stderr.read()


async def test_where_nobody_asks_for_readiness_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    with LoopbackProvider() as provider:
        arguments = ("serve", written(tmp_path, provider), "--port", "0", "--notice-seconds", "3600")
        async with process(*arguments) as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                assert (await client.get("/health")).status_code == 200
            child.terminate()
            assert (await left(child, 0.0))[0] == 0


async def test_ctrl_c_on_a_terminal_is_quick(tmp_path: Path) -> None:
    assert leaving.notice(signal.SIGTERM, 5.0, 1.0) == 5.0
    assert leaving.notice(signal.SIGTERM, 5.0, leaving.WATCHED_SECONDS + 1) == 0.0
    ours, theirs = pty.openpty()
    try:
        with LoopbackProvider() as provider:
            arguments = ("serve", written(tmp_path, provider), "--port", "0", "--notice-seconds", "3600")
            async with process(*arguments, stdin=theirs) as child:
                url = await where(child)
                async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                    assert (await client.get("/ready")).status_code == 200
                child.send_signal(signal.SIGINT)
                assert (await left(child, 0.0))[0] == 0
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once_and_the_cut_off_are_told(tmp_path: Path, first: signal.Signals) -> None:
    with LoopbackProvider(latency_seconds=60) as provider:
        arguments = ("serve", written(tmp_path, provider), "--port", "0", "--notice-seconds", "3600")
        async with process(*arguments) as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                assert (await client.get("/ready")).status_code == 200
                asked = asyncio.create_task(client.post("/process", json={"input": "hi"}))
                while not provider.requests:
                    await asyncio.sleep(0.01)
                child.send_signal(first)
                while (await client.get("/ready")).status_code == 200:
                    await asyncio.sleep(0.01)
                child.terminate()
                assert (await left(child, 0.0))[0] == 0
                assert (await asked).status_code == 503
                assert b"Traceback" not in await child.stderr.read()


async def test_who_is_cut_off_at_the_end_of_the_drain_gets_a_503_and_the_log_one_line(tmp_path: Path) -> None:
    with LoopbackProvider(latency_seconds=60) as provider:
        arguments = ("serve", written(tmp_path, provider), "--port", "0", "--drain-seconds", "1")
        async with process(*arguments) as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                requests = [asyncio.create_task(client.post("/process", json={"input": "hi"})) for _ in range(3)]
                while len(provider.requests) < 3:
                    await asyncio.sleep(0.01)
                child.terminate()
                answers = await asyncio.gather(*requests)
            for answer in answers:
                assert answer.status_code == 503
                assert "ask again" in answer.json()["error"]
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["cache-control"] == "no-store"
            assert (await left(child, 0.0))[0] == 0
            log = (await child.stderr.read()).decode()
            assert "Traceback" not in log
            lines = [line for line in log.splitlines() if "attempt" not in line]
            assert len(lines) == 1, log
            assert "3 running task(s)" in lines[0]


async def test_a_request_that_somebody_else_cuts_off_is_none_of_ours() -> None:
    async def cut_off(*_: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await leaving.Farewell(cut_off, lambda: False)({"type": "http"}, cut_off, cut_off)
