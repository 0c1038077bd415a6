"""The simulator: the real engine on real breakers in virtual time, with providers that fail as told. One seed."""

from __future__ import annotations

from resilience.simulator.findings import Findings, Turn
from resilience.simulator.report import Simulation
from resilience.simulator.running import BASELINES, RESILIENCE, SHIPPED, simulate
from resilience.simulator.scenario import Scenario

__all__ = ["BASELINES", "RESILIENCE", "SHIPPED", "Findings", "Scenario", "Simulation", "Turn", "simulate"]
