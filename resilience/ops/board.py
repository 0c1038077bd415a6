"""The board: the demo live in a terminal, drawn with rich."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from resilience.ops.story import PLAYERS, ROUTE
from resilience.ops.tally import End
from resilience.ops.words import HEADINGS, LEGEND, Narrator, meaning, rows, seconds, share, totals

if TYPE_CHECKING:
    from rich.console import RenderableType

    from resilience.events import Event
    from resilience.ops.story import Phase, Story
    from resilience.ops.tally import Tally
    from resilience.snapshots import BreakerSnapshot, Snapshot

_COLOURS: Final = dict(zip((cast.provider for cast in PLAYERS), ("cyan", "magenta", "yellow"), strict=True))
_PROVIDER_OF: Final = {cast.target: cast.provider for cast in PLAYERS}
_BARS: Final = "▁▂▃▄▅▆▇█"
_BROKEN: Final = "on #5f1f24"
_NAME_WIDTH: Final = 20
_EVENTS: Final = 4
_WIDE: Final = 112
_RECENT: Final = 100
# A target and its provider move together here: the second event of the two adds nothing for a reader.
_SAME_MOMENT: Final = 0.05


class Board:
    """Draws the demo while it runs, and its summary at the end.

    Args:
        story: What is shown.
        tally: Its numbers.
        console: Where to draw; default: stdout.
    """

    def __init__(self, story: Story, tally: Tally, console: Console | None = None) -> None:
        self._story = story
        self._tally = tally
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._narrator = Narrator()
        self._phase: Phase | None = None
        self._told: deque[tuple[float, Text]] = deque(maxlen=_EVENTS)
        self._last: tuple[type[Event], str | None, float] | None = None

    def __enter__(self) -> Self:
        self._live.start()
        waiting = Text.assemble(("\n resilience demo", "bold"), "  starting three providers, loading LiteLLM ...\n")
        self._live.update(waiting, refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def phase(self, phase: Phase, at: float) -> None:
        """Another part of the story begins."""
        self._phase = phase
        style = "bold red" if phase.broken else "bold green"
        self._told.append((at, Text(phase.title, style)))

    def event(self, event: Event, at: float) -> None:
        """A breaker did something."""
        sentence = self._narrator.tell(event)
        provider = getattr(event, "provider", None)
        if sentence is None:
            return
        last, self._last = self._last, (type(event), provider, at)
        if last is None or last[:2] != (type(event), provider) or at - last[2] > _SAME_MOMENT:
            self._told.append((at, Text(sentence)))

    def frame(self, snapshot: Snapshot, at: float) -> None:
        """Draw."""
        self._live.update(self.picture(snapshot, at), refresh=True)

    def summary(self) -> None:
        """Print the table, the totals and what they mean."""
        is_narrow = self._console.width < _WIDE
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if number in {0, 2} else "right")
        for row, phase in zip(rows(self._story, self._tally), self._story.phases, strict=False):
            title, asked, answered_by, *rest = (cell.replace(", ", ",\n") if is_narrow else cell for cell in row)
            table.add_row(Text(title, "red" if phase.broken else "green"), asked, answered_by, *rest)
        lost = bool(self._tally.lost)
        self._console.print()
        self._console.print(table)
        self._console.print(Text(LEGEND, "dim"))
        self._console.print()
        self._console.print(
            Panel(
                Group(Text(totals(self._tally)), Text(meaning(self._tally), "bold")), style="red" if lost else "green"
            )
        )

    # -- the picture ----------------------------------------------------------------------------------------

    def picture(self, snapshot: Snapshot, at: float) -> RenderableType:
        """One frame; 23 lines, so that it fits the smallest usual terminal."""
        width = min(self._console.width, 120)
        return Group(
            self._title(at, width),
            self._happening(),
            Text(),
            self._breakers(snapshot, width),
            Text(),
            *self._lanes(at, width),
            Text(),
            *self._numbers(snapshot),
            Text(),
            *self._events(),
        )

    def _title(self, at: float, width: int) -> Text:
        clock = f"{min(at, self._story.seconds):.0f} of {self._story.seconds:.0f} s "
        title = Text.assemble(
            (" resilience demo ", "bold"), ("three providers on 127.0.0.1, real LiteLLM calls", "dim")
        )
        title.truncate(width - len(clock) - 1)
        title.pad_right(max(1, width - len(title) - len(clock)))
        return title.append(clock, "bold")

    def _happening(self) -> Text:
        if self._phase is None:
            return Text()
        style = "bold white on #8f2d35" if self._phase.broken else "bold white on #1f6f3f"
        return Text.assemble(" ", (f" {self._phase.title} ", style))

    def _breakers(self, snapshot: Snapshot, width: int) -> Table:
        table = Table(box=None, padding=0, pad_edge=False, header_style="dim", width=width)
        table.add_column(" provider, target", width=_NAME_WIDTH, no_wrap=True)
        table.add_column("what is wrong", width=23, no_wrap=True)
        table.add_column("breaker", ratio=1, no_wrap=True)
        broken = self._phase.broken if self._phase is not None else {}
        for cast in PLAYERS:
            wrong = broken.get(cast.provider)
            truth = Text(f"✗ {wrong.word}", "bold red") if wrong else Text("✓ nothing", "green")
            table.add_row(
                Text(f" {cast.provider}", f"bold {_COLOURS[cast.provider]}"),
                truth,
                _state(snapshot.providers.get(cast.provider), snapshot),
            )
            table.add_row(
                Text(f"   {cast.target}", _COLOURS[cast.provider]),
                Text(),
                _state(snapshot.targets.get(cast.target), snapshot),
            )
        return table

    def _lanes(self, at: float, width: int) -> list[Text]:
        cells = width - _NAME_WIDTH - 1
        lanes = [Text.assemble((" who answered, when", "dim"), ("   (red: it was broken then)", "dim"))]
        for name, colour in _COLOURS.items():
            lane = Text.assemble((f" {name}".ljust(_NAME_WIDTH), colour))
            for part, is_broken, is_past in self._cells(name, cells, at):
                mark = _BARS[min(len(_BARS) - 1, int(part * len(_BARS)))] if part else "·" if is_past else " "
                lane.append(mark, f"{colour if part else 'dim'}{' ' + _BROKEN if is_broken else ''}")
            lanes.append(lane)
        return lanes

    def _cells(self, provider: str, cells: int, at: float) -> list[tuple[float, bool, bool]]:
        """For each slice of time: the provider's part of the answers, whether it was broken, whether it is past."""
        step = self._story.seconds / cells
        mine, all_of_them = [0] * cells, [0] * cells
        for one in self._tally.asked:
            cell = int(one.ended / step)
            if one.end is End.ANSWERED and cell < cells:
                all_of_them[cell] += 1
                mine[cell] += one.provider == provider
        outages = [outage for outage in self._tally.outages if outage.provider == provider]
        drawn = []
        for cell in range(cells):
            middle = (cell + 0.5) * step
            is_past = middle <= at
            is_broken = is_past and any(outage.covers(middle, middle) for outage in outages)
            drawn.append((mine[cell] / (all_of_them[cell] or 1), is_broken, is_past))
        return drawn

    def _numbers(self, snapshot: Snapshot) -> list[Text]:
        total, recent = self._tally.numbers(), self._tally.recent(_RECENT)
        lost = len(self._tally.lost)
        good = "bold red" if lost else "bold green"
        eligible = snapshot.routes[ROUTE].eligible if ROUTE in snapshot.routes else ()
        return [
            Text.assemble(
                " answered ",
                (f"{total.answered} of {total.requests}", good),
                f" ({share(total.answered, total.requests)})   interrupted streams ",
                (str(total.interrupted), "bold yellow" if total.interrupted else "bold"),
                "   failed ",
                (str(total.failed), "bold red" if total.failed else "bold green"),
            ),
            Text.assemble(
                " latency p50 ",
                (seconds(recent.p50_seconds), "bold"),
                ", p95 ",
                (seconds(recent.p95_seconds), "bold"),
                "   wasted attempts ",
                (share(total.wasted, total.attempts), "bold"),
                "   next call: ",
                (_PROVIDER_OF.get(eligible[0], eligible[0]) if eligible else "nobody", "bold"),
            ),
        ]

    def _events(self) -> list[Text]:
        lines = [
            Text.assemble((f" {at:4.1f} s  ", "dim"), sentence, no_wrap=True, overflow="ellipsis")
            for at, sentence in self._told
        ]
        return lines + [Text()] * (_EVENTS - len(lines))


def _state(breaker: BreakerSnapshot | None, snapshot: Snapshot) -> Text:
    """A colour, a word, why, and until when."""
    if breaker is None:
        return Text()
    kind = (breaker.last_error_kind or "").replace("_", " ")
    if breaker.state == "isolated":
        return Text.assemble(("■ isolated  ", "bold blue"), (breaker.reason or "", "dim"))
    if breaker.state == "half-open":
        return Text.assemble(("◐ half-open ", "bold yellow"), ("single calls may try it", "dim"))
    if breaker.state == "open":
        left = max(0.0, (breaker.next_probe_at - snapshot.at).total_seconds()) if breaker.next_probe_at else 0.0
        word, style = (
            ("● held      ", "bold yellow") if breaker.reason == "rate_limited" else ("● open      ", "bold red")
        )
        return Text.assemble((word, style), f"probe {left:.1f} s" if left else "probe due", (f" {kind}", "dim"))
    if breaker.overdue:
        return Text.assemble(("● overdue   ", "bold red"), f"{breaker.in_flight} calls hang")
    notes = [f"{breaker.in_flight} in flight"] if breaker.in_flight else []
    notes += [f"{breaker.failures} of {breaker.calls} failed"] if breaker.failures else []
    return Text.assemble(("● closed    ", "green"), (", ".join(notes), "dim"))
