"""Classification: what an exception means, as a table of rows of which the first match wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import RouteExhaustedError
from resilience.middleware.evidence import BAD_JSON, IMPORTS, TIMEOUTS, TRANSPORT, gather
from resilience.middleware.headers import (
    delay_in_body,
    delay_in_text,
    regained_in,
    retry_after,
    should_retry,
    until_next_month,
)
from resilience.outcome import Kind, Outcome

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from resilience.middleware.evidence import Evidence

_5XX = frozenset(range(500, 600))


def _set(*names: str) -> frozenset[str]:
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: everything that is given must hold.

    Attributes:
        kind: What it means.
        outer: One of these is a class of the exception itself.
        classes: One of these is a class in the chain (LiteLLM's own not counted).
        mapped: One of these is a class that LiteLLM put around it.
        status: The status is one of these (None: there is no status at all).
        codes: One of these is a code, type or reason in a body. In lower case.
        words: One of these is said. In lower case.
        either: With both `codes` and `words` given, one of the two is enough.
        answered: Whether a response arrived (any status).
        sent: The request reached the wire, or did not.
        streaming: The answer had begun to stream.
    """

    kind: Kind
    outer: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    mapped: frozenset[str] | None = None
    status: Collection[int | None] | None = None
    codes: frozenset[str] | None = None
    words: tuple[str, ...] | None = None
    either: bool = False
    answered: bool | None = None
    sent: bool | None = None
    streaming: bool | None = None

    def matches(self, seen: Evidence) -> bool:
        """Whether everything that is given holds."""
        return (
            (self.outer is None or not self.outer.isdisjoint(seen.outer))
            and (self.classes is None or not self.classes.isdisjoint(seen.classes))
            and (self.mapped is None or not self.mapped.isdisjoint(seen.mapped))
            and (self.status is None or seen.status in self.status)
            and (self.answered is None or self.answered is (seen.wire_status is not None))
            and (self.sent is None or self.sent is seen.sent)
            and (self.streaming is None or self.streaming is seen.streaming)
            and self._is_said(seen)
        )

    def _is_said(self, seen: Evidence) -> bool:
        by_code = self.codes is None or not self.codes.isdisjoint(seen.codes)
        by_word = self.words is None or any(word in seen.text for word in self.words)
        return (by_code or by_word) if self.either else (by_code and by_word)


_QUOTA_CODES = _set(
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_error",
    "servicequotaexceededexception",
)
_QUOTA_WORDS = (
    "insufficient_quota",
    "exceeded your current quota",
    "credit balance is too low",
    "spend limit",
    "reached your specified api usage limits",
    "perday",
)
_OVERLOAD_CODES = _set("overloaded_error", "server_is_overloaded", "slow_down", "modelnotreadyexception")
_RATE_CODES = _set(
    "rate_limit_exceeded",
    "rate_limit_error",
    "throttlingexception",
    "throttling_error",
    "toomanyrequestsexception",
    "resource_exhausted",
    "too_many_requests",
)
_CONTEXT_CODES = _set("context_length_exceeded", "context_window_exceeded", "string_above_max_length")
_CONTEXT_WORDS = (
    "maximum context length",
    "context_length_exceeded",
    "context window",
    "prompt is too long",
    "input is too long",
    "exceeds the maximum number of tokens",
    "too many total text bytes",
)
_CONTENT_CODES = _set(
    "content_policy_violation",
    "content_filter",
    "responsibleaipolicyviolation",
    "moderation_blocked",
    "content_blocked",
    "guardrail_intervened",
    "image_content_policy_violation",
)
_CONTENT_WORDS = (
    "content_policy_violation",
    "responsibleaipolicyviolation",
    "content management policy",
    "content filtering policy",
    "safety system",
)
_BAD_KEY_CODES = _set("api_key_invalid", "invalid_api_key", "expiredtokenexception")
_KEY_CODES = _BAD_KEY_CODES | _set(
    "authentication_error",
    "permission_error",
    "permission_denied",
    "insufficient_permissions",
    "access_denied",
    "accessdenied",
    "accessdeniedexception",
    "unrecognizedclientexception",
    "invalidsignatureexception",
    "account_deactivated",
    "billing_not_active",
    "billing_disabled",
    "invalid_organization",
    "unsupported_country_region_territory",
)
_KEY_WORDS = ("api key", "api_key", "permission", "billing", "access denied", "not authorized", "credential")
_MODEL_CODES = _set("model_not_found", "deploymentnotfound", "deployment_not_found", "model_not_available")
_MODEL_WORDS = ("model", "deployment", "inference profile")
_SERVER_CODES = _set(
    "server_error",
    "internal_server_error",
    "internal_error",
    "internalserverexception",
    "internal",
    "api_error",
    "service_unavailable",
    "service_unavailable_error",
    "serviceunavailableexception",
    "unavailable",
    "bad_gateway",
    "modelerrorexception",
    "modelstreamerrorexception",
)
_TIMEOUT_CODES = _set("modeltimeoutexception", "timeout_error", "deadline_exceeded", "vector_store_timeout")
# Of the request, where no status says so: in an error event, or in a response that failed.
_REQUEST_CODES = _set(
    "invalid_request_error",
    "not_found_error",
    "request_too_large",
    "invalid_prompt",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "invalid_image_mode",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_file_too_large",
    "image_file_not_found",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
)
# What our and LiteLLM's code stumbles over when an answer is not what it should be.
_STUMBLES = _set("AttributeError", "KeyError", "TypeError", "ValueError", "IndexError", "ValidationError")

# The judgement of this seam, a row a reason. A reader can disagree with one row.
ROWS: tuple[Row, ...] = (
    # Nobody asked the provider anything.
    Row(Kind.CANCELLED, outer=_set("CancelledError", "GeneratorExit", "KeyboardInterrupt", "SystemExit")),
    Row(Kind.INTERRUPTED, outer=_set("StreamInterruptedError")),
    Row(Kind.LOCAL, outer=_set("RejectedError", "ConfigurationError")),
    Row(Kind.LOCAL, classes=IMPORTS, answered=False),
    Row(Kind.LOCAL, classes=_set("UnsupportedProtocol", "LocalProtocolError", "InvalidURL"), answered=False),
    # The wire broke before a whole answer came.
    Row(Kind.TIMEOUT, classes=TIMEOUTS, answered=False),
    Row(Kind.INTERRUPTED, classes=TRANSPORT, answered=False, streaming=True),
    Row(Kind.CONNECTION, classes=TRANSPORT, answered=False),
    Row(Kind.LOCAL, classes=_set("RejectedError"), answered=False),
    # LiteLLM found no key to send: a fault of the target, the next one may have one.
    Row(Kind.AUTH, mapped=_set("AuthenticationError"), sent=False, answered=False),
    # No transport error, no response, no pre-call event: LiteLLM refused the input.
    Row(Kind.LOCAL, sent=False, answered=False),
    # What the provider says about itself, in whatever status or stream it says it.
    Row(Kind.QUOTA_EXHAUSTED, status=(402,)),
    Row(Kind.QUOTA_EXHAUSTED, status=(400, 403, 429), codes=_QUOTA_CODES, words=_QUOTA_WORDS, either=True),
    Row(Kind.QUOTA_EXHAUSTED, codes=_QUOTA_CODES),
    Row(Kind.OVERLOADED, status=(529,)),
    Row(Kind.OVERLOADED, codes=_OVERLOAD_CODES),
    Row(Kind.OVERLOADED, words=("overloaded",), status=_5XX),
    Row(Kind.RATE_LIMITED, status=(429,)),
    Row(Kind.RATE_LIMITED, codes=_RATE_CODES),
    Row(Kind.RATE_LIMITED, words=("too many tokens, please wait",)),
    Row(Kind.AUTH, status=(401,)),
    Row(Kind.CONTENT_POLICY, status=(403,), words=("moderation", "flagged")),
    Row(Kind.AUTH, status=(403,), codes=_KEY_CODES, words=_KEY_WORDS, either=True),
    Row(
        Kind.AUTH,
        status=(400, 404),
        codes=_BAD_KEY_CODES,
    ),
    Row(Kind.MODEL_UNAVAILABLE, status=(410,)),
    Row(Kind.MODEL_UNAVAILABLE, codes=_MODEL_CODES),
    Row(Kind.MODEL_UNAVAILABLE, status=(404,), words=_MODEL_WORDS),
    # What it says about the request.
    Row(Kind.CONTEXT_WINDOW, mapped=_set("ContextWindowExceededError")),
    Row(Kind.CONTEXT_WINDOW, codes=_CONTEXT_CODES),
    Row(Kind.CONTEXT_WINDOW, status=(400, 413, 422), words=_CONTEXT_WORDS),
    Row(Kind.CONTENT_POLICY, mapped=_set("ContentPolicyViolationError")),
    Row(Kind.CONTENT_POLICY, codes=_CONTENT_CODES),
    Row(Kind.CONTENT_POLICY, status=(400, 422), words=_CONTENT_WORDS),
    # A status that really arrived.
    Row(Kind.TIMEOUT, status=(408,), answered=True),
    Row(Kind.SERVER_ERROR, status=_5XX | {424}, answered=True),
    Row(Kind.BAD_REQUEST, status=(400, 403, 404, 409, 413, 422), answered=True),
    # An answer, but not one that can be read.
    Row(Kind.INTERRUPTED, words=("before any terminal event", "before a finish_reason was received")),
    Row(Kind.MALFORMED, classes=BAD_JSON),
    Row(Kind.MALFORMED, words=("empty or invalid response", "unable to get json response")),
    # A code inside a 200: no status arrived that says the same.
    Row(Kind.AUTH, codes=_KEY_CODES, answered=False),
    Row(Kind.MODEL_UNAVAILABLE, codes=_set("not_found_error"), words=_MODEL_WORDS, answered=False),
    Row(Kind.BAD_REQUEST, codes=_REQUEST_CODES, answered=False),
    Row(Kind.SERVER_ERROR, codes=_SERVER_CODES),
    Row(Kind.TIMEOUT, codes=_TIMEOUT_CODES),
    Row(Kind.MALFORMED, classes=_STUMBLES, sent=True),
    Row(Kind.MALFORMED, status=(200,)),
    # What LiteLLM or another client made of it, where nothing better is known.
    Row(Kind.TIMEOUT, mapped=_set("Timeout", "APITimeoutError")),
    Row(Kind.SERVER_ERROR, status=_5XX, streaming=True),
    Row(Kind.CONNECTION, mapped=_set("APIConnectionError"), status=(None, 500)),
    Row(Kind.TIMEOUT, status=(408,)),
    Row(Kind.SERVER_ERROR, status=_5XX | {424}),
    Row(Kind.BAD_REQUEST, status=(400, 403, 404, 409, 413, 422)),
    Row(Kind.SERVER_ERROR, mapped=_set("APIError"), sent=True, status=(None,)),
)


def classify(error: BaseException, *, sent: bool | None = None, now: datetime | None = None) -> Outcome:
    """Say what an exception means. Total: it never raises.

    It knows LiteLLM's exceptions, those of httpx, aiohttp, requests, botocore, the OpenAI and Anthropic SDKs, and
    the operating system's, without importing any of them.

    Args:
        error: Any exception.
        sent: Whether the request reached the wire, where the caller knows. None: read from the exception.
        now: The wall clock, for dates in headers; None reads it.

    Returns:
        The outcome, with ``error`` in it unchanged. An exception that nothing is known about is ``unknown``.
    """
    if isinstance(error, RouteExhaustedError) and error.attempts:
        return _of_route(error)
    try:
        seen = gather(error, sent=sent)
        kind = next((row.kind for row in ROWS if row.matches(seen)), Kind.UNKNOWN)
        moment = now if now is not None else SYSTEM_CLOCK.now()
        asked = _asked_delay(kind, seen, moment)
        return Outcome(
            kind=kind,
            error=error,
            status=seen.wire_status or (None if kind in _NO_STATUS else seen.status),
            retry_after_seconds=asked,
            reset_seconds=_quota_reset(seen, moment, asked) if kind is Kind.QUOTA_EXHAUSTED else None,
            should_retry=should_retry(seen.headers),
            elsewhere=kind is Kind.LOCAL and not _UNSUPPORTED.isdisjoint(seen.mapped),
        )
    except Exception:  # noqa: BLE001 (an exception may lie about everything: its text, its fields, its class)
        return Outcome(kind=Kind.UNKNOWN, error=error)


# A parameter that the model does not take, refused before the wire.
_UNSUPPORTED = _set("UnsupportedParamsError")
# LiteLLM invents a status for these: nothing came.
_NO_STATUS = frozenset({Kind.LOCAL, Kind.CANCELLED, Kind.CONNECTION, Kind.TIMEOUT, Kind.MALFORMED, Kind.INTERRUPTED})
_SAYS_WHEN = frozenset({Kind.RATE_LIMITED, Kind.QUOTA_EXHAUSTED, Kind.OVERLOADED, Kind.SERVER_ERROR})


def _of_route(error: RouteExhaustedError) -> Outcome:
    # A guard around a whole route hears what ended it: its last attempt, not those that were refused beside it.
    last = error.attempts[-1]
    return Outcome(last.kind, error, last.status, retry_after_seconds=error.retry_after)


def _asked_delay(kind: Kind, seen: Evidence, now: datetime) -> float | None:
    said = retry_after(seen.headers, now)
    if said is not None or kind not in _SAYS_WHEN:
        return said
    for body in seen.bodies:
        if (delay := delay_in_body(body)) is not None:
            return delay
    return delay_in_text(seen.text)


def _quota_reset(seen: Evidence, now: datetime, asked: float | None) -> float | None:
    regained = regained_in(seen.text, now)
    if regained is not None:
        return regained
    if asked is None and "enforced_spend_limit_reached" in seen.codes:
        return until_next_month(now)
    return asked
