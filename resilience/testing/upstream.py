"""A scripted upstream: what each target answers, in order, without a network. Counts attempts, sync and async."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from resilience.clock import SYSTEM_CLOCK, SystemClock
from resilience.outcome import Kind, Outcome
from resilience.testing.outages import struck
from resilience.testing.schedule import Schedule
from resilience.upstream import Piece

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from resilience.clock import Clock
    from resilience.testing.outages import Outage
    from resilience.upstream import AttemptRecord, CallTimeouts, Delivered, Operation, Target


class ScriptedError(Exception):
    """What a scripted provider raises; stands for an exception of LiteLLM's."""

    def __init__(self, target: str, outcome: Outcome) -> None:
        super().__init__(f"{target} was told to fail with {outcome.kind}")
        self.outcome = outcome


@dataclass
class ScriptedAnswer:
    """A whole answer, or one chunk of a stream."""

    text: str
    target: str
    _hidden_params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Say:
    """An answer.

    Attributes:
        text: What it says. Streamed, it comes in the pieces of ``chunks``, or word by word.
        after_seconds: Until the answer, or the stream's first piece.
        chunks: A stream's pieces; "" is one without content (a role, a keep-alive).
        gap_seconds: Before each further piece.
        whole: Whether a stream ends with a finish reason.
        then: What breaks the stream after its pieces.
    """

    text: str = "ok"
    after_seconds: float = 0.0
    chunks: tuple[str, ...] | None = None
    gap_seconds: float = 0.0
    whole: bool = True
    then: Kind | BaseException | None = None

    def pieces(self) -> tuple[str, ...]:
        """A stream's pieces."""
        return self.chunks if self.chunks is not None else tuple(_words(self.text))


@dataclass(frozen=True)
class Fail:
    """An error.

    Attributes:
        kind: What `classify` will say of it.
        after_seconds: Until it comes.
        status: HTTP status.
        retry_after_seconds: The provider's Retry-After.
        should_retry: The provider's ``x-should-retry``.
    """

    kind: Kind = Kind.SERVER_ERROR
    after_seconds: float = 0.0
    status: int | None = None
    retry_after_seconds: float | None = None
    should_retry: bool | None = None


Act = str | Kind | BaseException | Say | Fail
"""One entry of a script: a text, a kind of failure, an exception to raise, or one of the above with its details."""

Script = Act | Iterable[Act] | Schedule[Act]
"""One act for every call, a list whose last act stays, or a schedule that says what each call meets when."""


class ScriptedUpstream:
    """A `resilience.upstream.Upstream` without a network.

    Args:
        script: What each target does, by its name. Targets that are not named, and phases without an act, answer "ok".
        clock: On a `ManualClock`, latencies pass at once, and the attempt's limits are kept here, as a provider's
            own timeouts would. On the machine's clock the async calls really take as long as they are told.
        windows: Context windows by target name.

    Attributes:
        log: Which targets were called, in order: one entry per attempt.
        open_streams: How many streams nobody has hung up on; one that ended by itself need not be.
        prefills: The beginnings that targets were given to write on after, in order.
        refusers: Targets that take none.
    """

    def __init__(
        self,
        script: Mapping[str, Script] | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        windows: Mapping[str, int] | None = None,
    ) -> None:
        self._clock = clock
        self._windows = dict(windows or {})
        self._lock = threading.Lock()
        self._acts: dict[str, list[Act]] = {}
        self._schedules: dict[str, tuple[float, Schedule[Act]]] = {}
        self.log: list[str] = []
        self.open_streams = 0
        self.prefills: list[str] = []
        self.refusers: set[str] = set()
        for name, acts in (script or {}).items():
            self.tell(name, acts)

    def tell(self, target: str, acts: Script) -> None:
        """Give a target a new script. A schedule begins now."""
        if isinstance(acts, Schedule):
            with self._lock:
                self._schedules[target] = (self._clock.monotonic(), acts)
            return
        single = isinstance(acts, (str, Kind, BaseException, Say, Fail))
        listed: list[Act] = [acts] if single else list(acts)  # type: ignore[arg-type,list-item]  # told apart above
        if not listed:
            raise ValueError(f"the script of {target!r} is empty; allowed: at least one act")
        with self._lock:
            self._schedules.pop(target, None)
            self._acts[target] = listed

    @property
    def attempts(self) -> Counter[str]:
        """How often each target was called."""
        return Counter(self.log)

    def call(self, target: Target, operation: Operation, params: Mapping[str, Any], timeouts: CallTimeouts) -> Any:  # noqa: ARG002 (a script needs neither)
        """Answer, or raise."""
        act, after = self._next(target, timeouts.attempt)
        if after:
            self._clock.sleep(after)
        return _answer(target, act)

    async def acall(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (a script does not look)
        params: Mapping[str, Any],  # noqa: ARG002 (likewise)
        timeouts: CallTimeouts,
    ) -> Any:
        """The same for asyncio."""
        act, after = self._next(target, timeouts.attempt)
        if after:
            await self._clock.asleep(after)
        return _answer(target, act)

    def open(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (a script does not look)
        params: Mapping[str, Any],  # noqa: ARG002 (likewise)
        timeouts: CallTimeouts,
    ) -> ScriptedStream:
        """Open a stream, or raise. A failure comes now, a `Say` waits until it is read."""
        act, after = self._next(target, timeouts.first_token, stream=True)
        if isinstance(act, Fail):
            self._clock.sleep(after)
            raise _error(target, act)
        return ScriptedStream(self, target, act, timeouts)

    async def aopen(
        self,
        target: Target,
        operation: Operation,  # noqa: ARG002 (a script does not look)
        params: Mapping[str, Any],  # noqa: ARG002 (likewise)
        timeouts: CallTimeouts,
    ) -> AsyncScriptedStream:
        """The same for asyncio."""
        act, after = self._next(target, timeouts.first_token, stream=True)
        if isinstance(act, Fail):
            await self._clock.asleep(after)
            raise _error(target, act)
        return AsyncScriptedStream(self, target, act, timeouts)

    def classify(self, error: BaseException) -> Outcome:
        """What the script says; any other exception is UNKNOWN."""
        if isinstance(error, ScriptedError):
            return replace(error.outcome, error=error)
        return Outcome(Kind.UNKNOWN, error)

    def judge(self, answer: Any, operation: Operation, params: Mapping[str, Any]) -> Kind:  # noqa: ARG002 (as above)
        """EMPTY without a text."""
        return Kind.SUCCESS if answer is not None and answer.text else Kind.EMPTY

    def cost_usd(self, answer: Any) -> float | None:  # noqa: ARG002 (scripts are free)
        """Nothing has a price here."""
        return None

    def text_of(self, answer: Any) -> str:
        """The text."""
        return str(answer.text)

    def context_window(self, target: Target) -> int | None:
        """What ``windows`` says."""
        return self._windows.get(target.name)

    def takes_prefill(self, target: Target) -> bool:
        """All but those in ``refusers``."""
        return target.name not in self.refusers

    def asks_plain_text(self, operation: Operation, params: Mapping[str, Any]) -> bool:  # noqa: ARG002 (as above)
        """Unless a ``response_format`` is asked for."""
        return "response_format" not in params

    def continued(
        self,
        target: Target,  # noqa: ARG002 (as above)
        operation: Operation,  # noqa: ARG002 (as above)
        params: Mapping[str, Any],
        text: str,
    ) -> Mapping[str, Any]:
        """The parameters with the text as ``prefill``, which is also written down in ``prefills``."""
        self.prefills.append(text)
        return {**params, "prefill": text}

    def graft(self, operation: Operation, params: Mapping[str, Any], delivered: Delivered) -> ScriptedUpstream:  # noqa: ARG002 (as above)
        """Itself: one script, one text."""
        return self

    def grown(self, piece: Piece, text: str, repeated: int) -> Piece | None:  # noqa: ARG002 (the protocol's)
        """The piece with what is left of its text."""
        return piece._replace(chunk=replace(piece.chunk, text=text), text=text)

    def attach(self, answer: Any, attempts: tuple[AttemptRecord, ...]) -> None:
        """Write the attempts where LiteLLM's answers have them."""
        answer._hidden_params["resilience"] = attempts  # noqa: SLF001 (LiteLLM's name for it)

    def _next(self, target: Target, limit: float, *, stream: bool = False) -> tuple[Say | Fail, float]:
        outage = struck(target.provider, target.model)
        with self._lock:
            self.log.append(target.name)
            acts = self._acts.get(target.name)
            told: Act = "ok" if acts is None else acts.pop(0) if len(acts) > 1 else acts[0]
            if target.name in self._schedules:
                began, schedule = self._schedules[target.name]
                told = schedule.at(self._clock.monotonic() - began) or "ok"
        if outage is not None:
            told = _outage_act(outage, limit, stream=stream)
        if isinstance(told, BaseException):
            raise told
        act: Say | Fail = Say(told) if isinstance(told, str) and not isinstance(told, Kind) else told  # type: ignore[assignment]
        if isinstance(act, Kind):
            act = Fail(act)
        return (act, act.after_seconds) if act.after_seconds <= limit else self.late(act, limit)

    def late(self, act: Say | Fail, limit: float) -> tuple[Say | Fail, float]:
        """An act that takes longer than it may: a manual clock cannot be interrupted, so it fails by itself."""
        if isinstance(self._clock, SystemClock):
            return act, act.after_seconds
        return Fail(Kind.TIMEOUT), limit


class _Script:
    """A stream's script, told as (seconds to wait, piece or None for its end) without waiting."""

    def __init__(self, upstream: ScriptedUpstream, target: Target, act: Say, timeouts: CallTimeouts) -> None:
        self._upstream = upstream
        self._clock = upstream._clock  # noqa: SLF001 (one file)
        self._target = target
        self._act = act
        self._timeouts = timeouts
        self._ended = False
        self._open = True
        self._steps = self._tell()
        upstream.open_streams += 1

    def ended_whole(self) -> bool:
        """Whether the end was reached and is marked as one."""
        return self._ended and self._act.whole

    def cost_usd(self) -> float | None:
        """Scripts are free."""
        return None

    def _hang_up(self) -> None:
        if self._open:
            self._open = False
            self._upstream.open_streams -= 1

    def _tell(self) -> Generator[tuple[float, Piece | None], None, None]:
        act, target = self._act, self._target
        for number, text in enumerate(act.pieces()):
            gap = act.gap_seconds if number else act.after_seconds
            limit = self._timeouts.stall if number else self._timeouts.first_token
            late, seconds = self._upstream.late(act, limit) if gap > limit else (act, gap)
            if isinstance(late, Fail):
                yield seconds, None
                raise _error(target, late)
            yield gap, Piece(ScriptedAnswer(text, target.name), text, bool(text))
        if act.then is not None:
            raise act.then if isinstance(act.then, BaseException) else ScriptedError(target.name, Outcome(act.then))
        self._ended = True


class ScriptedStream(_Script):
    """A scripted stream for a thread."""

    def __iter__(self) -> ScriptedStream:
        return self

    def __next__(self) -> Piece:
        while self._open:
            seconds, piece = next(self._steps)
            if seconds:
                self._clock.sleep(seconds)
            if piece is not None:
                return piece
        raise StopIteration

    def close(self) -> None:
        """Hang up."""
        self._hang_up()


class AsyncScriptedStream(_Script):
    """A scripted stream for asyncio."""

    def __aiter__(self) -> AsyncScriptedStream:
        return self

    async def __anext__(self) -> Piece:
        while self._open:
            try:
                seconds, piece = next(self._steps)
            except StopIteration:
                raise StopAsyncIteration from None
            if seconds:
                await self._clock.asleep(seconds)
            if piece is not None:
                return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Hang up."""
        self._hang_up()

    def abandon(self) -> None:
        """Hang up without waiting."""
        self._hang_up()


def _outage_act(outage: Outage, limit: float, *, stream: bool) -> Act:
    """What an outage makes of a script."""
    outage.met()
    shape = outage.shape()
    if shape is None:
        return "ok"
    if stream and shape.breaks:
        return Say(chunks=("This ", "breaks "), then=shape.kind)
    after = limit if outage.hangs else 0.0
    return Fail(shape.whole or shape.kind, after, retry_after_seconds=outage.retry_after())


def _answer(target: Target, act: Say | Fail) -> ScriptedAnswer:
    if isinstance(act, Fail):
        raise _error(target, act)
    return ScriptedAnswer(act.text, target.name)


def _error(target: Target, act: Fail) -> ScriptedError:
    outcome = Outcome(
        act.kind,
        status=act.status,
        retry_after_seconds=act.retry_after_seconds,
        should_retry=act.should_retry,
    )
    return ScriptedError(target.name, outcome)


def _words(text: str) -> Iterable[str]:
    words = text.split(" ")
    return itertools.chain(words[:1], (" " + word for word in words[1:])) if text else ()
