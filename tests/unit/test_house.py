"""The house: which room may import which. A new arrow needs a line here, and a reason."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import resilience

PACKAGE = Path(resilience.__file__).parent

# Each floor may import itself and the floors below it.
VOCABULARY = {"clock", "outcome", "errors", "events", "settings", "snapshots", "upstream", "fork"}
FLOORS: dict[str, set[str]] = {
    "vocabulary": VOCABULARY,
    "breaker": VOCABULARY | {"breaker"},
    "storage": VOCABULARY | {"breaker", "storage"},
    "health": VOCABULARY | {"breaker", "health"},
    "routing": VOCABULARY | {"routing"},
    "execution": VOCABULARY | {"routing", "execution"},
    "telemetry": VOCABULARY | {"telemetry"},
    # LiteLLM's seam: what a call is and what an error means. Its doors stand above the runtime.
    "middleware": VOCABULARY | {"middleware", "breaker", "health", "runtime", "decorators", "execution", "routing"},
    "runtime": VOCABULARY
    | {"breaker", "storage", "health", "routing", "execution", "telemetry", "requests", "middleware"},
    "requests": VOCABULARY,
    "decorators": VOCABULARY | {"runtime", "execution"},
    # An outage stands where calls pass: in the breaker, in the engine's functions, in LiteLLM.
    "testing": VOCABULARY | {"testing", "breaker", "health", "routing", "execution", "middleware"},
    # The same parts as a runtime, in a world of its own: no LiteLLM, and nothing that waits for real time.
    "simulator": VOCABULARY | {"simulator", "breaker", "storage", "health", "routing", "execution", "testing"},
    "ops": VOCABULARY
    | {"ops", "storage", "telemetry", "runtime", "requests", "testing", "health", "decorators", "middleware"}
    | {"simulator"},
}
FREE = {"__init__", "__main__"}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor_of(room: str) -> set[str]:
    return FLOORS["vocabulary"] if room in VOCABULARY else FLOORS[room]


@cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("resilience", *path.relative_to(PACKAGE).with_suffix("").parts))
        found.append((name.removesuffix(".__init__"), ast.parse(path.read_text())))
    return found


def imports(tree: ast.Module) -> set[str]:
    """Every module that is imported when the code runs; what only a type checker reads is no arrow."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("name", "tree"), [pytest.param(*module, id=module[0]) for module in modules()])
def test_imports_point_one_way(name: str, tree: ast.Module) -> None:
    room = room_of(name)
    if room in FREE:
        return
    rooms = {room_of(module) for module in imports(tree) if module.startswith("resilience.")}
    known = {other for other in rooms if other in VOCABULARY or other in FLOORS}
    assert known - floor_of(room) == set(), f"{name} imports from a floor above it"


@pytest.mark.parametrize(("name", "tree"), [pytest.param(*module, id=module[0]) for module in modules()])
def test_only_the_middleware_imports_litellm(name: str, tree: ast.Module) -> None:
    roots = {module.split(".")[0] for module in imports(tree)}
    if room_of(name) not in {"middleware", "ops"}:
        assert "litellm" not in roots


def test_every_room_stands_in_the_table() -> None:
    rooms = {room_of(name) for name, _ in modules()} - FREE
    assert rooms - VOCABULARY - FLOORS.keys() == set()


def test_no_room_is_longer_than_400_lines() -> None:
    long = {path.name: count for path in PACKAGE.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert long == {}


@pytest.mark.parametrize(("name", "tree"), [pytest.param(*module, id=module[0]) for module in modules()])
def test_every_module_says_its_job_in_its_first_line(name: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree), name
