"""The shipped test kit: a provider on loopback HTTP and the faults it can be told to have."""

from __future__ import annotations

from resilience.testing.faults import Fault
from resilience.testing.provider import LoopbackProvider

__all__ = ["Fault", "LoopbackProvider"]
