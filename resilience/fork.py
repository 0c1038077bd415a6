"""Fork: whatever holds a lock renews it in the child, where the thread that held it does not exist."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Renewable(Protocol):
    """Something with locks, or with slots that only the parent can free."""

    def renew_after_fork(self) -> None:
        """Replace locks and forget what only the parent process can finish."""
        ...


_RENEWABLE: Final[weakref.WeakSet[Renewable]] = weakref.WeakSet()


def renew_in_children(thing: Renewable) -> None:
    """Have ``thing.renew_after_fork()`` called in every forked child, as long as ``thing`` lives."""
    _RENEWABLE.add(thing)


def _renew_all() -> None:
    for thing in list(_RENEWABLE):
        thing.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
