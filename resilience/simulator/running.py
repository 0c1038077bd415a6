"""Running a scenario: under the engine, and under each baseline that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilience.errors import UnknownNameError
from resilience.simulator import baselines
from resilience.simulator.findings import findings_of
from resilience.simulator.report import Simulation
from resilience.simulator.scenario import Scenario
from resilience.simulator.world import World

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

RESILIENCE: Final = "resilience"
"""What the engine is called beside the baselines."""
BASELINES: Final[Mapping[str, type[baselines.Baseline]]] = {one.name: one for one in baselines.ALL}
"""Baselines by name."""
SHIPPED: Final[Mapping[str, Path]] = {
    path.stem: path for path in sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
}
"""Scenarios that ship with the package, by name."""


def simulate(
    scenario: Scenario | Mapping[str, Any] | str | os.PathLike[str],
    *,
    seed: int | None = None,
    baselines: Iterable[str] = (),
) -> Simulation:
    """Run a scenario under this package, and under baselines with the same arrivals, outages and luck.

    Args:
        scenario: A `Scenario`, a mapping, or a YAML or JSON file.
        seed: Of all chance, instead of the scenario's own. The same seed gives the same result to the byte.
        baselines: Names of `BASELINES`.

    Raises:
        ConfigurationError: The scenario is wrong, or there is no such baseline.
    """
    loaded = Scenario.load(scenario)
    chosen = loaded.seed if seed is None else seed
    names = list(dict.fromkeys(baselines))
    for name in names:
        if name not in BASELINES:
            raise UnknownNameError(f"there is no baseline {name!r}; allowed: {', '.join(BASELINES)}")
    first = World(loaded, chosen)
    first.run()
    found = [findings_of(RESILIENCE, first)]
    for name in names:
        world = World(loaded, chosen, BASELINES[name])
        world.run()
        found.append(findings_of(name, world))
    return Simulation(first, chosen, tuple(found))
