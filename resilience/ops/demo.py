"""The demo: real HTTP on loopback, real LiteLLM calls, providers that really break, and what becomes of the calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import StreamInterruptedError
from resilience.ops.plain import PlainScreen
from resilience.ops.story import PLAYERS, ROUTE, Cast, Phase, Story
from resilience.ops.tally import Asked, End, Tally
from resilience.outcome import Kind
from resilience.testing import LoopbackProvider
from resilience.upstream import Target, attempts

if TYPE_CHECKING:
    from resilience.clock import Clock
    from resilience.events import Event, Sink
    from resilience.snapshots import Snapshot

REQUESTS_A_SECOND: Final = 20.0
STREAMED_SHARE: Final = 0.4
FRAMES_A_SECOND: Final = 8.0
# After the last question: the deadline of a request, and some for a busy machine.
_DRAIN_SECONDS: Final = 6.0

LOST: Final = 1
STOPPED: Final = 130


class Runtime(Protocol):
    """What the demo uses of `resilience.MultiProviderFallback`."""

    async def acompletion(self, model: str, messages: list[Any], *, stream: bool = False) -> Any:
        """Ask."""
        ...

    def snapshot(self) -> Snapshot:
        """Look."""
        ...

    def close(self) -> None:
        """End."""
        ...


OpenRuntime = Callable[[dict[str, Any], "Sink"], Runtime]


class Screen(AbstractContextManager[Any], Protocol):
    """Who shows the demo while it runs."""

    def phase(self, phase: Phase, at: float) -> None:
        """Another part of the story begins."""
        ...

    def event(self, event: Event, at: float) -> None:
        """Something happened."""
        ...

    def frame(self, snapshot: Snapshot, at: float) -> None:
        """Time to draw."""
        ...

    def summary(self) -> None:
        """It is over: show what came of it."""
        ...


def run_demo(seconds: float, *, plain: bool = False, open_runtime: OpenRuntime | None = None) -> int:
    """Run the demo and show it on stdout.

    Args:
        seconds: How long the story takes.
        plain: Lines instead of the live view.
        open_runtime: Makes the runtime of settings and a sink; default: `resilience.MultiProviderFallback`.

    Returns:
        0: no request was lost. 1: one failed while a provider was up. 130: stopped by hand.
    """
    story = Story(seconds)
    tally = Tally([cast.provider for cast in PLAYERS])
    screen = _screen(story, tally, plain=plain)
    demo = Demo(story, tally, screen, open_runtime or _open_runtime)
    was_stopped = asyncio.run(demo.run())
    screen.summary()
    if tally.lost:
        return LOST
    return STOPPED if was_stopped else 0


def _screen(story: Story, tally: Tally, *, plain: bool) -> Screen:
    """The live board where it can be drawn, plain lines elsewhere."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    if plain or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or encoding != "utf8":
        return PlainScreen(story, tally)
    try:
        from resilience.ops.board import Board
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        print("resilience demo: pip install 'litellm-resilience[demo]' shows this live", file=sys.stderr)
        return PlainScreen(story, tally)
    return Board(story, tally)


def _open_runtime(settings: dict[str, Any], sink: Sink) -> Runtime:
    from resilience.runtime import MultiProviderFallback

    return MultiProviderFallback(settings, sinks=(sink,))


class Demo:
    """One run of a story.

    Args:
        story: What happens when.
        tally: Where it is counted.
        screen: Who shows it.
        open_runtime: Makes the runtime.
        clock: Where time comes from.
    """

    def __init__(
        self, story: Story, tally: Tally, screen: Screen, open_runtime: OpenRuntime, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._story = story
        self._tally = tally
        self._screen = screen
        self._open_runtime = open_runtime
        self._clock = clock
        self._rng = random.Random(7)  # the same traffic each time
        self._started = 0.0
        self._running = False
        self._requests: dict[asyncio.Task[None], float] = {}  # and when they were asked
        self._stop = asyncio.Event()
        self._screen_error: OSError | None = None

    async def run(self) -> bool:
        """Tell the story once. Returns whether somebody stopped it."""
        from resilience.middleware.environment import quiet

        with ExitStack() as closing:
            closing.enter_context(_stopped_by_hand(self._stop))
            # What comes after that line cannot be torn by a Ctrl-C; LiteLLM's import would swallow one.
            closing.enter_context(self._screen)
            quiet()
            providers = {cast.provider: closing.enter_context(_provider(cast)) for cast in PLAYERS}
            addresses = {
                cast.provider: providers[cast.provider].url
                if cast.is_anthropic
                else providers[cast.provider].openai_base
                for cast in PLAYERS
            }
            runtime = self._open_runtime(self._story.settings(addresses), self._hear)
            closing.callback(runtime.close)
            work = [asyncio.create_task(self._tell(runtime, providers)), asyncio.create_task(self._stop.wait())]
            try:
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._running = False
                # Whoever is cancelled while LiteLLM prepares a call in a thread leaves a coroutine that nobody awaits.
                warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
                for task in (*work, *self._requests):
                    task.cancel()
                await asyncio.gather(*work, *self._requests, return_exceptions=True)
            if not work[0].cancelled():
                work[0].result()
        if self._screen_error is not None:
            raise self._screen_error
        return self._stop.is_set()

    async def _tell(self, runtime: Runtime, providers: dict[str, LoopbackProvider]) -> None:
        await self._greet(runtime)
        self._started, self._running = self._clock.monotonic(), True
        drawing = asyncio.create_task(self._draw(runtime))
        try:
            await asyncio.gather(self._break_things(providers), self._ask_things(runtime))
            if self._requests:
                await asyncio.wait(self._requests, timeout=_DRAIN_SECONDS)
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
        for started in self._requests.values():  # whoever still waits now has waited in vain
            self._tally.ended(Asked(started, self._now, End.FAILED, None, error="no answer before the end"))
        if not drawing.cancelled():
            drawing.result()

    @property
    def _now(self) -> float:
        return self._clock.monotonic() - self._started

    def _hear(self, event: Event) -> None:
        if self._running:
            at = self._now
            self._tally.hear(event, at)
            try:
                self._screen.event(event, at)
            except OSError as error:  # whoever read our lines has left
                self._screen_error = error
                self._stop.set()

    async def _greet(self, runtime: Runtime) -> None:
        """Load and call each target before the clock starts: the first call of a family costs LiteLLM half a second."""
        from resilience.middleware.warm import warm

        families = [Target(cast.target, cast.model.partition("/")[0], cast.model) for cast in PLAYERS]
        await asyncio.to_thread(warm(families).join)
        for cast in PLAYERS:
            for stream in (False, True):
                with contextlib.suppress(Exception):
                    answer = await runtime.acompletion(cast.target, _question(), stream=stream)
                    if stream:
                        async for _ in answer:
                            pass

    async def _break_things(self, providers: dict[str, LoopbackProvider]) -> None:
        broken: dict[str, str] = {}
        for phase in self._story.phases:
            await self._clock.asleep(max(0.0, phase.starts - self._now))
            self._screen.phase(phase, self._now)
            for name, provider in providers.items():
                wanted = phase.broken.get(name)
                if broken.get(name) == (wanted.word if wanted else None):
                    continue
                if broken.pop(name, None) is not None:
                    await asyncio.to_thread(provider.clear)
                    self._tally.mended(name, self._now)
                if wanted is not None:
                    broken[name] = wanted.word
                    self._tally.broke(name, wanted.word, self._now)
                    await asyncio.to_thread(provider.set, wanted.fault)
        await self._clock.asleep(max(0.0, self._story.seconds - self._now))

    async def _ask_things(self, runtime: Runtime) -> None:
        due = 0.0
        while due < self._story.seconds:
            await self._clock.asleep(max(0.0, due - self._now))
            task = asyncio.create_task(self._ask(runtime, stream=self._rng.random() < STREAMED_SHARE))
            self._requests[task] = self._now
            task.add_done_callback(self._requests.pop)
            due += self._rng.uniform(0.5, 1.5) / REQUESTS_A_SECOND

    async def _draw(self, runtime: Runtime) -> None:
        while True:
            self._screen.frame(runtime.snapshot(), self._now)
            await self._clock.asleep(1.0 / FRAMES_A_SECOND)

    async def _ask(self, runtime: Runtime, *, stream: bool) -> None:
        started, first = self._now, None
        text, error = "", None
        end = End.FAILED
        try:
            answer = await runtime.acompletion(ROUTE, _question(), stream=stream)
            if stream:
                async for chunk in answer:
                    text += chunk.choices[0].delta.content or ""
                    first = self._now if first is None and text else first
            else:
                text, first = answer.choices[0].message.content, self._now
            behind = attempts(answer)
        except StreamInterruptedError as interrupted:
            behind, error = attempts(interrupted), type(interrupted).__name__
            # Honest means: the error tells exactly the text that its reader has got.
            if interrupted.partial and interrupted.partial == text:
                end = End.INTERRUPTED
        except Exception as failure:  # noqa: BLE001 (whatever it is, its caller has no answer: it is counted)
            behind, error = attempts(failure), type(failure).__name__
        served = behind[-1] if behind and behind[-1].kind is Kind.SUCCESS else None
        took = added = None
        if error is None and served is not None and text == _ANSWERS.get(served.provider):
            end = End.ANSWERED
            took = (first or self._now) - started
            added = max(0.0, took - served.latency_seconds)
        elif error is None:
            error = "half an answer that looked whole"
        provider = behind[-1].provider if behind else None
        self._tally.ended(Asked(started, self._now, end, provider, behind, took, added, error))


_ANSWERS: Final = {cast.provider: cast.answer for cast in PLAYERS}


def _question() -> list[dict[str, str]]:
    return [{"role": "user", "content": "Who are you?"}]


def _provider(cast: Cast) -> LoopbackProvider:
    return LoopbackProvider(
        cast.answer, name=cast.provider, latency_seconds=cast.latency_seconds, token_seconds=cast.token_seconds
    )


@contextlib.contextmanager
def _stopped_by_hand(stop: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C end the story instead of tearing it."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    except (NotImplementedError, RuntimeError, ValueError):  # not here, or not in this thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
