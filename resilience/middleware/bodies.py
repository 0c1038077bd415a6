"""Bodies: the codes and sentences in an error as providers write it."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_BODY = 65_536
_CODES = ("code", "Code", "type", "status", "error_code", "__type", "reason")
_SENTENCES = ("message", "Message", "detail")


def decoded(said: str | bytes) -> str:
    """Text of text or bytes."""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def parsed_body(said: object) -> dict[str, Any] | None:
    """The JSON object (or Python literal, as LiteLLM prints one) in a message; None where there is none."""
    if not isinstance(said, (str, bytes)):
        return None
    text = decoded(said)
    if text.startswith(("b'", 'b"')):
        text = text[2:-1]  # LiteLLM's str() of a body in bytes
    start = text.find("{")
    if start < 0 or len(text) > _LONGEST_BODY:
        return None
    text = text[start : text.rfind("}") + 1]
    for parse in (json.loads, ast.literal_eval):
        try:
            body = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(body, dict):
            return body
    return None


def codes_of(body: dict[str, Any]) -> Iterator[object]:
    """Codes, types, reasons and statuses, outer ones first: strings, numbers, or None."""
    for part in _parts(body):
        yield from (part.get(name) for name in _CODES if not isinstance(part.get(name), dict))
        yield _inner(part, "innererror").get("code")  # Azure
        yield _inner(part, "metadata").get("error_type")  # OpenRouter
        for detail in _details(part):
            yield detail.get("error_code")  # Anthropic
            yield detail.get("reason")  # Google


def sentences_of(body: dict[str, Any]) -> Iterator[str]:
    """What is said to people, and the names of the quotas that were violated."""
    for part in _parts(body):
        yield from (part[name] for name in _SENTENCES if isinstance(part.get(name), str))
        for detail in _details(part):
            violations = detail.get("violations")
            for violation in violations if isinstance(violations, list) else ():
                quota = violation.get("quotaId") if isinstance(violation, dict) else None
                if isinstance(quota, str):
                    yield quota
    if isinstance(body.get("error"), str):
        yield body["error"]


def _parts(body: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    # The error stands at the top, under "error", or in the response of a `response.failed` event.
    error = _inner(body, "error") or _inner(_inner(body, "response"), "error")
    return (body, error) if error else (body,)


def _inner(part: dict[str, Any], name: str) -> dict[str, Any]:
    value = part.get(name)
    return value if isinstance(value, dict) else {}


def _details(part: dict[str, Any]) -> list[dict[str, Any]]:
    details = part.get("details")
    listed = details if isinstance(details, list) else [details]
    return [detail for detail in listed if isinstance(detail, dict)]
