"""Tokens, and what this machine means."""

from __future__ import annotations

import pytest

from resilience.errors import ConfigurationError
from resilience.ops.gate import Gate, Role, Token, is_loopback, read_tokens
from resilience.testing.clock import ManualClock


def test_tokens_are_read_with_their_roles() -> None:
    read = read_tokens(" admin:one , read:two,three,admin:with:colons ")
    assert [(token.role, token.secret) for token in read] == [
        (Role.ADMIN, "one"),
        (Role.READ, "two"),
        (Role.ADMIN, "three"),
        (Role.ADMIN, "with:colons"),
    ]
    assert read_tokens(None) == read_tokens("") == ()


@pytest.mark.parametrize(
    "text", ["raed:planted", "planted:x", "admin:", "read: ", "admin:pl anted", "admin:plänted", ","]
)
def test_a_wrong_token_is_an_error_that_does_not_show_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="RESILIENCE_TOKEN") as caught:
        read_tokens(text)
    assert "planted" not in str(caught.value)


def test_a_token_is_in_no_repr() -> None:
    assert "planted" not in repr(read_tokens("admin:planted"))


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("2130706433", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine_and_nothing_else(host: str | None, is_here: bool) -> None:
    assert is_loopback(host) is is_here


def test_the_most_rights_of_equal_tokens_count() -> None:
    gate = Gate([Token(Role.READ, "same"), Token(Role.ADMIN, "same"), Token(Role.READ, "other")])
    assert gate.role_of("same") is Role.ADMIN
    assert gate.role_of("other") is Role.READ
    assert gate.role_of("") is None
    assert gate.role_of("sam\udcff") is None


def test_a_session_ends_after_half_a_day_and_with_its_token() -> None:
    clock = ManualClock()
    gate = Gate([Token(Role.READ, "secret")], clock=clock)
    value = gate.session("secret")
    assert gate.session("wrong") is None
    assert gate._session_role(value) is Role.READ
    assert Gate([Token(Role.READ, "changed")], clock=clock)._session_role(value) is None
    clock.advance(12 * 3600 + 1)
    assert gate._session_role(value) is None


def test_wrong_tokens_are_slowed_down_and_a_right_one_never_is() -> None:
    clock = ManualClock()
    gate = Gate((Token(Role.ADMIN, "right"),), clock=clock)
    assert [gate.unknown().status for _ in range(12)] == [401] * 10 + [429] * 2
    assert gate.unknown().retry_after_seconds == 6
    assert gate.role_of("right") is Role.ADMIN
    clock.advance(6)
    assert [gate.unknown().status for _ in range(2)] == [401, 429]
    clock.advance(3600)
    assert [gate.unknown().status for _ in range(11)] == [401] * 10 + [429]
