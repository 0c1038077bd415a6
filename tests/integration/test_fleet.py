"""A fleet on a real Valkey server: what one process knows, all know; and nobody waits for it."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from fleet_members import Member, Peer, eventually

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import RejectedError, UnknownNameError
from resilience.ops.fleet import StorageError, read_fleet, render, steer_fleet
from resilience.outcome import Kind
from resilience.testing.store import LoopbackStore, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROW = "{resilience}:row:provider:openai"


@pytest.fixture
def own_store() -> Iterator[LoopbackStore]:
    with LoopbackStore() as store:
        yield store


@pytest.fixture
def join() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(store: LoopbackStore, **breaker: Any) -> Peer:
        peers.append(Peer(store.url, **breaker))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def test_a_trip_in_one_is_known_to_all(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one, other = join(store), join(store)
    one.fail(5)
    assert eventually(lambda: other.state == "open")
    assert other.told("CircuitOpened") == one.told("CircuitOpened") == 1
    ends = [peer.breaker.rules.state.until for peer in (one, other)]
    assert abs(ends[0] - ends[1]) < 0.1, "one end for the whole fleet"


def test_who_joins_during_an_outage_starts_with_what_is_known(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one = join(store)
    one.fail(5)
    assert eventually(lambda: b'"open"' in store.command("GET", ROW))
    assert join(store).state == "open"


def test_isolate_and_reset_reach_everyone(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one, other = join(store), join(store)
    one.breaker.isolate("bad deploy")
    assert eventually(lambda: other.state == "isolated")
    assert other.registry.snapshot().providers["openai"].reason == "bad deploy"
    other.breaker.reset()
    assert eventually(lambda: one.state == "closed")


def test_a_fleet_trips_on_its_sum(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    peers = [join(store) for _ in range(5)]
    for peer in peers:
        peer.fail(1)  # far from five in a row, in each
    assert eventually(lambda: {peer.state for peer in peers} == {"open"})


def test_failures_among_everybodys_successes_do_not_trip(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    good, bad = join(store), join(store)
    for _ in range(40):
        good.breaker.acquire().success()
    bad.fail(4)
    good.breaker.acquire().success()
    count = ROW.replace("row:", "count:")
    assert eventually(lambda: store.command("GET", count).count(b'"s"') and b'"s":0' in store.command("GET", count))
    assert good.state == bad.state == "closed"


def test_the_whole_fleet_sends_one_probe_at_a_time(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    peers = [join(store, open_seconds=0.2) for _ in range(4)]
    peers[0].fail(5)
    assert eventually(lambda: {peer.state for peer in peers} == {"open"})
    held = []

    def somebody_probes() -> bool:
        held.extend((peer, peer.breaker.acquire()) for peer in peers if peer.breaker.is_eligible())
        return bool(held)

    assert eventually(somebody_probes)
    for _ in range(20):  # everybody keeps asking while it is in flight
        SYSTEM_CLOCK.sleep(0.02)
        somebody_probes()
    assert len(held) == 1
    held[0][1].success()

    def recovers() -> bool:
        for peer in peers:
            if peer.breaker.is_eligible():
                peer.breaker.acquire().success()
        return {peer.state for peer in peers} == {"closed"}

    assert eventually(recovers)


def test_a_failed_probe_opens_the_fleet_for_longer(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one, other = join(store, open_seconds=0.2), join(store, open_seconds=0.2)
    one.fail(5)
    assert eventually(lambda: other.state == "open")
    assert eventually(one.breaker.is_eligible)
    one.fail(1)
    assert eventually(lambda: other.told("CircuitOpened") == 2)
    assert other.breaker.rules.state.rounds == 1


def test_eager_probes_are_one_a_second_in_the_whole_fleet(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    peers = [join(store, open_seconds=60) for _ in range(3)]
    peers[0].fail(5)
    assert eventually(lambda: {peer.state for peer in peers} == {"open"})
    sent: list[float] = []

    def probe() -> bool:
        for peer in peers:
            admission = peer.registry.admit_eager(peer.target)
            if admission is not None:
                sent.append(SYSTEM_CLOCK.monotonic())
                admission.give_back()
        return len(sent) == 3

    assert eventually(probe)
    assert min(later - sooner for sooner, later in pairwise(sent)) > 0.9


def test_eager_probes_past_a_doubt_are_one_a_second_in_the_whole_fleet(
    store: LoopbackStore, join: Callable[..., Peer]
) -> None:
    peers = [join(store, open_seconds=0.3, probe_successes=2) for _ in range(3)]
    peers[0].fail(5)
    assert eventually(lambda: {peer.state for peer in peers} == {"open"})
    assert eventually(peers[0].breaker.is_eligible)
    # The doubt outlasts the test in the one who has it and in those who are told.
    peers[0].breaker.rules.policy = peers[0].breaker.rules.policy.model_copy(update={"open_seconds": 60})
    peers[0].breaker.acquire(source="a").failure(kind=Kind.SERVER_ERROR)
    assert eventually(lambda: all("a" in getattr(peer.breaker.rules.state, "doubters", ()) for peer in peers))
    sent: list[float] = []

    def probe(answer: Callable[[Any], None]) -> bool:
        for peer in peers:
            permit = peer.breaker.acquire_eager(source="a")
            if permit is not None:
                sent.append(SYSTEM_CLOCK.monotonic())
                answer(permit)
                return True
        return False

    for _ in range(3):
        assert eventually(lambda: probe(lambda permit: permit.failure(kind=Kind.SERVER_ERROR)))
    assert min(later - sooner for sooner, later in pairwise(sent)) > 0.9
    assert eventually(lambda: probe(lambda permit: permit.success()))
    assert eventually(lambda: b'"successes":1' in store.command("GET", ROW))
    assert b'"a"' not in store.command("GET", ROW), "nobody doubts it any more"

    def recovers() -> bool:
        for peer in peers:
            if peer.breaker.is_eligible("a"):
                peer.breaker.acquire(source="a").success()
        return {peer.state for peer in peers} == {"closed"}

    assert eventually(recovers)


def test_a_restarted_empty_store_learns_from_those_who_know(
    own_store: LoopbackStore, join: Callable[..., Peer]
) -> None:
    one, other = join(own_store), join(own_store)
    one.fail(5)
    assert eventually(lambda: other.state == "open")
    own_store.kill()
    assert eventually(lambda: one.told("StorageDegraded") and other.told("StorageDegraded"))
    other.breaker.reset()  # local truth goes on
    one.breaker.isolate("offline")
    own_store.start()
    assert eventually(lambda: one.told("StorageRestored") and other.told("StorageRestored"))
    assert eventually(lambda: one.state == other.state)
    assert one.told("StorageDegraded") == other.told("StorageDegraded") == 1
    assert join(own_store).state == one.state


@pytest.mark.parametrize("how", ["frozen", "read-only", "out of memory"])
def test_a_store_in_trouble_degrades_once_and_comes_back(
    own_store: LoopbackStore, join: Callable[..., Peer], how: str
) -> None:
    one, other = join(own_store), join(own_store)
    if how == "frozen":
        own_store.freeze()
    elif how == "read-only":
        own_store.command("REPLICAOF", "127.0.0.1", "1")
    else:
        own_store.command("CONFIG", "SET", "maxmemory", "1")
    one.fail(5)
    assert one.state == "open", "local truth"
    assert eventually(lambda: one.told("StorageDegraded"))
    for _ in range(3):
        one.registry.rotation  # noqa: B018 (reading goes on)
        with pytest.raises(RejectedError):
            one.attempt()
    if how == "frozen":
        own_store.thaw()
    elif how == "read-only":
        own_store.command("REPLICAOF", "NO", "ONE")
    else:
        own_store.command("CONFIG", "SET", "maxmemory", "0")
    assert eventually(lambda: other.state == "open")
    assert eventually(lambda: one.agent.online)
    assert one.told("StorageDegraded") == one.told("StorageRestored") == 1


def test_garbage_in_a_row_is_ignored_and_written_over(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    store.command("SET", ROW, '{"state": "exploded", "gen": "x"')
    store.command("ZADD", "{resilience}:index", "1", "provider:openai")
    store.command("PUBLISH", "{resilience}:news", "not json at all")
    one, other = join(store), join(store)
    store.command("PUBLISH", "{resilience}:news", '{"v": 1, "row": 5}')
    store.command("PUBLISH", "{resilience}:news", '[{"v": "x"}]')
    assert one.state == "closed"
    one.fail(5)
    assert eventually(lambda: other.state == "open")
    assert not one.told("StorageDegraded")


def test_a_wrong_type_at_a_key_is_told_and_harms_nobody(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    store.command("LPUSH", ROW, "somebody else's")
    one = join(store)
    one.fail(5)
    assert one.state == "open"
    assert eventually(lambda: one.told("StorageDegraded"))
    assert "WRONGTYPE" in next(e.reason for e in one.events if type(e).__name__ == "StorageDegraded")
    assert store.command("TYPE", ROW) == b"+list\r\n", "it is not ours to delete"
    store.command("DEL", ROW)
    assert eventually(lambda: one.agent.online)
    assert one.told("StorageDegraded") == 1


def test_a_newer_versions_row_and_message_are_left_alone(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one = join(store)
    newer = json.dumps({"v": 2, "id": "provider:openai", "gen": 99, "state": "melted"})
    store.command("SET", ROW, newer)
    store.command("PUBLISH", "{resilience}:news", json.dumps({"v": 2, "rev": 7, "row": newer}))
    one.fail(5)
    assert one.state == "open"
    assert eventually(lambda: one.breaker.seat.alone)
    assert newer.encode() in store.command("GET", ROW)
    assert not one.told("StorageDegraded")


def test_half_a_fleet_that_was_away_takes_over_what_the_others_know(
    store: LoopbackStore, join: Callable[..., Peer]
) -> None:
    here, away = join(store), join(store)
    away.agent.close()  # as good as cut off: no word in either direction
    here.fail(5)
    assert eventually(lambda: b'"open"' in store.command("GET", ROW))
    away.agent._closed = False
    assert away.state == "closed"
    away.agent._start()
    assert eventually(lambda: away.state == "open")


def test_requests_cost_no_commands(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one = join(store)
    one.breaker.isolate("counting")
    assert eventually(lambda: b"isolated" in store.command("GET", ROW))
    before = store.commands
    for _ in range(5000):
        with pytest.raises(RejectedError):
            one.attempt()
    one.breaker.reset()
    assert eventually(lambda: b"closed" in store.command("GET", ROW))
    for _ in range(5000):
        one.attempt()
    # 10,000 requests: what came in meanwhile is the agent's pace, not theirs.
    assert store.commands - before < 1000


def test_keys_have_the_prefix_the_hash_tag_and_an_end(store: LoopbackStore) -> None:
    peer = Peer(f"{store.url}?prefix=team-a")
    try:
        peer.attempt()
        peer.fail(4)
        peer.fail(1)
        assert eventually(lambda: b"team-a" in store.command("KEYS", "*row*"))
        names = [line for line in store.command("KEYS", "*").split(b"\r\n") if b":" in line]
        assert names
        assert all(name.startswith(b"{team-a}:") for name in names)
        assert all(int(store.command("PTTL", name.decode())[1:]) > 0 for name in names)
    finally:
        peer.close()


def test_a_unix_socket_and_an_acl_user_will_do(store: LoopbackStore) -> None:
    store.command("ACL", "SETUSER", "fleet", "on", ">s3cret", "~{resilience}:*", "&{resilience}:*", "+@all")
    host = f"127.0.0.1:{store.port}"
    peers = [Peer(f"unix://{store.socket_path}"), Peer(f"redis://fleet:s3cret@{host}/0")]
    wrong = Peer(f"redis://fleet:wrong-s3cret@{host}/0")
    try:
        assert all(eventually(lambda peer=peer: peer.agent.online) for peer in peers)
        assert eventually(lambda: wrong.told("StorageDegraded"))
        assert "s3cret" not in repr(wrong.events)
        peers[0].fail(5)
        assert eventually(lambda: peers[1].state == "open")
    finally:
        for peer in (*peers, wrong):
            peer.close()


def test_real_processes_share_and_a_killed_one_loses_its_lease(store: LoopbackStore) -> None:
    rules = {"open_seconds": 0.3, "probe_lease_seconds": 1.5}
    one, other = Member(store.url, **rules), Member(store.url, **rules)
    try:
        assert one("fail", 5) is None
        assert eventually(lambda: other("state") != "closed")
        assert one("hold") is True
        assert eventually(lambda: other("state") == "half-open")
        one.process.kill()  # with the only probe in its hands
        assert other("hold") is True, "the lease has ended"
    finally:
        for member in (one, other):
            member.process.kill()
            member.process.join()


def test_a_process_that_was_stopped_catches_up(store: LoopbackStore) -> None:
    one, stalled = Member(store.url), Member(store.url)
    try:
        assert stalled("state") == "closed"
        os.kill(stalled.process.pid, signal.SIGSTOP)
        one("isolate", "while it slept")
        assert eventually(lambda: one("state") == "isolated")
        os.kill(stalled.process.pid, signal.SIGCONT)
        assert eventually(lambda: stalled("state") == "isolated")
    finally:
        for member in (one, stalled):
            member.process.kill()
            member.process.join()


def test_a_forked_child_has_an_agent_of_its_own(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    peer, other = join(store), join(store)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            peer.breaker.isolate("from the child")
            shared = eventually(lambda: b"from the child" in store.command("GET", ROW))
            os.write(write, b"yes" if shared and eventually(lambda: peer.agent.online) else b"no")
        finally:
            os._exit(0)
    assert os.read(read, 3) == b"yes"
    os.waitpid(child, 0)
    assert eventually(lambda: peer.state == other.state == "isolated")


def test_closing_gives_everything_back(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    peer = join(store)
    thread = peer.agent._thread
    peer.close()
    assert not thread.is_alive()
    assert store.command("ZCARD", "{resilience}:members") == b":0\r\n"
    peer.fail(5)
    assert peer.state == "open", "it goes on by itself"


def test_the_kind_of_a_failure_travels(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one, other = join(store), join(store)
    one.fail(3, Kind.TIMEOUT)
    assert eventually(lambda: other.state == "open")
    assert other.breaker.rules.state.kind is Kind.TIMEOUT


def test_a_fleet_is_seen_and_steered_from_outside(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    one, other = join(store), join(store)
    one.fail(5)
    assert eventually(lambda: other.state == "open")
    status = read_fleet(store.url)
    assert len(status.members) == 2
    seen = next(breaker for breaker in status.breakers if breaker.kind == "provider")
    assert (seen.name, seen.state, seen.reason) == ("openai", "open", "consecutive_failures")
    assert "2 processes in the fleet" in render(status)
    steer_fleet(store.url, "isolate", "openai", reason="\x1b[31mbad deploy")
    assert eventually(lambda: one.state == other.state == "isolated")
    assert "\x1b" not in render(read_fleet(store.url))
    steer_fleet(store.url, "reset", "openai", kind="provider")
    assert eventually(lambda: one.state == other.state == "closed")
    with pytest.raises(UnknownNameError, match=r"no breaker 'opneai'; known: openai"):
        steer_fleet(store.url, "reset", "opneai")
    assert steer_fleet(store.url, "isolate", "new", kind="provider").state == "isolated"


def test_a_store_that_is_away_is_one_line_without_the_password() -> None:
    with pytest.raises(StorageError, match=r"valkey://127\.0\.0\.1") as caught:
        read_fleet(f"valkey://me:s3cret@127.0.0.1:{free_port()}/0")
    assert "s3cret" not in str(caught.value)
