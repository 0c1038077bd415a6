"""Exceptions of clients other than LiteLLM, and our own: what each of them means."""

from __future__ import annotations

import asyncio
import socket
import ssl

import anthropic
import httpx
import openai
import pytest

from resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    ConfigurationError,
    DeadlineExceededError,
    RouteExhaustedError,
    StreamInterruptedError,
)
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.outcome import Kind

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1/models/chat")


def _response(status, **more):
    return httpx.Response(status, request=REQUEST, **more)


def _http(status, **more):
    return httpx.HTTPStatusError("said", request=REQUEST, response=_response(status, **more))


def _sdk(cls, status, body=None, **more):
    return cls("said", response=_response(status, **more), body=body)


class _BotoError(Exception):
    """botocore's ClientError without botocore."""

    def __init__(self, status, code, headers=None):
        super().__init__(f"An error occurred ({code})")
        self.response = {
            "Error": {"Code": code, "Message": "said"},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncio.CancelledError(), Kind.CANCELLED),
        (GeneratorExit(), Kind.CANCELLED),
        (KeyboardInterrupt(), Kind.CANCELLED),
        (SystemExit(), Kind.CANCELLED),
        (CircuitOpenError("open"), Kind.LOCAL),
        (ConcurrencyLimitError("full"), Kind.LOCAL),
        (ConfigurationError("wrong"), Kind.LOCAL),
        (ModuleNotFoundError("mcp"), Kind.LOCAL),
        (StreamInterruptedError("cut"), Kind.INTERRUPTED),
        (DeadlineExceededError("late"), Kind.TIMEOUT),
        (RouteExhaustedError("none", [CircuitOpenError("open")]), Kind.LOCAL),
        (RouteExhaustedError("none", [_http(500)]), Kind.SERVER_ERROR),
        (TimeoutError(), Kind.TIMEOUT),
        (socket.gaierror(-2, "Name or service not known"), Kind.CONNECTION),
        (ConnectionRefusedError(), Kind.CONNECTION),
        (ConnectionResetError(), Kind.CONNECTION),
        (BrokenPipeError(), Kind.CONNECTION),
        (ssl.SSLCertVerificationError(), Kind.CONNECTION),
        (asyncio.IncompleteReadError(b"", 3), Kind.CONNECTION),
        (httpx.ConnectError("x"), Kind.CONNECTION),
        (httpx.RemoteProtocolError("x"), Kind.CONNECTION),
        (httpx.ReadTimeout("x"), Kind.TIMEOUT),
        (httpx.PoolTimeout("x"), Kind.TIMEOUT),
        (httpx.UnsupportedProtocol("x"), Kind.LOCAL),
        (_http(500), Kind.SERVER_ERROR),
        (_http(429), Kind.RATE_LIMITED),
        (_http(404), Kind.BAD_REQUEST),
        (_http(404, json={"error": {"code": "model_not_found"}}), Kind.MODEL_UNAVAILABLE),
        (openai.APIConnectionError(request=REQUEST), Kind.CONNECTION),
        (openai.APITimeoutError(request=REQUEST), Kind.TIMEOUT),
        (_sdk(openai.RateLimitError, 429), Kind.RATE_LIMITED),
        (_sdk(openai.RateLimitError, 429, {"code": "insufficient_quota"}), Kind.QUOTA_EXHAUSTED),
        (_sdk(openai.InternalServerError, 503), Kind.SERVER_ERROR),
        (_sdk(anthropic.InternalServerError, 529), Kind.OVERLOADED),
        (_sdk(anthropic.AuthenticationError, 401), Kind.AUTH),
        (anthropic.APIConnectionError(request=REQUEST), Kind.CONNECTION),
        (_BotoError(429, "ThrottlingException"), Kind.RATE_LIMITED),
        (_BotoError(429, "ModelNotReadyException"), Kind.OVERLOADED),
        (_BotoError(400, "ServiceQuotaExceededException"), Kind.QUOTA_EXHAUSTED),
        (_BotoError(403, "AccessDeniedException"), Kind.AUTH),
        (_BotoError(424, "ModelErrorException"), Kind.SERVER_ERROR),
        (_BotoError(408, "ModelTimeoutException"), Kind.TIMEOUT),
        (ExceptionGroup("two", [ValueError("a"), httpx.ReadError("b")]), Kind.CONNECTION),
        (ValueError("mine"), Kind.UNKNOWN),
        (KeyError("mine"), Kind.UNKNOWN),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_foreign_exceptions_are_known(error, kind):
    outcome = classify(error)
    assert (outcome.kind, outcome.error) == (kind, error)


def test_a_timeout_made_of_a_cancellation_is_a_timeout():
    error = TimeoutError()
    error.__cause__ = asyncio.CancelledError()
    assert classify(error).kind is Kind.TIMEOUT


def test_headers_are_found_in_every_clients_place():
    sent = {"Retry-After": "3"}
    for error in (
        _http(429, headers=sent),
        _sdk(openai.RateLimitError, 429, headers=sent),
        _BotoError(429, "ThrottlingException", {"retry-after": "3"}),
    ):
        assert classify(error).retry_after_seconds == 3.0


def test_nothing_sent_and_nothing_known_is_local():
    assert classify(ValueError("no"), sent=False).kind is Kind.LOCAL
    assert classify(ValueError("no"), sent=True).kind is Kind.MALFORMED


def test_a_response_outweighs_the_claim_that_nothing_was_sent():
    assert classify(_http(500), sent=False).kind is Kind.SERVER_ERROR


def test_the_exception_that_was_being_handled_is_not_read():
    handled = _http(429)
    error = ValueError("later")
    error.__context__ = handled
    assert classify(error).kind is Kind.RATE_LIMITED
    mark(error, Mark(outer=handled))
    assert classify(error).kind is Kind.UNKNOWN


def test_a_transport_error_hides_what_was_being_handled_behind_it():
    error = httpx.ConnectError("refused")
    error.__context__ = _http(401)
    assert classify(error).kind is Kind.CONNECTION


def test_a_url_that_names_models_is_no_missing_model():
    assert classify(_http(404, text="not here")).kind is Kind.BAD_REQUEST


def test_an_exception_without_attributes_takes_no_mark():
    class BareError(Exception):
        __slots__ = ()

        def __setattr__(self, name, value):
            raise AttributeError(name)

    mark(BareError(), Mark(sent=True))
