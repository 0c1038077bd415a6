"""What is drawn: the same for the same seed, as often and as long as was published, and nobody's luck is another's."""

from __future__ import annotations

from itertools import pairwise
from math import log
from statistics import correlation, mean, median, stdev

import pytest

from resilience.simulator.chance import Chance, quantile_of
from resilience.simulator.clockwork import Clockwork
from resilience.simulator.scenario import LatencySettings, TraceSettings
from resilience.simulator.traces import PUBLISHED, draw_trace

DAY = 86400.0
TARGETS = ("a", "b")


def test_luck_hangs_on_the_request_and_the_attempt_and_on_nothing_else() -> None:
    chance, again = Chance(7, "faults:a"), Chance(7, "faults:a")
    forwards = [chance.pair(number) for number in range(100)]
    assert forwards == [again.pair(number) for number in reversed(range(100))][::-1]
    assert chance.pair(3, 1) != chance.pair(3, 0) != chance.pair(4, 0)
    assert Chance(8, "faults:a").pair(3) != chance.pair(3) != Chance(7, "faults:b").pair(3)


def test_luck_is_even_and_its_numbers_know_nothing_of_each_other() -> None:
    chance = Chance(7, "x")
    pairs = [chance.pair(number, nth) for number in range(20_000) for nth in (0, 1)]
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    assert all(0 < value < 1 for value in first + second)
    for values in (first, second):
        assert mean(values) == pytest.approx(0.5, abs=0.01)
        assert sum(value < 0.1 for value in values) / len(values) == pytest.approx(0.1, abs=0.01)
    assert abs(correlation(first, second)) < 0.02
    assert abs(correlation(first[:-1], first[1:])) < 0.02


def test_latencies_have_the_median_and_the_spread_that_were_told() -> None:
    told = LatencySettings(median_seconds=2.0, sigma=0.5)
    quantile, chance = quantile_of(told), Chance(1, "x")
    values = [quantile(chance.pair(number)[0]) for number in range(20_000)]
    assert median(values) == pytest.approx(2.0, rel=0.02)
    assert stdev(map(log, values)) == pytest.approx(0.5, rel=0.02)
    assert quantile_of(LatencySettings(kind="constant", median_seconds=3.0))(0.99) == 3.0


@pytest.mark.parametrize("name", PUBLISHED)
def test_traces_are_as_frequent_and_as_long_as_was_published(name: str) -> None:
    known = PUBLISHED[name]
    trace = TraceSettings(published=name, longest_seconds=1e9)
    incidents = draw_trace(trace, "p", TARGETS, 7, 100 * 365 * DAY)
    assert 100 * 365 / len(incidents) == pytest.approx(known.gap_days, rel=0.05)
    minutes = [one.lasts_seconds / 60 for one in incidents]
    assert mean(map(log, minutes)) == pytest.approx(known.mu, abs=0.1)
    assert stdev(map(log, minutes)) == pytest.approx(known.sigma, rel=0.05)
    major = sum(one.share == 1.0 for one in incidents) / len(incidents)
    assert major == pytest.approx(known.major_share, abs=0.02)
    only = sum(one.targets is not None for one in incidents) / len(incidents)
    assert only == pytest.approx(trace.model_only_share, abs=0.03)


def test_starts_cluster_as_was_published() -> None:
    trace = TraceSettings(published="openai", model_only_share=0.0)
    starts = [one.at_seconds for one in draw_trace(trace, "p", TARGETS, 7, 300 * 365 * DAY)]
    gaps = sorted(after - before for before, after in pairwise(starts))
    shortest, middle = gaps[len(gaps) // 10], gaps[len(gaps) // 2]
    # Published: 3.7 and 49 hours. Evenly spread ones would have a ratio of 6.6.
    assert middle / shortest == pytest.approx(49 / 3.7, rel=0.15)


def test_a_number_of_outages_that_was_asked_for_is_drawn_within_the_time() -> None:
    incidents = draw_trace(TraceSettings(published="openai", outages=10), "p", TARGETS, 3, 365 * DAY)
    starts = [one.at_seconds for one in incidents]
    assert len(starts) == 10
    assert sorted(starts) == starts
    assert 0 < starts[0] < starts[-1] < 365 * DAY
    assert draw_trace(TraceSettings(published="openai", outages=0), "p", TARGETS, 3, 365 * DAY) == []


def test_two_providers_fail_independently() -> None:
    trace = TraceSettings(published="openai")
    one, other = (draw_trace(trace, name, TARGETS, 7, 365 * DAY) for name in ("one", "other"))
    assert [incident.at_seconds for incident in one] != [incident.at_seconds for incident in other]


def test_what_is_set_for_the_same_moment_happens_in_the_order_it_was_set() -> None:
    clock, seen = Clockwork(), []
    for when, name in ((5.0, "b"), (1.0, "a"), (5.0, "c"), (5.0, "d")):
        clock.at(when, seen.append, name)
    clock.run(2.0)
    assert (seen, clock.time, clock.next_at()) == (["a"], 2.0, 5.0)
    clock.run()
    assert (seen, clock.time, clock.next_at()) == (["a", "b", "c", "d"], 5.0, None)
    with pytest.raises(RuntimeError, match="cannot block for 3 s"):
        clock.sleep(3.0)
