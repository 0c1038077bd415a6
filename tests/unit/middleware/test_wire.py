"""The wire: what can be read goes through untouched, and one event that cannot is left out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.middleware.wire import Watched

GOOD = b'data: {"choices":[{"delta":{"content":"a {b}"}}]}\n\n'
BAD = b'data: {"choices":[{"del\n\n'


def through(*parts: bytes, sifts: bool = True) -> bytes:
    watched = Watched(sifts=sifts)
    return b"".join([*(watched.see(part) for part in parts), watched.rest()])


@pytest.mark.parametrize(
    "bad", [BAD, b"data: {not json}\n\n", b"data: not json\n\n", b'data: {"a": }\n\n', BAD.replace(b"\n", b"\r\n")]
)
def test_one_event_that_no_parser_can_read_is_left_out(bad: bytes) -> None:
    assert through(GOOD, bad, GOOD, b"data: [DONE]\n\n") == GOOD + GOOD + b"data: [DONE]\n\n"


def test_a_second_one_goes_through() -> None:
    assert through(GOOD, BAD, GOOD, BAD) == GOOD + GOOD + BAD


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {\ndata: "a": 1}\n\n' + GOOD,  # one event in two lines
        b"data: plain text\n\ndata: more\n\n",  # not a JSON stream at all
        b": a comment\n\nevent: ping\ndata: {}\n\n" + GOOD + b"data: [DONE]\n\n",
        b'data: {"half an emoji": "\\ud83d"}\n\n',
        GOOD.replace(b"\n", b"\r\n"),
    ],
)
@given(data=st.data())
def test_everything_else_goes_through_however_it_is_cut(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert through(*parts) == stream


def test_bytes_that_are_no_events_are_left_alone() -> None:
    assert through(BAD, BAD, sifts=False) == BAD + BAD


def test_a_line_that_was_cut_in_the_middle_is_no_event() -> None:
    assert through(GOOD, GOOD[:20]) == GOOD


def test_the_end_and_the_last_error_are_remembered() -> None:
    watched = Watched(sifts=True)
    watched.see(GOOD)
    assert not watched.terminated
    event = b'data: {"error": {"code": "overloaded_error"}}'
    watched.see(b"event: error\n" + event + b"\n\n")
    assert watched.error == event
    watched.see(b"data: [DO")
    watched.see(b"NE]\n\n")
    assert watched.terminated


def test_a_refusal_is_collected_from_what_the_reader_has_not_seen() -> None:
    watched = Watched(sifts=True)
    for said in ("I can't", ' "do" that', None):
        watched.see(b'data: {"delta": {"refusal": ' + json.dumps(said).encode() + b"}}\n\n")
    assert watched.refusal() == 'I can\'t "do" that'
    assert watched.refusal() == ""
