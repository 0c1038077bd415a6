"""Settings: the contract's keys and defaults, how sections fill each other, and what they never show."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap

import pytest
import yaml

from resilience.errors import ConfigurationError, UnknownNameError
from resilience.settings import (
    BreakerSettings,
    ProviderSettings,
    RouteSettings,
    Settings,
    TargetSettings,
    TimeoutSettings,
    missing_variables,
    resolve,
)

# The YAML block of the design, without what is an example (routes, names) and what is not built yet.
CONTRACT = yaml.safe_load(
    textwrap.dedent(
        """
        route:
            strategy: ordered
            timeouts: {attempt_seconds: 60, first_token_seconds: 20, stall_seconds: 20, deadline_seconds: 180}
            num_retries: 1
            max_attempts: 6
            backoff_seconds: 0.25
            backoff_max_seconds: 8
            on_exhausted: wait
            max_wait_seconds: 10
            max_waiters: 1000
            stream: {on_interruption: raise, buffer: none}
            validation: {reject_empty: true, max_chars: null, fallback_on_content_policy: false}
            hedge: null
        breaker:
            consecutive_failures: 5
            timeout_weight: 2
            failure_rate: 0.25
            window_calls: 50
            window_seconds: 30
            minimum_calls: 20
            slow_call_seconds: null
            slow_call_rate: 0.5
            overdue_factor: 5
            open_seconds: 10
            open_multiplier: 2
            open_max_seconds: 300
            account_open_seconds: 60
            jitter: 0.1
            probe_permits: 1
            probe_successes: 3
            probe_lease_seconds: 60
            shadow: false
        """
    )
)


def chat(*targets: object, **route: object) -> dict[str, object]:
    return {"routes": {"chat": {"targets": list(targets), **route}}}


def test_a_routes_defaults_are_those_of_the_contract() -> None:
    given = RouteSettings().model_dump(exclude={"targets"})
    assert given == CONTRACT["route"]


def test_a_breakers_defaults_are_those_of_the_contract() -> None:
    assert BreakerSettings().model_dump() == CONTRACT["breaker"]


def test_the_defaults_written_out_are_accepted_and_change_nothing() -> None:
    written = Settings.load(
        {
            "default_route": "chat",
            "routes": {"chat": {"targets": ["openai/gpt-4o-mini"], **CONTRACT["route"]}},
            "breaker": CONTRACT["breaker"],
            "target_breaker": {},
            "providers": {"openai": {"breaker": {}, "max_concurrency": None}},
            "probing": {"mode": "passive"},
            "warm": True,
            "storage": None,
        }
    )
    short = Settings.load(chat("openai/gpt-4o-mini"))
    assert written.routes == short.routes
    assert written.breaker == short.breaker == written.target_breaker
    assert written.providers["openai"] == short.provider("openai")


def test_empty_settings_are_valid() -> None:
    settings = Settings.load({})
    assert (settings.routes, settings.default_route, settings.warm) == ({}, None, True)


def test_the_first_route_is_the_default_route() -> None:
    settings = Settings.load({"routes": {"b": {"targets": ["x"]}, "a": {"targets": ["y"]}}})
    assert settings.default_route == "b"
    assert settings.route() is settings.routes["b"]
    assert settings.route("a") is settings.routes["a"]


def test_asking_for_an_unknown_route_lists_the_routes() -> None:
    settings = Settings.load({"routes": {"chat": {"targets": ["x"]}, "cheap": {"targets": ["y"]}}})
    with pytest.raises(UnknownNameError, match=r"'chta' is not a route; did you mean 'chat'\? routes: chat, cheap"):
        settings.route("chta")
    with pytest.raises(UnknownNameError, match="no routes"):
        Settings().route()


def test_a_text_is_short_for_a_target() -> None:
    short, long = (Settings.load(chat(target)) for target in ("openai/m", {"model": "openai/m"}))
    assert short == long


def test_every_other_key_of_a_target_travels_with_the_call() -> None:
    [target] = (
        Settings.load(chat({"model": "m", "api_key": "k", "temperature": 0, "params": {"name_of_my_own": 1}}))
        .routes["chat"]
        .targets
    )
    assert target.params == {"api_key": "k", "temperature": 0, "name_of_my_own": 1}


def test_litellms_own_timeout_on_a_target_becomes_our_limit() -> None:
    [target] = Settings.load(chat({"model": "m", "timeout": 7, "stream_timeout": 3})).routes["chat"].targets
    assert target.timeouts == TimeoutSettings(attempt_seconds=7, first_token_seconds=3, stall_seconds=3)
    assert target.params == {}


def test_a_target_takes_the_limits_it_does_not_name_from_its_route() -> None:
    route = {"timeouts": {"attempt_seconds": 30, "stall_seconds": 5}}
    first, second = (
        Settings.load(chat("a", {"model": "b", "timeouts": {"attempt_seconds": 20}}, **route)).routes["chat"].targets
    )
    assert first.timeouts == TimeoutSettings(attempt_seconds=30, stall_seconds=5)
    assert second.timeouts == TimeoutSettings(attempt_seconds=20, stall_seconds=5)


@pytest.mark.parametrize(("strategy", "orders"), [("ordered", [1, 5, 3]), ("weighted", [1, 5, 1])])
def test_a_targets_order_is_its_position_only_under_ordered(strategy: str, orders: list[int]) -> None:
    settings = Settings.load(chat("a", {"model": "b", "order": 5}, "c", strategy=strategy))
    assert [target.order for target in settings.routes["chat"].targets] == orders


def test_targets_equal_in_everything_are_one() -> None:
    settings = Settings.load(chat("a", {"model": "a", "weight": 1}, {"model": "a", "api_key": "other"}, "a"))
    assert [(t.model, t.order) for t in settings.routes["chat"].targets] == [("a", 1), ("a", 2)]


def test_one_name_may_stand_for_one_target_in_several_routes() -> None:
    target = {"model": "m", "name": "mine", "api_key": "k"}
    settings = Settings.load({"routes": {"a": {"targets": [target]}, "b": {"targets": [{**target, "order": 2}]}}})
    assert [settings.route(name).targets[0].name for name in "ab"] == ["mine", "mine"]


def test_no_target_goes_unasked_because_of_a_default() -> None:
    assert Settings.load(chat("a", "b", num_retries=3)).routes["chat"].max_attempts == 8
    assert Settings.load(chat(*"abcdefgh")).routes["chat"].max_attempts == 16
    assert Settings.load(chat(*"abcdefgh", max_attempts=3)).routes["chat"].max_attempts == 3


def test_breakers_of_targets_and_providers_take_what_they_do_not_name_from_the_common_one() -> None:
    settings = Settings.load(
        {
            "breaker": {"open_seconds": 4, "jitter": 0},
            "target_breaker": {"consecutive_failures": 2},
            "providers": {"openai": {"breaker": {"jitter": 0.5}, "max_concurrency": 9}},
        }
    )
    assert settings.target_breaker == BreakerSettings(open_seconds=4, jitter=0, consecutive_failures=2)
    openai = settings.provider("openai")
    assert openai == ProviderSettings(breaker=BreakerSettings(open_seconds=4, jitter=0.5), max_concurrency=9)
    assert settings.provider("gemini") == ProviderSettings(breaker=settings.breaker)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("azure", 1),
        ("azure/west.example.com:443", 1),
        ("azure/east.example.com:443", 2),
        ("azure_ai/east.example.com:443", None),
        ("azures", None),
        ("bedrock/us-east-1", 3),
        ("bedrock/eu-west-1", None),
    ],
)
def test_a_provider_is_found_by_its_longest_prefix_of_whole_words(name: str, limit: int | None) -> None:
    keys = {"azure": 1, "azure/east": 2, "bedrock/us-": 3}
    settings = Settings.load({"providers": {key: {"max_concurrency": value} for key, value in keys.items()}})
    assert settings.provider(name).max_concurrency == limit


def test_a_default_gives_way_to_what_was_said() -> None:
    assert BreakerSettings(window_calls=10).minimum_calls == 10
    assert BreakerSettings(minimum_calls=80).window_calls == 80
    assert BreakerSettings(open_seconds=600).open_max_seconds == 600
    assert BreakerSettings(open_max_seconds=3).open_seconds == 3
    assert RouteSettings(backoff_seconds=20).backoff_max_seconds == 20


def test_rules_can_be_turned_off() -> None:
    off = BreakerSettings(consecutive_failures=None, failure_rate=None, overdue_factor=None, slow_call_seconds=None)
    assert (off.consecutive_failures, off.failure_rate, off.overdue_factor) == (None, None, None)


def test_settings_are_frozen() -> None:
    settings = Settings.load(chat("a"))
    with pytest.raises(ValueError, match="frozen"):
        settings.warm = False  # type: ignore[misc]  # that is what is tested


def test_settings_survive_a_dump_a_copy_and_a_pickle() -> None:
    settings = Settings.load(
        {
            **chat("a", {"model": "b", "api_key": "k", "timeout": 3}, num_retries=4),
            "target_breaker": {"window_calls": 10},
            "providers": {"openai": {"breaker": {"jitter": 0}}},
        }
    )
    for again in (
        Settings.load(settings.model_dump()),
        Settings.model_validate_json(settings.model_dump_json()),
        Settings.load(settings),
        copy.deepcopy(settings),
        pickle.loads(pickle.dumps(settings)),  # noqa: S301 (our own)
    ):
        assert again == settings


def test_sections_can_be_built_from_sections() -> None:
    route = RouteSettings(targets=[TargetSettings(model="a")], timeouts=TimeoutSettings(attempt_seconds=3))
    settings = Settings(routes={"chat": route}, breaker=BreakerSettings(jitter=0))
    assert settings.routes["chat"].targets[0].timeouts.attempt_seconds == 3
    assert settings.target_breaker.jitter == 0


def test_keys_are_never_shown() -> None:
    settings = Settings.load(
        chat({"model": "m", "api_key": "sk-planted", "params": {"aws_secret_access_key": "sk-planted"}})
    )
    [target] = settings.routes["chat"].targets
    assert target.params["api_key"] == "sk-planted"
    for shown in (repr, str):
        assert "planted" not in shown(settings)
        assert "planted" not in shown(target)


def test_a_wildcard_route_serves_each_of_its_models() -> None:
    settings = Settings.load(
        {
            "routes": {
                "openai/*": {"targets": [{"model": "openai/*", "api_key": "k"}, "anthropic/fixed"]},
                "openai/gpt-*": {"targets": ["azure/my-*"]},
                "exact": {"targets": ["x"]},
                "*/*": {"targets": ["y/*"]},
            }
        }
    )

    def models(asked: str) -> list[str]:
        found = settings.match(asked)
        assert found is not None
        return [target.model for target in found[1].targets]

    assert models("openai/o3") == ["openai/o3", "anthropic/fixed"]
    assert models("openai/gpt-5") == ["azure/my-5"]
    assert models("a/b") == ["a/b"]
    assert models("exact") == ["x"]
    assert settings.match("nobody") is None


def test_environment_variables_are_resolved_as_litellm_does_and_only_when_asked() -> None:
    [target] = (
        Settings.load(
            chat(
                {
                    "model": "m",
                    "api_key": "os.environ/KEY",
                    "extra_headers": {"x": "os.environ/NONE"},
                    "stop": ["os.environ/FLAG"],
                }
            )
        )
        .routes["chat"]
        .targets
    )
    assert target.params["api_key"] == "os.environ/KEY"
    given = resolve({**target.params, "client_secret_ref": "os.environ/KEY"}, {"KEY": "k", "FLAG": "True"})
    assert given == {
        "api_key": "k",
        "extra_headers": {"x": None},
        "stop": [True],
        "client_secret_ref": "os.environ/KEY",
    }
    assert resolve("plain", {}) == "plain"


def test_missing_environment_variables_are_named_with_their_path() -> None:
    settings = Settings.load(
        chat(
            {"model": "os.environ/MODEL", "api_key": "os.environ/KEY", "extra_headers": {"x-a": "os.environ/HEAD"}},
            {"model": "b", "api_key": "os.environ/EMPTY"},
        )
    )
    assert missing_variables(settings, {"KEY": "k", "EMPTY": ""}) == {
        "routes.chat.targets[0].model": "MODEL",
        "routes.chat.targets[0].extra_headers.x-a": "HEAD",
        "routes.chat.targets[1].api_key": "EMPTY",
    }


def test_the_short_form_is_a_route_called_default() -> None:
    settings = Settings.load({"primary_model": "openai/a", "fallback_model": "anthropic/b", "max_retries": 3})
    assert settings.default_route == "default"
    assert [t.model for t in settings.route().targets] == ["openai/a", "anthropic/b"]
    assert settings.route().num_retries == 3
    assert settings.route().max_attempts == 8


@pytest.mark.parametrize("fallback", ["openai/a", None])
def test_the_short_form_with_one_model_has_one_target(fallback: str | None) -> None:
    settings = Settings.load({"primary_model": "openai/a", "fallback_model": fallback, "breaker": {"jitter": 0}})
    assert [t.model for t in settings.route().targets] == ["openai/a"]
    assert (settings.route().num_retries, settings.breaker.jitter) == (1, 0)


def test_every_key_is_described_in_the_json_schema() -> None:
    schema = Settings.model_json_schema()
    sections = {"Settings": schema, **schema["$defs"]}
    target = sections.pop("TargetSettings")
    assert target["anyOf"][0]["type"] == "string"
    assert target["anyOf"][1]["additionalProperties"] is True
    for name, section in {**sections, "TargetSettings": target["anyOf"][1]}.items():
        assert section["additionalProperties"] is (name == "TargetSettings")
        for key, field in section["properties"].items():
            assert field.get("description"), f"{name}.{key}"
            is_a_duration = key.endswith("_seconds")
            assert not is_a_duration or "Seconds" in field["description"] or "seconds" in field["description"], key


def test_importing_settings_loads_neither_litellm_nor_yaml() -> None:
    code = "import sys, resilience.settings; print(sorted({'litellm', 'yaml', 'pydantic_settings'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stand_alone_policy_tells_what_is_wrong_with_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        BreakerSettings(consecutive_failures=0, failure_rate=2, window_cals=3)  # type: ignore[call-arg]
    text = str(caught.value)
    assert "consecutive_failures: 0 is not allowed; allowed: a whole number, 1 or more, or null" in text
    assert "failure_rate: 2 is not allowed; allowed: a number above 0 and at most 1, or null" in text
    assert "window_cals: unknown key; did you mean 'window_calls'?" in text
