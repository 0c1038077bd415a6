"""An attempt's limits under the deadline."""

from __future__ import annotations

import pytest

from resilience.execution.deadline import is_over, limits
from resilience.routing import RoutedTarget
from resilience.settings import TimeoutSettings
from resilience.upstream import CallTimeouts, Target

PLACE = RoutedTarget(
    Target("a", "p", "m"), 1, 1.0, TimeoutSettings(attempt_seconds=60, first_token_seconds=20, stall_seconds=10)
)


@pytest.mark.parametrize(
    ("left", "caller", "stream", "expected"),
    [
        (180.0, None, False, None),
        (60.0, None, False, None),
        (30.0, None, False, CallTimeouts(30, 20, 10)),
        (5.0, 5.0, False, CallTimeouts(5, 5, 10)),
        (30.0, None, True, None),  # the deadline of a stream ends at its first content
        (15.0, None, True, CallTimeouts(15, 15, 10)),
        (15.0, 8.0, True, CallTimeouts(15, 15, 8)),  # the caller's timeout= bounds the pauses too
        (500.0, 500.0, True, None),
    ],
)
def test_limits_are_capped_and_untouched_ones_are_the_targets_own(
    left: float, caller: float | None, stream: bool, expected: CallTimeouts | None
) -> None:
    found = limits(PLACE, left, caller, stream=stream)
    if expected is None:
        assert found is PLACE.limits
    else:
        assert found == expected


def test_a_millisecond_before_the_end_is_the_end() -> None:
    assert is_over(9.9995, 10.0)
    assert not is_over(9.9, 10.0)
