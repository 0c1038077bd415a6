"""Addresses: what is allowed, and that nothing of a wrong one is ever shown."""

from __future__ import annotations

from inspect import signature

import pytest
from redis.asyncio import Redis, SSLConnection

from resilience import Settings
from resilience.errors import ConfigurationError
from resilience.settings.storage import _TLS_OPTIONS, shown_address, split_address


@pytest.mark.parametrize(
    ("address", "url", "prefix"),
    [
        ("redis://host", "redis://host", "resilience"),
        ("valkey://me:pw@host:7000/2", "redis://me:pw@host:7000/2", "resilience"),
        ("valkeys://host/0?prefix=team-a", "rediss://host/0", "team-a"),
        ("rediss://host/0?ssl_ca_certs=/ca.pem&prefix=x", "rediss://host/0?ssl_ca_certs=%2Fca.pem", "x"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1", "resilience"),
        ("redis://host/3/", "redis://host/3/", "resilience"),
        ("redis://host?username=me&password=p%40w", "redis://host?username=me&password=p%40w", "resilience"),
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
        ("redis://:planted@host?prefx=team-a", "option prefx is not allowed; did you mean prefix? allowed: prefix, db"),
        (
            "redis://:planted@host?foo=1",
            "option foo is not allowed; allowed: prefix, db, username, password, client_name",
        ),
        ("redis://host?socket_timeout=planted", "option socket_timeout is not allowed"),
        ("redis://host?decode_responses=True", "option decode_responses is not allowed"),
        ("redis://host?db=planted", "db: allowed: a database's number"),
        ("redis://host?db=1&db=2", "option db is given twice"),
        ("redis://host?client_name=planted%20two", "client_name: allowed: 1 to 64"),
        ("redis://host?ssl_cert_reqs=none", "option ssl_cert_reqs: allowed with rediss:// and valkeys:// only"),
        ("unix:///run/x.sock?ssl_keyfile=x", "option ssl_keyfile: allowed with rediss://"),
        ("rediss://host?ssl_cert_reqs=planted", "ssl_cert_reqs: allowed: none, optional or required"),
        ("rediss://host?ssl_check_hostname=planted", "ssl_check_hostname: allowed: true or false"),
        ("rediss://host?ssl_kefile=x", "option ssl_kefile is not allowed; did you mean ssl_keyfile?"),
        ("redis://host/planted", "the path must be a database's number"),
        ("redis://host/0/planted", "the path must be a database's number"),
        ("redis://me:12?planted@host", "a user's or password's special characters must be percent-encoded"),
        ("redis://me:12/planted@host", "a user's or password's special characters must be percent-encoded"),
        ("redis://me:12#planted@host", "a user's or password's special characters must be percent-encoded"),
        ("redis://host?PLANTED-planted=1", "an option is not allowed"),
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


@pytest.mark.parametrize("option", _TLS_OPTIONS)
def test_every_tls_option_is_one_of_the_clients(option: str) -> None:
    value = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}.get(option, "x")
    url, _ = split_address(f"rediss://host?{option}={value}")
    made = Redis.from_url(url).connection_pool.connection_kwargs
    assert option in made
    assert option in signature(SSLConnection.__init__).parameters
