"""Peers: other Python breakers, each configured like ours as far as it can be, or absent where not installed."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Peer:
    """A library's way to guard a function.

    Attributes:
        name: What it is called in tables.
        rule: What it trips on.
        sync: Takes (failures, open seconds) and returns a decorator for functions; None where it has none.
        coroutine: The same for coroutine functions.
        module: What to import to see whether it is there.
    """

    name: str
    rule: str
    module: str
    sync: Callable[[int, float], Callable[..., Any]] | None = None
    coroutine: Callable[[int, float], Callable[..., Any]] | None = None

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported here."""
        try:
            importlib.import_module(self.module)
        except ImportError:
            return False
        return True


def _pybreaker(failures: int, seconds: float) -> Callable[..., Any]:
    import pybreaker

    breaker = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=seconds)
    return lambda func: lambda *args, **kwargs: breaker.call(func, *args, **kwargs)


def _pybreaker_async(failures: int, seconds: float) -> Callable[..., Any]:
    import pybreaker

    breaker = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=seconds)
    return lambda func: lambda *args, **kwargs: breaker.call_async(func, *args, **kwargs)


def _circuitbreaker(failures: int, seconds: float) -> Callable[..., Any]:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(failure_threshold=failures, recovery_timeout=seconds)


def _aiobreaker(failures: int, seconds: float) -> Callable[..., Any]:
    import aiobreaker

    return aiobreaker.CircuitBreaker(fail_max=failures, timeout_duration=timedelta(seconds=seconds))


def _purgatory(failures: int, seconds: float) -> Callable[..., Any]:
    import purgatory

    factory = purgatory.SyncCircuitBreakerFactory(default_threshold=failures, default_ttl=seconds)
    return factory("bench")


def _purgatory_async(failures: int, seconds: float) -> Callable[..., Any]:
    import purgatory

    factory = purgatory.AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=seconds)
    return factory("bench")


def _interlock(failures: int, seconds: float) -> Callable[..., Any]:
    import interlock

    logging.getLogger("interlock").setLevel(logging.CRITICAL)
    config = interlock.Config(minimum_number_of_calls=failures, wait_duration_in_open=seconds)
    return interlock.CircuitBreaker(name="bench", config=config)


def _fluxgate(failures: int, seconds: float) -> Callable[..., Any]:
    import fluxgate
    from fluxgate.retries import Cooldown
    from fluxgate.trippers import FailureRate, MinRequests

    rule = MinRequests(failures) & FailureRate(0.25)
    return fluxgate.CircuitBreaker(tripper=rule, retry=Cooldown(seconds))


def _fluxgate_async(failures: int, seconds: float) -> Callable[..., Any]:
    import fluxgate
    from fluxgate.retries import Cooldown
    from fluxgate.trippers import FailureRate, MinRequests

    rule = MinRequests(failures) & FailureRate(0.25)
    return fluxgate.AsyncCircuitBreaker(tripper=rule, retry=Cooldown(seconds))


def _pyresilience(failures: int, seconds: float) -> Callable[..., Any]:
    import pyresilience

    config = pyresilience.CircuitBreakerConfig(failure_threshold=failures, recovery_timeout=seconds)
    return pyresilience.resilient(circuit_breaker=config)


def _nopanic(failures: int, seconds: float) -> Callable[..., Any]:
    import nopanic

    return nopanic.circuit_breaker(failure_threshold=0.25, min_calls=failures, reset_timeout=seconds)


def _resilix(failures: int, seconds: float) -> Callable[..., Any]:
    import resilix

    return resilix.protect.circuit(failures=failures, reset_timeout=seconds)


PEERS = (
    Peer("resilix", "failures in a row", "resilix", _resilix, _resilix),
    Peer("circuitbreaker", "failures in a row", "circuitbreaker", _circuitbreaker, _circuitbreaker),
    Peer("aiobreaker", "failures in a row", "aiobreaker", _aiobreaker, _aiobreaker),
    Peer("purgatory", "failures in a row", "purgatory", _purgatory, _purgatory_async),
    Peer("pyresilience", "failures in a row", "pyresilience", _pyresilience, _pyresilience),
    Peer("nopanic", "rate over a window", "nopanic", _nopanic, _nopanic),
    Peer("interlock-cb", "rate over a window", "interlock", _interlock, _interlock),
    Peer("fluxgate", "rate over a window", "fluxgate", _fluxgate, _fluxgate_async),
    Peer("pybreaker", "failures in a row", "pybreaker", _pybreaker, None),
    Peer("pybreaker with tornado", "failures in a row", "tornado", None, _pybreaker_async),
)


def installed() -> Iterator[Peer]:
    """Those that can be imported here."""
    return (peer for peer in PEERS if peer.is_installed)
