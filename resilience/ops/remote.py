"""A running server, as the command line talks to it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from resilience.errors import ConfigurationError, ResilienceError
from resilience.ops.gate import VARIABLE, is_loopback, read_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL: Final = "http://127.0.0.1:8000"
URL_VARIABLE: Final = "RESILIENCE_URL"
_SECONDS: Final = 10.0
_MOST_BYTES: Final = 20_000_000


class RemoteError(ResilienceError):
    """The server cannot be reached, or says no."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Nobody is sent on to another host with our token in hand."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Remote:
    """A running `resilience serve`, or wherever the ops app is mounted.

    Args:
        url: Its address. Default: ``RESILIENCE_URL``, else http://127.0.0.1:8000.
        environment: Where ``RESILIENCE_TOKEN`` stands; the one with the most rights is sent.

    Raises:
        ConfigurationError: The address is none.
    """

    def __init__(self, url: str | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self.url = (url or environment.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(f"--url: {self.url!r} is not allowed; allowed: http://HOST:PORT or https://...")
        tokens = sorted(read_tokens(environment.get(VARIABLE)), key=lambda token: token.role)
        self._token = tokens[-1].secret if tokens else None
        proxies: dict[str, str] | None = {} if is_loopback(parts.hostname) else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)

    def status(self) -> dict[str, Any]:
        """Where everything stands."""
        document: dict[str, Any] = self._ask("status")
        return document

    def steer(self, action: str, name: str, kind: str | None = None, body: Mapping[str, Any] | None = None) -> Any:
        """Isolate or reset one breaker.

        Args:
            action: ``isolate`` or ``reset``.
            name: The breaker's.
            kind: ``provider`` or ``target``; None: whichever has that name.
            body: What goes along.

        Raises:
            RemoteError: The server says no, or does not know the name.
        """
        found = kind or self._kind(name)
        return self._ask(f"breakers/{found}/{quote(name, safe='/')}/{action}", dict(body or {}))

    def _kind(self, name: str) -> str:
        snapshot = self._ask("breakers")
        kinds = [kind for kind in ("provider", "target") if name in snapshot[f"{kind}s"]]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            raise RemoteError(f"{name!r} is a provider and a target; say which with --kind")
        known = ", ".join(sorted({*snapshot["providers"], *snapshot["targets"]})) or "none"
        raise RemoteError(f"there is no breaker {name!r}; known: {known}")

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", method="GET" if body is None else "POST")  # noqa: S310 (checked above)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                return json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            raise RemoteError(f"{self.url} says: {_told(error)}") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise RemoteError(f"{self.url} cannot be reached: {why}; start it with: resilience serve FILE") from None


def _told(error: urllib.error.HTTPError) -> str:
    try:
        told = json.loads(error.read(65_536))["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
    return str(told)
