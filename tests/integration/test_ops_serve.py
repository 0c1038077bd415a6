"""`resilience serve` as its own process, and the commands that ask it: status, isolate, reset, ops-files."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from ops_server import process, scripted, serving, where, written

from resilience.ops.cli import main
from resilience.testing import LoopbackProvider

if TYPE_CHECKING:
    from pathlib import Path


async def test_sigterm_answers_what_is_on_its_way_ends_event_streams_and_leaves_in_peace(tmp_path: Path) -> None:
    with LoopbackProvider(latency_seconds=0.6) as provider:
        async with process("serve", written(tmp_path, provider), "--port", "0", "--notice-seconds", "0.2") as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                assert (await client.get("/ready")).status_code == 200
                requests = [asyncio.create_task(client.post("/process", json={"input": "hi"})) for _ in range(5)]
                async with client.stream("GET", "/events") as stream:
                    lines = stream.aiter_lines()
                    await anext(lines)
                    for _ in range(1000):
                        if len(provider.requests) == 5:
                            break
                        await asyncio.sleep(0.01)
                    child.send_signal(signal.SIGTERM)
                    told = [line async for line in lines]
                assert "event: end" in told
                answers = await asyncio.gather(*requests)
                assert [(told := answer.json())["error"] or told["status"] for answer in answers] == ["completed"] * 5
            assert await asyncio.wait_for(child.wait(), 20) == 0
            assert b"sk-planted-secret" not in await child.stderr.read()


async def test_its_log_tells_when_and_tells_recoveries_too(tmp_path: Path) -> None:
    with LoopbackProvider() as provider:
        async with process("serve", written(tmp_path, provider), "--port", "0") as child:
            url = await where(child)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                assert (await client.post("/breakers/provider/openai/isolate")).status_code == 200
                assert (await client.post("/breakers/provider/openai/reset")).status_code == 200
            child.terminate()
            _, told = await asyncio.wait_for(child.communicate(), 20)
            lines = [line for line in told.decode().splitlines() if "resilience.circuit." in line]
            assert [re.search(r"circuit\.\w+", line)[0] for line in lines] == ["circuit.isolated", "circuit.closed"]
            assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) event=", line) for line in lines)


async def test_it_refuses_to_listen_where_others_could_reach_it_without_a_token(tmp_path: Path) -> None:
    with LoopbackProvider() as provider:
        async with process("serve", written(tmp_path, provider), "--host", "0.0.0.0", "--port", "0") as child:
            out, told = await asyncio.wait_for(child.communicate(), 60)
            assert (child.returncode, out) == (1, b"")
            assert b"RESILIENCE_TOKEN" in told
            assert told.count(b"\n") == 1


async def test_with_a_token_it_listens_there(tmp_path: Path) -> None:
    with LoopbackProvider() as provider:
        arguments = ("serve", written(tmp_path, provider), "--host", "0.0.0.0", "--port", "0")
        async with process(*arguments, RESILIENCE_TOKEN="read:the-read-token") as child:
            port = (await where(child)).rpartition(":")[2]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                assert (await client.get("/status")).status_code == 401
                headers = {"Authorization": "Bearer the-read-token", "Host": "ops.example.com"}
                assert (await client.get("/status", headers=headers)).status_code == 200
            child.terminate()
            assert await asyncio.wait_for(child.wait(), 20) == 0


@pytest.mark.parametrize(
    ("arguments", "tokens", "said"),
    [
        (["serve", "nowhere.yaml"], None, "there is no such file"),
        (["serve", "FILE", "--port", "99999"], None, "0 to 65535"),
        (["serve", "FILE", "--drain-seconds", "soon"], None, "0 to 3600"),
        (["serve", "FILE", "--notice-seconds", "-1"], None, "0 to 3600"),
        (["serve", "FILE"], "raed:the-secret", "role that is not known"),
        (["serve", "FILE"], "admin:", "no usable token"),
        (["serve", "FILE"], " , ", "holds no token"),
        (["serve", "FILE", "--host", "203.0.113.1"], "admin:x", "cannot listen"),
        (["status", "--url", "ftp://x"], None, "not allowed"),
        (["status", "--url", "http://127.0.0.1:1"], None, "cannot be reached"),
        (["status", "--storage", "redis://127.0.0.1:1"], None, "redis"),
        (["isolate", "gpt", "--storage", "ftp://x"], None, "--storage"),
        (["isolate", "gpt", "--storage", "redis://:the-secret@x?foo=1"], None, "--storage: option foo is not allowed"),
        (["status", "--storage", "redis://x/abc"], None, "--storage: the path must be a database's number"),
        (["status", "--storage", "rediss://127.0.0.1:1?ssl_ca_certs=/none.pem"], None, "rediss://127.0.0.1:1"),
        (["status", "--url", "http://127.0.0.1:1", "--storage", "redis://x"], None, "exclude each other"),
        (["status", "--url", "http://127.0.0.1:abc"], None, "allowed: http://HOST:PORT"),
        (["status", "--url", "http://127.0.0.1:99999"], None, "allowed: http://HOST:PORT"),
        (["status", "--url", "http://127.0.0.1:0"], None, "allowed: http://HOST:PORT"),
        (["status", "--url", "http://exa mple.com"], None, "allowed: http://HOST:PORT"),
        (["isolate", "x", "--url", "http://[::1"], None, "allowed: http://HOST:PORT"),
        (["status", "--url", "http://ops:the-secret@127.0.0.1:1"], None, "put the token into RESILIENCE_TOKEN"),
        (["status", "--url", "http://ops:the/the-secret@127.0.0.1:1"], None, "put the token into RESILIENCE_TOKEN"),
        (["isolate"], None, "NAME"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    tokens: str | None,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"routes": {}}')
    monkeypatch.delenv("RESILIENCE_TOKEN", raising=False)
    if tokens is not None:
        monkeypatch.setenv("RESILIENCE_TOKEN", tokens)
    assert main([str(file) if argument == "FILE" else argument for argument in arguments]) in {1, 2}
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "the-secret" not in told


async def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    async with process(*arguments, **variables) as child:
        out, told = await asyncio.wait_for(child.communicate(), 60)
        return child.returncode, out.decode(), told.decode()


async def test_status_isolate_and_reset_ask_a_running_server() -> None:
    async with scripted() as fb, serving(fb, "admin:the-admin-token,read:the-read-token") as running:
        admin = {"RESILIENCE_URL": running.url, "RESILIENCE_TOKEN": "read:the-read-token,admin:the-admin-token"}
        status, out, told = await run("isolate", "openai", "--reason", "bad \x1b[2Jdeploy", **admin)
        assert (status, told) == (0, "")
        assert out == "provider openai is isolated: bad [2Jdeploy\n"

        status, out, _ = await run("status", **admin)
        assert status == 0
        assert "openai is isolated: a person took it out: bad [2Jdeploy." in out
        assert re.search(r"chat\s+claude", out)
        assert re.search(r"gpt\s+out with its provider", out)

        status, out, _ = await run("status", "--json", "--url", running.url, RESILIENCE_TOKEN="read:the-read-token")
        assert (status, json.loads(out)["routes"][0]["serving"]) == (0, "claude")

        status, _, told = await run(
            "reset", "openai", RESILIENCE_URL=running.url, RESILIENCE_TOKEN="read:the-read-token"
        )
        assert status == 1
        assert "admin's token" in told
        assert fb.registry.providers["openai"].current_state == "isolated"
        status, _, told = await run("reset", "opena", **admin)
        assert status == 1
        assert "claude" in told
        fb.registry.targets["claude"].isolate("")
        assert (await run("status", **admin))[0] == 1  # nobody serves the route
        assert (await run("reset", "openai", "--kind", "provider", **admin))[0] == 0
        assert fb.registry.providers["openai"].current_state == "closed"


async def test_watching_goes_on_until_it_is_stopped() -> None:
    async with (
        scripted() as fb,
        serving(fb) as running,
        process("status", "--watch", "--json", "--url", running.url) as child,
    ):
        first = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
        fb.registry.targets["gpt"].isolate("seen")
        second = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
        assert (first["headline"]["tone"], second["headline"]["tone"]) == ("good", "warn")
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 20) == 130


async def test_a_redirect_does_not_carry_the_token_away(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    seen: list[bytes] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /stolen\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    monkeypatch.setenv("RESILIENCE_TOKEN", "admin:the-admin-token")
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await asyncio.to_thread(main, ["status", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert len(seen) == 1
    assert "302" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"status": "ok"}', "is no resilience server: its /{path} has no {missing}"),
        (b"[]", "is no resilience server: its /{path} has no {missing}"),
        (b"<html>hi</html>", "is no resilience server: its /{path} is no JSON"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "is no resilience server: what answers there does not speak HTTP"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"a"', "broke off in the middle of its answer"),
    ],
)
@pytest.mark.parametrize(
    ("command", "path", "missing"),
    [
        (["status"], "status", "headline, at, routes, breakers"),
        (["isolate", "x"], "breakers", "providers, targets"),
        (["reset", "x", "--kind", "target"], "breakers/target/x/reset", "role, name, state, reason"),
    ],
)
async def test_something_else_at_that_address_is_said_in_one_line(
    answer: bytes, said: str, command: list[str], path: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        is_raw = answer.startswith((b"SSH", b"HTTP"))
        writer.write(answer if is_raw else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        writer.close()

    server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await asyncio.to_thread(main, [*command, "--url", url]) == 1
    assert capsys.readouterr().err == f"resilience: {url} {said.format(path=path, missing=missing)}\n"


def test_ops_files_are_written_and_not_over_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goal = tmp_path / "ops"
    assert main(["ops-files", str(goal)]) == 0
    names = {file.name for file in goal.iterdir()}
    assert {"alerts.yaml", "grafana-dashboard.json", "kubernetes.yaml", "Containerfile"} <= names
    (goal / "alerts.yaml").write_text("mine")
    assert main(["ops-files", str(goal)]) == 0
    assert (goal / "alerts.yaml").read_text() == "mine"
    assert main(["ops-files", str(goal), "--force"]) == 0
    assert (goal / "alerts.yaml").read_text() != "mine"
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert main(["ops-files", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
