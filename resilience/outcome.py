"""What can happen to an attempt, and what each kind means for health, retry and fallback: one table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """What happened to one attempt."""

    SUCCESS = "success"
    LOCAL = "local"
    CANCELLED = "cancelled"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    MALFORMED = "malformed"
    INTERRUPTED = "interrupted"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    AUTH = "auth"
    MODEL_UNAVAILABLE = "model_unavailable"
    EMPTY = "empty"
    REJECTED = "rejected"
    CONTEXT_WINDOW = "context_window"
    CONTENT_POLICY = "content_policy"
    BAD_REQUEST = "bad_request"
    UNKNOWN = "unknown"


class Effect(StrEnum):
    """What an outcome does to one breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """Says nothing at all; a probe's slot is given back."""
    ANSWERED = "answered"
    """Says nothing about health, but somebody is there: a success while half-open, nothing otherwise."""
    HOLD = "hold"
    """Open until the rate limit ends."""
    ACCOUNT = "account"
    """Open at once, for the account time: only a person or a new month mends it."""


class Again(StrEnum):
    """May the same target be tried again?"""

    NO = "no"
    YES = "yes"
    QUICKLY = "quickly"
    """With the first step of the back-off only: such faults pass in milliseconds."""
    LAST_RESORT = "last_resort"
    """Only if nothing else is eligible and the wait fits."""


class Onward(StrEnum):
    """May the next target be tried?"""

    NO = "no"
    YES = "yes"
    LARGER_WINDOW = "larger_window"
    IF_ASKED = "if_asked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one kind of outcome means: a row of the table."""

    provider: Effect
    target: Effect
    same_target: Again
    next_target: Onward

    @property
    def is_outage(self) -> bool:
        """Whether the provider itself is suspected."""
        return self.provider is Effect.FAILURE


_S, _F, _I, _A, _H, _X = (
    Effect.SUCCESS,
    Effect.FAILURE,
    Effect.IGNORED,
    Effect.ANSWERED,
    Effect.HOLD,
    Effect.ACCOUNT,
)

# The judgement of this project, a row a kind. A reader can disagree with one row.
VERDICTS: Mapping[Kind, Verdict] = MappingProxyType(
    {
        #                               provider, target, same target,       next target
        Kind.SUCCESS: Verdict(_S, _S, Again.NO, Onward.NO),
        Kind.LOCAL: Verdict(_I, _I, Again.NO, Onward.NO),
        Kind.CANCELLED: Verdict(_I, _I, Again.NO, Onward.NO),
        Kind.CONNECTION: Verdict(_F, _F, Again.QUICKLY, Onward.YES),
        Kind.TIMEOUT: Verdict(_F, _F, Again.NO, Onward.YES),
        Kind.SERVER_ERROR: Verdict(_F, _F, Again.QUICKLY, Onward.YES),
        Kind.OVERLOADED: Verdict(_F, _F, Again.NO, Onward.YES),
        Kind.MALFORMED: Verdict(_F, _F, Again.YES, Onward.YES),
        Kind.INTERRUPTED: Verdict(_F, _F, Again.NO, Onward.YES),
        Kind.RATE_LIMITED: Verdict(_A, _H, Again.LAST_RESORT, Onward.YES),
        Kind.QUOTA_EXHAUSTED: Verdict(_A, _X, Again.NO, Onward.YES),
        Kind.AUTH: Verdict(_A, _X, Again.NO, Onward.YES),
        Kind.MODEL_UNAVAILABLE: Verdict(_A, _X, Again.NO, Onward.YES),
        Kind.EMPTY: Verdict(_A, _F, Again.NO, Onward.YES),
        Kind.REJECTED: Verdict(_A, _F, Again.NO, Onward.YES),
        Kind.CONTEXT_WINDOW: Verdict(_A, _A, Again.NO, Onward.LARGER_WINDOW),
        Kind.CONTENT_POLICY: Verdict(_A, _A, Again.NO, Onward.IF_ASKED),
        Kind.BAD_REQUEST: Verdict(_A, _A, Again.NO, Onward.NO),
        Kind.UNKNOWN: Verdict(_I, _F, Again.YES, Onward.YES),
    }
)

ACCOUNT_KINDS = frozenset(kind for kind, verdict in VERDICTS.items() if verdict.target is Effect.ACCOUNT)
OUTAGE_KINDS = frozenset(kind for kind, verdict in VERDICTS.items() if verdict.is_outage)


# Looking up a member of a class, an enumeration's above all, costs ten times a module's own name.
_SUCCESS = Kind.SUCCESS
_new = object.__new__


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to.

    Attributes:
        kind: What happened.
        error: The provider's own exception, unchanged. None after a success, and after an answer that was
            refused without one (an empty text).
        status: HTTP status, where there was one.
        retry_after_seconds: What the provider asked for, in any of its forms; never negative.
        reset_seconds: When a quota comes back, if the provider said so.
        should_retry: The provider's ``x-should-retry``, None where it said nothing.
        latency_seconds: Time to the first content of a stream, to the whole answer otherwise.
        elsewhere: This target cannot be asked such a thing, another may be: LiteLLM refused a parameter that the
            model does not take, before anything was sent.
    """

    kind: Kind
    error: BaseException | None = None
    status: int | None = None
    retry_after_seconds: float | None = None
    reset_seconds: float | None = None
    should_retry: bool | None = None
    latency_seconds: float = 0.0
    elsewhere: bool = False

    @classmethod
    def success(cls, latency_seconds: float) -> Outcome:
        """A success, made for every request: a frozen dataclass's own ``__init__`` costs four times as much."""
        outcome = _new(cls)
        fields = outcome.__dict__  # the rest are the defaults, which stand on the class
        fields["kind"] = _SUCCESS
        fields["latency_seconds"] = latency_seconds
        return outcome

    @property
    def verdict(self) -> Verdict:
        """What this means for health, retry and fallback."""
        return VERDICTS[self.kind]
