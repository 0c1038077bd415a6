"""Held: which breakers this context has a permit of, so that a guard inside a guard asks nobody twice."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from contextvars import Token


class Holding:
    """Marks breakers as held while its block runs.

    A task that is started inside the block inherits the mark, and may outlive the block: the mark says itself
    when it is over, so that a background task is not let through unasked for ever.

    Attributes:
        is_live: Whether its block is still running.
    """

    __slots__ = ("_breakers", "_outer", "_token", "is_live")

    def __init__(self, *breakers: object) -> None:
        self._breakers = breakers
        self.is_live = False
        self._outer: Holding | None = None
        self._token: Token[Holding | None] | None = None

    def __enter__(self) -> Self:
        outer = HELD.get()
        while outer is not None and not outer.is_live:  # a task may have begun in a block that is over by now
            outer = outer._outer  # noqa: SLF001 (its own class)
        self._outer = outer
        self.is_live = True
        self._token = HELD.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_live = False
        if self._token is not None:
            try:  # noqa: SIM105 (once per attempt, and `suppress` costs more than the rest)
                HELD.reset(self._token)
            except ValueError:
                pass  # a generator closed from another context cannot restore its own: the mark is over there anyway

    def holds(self, breaker: object) -> bool:
        """Whether this mark, or one around it, is live and names ``breaker``."""
        if self.is_live and any(held is breaker for held in self._breakers):
            return True
        return self._outer is not None and self._outer.holds(breaker)


HELD: Final[ContextVar[Holding | None]] = ContextVar("resilience_held", default=None)


def is_held(breaker: object) -> bool:
    """Whether this context runs inside a permit of ``breaker``."""
    mark = HELD.get()
    return mark is not None and mark.holds(breaker)
