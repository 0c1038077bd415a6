"""What does `import resilience` cost, and does it leave LiteLLM alone?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import measure

QUESTION = "What does `import resilience` cost, and does it leave LiteLLM alone?"
METHOD = (
    "Each import runs in a fresh interpreter with warm bytecode; the interpreters take turns in a shuffled order. "
    "Counted is the processor time of the whole process less that of an empty one in the same round, so that other "
    "work on the machine matters little."
)
ROOT = Path(__file__).parent.parent
_TELL = "import json, sys; print(json.dumps(sorted(name for name in sys.modules if '.' not in name)))"
CASES = {
    "nothing": "",
    "pydantic and one model": "from pydantic import BaseModel\nclass Model(BaseModel):\n    field: int = 1",
    "pybreaker": "import pybreaker",
    "structlog": "import structlog",
    "resilience": "import resilience",
    "resilience, without redis and tornado": "import sys\nsys.modules['redis'] = sys.modules['tornado'] = None\n"
    "import resilience",
    "resilience, settings built": "import resilience; resilience.Settings()",
    "resilience, runtime and decorators": "from resilience import MultiProviderFallback, protect",
    "litellm": "import litellm",
}


def spent(code: str) -> float:
    """Processor seconds of a fresh interpreter that runs ``code``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)  # noqa: S603 (our own interpreter)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{code!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def modules(code: str) -> set[str]:
    """The top-level modules that an interpreter has after ``code``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"{code}\n{_TELL}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    return set(json.loads(done.stdout))


def times(rounds: int, names: list[str]) -> Table:
    """Processor seconds over an empty interpreter."""
    found = measure({name: (lambda code=CASES[name]: spent(code)) for name in names}, rounds)
    table = Table(
        "Import",
        ("import", "s over an empty interpreter", "±", "x pydantic and one model", "goal, s"),
        note="What a breaker by itself has no need of, pydantic first of all, comes with its first use: the last two "
        "of ours show what that adds. "
        "Pydantic with one model is the floor of any package whose settings are pydantic models. pybreaker "
        "imports redis and tornado where they are installed; a plain installation of this package brings neither.",
    )
    floor = found["pydantic and one model"].over(found["nothing"])
    for name in names[1:]:
        over = found[name].over(found["nothing"])
        table.add(name, over.median, over.deviation, over.ratio(floor), 0.22 if name == "resilience" else None)
    return table


def loaded() -> Table:
    """What stands in ``sys.modules`` afterwards."""
    table = Table("Loaded", ("after `import resilience`", "in sys.modules"))
    there: Any = modules("import resilience")
    for name in ("litellm", "openai", "httpx", "asyncio", "pydantic", "structlog", "pybreaker", "tornado", "rich"):
        table.add(name, "yes" if name in there else "no")
    return table


def main() -> None:
    options = arguments(QUESTION).parse_args()
    names = [name for name in CASES if name != "litellm"] if options.quick else list(CASES)
    tables = [times(1 if options.quick else 7, names), loaded()]
    deliver(Report("imports", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
