"""Replies: errors as JSON, streams that tell their end, and the headers that every answer carries."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import ConfigurationError
from resilience.ops.intake import IntakeError

try:
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse, Response, StreamingResponse
except ImportError as error:
    raise ConfigurationError("the ops app needs the extra: pip install 'litellm-resilience[ops]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import ValidationError
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from resilience.ops.gate import Refusal

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_LOG: Final = logging.getLogger("resilience.ops")


class Stream(StreamingResponse):
    """A stream that tells when it is over, however it ends."""

    def __init__(self, content: Any, over: Callable[[], None], **more: Any) -> None:
        super().__init__(content, **more)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


class Envelope:
    """Around every answer: the same headers, and an end to what nobody expected.

    An exception goes no further: whoever logs it would log its text, which may hold what was asked, or a key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 (told by its type, and answered where that is still possible)
            _LOG.error("the ops app failed with %s", type(error).__name__)
            if not started:
                await error_response(500, "something broke; the log names it")(scope, receive, sending)


async def refused(request: Request, error: Exception) -> Response:
    """An `IntakeError` as an answer."""
    del request
    assert isinstance(error, IntakeError)  # noqa: S101 (registered for it alone)
    response = error_response(error.status, error.message)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors in our form."""
    del request
    assert isinstance(error, HTTPException)  # noqa: S101 (registered for it alone)
    response = error_response(error.status_code, HTTPStatus(error.status_code).phrase.lower())
    response.headers.update(error.headers or {})
    return response


def error_response(status: int, message: str) -> Response:
    """A sentence and a status."""
    return JSONResponse({"error": message, "status": int(status)}, int(status))


def refusal_response(refusal: Refusal) -> Response:
    """Why somebody may not."""
    response = error_response(refusal.status, refusal.message)
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        response.headers["www-authenticate"] = "Bearer"
    if refusal.retry_after_seconds:
        response.headers["retry-after"] = str(math.ceil(refusal.retry_after_seconds))
    return response


def what_is_wrong(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    # Without the input itself: it is somebody's prompt.
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in wrong[:10])
