"""The plain screen: one line for each phase and each breaker event, for pipes, logs and terminals without rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from resilience.ops.words import HEADINGS, LEGEND, Narrator, aligned, meaning, phase_line, rows, totals

if TYPE_CHECKING:
    from resilience.events import Event
    from resilience.ops.story import Phase, Story
    from resilience.ops.tally import Tally
    from resilience.snapshots import Snapshot


class PlainScreen:
    """Prints lines of ASCII.

    Args:
        story: What is shown.
        tally: Its numbers.
    """

    def __init__(self, story: Story, tally: Tally) -> None:
        self._story = story
        self._tally = tally
        self._narrator = Narrator()

    def __enter__(self) -> Self:
        _say("starting three providers on 127.0.0.1 and loading LiteLLM")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def phase(self, phase: Phase, at: float) -> None:
        """Say what is broken from now on."""
        _say(f"{at:5.1f} s  == {phase_line(phase)}")

    def event(self, event: Event, at: float) -> None:
        """Say what a breaker did."""
        sentence = self._narrator.tell(event)
        if sentence is not None:
            _say(f"{at:5.1f} s     {sentence}")

    def frame(self, snapshot: Snapshot, at: float) -> None:
        """Lines do not move."""

    def summary(self) -> None:
        """Print the table, the totals and what they mean."""
        _say("")
        for line in aligned([HEADINGS, *rows(self._story, self._tally)]):
            _say(line)
        _say(LEGEND)
        _say("")
        _say(totals(self._tally))
        _say(meaning(self._tally))


def _say(line: str) -> None:
    print(line, flush=True)
