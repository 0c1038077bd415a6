"""Blows: what a provider that is told to fail does to a call, and the exception that LiteLLM makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx
import litellm
from litellm.types.utils import LlmProviders
from litellm.utils import ProviderConfigManager

if TYPE_CHECKING:
    from collections.abc import Callable

_REQUEST: Final = httpx.Request("POST", "https://outage.invalid/v1")


class Gate:
    """Holds those that hang, in threads and tasks, until it opens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = False
        self._held: set[Future[None]] = set()

    def hold(self) -> Future[None]:
        """A future that is done when the gate is open."""
        held: Future[None] = Future()
        with self._lock:
            if self._is_open:
                held.set_result(None)
            else:
                self._held.add(held)
        return held

    def leave(self, held: Future[None]) -> None:
        """Wait no longer."""
        with self._lock:
            self._held.discard(held)

    def open(self) -> None:
        """Let everybody go, now and later."""
        with self._lock:
            self._is_open = True
            held = list(self._held)
        for one in held:
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile: nobody waits
                one.set_result(None)


@dataclass(frozen=True, slots=True)
class Blow:
    """What a struck call meets.

    Attributes:
        status: HTTP status of the answer; None: none comes.
        headers: Its headers.
        body: Its body, as the provider writes it.
        waits: Nothing comes until the caller's own timeout, or ``seconds``.
        seconds: How long a wait is at most.
        chunks: Of a stream, so many pieces come first; None: it fails before it opens.
        garbled: The body is no JSON.
    empty: An answer that holds nothing.
        told: Called when a call meets it.
        gate: What hangs is let go with a reset connection when it opens.
    """

    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    waits: bool = False
    seconds: float | None = None
    chunks: int | None = None
    garbled: bool = False
    empty: bool = False
    told: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    gate: Gate = field(default_factory=Gate, compare=False, repr=False)


def error_of(family: str, model: str, blow: Blow) -> Exception:
    """What LiteLLM raises for this answer of this provider: its own class, with the native error as the cause.

    Args:
        family: LiteLLM's name of the provider. One that it does not know gets httpx's exceptions.
        model: The model asked for.
        blow: What the provider does.
    """
    native = _native(family, model, blow)
    return native if family not in litellm.provider_list else _mapped(family, model, native)


def _mapped(family: str, model: str, native: Exception) -> Exception:
    try:
        try:
            raise native
        except type(native):  # as LiteLLM does it: what it makes of an error has that error as its context
            litellm.exception_type(model=model, original_exception=native, custom_llm_provider=family)
    except Exception as error:  # noqa: BLE001 (it raises what it has made)
        return error
    return native


def _native(family: str, model: str, blow: Blow) -> Exception:
    """What the provider's own part of LiteLLM raises, before LiteLLM makes one of its classes of it."""
    foreign = family not in litellm.provider_list
    if blow.waits:
        error: Exception = httpx.ReadTimeout("timed out: no answer (a resilience outage)", request=_REQUEST)
        if foreign:
            return TimeoutError(*error.args)
        return _caused(litellm.Timeout("Request timed out (a resilience outage)", model, family), error)
    if blow.garbled:
        unread = json.JSONDecodeError("Expecting value", blow.body, 0)
        return unread if foreign else _caused(_provider_error(family, model, 500, str(unread), ()), unread)
    if blow.status is None:
        error = httpx.ConnectError("connection refused (a resilience outage)", request=_REQUEST)
        if foreign:
            return _caused(ConnectionError(*error.args), error)
        return _caused(_provider_error(family, model, 500, f"Connection error. {error}", ()), error)
    if foreign:
        response = httpx.Response(blow.status, headers=blow.headers, text=blow.body, request=_REQUEST)
        return httpx.HTTPStatusError(f"status {blow.status}: {blow.body}", request=_REQUEST, response=response)
    return _provider_error(family, model, blow.status, blow.body, blow.headers)


def _provider_error(family: str, model: str, status: int, text: str, headers: tuple[tuple[str, str], ...]) -> Exception:
    config = None
    if family in LlmProviders._value2member_map_:
        config = ProviderConfigManager.get_provider_chat_config(model=model, provider=LlmProviders(family))
    config = config or litellm.OpenAIGPTConfig()
    error: Exception = config.get_error_class(error_message=text, status_code=status, headers=httpx.Headers(headers))
    return error


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def wait(blow: Blow, limit: float | None) -> None:
    """Hang for a thread: until the limit in seconds, or until the gate opens.

    Raises:
        httpx.ReadError: It opened.
    """
    held = blow.gate.hold()
    try:
        held.result(_seconds(blow, limit))
    except TimeoutError:
        return
    finally:
        blow.gate.leave(held)
    raise httpx.ReadError("connection reset: the outage is over", request=_REQUEST)


async def await_(blow: Blow, limit: float | None) -> None:
    """The same for asyncio."""
    held = blow.gate.hold()
    try:
        async with asyncio.timeout(_seconds(blow, limit)):
            await asyncio.wrap_future(held)
    except TimeoutError:
        return
    finally:
        blow.gate.leave(held)
    raise httpx.ReadError("connection reset: the outage is over", request=_REQUEST)


def _seconds(blow: Blow, limit: float | None) -> float | None:
    given = [seconds for seconds in (blow.seconds, limit) if seconds is not None]
    return min(given, default=None)


def break_of(blow: Blow) -> Exception:
    """What a stream raises that breaks."""
    kind = httpx.ReadTimeout if blow.waits else httpx.ReadError
    return kind("the stream broke off (a resilience outage)", request=_REQUEST)
