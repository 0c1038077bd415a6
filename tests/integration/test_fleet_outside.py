"""A fleet from outside: every breaker is listed and steered, and nothing is said to be well that is not known to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fleet_members import Peer, eventually

from resilience.errors import UnknownNameError
from resilience.ops.cli import main
from resilience.ops.fleet import StorageError, read_fleet, render, steer_fleet
from resilience.storage.names import Name, read_name, write_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilience.testing.store import LoopbackStore

ROW = "{resilience}:row:provider:openai"
BREAKERS = "{resilience}:breakers"


@pytest.fixture
def peer(store: LoopbackStore) -> Iterator[Peer]:
    """One process, whose breakers have never left closed: provider openai, target t."""
    peer = Peer(store.url)
    assert eventually(lambda: peer.agent.online)
    yield peer
    peer.close()


def test_a_breaker_that_never_left_closed_is_listed_and_isolated(store: LoopbackStore, peer: Peer) -> None:
    found = read_fleet(store.url)
    assert [(one.kind, one.name, one.state) for one in found.breakers] == [
        ("provider", "openai", "closed"),
        ("target", "t", "closed"),
    ]
    assert "target t" in render(found)
    assert main(["isolate", "t", "--storage", store.url, "--reason", "bad deploy"]) == 0
    assert eventually(lambda: peer.registry.targets["t"].current_state == "isolated")
    assert main(["isolate", "openai", "--storage", store.url]) == 0
    assert eventually(lambda: peer.state == "isolated")
    steer_fleet(store.url, "reset", "t")
    assert eventually(lambda: peer.registry.targets["t"].current_state == "closed")


def test_a_breaker_that_comes_later_is_known_too(store: LoopbackStore, peer: Peer) -> None:
    assert peer.registry.providers["openai"]
    peer.registry._roster.provider("search-api")
    assert eventually(lambda: b"search-api" in store.command("ZRANGE", BREAKERS, "0", "-1"))
    assert steer_fleet(store.url, "isolate", "search-api").state == "isolated"


def test_a_name_that_nobody_has_is_refused_with_the_known_ones(store: LoopbackStore, peer: Peer) -> None:
    with pytest.raises(UnknownNameError, match=r"no breaker 'opnai'; known: openai, t; .* --kind provider"):
        steer_fleet(store.url, "isolate", "opnai")
    with pytest.raises(UnknownNameError, match=r"no target 'openai'; known: openai, t$"):
        steer_fleet(store.url, "isolate", "openai", kind="target")
    assert peer.state == "closed"


@pytest.mark.usefixtures("peer")
def test_an_unknown_name_with_its_kind_is_done_and_said_to_be_nobodys(
    store: LoopbackStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # its own row makes it no better known
        assert main(["isolate", "opnai", "--kind", "provider", "--storage", store.url]) == 0
        out, told = capsys.readouterr()
        assert out.startswith("provider opnai is isolated in the fleet")
        assert told == "resilience: no process of the fleet has a provider 'opnai'; known: openai\n"
    assert main(["isolate", "openai", "--kind", "provider", "--storage", store.url]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("peer")
def test_names_end_by_themselves_and_garbage_among_them_is_no_name(store: LoopbackStore) -> None:
    assert 0 < int(store.command("PTTL", BREAKERS)[1:]) <= 900_000
    now = int(store.command("TIME").split(b"\r\n")[2]) * 1000
    for age, text in ((0, "garbage"), (0, '{"id": 5}'), (901_000, write_name(Name("provider:old", "old", "provider")))):
        store.command("ZADD", BREAKERS, str(now - age), text)
    newer = {"id": "provider:n", "name": "n", "role": "provider", "weight": 3}
    store.command("ZADD", BREAKERS, str(now), json.dumps(newer))
    assert [one.name for one in read_fleet(store.url).breakers] == ["n", "openai", "t"]
    assert read_name(json.dumps(newer)) == Name("provider:n", "n", "provider")


def test_a_store_that_refuses_the_names_shares_the_state_all_the_same(store: LoopbackStore) -> None:
    store.command("SET", BREAKERS, "somebody else's")
    one, other = Peer(store.url), Peer(store.url)
    try:
        one.fail(5)
        assert eventually(lambda: other.state == "open")
        assert not one.told("StorageDegraded")
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize(
    ("stands", "why"),
    [
        ('{"v": 99, "id": "provider:openai", "gen": 3, "state": "isolated"}', "a newer version of this package"),
        ("garbage\x1b[2J", "garbage"),
        ('{"a": 1}', "garbage"),
        (None, r"garbage (a list)"),
    ],
)
@pytest.mark.usefixtures("peer")
def test_a_row_that_cannot_be_read_is_told_and_nothing_is_said_to_be_well(
    store: LoopbackStore, stands: str | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if stands is None:
        store.command("LPUSH", ROW, "x")
    else:
        store.command("SET", ROW, stands)
    assert main(["status", "--storage", store.url]) == 1
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "cannot be read" in line)
    assert line.startswith("provider openai cannot be read: ")
    assert why in line
    assert "closed all along" not in out
    assert "\x1b" not in out
    assert main(["status", "--json", "--storage", store.url]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["unreadable"]] == ["openai"]
    assert [one["name"] for one in told["breakers"]] == ["t"]


def test_a_breaker_whose_row_a_newer_version_wrote_is_left_to_that_one(store: LoopbackStore) -> None:
    store.command("SET", ROW, '{"v": 99}')
    store.command("ZADD", "{resilience}:index", "1", "provider:openai")  # and nobody has said that he has it
    assert [one.name for one in read_fleet(store.url).unreadable] == ["openai"]
    with pytest.raises(StorageError, match="a newer version of this package wrote 'openai'"):
        steer_fleet(store.url, "reset", "openai")
    store.command("SET", ROW, "garbage")
    assert steer_fleet(store.url, "reset", "openai").state == "closed"


def test_where_nothing_is_known_nothing_is_claimed(store: LoopbackStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--storage", store.url]) == 0
    out = capsys.readouterr().out
    assert "0 processes in the fleet" in out
    assert "Nothing is known of any breaker" in out


def test_garbage_where_changes_are_counted_is_named_until_somebody_deletes_it(
    store: LoopbackStore, peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    store.command("SET", "{resilience}:revision", "garbage")
    peer.fail(5)  # its script is the first to stumble
    assert eventually(lambda: peer.told("StorageDegraded"))
    assert "the key {resilience}:revision holds no number; delete it" in peer.agent.trouble.reason
    assert main(["isolate", "openai", "--kind", "provider", "--storage", store.url]) == 1
    assert "{resilience}:revision holds no number" in capsys.readouterr().err
    late = Peer(store.url)
    try:
        assert eventually(lambda: late.agent.trouble)
        assert "{resilience}:revision" in late.agent.trouble.reason
        store.command("DEL", "{resilience}:revision")
        assert eventually(lambda: peer.agent.online and late.agent.online)
        assert eventually(lambda: late.state == "open")
    finally:
        late.close()


def test_a_script_that_stumbles_over_the_index_names_it(store: LoopbackStore, peer: Peer) -> None:
    store.command("SET", "{resilience}:index", "garbage")
    peer.fail(5)
    assert eventually(lambda: peer.agent.trouble)
    assert "the key {resilience}:index holds something of another type" in peer.agent.trouble.reason


@pytest.mark.parametrize("key", ["revision", "index", "members", "breakers"])
def test_a_key_of_another_type_is_named(store: LoopbackStore, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    store.command("LPUSH", f"{{resilience}}:{key}", "somebody else's")
    assert main(["status", "--storage", store.url]) == 1
    told = capsys.readouterr().err
    assert f"the key {{resilience}}:{key} holds something of another type" in told
    assert told.count("\n") == 1
