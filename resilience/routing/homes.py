"""Homes: which target gave which answer, for calls that continue one and so cannot move."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from resilience.upstream import attempts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilience.routing.route import Route
    from resilience.upstream import Target

# An hour of traffic at three a second.
_REMEMBERED: Final = 10_000


class Homes:
    """The targets behind the last answers of the Responses API. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: OrderedDict[str, str] = OrderedDict()

    def remember(self, answer: Any) -> None:
        """Write down who gave an answer, or a stream of one."""
        identity, behind = _identity(answer), attempts(answer)
        if identity is not None and behind:
            with self._lock:
                self._targets[identity] = behind[-1].target
                if len(self._targets) > _REMEMBERED:
                    self._targets.popitem(last=False)

    def find(self, route: Route, params: Mapping[str, Any]) -> Target | None:
        """The one target of ``route`` that can take a call up, None for a call that continues nothing."""
        previous = params.get("previous_response_id")
        if previous is None:
            return None
        # An answer that another process has got: the route's first target is the best guess.
        home = self._targets.get(previous)
        return next((place.target for place in route.targets if place.target.name == home), route.targets[0].target)

    def renew_after_fork(self) -> None:
        """In a forked child: a fresh lock."""
        self._lock = threading.Lock()


def _identity(answer: Any) -> str | None:
    # A stream tells it in the events before its first text.
    begun = [getattr(chunk, "response", None) for chunk in getattr(answer, "waiting", ())]
    ids = (getattr(one, "id", None) for one in (answer, *begun))
    return next((identity for identity in ids if isinstance(identity, str)), None)
