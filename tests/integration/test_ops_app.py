"""The ops app over real HTTP: what it shows, what it lets do, and whom."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from ops_server import scripted, serving
from starlette.applications import Starlette
from starlette.routing import Mount

from resilience.ops.app import create_app
from resilience.outcome import Kind
from resilience.testing.upstream import Fail

ADMIN = {"Authorization": "Bearer the-admin-token"}
READ = {"Authorization": "Bearer the-read-token"}
TOKENS = "admin:the-admin-token,read:the-read-token"
HI = {"input": "hi"}


async def next_event(lines: Any, name: str) -> dict[str, Any]:
    """The next server-sent event of a name."""
    kind = ""
    async for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: ") and kind == name:
            return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended")


async def test_health_and_readiness_follow_the_routes() -> None:
    async with scripted() as fb, serving(fb) as running:
        assert (await running.client.get("/health")).json() == {"status": "ok"}
        assert (await running.client.get("/ready")).json() == {"status": "ready", "routes": {"chat": True}}
        for name in ("gpt", "claude"):
            fb.registry.targets[name].isolate("test")
        answer = await running.client.get("/ready")
        assert (answer.status_code, answer.json()["routes"]) == (503, {"chat": False})
        assert (await running.client.get("/health")).status_code == 200


async def test_a_runtime_without_routes_is_ready() -> None:
    async with scripted(config={"routes": {}}) as fb, serving(fb) as running:
        assert (await running.client.get("/ready")).status_code == 200


async def test_breakers_are_the_registrys_snapshot() -> None:
    async with scripted() as fb, serving(fb) as running:
        shown = (await running.client.get("/breakers")).json()
        assert set(shown["providers"]) == {"openai", "anthropic"}
        assert shown["targets"]["gpt"]["state"] == "closed"
        one = (await running.client.get("/breakers/target/gpt")).json()
        assert (one["name"], one["role"]) == ("gpt", "target")


async def test_isolate_and_reset_steer_the_breaker() -> None:
    async with scripted() as fb, serving(fb) as running:
        answer = await running.client.post("/breakers/provider/openai/isolate", json={"reason": "bad deploy"})
        assert (answer.status_code, answer.json()["state"], answer.json()["reason"]) == (200, "isolated", "bad deploy")
        assert fb.registry.rotation("chat") == ["claude"]
        answer = await running.client.post("/breakers/provider/openai/reset")
        assert (answer.status_code, answer.json()["state"]) == (200, "closed")
        assert fb.registry.rotation("chat") == ["gpt", "claude"]


async def test_a_reset_provider_is_asked_again_with_the_targets_that_went_out_with_it() -> None:
    down = Fail(Kind.SERVER_ERROR, status=503)
    async with scripted({"gpt": down}) as fb, serving(fb) as running:
        for _ in range(5):
            await fb.acompletion("chat", [{"role": "user", "content": "hi"}])
        assert {fb.registry.providers["openai"].current_state, fb.registry.targets["gpt"].current_state} == {"open"}
        fb.registry.providers["anthropic"].isolate("not now")
        fb.registry.targets["claude"].isolate("nor this")
        assert (await running.client.post("/breakers/provider/openai/reset")).json()["state"] == "closed"
        assert (await running.client.post("/breakers/provider/anthropic/reset")).json()["state"] == "closed"
        assert fb.registry.rotation("chat") == ["gpt"]
        assert fb.registry.targets["claude"].current_state == "isolated"  # a person did that, on purpose
        assert fb.registry.targets["gpt"].current_state == "closed"


async def test_what_no_browser_sends_is_refused_and_breaks_nothing() -> None:
    async def ask(head: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
        answer = await reader.read()
        writer.close()
        return answer.split(b" ")[1]

    for tokens in (None, TOKENS):
        async with scripted() as fb, serving(fb, tokens) as running:
            refused = b"403" if tokens is None else b"401"
            for host in ("[", "[::1", "a b", "\xff", "localhost:x:y["):
                assert await ask(f"GET /status HTTP/1.1\r\nHost: {host}") == refused, host
                assert await ask(f"POST /session HTTP/1.1\r\nHost: {host}") in {b"400", b"415"}, host
            for origin in ("http://[", "http://[::1", "[", "\xff", "null"):
                steer = f"POST /breakers/target/gpt/isolate HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}"
                assert await ask(steer) == refused, origin
            assert fb.registry.targets["gpt"].current_state == "closed"


async def test_a_fleets_store_that_is_gone_is_shown_to_whoever_looks_later() -> None:
    from resilience.events import StorageDegraded, StorageRestored

    async with scripted() as fb:
        fb.registry.publish(StorageDegraded("redis://store:6379: refused"))
        async with serving(fb) as running:
            told = (await running.client.get("/status")).json()
            assert "redis://store:6379: refused" in told["fleet_trouble"]
            assert "resilience_fleet_degraded 1.0" in (await running.client.get("/metrics")).text
            fb.registry.publish(StorageRestored(3.0))
            assert (await running.client.get("/status")).json()["fleet_trouble"] is None
            assert "resilience_fleet_degraded 0.0" in (await running.client.get("/metrics")).text


async def test_a_name_may_hold_slashes_and_colons() -> None:
    config = {"routes": {"chat": {"targets": [{"model": "openai/gpt-4o-mini", "provider": "azure/east:443"}]}}}
    async with scripted(config=config) as fb, serving(fb) as running:
        for path in ("provider/azure/east:443", "provider/azure%2Feast%3A443", "target/openai/gpt-4o-mini"):
            assert (await running.client.post(f"/breakers/{path}/isolate")).json()["state"] == "isolated", path
        assert fb.registry.providers["azure/east:443"].current_state == "isolated"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("provider/nobody/isolate", b"{}", 404),
        ("planet/openai/isolate", b"{}", 404),
        ("provider/openai/explode", b"{}", 405),
        ("provider/openai/isolate", b'{"reason": 7}', 400),
        ("provider/openai/isolate", b'{"motive": "x"}', 400),
        ("provider/openai/isolate", b"[]", 400),
        ("provider/openai/isolate", b"{", 400),
        ("provider/openai/isolate", b"[" * 4000, 400),
        ("provider/openai/isolate", b" " * 5000, 413),
    ],
)
async def test_wrong_steering_changes_nothing(path: str, body: bytes, status: int) -> None:
    async with scripted() as fb, serving(fb) as running:
        answer = await running.client.post(
            f"/breakers/{path}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status
        assert answer.json()["error"]
        assert fb.registry.providers["openai"].current_state == "closed"


async def test_an_unknown_name_lists_the_known_ones() -> None:
    async with scripted() as fb, serving(fb) as running:
        told = (await running.client.post("/breakers/provider/opnai/reset")).json()["error"]
        assert "openai" in told
        assert "anthropic" in told


async def test_a_reason_is_one_plain_line_of_bounded_length() -> None:
    async with scripted() as fb, serving(fb) as running:
        await running.client.post("/breakers/target/gpt/isolate", json={"reason": "a\x1b[31m\n" + "b" * 500})
        reason = fb.snapshot().targets["gpt"].reason
        assert reason is not None
        assert reason.isprintable()
        assert len(reason) == 200


async def test_process_takes_a_request_and_gives_a_response() -> None:
    async with scripted({"gpt": Fail(Kind.SERVER_ERROR, status=503)}) as fb, serving(fb) as running:
        answer = await running.client.post("/process", json={"id": "7", **HI})
        assert answer.status_code == 200
        told = answer.json()
        assert (told["request_id"], told["status"], told["output"], told["provider"]) == (
            "7",
            "completed",
            "ok",
            "anthropic",
        )


async def test_a_failed_request_is_an_answer_with_a_status() -> None:
    fails = {name: Fail(Kind.AUTH, status=401) for name in ("gpt", "claude")}
    async with scripted(fails) as fb, serving(fb) as running:
        answer = await running.client.post("/process", json=HI)
        assert (answer.status_code, answer.json()["status"], answer.json()["model_used"]) == (200, "failed", "none")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"input": "hi"}', "text/plain", 415),
        (b"", "application/json", 400),
        (b"nonsense", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"input": " "}', "application/json", 422),
        (b'{"input": "hi", "colour": 1}', "application/json", 422),
        (b'{"input": "hi", "priority": 99}', "application/json", 422),
        (b'{"input": "planted-prompt", "model": "no such route"}', "application/json", 400),
        (b'"' + b"x" * 1_100_000 + b'"', "application/json", 413),
    ],
)
async def test_a_bad_request_is_told_why_and_repeated_to_nobody(body: bytes, kind: str, status: int) -> None:
    async with scripted() as fb, serving(fb) as running:
        answer = await running.client.post("/process", content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert answer.json()["error"]
        assert "planted-prompt" not in answer.text


async def test_events_are_told_as_they_happen_and_again_to_whoever_was_away() -> None:
    async with scripted() as fb, serving(fb) as running:
        fb.registry.targets["gpt"].isolate("first")
        async with running.client.stream("GET", "/events") as stream:
            lines = stream.aiter_lines()
            first = await next_event(lines, "fact")
            assert (first["event"], first["breaker"], first["reason"]) == ("circuit.isolated", "gpt", "first")
            fb.registry.targets["gpt"].reset()
            assert (await next_event(lines, "fact"))["event"] == "circuit.closed"
        last = f"{running.server.app.state.ops.live.journal.run}-{first['number']}"
        async with running.client.stream("GET", "/events", headers={"Last-Event-ID": last}) as stream:
            assert (await next_event(stream.aiter_lines(), "fact"))["event"] == "circuit.closed"


async def test_readings_come_with_the_events_for_those_who_ask() -> None:
    path = "/events?standing=1&only=changes"
    async with scripted() as fb, serving(fb) as running, running.client.stream("GET", path) as stream:
        lines = stream.aiter_lines()
        assert (await next_event(lines, "standing"))["headline"]["tone"] == "good"
        fb.registry.providers["openai"].isolate("out for tea")
        told = await next_event(lines, "standing")
        assert told["headline"]["tone"] == "warn"
        assert "out for tea" in told["headline"]["text"]


async def test_a_reader_that_leaves_gives_its_place_back() -> None:
    async with scripted() as fb, serving(fb) as running:
        places = running.server.app.state.ops._subscribers
        async with running.client.stream("GET", "/events") as stream:
            await next_event_or_line(stream)
            assert places.taken == 1
        for _ in range(500):
            if not places.taken:
                break
            await asyncio.sleep(0.01)
        assert places.taken == 0


async def next_event_or_line(stream: httpx.Response) -> str:
    async for line in stream.aiter_lines():
        return line
    return ""


async def test_every_answer_forbids_foreign_scripts_and_sniffing() -> None:
    async with scripted() as fb, serving(fb) as running:
        for path in ("/", "/page.js", "/page.css", "/health", "/status", "/nowhere", "/breakers/x/y"):
            headers = (await running.client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy, path
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"


async def test_without_a_token_only_this_machine_by_its_own_name_is_served() -> None:
    async with scripted() as fb, serving(fb) as running:
        get = running.client.get
        assert (await get("/status", headers={"Host": f"localhost:{running.port}"})).status_code == 200
        assert (await get("/status", headers={"Host": "evil.example.com"})).status_code == 403
        assert (await get("/status", headers={"X-Forwarded-For": "203.0.113.9"})).status_code == 403
        far = httpx.ASGITransport(running.server.app, client=("203.0.113.9", 5000))
        async with httpx.AsyncClient(transport=far, base_url="http://127.0.0.1") as stranger:
            assert (await stranger.get("/status")).status_code == 403
            assert (await stranger.post("/breakers/provider/openai/isolate")).status_code == 403
            assert (await stranger.get("/health")).status_code == 200
            assert "routes" not in (await stranger.get("/ready")).json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200),
    ],
)
async def test_another_sites_page_cannot_steer(headers: dict[str, str], status: int) -> None:
    async with scripted() as fb, serving(fb) as running:
        answer = await running.client.post("/breakers/provider/openai/isolate", headers=headers)
        assert answer.status_code == status
        assert fb.registry.providers["openai"].current_state == ("isolated" if status == 200 else "closed")


async def test_tokens_open_what_they_are_for() -> None:
    async with scripted() as fb, serving(fb, TOKENS) as running:
        client = running.client
        for path in ("/status", "/breakers", "/events", "/metrics"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        wrong = {"Authorization": "Bearer the-admin-tokem"}
        assert (await client.get("/status", headers=wrong)).status_code == 401
        assert (await client.get("/status", headers=READ)).json()["role"] == "read"
        assert (await client.post("/breakers/provider/openai/isolate", headers=READ)).status_code == 403
        assert (await client.post("/process", json=HI, headers=READ)).status_code == 403
        assert fb.registry.providers["openai"].current_state == "closed"
        assert (await client.post("/breakers/provider/openai/isolate", headers=ADMIN)).status_code == 200
        for open_to_all in ("/", "/health", "/ready"):
            answer = await client.get(open_to_all)
            assert answer.status_code == 200
            assert "openai" not in answer.text


async def test_guessing_tokens_is_slowed_down_and_locks_nobody_out() -> None:
    async with scripted() as fb, serving(fb, TOKENS) as running:
        client = running.client
        wrong = {"Authorization": "Bearer guess"}
        told = [(await client.get("/status", headers=wrong)).status_code for _ in range(10)]
        assert told == [401] * 10
        for answer in (
            await client.get("/status", headers=wrong),
            await client.post("/session", json={"token": "guess"}),
        ):
            assert (answer.status_code, 1 <= int(answer.headers["retry-after"]) <= 6) == (429, True)
        assert (await client.get("/status")).status_code == 401  # nobody guessed: the page asks for a token
        assert (await client.get("/status", headers=ADMIN)).json()["role"] == "admin"
        assert (await client.post("/session", json={"token": "the-admin-token"})).status_code == 200


async def test_a_session_is_signed_and_needs_the_same_origin() -> None:
    async with scripted() as fb, serving(fb, TOKENS) as running:
        client = running.client
        assert (await client.post("/session", json={"token": "wrong"})).status_code == 401
        answer = await client.post("/session", json={"token": "the-admin-token"})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "the-admin-token" not in cookie
        assert (await client.get("/status")).json()["role"] == "admin"
        foreign = await client.post("/breakers/provider/openai/isolate", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        own = await client.post("/breakers/provider/openai/isolate", headers={"Origin": running.url})
        assert own.status_code == 200
        value = client.cookies["resilience_session"]
        expires, _, signature = value.partition(".")
        for forged in (f"{int(expires) + 9999}.{signature}", f"{expires}.{'0' * 64}", "1.é", "x", ""):
            raw = {"Cookie": f"resilience_session={forged}".encode()}
            async with httpx.AsyncClient(base_url=running.url, trust_env=False) as other:
                assert (await other.get("/status", headers=raw)).status_code == 401
        await client.delete("/session")
        assert (await client.get("/status")).status_code == 401


async def test_it_mounts_in_somebody_elses_app() -> None:
    async with scripted() as fb:
        app = Starlette(routes=[Mount("/deep/ops", create_app(fb))])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/deep/ops/ready")).status_code == 200
            page = (await client.get("/deep/ops/")).text
            assert 'src="page.js"' in page
            assert (await client.get("/deep/ops/page.js")).status_code == 200
            assert (await client.post("/deep/ops/breakers/target/gpt/isolate")).status_code == 200
        assert fb.registry.rotation("chat") == ["claude"]


async def test_no_key_is_in_any_answer() -> None:
    async with scripted({"gpt": Fail(Kind.AUTH, status=401)}) as fb, serving(fb, TOKENS) as running:
        await running.client.post("/process", json={"input": "planted-prompt"}, headers=ADMIN)
        seen = ""
        for path in ("/", "/page.js", "/status", "/breakers", "/metrics", "/ready", "/nowhere"):
            seen += (await running.client.get(path, headers=ADMIN)).text
        async with running.client.stream("GET", "/events", headers=ADMIN) as stream:
            seen += json.dumps(await next_event(stream.aiter_lines(), "fact"))
        for secret in ("sk-planted-secret", "planted-prompt", "the-admin-token", "the-read-token"):
            assert secret not in seen


async def test_what_nobody_expected_is_told_by_its_type_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("planted-prompt")

    async with scripted() as fb, serving(fb) as running:
        monkeypatch.setattr(fb, "process", broken)
        answer = await running.client.post("/process", json=HI)
        assert (answer.status_code, "planted-prompt" in answer.text) == (500, False)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await running.client.get("/health")).status_code == 200
    told = "\n".join(record.getMessage() + str(record.exc_text) + str(record.exc_info) for record in caplog.records)
    assert "RuntimeError" in told
    assert "planted-prompt" not in told


async def test_too_many_at_once_are_told_to_come_back() -> None:
    async with scripted() as fb:
        app = create_app(fb, max_requests=0, max_subscribers=0)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            for answer in (await client.post("/process", json=HI), await client.get("/events")):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_the_page_is_small_and_holds_no_inline_script() -> None:
    from resilience.ops.app import PAGE

    files = {file.name: file.read_text() for file in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 60 * 1024
    page = files["index.html"]
    assert page.count("<script") == page.count('<script src="page.js" defer></script>') == 1
    assert "style=" not in page
    assert " on" + "click" not in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    script = files["page.js"]
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", ".style"):
        assert unsafe not in script
