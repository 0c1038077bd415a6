"""A fleet whose network speaks TLS, is slow, falls silent for half of it, or hangs up all the time."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from fleet_members import Peer, eventually
from relays import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from resilience.testing.store import LoopbackStore


@pytest.fixture
def join() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(address: str, **breaker: Any) -> Peer:
        peers.append(Peer(address, **breaker))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


@pytest.fixture
def secured(store: LoopbackStore) -> Iterator[tuple[Relay, trustme.CA]]:
    """The store behind TLS, as stunnel or a cloud's load balancer puts it, and who signed for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Relay(store.port, context) as relay:
        yield relay, authority


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_trip_crosses_tls(
    scheme: str, store: LoopbackStore, secured: tuple[Relay, trustme.CA], join: Callable[..., Peer], tmp_path: Path
) -> None:
    relay, authority = secured
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    far = join(f"{scheme}://127.0.0.1:{relay.port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}")
    near = join(store.url)
    assert eventually(lambda: far.agent.online and near.agent.online)
    far.fail(5)
    assert eventually(lambda: near.state == "open")
    near.breaker.reset()
    assert eventually(lambda: far.state == "closed")
    assert relay.connections >= 2, "commands and news"


def test_a_certificate_that_nobody_trusts_is_the_reason_told_and_no_password_crosses(
    store: LoopbackStore, secured: tuple[Relay, trustme.CA], join: Callable[..., Peer]
) -> None:
    relay, _ = secured
    stranger = join(f"rediss://fleet:s3cret@127.0.0.1:{relay.port}/0")
    assert eventually(lambda: stranger.told("StorageDegraded"))
    (degraded,) = [event for event in stranger.events if type(event).__name__ == "StorageDegraded"]
    assert "certificate" in degraded.reason.lower()
    assert "s3cret" not in repr(stranger.events)
    stranger.fail(5)
    assert stranger.state == "open", "local truth goes on"
    assert join(store.url).state == "closed"


def test_half_a_fleet_behind_a_silent_network_goes_on_alone_and_then_agrees(
    store: LoopbackStore, join: Callable[..., Peer]
) -> None:
    with Relay(store.port) as relay:
        near = [join(store.url), join(store.url)]
        far = [join(f"redis://127.0.0.1:{relay.port}/0") for _ in range(2)]
        everybody = [*near, *far]
        assert eventually(lambda: all(peer.agent.online for peer in everybody))
        relay.silence()
        near[0].fail(5)
        assert eventually(lambda: near[1].state == "open")
        assert eventually(lambda: all(peer.told("StorageDegraded") for peer in far))
        assert [peer.state for peer in far] == ["closed", "closed"]
        for peer in far:  # requests go on, with what this half knows
            peer.attempt()
        relay.mend()
        assert eventually(lambda: all(peer.state == "open" for peer in everybody))
        assert eventually(lambda: all(peer.told("StorageRestored") for peer in far))
        assert [peer.told("StorageDegraded") for peer in everybody] == [0, 0, 1, 1]


def test_a_slow_network_is_late_but_no_trouble(store: LoopbackStore, join: Callable[..., Peer]) -> None:
    with Relay(store.port, lag_seconds=0.1) as relay:
        near, far = join(store.url), join(f"redis://127.0.0.1:{relay.port}/0")
        assert eventually(lambda: near.agent.online and far.agent.online)
        far.fail(5)
        assert far.state == "open", "at once where it happened"
        assert eventually(lambda: near.state == "open")
        near.breaker.reset()
        assert eventually(lambda: far.state == "closed")
        assert far.told("StorageDegraded") == 0


def test_a_network_that_hangs_up_all_the_time_agrees_when_it_stops(
    store: LoopbackStore, join: Callable[..., Peer]
) -> None:
    with Relay(store.port, cuts_after=12) as relay:
        near, far = join(store.url), join(f"redis://127.0.0.1:{relay.port}/0")
        for number in range(3):
            far.breaker.isolate(f"round {number}") if number % 2 == 0 else far.breaker.reset()
            near.breaker.isolate(f"other {number}")
        assert eventually(lambda: relay.connections > 3, seconds=30), "cut, and come again"
        relay.cuts_after = None
        far.breaker.reset()
        assert eventually(lambda: near.state == far.state == "closed", seconds=30)
