"""Decorated signatures survive: a type checker sees the same function before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_api_as_users_write_it_passes_the_strict_type_check() -> None:
    api = Path(__file__).with_name("api.py")
    root = api.parents[2]
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(root / "pyproject.toml"), str(api)],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
