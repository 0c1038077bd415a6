"""Logs: every event as one structlog line, such as ``resilience.circuit.opened`` with the event's own fields."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from resilience.events import (
    AttemptIgnored,
    AttemptSucceeded,
    BudgetExhausted,
    CircuitClosed,
    CircuitHalfOpened,
    FallbackTaken,
    HedgeStarted,
    PermitRefused,
    StorageRestored,
    TargetOnTime,
)

if TYPE_CHECKING:
    from resilience.events import Event

# What a person on call wants to see is a warning. Everything that is not named here is one.
_LEVELS: Final[dict[type[Event], int]] = {
    AttemptSucceeded: logging.DEBUG,
    AttemptIgnored: logging.DEBUG,
    PermitRefused: logging.DEBUG,
    HedgeStarted: logging.DEBUG,
    CircuitHalfOpened: logging.INFO,
    CircuitClosed: logging.INFO,
    TargetOnTime: logging.INFO,
    StorageRestored: logging.INFO,
    FallbackTaken: logging.INFO,
    BudgetExhausted: logging.INFO,
}
_SHAPES: Final[dict[type[Event], tuple[str, tuple[str, ...]]]] = {}
_STANDARD: Final = logging.getLogger("resilience")


def log_event(event: Event) -> None:
    """The default sink.

    Where the application has configured structlog, lines go there. Where it has not, they go to the standard
    library's logger ``resilience``, so that a library never prints what nobody asked for: warnings and above
    reach stderr as from any other library.
    """
    kind = type(event)
    level = _LEVELS.get(kind, logging.WARNING)
    # Importing structlog takes a fifth of `import resilience`. Whoever has configured it has imported it.
    structlog: Any = sys.modules.get("structlog")
    configured = structlog is not None and structlog.is_configured()
    if not configured and not _STANDARD.isEnabledFor(level):
        return
    shape = _SHAPES.get(kind)
    if shape is None:
        shape = _SHAPES[kind] = _shape(kind)
    name, keys = shape
    # A kind by its plain word, so that every renderer shows the same.
    values = {key: str(value) if isinstance(value := getattr(event, key), StrEnum) else value for key in keys}
    if configured:
        structlog.get_logger("resilience").log(level, name, **values)
    else:
        # As structlog's KeyValueRenderer writes it.
        _STANDARD.log(level, "event=%r %s", name, " ".join(f"{key}={value!r}" for key, value in values.items()))


def _shape(kind: type[Event]) -> tuple[str, tuple[str, ...]]:
    words = re.findall(r"[A-Z][a-z]*", kind.__name__)
    name = f"resilience.{words[0].lower()}.{'_'.join(word.lower() for word in words[1:])}"
    return name, tuple(field.name for field in fields(kind))
