"""A Router's fallbacks: which group follows which, and after what kind of failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilience.settings.complaints import refusal

if TYPE_CHECKING:
    from resilience.settings.adoption.reading import Reading


@dataclass
class Followers:
    """For each group the groups that follow it; "*" stands for every group without an entry of its own."""

    usual: dict[str, list[Any]]
    context: dict[str, list[Any]]
    content: dict[str, list[Any]]

    def after(self, name: str, table: Mapping[str, list[Any]]) -> list[Any]:
        """What follows a group by one of the tables: names, or mappings with a name as ``model``."""
        return table.get(name, table.get("*", []))


def followers_of(fallbacks: Any, reading: Reading) -> Followers:
    """Read all four of a Router's arguments about fallbacks."""
    usual = _table("fallbacks", fallbacks, reading)
    default = reading.said("default_fallbacks")
    if default is not None:
        # The Router appends them as the entry for "*".
        usual.setdefault("*", []).extend(_entries(("default_fallbacks",), default, reading))
    return Followers(
        usual,
        _table("context_window_fallbacks", reading.said("context_window_fallbacks"), reading),
        _table("content_policy_fallbacks", reading.said("content_policy_fallbacks"), reading),
    )


def _table(name: str, given: Any, reading: Reading) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {}
    if not given:
        return table
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        reading.error((name,), refusal(given, 'a list such as [{"group": ["next group"]}]'))
        return table
    for at, item in enumerate(given):
        if isinstance(item, str):  # a bare name follows every group
            table.setdefault("*", []).append(item)
        elif isinstance(item, Mapping):
            for group, entries in item.items():
                table.setdefault(str(group), []).extend(_entries((name, at, str(group)), entries, reading))
        else:
            reading.error((name, at), refusal(item, 'a mapping such as {"group": ["next group"]}'))
    return table


def _entries(loc: tuple[str | int, ...], given: Any, reading: Reading) -> list[Any]:
    entries = [given] if isinstance(given, str | Mapping) else given
    if not isinstance(entries, Sequence):
        reading.error(loc, refusal(given, "a list of groups"))
        return []
    found = []
    for at, entry in enumerate(entries):
        named = entry.get("model") if isinstance(entry, Mapping) else entry
        if isinstance(named, str) and named.strip():
            found.append(entry)
        else:
            reading.error((*loc, at), "required: a group's name, or a mapping with its name as model")
    return found
