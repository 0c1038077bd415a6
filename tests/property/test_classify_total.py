"""Classification is total: whatever an exception says or does, the outcome is one of the kinds."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.middleware.classify import ROWS, classify
from resilience.outcome import Kind, Outcome

# A noisy machine is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 10_000),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    st.dictionaries(
        st.sampled_from(["error", "code", "type", "details", "message", "retry-after"]), st.text(max_size=9)
    ),
    st.lists(st.integers(), max_size=3),
    st.just(object()),
)
FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "status_code",
            "status",
            "response",
            "body",
            "code",
            "type",
            "message",
            "headers",
            "litellm_response_headers",
            "original_exception",
            "exceptions",
        ]
    ),
    ANYTHING,
)
CLASSES = st.sampled_from(
    ["Timeout", "APIConnectionError", "ReadError", "JSONDecodeError", "MidStreamFallbackError", "RateLimitError", "Odd"]
)
MODULES = st.sampled_from(["litellm.exceptions", "openai", "httpx", "builtins", "mine"])


def _made(name, module, fields):
    error = type(name, (Exception,), {"__module__": module})("said")
    for key, value in fields.items():
        setattr(error, key, value)
    return error


@PATIENT
@given(st.lists(st.tuples(CLASSES, MODULES, FIELDS), min_size=1, max_size=4), st.sampled_from([True, False, None]))
def test_no_made_up_exception_is_too_odd(links, sent):
    chain = [_made(*link) for link in links]
    for outer, inner in pairwise(chain):
        outer.__context__ = inner
    outcome = classify(chain[0], sent=sent)
    assert isinstance(outcome, Outcome)
    assert outcome.kind in set(Kind) - {Kind.SUCCESS}
    assert outcome.error is chain[0]
    assert outcome.retry_after_seconds is None or outcome.retry_after_seconds >= 0
    assert outcome.status is None or 100 <= outcome.status <= 599


class _LiarError(Exception):
    @property
    def response(self):
        raise RuntimeError("no")

    def __str__(self):
        raise RuntimeError("no")


class _EndlessError(Exception):
    @property
    def original_exception(self):
        return _EndlessError()


class _DeepError(Exception):
    body = '{"error": ' * 20_000


@pytest.mark.parametrize(
    "error", [_LiarError(), _EndlessError(), _DeepError(), Exception(), BaseException("x"), Exception(b"\xff", {})]
)
def test_a_hostile_exception_is_still_classified(error):
    assert classify(error).error is error


def test_a_circle_of_causes_ends():
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    assert classify(one).kind is Kind.UNKNOWN


def test_every_row_says_when_it_holds():
    for row in ROWS:
        conditions = (row.outer, row.classes, row.mapped, row.status, row.codes, row.words, row.sent)
        assert any(condition is not None for condition in conditions), row
        for text in (*(row.codes or ()), *(row.words or ())):
            assert text == text.lower()


def test_every_kind_but_those_of_answers_has_a_row():
    # An empty or rejected answer is no exception, and unknown is what no row knows.
    assert {row.kind for row in ROWS} == set(Kind) - {Kind.SUCCESS, Kind.EMPTY, Kind.REJECTED, Kind.UNKNOWN}


def test_classifying_does_not_import_litellm():
    code = (
        "import sys; from resilience.middleware.classify import classify; classify(ValueError('x'));"
        "sys.exit('litellm' in sys.modules or 'httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
