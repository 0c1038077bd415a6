"""Failures inside a 200: a failed response; an error, a page or half a document in place of a stream."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import httpx

from resilience.middleware.answers import field
from resilience.middleware.bodies import parsed_body, sentences_of
from resilience.middleware.classify import classify
from resilience.middleware.evidence import Mark, mark
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

# LiteLLM's own class for what was told, by which people catch it. The table knows it by its codes all the same.
_CLASSES: Final[Mapping[Kind, str]] = {
    Kind.RATE_LIMITED: "RateLimitError",
    Kind.QUOTA_EXHAUSTED: "RateLimitError",
    Kind.AUTH: "AuthenticationError",
    Kind.MODEL_UNAVAILABLE: "NotFoundError",
    Kind.CONTEXT_WINDOW: "ContextWindowExceededError",
    Kind.CONTENT_POLICY: "ContentPolicyViolationError",
    Kind.BAD_REQUEST: "BadRequestError",
    Kind.OVERLOADED: "ServiceUnavailableError",
    Kind.TIMEOUT: "Timeout",
}
_EVENTS: Final = re.compile(r"\s*(?:data|event|id|retry)?:")
# In place of events. Other types are dialects of which LiteLLM knows more than we do.
_DOCUMENTS: Final = frozenset({"application/json", "text/html", "text/event-stream"})


def failure_in(response: Any, model: str = "", family: str = "") -> Exception | None:
    """What a whole answer of the Responses API says that it failed with; None for one that did not fail.

    The same stands in a stream's ``response.failed``, of which LiteLLM makes an exception by itself.

    Args:
        response: The answer.
        model: Who was asked.
        family: LiteLLM's name of the provider.
    """
    if field(response, "status") != "failed":
        return None
    error = field(response, "error")
    return _told({"error": {name: field(error, name) for name in ("code", "type", "message")}}, model, family)


def failure_in_place(response: httpx.Response, raw: bytes, model: str, family: str) -> Exception | None:
    """What a document says that came in place of a stream; None where it may have been a stream.

    LiteLLM and the SDKs find no event in it, and take it for an empty answer.

    Args:
        response: Of which it is the body.
        raw: The body as it arrived.
        model: Who was asked.
        family: LiteLLM's name of the provider.
    """
    text = _text(response, raw)
    body = parsed_body(text) if text.lstrip()[:1] in {"{", "["} else None
    if body is not None and (body.get("error") or "error" in (body.get("type"), body.get("object"))):
        return _told(body, model, family)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if _EVENTS.match(text) or not (text.lstrip().startswith("<") or kind in _DOCUMENTS):
        return None
    made = _error("InternalServerError", f"an answer of type {kind or 'unknown'} in place of a stream", model, family)
    made.__cause__ = httpx.DecodingError("no event in it")
    mark(made, Mark(sent=True, outer=sys.exception()))
    return made


def _told(body: dict[str, Any], model: str, family: str) -> Exception:
    # What was said is left on it as on an error event of a stream: `classify` reads it there.
    note = Mark(sent=True, outer=sys.exception(), said=json.dumps(body))
    unnamed = Exception()
    mark(unnamed, note)
    name = _CLASSES.get(classify(unnamed).kind, "InternalServerError")
    made = _error(name, next(sentences_of(body), "an error inside a status of 200"), model, family)
    mark(made, note)
    return made


def _error(name: str, message: str, model: str, family: str) -> Exception:
    import litellm  # noqa: PLC0415 (loaded long since; named here for functions without an instance)

    made: Exception = getattr(litellm, name)(message=f"{family}: {message}", model=model, llm_provider=family)
    return made


def _text(response: httpx.Response, raw: bytes) -> str:
    """The body as text, of which the bytes may be compressed, or may say so although somebody has unpacked them."""
    for headers in (response.headers, {"content-type": response.headers.get("content-type", "")}):
        try:
            return httpx.Response(200, headers=headers, content=raw).text
        except (httpx.DecodingError, LookupError):
            continue
    return ""
