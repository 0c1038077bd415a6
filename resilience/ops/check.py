"""Checking: what a settings file says, with what it resolves to here, and what is missing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from resilience.errors import ConfigurationError
from resilience.settings import Settings, missing_variables
from resilience.settings.complaints import path

if TYPE_CHECKING:
    from resilience.settings import RouteSettings, TargetSettings

OK: Final = 0
PROBLEMS: Final = 1
# These also work without any variable, with the machine's own identity.
_AMBIENT: Final = frozenset({"bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai"})
# Either of them will do; LiteLLM names both.
_ALTERNATIVES: Final = (frozenset({"GOOGLE_API_KEY", "GEMINI_API_KEY"}),)


@dataclass(slots=True)
class Findings:
    """What a check found.

    Attributes:
        lines: The routes and their targets.
        problems: What keeps a call from working.
        notes: What may.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_check(file: str) -> int:
    """Check a settings file and tell what it says. Sends nothing and shows no key.

    Args:
        file: A YAML or JSON file.

    Returns:
        0: fine. 1: problems; each stands on a line of its own on stderr.
    """
    findings = examine(Settings.load(file))
    for line in findings.lines:
        print(line)
    for note in findings.notes:
        print(f"note: {note}")
    sys.stdout.flush()
    for problem in findings.problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not findings.problems:
        print(f"{file}: no problems")
    return PROBLEMS if findings.problems else OK


def examine(settings: Settings) -> Findings:
    """Resolve every target, and look for what is missing."""
    from resilience.middleware.environment import quiet

    findings = Findings()
    if not settings.routes:
        findings.lines.append("no routes: decorators and the callback need none, acompletion takes model strings only")
        return findings
    quiet()
    variables = missing_variables(settings)
    findings.problems += [_not_to_be_had(where, name) for where, name in variables.items()]
    providers: set[str] = set()
    for name, route in settings.routes.items():
        if findings.lines:
            findings.lines.append("")
        findings.lines += _told(name, route, is_default=name == settings.default_route)
        rows = [("order", "target", "model", "provider", "limits")]
        for at, target in enumerate(route.targets):
            where = path(("routes", name, "targets", at))
            provider = _provider(target, where, findings)
            providers |= {provider} if provider is not None else set()
            if provider is not None and not any(place.startswith(f"{where}.") for place in variables):
                _look_for_keys(target, where, findings)
            rows.append(
                (str(target.order or 1), target.name or target.model, target.model, provider or "?", _limits(target))
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            findings.lines.append(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
    known = ", ".join(sorted(providers))
    findings.notes += [
        f"{path(('providers', key))}: no target of these settings has the provider {key!r}; known: {known or 'none'}"
        for key in settings.unmatched_providers(providers)
    ]
    return findings


def _not_to_be_had(where: str, variable: str) -> str:
    if not variable:
        return f"{where}: 'os.environ/' names no variable; allowed: os.environ/NAME"
    return f"{where} asks for {variable}, which is not set"


def _told(name: str, route: RouteSettings, *, is_default: bool) -> list[str]:
    default = " (default)" if is_default else ""
    again = f"{route.num_retries} on the same target, {route.max_attempts} attempts at most"
    waits = f"deadline {route.timeouts.deadline_seconds:g} s; when nobody is eligible: {route.on_exhausted}"
    return [f"route {name}{default}: {route.strategy}; retries: {again}; {waits}"]


def _limits(target: TargetSettings) -> str:
    limits = target.timeouts
    return (
        f"attempt {limits.attempt_seconds:g} s, first token {limits.first_token_seconds:g} s, "
        f"stall {limits.stall_seconds:g} s"
    )


def _provider(target: TargetSettings, where: str, findings: Findings) -> str | None:
    from resilience.middleware.targets import build_target

    try:
        return build_target(target.model, target.params, provider=target.provider).provider
    except ConfigurationError as error:
        findings.problems.append(f"{where}: {error}")
        return None


def _look_for_keys(target: TargetSettings, where: str, findings: Findings) -> None:
    from resilience.middleware.environment import usual_keys_missing
    from resilience.middleware.targets import derive_provider

    missing = usual_keys_missing(target.model, target.params)
    if not missing:
        return
    either = next((names for names in _ALTERNATIVES if names >= set(missing)), None)
    wanted = f"{' or '.join(missing)} is not set" if either else _not_set(missing)
    family = derive_provider(target.model, target.params).partition("/")[0]
    if family in _AMBIENT:
        findings.notes.append(f"{where} ({target.model}): {wanted}; {family} may do without")
    else:
        findings.problems.append(f"{where} ({target.model}): {wanted}")


def _not_set(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not set"
