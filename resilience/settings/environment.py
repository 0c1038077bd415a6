"""Environment variables in settings: ``os.environ/NAME`` put in its place, and which names are missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from resilience.settings.complaints import path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resilience.settings.root import Settings

_REFERENCE = "os.environ/"


def resolve(value: Any, environ: Mapping[str, str] | None = None) -> Any:
    """A value with every ``os.environ/NAME`` in it replaced, as LiteLLM does it.

    A variable that is not set gives None, "true" and "false" become booleans, and a key ending in ``_ref``
    (LiteLLM's pointers to a secret, which are followed at use time) is left as written. It looks into
    mappings and lists.

    Args:
        value: A target's ``params``, its ``model``, or any part of them.
        environ: The variables, by default those of this process.
    """
    variables = os.environ if environ is None else environ
    if isinstance(value, str):
        if not value.startswith(_REFERENCE):
            return value
        found = variables.get(value.removeprefix(_REFERENCE))
        return {"true": True, "false": False}.get(found.strip().lower(), found) if found is not None else None
    if isinstance(value, dict):
        return {key: part if _is_pointer(key) else resolve(part, variables) for key, part in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(resolve(part, variables) for part in value)
    return value


def missing_variables(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables that settings ask for and that are not set, or are empty.

    Args:
        settings: Where to look.
        environ: The variables, by default those of this process.

    Returns:
        By the path that asks for it, such as ``routes.chat.targets[1].api_key``, the variable's name.
    """
    variables = os.environ if environ is None else environ
    asked = {}
    for name, route in settings.routes.items():
        for at, target in enumerate(route.targets):
            here = ("routes", name, "targets", at)
            for loc, variable in _references({"model": target.model, **target.params}, here):
                if not variables.get(variable):
                    asked[path(loc)] = variable
    return asked


def _references(value: Any, loc: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        if value.startswith(_REFERENCE):
            yield loc, value.removeprefix(_REFERENCE)
    elif isinstance(value, dict):
        for key, part in value.items():
            if not _is_pointer(key):
                yield from _references(part, (*loc, str(key)))
    elif isinstance(value, list | tuple):
        for at, part in enumerate(value):
            yield from _references(part, (*loc, at))


def _is_pointer(key: object) -> bool:
    return isinstance(key, str) and key.endswith("_ref")
