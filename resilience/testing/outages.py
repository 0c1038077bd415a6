"""Outages on demand: `with outage("openai"):` makes a provider fail for everything in this process that calls it."""

from __future__ import annotations

import random
import threading
from contextvars import ContextVar
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, Self

from resilience.clock import SYSTEM_CLOCK
from resilience.outcome import Kind
from resilience.testing.faults import Fault
from resilience.testing.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from resilience.clock import Clock
    from resilience.middleware.blows import Blow, Gate

OutageKind = Literal[
    "connection",
    "timeout",
    "hang",
    "server_error",
    "overloaded",
    "malformed",
    "interrupted",
    "stall",
    "rate_limited",
    "quota_exhausted",
    "auth",
    "model_unavailable",
    "empty",
    "context_window",
    "content_policy",
    "bad_request",
]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of outage looks like.

    Attributes:
        kind: What a classifier is to make of it. Of a broken stream; a whole answer then fails as `whole`.
        fault: The answer; None: none comes.
        waits: Whether nothing comes until the caller gives up.
        breaks: Whether a stream begins well.
        whole: What becomes of an answer that is no stream.
    """

    kind: Kind
    fault: Fault | None = None
    waits: bool = False
    breaks: bool = False
    whole: Kind | None = None


SHAPES: Final[dict[str, Shape]] = {
    "connection": Shape(Kind.CONNECTION),
    "timeout": Shape(Kind.TIMEOUT, waits=True),
    "hang": Shape(Kind.TIMEOUT, waits=True),
    "server_error": Shape(Kind.SERVER_ERROR, Fault.http(503)),
    "overloaded": Shape(Kind.OVERLOADED, Fault.overloaded()),
    "malformed": Shape(Kind.MALFORMED, Fault.html()),
    "interrupted": Shape(Kind.INTERRUPTED, breaks=True, whole=Kind.CONNECTION),
    "stall": Shape(Kind.TIMEOUT, waits=True, breaks=True, whole=Kind.TIMEOUT),
    "rate_limited": Shape(Kind.RATE_LIMITED, Fault.rate_limited()),
    "quota_exhausted": Shape(Kind.QUOTA_EXHAUSTED, Fault.insufficient_quota()),
    "auth": Shape(Kind.AUTH, Fault.unauthorized()),
    "model_unavailable": Shape(Kind.MODEL_UNAVAILABLE, Fault.model_missing()),
    "empty": Shape(Kind.EMPTY, Fault.empty()),
    "context_window": Shape(Kind.CONTEXT_WINDOW, Fault.context_window()),
    "content_policy": Shape(Kind.CONTENT_POLICY, Fault.content_policy()),
    "bad_request": Shape(Kind.BAD_REQUEST, Fault.http(400)),
}

_LOCK: Final = threading.RLock()
_ACTIVE: list[Outage] = []
# Outages that have spared the call in progress: what is called below it is not asked again.
_SPARED: Final[ContextVar[frozenset[int]]] = ContextVar("resilience_spared", default=frozenset())


class Outage:
    """A provider's outage while its block runs. Made by `outage`.

    Attributes:
        provider: Whose.
        calls: How many calls have met it.
    """

    def __init__(
        self,
        provider: str,
        kind: OutageKind | Kind | Schedule[OutageKind],
        *,
        retry_after: float | None,
        share: float,
        models: Iterable[str],
        seconds: float | None,
        chunks: int,
        seed: int,
        clock: Clock,
    ) -> None:
        self.provider = provider
        self.calls = 0
        self._kind = kind
        self._retry_after = retry_after
        self._share = share
        self._models = tuple(models)
        self._seconds = seconds
        self._chunks = chunks
        self._rng = random.Random(seed)
        self._clock = clock
        self._began = clock.monotonic()
        self._gate: Gate | None = None

    def __enter__(self) -> Self:
        from resilience.testing import doors  # noqa: PLC0415 (imports LiteLLM, and it asks us)

        with _LOCK:
            if self in _ACTIVE:
                raise RuntimeError(f"this outage of {self.provider} is running already; make another one")
            self._began = self._clock.monotonic()
            if not _ACTIVE:
                doors.put_in()
            _ACTIVE.append(self)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from resilience.testing import doors  # noqa: PLC0415 (likewise)

        with _LOCK:
            _ACTIVE.remove(self)
            if not _ACTIVE:
                doors.take_out()
            gate, self._gate = self._gate, None
        if gate is not None:
            gate.open()

    def __repr__(self) -> str:
        return f"<outage of {self.provider}: {self._kind}, {self.calls} calls>"

    def shape(self) -> Shape | None:
        """What is wrong now; None: nothing."""
        kind = self._kind
        word = kind.at(self._clock.monotonic() - self._began) if isinstance(kind, Schedule) else kind
        return None if word is None else SHAPES[word]

    def matches(self, provider: str, model: str) -> bool:
        """Whether it is about such a call, now."""
        if self.provider not in ("*", provider) and not provider.startswith(self.provider + "/"):
            return False
        names = (model, model.partition("/")[2])
        named = not self._models or any(fnmatchcase(name, one) for one in self._models for name in names)
        return named and self.shape() is not None

    def strikes(self) -> bool:
        """Whether the next call is one of those that fail."""
        with _LOCK:
            return self._share >= 1 or self._rng.random() < self._share

    def met(self) -> None:
        """Count a call."""
        with _LOCK:
            self.calls += 1

    @property
    def hangs(self) -> bool:
        """Whether its failures take as long as the caller waits."""
        return self._kind != "timeout" and self._seconds is None and getattr(self.shape(), "waits", False)

    def retry_after(self) -> float | None:
        """What a refused call is told, in seconds."""
        return self._retry_after

    def blow(self, provider: str) -> Blow | None:
        """What a call meets."""
        from resilience.middleware.blows import Blow, Gate  # noqa: PLC0415 (imports LiteLLM)

        shape = self.shape()
        if shape is None:
            return None
        fault = shape.fault
        if fault is not None and self._retry_after is not None:
            fault = replace(fault, headers=(*fault.headers, ("retry-after", f"{self._retry_after:g}")))
        dialect = "anthropic" if provider.partition("/")[0] == "anthropic" else "openai"
        with _LOCK:
            if self._gate is None:
                self._gate = Gate()
                if self not in _ACTIVE:  # it has ended since the call asked
                    self._gate.open()
            gate = self._gate
        return Blow(
            status=fault.status if fault is not None and fault.status != 200 else None,
            headers=fault.headers if fault is not None else (),
            body=fault.answer_to(dialect) if fault is not None else "",
            waits=shape.waits,
            seconds=0.0 if self._kind == "timeout" else self._seconds,
            chunks=self._chunks if shape.breaks else None,
            garbled=shape.kind is Kind.MALFORMED,
            empty=shape.kind is Kind.EMPTY,
            told=self.met,
            gate=gate,
        )


def outage(
    provider: str,
    kind: OutageKind | Kind | Schedule[OutageKind] = "server_error",
    *,
    retry_after: float | None = None,
    share: float = 1.0,
    models: str | Iterable[str] = (),
    seconds: float | None = None,
    chunks: int = 2,
    seed: int = 0,
    clock: Clock = SYSTEM_CLOCK,
) -> Outage:
    """Let a provider fail while a block runs, for every call in this process, through any door.

    Calls fail where LiteLLM would hear the provider, so that breakers, callbacks, Routers and ``except`` clauses
    see LiteLLM's own exceptions; nothing is sent, and no key is needed. Functions under `resilience.protect` and
    `resilience.failover` are not called, and `ScriptedUpstream` fails too. Calls to anybody else go on as they
    are. Outages may stand in each other and in several threads; the innermost that is about a call decides.

    ::

        with outage("openai", "rate_limited", retry_after=3, share=0.25) as down:
            answer = client.ask("Hello")
        assert down.calls > 0

    Args:
        provider: As the registry names it: ``openai`` (also at every address), ``azure/east.example.com:443``, a
            name of your own under `resilience.protect`; ``*`` for all.
        kind: What fails: a kind of `resilience.outcome.Kind`, or ``hang`` (nothing until the caller's timeout, or
            ``seconds``; ``timeout`` is the same in no time), ``stall`` and ``interrupted`` (a stream that begins
            well; functions' own generators are left alone). A `Schedule` of them changes over time.
        retry_after: Seconds, sent as the provider's Retry-After.
        share: Which part of the calls fails, drawn by ``seed``.
        models: Only these: names or patterns such as ``gpt-4o*``.
        seconds: How long a ``hang`` or ``stall`` takes at most.
        chunks: How many pieces of a stream come before it breaks.
        seed: Of the draw.
        clock: Where a schedule's time comes from.

    Raises:
        ValueError: One of them is not allowed; the message says what is.
    """
    words = [what for _, what in kind.phases if what is not None] if isinstance(kind, Schedule) else [kind]
    for word in words:
        if word not in SHAPES:
            raise ValueError(f"outage of {provider!r}: unknown kind {str(word)!r}; allowed: {', '.join(SHAPES)}")
    if not isinstance(provider, str) or not provider.strip():
        raise ValueError(f"outage of {provider!r}: name a provider, such as 'openai', or '*' for all")
    if not _is_number(share) or not 0 < share <= 1:
        raise ValueError(f"outage of {provider!r}: share {share!r}; allowed: more than 0, at most 1")
    for name, value in (("retry_after", retry_after), ("seconds", seconds), ("chunks", chunks)):
        if value is not None and (not _is_number(value) or not value >= 0):
            raise ValueError(f"outage of {provider!r}: {name} {value!r}; allowed: 0 or more")
    return Outage(
        provider,
        kind,
        retry_after=retry_after,
        share=share,
        models=(models,) if isinstance(models, str) else models,
        seconds=seconds,
        chunks=chunks,
        seed=seed,
        clock=clock,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def struck(provider: str, model: str) -> Outage | None:
    """The outage that a call meets; None: it is left alone. Draws, where only a share of the calls fails."""
    if not _ACTIVE:
        return None
    return draw(provider, model)[0]


def draw(provider: str, model: str) -> tuple[Outage | None, frozenset[int]]:
    """The same, with the outages that spared the call: put them into `spare` around what it calls."""
    with _LOCK:
        active = list(reversed(_ACTIVE))
    spared = _SPARED.get()
    for one in active:
        if id(one) not in spared and one.matches(provider, model):
            if one.strikes():
                return one, spared
            spared |= {id(one)}
    return None, spared


spare: Final = _SPARED
