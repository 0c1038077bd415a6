"""What people hold in their hands: breakers by name, and names that know what they name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, Self

from resilience.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resilience.breaker.circuit import CircuitBreaker
    from resilience.upstream import Target


# Callers' own keys make thousands of targets: an error stays readable, and is found in milliseconds.
_SHOWN = 20
_SEARCHED = 500


class _HasBreaker(Protocol):
    breaker: CircuitBreaker


class BreakerView(Mapping[str, "CircuitBreaker"]):
    """Breakers by name, live. An unknown name is an error that lists the known ones."""

    def __init__(self, role: str, entries: Mapping[str, _HasBreaker]) -> None:
        self._role = role
        self._entries = entries

    def __getitem__(self, name: str) -> CircuitBreaker:
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownNameError(self._unknown(name))
        return entry.breaker

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{len(self)} {self._role} breakers: {', '.join(self)}>"

    def _unknown(self, name: str) -> str:
        names = sorted(self._entries)
        shown = ", ".join(names[:_SHOWN]) or "none"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        near = difflib.get_close_matches(str(name), names[:_SEARCHED], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"there is no {self._role} {name!r}; {hint}known {self._role}s: {shown}{more}"


class TargetName(str):
    """A target's name, a plain string that also knows its provider and model."""

    __slots__ = ("model", "provider")

    model: str
    provider: str

    def __new__(cls, target: Target) -> Self:
        """Name ``target``."""
        name = super().__new__(cls, target.name)
        name.model, name.provider = target.model, target.provider
        return name

    @property
    def name(self) -> str:
        """The name itself."""
        return str(self)
