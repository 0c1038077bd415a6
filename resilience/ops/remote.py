"""A running server, as the command line talks to it."""

from __future__ import annotations

import http.client
import json
import os
import re
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
_ALLOWED: Final = "http://HOST:PORT or https://HOST:PORT, with a path where the app is mounted"
_STATUS: Final = ("headline", "at", "routes", "breakers")
_SNAPSHOT: Final = ("providers", "targets")
_BREAKER: Final = ("role", "name", "state", "reason")


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
        host = _host(self.url, "--url" if url else URL_VARIABLE)
        tokens = sorted(read_tokens(environment.get(VARIABLE)), key=lambda token: token.role)
        self._token = tokens[-1].secret if tokens else None
        proxies: dict[str, str] | None = {} if is_loopback(host) else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect)

    def status(self) -> dict[str, Any]:
        """Where everything stands."""
        document: dict[str, Any] = self._ask("status", wanted=_STATUS)
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
        return self._ask(f"breakers/{found}/{quote(name, safe='/')}/{action}", dict(body or {}), wanted=_BREAKER)

    def _kind(self, name: str) -> str:
        snapshot = self._ask("breakers", wanted=_SNAPSHOT)
        kinds = [kind for kind in ("provider", "target") if name in snapshot[f"{kind}s"]]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            raise RemoteError(f"{name!r} is a provider and a target; say which with --kind")
        known = ", ".join(sorted({*snapshot["providers"], *snapshot["targets"]})) or "none"
        raise RemoteError(f"there is no breaker {name!r}; known: {known}")

    def _ask(self, path: str, body: Mapping[str, Any] | None = None, *, wanted: tuple[str, ...]) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", method="GET" if body is None else "POST")  # noqa: S310 (checked above)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                sent = answer.read(_MOST_BYTES)
                is_cut = bool(answer.length) and len(sent) < _MOST_BYTES  # a read with a limit is silent about it
        except urllib.error.HTTPError as error:
            raise RemoteError(f"{self.url} says: {_told(error)}") from None
        except http.client.IncompleteRead:
            is_cut = True
        except http.client.HTTPException:
            raise RemoteError(f"{self.url} is no resilience server: what answers there does not speak HTTP") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise RemoteError(f"{self.url} cannot be reached: {why}; start it with: resilience serve FILE") from None
        if is_cut:
            raise RemoteError(f"{self.url} broke off in the middle of its answer")
        try:
            document = json.loads(sent)
        except (ValueError, RecursionError):
            raise RemoteError(f"{self.url} is no resilience server: its /{path} is no JSON") from None
        missing = [key for key in wanted if not isinstance(document, dict) or key not in document]
        if missing:
            raise RemoteError(f"{self.url} is no resilience server: its /{path} has no {', '.join(missing)}")
        return document


def _host(url: str, source: str) -> str:
    """The host of an address.

    Raises:
        ConfigurationError: It is no address, or one that nobody can ask. A password in it is not shown.
    """
    if "@" in url:
        raise ConfigurationError(
            f"{source}: a name or a password in the address is not allowed; put the token into {VARIABLE}"
        )
    refused = ConfigurationError(f"{source}: {url!r} is not allowed; allowed: {_ALLOWED}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # no number, or one that no port has; half an IPv6 address
        raise refused from None
    if parts.scheme not in {"http", "https"} or not host or port == 0 or not re.fullmatch(r"[!-~]+", url):
        raise refused
    return host


def _told(error: urllib.error.HTTPError) -> str:
    try:
        told = json.loads(error.read(65_536))["error"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
    return str(told)
