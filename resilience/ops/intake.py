"""The intake: bodies with a limit on their size and their time, and a limit on how many are served at once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.requests import Request

MAX_BODY_BYTES: Final = 1_048_576
BODY_SECONDS: Final = 10.0


class IntakeError(Exception):
    """A request that is not served, and what its sender is told."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


async def read_json(request: Request, most: int, *, empty: Any = None) -> Any:
    """A request's body as JSON.

    Args:
        request: Whose body.
        most: Bytes that it may have.
        empty: What an absent body means; None: an error.

    Raises:
        IntakeError: It is too long, too slow, no JSON, or was sent as something else.
    """
    body = await _read(request, most)
    if not body and empty is not None:
        return empty
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A form of another site can send everything but this without asking first.
        raise IntakeError(415, "the body must be sent as Content-Type: application/json")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise IntakeError(400, "the body is no JSON") from None


async def _read(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:18]) > most:
        raise IntakeError(413, f"the body is longer than {most} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise IntakeError(413, f"the body is longer than {most} bytes")
    except TimeoutError:
        raise IntakeError(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise IntakeError(400, "the body broke off") from None
    return bytes(body)


class Places:
    """So many at once; whoever comes to a full house is told to come back."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self.taken = 0

    def __enter__(self) -> None:
        if self.taken >= self._most:
            raise IntakeError(503, f"{self._most} {self._what} are being served, no more are taken", retry_after=1)
        self.taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken -= 1
