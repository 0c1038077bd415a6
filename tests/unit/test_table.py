"""Which route serves a request: names, model strings, wildcards, and callers' own keys."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from resilience.errors import ConfigurationError
from resilience.health.registry import HealthRegistry
from resilience.middleware.targets import build_target
from resilience.routing.table import CREDENTIALS, RouteTable
from resilience.settings import Settings

if TYPE_CHECKING:
    from resilience.routing.route import Route

SECRET = "sk-planted-tenant"


def table(routes: dict[str, Any], **settings: Any) -> RouteTable:
    loaded = Settings.load({"routes": routes, **settings})
    return RouteTable(loaded, HealthRegistry(loaded), build_target)


def route(found: RouteTable, model: str | None = None, **params: Any) -> Route:
    return found.find(model, params)[0]


def names(found: Route) -> list[str]:
    return [place.target.name for place in found.targets]


def registered(found: RouteTable) -> list[str]:
    return sorted(found._registry.targets)


TWO = {
    "chat": {"targets": [{"model": "openai/gpt-4o", "api_key": "k1"}, {"model": "openai/gpt-4o", "api_key": "k2"}]},
    "other": {"targets": [{"model": "openai/gpt-4o", "api_key": "k2"}, "anthropic/claude-haiku-4-5"]},
}


def test_without_a_model_the_default_route_serves() -> None:
    assert route(table(TWO)).name == "chat"
    assert route(table(TWO, default_route="other")).name == "other"


def test_different_targets_of_one_model_are_numbered_and_equal_ones_are_one() -> None:
    found = table(TWO)
    assert names(route(found, "chat")) == ["openai/gpt-4o", "openai/gpt-4o#2"]
    assert names(route(found, "other")) == ["openai/gpt-4o#2", "anthropic/claude-haiku-4-5"]
    assert route(found, "chat").targets[1].target is route(found, "other").targets[0].target
    assert len(found.targets) == 3


def test_a_name_given_in_one_route_holds_in_every_route() -> None:
    found = table({"a": {"targets": ["openai/gpt-4o"]}, "b": {"targets": [{"model": "openai/gpt-4o", "name": "fast"}]}})
    assert registered(found) == ["fast"]
    assert names(route(found, "a")) == ["fast"]


def test_a_given_name_is_never_taken_by_a_number() -> None:
    listed = [
        {"model": "openai/gpt-4o", "api_key": "k1"},
        {"model": "anthropic/claude-haiku-4-5", "name": "openai/gpt-4o"},
    ]
    assert names(route(table({"chat": {"targets": listed}}), "chat")) == ["openai/gpt-4o#2", "openai/gpt-4o"]


def test_the_same_route_is_found_again_as_the_same_object() -> None:
    found = table(TWO)
    assert route(found, "chat") is route(found, "chat")
    assert route(found, "openai/gpt-4o-mini") is route(found, "openai/gpt-4o-mini")
    assert route(found, "chat", api_key=SECRET) is route(found, "chat", api_key=SECRET)


def test_a_targets_own_name_serves_that_target_alone_with_its_parameters() -> None:
    found = table({"chat": {"targets": [{"model": "openai/gpt-4o", "name": "mine", "api_key": "k1"}, "openai/o1"]}})
    alone = route(found, "mine")
    assert (alone.single, alone.name, names(alone)) == (True, None, ["mine"])
    assert alone.targets[0].target is route(found, "chat").targets[0].target


def test_a_model_string_is_a_guarded_call_to_that_one_target() -> None:
    found = table({})
    alone = route(found, "openai/gpt-4o-mini")
    assert (alone.single, names(alone), alone.settings.on_exhausted) == (True, ["openai/gpt-4o-mini"], "fail")
    assert registered(found) == ["openai/gpt-4o-mini"]


@pytest.mark.parametrize("model", ["nonsense", "", "   ", "no/such/provider"])
def test_an_unknown_model_lists_the_routes_and_prints_nothing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a route \(routes: chat, other\)") as raised:
        route(table(TWO), model)
    assert repr(model) in str(raised.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("model", [7, ["chat"], {"model": "chat"}, b"chat"])
def test_a_model_of_the_wrong_type_is_named(model: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"model: .* is not allowed; allowed: a route's name"):
        route(table(TWO), model)


def test_no_model_and_no_route_says_what_to_give() -> None:
    with pytest.raises(ConfigurationError, match="no model was given"):
        route(table({}))


@pytest.mark.parametrize(
    "own",
    [{"api_key": SECRET}, {"api_base": "https://mine.example.com/v1"}, {"organization": "org-7"}],
    ids=["key", "base", "organization"],
)
def test_a_callers_own_credentials_make_targets_of_their_own(own: dict[str, str]) -> None:
    found = table(TWO)
    shared, mine = route(found, "chat"), route(found, "chat", **own)
    assert mine.name == "chat"
    assert {place.target.identity for place in shared.targets}.isdisjoint(
        place.target.identity for place in mine.targets
    )
    for place in mine.targets:
        assert place.target.dynamic
        assert place.target.params.items() >= own.items()


def test_a_callers_key_leaves_the_call_and_stands_nowhere() -> None:
    found = table(TWO)
    mine, rest = found.find("chat", {"api_key": SECRET, "temperature": 1})
    assert rest == {"temperature": 1}
    told = [repr(mine), repr(found), *names(mine), *registered(found), found._registry.snapshot().model_dump_json()]
    told += [repr(breaker) for breaker in found._registry.targets.values()]
    assert [line for line in told if "planted" in line] == []


def test_the_same_key_as_the_settings_is_the_same_target() -> None:
    found = table({"chat": {"targets": [{"model": "openai/gpt-4o", "api_key": "k1"}]}})
    assert route(found, "chat", api_key="k1").targets[0].target is route(found, "chat").targets[0].target
    assert registered(found) == ["openai/gpt-4o"]


def test_a_credential_that_is_none_was_not_given() -> None:
    found = table(TWO)
    serving, rest = found.find("chat", {"api_key": None, "api_base": None, "temperature": None})
    assert serving is route(found, "chat")
    assert rest == {"temperature": None}  # and does not hide the target's own key


def test_another_place_is_another_provider_and_a_key_alone_is_not() -> None:
    listed = [{"model": "openai/gpt-4o", "api_key": "k", "api_base": "https://a.example.com/v1", "provider": "mine"}]
    found = table({"chat": {"targets": listed}})
    assert route(found, "chat", api_key=SECRET).targets[0].target.provider == "mine"
    for word in ("api_base", "base_url"):
        place = route(found, "chat", **{word: "https://b.example.com/v1"}).targets[0]
        assert place.target.provider == "openai/b.example.com:443"
        assert "https://a.example.com/v1" not in place.target.params.values()


def test_another_region_is_another_provider() -> None:
    listed = [{"model": "bedrock/anthropic.claude-3-haiku-20240307-v1:0", "aws_region_name": "us-east-1"}]
    found = table({"chat": {"targets": listed}})
    assert route(found, "chat").targets[0].target.provider == "bedrock/us-east-1"
    assert route(found, "chat", aws_region_name="eu-west-1").targets[0].target.provider == "bedrock/eu-west-1"


def test_a_wrong_address_is_told_as_such() -> None:
    with pytest.raises(ConfigurationError, match="api_base names no host"):
        route(table(TWO), "openai/gpt-4o-mini", api_base="::")


def test_a_wildcard_route_serves_every_model_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "k-from-environment")
    found = table({"my/*": {"targets": [{"model": "openai/*", "api_key": "os.environ/PLANTED"}], "num_retries": 3}})
    served = route(found, "my/gpt-4o")
    assert (served.name, served.single, served.settings.num_retries) == ("my/*", False, 3)
    target = served.targets[0].target
    assert (target.model, target.params["api_key"]) == ("openai/gpt-4o", "k-from-environment")
    mine = route(found, "my/gpt-4o", api_key="os.environ/PLANTED").targets[0].target
    # What a caller says is taken by the letter: a request does not choose which secret is sent.
    assert mine.params["api_key"] == "os.environ/PLANTED"


def test_targets_of_wildcards_come_and_go_and_those_of_the_settings_stay() -> None:
    found = table({"my/*": {"targets": [{"model": "openai/*", "api_key": "k"}]}, **TWO})
    assert route(found, "my/gpt-4o-mini").targets[0].target.dynamic
    assert not route(found, "chat").targets[0].target.dynamic


def test_a_dynamic_target_never_takes_the_name_of_one_of_the_settings() -> None:
    found = table({"my/*": {"targets": [{"model": "openai/*", "api_key": "other"}]}, **TWO})
    mine = route(found, "my/gpt-4o").targets[0].target
    shared = route(found, "chat").targets[0].target
    assert mine.identity != shared.identity
    assert mine.name != shared.name
    assert found._registry.target("openai/gpt-4o") is shared


def test_a_wildcard_is_no_route_to_ask_for_by_its_own_name() -> None:
    found = table({"openai/*": {"targets": ["openai/*"]}})
    for model in (None, "openai/*"):
        with pytest.raises(ConfigurationError, match="is a pattern"):
            route(found, model)


def test_embeddings_stay_in_one_vector_space() -> None:
    listed = [
        "openai/text-embedding-3-small",
        {"model": "azure/text-embedding-3-small", "api_base": "https://east.example.com"},
        "openai/text-embedding-3-large",
        {"model": "openai/text-embedding-3-small", "dimensions": 256},
    ]
    found = table({"vectors": {"targets": listed}})
    kept = found.embedding(route(found, "vectors"))
    assert names(kept) == ["openai/text-embedding-3-small", "azure/text-embedding-3-small"]
    assert found.embedding(route(found, "vectors")) is kept


def test_a_route_is_pinned_to_one_of_its_targets() -> None:
    found = table(TWO)
    chat = route(found, "chat")
    assert names(found.pinned(chat, chat.targets[1].target)) == ["openai/gpt-4o#2"]


def test_routes_of_many_tenants_stay_bounded() -> None:
    found = table(TWO)
    for number in range(3000):
        route(found, "chat", api_key=f"{SECRET}-{number}")
    assert len(found._made) <= 1024


def test_threads_that_ask_for_the_same_new_route_get_the_same_target() -> None:
    found = table(TWO)
    start = threading.Barrier(8)

    def ask(number: int) -> list[str]:
        start.wait()
        return [
            route(found, "chat", api_key=f"{SECRET}-{key}").targets[0].target.name
            for key in range(number, number + 40)
            for _ in range(2)
        ]

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, range(8)))
    # With a tenant's key the route's two targets of one model are one. And there are the three of the settings.
    assert len({name for one in told for name in one}) == 47
    assert len(registered(found)) == 47 + 3


def test_what_a_caller_may_bring_along_is_what_names_an_account_or_a_place() -> None:
    assert {"api_key", "api_base", "base_url", "organization", "custom_llm_provider"} <= CREDENTIALS
    assert CREDENTIALS.isdisjoint({"temperature", "metadata", "user", "tools", "extra_headers", "timeout"})
