"""Pieces: what a chunk of a chat stream, or an event of the Responses API, carries for its reader."""

from __future__ import annotations

from typing import Any, Final

from resilience.middleware.answers import carries, field
from resilience.upstream import Piece

# What another target can write on after: a text, and thoughts on the way to it.
_PLAIN_DELTAS: Final = frozenset({"response.output_text.delta"})
_PLAIN_ITEMS: Final = frozenset({"message", "reasoning", None})
_new = tuple.__new__  # for every chunk: a third of what the class itself takes
_NOT_PLAIN: Final = ("tool_calls", "function_call", "refusal", "audio", "images")


def piece_of(chunk: Any) -> Piece:
    """A chunk of a chat stream and what it carries."""
    choices = chunk.choices
    if not choices:
        return Piece(chunk, "", has_content=False)
    try:
        # Where LiteLLM's models keep these fields; by attribute each of them takes ten times as long.
        delta = choices[0].__pydantic_extra__["delta"].__pydantic_extra__
        text = delta["content"]
    except (AttributeError, KeyError, TypeError):
        delta, text = None, field(choices[0].delta, "content")
    if text and delta is not None and text.__class__ is str:
        plain = not (delta.get("tool_calls") or delta.get("function_call") or delta.get("audio"))
        return _new(Piece, (chunk, text, True, plain))
    return _unusual(chunk, text)


def event_piece(event: Any) -> Piece:
    """An event of the responses API and what it carries."""
    kind = kind_of(event)
    if not kind.endswith(".delta"):
        plain = kind != "response.output_item.added" or field(field(event, "item"), "type") in _PLAIN_ITEMS
        return Piece(event, "", has_content=False, is_plain=plain)
    delta = field(event, "delta")
    text = delta if kind == "response.output_text.delta" and isinstance(delta, str) else ""
    plain = kind in _PLAIN_DELTAS or kind.startswith("response.reasoning")
    return Piece(event, text, has_content=bool(delta), is_plain=plain or not delta)


def kind_of(event: Any) -> str:
    """An event's type as text."""
    return str(getattr(event.type, "value", event.type))


def _unusual(chunk: Any, text: Any) -> Piece:
    deltas = [choice.delta for choice in chunk.choices]
    plain = not any(field(delta, name) for delta in deltas for name in _NOT_PLAIN) and not any(
        (field(delta, "provider_specific_fields") or {}).get("refusal") for delta in deltas
    )
    return Piece(chunk, text if isinstance(text, str) else "", any(map(carries, deltas)), plain)
