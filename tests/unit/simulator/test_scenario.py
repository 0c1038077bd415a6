"""Scenarios: what is wrong in a file is told with its path, the value, and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from simulated import FIRST, SECOND, down, scenario

from resilience.errors import ConfigurationError
from resilience.simulator import SHIPPED, Scenario

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL: dict[str, Any] = {"settings": {"routes": {"chat": {"targets": [FIRST, SECOND]}}}}


def wrong(**keys: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Scenario.load({**MINIMAL, **keys})
    return str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"trafic": {}}, "trafic: unknown key; did you mean 'traffic'?"),
        ({"traffic": {"per_second": 0}}, "traffic.per_second: 0 is not allowed; allowed: a number above 0"),
        ({"traffic": {"peak_factor": 2}}, "traffic.peak_factor: only diurnal uses it, not poisson"),
        ({"traffic": {"arrivals": "burst"}}, "traffic.arrivals: 'burst' is not allowed; allowed: one of"),
        ({"seed": -1}, "seed: -1 is not allowed; allowed: a whole number, 0 or more"),
        ({"route": "caht"}, "route: nobody knows 'caht'; did you mean 'chat'?"),
        ({"providers": {"opnai": {}}}, "providers.opnai: nobody knows 'opnai'; did you mean 'openai'?"),
        (
            {"providers": {"openai": {"outages": [down(), {"at_seconds": 1}]}}},
            "providers.openai.outages[1].lasts_seconds: required",
        ),
        (
            {"providers": {"openai": {"outages": [down(fails="broken")]}}},
            "providers.openai.outages[0].fails: 'broken' is not allowed; allowed: one of",
        ),
        (
            {"providers": {"openai": {"outages": [down(slowdown=3)]}}},
            "providers.openai.outages[0].slowdown: only slow uses it, not server_error",
        ),
        (
            {"providers": {"openai": {"outages": [down(targets=[SECOND])]}}},
            f"providers.openai.outages[0].targets: nobody knows '{SECOND}'; allowed: {FIRST}",
        ),
        (
            {"providers": {"openai": {"outages": [down(at=700)]}}},
            "providers.openai.outages[0].at_seconds: the simulation is over by then",
        ),
        (
            {"settings": {"routes": {"chat": {"targets": [FIRST, {"model": FIRST, "api_key": "k"}]}}}},
            f"settings.routes.chat.targets[1]: another target is called '{FIRST}' already; give one of them a name",
        ),
        ({"settings": {"routes": {}}}, "settings.routes: a simulation needs at least one route"),
        (
            {"settings": {"routes": {"chat": {"targets": [FIRST], "num_retries": -1}}}},
            "settings.routes.chat.num_retries: -1 is not allowed",
        ),
        ({"settings": {**MINIMAL["settings"], "storage": "redis://x"}}, "settings.storage: not allowed here"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(keys: dict[str, Any], said: str) -> None:
    assert said in wrong(**keys)


def test_a_file_names_itself_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("settings:\n  routes: {chat: {targets: [a/b]}}\nseed: x\n")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml: seed: 'x' is not allowed"):
        Scenario.load(file)
    file.write_text("settings: {\n")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml: line 2"):
        Scenario.load(file)
    with pytest.raises(ConfigurationError, match="no such file"):
        Scenario.load(tmp_path / "none.yaml")
    file.write_text("")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml: settings: required"):
        Scenario.load(file)


def test_a_target_has_its_providers_model_but_for_what_it_says_itself() -> None:
    told = scenario(openai={"price_usd": 2.0, "targets": {FIRST: {"latency": {"median_seconds": 9.0}}}})
    model = told.providers["openai"].model_of(FIRST)
    assert (model.price_usd, model.latency.median_seconds) == (2.0, 9.0)
    assert told.providers["openai"].model_of("another").latency.median_seconds == 1.0


@pytest.mark.parametrize("name", SHIPPED)
def test_every_scenario_that_ships_is_valid_and_says_what_it_is_about(name: str) -> None:
    assert Scenario.load(SHIPPED[name]).about != "a simulation"
