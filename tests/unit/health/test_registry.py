"""The registry: two breakers per attempt, rotation, force, eager probes, and what it forgets."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience.errors import CircuitIsolatedError, CircuitOpenError, ConcurrencyLimitError, RejectedError
from resilience.events import CircuitOpened, PermitRefused
from resilience.health import roster
from resilience.health.registry import HealthRegistry
from resilience.outcome import Kind, Outcome
from resilience.settings import Settings
from resilience.testing.clock import ManualClock
from resilience.upstream import Force, Target

MINI = Target("mini", "openai", "openai/gpt-4o-mini", identity="1")
BIG = Target("big", "openai", "openai/gpt-4o", identity="2")
CLAUDE = Target("claude", "anthropic", "anthropic/claude", identity="3")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def registry(clock: ManualClock, *targets: Target, providers: Any = None, **breaker: Any) -> HealthRegistry:
    settings = Settings.load({"breaker": {"jitter": 0.0, **breaker}, "providers": providers or {}})
    made = HealthRegistry(settings, clock=clock, rng=random.Random(1))
    for target in targets:
        made.add(target)
    return made


def settle(health: HealthRegistry, target: Target, *kinds: Kind, **fields: Any) -> None:
    for kind in kinds:
        health.admit(target).settle(Outcome(kind, **fields))


def states(health: HealthRegistry) -> dict[str, str]:
    return {name: str(b.current_state) for view in (health.providers, health.targets) for name, b in view.items()}


# -- who opens ----------------------------------------------------------------------------------------------------


def test_one_models_incident_does_not_take_its_siblings_along(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.SERVER_ERROR] * 5)
    assert states(health) == {"openai": "closed", "mini": "open", "big": "closed"}
    assert health.is_eligible(BIG)


def test_failures_of_two_targets_open_their_provider(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.SERVER_ERROR] * 4)
    settle(health, BIG, Kind.SERVER_ERROR)
    assert states(health) == {"openai": "open", "mini": "closed", "big": "closed"}
    assert not health.is_eligible(MINI)
    assert not health.is_eligible(BIG)


def test_a_refused_connection_needs_no_second_witness(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.CONNECTION] * 5)
    assert states(health)["openai"] == "open"


def test_a_provider_with_one_target_needs_no_second_witness(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    assert states(health) == {"anthropic": "open", "claude": "open"}


def test_one_slow_model_does_not_open_its_provider(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG, slow_call_seconds=1.0)
    settle(health, MINI, *[Kind.SUCCESS] * 20, latency_seconds=5.0)
    assert states(health) == {"openai": "closed", "mini": "open", "big": "closed"}


def test_a_provider_is_not_kept_out_for_ever_by_its_one_broken_model(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.SERVER_ERROR] * 4)
    settle(health, BIG, *[Kind.SERVER_ERROR] * 1)
    assert states(health)["openai"] == "open"
    clock.advance(10)
    settle(health, MINI, Kind.SERVER_ERROR)  # still broken: its word alone says nothing about its sibling
    assert states(health)["openai"] == "half-open"
    assert "mini failed its probe" in str(health.providers["openai"].rejection("mini"))
    assert not health.is_eligible(MINI)
    settle(health, BIG, *[Kind.SUCCESS] * 3)
    assert states(health)["openai"] == "closed"


def test_two_models_that_fail_their_probes_open_the_provider_again(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.SERVER_ERROR] * 4)
    settle(health, BIG, Kind.SERVER_ERROR)
    clock.advance(10)
    settle(health, MINI, Kind.SERVER_ERROR)
    settle(health, BIG, Kind.SERVER_ERROR)
    assert states(health)["openai"] == "open"
    error = health.providers["openai"].rejection()
    assert error.retry_after == pytest.approx(20)


def test_a_doubted_model_may_probe_again_after_the_open_time(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    settle(health, MINI, *[Kind.SERVER_ERROR] * 4)
    settle(health, BIG, Kind.SERVER_ERROR)
    clock.advance(10)
    settle(health, MINI, Kind.SERVER_ERROR)
    assert health.next_chance([MINI]) == pytest.approx(clock.monotonic() + 10)
    clock.advance(10)
    settle(health, MINI, *[Kind.SUCCESS] * 3)
    assert states(health)["openai"] == "closed"


def test_breakers_that_open_on_the_same_outcome_share_the_same_end(clock: ManualClock) -> None:
    health = HealthRegistry(Settings.load({"breaker": {"jitter": 0.5}}), clock=clock, rng=random.Random(2))
    ends: list[float] = []
    health.subscribe(lambda event: ends.append(event.open_seconds) if isinstance(event, CircuitOpened) else None)
    health.add(CLAUDE)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    snapshot = health.snapshot()
    assert snapshot.targets["claude"].next_probe_at == snapshot.providers["anthropic"].next_probe_at
    assert len(ends) == 2
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("kind", "target", "provider"),
    [
        (Kind.RATE_LIMITED, "open", "closed"),
        (Kind.QUOTA_EXHAUSTED, "open", "closed"),
        (Kind.AUTH, "open", "closed"),
        (Kind.MODEL_UNAVAILABLE, "open", "closed"),
        (Kind.EMPTY, "closed", "closed"),
        (Kind.BAD_REQUEST, "closed", "closed"),
        (Kind.CONTEXT_WINDOW, "closed", "closed"),
        (Kind.CONTENT_POLICY, "closed", "closed"),
        (Kind.CANCELLED, "closed", "closed"),
        (Kind.LOCAL, "closed", "closed"),
    ],
)
def test_one_outcome_of_each_other_kind_does_what_the_table_says(
    clock: ManualClock, kind: Kind, target: str, provider: str
) -> None:
    health = registry(clock, CLAUDE)
    settle(health, CLAUDE, kind)
    assert states(health) == {"anthropic": provider, "claude": target}


@pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.CONTEXT_WINDOW, Kind.CONTENT_POLICY])
def test_a_provider_that_answers_nothing_but_400s_is_back(clock: ManualClock, kind: Kind) -> None:
    health = registry(clock, CLAUDE)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    settle(health, CLAUDE, *[kind] * 3)
    assert states(health) == {"anthropic": "closed", "claude": "closed"}


@pytest.mark.parametrize("kind", [Kind.RATE_LIMITED, Kind.AUTH, Kind.QUOTA_EXHAUSTED])
def test_a_rate_limit_or_a_key_error_shows_that_the_provider_is_there(clock: ManualClock, kind: Kind) -> None:
    health = registry(clock, CLAUDE, probe_successes=1)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    settle(health, CLAUDE, kind)
    assert states(health) == {"anthropic": "closed", "claude": "open"}


# -- both permits or none -----------------------------------------------------------------------------------------


def test_a_refusal_of_the_provider_returns_the_targets_probe(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG)
    health.targets["mini"].open()
    clock.advance(10)
    health.providers["openai"].isolate("drill")
    for _ in range(3):
        with pytest.raises(CircuitIsolatedError, match="drill"):
            health.admit(MINI)
    health.providers["openai"].reset()
    settle(health, MINI, *[Kind.SUCCESS] * 3)
    assert states(health)["mini"] == "closed"


def test_a_dropped_admission_gives_everything_back(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, providers={"anthropic": {"max_concurrency": 1}})
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    admission = health.admit(CLAUDE)
    assert admission.is_probe
    assert not health.is_eligible(CLAUDE)
    del admission
    gc.collect()
    assert health.is_eligible(CLAUDE)
    assert health.snapshot().targets["claude"].in_flight == 0
    settle(health, CLAUDE, *[Kind.SUCCESS] * 3)
    assert states(health) == {"anthropic": "closed", "claude": "closed"}


def test_a_call_that_a_forked_child_ends_for_its_parent_is_not_counted_below_none(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, providers={"anthropic": {"max_concurrency": 1}})
    admission = health.admit(CLAUDE)
    health._roster.providers["anthropic"].renew_after_fork()
    admission.settle(Outcome(Kind.SUCCESS))
    assert health._roster.providers["anthropic"].in_flight == 0


def test_an_admission_settled_by_two_threads_counts_once(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, consecutive_failures=None, failure_rate=None)
    admissions = [health.admit(CLAUDE) for _ in range(500)]
    start = threading.Barrier(2)

    def work() -> None:
        start.wait()
        for admission in admissions:
            admission.settle(Outcome(Kind.SERVER_ERROR))

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(2)]:
            future.result()
    assert health.targets["claude"].window.calls == 500
    assert health.providers["anthropic"].window.calls == 500
    assert health._roster.providers["anthropic"].in_flight == 0


def test_never_more_calls_than_max_concurrency_are_in_flight(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, providers={"anthropic": {"max_concurrency": 3}})
    heard: list[Any] = []
    health.subscribe(heard.append)
    start, admitted, refused = threading.Barrier(20), [], []

    def work() -> None:
        start.wait()
        try:
            admitted.append(health.admit(CLAUDE))
        except ConcurrencyLimitError as error:
            refused.append(error)

    with ThreadPoolExecutor(20) as pool:
        for future in [pool.submit(work) for _ in range(20)]:
            future.result()
    assert (len(admitted), len(refused)) == (3, 17)
    assert sum(isinstance(event, PermitRefused) for event in heard) == 17
    admitted.pop().settle(Outcome(Kind.SUCCESS))
    health.admit(CLAUDE).settle(Outcome(Kind.SUCCESS))


def test_a_breaker_that_this_context_holds_is_not_asked_or_recorded_again(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    guard = health.provider_breaker("anthropic")

    @guard
    def guarded() -> None:
        admission = health.admit(CLAUDE)
        with admission.held():
            health.targets["claude"].call(lambda: 1)
        admission.settle(Outcome(Kind.SUCCESS))

    guarded()
    assert (guard.window.calls, health.targets["claude"].window.calls) == (1, 1)
    settle(health, CLAUDE, Kind.SUCCESS)
    assert (guard.window.calls, health.targets["claude"].window.calls) == (2, 2)


async def test_the_guard_of_an_open_breaker_lets_a_held_eager_probe_through(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)

    @health.provider_breaker("anthropic")
    async def below() -> int:
        return 1

    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(1)
    admission = health.admit_eager(CLAUDE)
    assert admission is not None
    with admission.held():
        assert await below() == 1
    with pytest.raises(CircuitOpenError):
        await below()


# -- a timeout that the caller made shorter -----------------------------------------------------------------------


def test_a_shortened_timeout_counts_unless_another_call_succeeded_meanwhile(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    lonely = health.admit(CLAUDE)
    clock.advance(1)
    lonely.settle(Outcome(Kind.TIMEOUT), shortened=True)
    assert health.targets["claude"].reading().failures == 1
    short = health.admit(CLAUDE)
    clock.advance(1)
    settle(health, CLAUDE, Kind.SUCCESS)
    short.settle(Outcome(Kind.TIMEOUT), shortened=True)
    assert health.targets["claude"].reading().failures == 1
    full = health.admit(CLAUDE)
    clock.advance(1)
    settle(health, CLAUDE, Kind.SUCCESS)
    full.settle(Outcome(Kind.TIMEOUT))
    assert health.targets["claude"].reading().failures == 2


def test_a_streams_own_first_content_does_not_excuse_its_stall(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    stream = health.admit(CLAUDE)
    clock.advance(1)
    stream.first_content(1.0)
    clock.advance(1)
    stream.settle(Outcome(Kind.TIMEOUT), shortened=True)
    assert health.targets["claude"].reading().failures == 1


def test_a_stall_is_excused_by_another_call_that_succeeded_before_its_own_first_content(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    stream = health.admit(CLAUDE)
    clock.advance(1)
    settle(health, CLAUDE, Kind.SUCCESS)
    clock.advance(1)
    stream.first_content(2.0)  # noted over the other's
    clock.advance(1)
    stream.settle(Outcome(Kind.TIMEOUT), shortened=True)
    assert health.targets["claude"].reading().failures == 0


# -- force and eager probes -----------------------------------------------------------------------------------------


def brown_out(health: HealthRegistry, target: Target) -> None:
    settle(health, target, *([Kind.SUCCESS] * 3 + [Kind.SERVER_ERROR]) * 5)


def test_a_target_opened_by_a_rate_is_used_where_there_is_nothing_else(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    brown_out(health, CLAUDE)
    heard: list[Any] = []
    health.subscribe(heard.append)
    with pytest.raises(CircuitOpenError, match="5 of 20 calls failed"):
        health.admit(CLAUDE)
    heard.clear()
    forced = health.admit(CLAUDE, force=Force.RATE)
    assert forced.is_forced
    forced.settle(Outcome(Kind.SERVER_ERROR))  # decides nothing
    assert states(health)["claude"] == "open"
    assert heard == []  # it was not refused, so nobody is told that it was


def test_a_target_opened_by_a_rate_that_dies_is_left_alone_until_something_succeeds(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    brown_out(health, CLAUDE)
    for _ in range(19):
        health.admit(CLAUDE, force=Force.RATE).settle(Outcome(Kind.SERVER_ERROR))
    health.admit(CLAUDE, force=Force.RATE).settle(Outcome(Kind.SUCCESS))  # most of its calls still work
    for _ in range(20):
        health.admit(CLAUDE, force=Force.RATE).settle(Outcome(Kind.SERVER_ERROR))
    with pytest.raises(CircuitOpenError, match="5 of 20 calls failed"):
        health.admit(CLAUDE, force=Force.RATE)
    assert health.admit(CLAUDE, force=Force.OUTAGE).is_forced  # panic asks everybody
    clock.advance(10)
    health.admit(CLAUDE).settle(Outcome(Kind.SUCCESS))  # a probe
    assert health.admit(CLAUDE, force=Force.RATE).is_probe


def test_only_panic_uses_a_target_opened_by_an_outage(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    with pytest.raises(CircuitOpenError):
        health.admit(CLAUDE, force=Force.RATE)
    assert health.admit(CLAUDE, force=Force.OUTAGE).is_forced


@pytest.mark.parametrize("kind", [Kind.AUTH, Kind.RATE_LIMITED])
def test_nothing_forces_an_account_or_a_hold(clock: ManualClock, kind: Kind) -> None:
    health = registry(clock, CLAUDE)
    settle(health, CLAUDE, kind)
    with pytest.raises(CircuitOpenError):
        health.admit(CLAUDE, force=Force.OUTAGE)
    assert health.next_eager([CLAUDE]) is None
    clock.advance(0.9)
    assert health.admit_eager(CLAUDE) is None


def test_eager_probes_are_one_a_second_and_one_in_flight(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, open_seconds=100)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    end = health.next_chance([CLAUDE])
    assert health.admit_eager(CLAUDE) is None
    sent = 0
    for _ in range(100):
        clock.advance(0.1)
        probes = [probe for probe in (health.admit_eager(CLAUDE) for _ in range(5)) if probe is not None]
        sent += len(probes)
        for probe in probes:
            assert probe.is_eager
            probe.settle(Outcome(Kind.SERVER_ERROR))
    assert 9 <= sent <= 10
    # A failed one changes neither end nor streak.
    assert health.next_chance([CLAUDE]) == end
    assert health.snapshot().targets["claude"].probe_rounds_failed == 0
    clock.advance(1)
    hanging = health.admit_eager(CLAUDE)
    assert hanging is not None
    clock.advance(5)
    assert health.admit_eager(CLAUDE) is None
    hanging.settle(Outcome(Kind.SUCCESS))
    assert states(health) == {"anthropic": "half-open", "claude": "half-open"}


def test_fifty_threads_get_one_eager_probe(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, open_seconds=100)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(1)
    start, got = threading.Barrier(50), []

    def work() -> None:
        start.wait()
        got.append(health.admit_eager(CLAUDE))

    with ThreadPoolExecutor(50) as pool:
        for future in [pool.submit(work) for _ in range(50)]:
            future.result()
    assert sum(admission is not None for admission in got) == 1


def test_an_eager_probe_that_the_provider_refuses_is_given_back(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG, providers={"openai": {"max_concurrency": 1}})
    settle(health, MINI, *[Kind.SERVER_ERROR] * 5)
    clock.advance(1)
    busy = health.admit(BIG)
    assert health.admit_eager(MINI) is None  # no room
    busy.settle(Outcome(Kind.SUCCESS))
    health.providers["openai"].isolate("drill")
    assert health.admit_eager(MINI) is None
    assert health.next_eager([MINI]) is None
    health.providers["openai"].reset()
    probe = health.admit_eager(MINI)
    assert probe is not None
    probe.give_back()
    probe.give_back()
    clock.advance(1)
    assert health.admit_eager(MINI) is not None  # dropped at once, which gives it back as well
    clock.advance(1)
    gc.collect()
    assert health.admit_eager(MINI) is not None


def test_an_eager_probe_that_nobody_ends_is_replaced_after_its_lease(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, open_seconds=300, probe_lease_seconds=5)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(1)
    vanished = health.admit_eager(CLAUDE)
    clock.advance(4.9)
    assert health.admit_eager(CLAUDE) is None
    clock.advance(0.2)
    replacement = health.admit_eager(CLAUDE)
    assert vanished is not None
    assert replacement is not None
    vanished.settle(Outcome(Kind.SUCCESS))
    assert states(health)["claude"] == "open"
    replacement.settle(Outcome(Kind.SUCCESS))
    assert states(health)["claude"] == "half-open"


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_streaming_probe_holds_its_slot_until_the_last_chunk(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, probe_successes=1, probe_lease_seconds=10)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    stream = health.admit(CLAUDE, timeout_seconds=20)
    stream.first_content(1.0)
    for _ in range(5):
        clock.advance(9)
        stream.touch()
    assert states(health) == {"anthropic": "half-open", "claude": "half-open"}
    stream.settle(Outcome(Kind.SUCCESS, latency_seconds=1.0))
    stream.first_content(2.0)
    assert states(health) == {"anthropic": "closed", "claude": "closed"}


def test_a_late_first_content_opens_both_breakers_until_the_same_time(clock: ManualClock) -> None:
    health = HealthRegistry(Settings.load({"breaker": {"jitter": 0.5}}), clock=clock, rng=random.Random(4))
    health.add(CLAUDE)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(10)
    stream = health.admit(CLAUDE, timeout_seconds=20)
    stream.first_content(11.0)
    snapshot = health.snapshot()
    assert states(health) == {"anthropic": "open", "claude": "open"}
    assert snapshot.targets["claude"].next_probe_at == snapshot.providers["anthropic"].next_probe_at
    stream.settle(Outcome(Kind.SUCCESS))
    assert states(health) == {"anthropic": "open", "claude": "open"}


# -- when to ask again ----------------------------------------------------------------------------------------------


def test_next_chance_is_the_first_end_of_those_that_come_back_by_themselves(clock: ManualClock) -> None:
    health = registry(clock, MINI, BIG, CLAUDE)
    now = clock.monotonic()
    assert health.next_chance([MINI, CLAUDE]) == now
    settle(health, MINI, Kind.AUTH)
    assert health.next_chance([MINI]) is None
    settle(health, BIG, Kind.RATE_LIMITED, retry_after_seconds=7.0)
    assert health.next_chance([MINI, BIG]) == now + 7
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5, retry_after_seconds=3.0)
    assert health.next_chance([MINI, CLAUDE]) == now + 10
    health.providers["openai"].isolate()
    assert health.next_chance([MINI, BIG]) is None
    assert health.next_chance([]) is None


def test_an_account_error_whose_time_is_over_is_worth_a_look_again(clock: ManualClock) -> None:
    health = registry(clock, MINI)
    settle(health, MINI, Kind.AUTH)
    clock.advance(60)
    assert health.is_eligible(MINI)
    assert health.next_chance([MINI]) == clock.monotonic()


def test_a_rejection_says_why_and_until_when_and_counts_nothing(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    assert health.rejection(CLAUDE) is None
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    error = health.rejection(CLAUDE)
    assert isinstance(error, RejectedError)
    assert str(error) == "anthropic is open after 5 failures in a row (server_error); next probe in 10.0 s"
    assert (error.breaker, error.provider, error.kind) == ("anthropic", "anthropic", Kind.SERVER_ERROR)
    assert health.snapshot().providers["anthropic"].rejected == 0


# -- shadow ---------------------------------------------------------------------------------------------------------


def test_a_shadow_breaker_reports_and_rejects_nobody(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE, shadow=True)
    heard: list[Any] = []
    health.subscribe(heard.append)
    health.add_route("chat", [CLAUDE])
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    assert states(health) == {"anthropic": "open", "claude": "open"}
    assert health.is_eligible(CLAUDE)
    assert health.rejection(CLAUDE) is None
    assert health.next_chance([CLAUDE]) == clock.monotonic()
    assert health.rotation("chat") == ["claude"]
    for _ in range(3):
        health.admit(CLAUDE).settle(Outcome(Kind.SUCCESS))
    opened = [event.shadow for event in heard if isinstance(event, CircuitOpened)]
    refused = [event.shadow for event in heard if isinstance(event, PermitRefused)]
    assert (opened, refused) == ([True] * 2, [True] * 6)
    health.targets["claude"].isolate()  # a person's word is no rule of a policy
    assert not health.is_eligible(CLAUDE)


# -- snapshots and subscriptions ------------------------------------------------------------------------------------


def test_a_snapshot_is_frozen_and_tells_what_people_ask(clock: ManualClock) -> None:
    health = registry(clock, MINI, CLAUDE)
    health.add_route("chat", [MINI, CLAUDE])
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    clock.advance(4)
    with pytest.raises(CircuitOpenError):
        health.admit(CLAUDE)
    waiting = health.admit(MINI)
    snapshot = health.snapshot()
    claude = snapshot.targets["claude"]
    assert (claude.state, claude.reason, claude.eligible, claude.opens) == ("open", "consecutive_failures", False, 1)
    assert (claude.last_error_kind, claude.rejected, claude.role) == ("server_error", 1, "target")
    assert (snapshot.at - claude.since).total_seconds() == pytest.approx(4)
    assert claude.next_probe_at is not None
    assert (claude.next_probe_at - snapshot.at).total_seconds() == pytest.approx(6)
    assert (snapshot.targets["mini"].in_flight, snapshot.targets["mini"].eligible) == (1, True)
    assert snapshot.routes["chat"].eligible == ("mini",)
    with pytest.raises(ValueError, match="frozen"):
        snapshot.targets["claude"].state = "closed"  # type: ignore[misc]
    waiting.settle(Outcome(Kind.SUCCESS))
    assert snapshot.targets["mini"].in_flight == 1
    assert snapshot.model_dump_json()


def test_a_target_of_an_isolated_provider_reads_as_not_eligible(clock: ManualClock) -> None:
    health = registry(clock, MINI)
    health.providers["openai"].isolate("bad deploy")
    target = health.snapshot().targets["mini"]
    assert (target.state, target.eligible) == ("closed", False)


def test_subscriptions_hear_every_event_until_they_end(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)
    heard: list[Any] = []

    def broken(_: Any) -> None:
        raise RuntimeError

    health.subscribe(broken)
    stop = health.subscribe(heard.append)
    settle(health, CLAUDE, *[Kind.SERVER_ERROR] * 5)
    assert [type(event) for event in heard] == [CircuitOpened] * 2
    stop()
    stop()
    health.targets["claude"].reset()
    assert len(heard) == 2
    assert health.snapshot().sink_errors == 3


def test_unknown_names_are_told_with_the_known_ones(clock: ManualClock) -> None:
    health = registry(clock, MINI, CLAUDE)
    with pytest.raises(
        KeyError, match=r"there is no provider 'opanai'; did you mean 'openai'\? known providers: anthropic, openai"
    ):
        _ = health.providers["opanai"]
    with pytest.raises(ValueError, match="no route 'chat'"):
        health.rotation("chat")
    for number in range(100):
        health.add(tenant(number))
    with pytest.raises(KeyError, match=r"known targets: claude, mini, tenant-0, .* and 82 more"):
        _ = health.targets["nobody"]
    assert "opanai" not in health.providers
    assert health.targets.get("nobody") is None


# -- who is remembered ----------------------------------------------------------------------------------------------


def tenant(number: int, provider: str = "openai") -> Target:
    return Target(f"tenant-{number}", provider, "openai/gpt-4o-mini", identity=f"t{number}", dynamic=True)


def test_equal_targets_are_one_and_different_ones_never_share_a_name(clock: ManualClock) -> None:
    health = registry(clock, MINI)
    assert health.add(Target("other name", "openai", "openai/gpt-4o-mini", identity="1")) is MINI
    second = health.add(Target("mini", "openai", "openai/gpt-4o-mini", identity="another key"))
    assert second.name == "mini#2"
    assert set(health.targets) == {"mini", "mini#2"}


def test_idle_targets_of_callers_keys_are_forgotten_and_configured_ones_are_not(clock: ManualClock) -> None:
    health = registry(clock, MINI)
    for number in range(300):
        health.add(tenant(number, provider=f"openai/{number}"))
    busy = health.admit(health.add(tenant(299, provider="openai/299")))
    clock.advance(roster.IDLE_SECONDS)
    for number in range(300, 300 + roster._SWEEP_EVERY):
        health.add(tenant(number))
    assert "tenant-0" not in health.targets
    assert "openai/0" not in health.providers
    assert {"mini", "tenant-299"} <= set(health.targets)
    assert {"openai", "openai/299"} <= set(health.providers)
    busy.settle(Outcome(Kind.SUCCESS))


def test_a_provider_that_a_decorator_holds_is_never_forgotten(clock: ManualClock) -> None:
    health = registry(clock)
    held = health.provider_breaker("openai/0")
    health.add(tenant(0, provider="openai/0"))
    clock.advance(roster.IDLE_SECONDS)
    for number in range(1, 1 + roster._SWEEP_EVERY):
        health.add(tenant(number))
    assert "tenant-0" not in health.targets
    assert health.providers["openai/0"] is held


def test_many_bad_keys_do_not_grow_the_registry_without_end(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MAX_DYNAMIC_TARGETS", 100)
    health = registry(clock, MINI)
    isolated = health.add(tenant(0))
    health.targets[isolated.name].isolate("abuse")
    for number in range(1, 2000):
        settle(health, health.add(tenant(number)), Kind.AUTH)
    assert len(health.targets) <= 100 + roster._SWEEP_EVERY + 2
    assert {"mini", "tenant-0", "tenant-1999"} <= set(health.targets)
    assert health._roster.providers["openai"].targets == len(health.targets)


def test_ten_thousand_targets_stay_under_fifty_megabytes() -> None:
    import tracemalloc

    health = HealthRegistry(Settings())
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            health.add(Target(f"t{number}", f"p{number % 100}", "openai/gpt-4o-mini", identity=f"i{number}"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(health.targets) == 10_000
    assert after - before < 50_000_000


async def test_the_registry_is_bound_to_no_event_loop(clock: ManualClock) -> None:
    health = registry(clock, CLAUDE)

    def another_loop() -> None:
        async def one() -> None:
            settle(health, CLAUDE, Kind.SERVER_ERROR)

        asyncio.run(one())

    for _ in range(4):
        await asyncio.to_thread(another_loop)
    settle(health, CLAUDE, Kind.SERVER_ERROR)
    assert states(health)["claude"] == "open"
