"""What goes wrong in twenty Python breakers, law by law, and the test that promises that it does not go wrong here."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

LAWS = "behaviour/test_breaker_laws.py"
PYBREAKER = "behaviour/test_pybreaker_compatible.py"
POLICY = "unit/breaker/test_policy.py"
CALLS = "unit/breaker/test_calls.py"

# What goes wrong elsewhere: the tests that promise the opposite.
PROMISES: dict[str, tuple[str, ...]] = {
    # in pybreaker
    "a lock is held during the user's function: threads take turns": (
        f"{LAWS}::test_threads_never_wait_for_each_others_calls",
        f"{LAWS}::test_a_sink_never_hears_events_under_the_lock",
    ),
    "a thread inside freezes an event loop that uses the same breaker": (
        f"{LAWS}::test_a_thread_inside_does_not_freeze_an_event_loop_that_uses_the_same_breaker",
    ),
    "a plain decorator on async def or an async generator counts nothing": (
        f"{LAWS}::test_a_plain_decorator_counts_the_failures_of_every_kind_of_function",
        f"{LAWS}::test_a_coroutine_or_generator_that_a_plain_function_returns_is_guarded_to_its_end",
        f"{CALLS}::test_a_decorated_coroutine_counts_refuses_and_recovers",
    ),
    "call_async needs tornado": (
        f"{PYBREAKER}::test_tornado_coroutines_work_through_call_async_and_the_decorator",
        f"{CALLS}::test_call_async_needs_no_tornado",
    ),
    "CancelledError is a failure": (
        f"{LAWS}::test_cancelled_calls_count_nothing_while_closed",
        f"{CALLS}::test_a_caller_that_leaves_counts_nothing",
    ),
    "an excluded error resets the counter": (
        f"{POLICY}::test_a_success_ends_a_streak_and_an_answered_error_does_not",
        f"{LAWS}::test_excluded_errors_open_nothing_and_close_a_half_open_breaker",
        # without a policy its own rule holds, as code written for it expects
        f"{PYBREAKER}::test_excluded_errors_reset_the_counter_and_count_as_successes",
    ),
    "the tripping call hides the real error": (
        f"{POLICY}::test_the_tripping_call_shows_the_real_error_unless_asked_otherwise",
    ),
    "the wall clock decides": (f"{LAWS}::test_a_step_of_the_wall_clock_changes_nothing",),
    "closing a generator early is a failure": (
        f"{LAWS}::test_a_stream_that_its_reader_closes_early_counts_nothing",
        f"{LAWS}::test_closing_a_stream_early_closes_the_guarded_one_too",
    ),
    # half-open
    "a cancelled half-open probe is stuck for ever, or closes the circuit": (
        f"{LAWS}::test_cancelled_probe_returns_its_slot",
        f"{LAWS}::test_dropped_permit_returns_its_slot",
        f"{LAWS}::test_a_vanished_probe_loses_its_slot_with_its_lease",
    ),
    "cancellations while closed open it": (f"{LAWS}::test_cancelled_calls_count_nothing_while_closed",),
    "half-open admits everybody, or makes them queue": (
        f"{LAWS}::test_two_hundred_tasks_send_exactly_the_probes_allowed_and_nobody_queues",
        f"{LAWS}::test_fifty_threads_send_exactly_the_probes_allowed_and_nobody_queues",
    ),
    # late outcomes
    "a stale success closes an open breaker": (f"{LAWS}::test_a_stale_success_does_not_close_an_open_breaker",),
    "stale failures override a good probe": (f"{LAWS}::test_stale_failures_do_not_override_a_good_probe",),
    "a stale probe of an earlier round closes it": (
        f"{LAWS}::test_a_stale_probe_of_an_earlier_round_decides_nothing",
        f"{LAWS}::test_late_outcomes_after_a_reset_or_an_isolation_decide_nothing",
    ),
    # time
    "idle time windows never expire": (
        f"{LAWS}::test_idle_windows_expire",
        f"{LAWS}::test_a_streak_with_a_long_pause_in_it_is_no_streak",
    ),
    "jitter that is drawn at every rejected call collapses to its minimum": (
        f"{LAWS}::test_jitter_is_drawn_once_per_opening",
    ),
    "a step of the wall clock opens early or sticks open": (
        f"{LAWS}::test_a_step_of_the_wall_clock_changes_nothing",
        f"{LAWS}::test_a_step_of_the_wall_clock_changes_nothing_with_an_own_opening_in_redis",
    ),
    # generators
    "async generators pass silently, uncounted": (
        f"{LAWS}::test_a_plain_decorator_counts_the_failures_of_every_kind_of_function",
        f"{LAWS}::test_an_abandoned_async_generator_returns_its_slot",
        f"{CALLS}::test_async_generators_take_what_is_sent_and_thrown",
    ),
    # many processes
    "a shared store costs blocking round trips on each call": (
        "integration/test_fleet.py::test_requests_cost_no_commands",
    ),
    # what nobody has
    "an open breaker raises one shared exception that grows": (
        f"{LAWS}::test_every_rejection_is_an_exception_of_its_own",
    ),
    "no weights or rules per kind of error": (
        f"{POLICY}::test_three_timeouts_trip_where_five_errors_are_needed",
        f"{POLICY}::test_a_classifier_decides_what_an_exception_of_a_guarded_call_means",
    ),
    "no open time taken from Retry-After": (
        f"{POLICY}::test_retry_after_lengthens_an_opening",
        f"{POLICY}::test_holds_end_in_half_open_never_escalate_and_are_no_trips",
    ),
    "no jitter that is drawn once": (f"{LAWS}::test_jitter_is_drawn_once_per_opening",),
    # of the engine, which they do not have
    "the plan does not end, or passes its limits, or loses a cause": (
        "property/test_plan.py::test_every_request_ends_within_its_limits_with_every_cause",
    ),
    "a window that is not what a recount says": (
        "property/test_call_window.py::test_the_window_reads_as_a_recount_of_the_whole_history",
    ),
    "a budget that grants more than it promises": (
        "property/test_budget.py::test_never_more_than_a_fifth_of_the_requests_plus_ten_a_second",
    ),
    "a Retry-After that raises, is negative or has no end": (
        "property/test_retry_after.py::test_headers_never_ask_for_nonsense",
        "property/test_retry_after.py::test_no_retry_after_opens_a_breaker_for_longer_than_allowed",
    ),
    "an exception that the classifier cannot take": (
        "property/test_classify_total.py::test_no_made_up_exception_is_too_odd",
    ),
    "a cancellation at the wrong moment loses a permit": (
        "property/test_every_step.py::test_a_request_cancelled_at_any_await_gives_everything_back",
        "property/test_every_step.py::test_tasks_in_any_order_and_cancelled_anywhere_leave_nothing_behind",
        "property/test_every_step.py::test_threads_in_any_order_leave_nothing_behind",
    ),
    "an upstream that raises at the wrong moment loses a permit": (
        "property/test_every_step.py::test_an_upstream_that_raises_at_any_step_loses_no_permit",
    ),
}


@cache
def functions(file: str) -> set[str]:
    path = TESTS / file
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("law", PROMISES)
def test_every_law_has_a_test_named_as_a_promise(law: str) -> None:
    assert PROMISES[law], law
    for node in PROMISES[law]:
        file, _, name = node.partition("::")
        assert name in functions(file), f"{law}: there is no {node}"
