"""A route of two providers that answer with twenty words, and a reader that remembers what it was given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

import resilience

if TYPE_CHECKING:
    from resilience.outcome import Kind
    from resilience.testing import LoopbackProvider

WORDS = [f"word{number}" for number in range(20)]
TEXT = " ".join(WORDS)
PARTIAL = " ".join(WORDS[:5])
ASKED = [{"role": "user", "content": "planted-prompt"}]
SOON, PATIENT = 0.3, 10.0  # seconds: for faults that are silence, and for all others on a busy machine

MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def answer(body: dict[str, Any]) -> str:
    """The text, or what is left of it for one that is asked to write on."""
    asked = body.get("messages") or body.get("input")
    last = asked[-1] if isinstance(asked, list) else {}
    return TEXT.removeprefix(last["content"]) if last.get("role") == "assistant" else TEXT


def settings(
    first: LoopbackProvider,
    second: LoopbackProvider,
    *,
    dialect: str = "openai",
    seconds: float = PATIENT,
    **stream: str,
) -> dict[str, Any]:
    models = {
        "openai": ("openai/gpt-4o-mini", first.openai_base),
        "anthropic": ("anthropic/claude-haiku-4-5", first.url),
    }
    model, base = models[dialect]
    limits = {"first_token_seconds": seconds, "stall_seconds": seconds}
    targets = [
        {"model": model, "name": "first", "api_base": base, "api_key": "sk-1", "timeouts": limits, "prefill": False},
        {
            "model": "openai/gpt-4o",
            "name": "second",
            "api_base": second.openai_base,
            "api_key": "sk-2",
            "prefill": True,
        },
    ]
    return {"warm": False, "routes": {"chat": {"targets": targets, "num_retries": 0, "stream": stream}}}


@dataclass
class Read:
    """What a caller ended with."""

    stream: Any = None
    text: str = ""
    error: BaseException | None = None
    others: str = ""
    chunks: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> list[tuple[str, Kind]]:
        return [(attempt.target, attempt.kind) for attempt in resilience.attempts(self.stream)]

    def take(self, chunk: Any) -> None:
        text, others = said(chunk)
        self.text += text
        self.others += others
        self.chunks.append(text + others)


def said(chunk: Any) -> tuple[str, str]:
    """A chunk's text, and its thoughts and refusals."""
    if not hasattr(chunk, "choices"):
        return (chunk.delta if chunk.type == "response.output_text.delta" else ""), ""
    delta = chunk.choices[0].delta if chunk.choices else None
    refusal = (getattr(delta, "provider_specific_fields", None) or {}).get("refusal") or ""
    return getattr(delta, "content", None) or "", (getattr(delta, "reasoning_content", None) or "") + refusal


async def read(fb: resilience.MultiProviderFallback, mode: str, door: str = "completion", **params: Any) -> Read:
    """One streaming request, read to its end."""
    seen = Read()
    asked: Any = ASKED if door == "completion" else "planted-prompt"
    try:
        if mode == "sync":
            seen.stream = getattr(fb, door)("chat", asked, stream=True, **params)
            for chunk in seen.stream:
                seen.take(chunk)
        else:
            seen.stream = await getattr(fb, "a" + door)("chat", asked, stream=True, **params)
            async for chunk in seen.stream:
                seen.take(chunk)
    except Exception as error:
        seen.error = error
    return seen
