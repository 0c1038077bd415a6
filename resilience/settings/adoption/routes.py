"""A Router's groups and those that follow them, as routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resilience.settings.adoption.groups import Groups, core_of, members_of
from resilience.settings.adoption.policies import retries_of, timeouts_of
from resilience.settings.complaints import nearest, shown

if TYPE_CHECKING:
    from resilience.settings.adoption.followers import Followers
    from resilience.settings.adoption.reading import Reading


def route_names(groups: Groups, follow: Followers, reading: Reading) -> list[str]:
    """The groups, and each model of a wildcard group that has fallbacks of its own."""
    names = list(groups)
    for label, table in (
        ("fallbacks", follow.usual),
        ("context_window_fallbacks", follow.context),
        ("content_policy_fallbacks", follow.content),
    ):
        for name in table:
            if name == "*" or name in names:
                continue
            if _members(name, groups, reading):
                names.append(name)
            else:
                reading.leave_out(f"{label} of {name!r}", "no such group")
    return names


def route_of(name: str, groups: Groups, follow: Followers, reading: Reading) -> dict[str, Any]:
    """A group's route: its own targets, then those of the groups that follow it."""
    targets: list[dict[str, Any]] = []
    cores: set[str] = set()
    limit = reading.whole_or_none("max_fallbacks")
    chain: list[Any] = []
    _walk(name, follow, chain, {name})
    steps = [name, *(chain if limit is None else chain[:limit])]
    for label, table in (("context_window_fallbacks", follow.context), ("content_policy_fallbacks", follow.content)):
        more = [entry for entry in follow.after(name, table) if entry not in steps]
        steps += more
        if more:
            reading.leave_out(label, "its groups come last in their routes, after any failure")
    for step in steps:
        _append(targets, cores, step, groups, reading)
    orders = [target["order"] for target in targets]
    route: dict[str, Any] = {
        "strategy": "ordered" if len(set(orders)) == len(orders) else "weighted",
        "targets": targets,
        "timeouts": timeouts_of(targets, reading),
        **retries_of(name, reading),
    }
    if follow.after(name, follow.content):
        route["validation"] = {"fallback_on_content_policy": True}
    return route


def _walk(name: str, follow: Followers, chain: list[Any], seen: set[str]) -> None:
    """The groups after ``name``, each followed by its own, as the Router's nested fallbacks go."""
    for entry in follow.after(name, follow.usual):
        group = entry["model"] if isinstance(entry, Mapping) else entry
        if group not in seen:
            seen.add(group)
            chain.append(entry)
            _walk(group, follow, chain, seen)
        elif entry != group and entry not in chain:  # the same group once more, with other parameters
            chain.append(entry)


def _append(targets: list[dict[str, Any]], cores: set[str], step: Any, groups: Groups, reading: Reading) -> None:
    """Put a group's targets behind those that are there. A mapping's other keys override the group's parameters."""
    overrides = {key: value for key, value in step.items() if key != "model"} if isinstance(step, Mapping) else {}
    name = step["model"] if isinstance(step, Mapping) else step
    members = _members(name, groups, reading)
    if not members:
        near = nearest(name, groups)
        guess = f"did you mean {near!r}? " if near else ""
        sentence = f"{shown(name)} is not a group; {guess}groups: {', '.join(groups)}"
        reading.error(("fallbacks",), sentence)
        return
    behind = max((target["order"] for target in targets), default=0)
    if "messages" in overrides:
        overrides.pop("messages")
        reading.leave_out("fallbacks[].messages")
    for member in members:
        target = {**member, **overrides, "order": behind + member["order"]}
        core = core_of(target)
        if core not in cores:  # a target that is there already is not asked twice
            cores.add(core)
            named = reading.names.get(core)
            targets.append({**target, "name": named} if named else target)


def _members(name: str, groups: Groups, reading: Reading) -> list[dict[str, Any]]:
    aliased = reading.mapping("model_group_alias").get(name, name)
    return members_of(str(aliased.get("model") if isinstance(aliased, Mapping) else aliased), groups)


def add_aliases(routes: dict[str, dict[str, Any]], reading: Reading) -> None:
    """A group's other names: the same route once more."""
    for alias, item in reading.mapping("model_group_alias").items():
        if alias in routes:  # it has fallbacks of its own
            continue
        group = item.get("model") if isinstance(item, Mapping) else item
        if group in routes:
            routes[alias] = routes[group]
        else:
            reading.error(
                ("model_group_alias", str(alias)), f"{shown(group)} is not a group; groups: {', '.join(routes)}"
            )
