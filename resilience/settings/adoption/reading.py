"""Reading a Router's arguments: numbers in their many forms, what is wrong, and what has no counterpart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resilience.settings.complaints import path, refusal


@dataclass
class Reading:
    """What is learnt on the way through a Router's arguments."""

    arguments: Mapping[str, Any]
    wrong: list[str] = field(default_factory=list)
    unmapped: dict[str, str] = field(default_factory=dict)
    """Each argument that has no counterpart, with what happens instead, or nothing."""
    names: dict[str, str] = field(default_factory=dict)

    def error(self, loc: Sequence[str | int], sentence: str) -> None:
        """Something is wrong at ``loc``."""
        line = f"{path(loc)}: {sentence}"
        if line not in self.wrong:
            self.wrong.append(line)

    def leave_out(self, name: str, instead: str = "") -> None:
        """An argument has no counterpart; ``instead`` tells what happens in its place."""
        self.unmapped.setdefault(name, instead)

    def said(self, name: str) -> Any:
        """An argument, None where it was not given or says nothing."""
        value = self.arguments.get(name)
        return None if value is None or value in ({}, [], "") else value

    def mapping(self, name: str) -> dict[str, Any]:
        """An argument that is a mapping, or LiteLLM's pydantic model of one; empty where it was not given."""
        value = self.said(name)
        found = plain(value)
        if value is not None and found is None:
            self.error((name,), refusal(value, "a mapping"))
        return found or {}

    def number(self, name: str, value: Any, loc: Sequence[str | int] = ()) -> float | None:
        """A number that may have been written as a text, as LiteLLM allows. Others are left out or wrong."""
        if isinstance(value, str) and value.startswith("os.environ/"):
            self.leave_out(name, "a number from the environment")
            return None
        value = getattr(value, "read", value)  # httpx.Timeout: what it allows between two reads
        try:
            number = -1.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if 0 <= number < math.inf:
            return number
        self.error(loc or (name,), refusal(value, "a number, 0 or more"))
        return None

    def number_or_none(self, name: str) -> float | None:
        """An argument that is a number, None where it was not given."""
        value = self.said(name)
        return None if value is None else self.number(name, value)

    def whole_or_none(self, name: str) -> int | None:
        """An argument that is a whole number, None where it was not given."""
        value = self.said(name)
        return None if value is None else self.whole(name, value)

    def whole(self, name: str, value: Any, loc: Sequence[str | int] = ()) -> int | None:
        """The same for a whole number."""
        number = self.number(name, value, loc)
        if number is not None and number != int(number):
            self.error(loc or (name,), refusal(value, "a whole number, 0 or more"))
            return None
        return None if number is None else int(number)


def plain(value: Any) -> dict[str, Any] | None:
    """A mapping, or LiteLLM's pydantic model of one, as a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)
    plain = dump(exclude_none=True) if callable(dump) else None
    return plain if isinstance(plain, dict) else None
