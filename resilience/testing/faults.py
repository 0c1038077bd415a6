"""Faults: what a loopback provider can be told to do wrong, one immutable value each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Wire(StrEnum):
    """What happens on the connection."""

    REFUSE = "refuse"
    RESET = "reset"
    HANG = "hang"
    ANSWER = "answer"


class Break(StrEnum):
    """How a stream goes wrong at its k-th token."""

    CUT = "cut"
    EOF = "eof"
    STALL = "stall"
    ERROR = "error"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail. Build it with a constructor below, then narrow it with `some` or `after`.

    Attributes:
        name: What it is called in lists and test ids.
        wire: What happens on the connection before any answer.
        status: HTTP status; anything but 200 (or a `body`) replaces the answer.
        code: The error's code in the OpenAI dialect.
        type: The error's type in both dialects; None takes the one usual for the status.
        message: The error's text.
        headers: Extra headers of the answer.
        body: The exact body, sent instead of everything else.
        content_type: Its type.
        latency_seconds: Wait before the status line.
        share: (k, n): k of each n requests fail, in an order drawn by the provider's seeded generator.
        otherwise: What the rest of them meet; None: nothing.
        at: The number of tokens that a stream delivers before it breaks.
        stream_break: How it breaks there. `Break.CUT` and `Break.STALL` leave a whole answer half sent.
        garbled_at: Before which token an event comes that is no JSON; None: nowhere.
        form: The dialect of an error event: openai, anthropic or openrouter.
        first_token_seconds: Wait between the headers and the first content of a stream.
        token_seconds: Wait before each token.
        keep_alives: Comment lines sent before the first content, spread over `first_token_seconds`.
        role_only: Whether the OpenAI dialect starts with a chunk that carries only the role.
        terminator: Whether ``[DONE]`` or ``message_stop`` ends the stream.
        finish: Whether a finish reason is sent.
        text: The answer's text instead of the provider's.
        fields: Fields of the OpenAI dialect's message (tool_calls, refusal ...), merged into it.
        stop: The finish reason sent, in the dialect's own word.
    """

    name: str
    wire: Wire = Wire.ANSWER
    status: int = 200
    code: str | None = None
    type: str | None = None
    message: str = "the loopback provider was told to fail"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    content_type: str = "application/json"
    latency_seconds: float = 0.0
    share: tuple[int, int] | None = None
    otherwise: Fault | None = None
    at: int = 0
    stream_break: Break | None = None
    garbled_at: int | None = None
    form: str | None = None
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0
    keep_alives: int = 0
    role_only: bool = True
    terminator: bool = True
    finish: bool = True
    text: str | None = None
    fields: tuple[tuple[str, Any], ...] = ()
    stop: str | None = None

    def __str__(self) -> str:
        return self.name

    def some(self, k: int, *, of: int) -> Self:
        """The same for ``k`` of each ``of`` requests."""
        if not 0 <= k <= of or of < 1:
            raise ValueError(f"share {k} of {of}: needs 0 <= k <= of and of >= 1")
        return replace(self, share=(k, of), name=f"{self.name} {k}/{of}")

    def after(self, seconds: float) -> Self:
        """The same, ``seconds`` later."""
        return replace(self, latency_seconds=seconds)

    def answer_to(self, dialect: str) -> str:
        """The body of an HTTP error in the dialect of the path that was asked."""
        if self.body is not None:
            return self.body
        return json.dumps(error_object(dialect, self.status, self.code, self.type, self.message))

    # On the wire, before any answer

    @classmethod
    def refuse(cls) -> Self:
        """Close the listener: connecting is refused. For the whole provider only."""
        return cls("refuse", wire=Wire.REFUSE)

    @classmethod
    def reset(cls) -> Self:
        """Read the request, then reset the connection."""
        return cls("reset", wire=Wire.RESET)

    @classmethod
    def hang(cls) -> Self:
        """Read the request and never answer."""
        return cls("hang", wire=Wire.HANG)

    # HTTP errors

    @classmethod
    def http(
        cls,
        status: int,
        *,
        code: str | None = None,
        type: str | None = None,  # noqa: A002 (the field's name on the wire)
        message: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | str | None = None,
    ) -> Self:
        """Answer with this status, in the dialect of the path asked, or with exactly ``body``."""
        text = json.dumps(body) if body is not None and not isinstance(body, str) else body
        return cls(
            f"{status} {code or type}" if code or type else str(status),
            status=status,
            code=code,
            type=type,
            message=message or f"status {status} from the loopback provider",
            headers=tuple((headers or {}).items()),
            body=text,
        )

    @classmethod
    def unauthorized(cls) -> Self:
        """401, the key is wrong."""
        return cls.http(401, code="invalid_api_key", type="authentication_error")

    @classmethod
    def forbidden(cls, code: str | None = "insufficient_permissions") -> Self:
        """403 with a code."""
        return cls.http(403, code=code, type="permission_error" if code else None)

    @classmethod
    def context_window(cls) -> Self:
        """400, more tokens than the model takes."""
        return cls.http(
            400,
            code="context_length_exceeded",
            type="invalid_request_error",
            message="This model's maximum context length is 8192 tokens. prompt is too long: 9000 > 8192",
        )

    @classmethod
    def content_policy(cls) -> Self:
        """400, the prompt was filtered."""
        return cls.http(
            400,
            code="content_policy_violation",
            type="invalid_request_error",
            message="Your request was rejected as a result of our safety system: content_policy_violation.",
        )

    @classmethod
    def model_missing(cls) -> Self:
        """404 with a model code."""
        return cls.http(
            404,
            code="model_not_found",
            type="not_found_error",
            message="The model `gone` does not exist or you do not have access to it. model: gone",
        )

    @classmethod
    def rate_limited(cls, retry_after: float | str | None = None, headers: Mapping[str, str] | None = None) -> Self:
        """429 with a Retry-After in seconds (or any text) and any further headers."""
        sent = dict(headers or {})
        if retry_after is not None:
            sent["retry-after"] = f"{retry_after:g}" if isinstance(retry_after, float) else str(retry_after)
        fault = cls.http(429, code="rate_limit_exceeded", type="rate_limit_error", headers=sent)
        return replace(fault, message="Rate limit reached")

    @classmethod
    def insufficient_quota(cls) -> Self:
        """429, but no waiting helps: the account has no money."""
        return cls.http(
            429,
            code="insufficient_quota",
            type="insufficient_quota",
            message="You exceeded your current quota (insufficient_quota), please check your plan and billing.",
        )

    @classmethod
    def server_is_overloaded(cls) -> Self:
        """503 of OpenAI's kind, in its words whatever the path."""
        error = {"message": "The server is busy.", "type": "server_error", "code": "server_is_overloaded"}
        return cls.http(503, code="server_is_overloaded", body={"error": error})

    @classmethod
    def overloaded(cls) -> Self:
        """529 of Anthropic's kind."""
        return cls.http(529, type="overloaded_error", message="Overloaded")

    # Answers of status 200 that are none

    @classmethod
    def html(cls) -> Self:
        """200 with a web page, as a proxy in between sends it."""
        page = "<html><body><h1>Welcome</h1></body></html>"
        return replace(cls("html", body=page), content_type="text/html")

    @classmethod
    def bad_json(cls) -> Self:
        """200 with half a JSON document."""
        return cls("bad json", body='{"id": "x", "choices": [')

    @classmethod
    def error_object(cls, code: str = "server_error") -> Self:
        """200 with an error in it, for whole answers."""
        body = {"error": {"message": "an error inside a 200", "type": code, "code": code}}
        return cls("error object", body=json.dumps(body))

    @classmethod
    def no_body(cls) -> Self:
        """200 with nothing in it."""
        return cls("no body", body="")

    @classmethod
    def empty(cls) -> Self:
        """A well-formed answer without any text."""
        return cls("empty", text="")

    @classmethod
    def answer(cls, text: str = "", *, stop: str | None = None, fields: Mapping[str, Any] | None = None) -> Self:
        """A well-formed answer with this text, finish reason and, in the OpenAI dialect, message fields."""
        return cls("answer", text=text, stop=stop, fields=tuple((fields or {}).items()))

    # Slow ones

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """A right answer, late."""
        return cls("slow", latency_seconds=seconds)

    @classmethod
    def brownout(cls, seconds: float, hangs: int = 1, *, of: int = 5) -> Self:
        """Every answer ``seconds`` late, and ``hangs`` of each ``of`` requests are never answered."""
        slow = cls.slow(seconds)
        return replace(cls.hang().some(hangs, of=of), name=f"brownout {hangs}/{of}", otherwise=slow)

    @classmethod
    def late_first_token(cls, seconds: float, keep_alives: int = 0) -> Self:
        """Headers at once, the first content late, comments in between."""
        return cls("late first token", first_token_seconds=seconds, keep_alives=keep_alives)

    @classmethod
    def drip(cls, token_seconds: float) -> Self:
        """One token at a time, slowly."""
        return cls("drip", token_seconds=token_seconds)

    # Streams

    @classmethod
    def cut(cls, at: int = 2) -> Self:
        """The connection drops after ``at`` tokens."""
        return cls("cut", stream_break=Break.CUT, at=at)

    @classmethod
    def eof(cls, at: int = 2) -> Self:
        """A clean end after ``at`` tokens, without finish reason and terminator."""
        return cls("silent eof", stream_break=Break.EOF, at=at)

    @classmethod
    def stall(cls, at: int = 2) -> Self:
        """Nothing more after ``at`` tokens, the connection stays open."""
        return cls("stall", stream_break=Break.STALL, at=at)

    @classmethod
    def error_event(
        cls,
        at: int = 2,
        *,
        form: str | None = None,
        code: str = "server_error",
        message: str = "broken inside",
    ) -> Self:
        """An error event after ``at`` tokens. ``form``: openai, anthropic, openrouter; None: the path's own."""
        return cls(
            f"error event {form or ''}".strip(),
            stream_break=Break.ERROR,
            at=at,
            form=form,
            code=code,
            type=code,
            message=message,
        )

    @classmethod
    def malformed_event(cls, at: int = 2) -> Self:
        """An event that is no JSON after ``at`` tokens, then a clean end."""
        return cls("malformed event", stream_break=Break.MALFORMED, at=at)

    @classmethod
    def garbled_event(cls, at: int = 2) -> Self:
        """An event that is no JSON before token ``at``, and everything else as it should be."""
        return cls("garbled event", garbled_at=at)

    @classmethod
    def no_terminator(cls) -> Self:
        """A finish reason, but no ``[DONE]`` or ``message_stop``."""
        return cls("no terminator", terminator=False)

    @classmethod
    def no_finish_reason(cls) -> Self:
        """``[DONE]`` or ``message_stop``, but no finish reason."""
        return cls("no finish reason", finish=False)


def error_object(dialect: str, status: int, code: str | None, kind: str | None, message: str) -> dict[str, Any]:
    """An error body in OpenAI's or Anthropic's dialect."""
    if dialect == "anthropic":
        usual = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        kind = kind if kind and kind.endswith("_error") else usual
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_loopback"}
    return {"error": {"message": message, "type": kind or "error", "param": None, "code": code}}
