"""Guesses: how often a wrong token may be tried. A right one is never asked to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from resilience.clock import Clock

_AT_ONCE: Final = 10
_SECONDS_EACH: Final = 6.0  # a scraper with an old token asks every 15 s: that may go on


class Guesses:
    """A bucket of tries that fills up again, for all senders together: one number, whoever guesses from wherever.

    It is asked about wrong tokens only, so that nobody can lock out somebody else.

    Args:
        clock: Where time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When the bucket will be full: the generic cell rate algorithm (ITU-T I.371).
        self._full_at = clock.monotonic()

    def wrong(self) -> float:
        """A wrong token came. Returns how many seconds to wait before the next; 0: it may come now."""
        now = self._clock.monotonic()
        full_at = max(self._full_at, now)
        wait = full_at - now - (_AT_ONCE - 1) * _SECONDS_EACH
        if wait > 0:
            return wait
        self._full_at = full_at + _SECONDS_EACH
        return 0.0
