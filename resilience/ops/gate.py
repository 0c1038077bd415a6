"""The gate: who may look, who may steer. Without a token only this machine may do either."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError
from resilience.ops.guesses import Guesses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from resilience.clock import Clock

VARIABLE: Final = "RESILIENCE_TOKEN"
COOKIE: Final = "resilience_session"
SESSION_SECONDS: Final = 12 * 3600
SYNTAX: Final = "admin:TOKEN for full rights, read:TOKEN for looking only, several separated by commas"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# A proxy in front of us makes everybody look local.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class Role(IntEnum):
    """What somebody may do. Each may do what the one before may."""

    READ = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and what it allows."""

    role: Role
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused, and for how many seconds (0: until it is another one)."""

    status: int
    message: str
    retry_after_seconds: float = 0.0


def read_tokens(text: str | None) -> tuple[Token, ...]:
    """Read tokens as ``RESILIENCE_TOKEN`` holds them: ``admin:s3cret,read:dashboard``. A bare one is an admin's.

    Raises:
        ConfigurationError: A role is unknown or a token is empty. The message shows no token.
    """
    tokens = []
    for number, part in enumerate((text or "").split(","), start=1):
        entry = part.strip()
        if not entry:
            continue
        name, colon, secret = entry.partition(":")
        if not colon:
            name, secret = "admin", entry
        try:
            role = Role[name.strip().upper()]
        except KeyError:
            raise ConfigurationError(
                f"{VARIABLE}: entry {number} starts with a role that is not known; allowed: {SYNTAX}"
            ) from None
        secret = secret.strip()
        if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise ConfigurationError(
                f"{VARIABLE}: entry {number} holds no usable token; allowed: printable ASCII without spaces and commas"
            )
        tokens.append(Token(role, secret))
    if text is not None and text.strip() and not tokens:
        raise ConfigurationError(f"{VARIABLE}: {text.strip()!r} holds no token; allowed: {SYNTAX}")
    return tuple(tokens)


def is_loopback(host: str | None) -> bool:
    """Whether an address or a host's name means this machine."""
    if not host:
        return False
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Gate:
    """Decides about requests.

    Args:
        tokens: Who may do what. None of them: this machine may do everything, and nobody else anything.
        clock: Where time comes from.
    """

    def __init__(self, tokens: Sequence[Token] = (), *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._tokens = tuple(tokens)
        self._clock = clock
        self._guesses = Guesses(clock)

    @property
    def needs_token(self) -> bool:
        """Whether somebody has to sign in."""
        return bool(self._tokens)

    def role(self, request: Request) -> Role | None:
        """What the sender of a request may do, None: nothing."""
        if not self._tokens:
            return Role.ADMIN if self._local_problem(request) is None else None
        bearer = _bearer(request)
        if bearer is not None:
            return self.role_of(bearer)
        return self._session_role(request.cookies.get(COOKIE))

    def refusal(self, request: Request, needed: Role) -> Refusal | None:
        """Why the request is refused, None: it may pass."""
        if not self._tokens:
            problem = self._local_problem(request)
            if problem is not None:
                return Refusal(403, problem)
        else:
            role = self.role(request)
            if role is None and _bearer(request) is not None:
                return self.unknown()
            if role is None:
                return Refusal(
                    401, "a token is needed: send it as 'Authorization: Bearer TOKEN', or sign in on the page"
                )
            if role < needed:
                return Refusal(403, "this token may only look; an admin's token is needed")
        if request.method not in _SAFE_METHODS and not self._is_deliberate(request):
            return Refusal(403, "this request comes from another site; send it from the page itself or with a token")
        return None

    def unknown(self) -> Refusal:
        """The refusal of a token that is not known."""
        if seconds := self._guesses.wrong():
            return Refusal(429, "too many wrong tokens; a right one is taken at any time", seconds)
        return Refusal(401, "this token is not known")

    def role_of(self, secret: str) -> Role | None:
        """The role of a token, in the same time whatever it is."""
        found: Role | None = None
        given = _digest(secret)
        for token in self._tokens:
            if hmac.compare_digest(_digest(token.secret), given):
                found = token.role if found is None else max(found, token.role)
        return found

    def session(self, secret: str) -> str | None:
        """A cookie's value for a token that is known: signed, and good for half a day. Nothing is kept."""
        if self.role_of(secret) is None:
            return None
        expires = str(int(self._clock.now().timestamp()) + SESSION_SECONDS)
        return f"{expires}.{_sign(secret, expires)}"

    def _session_role(self, value: str | None) -> Role | None:
        expires, _, signature = (value or "").partition(".")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16):
            return None
        found: Role | None = None
        for token in self._tokens:
            if hmac.compare_digest(_sign(token.secret, expires).encode(), signature.encode("utf-8", "replace")):
                found = token.role if found is None else max(found, token.role)
        return found if int(expires) > self._clock.now().timestamp() else None

    @staticmethod
    def _local_problem(request: Request) -> str | None:
        # Another site's page can make a browser on this machine ask us under a name of its own: hence the Host.
        client = request.client.host if request.client is not None else None
        host = _split(f"//{request.headers.get('host', '')}").hostname
        if is_loopback(client) and is_loopback(host) and not any(name in request.headers for name in _FORWARDED):
            return None
        return f"without a token only this machine may ask, directly and by the name localhost; set {VARIABLE}"

    @staticmethod
    def _is_deliberate(request: Request) -> bool:
        """A token in the header is on purpose; a browser says where it comes from; what says nothing is none."""
        if _bearer(request) is not None:
            return True
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site in {"same-origin", "none"}
        origin = request.headers.get("origin")
        return origin is None or _split(origin).netloc.lower() == request.headers.get("host", "").lower()


def _split(address: str) -> SplitResult:
    """Its parts; what no browser would send, such as half an IPv6 address, has none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _bearer(request: Request) -> str | None:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def _sign(secret: str, expires: str) -> str:
    return hmac.new(_digest(secret), f"resilience-session:{expires}".encode(), hashlib.sha256).hexdigest()
