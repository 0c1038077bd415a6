"""Leaving: when a server that was told to stop does so, and what it tells those whom it has no time left for."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

from resilience.ops.replies import HEADERS, error_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTICE_SECONDS: Final = 5.0
WATCHED_SECONDS: Final = 60.0
"""Whoever has asked for readiness in so many seconds will ask again, and is given the time to."""
_TERMINAL: Final = 0


def notice(sig: int, seconds: float, since_asked: float | None) -> float:
    """How long a server says that it will leave, and serves on, before it does.

    Args:
        sig: The signal that told it to.
        seconds: How long at most.
        since_asked: So many seconds ago somebody asked whether it is ready; None: nobody ever has.
    """
    if since_asked is None or since_asked > WATCHED_SECONDS:
        return 0.0  # nobody would see it
    if sig == signal.SIGINT and os.isatty(_TERMINAL):
        return 0.0  # Ctrl-C: a person waits
    return seconds


class Farewell:
    """Around an app: a request that is cut off when the server leaves is answered, instead of logged as a crash.

    Args:
        app: What is around.
        is_leaving: Whether the server is. A request that is cut off for any other reason is none of ours.
    """

    def __init__(self, app: ASGIApp, is_leaving: Callable[[], bool]) -> None:
        self._app = app
        self._is_leaving = is_leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if not self._is_leaving():
                raise
            if not started:
                response = error_response(503, "the server leaves and has no time left for this request; ask again")
                response.headers.update({**HEADERS, "retry-after": "1"})
                await response(scope, receive, sending)
