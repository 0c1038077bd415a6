"""The board: one frame fits a small terminal and shows the world beside what the breakers believe."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest

from resilience.events import CircuitOpened
from resilience.ops.story import PLAYERS, ROUTE, Story
from resilience.ops.tally import Asked, End, Tally
from resilience.outcome import Kind
from resilience.snapshots import BreakerSnapshot, RouteSnapshot, Snapshot

pytest.importorskip("rich")

from rich.console import Console

from resilience.ops.board import Board

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def breaker(name: str, state: str = "closed", **more) -> BreakerSnapshot:
    return BreakerSnapshot(
        name=name,
        state=state,
        since=NOW,
        eligible=state == "closed",
        calls=20,
        failures=more.pop("failures", 0),
        **more,
    )


def snapshot(**states: BreakerSnapshot) -> Snapshot:
    providers = {cast.provider: breaker(cast.provider) for cast in PLAYERS}
    targets = {cast.target: breaker(cast.target) for cast in PLAYERS}
    for cast in PLAYERS:
        if cast.provider in states:
            targets[cast.target] = states[cast.provider]
    eligible = tuple(name for name, one in targets.items() if one.eligible)
    return Snapshot(
        at=NOW,
        providers=providers,
        targets=targets,
        routes={ROUTE: RouteSnapshot(name=ROUTE, targets=tuple(targets), eligible=eligible)},
    )


@pytest.fixture
def story() -> Story:
    return Story(40)


@pytest.fixture
def tally(story: Story) -> Tally:
    return Tally([cast.provider for cast in PLAYERS])


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)


def drawn(board: Board, console: Console, reading: Snapshot, at: float) -> list[str]:
    with console.capture() as captured:
        console.print(board.picture(reading, at))
    return captured.get().splitlines()


def test_a_frame_fits_eighty_columns_and_twenty_four_lines(story: Story, tally: Tally, console: Console) -> None:
    board = Board(story, tally, console)
    for phase in story.phases:
        board.phase(phase, phase.starts)
        board.event(
            CircuitOpened("claude-haiku-4-5", phase.title, "consecutive_failures", Kind.TIMEOUT, 3, 20, 0.2, 1.0, 2),
            1.0,
        )
    for number in range(700):
        tally.ended(Asked(number / 20, number / 20 + 0.1, End.ANSWERED, "anthropic", (), 0.123, 0.0))
    reading = snapshot(
        openai=breaker("gpt-4o-mini", "open", next_probe_at=NOW + timedelta(seconds=1.2), last_error_kind="interrupted")
    )
    lines = drawn(board, console, reading, 36.0)
    assert len(lines) == 23
    assert max(map(len, lines)) <= 80


def test_the_world_stands_beside_the_breaker(story: Story, tally: Tally, console: Console) -> None:
    board = Board(story, tally, console)
    board.phase(story.phases[1], 4.0)
    reading = snapshot(
        openai=breaker("gpt-4o-mini", "open", next_probe_at=NOW + timedelta(seconds=1.2), last_error_kind="connection")
    )
    lines = drawn(board, console, reading, 5.0)
    provider = next(line for line in lines if line.startswith(" openai"))
    target = next(line for line in lines if "gpt-4o-mini" in line)
    assert "refuses connections" in provider
    assert "open" in target
    assert "1.2 s" in target
    assert any("next call: anthropic" in line for line in lines)


@pytest.mark.parametrize(
    ("reading", "word"),
    [
        (breaker("gpt-4o-mini"), "closed"),
        (breaker("gpt-4o-mini", "half-open"), "half-open"),
        (breaker("gpt-4o-mini", "isolated", reason="bad deploy"), "bad deploy"),
        (breaker("gpt-4o-mini", "open", reason="rate_limited", next_probe_at=NOW), "held"),
        (breaker("gpt-4o-mini", overdue=True, in_flight=7), "7 calls hang"),
    ],
)
def test_every_state_has_a_word_and_not_only_a_colour(
    story: Story, tally: Tally, console: Console, reading: BreakerSnapshot, word: str
) -> None:
    lines = drawn(Board(story, tally, console), console, snapshot(openai=reading), 1.0)
    assert word in next(line for line in lines if "gpt-4o-mini" in line)


def test_who_answered_is_drawn_where_it_happened(story: Story, tally: Tally, console: Console) -> None:
    for second in range(20):
        tally.ended(Asked(second, second + 0.1, End.ANSWERED, "openai" if second < 10 else "mistral"))
    lines = drawn(Board(story, tally, console), console, snapshot(), 20.0)
    openai, _, mistral = (line for line in lines if "·" in line)
    assert (openai.split()[0], mistral.split()[0]) == ("openai", "mistral")
    assert openai.rindex("█") < mistral.index("█")


def test_the_summary_says_how_it_ended(story: Story, tally: Tally, console: Console) -> None:
    tally.ended(Asked(0.0, 0.1, End.ANSWERED, "openai", (), 0.1, 0.0))
    board = Board(story, tally, console)
    with console.capture() as captured:
        board.summary()
    assert "answered 1" in captured.get()
