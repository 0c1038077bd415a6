"""The demo as people run it: a process of its own, real HTTP, and numbers that have to add up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

SECONDS = "6"
COUNTS = re.compile(
    r"requests (\d+), answered (\d+), interrupted (\d+), failed (\d+), failed while a provider was up (\d+)"
)

# A runtime that spoils every tenth question. The demo has to notice by itself.
SPOILED = """
import sys
from resilience.ops.demo import _open_runtime, run_demo
from resilience.ops.story import ROUTE

class Spoiled:
    def __init__(self, runtime):
        self.runtime, self.asked = runtime, 0
        self.snapshot, self.close = runtime.snapshot, runtime.close

    async def acompletion(self, model, messages, *, stream=False):
        self.asked += 1
        answer = await self.runtime.acompletion(model, messages, stream=stream)
        if model == ROUTE and self.asked % 10 == 0:
            {spoil}
        return answer

sys.exit(run_demo(5, plain=True, open_runtime=lambda settings, sink: Spoiled(_open_runtime(settings, sink))))
"""


def environment() -> dict[str, str]:
    # As a stranger's shell: nothing set for LiteLLM, the demo has to see to it.
    return {key: value for key, value in os.environ.items() if not key.startswith("LITELLM")}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment(), check=False, timeout=110
    )


def counts(output: str) -> tuple[int, ...]:
    found = COUNTS.search(output)
    assert found is not None, output
    return tuple(map(int, found.groups()))


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    return run("-m", "resilience", "demo", "--seconds", SECONDS)


def test_every_request_is_answered_or_honestly_interrupted(finished: subprocess.CompletedProcess[str]) -> None:
    requests, answered, interrupted, failed, lost = counts(finished.stdout)
    assert (finished.returncode, failed, lost) == (0, 0, 0), finished.stdout
    assert answered == requests - interrupted
    assert requests > 40
    assert interrupted < requests / 4


def test_broken_providers_are_taken_out_and_the_calm_ones_serve(finished: subprocess.CompletedProcess[str]) -> None:
    lines = finished.stdout.splitlines()
    down = next(number for number, line in enumerate(lines) if "== openai down:" in line)
    assert any("gpt-4o-mini is out" in line for line in lines[down:])
    assert any(re.search(r"claude-haiku-4-5 is (out|overdue)", line) for line in lines)
    assert any("429" in line and "gpt-4o-mini is out" in line for line in lines)
    rows = [line for line in lines if line.startswith("openai down ")]
    assert rows
    assert "anthropic" in rows[0]


def test_without_a_terminal_it_prints_lines_and_nothing_else(finished: subprocess.CompletedProcess[str]) -> None:
    assert "\x1b" not in finished.stdout
    assert finished.stdout.isascii()
    assert finished.stderr == ""
    assert finished.stdout.count(" == ") == 9


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param("raise ConnectionResetError('spoiled')", "ConnectionResetError", id="raises"),
        pytest.param(
            "if not stream: answer.choices[0].message.content = 'half'",
            "half an answer",
            id="loses half an answer in silence",
        ),
    ],
)
def test_a_request_that_fails_while_a_provider_is_up_makes_the_status_one(spoil: str, error: str) -> None:
    done = run("-c", SPOILED.replace("{spoil}", spoil))
    requests, answered, interrupted, failed, lost = counts(done.stdout)
    assert done.returncode == 1, done.stdout
    assert lost == failed > 0
    assert answered + interrupted + failed == requests
    assert error in done.stdout


def started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "resilience", "demo", "--seconds", "30", "--plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_ctrl_c_ends_it_with_the_summary_of_what_there_was() -> None:
    with started() as demo:
        assert demo.stdout is not None
        while "== openai down" not in demo.stdout.readline():
            assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        output, complaints = demo.communicate(timeout=60)
    requests, answered, interrupted, failed, _ = counts(output)
    assert demo.returncode == 130
    assert complaints == ""
    assert requests == answered + interrupted + failed


def test_ctrl_c_before_it_has_begun_leaves_no_traceback() -> None:
    with started() as demo:
        assert demo.stdout is not None
        demo.stdout.readline()  # it is loading LiteLLM now
        demo.send_signal(signal.SIGINT)
        _, complaints = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in complaints


def test_a_reader_that_leaves_ends_it_in_silence() -> None:
    with started() as demo:
        assert demo.stdout is not None
        while "==" not in demo.stdout.readline():
            assert demo.poll() is None
        demo.stdout.close()
        assert demo.stderr is not None
        complaints = demo.stderr.read()
        demo.wait(timeout=60)
    assert (demo.returncode, complaints) == (141, "")
