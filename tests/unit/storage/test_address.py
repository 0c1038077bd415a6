"""Addresses: what is allowed, and that nothing of a wrong one is ever shown."""

from __future__ import annotations

import pytest

from resilience import Settings
from resilience.errors import ConfigurationError
from resilience.settings.storage import shown_address, split_address


@pytest.mark.parametrize(
    ("address", "url", "prefix"),
    [
        ("redis://host", "redis://host", "resilience"),
        ("valkey://me:pw@host:7000/2", "redis://me:pw@host:7000/2", "resilience"),
        ("valkeys://host/0?prefix=team-a", "rediss://host/0", "team-a"),
        ("rediss://host/0?ssl_ca_certs=/ca.pem&prefix=x", "rediss://host/0?ssl_ca_certs=%2Fca.pem", "x"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1", "resilience"),
    ],
)
def test_an_address_becomes_the_clients_and_the_prefix(address: str, url: str, prefix: str) -> None:
    assert split_address(address) == (url, prefix)
    assert Settings.load({"storage": address}).storage == address


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("host:6379", "this scheme is not allowed"),
        ("http://planted@host", "this scheme is not allowed"),
        ("redis://:planted@", "this address names no host"),
        ("redis://:planted@host:banana", "this is not an address"),
        ("redis://:planted@host:0", "port 0 is not allowed"),
        ("unix://", "a unix:// address needs the path of a socket"),
        ("redis://planted@host?prefix={x}", "prefix: allowed: 1 to 64"),
        ("", "this is not allowed; allowed: an address"),
        (5, "this is not allowed; allowed: an address"),
    ],
)
def test_a_wrong_one_says_what_is_allowed_and_shows_nothing(address: object, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load({"storage": address})
    assert f"storage: {told}" in str(caught.value)
    assert "planted" not in str(caught.value)


def test_people_see_no_password() -> None:
    assert shown_address("rediss://me:pw@host:7000/2?ssl_ca_certs=x") == "rediss://host:7000/2"
    assert shown_address("unix://me:pw@/run/valkey.sock") == "unix:///run/valkey.sock"
    assert "planted" not in repr(Settings.load({"storage": "redis://:planted@host"}))
