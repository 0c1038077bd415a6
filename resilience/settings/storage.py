"""The store's address: which schemes there are, what may stand in one, and a form of it that shows no password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from resilience.settings.complaints import finished, nearest

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
_OPTIONS: Final = ("prefix", "db", "username", "password", "client_name")
_TLS_OPTIONS: Final = (
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
)
"""What the redis client takes of TLS. Its other options stand in no address: limits and formats are ours to choose."""
_OPTION_NAME: Final = re.compile(r"[a-z_]{1,24}")
_VALUES: Final = {
    "prefix": (_PREFIX, "1 to 64 letters, digits, and . : / _ -"),
    "db": (re.compile(r"[0-9]{1,9}"), "a database's number"),
    "client_name": (re.compile(r"[!-~]{1,64}"), "1 to 64 printable ASCII characters without spaces"),
    "ssl_cert_reqs": (re.compile(r"none|optional|required"), "none, optional or required"),
    "ssl_check_hostname": (re.compile(r"true|false", re.IGNORECASE), "true or false"),
}


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
    if parts.fragment or any("@" in part for part in (path, *(name for name, _ in given)) if scheme != "unix"):
        raise ValueError(
            "a user's or password's special characters must be percent-encoded: # as %23, / as %2F, ? as %3F"
        )
    if scheme != "unix" and not re.fullmatch(r"/?|/[0-9]{1,9}/?", path):
        raise ValueError("the path must be a database's number, as in redis://host:6379/0")
    _check_options(given, has_tls=scheme == "rediss")
    prefix = dict(given).get("prefix", DEFAULT_PREFIX)
    query = urlencode([(key, text) for key, text in given if key != "prefix"])
    # By hand: urlunsplit drops the empty host of unix:///path only where it must not.
    rest = urlunsplit(("", "", parts.path, query, ""))
    return f"{scheme}://{parts.netloc}{rest}", prefix


def _check_options(given: list[tuple[str, str]], *, has_tls: bool) -> None:
    """Refuse what the redis client would meet with a traceback, and what it would quietly ignore."""
    allowed = (*_OPTIONS, *(_TLS_OPTIONS if has_tls else ()))
    seen = set()
    for name, text in given:
        # What looks like no option may be a piece of a password that was not percent-encoded.
        called = f"option {name}" if _OPTION_NAME.fullmatch(name) else "an option"
        if name in _TLS_OPTIONS and not has_tls:
            raise ValueError(f"{called}: allowed with rediss:// and valkeys:// only")
        if name not in allowed:
            near = nearest(name, allowed)
            guess = f"did you mean {near}? " if near else ""
            raise ValueError(f"{called} is not allowed; {guess}allowed: {', '.join(allowed)}")
        if name in seen:
            raise ValueError(f"{called} is given twice")
        seen.add(name)
        pattern, what = _VALUES.get(name, (None, ""))
        if pattern is not None and not pattern.fullmatch(text):
            raise ValueError(f"{name}: allowed: {what}")


def shown_address(address: str) -> str:
    """The address without name, password and options, for people."""
    parts = urlsplit(address)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
