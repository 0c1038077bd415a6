"""Usage: how many tokens an answer, or a chunk of one, says that it took."""

from __future__ import annotations

from typing import Any, NamedTuple


class Usage(NamedTuple):
    """Tokens of one answer."""

    input_tokens: int
    output_tokens: int


def usage_of(answer: Any) -> Usage | None:
    """Read it, None where the answer says nothing.

    Args:
        answer: LiteLLM's answer, a chunk, or an event of the Responses API, whose last one carries the response.
    """
    usage = getattr(answer, "usage", None)
    if usage is None:
        inner = getattr(answer, "response", None)
        usage = getattr(inner, "usage", None) if inner is not None else None
    if usage is None:
        return None
    return Usage(_count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens"))


def _count(usage: Any, *names: str) -> int:
    for name in names:
        value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
        if isinstance(value, int) and value >= 0:
            return value
    return 0
