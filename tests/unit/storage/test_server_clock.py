"""Server time: the shortest round trip is believed, and a clock that was set is noticed."""

from __future__ import annotations

from resilience.storage.server_clock import ServerClock


def test_the_shortest_round_trip_is_believed() -> None:
    clock = ServerClock()
    clock.sample(10.0, 10.4, 1_000_300)  # a slow one, wrong by a tenth of a second
    clock.sample(11.0, 11.002, 1_001_001)
    clock.sample(12.0, 12.6, 1_002_500)
    assert abs(clock.local(1_005_000) - 15.0) < 0.002
    assert clock.server_ms(15.0) == 1_005_000


def test_a_server_whose_clock_was_set_is_followed_at_once() -> None:
    clock = ServerClock()
    clock.sample(10.0, 10.002, 1_000_001)
    clock.sample(11.0, 11.01, 4_601_005)  # an hour later, by a worse round trip
    assert abs(clock.local(4_602_000) - 12.0) < 0.01


def test_an_old_sample_gives_way_to_any_newer_one() -> None:
    clock = ServerClock()
    clock.sample(0.0, 0.002, 1_000_001)
    clock.sample(100.0, 100.1, 1_100_055)
    assert abs(clock.local(1_100_050) - 100.05) < 0.01
