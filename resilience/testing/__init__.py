"""The shipped test kit: providers that fail as they are told, without a network or on loopback HTTP."""

from __future__ import annotations

from resilience.testing.clock import ManualClock
from resilience.testing.faults import Fault
from resilience.testing.outages import Outage, outage
from resilience.testing.provider import LoopbackProvider
from resilience.testing.recording import Recording, record_events
from resilience.testing.schedule import Schedule, flapping
from resilience.testing.upstream import Fail, Say, ScriptedUpstream

__all__ = [
    "Fail",
    "Fault",
    "LoopbackProvider",
    "ManualClock",
    "Outage",
    "Recording",
    "Say",
    "Schedule",
    "ScriptedUpstream",
    "flapping",
    "outage",
    "record_events",
]
