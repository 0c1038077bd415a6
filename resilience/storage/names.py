"""Names: what the processes of a fleet say of the breakers that they have, also of those that have never moved."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from resilience.storage.row import read_json


@dataclass(frozen=True, slots=True)
class Name:
    """One breaker that some process has.

    Attributes:
        id: Role and name, the same in every process.
        name: What people call it.
        role: ``provider`` or ``target``.
    """

    id: str
    name: str
    role: str


def write_name(name: Name) -> str:
    """A name as it stands in the store: equal ones are one text, whoever wrote them."""
    return json.dumps(asdict(name), sort_keys=True, separators=(",", ":"))


def read_name(raw: bytes | str) -> Name | None:
    """A name from the store; None where it is garbage. What a newer version says besides is not ours to read."""
    found = read_json(raw)
    if found is None:
        return None
    parts = [found.get(key) for key in ("id", "name", "role")]
    if not all(isinstance(part, str) and part for part in parts):
        return None
    return Name(*map(str, parts))
