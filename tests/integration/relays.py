"""A network between a process and its store: it may speak TLS, be late, fall silent, or hang up."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from resilience.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    import ssl

_CHUNK = 1 << 16


class Relay:
    """Passes connections to 127.0.0.1 on to a port of the same machine.

    Args:
        port: Where they go.
        context: The TLS that callers must speak; None for none. Behind it the bytes are plain.
        lag_seconds: How late each piece comes, in either direction.
        cuts_after: After so many pieces a connection is cut; None for never.

    Attributes:
        port: Where it listens.
        connections: How many have come.
    """

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None = None,
        *,
        lag_seconds: float = 0.0,
        cuts_after: int | None = None,
    ) -> None:
        self.connections = 0
        self.cuts_after = cuts_after
        self._to = ("127.0.0.1", port)
        self._context = context
        self._lag_seconds = lag_seconds
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self._closed = False

    def silence(self) -> None:
        """Let nothing pass; nobody is told, as in a partition."""
        self._passing.clear()

    def mend(self) -> None:
        """Let everything pass again, what was held back first."""
        self._passing.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._passing.set()
        self._listener.close()
        for wire in list(self._open):
            _hang_up(wire)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        try:
            near = wire if self._context is None else self._context.wrap_socket(wire, server_side=True)
            far = socket.create_connection(self._to)
        except OSError:  # a handshake that failed is one of the things to be tested
            _hang_up(wire)
            return
        self._open |= {near, far}
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        pieces = 0
        with contextlib.suppress(OSError, ValueError):
            while (data := source.recv(_CHUNK)) and not self._closed:
                SYSTEM_CLOCK.sleep(self._lag_seconds)
                self._passing.wait()
                pieces += 1
                if self.cuts_after is not None and pieces > self.cuts_after:
                    break
                sink.sendall(data)
        for wire in (source, sink):
            self._open.discard(wire)
            _hang_up(wire)


def _hang_up(wire: socket.socket) -> None:
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()
