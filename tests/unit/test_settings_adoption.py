"""Adoption: what a Router user already has becomes settings, and what has no counterpart is named once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from resilience.errors import ConfigurationError
from resilience.settings import Settings

if TYPE_CHECKING:
    from resilience.settings import TargetSettings


def deployment(group: str, model: str, info: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"model_name": group, "litellm_params": {"model": model, **params}}
    return entry if info is None else {**entry, "model_info": info}


TWO = [deployment("gpt", "openai/a"), deployment("claude", "anthropic/b")]


def adopted(model_list: Any, *args: Any, **kwargs: Any) -> Settings:
    """Settings without a warning: everything was mapped."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Settings.from_model_list(model_list, *args, **kwargs)


def warned(model_list: Any, *args: Any, **kwargs: Any) -> tuple[Settings, str]:
    """Settings and the one warning."""
    with pytest.warns(UserWarning, match="no exact counterpart") as caught:
        settings = Settings.from_model_list(model_list, *args, **kwargs)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "it points at the caller"
    text = str(caught[0].message)
    assert text.startswith("no exact counterpart for these arguments of a LiteLLM Router: ")
    return settings, text.partition(": ")[2]


def wrong(model_list: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_model_list(model_list, *args, **kwargs)
    assert caught.value.__context__ is None
    return str(caught.value)


def walk(settings: Settings, route: str) -> list[tuple[str, int | None]]:
    return [(target.model, target.order) for target in settings.route(route).targets]


def only(settings: Settings) -> TargetSettings:
    [target] = settings.route().targets
    return target


# ---- groups


def test_each_group_becomes_a_route_and_the_first_the_default() -> None:
    settings = adopted([*TWO, deployment("gpt", "openai/c")])
    assert settings.default_route == "gpt"
    assert walk(settings, "gpt") == [("openai/a", 1), ("openai/c", 1)]
    assert walk(settings, "claude") == [("anthropic/b", 1)]
    assert settings.route("gpt").strategy == "weighted"


def test_litellms_parameters_travel_and_prices_stay_where_litellm_looks_for_them() -> None:
    info = {"id": "east", "base_model": "azure/gpt-4o", "db_model": False}
    target = only(adopted([deployment("g", "azure/x", info, api_key="os.environ/K", temperature=0, provider="theirs")]))
    assert target.name == "east"
    assert target.provider is None
    assert target.params == {
        "api_key": "os.environ/K",
        "temperature": 0,
        "provider": "theirs",
        "model_info": {"base_model": "azure/gpt-4o"},
    }


@pytest.mark.parametrize("made_up", ["0" * 64, "123e4567-e89b-12d3-a456-426614174000"])
def test_an_id_that_a_machine_made_up_is_no_name(made_up: str) -> None:
    assert only(adopted([deployment("g", "m", {"id": made_up})])).name is None


def test_orders_are_kept_and_a_deployment_without_one_comes_last() -> None:
    settings = adopted([deployment("g", "none"), deployment("g", "late", order=7), deployment("g", "early", order=2)])
    assert walk(settings, "g") == [("early", 1), ("late", 2), ("none", 3)]


def test_weights_balance_and_a_deployment_without_one_stands_by() -> None:
    settings = adopted(
        [deployment("g", "a", weight=3), deployment("g", "idle", weight=0), deployment("g", "b", weight=1)]
    )
    assert [(t.model, t.order, t.weight) for t in settings.route("g").targets] == [
        ("a", 1, 3),
        ("b", 1, 1),
        ("idle", 2, 1),
    ]


def test_rpm_and_tpm_weigh_as_in_simple_shuffle_and_are_named_as_limits() -> None:
    settings, named = warned([deployment("g", "a", rpm=60, tpm=9), deployment("g", "b", rpm=20)])
    assert [(t.model, t.weight) for t in settings.route("g").targets] == [("a", 60), ("b", 20)]
    assert "rpm as a limit" in named
    assert "tpm as a limit" in named


def test_equal_deployments_are_one_target() -> None:
    assert walk(adopted([deployment("g", "a"), deployment("g", "a", {"id": "x"})]), "g") == [("a", 1)]
    two_groups = adopted([deployment("g", "a", {"id": "x"}), deployment("h", "a", {"id": "y"})])
    assert two_groups.route("g").targets == two_groups.route("h").targets


def test_a_list_of_organizations_makes_a_target_for_each() -> None:
    settings = adopted([deployment("g", "a", organization=["o1", "o2"])])
    assert [t.params["organization"] for t in settings.route().targets] == ["o1", "o2"]


def test_default_parameters_stand_behind_a_deployments_own() -> None:
    defaults = {"temperature": 1, "drop_params": True}
    target = only(adopted([deployment("g", "a", temperature=0)], default_litellm_params=defaults))
    assert target.params == {"temperature": 0, "drop_params": True}


def test_a_wildcard_group_becomes_a_wildcard_route() -> None:
    settings = adopted([deployment("openai/*", "azure/my-*", api_key="k"), *TWO], [{"openai/o3": ["claude"]}])
    found = settings.match("openai/gpt-5")
    assert found is not None
    assert found[0] == "openai/*"
    assert [(t.model, t.params) for t in found[1].targets] == [("azure/my-gpt-5", {"api_key": "k"})]
    assert walk(settings, "openai/o3") == [("azure/my-o3", 1), ("anthropic/b", 2)]


def test_litellms_own_objects_will_do() -> None:
    @dataclass
    class Dumped:
        content: dict[str, Any]

        def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
            assert exclude_none
            return self.content

    entry = Dumped(
        {"model_name": "g", "litellm_params": Dumped({"model": "m", "api_key": "k"}), "model_info": Dumped({"id": "n"})}
    )
    assert only(adopted([entry])).params == {"api_key": "k"}


# ---- fallbacks


def test_fallbacks_follow_their_group_and_bring_their_own() -> None:
    groups = [deployment(name, name) for name in "abcd"]
    settings = adopted(groups, [{"a": ["b", "c"]}, {"b": ["d"]}, {"d": ["a"]}])
    assert walk(settings, "a") == [("a", 1), ("b", 2), ("d", 3), ("c", 4)]
    assert walk(settings, "b") == [("b", 1), ("d", 2), ("a", 3), ("c", 4)]
    assert walk(settings, "c") == [("c", 1)]


def test_default_fallbacks_follow_every_group_without_its_own() -> None:
    groups = [deployment(name, name) for name in "abcd"]
    for arguments in (
        {"fallbacks": [{"a": ["b"]}], "default_fallbacks": ["d"]},
        {"fallbacks": [{"a": ["b"]}, {"*": ["d"]}]},
    ):
        settings = adopted(groups, **arguments)
        assert walk(settings, "a") == [("a", 1), ("b", 2), ("d", 3)]
        assert walk(settings, "c") == [("c", 1), ("d", 2)]
        assert walk(settings, "d") == [("d", 1)]


def test_max_fallbacks_limits_the_groups_that_follow() -> None:
    groups = [deployment(name, name) for name in "abc"]
    assert walk(adopted(groups, [{"a": ["b", "c"]}], max_fallbacks=1), "a") == [("a", 1), ("b", 2)]
    assert walk(adopted(groups, [{"a": ["b", "c"]}], max_fallbacks=0), "a") == [("a", 1)]


def test_a_fallback_with_parameters_is_the_group_with_these() -> None:
    settings = adopted(TWO, [{"gpt": [{"model": "gpt", "temperature": 0}, {"model": "claude", "api_key": "k"}]}])
    assert [(t.model, t.params) for t in settings.route("gpt").targets] == [
        ("openai/a", {}),
        ("openai/a", {"temperature": 0}),
        ("anthropic/b", {"api_key": "k"}),
    ]


def test_a_target_that_is_there_already_is_not_asked_twice() -> None:
    groups = [deployment("a", "x"), deployment("b", "x"), deployment("b", "y")]
    assert walk(adopted(groups, [{"a": ["b"]}]), "a") == [("x", 1), ("y", 2)]


def test_context_window_fallbacks_come_last_and_that_is_said() -> None:
    settings, named = warned(TWO, context_window_fallbacks=[{"gpt": ["claude"]}])
    assert walk(settings, "gpt") == [("openai/a", 1), ("anthropic/b", 2)]
    assert named == "context_window_fallbacks (its groups come last in their routes, after any failure)"
    adopted(TWO, [{"gpt": ["claude"]}], context_window_fallbacks=[{"gpt": ["claude"]}])


def test_content_policy_fallbacks_turn_that_fallback_on() -> None:
    settings = adopted(TWO, [{"gpt": ["claude"]}], content_policy_fallbacks=[{"gpt": ["claude"]}])
    assert settings.route("gpt").validation.fallback_on_content_policy is True
    assert settings.route("claude").validation.fallback_on_content_policy is False
    assert "content_policy_fallbacks" in warned(TWO, content_policy_fallbacks=[{"gpt": ["claude"]}])[1]


def test_an_alias_is_the_same_route_and_may_have_fallbacks_of_its_own() -> None:
    aliases = {"gpt-4": "gpt", "hidden": {"model": "claude", "hidden": True}, "best": "gpt"}
    settings = adopted(TWO, [{"best": ["hidden"]}], model_group_alias=aliases)
    assert settings.route("gpt-4") == settings.route("gpt")
    assert walk(settings, "hidden") == [("anthropic/b", 1)]
    assert walk(settings, "best") == [("openai/a", 1), ("anthropic/b", 2)]


def test_fallbacks_of_a_group_that_does_not_exist_are_named() -> None:
    assert warned(TWO, [{"gone": ["gpt"]}])[1] == "fallbacks of 'gone' (no such group)"


# ---- retries, limits, breakers


@pytest.mark.parametrize(
    ("arguments", "retries"),
    [
        ({}, 1),
        ({"num_retries": 0}, 0),
        ({"num_retries": 4}, 4),
        ({"num_retries": 4, "retry_policy": {"InternalServerErrorRetries": 2}}, 2),
        ({"num_retries": 4, "retry_policy": {"TimeoutErrorRetries": 0, "RateLimitErrorRetries": None}}, 4),
        ({"retry_policy": {"DefaultRetries": 2}, "model_group_retry_policy": {"gpt": {"DefaultRetries": 3}}}, 3),
        ({"retry_policy": {"DefaultRetries": 2}, "model_group_retry_policy": {"claude": {"DefaultRetries": 3}}}, 2),
    ],
)
def test_retries_are_taken_over(arguments: dict[str, Any], retries: int) -> None:
    assert adopted(TWO, **arguments).route("gpt").num_retries == retries


def test_retries_that_our_table_decides_otherwise_are_named() -> None:
    policy = {"RateLimitErrorRetries": 3, "InternalServerErrorRetries": 2, "ServiceUnavailableErrorRetries": 1}
    settings, named = warned(TWO, retry_policy=policy)
    assert settings.route("gpt").num_retries == 2
    assert "retry_policy.RateLimitErrorRetries (such errors are not retried on the same target)" in named
    assert "retry_policy for each kind of error (the largest number holds for all)" in named


def test_timeouts_are_taken_over_and_no_deadline_of_ours_cuts_them() -> None:
    limits = adopted(TWO, timeout=7, stream_timeout="3.5").route("gpt").timeouts
    assert limits.model_dump(exclude_unset=True) == {
        "attempt_seconds": 7,
        "first_token_seconds": 3.5,
        "stall_seconds": 3.5,
    }
    assert adopted(TWO, timeout=7).route().timeouts.stall_seconds == 7
    patient = adopted(TWO, timeout=600).route().timeouts
    assert (patient.attempt_seconds, patient.stall_seconds, patient.deadline_seconds) == (600, 20, 600)
    [target] = adopted([deployment("g", "m", timeout=400, request_timeout=3)], timeout=7).route().targets
    assert (target.timeouts.attempt_seconds, target.timeouts.deadline_seconds) == (400, 400)


@pytest.mark.parametrize(
    ("arguments", "failures"),
    [
        ({"allowed_fails": 0}, 1),
        ({"allowed_fails": 3}, 4),
        ({"allowed_fails": 2, "allowed_fails_policy": {"InternalServerErrorAllowedFails": 2}}, 3),
    ],
)
def test_one_failure_more_than_allowed_trips_a_target(arguments: dict[str, Any], failures: int) -> None:
    settings = adopted(TWO, **arguments)
    assert (settings.target_breaker.consecutive_failures, settings.target_breaker.timeout_weight) == (failures, 1)
    assert settings.breaker.consecutive_failures == 5, "a Router knows no provider: that breaker keeps its rule"


def test_what_a_deployment_alone_has_no_counterpart_for_is_named() -> None:
    info = {"id": "a", "allowed_fails": 2, "cooldown_time": 3, "base_model": "gpt-4o"}
    one = {"model_name": "g", "litellm_params": {"model": "openai/m", "max_budget": 3.0}, "model_info": info}
    settings, named = warned([one])
    for name in ("model_info.allowed_fails", "model_info.cooldown_time", "litellm_params.max_budget"):
        assert name in named
    assert settings.route().targets[0].params["model_info"] == {"base_model": "gpt-4o"}


def test_errors_that_a_policy_does_not_name_keep_their_number() -> None:
    settings, named = warned(TWO, allowed_fails=3, allowed_fails_policy={"TimeoutErrorAllowedFails": 5})
    assert settings.target_breaker.consecutive_failures == 4
    assert "allowed_fails_policy for each kind of error (the smallest number holds for all)" in named


def test_allowed_fails_that_our_table_decides_are_named() -> None:
    policy = {"AuthenticationErrorAllowedFails": 3, "TimeoutErrorAllowedFails": 1, "BadGatewayErrorAllowedFails": 4}
    settings, named = warned(TWO, allowed_fails_policy=policy)
    assert settings.target_breaker.consecutive_failures == 2
    assert "allowed_fails_policy.AuthenticationErrorAllowedFails" in named
    assert "allowed_fails_policy for each kind of error (the smallest number holds for all)" in named


def test_cooldowns_are_open_times_and_without_them_breakers_only_watch() -> None:
    assert adopted(TWO, cooldown_time=30).target_breaker.open_seconds == 30
    assert adopted(TWO, cooldown_time=900).breaker.open_max_seconds == 900
    watching = adopted(TWO, disable_cooldowns=True)
    assert (watching.breaker.shadow, watching.target_breaker.shadow) == (True, True)
    assert adopted(TWO, disable_cooldowns=False, cooldown_time=0).breaker == Settings().breaker


# ---- what cannot be mapped


def test_everything_without_a_counterpart_is_named_in_one_warning_and_no_value_is() -> None:
    _, named = warned(
        [deployment("g", "m", max_retries=3, max_parallel_requests=2), {**deployment("g", "n"), "extra": 1}],
        redis_url="redis://:sk-planted@host",
        routing_strategy="latency-based-routing",
        enable_pre_call_checks=True,
        set_verbose=True,
        timeout="os.environ/TIMEOUT",
    )
    for argument in (
        "redis_url",
        "routing_strategy (targets of equal order share the load by weight)",
        "enable_pre_call_checks",
        "set_verbose",
        "timeout (a number from the environment)",
        "litellm_params.max_retries",
        "litellm_params.max_parallel_requests",
        "model_list[].extra",
    ):
        assert argument in named.split("; "), argument
    assert "planted" not in named


def test_arguments_that_say_nothing_are_not_named() -> None:
    adopted(
        TWO,
        redis_url=None,
        set_verbose=False,
        debug_level="INFO",
        client_ttl=3600,
        cache_kwargs={},
        tag_filtering_match_any=True,
        routing_strategy="simple-shuffle",
        enable_weighted_failover=True,
        context_window_fallbacks=[],
        model_group_alias={},
        retry_policy=None,
        allowed_fails=None,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model_list": "x"}, "model_list: 'x' is not allowed; allowed: a list of deployments"),
        ({"model_list": [5]}, "model_list[0].model_name: required"),
        ({"model_list": [{"litellm_params": {"model": "m"}}]}, "model_list[0].model_name: required"),
        ({"model_list": [{"model_name": "g"}]}, "model_list[0].litellm_params.model: required: a LiteLLM model string"),
        ({"model_list": [deployment("g", "m", weight=-1)]}, "model_list[0].litellm_params.weight: -1 is not allowed"),
        ({"model_list": [deployment("g", "m", order=1.5)]}, "model_list[0].litellm_params.order: 1.5 is not allowed"),
        ({"model_list": [deployment("g", "m", timeout=True)]}, "model_list[0].litellm_params.timeout: true is not"),
        ({"model_list": [deployment("g", "m", wieght=2)]}, "routes.g.targets[0].wieght: unknown key; did you mean"),
        ({"fallbacks": {"gpt": ["claude"]}}, "fallbacks: a mapping is not allowed; allowed: a list such as"),
        ({"fallbacks": [5]}, "fallbacks[0]: 5 is not allowed"),
        ({"fallbacks": [{"gpt": 5}]}, "fallbacks[0].gpt: 5 is not allowed; allowed: a list of groups"),
        ({"fallbacks": [{"gpt": [{"temperature": 0}]}]}, "fallbacks[0].gpt[0]: required: a group's name"),
        (
            {"fallbacks": [{"gpt": ["cluade"]}]},
            "fallbacks: 'cluade' is not a group; did you mean 'claude'? groups: gpt",
        ),
        ({"model_group_alias": {"x": "y"}}, "model_group_alias.x: 'y' is not a group; groups: gpt, claude"),
        ({"model_group_alias": ["x"]}, "model_group_alias: a list is not allowed; allowed: a mapping"),
        ({"nmu_retries": 3}, "nmu_retries: not an argument of a Router; did you mean 'num_retries'?"),
        ({"num_retries": -1}, "num_retries: -1 is not allowed; allowed: a number, 0 or more"),
        ({"num_retries": 1.5}, "num_retries: 1.5 is not allowed; allowed: a whole number, 0 or more"),
        ({"timeout": "soon"}, "timeout: 'soon' is not allowed"),
        ({"timeout": float("inf")}, "timeout: inf is not allowed"),
        ({"retry_policy": {"TimeoutErorRetries": 1}}, "did you mean 'TimeoutErrorRetries'?"),
        ({"retry_policy": 3}, "retry_policy: 3 is not allowed; allowed: a mapping"),
        ({"allowed_fails_policy": {"TimeoutErorAllowedFails": 1}}, "did you mean 'TimeoutErrorAllowedFails'?"),
        ({"routing_strategy": "random"}, "routing_strategy: 'random' is not allowed; allowed: simple-shuffle"),
    ],
)
def test_wrong_arguments_are_told_with_their_path(arguments: dict[str, Any], told: str) -> None:
    assert told in wrong(**{"model_list": TWO, **arguments})


def test_all_wrong_arguments_are_told_at_once() -> None:
    text = wrong([*TWO, 5], [{"gpt": ["cluade"]}], timeout="soon", nmu_retries=2)
    assert text.splitlines()[0] == "4 errors in the Router's arguments:"


def test_no_error_shows_a_key() -> None:
    planted = deployment("g", "m", api_key="sk-planted", weight=-1, timeout="sk-planted", wieght="sk-planted")
    assert "planted" not in wrong([planted])
    assert "planted" not in wrong([deployment("g", "m", api_key="sk-planted", wieght="sk-planted")])
    assert "planted" not in wrong(TWO, redis_password="sk-planted", timeuot="sk-planted")


def test_an_empty_list_is_empty_settings() -> None:
    assert adopted([]) == Settings()
