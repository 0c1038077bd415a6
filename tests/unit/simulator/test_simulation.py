"""Simulations: the real engine in virtual time. The same seed, the same result; every figure adds up."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from simulated import FIRST, SECOND, down, scenario

from resilience.errors import UnknownNameError
from resilience.simulator import BASELINES, Scenario, simulate
from resilience.simulator.picture import draw
from resilience.simulator.world import World


def findings(told: Scenario, *baselines: str) -> Any:
    found = simulate(told, baselines=baselines).findings
    return found if baselines else found[0]


def test_an_outage_of_one_provider_is_noticed_by_nobody() -> None:
    found = findings(scenario(down()))
    assert found.requests == found.answered > 2000
    assert found.wasted_share < 0.02
    assert found.eject_seconds["median"] < 1.0
    assert found.recover_seconds["median"] > 0.0
    assert found.turns[0].targets == (FIRST,)


def test_without_faults_every_attempt_is_an_answer() -> None:
    found = findings(scenario())
    assert found.attempts == found.requests == found.answered
    assert found.added_seconds == {"mean": 0.0, "p50": 0.0, "p99": 0.0}
    assert (found.probes, found.wasted, found.turns) == (0, 0, ())


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_gets_the_same_requests_and_nothing_is_wasted_on_a_good_day(baseline: str) -> None:
    ours, theirs = findings(scenario(), baseline)
    assert theirs.attempts == theirs.answered == ours.requests
    assert theirs.latency_seconds == ours.latency_seconds


def test_no_protection_loses_what_the_outage_struck() -> None:
    ours, theirs = findings(scenario(down()), "none")
    assert theirs.requests == ours.requests
    assert theirs.answered == theirs.requests - theirs.errors["server_error"]
    assert theirs.struck_availability == 0.0


def test_retries_ask_the_dead_one_three_times_for_each_request() -> None:
    _, theirs = findings(scenario(down()), "retries")
    assert theirs.answered == theirs.requests
    assert 2.5 < theirs.wasted / (20 * 30) < 3.5


def test_a_consecutive_breaker_notices_an_outage_and_hardly_a_grey_one() -> None:
    _, hard = findings(scenario(down()), "consecutive")
    _, grey = findings(scenario(down(lasts=60, share=0.25)), "consecutive")
    assert hard.eject_seconds["median"] < 5.0
    assert hard.wasted_share < grey.wasted_share


def test_the_engine_notices_a_grey_one() -> None:
    found = findings(scenario(down(lasts=60, share=0.25)))
    assert found.eject_seconds["median"] < 10.0
    assert found.answered == found.requests


def test_the_router_never_cools_a_group_of_one_by_its_rate() -> None:
    _, group, groups = findings(scenario(down()), "litellm", "litellm-groups")
    assert (group.unnoticed, groups.unnoticed) == (0, 1)
    assert groups.wasted > 2 * group.wasted


def test_a_storm_of_wrong_requests_ejects_nobody_and_is_answered_as_it_must_be() -> None:
    found = findings(scenario(down(fails="bad_request", share=0.5)))
    assert found.answered == found.requests == found.attempts
    world = World(scenario(down(fails="bad_request", share=0.5)), 7)
    ledger = world.run()
    assert ledger.refused == ledger.wrong > 100
    assert all(not changes for changes in ledger.changes[0].values())


@pytest.mark.parametrize(
    "outage",
    [
        down(fails="connection"),
        down(fails="overloaded"),
        down(fails="malformed"),
        down(fails="empty"),
        down(fails="rate_limited"),
        down(fails="rate_limited", retry_after_seconds=5.0),
        down(fails="quota_exhausted"),
        down(fails="auth"),
        down(fails="model_unavailable"),
        down(fails="hang"),
        down(fails="slow", slowdown=10, hang_share=0.2),
        down(flaps_seconds=5.0),
    ],
    ids=lambda outage: outage.get("fails", "flaps"),
)
def test_every_way_to_fail_is_survived(outage: dict[str, Any]) -> None:
    found = findings(scenario(outage, route_keys={"timeouts": {"attempt_seconds": 5, "deadline_seconds": 30}}))
    assert found.answered == found.requests
    assert found.wasted_share < 0.05


@pytest.mark.parametrize(("policy", "lost"), [({"on_interruption": "raise"}, True), ({"buffer": "full"}, False)])
@pytest.mark.parametrize("fails", ["cut", "stall"])
def test_a_broken_stream_is_lost_or_held_back_as_the_route_says(
    fails: str, policy: dict[str, str], *, lost: bool
) -> None:
    route = {"stream": policy, "timeouts": {"stall_seconds": 2}}
    found = findings(scenario(down(fails=fails), route_keys=route, traffic={"stream_share": 1.0}))
    assert (found.answered < found.requests) is lost
    assert found.errors.keys() <= {"StreamInterruptedError"}


def test_a_stream_is_continued_where_the_route_says_so() -> None:
    route = {"stream": {"on_interruption": "continue"}}
    found = findings(scenario(down(fails="cut"), route_keys=route, traffic={"stream_share": 1.0}))
    assert found.answered == found.requests


def test_a_small_backup_sends_the_surge_on() -> None:
    small = {"capacity": {"per_second": 5.0, "answers": "slow_down"}}
    targets = [FIRST, "azure/gpt-4o-mini", SECOND]
    found = findings(scenario(down(), targets=targets, providers={"azure": small}))
    assert found.answered == found.requests
    assert "azure/gpt-4o-mini" not in found.turns[0].targets


def test_while_everything_is_down_requests_wait_and_are_let_go_at_a_pace() -> None:
    both = {"providers": {"anthropic": {"outages": [down(at=30, lasts=5)]}}}
    ours, theirs = findings(scenario(down(lasts=5), **both), "consecutive")
    assert ours.answered == ours.requests
    assert theirs.answered < theirs.requests


def test_only_the_time_around_incidents_is_simulated_and_the_rest_is_weighed() -> None:
    told = scenario(down(at=5000), lasts_seconds=10_000.0, watch={"before_seconds": 60, "after_seconds": 60})
    ours, theirs = findings(told, "none")
    assert ours.requests == theirs.requests < 150 * 25
    assert theirs.availability < 0.9
    assert 0.9969 < theirs.whole_availability < 0.9971  # 30 s of 10,000


def fleet(*, shared: bool, **more: Any) -> Scenario:
    store = {"shared": True, "delay_seconds": 0.003, **more} if shared else {}
    return scenario(down(), traffic={"per_second": 8.0}, fleet={"processes": 8, **store})


def test_processes_that_share_a_store_learn_an_outage_once() -> None:
    together, alone = findings(fleet(shared=True)), findings(fleet(shared=False))
    assert together.requests == together.answered == alone.requests == alone.answered
    assert together.wasted < alone.wasted / 2
    assert together.probes < alone.probes / 2


@pytest.mark.parametrize(
    "trouble",
    [{"lost_share": 0.5}, {"delay_seconds": 0.5}, {"away": [{"at_seconds": 25, "lasts_seconds": 50}]}],
    ids=["messages are lost", "a slow store", "no store"],
)
def test_a_fleets_store_may_fail_and_requests_do_not(trouble: dict[str, Any]) -> None:
    found = findings(fleet(shared=True, **trouble))
    assert found.answered == found.requests
    assert found.wasted_share < 0.1


def test_arrivals_of_every_kind_come_as_often_as_they_are_told() -> None:
    for traffic in ({"arrivals": "constant"}, {"arrivals": "poisson"}, {"arrivals": "diurnal", "day_seconds": 60.0}):
        assert 2200 < findings(scenario(traffic=traffic)).requests < 2600, traffic
    burst = {"arrivals": "bursts", "burst_every_seconds": 30.0, "burst_requests": 500}
    assert findings(scenario(traffic=burst)).requests > 2200 + 3 * 500


def test_another_seed_is_another_world() -> None:
    told = scenario(down())
    assert simulate(told, seed=1).as_json() != simulate(told, seed=2).as_json()


def test_the_same_seed_gives_the_same_result_to_the_byte_in_every_process() -> None:
    code = (
        "from resilience.simulator import simulate, SHIPPED\n"
        "from resilience.simulator.picture import draw\n"
        "from simulated import scenario, down\n"
        "told = scenario(down(share=0.5), down(at=70, fails='hang'), traffic={'stream_share': 0.5})\n"
        "found = simulate(told, baselines=['litellm', 'retries'])\n"
        "print(found.as_json(), found.as_text(), draw(found))\n"
        "fleet = {'processes': 4, 'shared': True, 'lost_share': 0.1}\n"
        "print(simulate(scenario(down(), fleet=fleet)).as_json())\n"
    )
    texts = set()
    for hash_seed in ("0", "1", "4242"):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        texts.add(done.stdout)
    assert len(texts) == 1
    assert len(texts.pop()) > 5000


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"no baseline 'nginx'; allowed: none, retries, consecutive, litellm"):
        simulate(scenario(), baselines=["nginx"])


def test_a_bad_half_hour_shows_the_gain_over_each_baseline() -> None:
    """In small what ``benchmarks.simulator`` shows in large: hangs, grey faults, empty answers, both down at once."""
    told = scenario(
        down(at=100, lasts=120, fails="hang"),
        down(at=400, lasts=300, share=0.25),
        down(at=900, lasts=120, fails="empty", share=0.5),
        down(at=1200, lasts=60, fails="connection"),
        lasts_seconds=1500.0,
        traffic={"per_second": 10.0},
        route_keys={"timeouts": {"attempt_seconds": 8, "deadline_seconds": 16}},
        providers={"anthropic": {"outages": [down(at=1220, lasts=4)]}},
    )
    ours, *theirs = findings(told, *BASELINES)
    assert ours.availability > 0.999
    for baseline in theirs:
        assert baseline.requests == ours.requests
        assert baseline.requests - baseline.answered > 10 * (ours.requests - ours.answered + 1), baseline.policy
        assert baseline.policy == "none" or baseline.wasted > ours.wasted, baseline.policy


def test_the_picture_is_wellformed_and_escapes_what_people_wrote() -> None:
    told = scenario(
        down(share=0.5),
        about='<script>alert("1")</script> & more',
        targets=[FIRST, {"model": SECOND, "name": "a<b>&c"}],
    )
    picture = draw(simulate(told))
    root = ET.fromstring(picture)  # noqa: S314 (our own)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "<script" not in picture
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a<b>&c" in texts
    assert "prefers-color-scheme: dark" in picture
    assert 'class="open"' in picture
