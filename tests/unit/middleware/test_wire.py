"""The wire: what can be read goes through untouched, and one event that cannot is left out."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.middleware.wire import Watched, WatchedSync

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


REFUSED = b'data: {"choices":[{"delta":{"refusal":"I can\'t \\"do\\" that"}}]}\n\n'


@given(data=st.data())
def test_what_a_model_says_to_refuse_is_written_where_litellm_lets_it_pass(data: st.DataObject) -> None:
    stream = GOOD + GOOD + REFUSED + GOOD
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    events = [json.loads(event[6:])["choices"][0]["delta"] for event in through(*parts).split(b"\n\n")[:-1]]
    said = 'I can\'t "do" that'
    refused = {"refusal": said, "provider_specific_fields": {"refusal": said}}
    assert events == [{"content": "a {b}"}, {"content": "a {b}"}, refused, {"content": "a {b}"}]


@pytest.mark.parametrize(
    "stream",
    [
        REFUSED.replace(b'"I can\'t \\"do\\" that"', b"null"),
        REFUSED.replace(b'"I can\'t \\"do\\" that"', b'""'),
        b'data: {"choices":[{"delta":{"content":"\\"refusal\\": \\"no\\""}}]}\n\n',  # a text about one
        b'data: {"type":"response.refusal.done","refusal":"no"}\n\n',  # LiteLLM passes the events of responses on
    ],
)
def test_whatever_is_no_piece_of_a_refusal_is_left_as_it_is(stream: bytes) -> None:
    assert through(GOOD, stream, GOOD) == GOOD + stream + GOOD


def test_a_refusal_passes_after_a_broken_event_too() -> None:
    assert b"provider_specific_fields" in through(GOOD, BAD, GOOD, REFUSED[:30], REFUSED[30:])


def test_what_a_text_says_is_no_sign_of_the_end() -> None:
    watched = Watched(sifts=True)
    said = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    for text in (b"[DONE]", b"They end", b"with [DONE]", b"or message_stop", b'or \\"type\\":\\"message_stop\\"'):
        watched.see(said % text)
        assert not watched.terminated


@pytest.mark.parametrize(
    "end",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\r\n\r\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'data: {"type": "message_stop"}\n\n',
    ],
)
def test_each_dialects_sign_of_the_end_is_known_however_it_comes(end: bytes) -> None:
    for cut in range(len(end)):
        watched = Watched(sifts=True)
        for data in (b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n', end[:cut], end[cut:]):
            watched.see(data)
        assert watched.terminated


def _chat(delta: str, more: str = '"finish_reason":null') -> bytes:
    return f'data: {{"id":"c","choices":[{{"index":0,"delta":{delta},{more}}}]}}\n\n'.encode()


@pytest.mark.parametrize(
    "again",
    [
        b": OPENROUTER PROCESSING\n\n",
        b": one\r\n\r\n: two\r\n\r\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b"\n",
        _chat("{}"),
        _chat('{"role":"assistant","content":""}'),
        _chat('{"content":null, "tool_calls":[], "refusal": null}'),
        _chat('{"content":""}') + b": and a comment\n\n",
    ],
)
def test_what_says_nothing_does_not_end_a_silence_in_a_thread(again: bytes) -> None:
    with pytest.raises(httpx.ReadTimeout, match="nothing but comments"):
        list(WatchedSync([again] * 3, Watched(sifts=True), 0.0, 10.0))
    said = [_chat('{"content":"hi"}'), again, again]
    with pytest.raises(httpx.ReadTimeout, match="nothing but comments"):
        list(WatchedSync(said, Watched(sifts=True), 10.0, 0.0))


@pytest.mark.parametrize(
    "said",
    [
        _chat('{"content":"hi"}'),
        _chat('{"content":"","reasoning_content":"hm"}'),
        _chat('{"content":null,"tool_calls":[{"index":0,"function":{"arguments":""}}]}'),
        _chat('{"refusal":"no"}'),
        _chat("{}", '"finish_reason":"stop"'),
        _chat("{}") + _chat('{"content":"hi"}'),
        b": a comment, and\n\n" + _chat('{"content":"hi"}'),
        b'data: {"choices":[{"delta":{"content":""}},{"index":1,"delta":{"content":"hi"}}]}\n\n',
        b'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":"hi"}}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"hi"}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n',
        b"data: [DONE]\n\n",
        b"anything else\n",
    ],
)
def test_whatever_may_say_something_ends_it(said: bytes) -> None:
    assert len(list(WatchedSync([said] * 3, Watched(sifts=True), 0.0, 0.0))) >= 3


def test_looking_for_nothing_takes_no_longer_than_reading_it() -> None:
    hostile = [
        b"event: ping" + b"\n" * 100_000 + b"x",
        b"\n" * 100_000 + b"x",
        b'data: "delta":{' + b'"a":null,' * 20_000,
    ]
    assert b"".join(WatchedSync(hostile, Watched(), 0.0, 0.0)) == b"".join(hostile)
