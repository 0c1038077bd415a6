"""Pieces: what a chunk of a chat stream, or an event of the Responses API, carries for its reader."""

from __future__ import annotations

from typing import Any, Final

from resilience.middleware.answers import carries, field
from resilience.upstream import Piece

# What another target can write on after: a text, and thoughts on the way to it.
_TEXT_DELTA: Final = "response.output_text.delta"
_PLAIN_ITEMS: Final = frozenset({"message", "reasoning", None})
_NOT_PLAIN: Final = ("tool_calls", "function_call", "refusal", "audio", "images")


def text_of(chunk: Any) -> str:
    """The text of a chunk of a chat stream that carries nothing else; "" for every other chunk."""
    try:
        # Where LiteLLM's models keep these fields; by attribute each of them takes ten times as long.
        delta = chunk.choices[0].__pydantic_extra__["delta"].__pydantic_extra__
        text = delta["content"]
        if text.__class__ is str and not (delta["tool_calls"] or delta["function_call"] or delta["audio"]):
            return text
    except (AttributeError, IndexError, KeyError, TypeError):
        pass
    return ""


def piece_of(chunk: Any) -> Piece:
    """A chunk of a chat stream and what it carries."""
    if text := text_of(chunk):
        return Piece(chunk, text, has_content=True)
    deltas = [choice.delta for choice in chunk.choices]
    content = field(deltas[0], "content") if deltas else None
    plain = not any(field(delta, name) for delta in deltas for name in _NOT_PLAIN) and not any(
        (field(delta, "provider_specific_fields") or {}).get("refusal") for delta in deltas
    )
    return Piece(chunk, content if isinstance(content, str) else "", any(map(carries, deltas)), plain)


def event_text(event: Any) -> str:
    """The text of an event of the responses API that carries nothing else; "" for every other event."""
    text = getattr(event, "delta", None) if kind_of(event) == _TEXT_DELTA else None
    return text if isinstance(text, str) else ""


def event_piece(event: Any) -> Piece:
    """An event of the responses API and what it carries."""
    kind = kind_of(event)
    if not kind.endswith(".delta"):
        plain = kind != "response.output_item.added" or field(field(event, "item"), "type") in _PLAIN_ITEMS
        return Piece(event, "", has_content=False, is_plain=plain)
    delta = field(event, "delta")
    text = delta if kind == _TEXT_DELTA and isinstance(delta, str) else ""
    plain = kind == _TEXT_DELTA or kind.startswith("response.reasoning")
    return Piece(event, text, has_content=bool(delta), is_plain=plain or not delta)


def kind_of(event: Any) -> str:
    """An event's type as text."""
    return str(getattr(event.type, "value", event.type))
