"""The command line: what it answers to good and bad files, and to people who mistype."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import resilience
from resilience.ops.cli import main
from resilience.settings import Settings
from resilience.simulator import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLANTED = "sk-planted-secret-0123456789"
GOOD = """
default_route: chat
routes:
  chat:
    timeouts: {deadline_seconds: 33}
    targets:
      - openai/gpt-4o-mini
      - model: anthropic/claude-haiku-4-5
        name: claude
        api_key: os.environ/CLAUDE_KEY
        timeouts: {attempt_seconds: 7}
      - {model: azure/prod, api_base: "https://east.example.com", api_key: sk-planted-secret-0123456789}
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`check` keeps LiteLLM quiet: the other tests of this process shall hear it again."""
    for name in ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOG"):
        monkeypatch.setenv(name, {"LITELLM_LOG": "CRITICAL"}.get(name, "True"))
    for name in ("OPENAI_API_KEY", "CLAUDE_KEY", "ANTHROPIC_API_KEY", "RESILIENCE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    loggers = [
        logging.getLogger(name)
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "httpcore", "asyncio")
    ]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str, name: str = "settings.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_check_of_a_good_file_tells_routes_providers_order_and_limits(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED)
    monkeypatch.setenv("CLAUDE_KEY", PLANTED)
    assert main(["check", file(GOOD)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert any("chat" in line and "default" in line and "33 s" in line for line in lines)
    first, second, third = (
        next(line for line in lines if name in line) for name in ("gpt-4o-mini", "claude", "azure/prod")
    )
    assert (first.split()[0], first.split()[3]) == ("1", "openai")
    assert (second.split()[0], second.split()[3]) == ("2", "anthropic")
    assert "7 s" in second
    assert "azure/east.example.com:443" in third
    assert told.err == ""
    assert PLANTED not in told.out


def test_check_names_the_variable_that_a_file_asks_for_and_the_usual_key(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", file(GOOD)]) == 1
    problems = capsys.readouterr().err.splitlines()
    assert any("CLAUDE_KEY" in line and "routes.chat.targets[1].api_key" in line for line in problems)
    assert any("OPENAI_API_KEY" in line and "routes.chat.targets[0]" in line for line in problems)
    assert len(problems) == 2  # the third target has its key, and the second one's usual key is not asked for


def test_check_says_that_a_reference_names_no_variable(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", file("routes: {chat: {targets: [{model: openai/x, api_key: os.environ/}]}}")]) == 1
    told = capsys.readouterr().err
    assert (
        told == "problem: routes.chat.targets[0].api_key: 'os.environ/' names no variable; allowed: os.environ/NAME\n"
    )


def test_check_notes_a_provider_that_no_target_has(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = "{model: openai/x, api_key: k}"
    east = "{model: azure/x, api_key: k, api_base: https://east.example.com, api_version: v}"
    text = f"routes: {{chat: {{targets: [{target}, {east}]}}}}\nproviders: {{opnai: {{}}, openai: {{}}, azure: {{}}}}"
    assert main(["check", file(text)]) == 0  # the callback may meet it
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    known = "azure/east.example.com:443, openai"
    assert notes == [f"note: providers.opnai: no target of these settings has the provider 'opnai'; known: {known}"]


def test_check_tells_every_unknown_model_at_once(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "routes: {chat: {targets: [{model: nonsense, api_key: x}, {model: rubbish, api_key: x}]}}"
    assert main(["check", file(text)]) == 1
    problems = capsys.readouterr().err.splitlines()
    assert [name for name in ("nonsense", "rubbish") if not any(name in line for line in problems)] == []
    assert len(problems) == 2


def test_what_the_machine_itself_may_provide_is_a_note_and_no_problem(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    text = "routes: {chat: {targets: [{model: bedrock/anthropic.claude-3, aws_region_name: eu-west-1}]}}"
    assert main(["check", file(text)]) == 0
    told = capsys.readouterr()
    assert "AWS_ACCESS_KEY_ID" in told.out
    assert "bedrock/eu-west-1" in told.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routes: {chat: {targets: [{model: openai/x, wieght: 3}]}}", ["routes.chat.targets[0]", "wieght", "weight"]),
        ("routes: {chat: {targets: []}}", ["routes.chat.targets"]),
        (
            "routes: {chat: {targets: [openai/x], hedge: {after_seconds: 1}}}",
            ["hedge", "not available in this version"],
        ),
        ("routes: [", ["line"]),
        ("- a\n- b", ["list"]),
        (f"api_key: {PLANTED}", ["api_key"]),
    ],
)
def test_check_of_a_bad_file_says_where_and_what(
    file: Callable[[str], str], capsys: pytest.CaptureFixture[str], text: str, said: list[str]
) -> None:
    assert main(["check", file(text)]) == 1
    told = capsys.readouterr()
    assert [part for part in said if part not in told.err] == []
    assert told.out == ""
    assert PLANTED not in told.err
    assert "Traceback" not in told.err


def test_check_of_a_file_without_routes_is_fine(file: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", file("breaker: {open_seconds: 5}")]) == 0
    assert "no routes" in capsys.readouterr().out


def test_check_reads_json_too(file: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({"routes": {"chat": {"targets": [{"model": "openai/gpt-4o-mini", "api_key": PLANTED}]}}})
    assert main(["check", file(text, "settings.json")]) == 0
    assert PLANTED not in capsys.readouterr().out


def test_the_schema_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"].keys() == Settings.model_fields.keys()
    assert main(["schema", "--scenario"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"].keys() == Scenario.model_fields.keys()


def test_a_simulation_prints_what_callers_would_have_noticed(
    file: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = {
        "about": "half a minute without one",
        "lasts_seconds": 60,
        "settings": {"routes": {"chat": {"targets": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]}}},
        "providers": {"openai": {"outages": [{"at_seconds": 10, "lasts_seconds": 30}]}},
    }
    told, picture = file(json.dumps(scenario), "scenario.json"), tmp_path / "timeline.svg"
    assert main(["simulate", told, "--baseline", "none", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "half a minute without one (seed 1)" in text
    assert "100 %" in text
    assert picture.read_text().startswith("<svg ")
    assert main(["simulate", told, "--seed", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["policies"][0]["availability"]) == (4, 1.0)
    assert main(["simulate", told, "--baseline", "nginx"]) == 1
    assert "there is no baseline 'nginx'" in capsys.readouterr().err
    for bad, why in ((tmp_path / "none" / "x.svg", "No such file"), (tmp_path, "Is a directory")):
        assert main(["simulate", told, "--picture", str(bad)]) == 1
        shown = capsys.readouterr()
        assert why in shown.err
        assert shown.out == "", "told before the run"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["simulate"], "FILE"),
        (["simulate", "gray"], "scenarios that ship: flapping, fleet, grey"),
        (["simulate", ""], "no such file"),
        (["simulate", "grey", "--seed", "-1"], "a whole number"),
        (["chekc"], "'check'"),
        (["frobnicate"], "demo, check, schema"),
        (["check"], "FILE"),
        (["check", "/does/not/exist.yaml"], "no such file"),
        (["check", ""], "no such file"),
        (["check", "a", "b"], "unrecognized arguments"),
        (["demo", "--seconds", "fast"], "5 to 42"),
        (["demo", "--seconds", "3600"], "5 to 42"),
        (["demo", "--seconds", "nan"], "5 to 42"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_status_two(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_no_arguments_and_help_list_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert [command for command in ("demo", "check", "schema") if command not in told] == []


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"resilience {resilience.__version__}\n"


def test_the_module_runs_like_the_script_and_help_loads_no_litellm() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['resilience', '--help']\n"
        "try: runpy.run_module('resilience', run_name='__main__')\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in {'litellm', 'openai', 'rich'}]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: resilience")


def test_a_name_that_the_terminal_cannot_show_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("routes: {größe: {targets: [{model: openai/gpt-4o-mini, api_key: x}]}}", encoding="utf-8")
    environ = {"PYTHONIOENCODING": "ascii", "PATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-m", "resilience", "check", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_that_closes_early_is_silent() -> None:
    code = (
        "import sys\nfrom resilience.ops.cli import main\nstatus = 0\n"
        "while not status: status = main(['schema'])\nsys.exit(status)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as done:
        assert done.stdout is not None
        done.stdout.readline()
        done.stdout.close()
        assert done.stderr is not None
        assert done.stderr.read() == ""
    assert done.returncode == 141
