"""Errors, each of which answers the next question: its fields for programs, its sentence for people.

ResilienceError
├── RejectedError                 nothing was sent
│   ├── CircuitOpenError          (also pybreaker.CircuitBreakerError)
│   │   └── CircuitIsolatedError
│   └── ConcurrencyLimitError
├── DeadlineExceededError         (also TimeoutError)
├── StreamInterruptedError
├── RouteExhaustedError           (also an ExceptionGroup)
└── ConfigurationError            (also ValueError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, cast

from pybreaker import CircuitBreakerError

from resilience.outcome import ACCOUNT_KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resilience.upstream import AttemptRecord

_RATE_KINDS = frozenset({Kind.RATE_LIMITED, Kind.QUOTA_EXHAUSTED})


class ResilienceError(Exception):
    """The root of every error that this package raises itself. Providers' errors keep their own type."""


class RejectedError(ResilienceError):
    """Nothing was sent: a breaker or a limit refused the attempt.

    Args:
        reason: A sentence, or a function that makes one: an open breaker rejects in nanoseconds, and most
            rejections are never read.
        breaker: The name of what refused.
        provider: The provider concerned, where there is one.
        retry_after: Seconds until it is worth asking again, None where nobody knows.
        kind: The failure kind that led here, None for a limit.
    """

    def __init__(
        self,
        reason: str | Callable[[float | None], str] = "rejected",
        breaker: str | None = None,
        provider: str | None = None,
        retry_after: float | None = None,
        kind: Kind | None = None,
    ) -> None:
        # All of it lives in `args`: an open breaker makes the error with `__new__` alone, at half the cost.
        self.args = (reason, breaker, provider, retry_after, kind)

    @property
    def reason(self) -> str:
        """The sentence."""
        reason = self.args[0]
        return reason if isinstance(reason, str) else str(reason(self.args[3]))

    @property
    def breaker(self) -> str | None:
        """The name of what refused."""
        return cast("str | None", self.args[1])

    @property
    def provider(self) -> str | None:
        """The provider concerned."""
        return cast("str | None", self.args[2])

    @property
    def retry_after(self) -> float | None:
        """Seconds until it is worth asking again."""
        return cast("float | None", self.args[3])

    @property
    def kind(self) -> Kind | None:
        """The failure kind that led here."""
        return cast("Kind | None", self.args[4])

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, *self.args[1:])


class CircuitOpenError(RejectedError, CircuitBreakerError):
    """The circuit is open: ``retry_after`` tells when the next probe is due."""


# What an open circuit says a million times a second: ``new_error(CircuitOpenError, *its five arguments)``. All of an
# error lives in its `args`, so that ``__init__``, which costs as much again, has nothing to add.
new_error: Final[Callable[..., CircuitOpenError]] = CircuitOpenError.__new__


class CircuitIsolatedError(CircuitOpenError):
    """A person opened the circuit; it stays open until a person resets it."""


class ConcurrencyLimitError(RejectedError):
    """As many calls as the settings allow are in flight."""


class DeadlineExceededError(ResilienceError, TimeoutError):
    """The request's time is over. ``__cause__`` is the group of what the attempts met.

    Args:
        message: What was asked for and how far it came.
        deadline_seconds: The time that the request was given.
        attempts: What was tried.
    """

    def __init__(
        self, message: str, deadline_seconds: float | None = None, attempts: Sequence[AttemptRecord] = ()
    ) -> None:
        super().__init__(message)
        self.deadline_seconds = deadline_seconds
        self.attempts = tuple(attempts)


class StreamInterruptedError(ResilienceError):
    """A stream broke after content had reached the caller.

    Args:
        message: What broke and after how much.
        partial: Exactly the text that the caller has been given.
        provider: Who broke it.
        attempts: What was tried.
    """

    def __init__(
        self,
        message: str,
        partial: str = "",
        provider: str | None = None,
        attempts: Sequence[AttemptRecord] = (),
    ) -> None:
        super().__init__(message)
        self.partial = partial
        self.provider = provider
        self.attempts = tuple(attempts)


class RouteExhaustedError(ResilienceError, ExceptionGroup):
    """No target of the route answered.

    The group holds one cause per attempt in order, then one RejectedError per target that was not tried.

    Args:
        message: The sentence.
        exceptions: The causes.
        retry_after: Seconds until the first of the route's targets may be asked again.
        kinds: The failure kind of each cause, in the same order.
        attempts: What was tried.

    Attributes:
        status_code: 429 if every cause is a rate limit or a quota, else 503.
    """

    def __new__(cls, message: str, exceptions: Sequence[Exception], *_: Any, **__: Any) -> Self:
        """Build the group; the rest of the arguments are for ``__init__``."""
        return super().__new__(cls, message, list(exceptions))

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        retry_after: float | None = None,
        kinds: Iterable[Kind | None] = (),
        attempts: Sequence[AttemptRecord] = (),
    ) -> None:
        super().__init__(message, list(exceptions))
        self.retry_after = retry_after
        self.kinds = tuple(kinds)
        self.attempts = tuple(attempts)

    @property
    def status_code(self) -> int:
        """What an HTTP server would answer: 429 if all causes are rate or quota, else 503."""
        return 429 if self.kinds and all(kind in _RATE_KINDS for kind in self.kinds) else 503

    @property
    def only_account(self) -> bool:
        """Whether nothing but a person can mend it: every cause is a key, a quota or a missing model."""
        return bool(self.kinds) and all(kind in ACCOUNT_KINDS for kind in self.kinds)

    def derive(self, excs: Sequence[Exception]) -> RouteExhaustedError:  # type: ignore[override]
        """Keep the type and the fields when ``except*`` splits the group."""
        return RouteExhaustedError(self.message, excs, self.retry_after, self.kinds, self.attempts)

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.message, list(self.exceptions), self.retry_after, self.kinds, self.attempts)
        return type(self), state


class AnswerRejectedError(ResilienceError):
    """An answer came, but it is none: it was empty, or a validator said no. One of a group's causes.

    Args:
        message: Which target and why. The answer itself is never in it.
        target: Who answered.
        kind: EMPTY or REJECTED.
    """

    def __init__(self, message: str, target: str | None = None, kind: Kind | None = None) -> None:
        super().__init__(message)
        self.target = target
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.target, self.kind)


class AttemptTimeoutError(ResilienceError, TimeoutError):
    """One attempt took longer than it may. One of a group's causes.

    Args:
        message: Which target and which limit.
        target: Who was asked.
        limit: ``attempt_seconds``, ``first_token_seconds`` or ``stall_seconds``.
        seconds: How long it had.
    """

    def __init__(
        self, message: str, target: str | None = None, limit: str | None = None, seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.target = target
        self.limit = limit
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.target, self.limit, self.seconds)


class ConfigurationError(ResilienceError, ValueError):
    """Settings or arguments are wrong: the message names what, where, and what is allowed."""


class UnknownNameError(ConfigurationError, KeyError):
    """A name that nobody knows. Also a KeyError, so that ``get`` and ``in`` work on the registry's maps."""

    def __str__(self) -> str:
        # KeyError would show the repr of the sentence.
        return str(self.args[0]) if self.args else ""
