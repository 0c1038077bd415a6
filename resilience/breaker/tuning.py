"""Tuning: pybreaker's numbers on a living breaker; a policy has its own, which nobody overrules."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pybreaker

from resilience.breaker.states import HalfOpen
from resilience.errors import ConfigurationError

if TYPE_CHECKING:
    from resilience.breaker.rules import PolicyRules
    from resilience.settings import BreakerSettings


class TunedCircuit(pybreaker.CircuitBreaker):
    """What pybreaker's users read and set on a living breaker."""

    _policy: BreakerSettings | None
    _rules: PolicyRules | None

    @property
    def policy(self) -> BreakerSettings | None:
        """The policy, None where pybreaker's own rules apply."""
        return self._policy

    @property
    def fail_max(self) -> int:
        """Failures in a row that open the circuit. With a policy: its ``consecutive_failures``."""
        # pybreaker's annotation knows no rule that is off.
        return self._fail_max if self._policy is None else cast("int", self._policy.consecutive_failures)

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._refuse_tuning("fail_max", "consecutive_failures")
        self._fail_max = number

    @property
    def reset_timeout(self) -> float:
        """Seconds that the circuit stays open. With a policy: its ``open_seconds``."""
        return self._reset_timeout if self._policy is None else self._policy.open_seconds

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        self._refuse_tuning("reset_timeout", "open_seconds")
        self._reset_timeout = timeout

    @property
    def success_threshold(self) -> int:
        """Successful trial calls that close the circuit. With a policy: its ``probe_successes``."""
        return self._success_threshold if self._policy is None else self._policy.probe_successes

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        self._refuse_tuning("success_threshold", "probe_successes")
        self._success_threshold = threshold

    @property
    def success_counter(self) -> int:
        """Successful trial calls since the circuit became half-open."""
        if self._rules is None:
            return self._state_storage.success_counter
        state = self._rules.state
        return state.successes if isinstance(state, HalfOpen) else 0

    def _refuse_tuning(self, name: str, instead: str) -> None:
        if self._policy is not None:
            raise ConfigurationError(
                f"{self._name or 'the circuit breaker'}: {name} cannot be set, its policy decides; "
                f"make the breaker with BreakerSettings({instead}=...)"
            )


def refuse_both(policy: BreakerSettings | None, **stock: float | None) -> None:
    """Refuse pybreaker's numbers beside a policy that replaces them.

    Raises:
        ConfigurationError: Both were given.
    """
    given = [name for name, value in stock.items() if value is not None]
    if policy is not None and given:
        raise ConfigurationError(
            f"CircuitBreaker: {', '.join(given)} and policy exclude each other; "
            "policy has consecutive_failures, open_seconds and probe_successes instead"
        )
