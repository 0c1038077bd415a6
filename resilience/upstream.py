"""What the engine needs of the world: targets to call and somebody who calls them. No I/O here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from resilience.outcome import Outcome

# Looking up a member of a class, an enumeration's above all, costs ten times a module's own name.
_SUCCESS: Final = Kind.SUCCESS
_new: Final = object.__new__


class Operation(StrEnum):
    """What is asked of a target."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    IMAGE = "image_generation"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One way to serve: provider, model, credentials and parameters.

    Attributes:
        name: Unique in a runtime; what people and logs call it.
        provider: What fails together with it.
        model: LiteLLM's model string.
        params: LiteLLM parameters that travel with each call, keys included. Never shown.
        identity: Equal for equal targets, and not reversible to a key.
        dynamic: Made from a caller's own parameters, not from the settings.
    """

    name: str
    provider: str
    model: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    identity: str = ""
    dynamic: bool = False


class Force(StrEnum):
    """How much of an open breaker's no a request may overrule, when nothing is eligible."""

    NO = "no"
    RATE = "rate"
    """Use what a failure or slow rate opened: most of its calls still work."""
    OUTAGE = "outage"
    """Use everything that an outage opened (``on_exhausted: panic``)."""


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt behind an answer or an error, as `resilience.attempts` shows it."""

    target: str
    provider: str
    kind: Kind
    latency_seconds: float
    cost_usd: float | None = None
    status: int | None = None
    error_type: str | None = None

    @classmethod
    def of(cls, target: Target, outcome: Outcome) -> AttemptRecord:
        """An attempt at ``target`` that came to ``outcome``. Its cost is read from the answer when somebody asks."""
        record = _new(cls)
        # Made for every request; see `Outcome.success`.
        fields = record.__dict__
        fields["target"] = target.name
        fields["provider"] = target.provider
        fields["kind"] = outcome.kind
        fields["latency_seconds"] = outcome.latency_seconds
        if outcome.kind is not _SUCCESS:
            fields["status"] = outcome.status
            if outcome.error is not None:
                fields["error_type"] = type(outcome.error).__name__
        return record

    def priced(self, cost_usd: float) -> AttemptRecord:
        """The same with its cost."""
        record = _new(AttemptRecord)
        record.__dict__.update(self.__dict__, cost_usd=cost_usd)
        return record


record_of: Final = AttemptRecord.of


@dataclass(frozen=True, slots=True)
class CallTimeouts:
    """Limits of one attempt in seconds, already capped by the deadline.

    ``attempt`` bounds a whole answer; a stream has ``first_token`` and then ``stall`` between pieces. ``whole``
    bounds a stream that is held back until it is whole.
    """

    attempt: float
    first_token: float
    stall: float
    whole: float = math.inf


class Piece(NamedTuple):
    """One chunk of a stream and what it carries.

    Attributes:
        chunk: LiteLLM's own chunk, handed to the caller unchanged.
        text: The text in it, for `StreamInterruptedError.partial`.
        has_content: Content, a tool-call delta, a reasoning delta or a refusal: it ends the wait for the first
            token. A role-only chunk or a keep-alive does not.
        is_plain: Nothing but text, or a thought on the way to it. Half a tool call or half a refusal is not: no
            other target can write on from there.
    """

    chunk: Any
    text: str
    has_content: bool
    is_plain: bool = True


@dataclass(slots=True)
class Delivered:
    """What a reader has been given of an answer that broke.

    Attributes:
        parts: The text, one part for each target that gave some, in order.
        is_plain: Whether another target may write on: see `Piece.is_plain`.
        last: The last chunk with a text, None if there was none.
        models: The model string of each of these targets.
    """

    parts: tuple[str, ...]
    is_plain: bool = True
    last: Any = None
    models: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Exactly the text that has been handed over."""
        return "".join(self.parts)


class Graft(Protocol):
    """Makes the pieces of a continuation pieces of the whole answer. One for each continuation."""

    def grown(self, piece: Piece, text: str, repeated: int) -> Piece | None:
        """The piece as the reader gets it.

        Args:
            piece: As the continuing target sent it.
            text: What is left of its text.
            repeated: How many characters of all that the target said were a repetition, and are left out.

        Returns:
            None for what the reader has had already: the beginning of an answer.
        """
        ...


class Chunks(NamedTuple):
    """A stream's chunks as they come, for a reader to whom a `Piece` for each of them would be too much.

    A stream may offer them by a method ``chunks()``; what it gives out there is not seen by its own iterator.

    Attributes:
        next: ``__next__`` or ``__anext__`` of what is below.
        text: The text of a chunk that carries nothing else; "" for every other: then ask ``piece``.
        piece: What a chunk carries.
        note: Told of an error that ``next`` raised, before anybody classifies it. Returns whether it says no more
            than that the stream is over.
    """

    next: Callable[[], Any]
    text: Callable[[Any], str]
    piece: Callable[[Any], Piece]
    note: Callable[[BaseException], bool]


class SyncStream(Protocol):
    """An open answer. Iterating raises what the provider's stream raised, untouched."""

    def __iter__(self) -> Iterator[Piece]: ...
    def ended_whole(self) -> bool:
        """After the end: did a finish reason or a terminator of the provider's own arrive?"""
        ...

    def cost_usd(self) -> float | None:
        """After the end: what it cost by LiteLLM's price map; None where no usage was told, or it has no price."""
        ...

    def close(self) -> None:
        """Hang up. May be called at any time and more than once."""
        ...


class AsyncStream(Protocol):
    """The same for asyncio."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...
    def ended_whole(self) -> bool:
        """After the end: did a finish reason or a terminator of the provider's own arrive?"""
        ...

    def cost_usd(self) -> float | None:
        """After the end: what it cost by LiteLLM's price map; None where no usage was told, or it has no price."""
        ...

    async def aclose(self) -> None:
        """Hang up. May be called at any time and more than once."""
        ...

    def abandon(self) -> None:
        """Hang up from where nothing can be awaited (garbage collection, another thread)."""
        ...


class Upstream(Protocol):
    """Somebody who sends requests. The real one is `resilience.middleware.call.LiteLLMUpstream`."""

    def call(self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts) -> Any:
        """Make one request and return the provider's answer, or raise the provider's own exception."""
        ...

    async def acall(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> Any:
        """The same for asyncio."""
        ...

    def open(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> SyncStream:
        """Make one streaming request."""
        ...

    async def aopen(
        self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts
    ) -> AsyncStream:
        """The same for asyncio."""
        ...

    def classify(self, error: BaseException) -> Outcome:
        """Say what an exception means. Total: never raises."""
        ...

    def judge(self, answer: Any, operation: Operation, params: Mapping[str, Any]) -> Kind:
        """SUCCESS, or EMPTY for an answer that holds nothing."""
        ...

    def cost_usd(self, answer: Any) -> float | None:
        """What an answer cost by LiteLLM's price map, None where it has no price."""
        ...

    def text_of(self, answer: Any) -> str:
        """The answer's text, for validators."""
        ...

    def context_window(self, target: Target) -> int | None:
        """How many input tokens a target takes, None where nobody knows."""
        ...

    def takes_prefill(self, target: Target) -> bool:
        """Whether a target may be given the beginning of its answer; one that nobody knows may."""
        ...

    def asks_plain_text(self, operation: Operation, params: Mapping[str, Any]) -> bool:
        """Whether a request asks for one text, half of which can be written on."""
        ...

    def continued(
        self, target: Target, operation: Operation, params: Mapping[str, Any], text: str
    ) -> Mapping[str, Any]:
        """The parameters that ask a target to write on after ``text``."""
        ...

    def graft(self, operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> Graft:
        """What makes the pieces of a continuation fit on what was delivered. ``params`` are the caller's."""
        ...

    def attach(self, answer: Any, attempts: tuple[AttemptRecord, ...]) -> None:
        """Write the attempts into an answer's ``_hidden_params["resilience"]``."""
        ...


ATTEMPTS: Final = "_resilience_attempts"
"""Under this name the log of a closed stream of the custom provider has its attempts."""


def attempts(answer: Any) -> tuple[AttemptRecord, ...]:
    """The attempts behind one answer, stream or error, in order: target, kind, latency, cost.

    Args:
        answer: What a call returned, also a stream during and after it, or an error of this package.
    """
    hidden = getattr(answer, "_hidden_params", None)
    behind = hidden.get("resilience") if isinstance(hidden, dict) else None
    if behind is None:
        behind = getattr(answer, "attempts", None)
    if behind is None:  # a stream of the custom provider: LiteLLM's own object around ours
        behind = getattr(getattr(answer, "completion_stream", None), "attempts", None)
    if behind is None:  # ... that has come to its end
        behind = getattr(getattr(answer, "logging_obj", None), ATTEMPTS, None)
    return behind if isinstance(behind, tuple) else ()
