"""The README is true: its snippets run, its settings load, its commands exist."""

from __future__ import annotations

import ast
import inspect
import os
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from resilience.settings import BreakerSettings, RouteSettings, Settings

if TYPE_CHECKING:
    from resilience.testing import LoopbackProvider

README = Path(__file__).parents[2].joinpath("README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def keys(provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two providers that the snippets name, on loopback."""
    for name, value in {
        "OPENAI_API_BASE": provider.openai_base,
        "OPENAI_API_KEY": "sk-planted",
        "ANTHROPIC_API_BASE": provider.url,
        "ANTHROPIC_API_KEY": "sk-planted",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("code", [pytest.param(code, id=f"snippet{at}") for at, code in enumerate(SNIPPETS, 1)])
@pytest.mark.usefixtures("keys", "upstream")
async def test_every_snippet_runs(code: str) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(compiled, names)()
    if inspect.iscoroutine(result):
        await result
    assert names.keys() & {"fb", "breaker", "answer", "summarise", "found"}


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 6


def test_the_settings_example_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    settings = Settings.load(path)
    assert [target.order for target in settings.route("chat").targets] == [1, 1, 3]


@pytest.mark.parametrize("model", [BreakerSettings, RouteSettings])
def test_every_setting_is_explained(model: type[BreakerSettings | RouteSettings]) -> None:
    assert [key for key in model.model_fields if f"`{key}" not in README] == []


def test_the_two_commands_are_single_lines() -> None:
    lines = README.splitlines()
    demo = next(line for line in lines if "resilience demo" in line)
    tests = next(line for line in lines if "python -m pytest" in line)
    assert demo.startswith("python3 -m venv") and tests.startswith("python3 -m venv")
    assert os.linesep.join(lines[:45]).count("```sh") == 2
