"""Answers: what stands in LiteLLM's whole answers, and whether that is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilience.upstream import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Whatever a message or a delta may carry besides text: any of it is an answer.
_CARRIERS = (
    "content",
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
    "thinking_blocks",
    "audio",
    "images",
    "annotations",
)
# Looking up a member of an enumeration costs ten times a module's own name, and this is once per answer.
_OF_DATA: Final = frozenset({Operation.EMBEDDING, Operation.IMAGE})
_RESPONSES: Final = Operation.RESPONSES


def field(of: Any, name: str) -> Any:
    """A field of an object or a dict; None where there is none."""
    return of.get(name) if isinstance(of, dict) else getattr(of, name, None)


def carries(part: Any) -> bool:
    """Whether a message or a delta of a stream holds anything for its reader."""
    if any(field(part, name) for name in _CARRIERS):
        return True
    specific = field(part, "provider_specific_fields")
    # LiteLLM moves the refusal there.
    return isinstance(specific, dict) and bool(specific.get("refusal"))


def is_empty(answer: Any, operation: Operation, params: Mapping[str, Any]) -> bool:
    """Whether an answer says that it is finished and holds nothing.

    After the result of a tool, a model may have nothing to add: that is no empty answer.
    """
    if operation in _OF_DATA:
        return not field(answer, "data")
    if operation is _RESPONSES:
        return _is_empty_response(answer) and not _follows_tool(params.get("input"))
    choices = field(answer, "choices") or ()
    if choices and field(field(choices[0], "message"), "content"):
        return False  # the usual case, at a fifth of the cost
    if any(field(choice, "finish_reason") not in {"stop", None} for choice in choices):
        return False
    if any(carries(field(choice, "message")) or field(choice, "text") for choice in choices):
        return False
    return not _follows_tool(params.get("messages"))


def _is_empty_response(answer: Any) -> bool:
    if field(answer, "status") not in {"completed", None}:
        return False
    for item in field(answer, "output") or ():
        if field(item, "type") != "message":
            return False
        if any(field(part, "text") or field(part, "refusal") for part in field(item, "content") or ()):
            return False
    return True


def _follows_tool(asked: Any) -> bool:
    last = asked[-1] if isinstance(asked, (list, tuple)) and asked else None
    return field(last, "role") in {"tool", "function"} or field(last, "type") == "function_call_output"


def text_of(answer: Any) -> str:
    """The text of an answer: the first choice's content, or the text parts of a response, joined."""
    choices = field(answer, "choices")
    if choices:
        return _joined(field(field(choices[0], "message"), "content") or field(choices[0], "text"))
    return "".join(
        _joined(field(item, "content")) for item in field(answer, "output") or () if field(item, "type") == "message"
    )


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: Iterable[Any] = content if isinstance(content, (list, tuple)) else ()
    return "".join(text for part in parts if isinstance(text := field(part, "text"), str))
