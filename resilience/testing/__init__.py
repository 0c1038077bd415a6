"""The shipped test kit: providers that fail as they are told, with or without a network, and virtual time."""

from __future__ import annotations

from resilience.testing.clock import ManualClock
from resilience.testing.faults import Fault
from resilience.testing.loop import DeadlockError, VirtualClock, VirtualTimeLoop, run_virtual
from resilience.testing.outages import Outage, outage
from resilience.testing.provider import LoopbackProvider
from resilience.testing.recording import Recording, record_events
from resilience.testing.schedule import Schedule, flapping
from resilience.testing.upstream import Fail, Say, ScriptedUpstream

__all__ = [
    "DeadlockError",
    "Fail",
    "Fault",
    "LoopbackProvider",
    "ManualClock",
    "Outage",
    "Recording",
    "Say",
    "Schedule",
    "ScriptedUpstream",
    "VirtualClock",
    "VirtualTimeLoop",
    "flapping",
    "outage",
    "record_events",
    "run_virtual",
]
