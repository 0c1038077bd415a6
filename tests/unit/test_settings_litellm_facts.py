"""What settings hold to be true of LiteLLM, checked against the LiteLLM that is installed."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from resilience.settings import Settings, TargetSettings, resolve
from resilience.settings.adoption import arguments
from resilience.settings.complaints import is_slip
from resilience.settings.routes import LITELLM_LIMITS, LITELLM_NEIGHBOURS

# Asked in a process of its own: importing LiteLLM takes seconds, warns, and changes module state.
ASK = """
import inspect, json, os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["PLANTED_TRUE"], os.environ["PLANTED_KEY"] = "True", "key"
import litellm
from litellm.router import Router
from litellm.secret_managers.main import get_secret
from litellm.types.router import AllowedFailsPolicy, LiteLLM_Params, RetryPolicy, RoutingStrategy
from litellm.types.utils import all_litellm_params

def defaults(function):
    return {n: p.default for n, p in inspect.signature(function).parameters.items()}

names = {*all_litellm_params, *litellm.OPENAI_CHAT_COMPLETION_PARAMS, *LiteLLM_Params.model_fields}
for call in (litellm.completion, litellm.embedding, litellm.responses):
    names |= set(defaults(call))
print("FACTS" + json.dumps({
    "parameters": sorted(names),
    "router": {n: repr(d) for n, d in defaults(Router.__init__).items()},
    "retries": list(RetryPolicy.model_fields),
    "fails": list(AllowedFailsPolicy.model_fields),
    "strategies": [s.value for s in RoutingStrategy],
    "secrets": [get_secret("os.environ/PLANTED_" + n) for n in ("TRUE", "KEY", "NONE")],
}))
"""


@pytest.fixture(scope="module")
def litellm_facts() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ASK], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.partition("FACTS")[2])


def test_every_parameter_of_litellms_is_accepted_on_a_target(litellm_facts: dict[str, Any]) -> None:
    ours = set(TargetSettings.model_fields)
    near = {name for name in litellm_facts["parameters"] if name not in ours and any(is_slip(name, o) for o in ours)}
    assert near <= LITELLM_NEIGHBOURS
    plain = set(litellm_facts["parameters"]) - ours - set(LITELLM_LIMITS)
    assert TargetSettings(model="m", **dict.fromkeys(plain, "x")).params.keys() == plain


def test_no_word_of_ours_on_a_target_takes_one_of_litellms_away(litellm_facts: dict[str, Any]) -> None:
    assert set(TargetSettings.model_fields) & set(litellm_facts["parameters"]) == {"model", "order", "weight"}
    assert set(LITELLM_LIMITS) <= set(litellm_facts["parameters"])


def test_every_argument_of_the_router_is_mapped_or_named(litellm_facts: dict[str, Any]) -> None:
    given = {"self", *inspect.signature(Settings.from_model_list).parameters} - {"router_arguments"}
    known = {*arguments.MAPPED, *arguments.WITHOUT_COUNTERPART}
    assert not arguments.MAPPED & arguments.WITHOUT_COUNTERPART.keys()
    # Fewer are fine: the oldest LiteLLM of the range does not have all of them yet.
    assert set(litellm_facts["router"]) - given <= known
    assert set(litellm_facts["router"]) >= arguments.MAPPED


def test_the_values_that_say_nothing_are_the_routers_defaults(litellm_facts: dict[str, Any]) -> None:
    silent = {"None", "False", "0", "''", "[]", "{}"}
    for name, silence in arguments.WITHOUT_COUNTERPART.items():
        default = litellm_facts["router"].get(name)
        if default is not None and name != "router_general_settings":  # an object whose fields are all off
            assert default in silent if silence is None else default == repr(silence), name


def test_the_policies_keys_are_litellms(litellm_facts: dict[str, Any]) -> None:
    assert set(litellm_facts["retries"]) <= arguments.RETRIES_COUNTED | arguments.RETRIES_DECIDED
    assert set(litellm_facts["fails"]) <= arguments.ALLOWED_FAILS_COUNTED | arguments.ALLOWED_FAILS_DECIDED
    assert set(litellm_facts["strategies"]) <= set(arguments.STRATEGIES)


def test_environment_variables_resolve_to_what_litellm_makes_of_them(litellm_facts: dict[str, Any]) -> None:
    environ = {"PLANTED_TRUE": "True", "PLANTED_KEY": "key"}
    ours = [resolve(f"os.environ/PLANTED_{name}", environ) for name in ("TRUE", "KEY", "NONE")]
    assert ours == litellm_facts["secrets"]
