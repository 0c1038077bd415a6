"""Wrong settings: each error names the path, the value and what is allowed, and none shows a secret."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import ConfigurationError
from resilience.settings import Settings, TargetSettings
from resilience.settings.complaints import is_slip, nearest, path, shown

SECRET = "sk-planted-secret"


def wrong(data: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(data)  # type: ignore[arg-type]  # wrong on purpose
    assert isinstance(caught.value, ValueError)
    assert caught.value.__context__ is None, "an error in the context would hold the values"
    return str(caught.value)


def chat(*targets: object, **route: object) -> dict[str, object]:
    return {"routes": {"chat": {"targets": list(targets), **route}}}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            chat("a", {"model": "b", "weight": 0}),
            "routes.chat.targets[1].weight: 0 is not allowed; allowed: a number above 0",
        ),
        (
            chat({"model": "b", "weight": "2"}),
            "routes.chat.targets[0].weight: '2' is not allowed; allowed: a number above 0",
        ),
        (
            chat({"model": "b", "order": 0}),
            "routes.chat.targets[0].order: 0 is not allowed; allowed: a whole number, 1 or more, or null",
        ),
        (chat({"name": "n"}), "routes.chat.targets[0].model: required"),
        (chat({"model": " "}), "routes.chat.targets[0].model: an empty text is not allowed"),
        (chat(5), "routes.chat.targets[0]: 5 is not allowed; allowed: a mapping with the keys model, name"),
        (chat("a", num_retries=-1), "routes.chat.num_retries: -1 is not allowed; allowed: a whole number, 0 or more"),
        (chat("a", num_retries=True), "routes.chat.num_retries: true is not allowed"),
        (chat("a", num_retries=1.5), "routes.chat.num_retries: 1.5 is not allowed; allowed: a whole number"),
        (
            chat("a", on_exhausted="wiat"),
            "routes.chat.on_exhausted: 'wiat' is not allowed; allowed: one of 'wait', 'fail' or 'panic'",
        ),
        (
            chat("a", timeouts={"stall_seconds": 0}),
            "routes.chat.timeouts.stall_seconds: 0 is not allowed; allowed: a number of seconds above 0",
        ),
        (chat("a", timeouts={"stall_seconds": float("inf")}), "routes.chat.timeouts.stall_seconds: inf is not allowed"),
        (chat("a", timeouts={"stall_seconds": float("nan")}), "routes.chat.timeouts.stall_seconds: nan is not allowed"),
        (
            chat({"model": "a", "timeout": 0}),
            "routes.chat.targets[0].timeout: 0 is not allowed; allowed: a number of seconds above 0",
        ),
        (
            chat({"model": "a", "timeout": 5, "timeouts": {"attempt_seconds": 6}}),
            "routes.chat.targets[0].timeout: given twice: also as timeouts.attempt_seconds",
        ),
        (
            chat({"model": "a", "top_p": 5, "params": {"top_p": 6}}),
            "routes.chat.targets[0].top_p: given twice: also under params.top_p",
        ),
        (
            chat("a", validation={"reject_empty": 1}),
            "routes.chat.validation.reject_empty: 1 is not allowed; allowed: true or false",
        ),
        (chat(), "routes.chat.targets: a route needs at least one target"),
        ({"routes": {"chat": {}}}, "routes.chat.targets: a route needs at least one target"),
        (
            {"routes": {"chat": None}},
            "routes.chat: null is not allowed; allowed: a mapping with the keys backoff_max_seconds",
        ),
        ({"routes": {3: {"targets": ["a"]}}}, "routes: 3 is not allowed as a name; allowed: a text (put it in quotes)"),
        ({"routes": ["a"]}, "routes: a list is not allowed; allowed: a mapping"),
        ({"breaker": {"jitter": 1}}, "breaker.jitter: 1 is not allowed; allowed: a number, 0 or more and below 1"),
        (
            {"breaker": {"open_multiplier": 0.5}},
            "breaker.open_multiplier: 0.5 is not allowed; allowed: a number, 1 or more",
        ),
        (
            {"breaker": {"failure_rate": 0}},
            "breaker.failure_rate: 0 is not allowed; allowed: a number above 0 and at most 1, or null",
        ),
        (
            {"breaker": {"minimum_calls": 60, "window_calls": 50}},
            "breaker.minimum_calls: 60 is more than window_calls (50); allowed: at most window_calls",
        ),
        (
            {"breaker": {"open_seconds": 9, "open_max_seconds": 8}},
            "breaker.open_seconds: 9 is more than open_max_seconds (8)",
        ),
        (
            {"breaker": {"minimum_calls": 30}, "target_breaker": {"window_calls": 10}},
            "target_breaker.minimum_calls: 30 is more than window_calls (10)",
        ),
        (
            {"breaker": {"minimum_calls": 30}, "providers": {"a/b": {"breaker": {"window_calls": 9}}}},
            'providers["a/b"].breaker.minimum_calls: 30 is more than',
        ),
        (
            {"providers": {"openai": {"max_concurrency": 0}}},
            "providers.openai.max_concurrency: 0 is not allowed; allowed: a whole number, 1 or more, or null",
        ),
        ({"default_route": "x"}, "default_route: 'x' is not a route: there are no routes"),
        (
            {"default_route": "chta", **chat("a")},
            "default_route: 'chta' is not a route; did you mean 'chat'? routes: chat",
        ),
        ({"warm": "yes"}, "warm: 'yes' is not allowed; allowed: true or false"),
        ({"model_list": []}, "a LiteLLM Router's arguments go to Settings.from_model_list"),
        (5, "settings cannot be read from int; allowed: a file's path, a mapping, Settings, or None"),
    ],
)
def test_a_wrong_value_is_told_with_its_path_and_what_is_allowed(data: object, told: str) -> None:
    assert told in wrong(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"brekaer": {}}, "brekaer: unknown key; did you mean 'breaker'? allowed: breaker, default_route"),
        ({"fallback_modle": "x"}, "fallback_modle: unknown key; did you mean 'fallback_model'?"),
        ({"breaker": {"open-seconds": 3}}, "breaker.open-seconds: unknown key; did you mean 'open_seconds'?"),
        (chat("a", retries=3), "routes.chat.retries: unknown key; did you mean 'num_retries'?"),
        (chat("a", zzz=3), "routes.chat.zzz: unknown key; allowed: backoff_max_seconds"),
        (chat({"model": "a", "wieght": 3}), "routes.chat.targets[0].wieght: unknown key; did you mean 'weight'?"),
        (chat({"model": "a", "Order": 3}), "routes.chat.targets[0].Order: unknown key; did you mean 'order'?"),
        (chat({"model": "a", "provder": 3}), "routes.chat.targets[0].provder: unknown key; did you mean 'provider'?"),
        (chat({"modle": "a"}), "routes.chat.targets[0].modle: unknown key; did you mean 'model'?"),
        (chat("a", timeouts={"attempt_secnds": 3}), "did you mean 'attempt_seconds'?"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_the_key_that_was_meant(data: object, told: str) -> None:
    assert told in wrong(data)


@pytest.mark.parametrize("key", ["timeout", "top_p", "api_base", "models", "user", "mode", "seed", "stop", "n"])
def test_litellms_own_parameters_are_no_slips(key: str) -> None:
    if key != "mode":  # no parameter of LiteLLM's, and a letter away from ours
        assert TargetSettings(model="m", **{key: 3})
    else:
        assert "did you mean 'model'?" in wrong(chat({"model": "m", key: 3}))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (chat("a", hedge={"after_seconds": 2.0}), "routes.chat.hedge: not available in this version"),
        (chat("a", hedge=5), "routes.chat.hedge: not available in this version"),
        ({"hedge": {"after_seconds": 2.0}}, "hedge: not available in this version"),
    ],
)
def test_a_key_that_is_not_built_yet_is_refused_in_exactly_these_words(data: object, told: str) -> None:
    assert wrong(data) == told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            chat("a", strategy="fastest"),
            "routes.chat.strategy: not available in this version; allowed: 'ordered' or 'weighted'",
        ),
        (
            chat("a", strategy="cheapest"),
            "routes.chat.strategy: not available in this version; allowed: 'ordered' or 'weighted'",
        ),
        ({"probing": {"mode": "active"}}, "probing.mode: not available in this version; allowed: 'passive'"),
    ],
)
def test_a_value_that_is_not_built_yet_is_refused_with_those_that_are(data: object, told: str) -> None:
    assert wrong(data) == told


def test_all_errors_are_told_in_one_message() -> None:
    text = wrong(
        {
            "default_route": "nowhere",
            "wram": True,
            "breaker": {"jitter": 3, "shadw": True},
            "routes": {
                "chat": {"targets": [{"model": "a", "weight": -1, "ordr": 2}], "hedge": {"after": "p95"}},
                "empty": {"targets": []},
            },
        }
    )
    lines = text.splitlines()
    assert lines[0] == "8 errors in the settings:"
    for told in (
        "default_route: 'nowhere' is not a route",
        "wram: unknown key",
        "breaker.jitter: 3",
        "breaker.shadw: unknown key",
        "routes.chat.targets[0].weight: -1",
        "routes.chat.targets[0].ordr: unknown key",
        "routes.chat.hedge: not available in this version",
        "routes.empty.targets: a route needs at least one target",
    ):
        assert any(line.startswith(f"  {told}") for line in lines), told


def test_a_name_belongs_to_one_target_and_a_target_has_one_name() -> None:
    text = wrong(
        chat(
            {"model": "a", "name": "n"},
            {"model": "b", "name": "n", "api_key": SECRET},
            {"model": "a", "name": "m", "weight": 2},
        )
    )
    assert "routes.chat.targets[1].name: 'n' is the name of another target too (routes.chat.targets[0])" in text
    assert "routes.chat.targets[2].name: 'm' is the same target as 'n' (routes.chat.targets[0])" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"fallback_model": "b"}, "primary_model: required"),
        ({"primary_model": None}, "primary_model: null is not allowed; allowed: a LiteLLM model string"),
        ({"primary_model": "a", "fallback_model": ["b"]}, "fallback_model: a list is not allowed"),
        (
            {"primary_model": "a", "max_retries": -1},
            "max_retries: -1 is not allowed; allowed: a whole number, 0 or more",
        ),
        ({"primary_model": "a", "max_retries": "3"}, "max_retries: '3' is not allowed"),
        ({"primary_model": "a", **chat("b")}, "routes: the short form stands alone"),
        ({"primary_model": "a", "default_route": "default"}, "default_route: the short form stands alone"),
    ],
)
def test_a_wrong_short_form_is_told(data: object, told: str) -> None:
    assert told in wrong(data)


@pytest.mark.parametrize(
    "data",
    [
        chat({"model": "a", "api_key": SECRET, "weight": -1}),
        chat({"model": "a", "api_key": SECRET, "wieght": SECRET}),
        chat({"api_key": SECRET}),
        chat({"model": "a", "timeout": SECRET}),
        chat({"model": "a", "api_key": SECRET, "params": {"api_key": SECRET}}),
        chat({"model": "a", "name": "x", "api_key": SECRET}, {"model": "a", "name": "y", "api_key": SECRET}),
        {"routes": {"chat": {"targets": SECRET}}},
        {"routes": {"chat": SECRET}},
        {"api_key": SECRET},
        {"warm": SECRET},
        {"breaker": {"open_seconds": SECRET}},
        {"providers": {"openai": SECRET}},
        {"storage": f"redsi://:{SECRET}@host"},
        {"storage": f"redis://:{SECRET}@"},
        {"storage": f"redis://:{SECRET}@host:port"},
        {"storage": [SECRET]},
        {"primary_model": [SECRET], "max_retries": SECRET},
        {"default_route": SECRET},
    ],
)
def test_no_error_shows_a_secret(data: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(data)  # type: ignore[arg-type]
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match="validation error") as pydantics_own:
        Settings.model_validate(data)
    assert "planted" not in str(pydantics_own.value)


def test_any_mapping_will_do() -> None:
    assert Settings.load(OrderedDict(chat(MappingProxyType({"model": "a"})))).route().targets[0].model == "a"


def test_braces_in_a_value_are_no_placeholders() -> None:
    assert "'{x}' is not a route" in wrong({"default_route": "{x}", **chat("a")})


LETTERS = st.text("abcdeORL_", min_size=1, max_size=8)


@given(LETTERS, st.integers(0, 8), st.sampled_from("abcxyz"))
def test_one_letter_more_fewer_or_other_is_a_slip_either_way(word: str, at: int, letter: str) -> None:
    at %= len(word)
    for slip in (word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :], word[:at] + word[at + 1 :]):
        assert is_slip(slip, word)
        assert is_slip(word, slip)


@given(LETTERS, LETTERS)
def test_slips_agree_with_the_textbook_distance(one: str, other: str) -> None:
    assert is_slip(one, other) == (_distance(one.lower(), other.lower()) <= 1)


def _distance(a: str, b: str) -> int:
    """Optimal string alignment (Damerau-Levenshtein with adjacent swaps), by the textbook."""
    d = {(i, -1): i + 1 for i in range(-1, len(a))} | {(-1, j): j + 1 for j in range(-1, len(b))}
    for i in range(len(a)):
        for j in range(len(b)):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i] != b[j]))
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return d[len(a) - 1, len(b) - 1]


def test_values_are_shown_short_or_not_at_all() -> None:
    assert [shown(v) for v in (None, True, 3, 0.5, "x", "", {}, [], object)] == [
        "null", "true", "3", "0.5", "'x'", "an empty text", "a mapping", "a list", "type",
    ]  # fmt: skip
    assert shown(10**100) == "a number that long"
    assert shown("x " * 40) == "a text of 80 characters"
    assert nearest("zzz", ["breaker"]) is None
    assert path(["a", 1, "b/c", "d"]) == 'a[1]["b/c"].d'
