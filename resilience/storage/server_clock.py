"""Server time: turns the store's wall clock into this process's monotonic time."""

from __future__ import annotations

from typing import Final

# A better sample is believed for so long; after it any sample counts again, for clocks drift.
BELIEVED_SECONDS: Final = 60.0
# The server stamps whole milliseconds.
_GRAIN_SECONDS: Final = 0.001


class ServerClock:
    """Estimates the difference between the store's clock and ours from round trips, as NTP does.

    A sample's error is at most half its round trip, so the shortest round trip is believed. One that contradicts
    it by more than both errors together means that the server's clock was set, or that it is another server now.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._error = 0.0
        self._at = 0.0

    def sample(self, sent: float, received: float, server_ms: float) -> None:
        """Take one round trip into account.

        Args:
            sent: Monotonic time at which the request went out.
            received: Monotonic time at which the answer was here.
            server_ms: The server's wall clock in between, in milliseconds.
        """
        error = (received - sent) / 2 + _GRAIN_SECONDS
        offset = server_ms / 1000 - (sent + received) / 2
        if (
            self._offset is None
            or error <= self._error
            or received - self._at > BELIEVED_SECONDS
            or abs(offset - self._offset) > error + self._error
        ):
            self._offset, self._error, self._at = offset, error, received

    @property
    def is_set(self) -> bool:
        """Whether there has been a sample."""
        return self._offset is not None

    def local(self, server_ms: float) -> float:
        """The monotonic time of a moment of the server's."""
        return server_ms / 1000 - (self._offset or 0.0)

    def server_ms(self, local: float) -> int:
        """The server's time, in milliseconds, of a monotonic time."""
        return round((local + (self._offset or 0.0)) * 1000)
