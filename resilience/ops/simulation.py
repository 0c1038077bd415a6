"""Simulating on the command line: finds the scenario, runs it, prints what came of it and draws the picture."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from resilience.errors import ConfigurationError
from resilience.simulator import BASELINES, SHIPPED, simulate
from resilience.simulator.picture import draw

if TYPE_CHECKING:
    from collections.abc import Sequence


def shipped() -> str:
    """The names of the scenarios that ship, as a part of a sentence."""
    return ", ".join(SHIPPED)


def is_known(file: str) -> bool:
    """Whether there is such a file, or a scenario by that name ships."""
    return file in SHIPPED or (file != "" and Path(file).expanduser().exists())


def run_simulation(file: str, *, seed: int | None, as_json: bool, picture: str | None, baselines: Sequence[str]) -> int:
    """Run one scenario.

    Args:
        file: A YAML or JSON file, or the name of a scenario that ships with the package.
        seed: Instead of the scenario's own.
        as_json: Print JSON.
        picture: Where to write the timeline.
        baselines: What to compare with; ``all`` means all.

    Returns:
        0.

    Raises:
        ConfigurationError: The scenario, a baseline's name or the picture's path is wrong.
    """
    if picture is not None:
        _check_writable(Path(picture).expanduser(), picture)
    names = list(BASELINES) if "all" in baselines else list(baselines)
    found = simulate(SHIPPED.get(file, file), seed=seed, baselines=names)
    print(found.as_json() if as_json else found.as_text(), end="\n" if as_json else "")
    if picture is not None:
        try:
            Path(picture).expanduser().write_text(draw(found), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--picture {picture}: {error.strerror}") from error
    return 0


def _check_writable(goal: Path, called: str) -> None:
    """Find out before a run of minutes what would only be told after it. Makes nothing: the run may fail."""
    place = goal if goal.exists() else goal.parent
    why = None
    if goal.is_dir():
        why = errno.EISDIR
    elif not goal.parent.is_dir():
        why = errno.ENOTDIR if goal.parent.exists() else errno.ENOENT
    elif not os.access(place, os.W_OK):
        why = errno.EACCES
    if why is not None:
        raise ConfigurationError(f"--picture {called}: {os.strerror(why)}")
