"""A Router's groups: its deployments as targets with an order and a weight, as its simple-shuffle draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from resilience.settings.adoption.reading import Reading, plain
from resilience.settings.complaints import refusal
from resilience.settings.routes import LITELLM_LIMITS, TargetSettings

# Ids that the Router made itself (a hash) or a database gave (a UUID) say nothing to people.
_MADE_UP_ID = re.compile(r"[0-9a-f]{32,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_OUR_WORDS = frozenset(TargetSettings.model_fields) - {"model", "order", "weight"}
_SHARES = ("weight", "rpm", "tpm")
_COOLING = frozenset({"allowed_fails", "allowed_fails_policy", "cooldown_time"})
_NO_COUNTERPART = _COOLING | {"budget_duration", "max_budget", "max_parallel_requests", "max_retries", "num_retries"}

_NO_FACTS = _COOLING | {"id", "db_model"}

Groups = dict[str, list[dict[str, Any]]]


def groups_of(model_list: Any, reading: Reading) -> Groups:
    """The deployments by group, as targets with an order and a weight."""
    if isinstance(model_list, str | Mapping) or not isinstance(model_list, Sequence):
        reading.error(("model_list",), refusal(model_list, "a list of deployments"))
        return {}
    groups: Groups = {}
    for at, entry in enumerate(model_list):
        deployment = plain(entry)
        here = ("model_list", at)
        name = deployment.get("model_name") if deployment is not None else None
        params = plain(deployment.get("litellm_params")) if deployment is not None else None
        if deployment is None or not isinstance(name, str) or not name.strip():
            reading.error((*here, "model_name"), "required: the name of the group")
        elif params is None or not isinstance(params.get("model"), str) or not params["model"].strip():
            reading.error((*here, "litellm_params", "model"), "required: a LiteLLM model string")
        else:
            for extra in sorted(deployment.keys() - {"model_name", "litellm_params", "model_info"}):
                reading.leave_out(f"model_list[].{extra}")
            groups.setdefault(name, []).extend(
                _targets(params, plain(deployment.get("model_info")) or {}, here, reading)
            )
    return {name: _balanced(targets) for name, targets in groups.items()}


def _targets(
    params: dict[str, Any], info: dict[str, Any], here: tuple[str | int, ...], reading: Reading
) -> list[dict[str, Any]]:
    """One deployment as targets: a list of organizations makes one for each, as in the Router."""
    defaults = reading.mapping("default_litellm_params")
    params = {**defaults, **{key: value for key, value in params.items() if value is not None}}
    target: dict[str, Any] = {"order": None, "shares": {}}
    for key, value in params.items():
        loc = (*here, "litellm_params", key)
        if key == "order":
            target["order"] = reading.whole(key, value, loc)
        elif key in _SHARES:
            target["shares"][key] = reading.number(key, value, loc) or 0.0
            if key != "weight":
                reading.leave_out(f"{key} as a limit", "it only weighs the targets of a group")
        elif key in LITELLM_LIMITS:
            target |= _limit(key, params, loc, reading)
        elif key in _NO_COUNTERPART:
            reading.leave_out(f"litellm_params.{key}")
        elif key in _OUR_WORDS:  # LiteLLM's word for something else: kept apart from ours
            target.setdefault("params", {})[key] = value
        else:
            target[key] = value
    for key in sorted(_COOLING & info.keys()):  # where a deployment's own may stand
        reading.leave_out(f"model_info.{key}")
    target |= _facts(info)
    organizations = target.get("organization")
    if isinstance(organizations, list):
        return [{**target, "organization": organization} for organization in organizations]
    _keep_label(target, info.get("id"), reading)
    return [target]


def _limit(key: str, params: Mapping[str, Any], loc: tuple[str | int, ...], reading: Reading) -> dict[str, float]:
    """A limit of the deployment's own. A Router takes 0 for not given, and timeout before request_timeout."""
    seconds = reading.number(f"litellm_params.{key}", params[key], loc)
    hidden = key == "request_timeout" and params.get("timeout")
    return {key: seconds} if seconds and not hidden else {}


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a deployment's model_info says beyond its id: LiteLLM takes the base model and prices from there."""
    facts = {key: value for key, value in info.items() if key not in _NO_FACTS and value is not None}
    return {"model_info": facts} if facts else {}


def _keep_label(target: dict[str, Any], label: Any, reading: Reading) -> None:
    """An id that a person gave becomes the target's name."""
    text = str(label) if isinstance(label, str | int) else ""
    if text.strip() and not _MADE_UP_ID.fullmatch(text) and text not in reading.names.values():
        reading.names.setdefault(core_of(target), text)


def core_of(target: Mapping[str, Any]) -> str:
    """What makes a target, whatever its place in a route. Holds keys: never shown."""
    return repr(sorted((key, value) for key, value in target.items() if key not in {"order", "weight", "shares"}))


def _balanced(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Orders counted from 1, and weights, as the Router's simple-shuffle draws.

    It weighs by weight, else rpm, else tpm, whichever any target has. One that lacks it, or has 0, is drawn only
    when no other is left: it stands by in an order of its own. Targets without order come after those that have one.
    """
    last = max((target["order"] for target in targets if target["order"] is not None), default=0) + 1
    placed: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for order in sorted({last if target["order"] is None else target["order"] for target in targets}):
        level = [target for target in targets if (last if target["order"] is None else target["order"]) == order]
        by = next((key for key in _SHARES if any(t["shares"].get(key) for t in level)), None)
        for target in level:
            share = target["shares"].get(by, 0.0) if by else 1.0
            placed.append(((order, 0 if share else 1), {**target, "weight": share or 1.0}))
    steps = sorted({place for place, _ in placed})
    return [
        {**{key: value for key, value in target.items() if key != "shares"}, "order": steps.index(place) + 1}
        for place, target in sorted(placed, key=lambda pair: pair[0])
    ]


def members_of(name: str, groups: Groups) -> list[dict[str, Any]]:
    """A group's targets; for a model that only a wildcard group serves, those with the star filled in."""
    if name in groups:
        return groups[name]
    for pattern in sorted((group for group in groups if "*" in group), key=len, reverse=True):
        found = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), name, re.DOTALL)
        if found:
            return [
                {**t, "model": TargetSettings(model=t["model"]).starred(name, found.groups()).model}
                for t in groups[pattern]
            ]
    return []
