"""Continuing and holding back: who goes on after a break, what the reader gets, and when it is an error after all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import DeadlineExceededError, RouteExhaustedError, StreamInterruptedError
from resilience.execution.seam import Seam, repeated
from resilience.outcome import Kind
from resilience.testing.upstream import Fail, Say, ScriptedAnswer, ScriptedUpstream
from resilience.testing.world import World
from resilience.upstream import Piece, attempts

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
BROKEN = Say(chunks=("one", " two"), whole=False)
CONTINUE: dict[str, Any] = {"stream": {"on_interruption": "continue"}, "num_retries": 0, "backoff_seconds": 0.01}
HOLD: dict[str, Any] = {"stream": {"buffer": "full"}, "num_retries": 0}


class Reader:
    """One streaming request, read to its end, whatever that is."""

    def __init__(self, world: World, mode: str, params: dict[str, Any] | None = None, **call: Any) -> None:
        self.texts: list[str] = []
        self.error: Exception | None = None
        self.stream: Any = None
        try:
            if mode == "sync":
                self.stream = world.run(params, stream=True, **call)
                for chunk in self.stream:
                    self.texts.append(chunk.text)
            else:
                asyncio.run(self._aread(world, params, call))
        except Exception as error:
            self.error = error

    async def _aread(self, world: World, params: dict[str, Any] | None, call: dict[str, Any]) -> None:
        self.stream = await world.arun(params, stream=True, **call)
        async for chunk in self.stream:
            self.texts.append(chunk.text)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def kinds(self) -> list[tuple[str, Kind]]:
        return [(record.target, record.kind) for record in attempts(self.stream)]


# ---- continue


@MODES
def test_another_target_writes_on_after_a_break(mode: str) -> None:
    world = World({"a": BROKEN, "b": Say(chunks=(" three", " four"))}, **CONTINUE)
    reader = Reader(world, mode)
    assert (reader.error, reader.text) == (None, "one two three four")
    assert reader.kinds == [("a", Kind.INTERRUPTED), ("b", Kind.SUCCESS)]
    assert world.upstream.prefills == ["one two"]
    assert world.unsettled() == []
    assert world.told == ["AttemptFailed", "StreamInterrupted", "FallbackTaken", "AttemptSucceeded"]


@MODES
def test_the_attempts_are_there_during_the_stream_and_after_it(mode: str) -> None:
    world = World({"a": BROKEN, "b": Say(chunks=(" three", " four"))}, **CONTINUE)
    if mode == "sync":
        stream = world.run(stream=True)
        assert [record.target for record in attempts(stream)] == ["a"]
        for _ in range(3):
            next(stream)
        assert [record.kind for record in attempts(stream)] == [Kind.INTERRUPTED, Kind.SUCCESS]
        stream.close()
        assert [record.kind for record in attempts(stream)] == [Kind.INTERRUPTED, Kind.CANCELLED]
    else:
        assert len(Reader(world, mode).kinds) == 2


@MODES
def test_a_break_is_continued_again_and_again_within_max_attempts(mode: str) -> None:
    world = World({"a": BROKEN, "b": Say(chunks=(" x",), whole=False)}, **CONTINUE, max_attempts=4)
    reader = Reader(world, mode)
    assert isinstance(reader.error, StreamInterruptedError)
    assert reader.error.partial == reader.text
    assert len(world.log) == 4 == len(reader.error.attempts)
    assert world.upstream.prefills[0] == "one two"


@MODES
def test_the_one_that_broke_may_go_on_itself_where_nobody_else_can(mode: str) -> None:
    world = World({"a": [BROKEN, " three"]}, "a", **CONTINUE)
    reader = Reader(world, mode)
    assert (reader.error, reader.text, world.log) == (None, "one two three", "aa")


@MODES
@pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.CONTEXT_WINDOW, Kind.CONTENT_POLICY, Kind.LOCAL])
def test_who_refuses_to_write_on_is_passed_over(kind: Kind, mode: str) -> None:
    world = World({"a": BROKEN, "b": kind, "c": " three"}, "abc", **CONTINUE)
    reader = Reader(world, mode)
    assert (reader.error, reader.text, world.log) == (None, "one two three", "abc")


@MODES
@pytest.mark.parametrize("kind", [Kind.BAD_REQUEST, Kind.SERVER_ERROR, Kind.AUTH])
def test_where_nobody_goes_on_the_interruption_is_the_error(kind: Kind, mode: str) -> None:
    world = World({"a": [BROKEN, kind], "b": kind}, **CONTINUE, max_attempts=3)
    reader = Reader(world, mode)
    assert isinstance(reader.error, StreamInterruptedError)
    assert (reader.error.partial, reader.error.provider) == ("one two", "provider-of-a")
    assert reader.error.attempts[0].kind is Kind.INTERRUPTED
    assert str(kind) in str(reader.error)
    assert world.unsettled() == []


@MODES
def test_only_those_that_take_a_prefill_are_asked(mode: str) -> None:
    world = World({"a": BROKEN, "c": " three"}, "abc", **CONTINUE)
    world.upstream.refusers = {"a", "b"}
    reader = Reader(world, mode)
    assert (reader.text, world.log) == ("one two three", "ac")


@MODES
def test_a_document_is_not_continued(mode: str) -> None:
    world = World({"a": BROKEN}, **CONTINUE)
    reader = Reader(world, mode, {"response_format": {"type": "json_object"}})
    assert isinstance(reader.error, StreamInterruptedError)
    assert (reader.error.partial, world.log) == ("one two", "a")


@MODES
def test_a_target_may_have_nothing_to_add(mode: str) -> None:
    world = World({"a": BROKEN, "b": Say(chunks=("",))}, **CONTINUE)
    reader = Reader(world, mode)
    assert (reader.error, reader.text, world.log) == (None, "one two", "ab")


@MODES
def test_the_deadline_begins_again_with_the_break(mode: str) -> None:
    slow = Say(chunks=("one", " two"), gap_seconds=15, whole=False)
    world = World({"a": slow, "b": Say(" three", after_seconds=4)}, **CONTINUE, timeouts={"deadline_seconds": 5})
    reader = Reader(world, mode)
    assert (reader.error, reader.text) == (None, "one two three")


@MODES
def test_time_that_runs_out_after_a_break_is_an_interruption(mode: str) -> None:
    world = World({"a": BROKEN, "b": Say(" three", after_seconds=9)}, **CONTINUE)
    reader = Reader(world, mode, deadline_seconds=5)
    assert isinstance(reader.error, StreamInterruptedError)
    assert world.clock.monotonic() - 1000 == pytest.approx(5)


@MODES
def test_a_request_error_before_the_first_content_stays_the_callers(mode: str) -> None:
    world = World({"a": Kind.BAD_REQUEST, "b": "unused"}, **CONTINUE)
    reader = Reader(world, mode)
    assert (type(reader.error).__name__, world.log) == ("ScriptedError", "a")


# ---- hold


@MODES
@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (BROKEN, Kind.INTERRUPTED),
        (Say(chunks=("one", "two"), then=Kind.OVERLOADED), Kind.OVERLOADED),
        (Say(chunks=("one", "two"), gap_seconds=25), Kind.TIMEOUT),
        (Say(chunks=("one", *[""] * 9, "two"), gap_seconds=3), Kind.TIMEOUT),
    ],
)
def test_no_break_is_seen_of_an_answer_that_is_held_back(act: Say, kind: Kind, mode: str) -> None:
    world = World({"a": act, "b": Say(chunks=("three", " four"))}, **HOLD)
    reader = Reader(world, mode)
    assert (reader.error, reader.texts) == (None, ["three", " four"])
    assert reader.kinds == [("a", kind), ("b", Kind.SUCCESS)]
    assert [outcome.kind for admission in world.admissions for outcome in admission.outcomes] == [kind, Kind.SUCCESS]


@MODES
def test_a_held_back_answer_tells_health_its_first_content_and_its_end_at_once(mode: str) -> None:
    world = World({"a": Say(chunks=("one", " two"), after_seconds=1, gap_seconds=2)}, **HOLD)
    reader = Reader(world, mode)
    assert reader.text == "one two"
    assert world.admissions[0].latencies == [1]
    assert world.admissions[0].outcomes[0].latency_seconds == 1


def test_a_reader_of_a_held_back_answer_may_leave() -> None:
    world = World({"a": "one two three"}, **HOLD)
    stream = world.run(stream=True)
    next(stream)
    stream.close()
    assert [outcome.kind for outcome in world.admissions[0].outcomes] == [Kind.SUCCESS]
    assert [record.kind for record in attempts(stream)] == [Kind.SUCCESS]


@MODES
def test_a_held_back_answer_must_be_whole_by_the_deadline(mode: str) -> None:
    world = World({"a": Say("a b c d e f", gap_seconds=2)}, "a", **HOLD)
    reader = Reader(world, mode, deadline_seconds=5)
    assert isinstance(reader.error, DeadlineExceededError)
    assert reader.texts == []
    assert world.admissions[0].shortened


@MODES
def test_where_everybody_breaks_a_held_back_answer_exhausts_its_route(mode: str) -> None:
    world = World({"a": BROKEN, "b": BROKEN}, **HOLD, max_attempts=2)
    reader = Reader(world, mode)
    assert isinstance(reader.error, RouteExhaustedError)
    assert reader.texts == []


# ---- the seam


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("one two", " three", " three"),
        ("one two", "one two three", " three"),  # begun anew
        ("one two ", "one two three", "three"),
        ("one two ", " three", "three"),  # the space was not sent along
        ("one two ", "three", "three"),
        ("so", "something", "mething"),  # all of it once more: begun anew, as far as anybody can tell
        ("very", " very good", " very good"),
        ("| a | b |", " b |", " b |"),
        ("It was the best of times, it was", "the best of times, it was the worst", " the worst"),
        ("one two", "", ""),
        ("", "anything", "anything"),
    ],
)
def test_only_a_repetition_is_left_out(before: str, after: str, left: str) -> None:
    assert after[repeated(before, after) :] == left


def through(before: str, texts: list[str]) -> list[str]:
    seam = Seam(ScriptedUpstream(), before)
    pieces = [piece for text in texts for piece in seam.take(Piece(ScriptedAnswer(text, "b"), text, bool(text)))]
    return [piece.text for piece in [*pieces, *seam.rest()]]


@given(before=st.text("ab ", max_size=12), texts=st.lists(st.text("ab ", max_size=4), max_size=8))
def test_however_a_continuation_is_cut_into_pieces_the_same_is_left(before: str, texts: list[str]) -> None:
    said = ""
    for text in texts:  # the decision falls as soon as what was said cannot be a repetition any more
        said += text
        if said not in before:
            break
    assert "".join(through(before, texts)) == "".join(texts)[repeated(before, said) :]


def test_nothing_is_held_back_longer_than_it_could_be_a_repetition() -> None:
    seam = Seam(ScriptedUpstream(), "one two")
    assert seam.take(Piece(ScriptedAnswer("one", "b"), "one", has_content=True)) == []
    given = seam.take(Piece(ScriptedAnswer(" more", "b"), " more", has_content=True))
    assert [piece.text for piece in given] == ["one", " more"]


def test_a_failure_of_another_kind_still_follows_its_row() -> None:
    world = World({"a": Fail(Kind.SERVER_ERROR), "b": "fine"}, **CONTINUE)
    assert Reader(world, "sync").text == "fine"
