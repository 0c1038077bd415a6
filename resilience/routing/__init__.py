"""Who is next: routes and the order in which a request walks their targets. Pure, no I/O, no health."""

from __future__ import annotations

from resilience.routing.route import Route, RoutedTarget
from resilience.routing.selection import rank

__all__ = ["Route", "RoutedTarget", "rank"]
