"""An upstream that answers at once, so that only the engine is left to measure."""

from __future__ import annotations

from typing import Any

from resilience.outcome import Kind, Outcome


class _Answer:
    def __init__(self) -> None:
        self._hidden_params: dict[str, Any] = {}


class ImmediateUpstream:
    """`resilience.upstream.Upstream` without a provider, a network or LiteLLM. It has no streams."""

    def __init__(self) -> None:
        self.answer = _Answer()

    def call(self, *_: Any) -> Any:
        """Answer."""
        return self.answer

    async def acall(self, *_: Any) -> Any:
        """Answer."""
        return self.answer

    def open(self, *_: Any) -> Any:
        """No benchmark asks for a stream."""
        raise TypeError("this upstream has no streams")

    async def aopen(self, *_: Any) -> Any:
        """No benchmark asks for a stream."""
        raise TypeError("this upstream has no streams")

    def classify(self, error: BaseException) -> Outcome:
        """Every failure here is a refused connection."""
        return Outcome(Kind.CONNECTION, error)

    def judge(self, *_: Any) -> Kind:
        """Every answer will do."""
        return Kind.SUCCESS

    def cost_usd(self, _: Any) -> float | None:
        """Nothing has a price."""
        return None

    def text_of(self, _: Any) -> str:
        """Nothing has a text."""
        return ""

    def context_window(self, _: Any) -> int | None:
        """Nobody knows."""
        return None

    def attach(self, answer: Any, attempts: tuple[Any, ...]) -> None:
        """As LiteLLM's upstream does it."""
        answer._hidden_params["resilience"] = attempts  # noqa: SLF001 (LiteLLM's own place for such things)
