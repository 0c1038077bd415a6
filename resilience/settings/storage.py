"""The store's address: which schemes there are, what may stand in one, and a form of it that shows no password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from resilience.settings.complaints import finished

SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
DEFAULT_PREFIX: Final = "resilience"
_ALLOWED: Final = "an address such as redis://host:6379/0 (also rediss://, valkey://, valkeys://, unix://)"
_PREFIX: Final = re.compile(r"[\w.:/-]{1,64}")


def checked_address(value: object) -> object:
    """A validator: an address of a store, or null. Its errors show nothing of the address: it may hold a password."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise finished(f"this is not allowed; allowed: {_ALLOWED}")
    try:
        split_address(value)
    except ValueError as error:
        sentence = str(error)
    else:
        return value
    raise finished(sentence)


def split_address(address: str) -> tuple[str, str]:
    """An address as the redis client takes it, and the prefix of the keys (``?prefix=`` in the address).

    Raises:
        ValueError: It is no such address; the message shows nothing of it.
    """
    try:
        parts = urlsplit(address.strip())
        given = parse_qsl(parts.query, keep_blank_values=True)
        host, port, path = parts.hostname, parts.port, parts.path
    except ValueError:
        raise ValueError(f"this is not an address; allowed: {_ALLOWED}") from None
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ValueError(f"this scheme is not allowed; allowed: {_ALLOWED}")
    if scheme == "unix" and path in {"", "/"}:
        raise ValueError("a unix:// address needs the path of a socket, such as unix:///run/valkey.sock")
    if scheme != "unix" and not host:
        raise ValueError(f"this address names no host; allowed: {_ALLOWED}")
    if port == 0:
        raise ValueError("port 0 is not allowed; allowed: 1 to 65535")
    prefix = dict(given).get("prefix", DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("prefix: allowed: 1 to 64 letters, digits, and . : / _ -")
    query = urlencode([(key, text) for key, text in given if key != "prefix"])
    # By hand: urlunsplit drops the empty host of unix:///path only where it must not.
    rest = urlunsplit(("", "", parts.path, query, ""))
    return f"{scheme}://{parts.netloc}{rest}", prefix


def shown_address(address: str) -> str:
    """The address without name, password and options, for people."""
    parts = urlsplit(address)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
