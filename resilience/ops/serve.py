"""`resilience serve`: the ops app on a socket of its own, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from math import inf
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError
from resilience.ops.gate import SYNTAX, VARIABLE, is_loopback, read_tokens
from resilience.runtime import MultiProviderFallback

try:
    import uvicorn

    from resilience.ops.app import create_app
    from resilience.ops.connection import Connection
    from resilience.ops.leaving import NOTICE_SECONDS, Farewell, notice
except ImportError as error:
    raise ConfigurationError("serve needs the extra: pip install 'litellm-resilience[ops]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from resilience.ops.gate import Token
    from resilience.settings import Settings

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
DRAIN_SECONDS: Final = 30.0
# Sockets beyond this many get a 503: five hundred readers of events, and room for everybody else.
MAX_CONNECTIONS: Final = 1000
_MAX_HEAD_BYTES: Final = 16_384
_BACKLOG: Final = 2048


def run_serve(
    config: Settings | Mapping[str, Any] | str | os.PathLike[str] | None,
    *,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    drain_seconds: float = DRAIN_SECONDS,
    notice_seconds: float = NOTICE_SECONDS,
    tell: Callable[[str], None] = print,
) -> int:
    """Serve until SIGTERM or SIGINT; then say so, answer what is on its way, and leave. A second one ends it at once.

    Args:
        config: As for `MultiProviderFallback`.
        host: Where to listen. Anything but this machine needs a token in ``RESILIENCE_TOKEN``.
        port: 0: whatever the system gives.
        drain_seconds: How long requests on their way may take after that.
        notice_seconds: How long ``/ready`` says 503 after the signal while everything is served on. Nobody has asked it
            in the last minute, or Ctrl-C on a terminal: no time at all.
        tell: Hears the address.

    Returns:
        0.

    Raises:
        ConfigurationError: The settings, the tokens or the address are wrong.
    """
    tokens = read_tokens(os.environ.get(VARIABLE))
    check_address(host, tokens)
    _log_with_times()
    listener = listen(host, port)
    try:
        with MultiProviderFallback(config) as runtime:
            server = Server(runtime, tokens, drain_seconds=drain_seconds, notice_seconds=notice_seconds)
            tell(f"resilience serves {address(listener)} ({_who_may(tokens)}; stop with Ctrl-C)")
            server.run(sockets=[listener])
    finally:
        listener.close()
    return 0


def check_address(host: str, tokens: Sequence[Token]) -> None:
    """Refuse to let strangers in.

    Raises:
        ConfigurationError: The address is open to others and there is no token.
    """
    if not tokens and not is_loopback(host):
        raise ConfigurationError(
            f"serve: refuses to listen on {host!r} without a token, because others could reach it; "
            f"set {VARIABLE} ({SYNTAX}), or listen on {DEFAULT_HOST}"
        )


def listen(host: str, port: int) -> socket.socket:
    """Open the socket.

    Raises:
        ConfigurationError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)  # whoever comes before the server runs waits, and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"serve: cannot listen on {host} port {port}: {why}") from error
    return listener


def address(listener: socket.socket) -> str:
    """Where it listens, as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn with our limits, and a drain: readiness goes first, streams of events end, requests are answered."""

    def __init__(
        self,
        runtime: MultiProviderFallback,
        tokens: Sequence[Token] = (),
        *,
        drain_seconds: float = DRAIN_SECONDS,
        notice_seconds: float = NOTICE_SECONDS,
    ) -> None:
        self.app = create_app(runtime, tokens=tokens)
        self._notice_seconds = notice_seconds
        self._leaves_at = inf
        super().__init__(
            uvicorn.Config(
                Farewell(self.app, lambda: self.should_exit),
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            )
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal: be ready for nobody, end the streams of events, and leave when that has been noticed."""
        del frame
        ops = self.app.state.ops
        if ops.draining:  # not the first: somebody does not want to wait
            self.should_exit = self.force_exit = True
            return
        ops.draining = True
        self._leaves_at = SYSTEM_CLOCK.monotonic() + notice(sig, self._notice_seconds, ops.since_asked_ready())

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is it time to leave?"""
        self.should_exit = self.should_exit or SYSTEM_CLOCK.monotonic() >= self._leaves_at
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear the signals; unlike uvicorn's own, do not die of them afterwards: a drained server left in peace."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, action in before.items():
                signal.signal(sig, action)


def _log_with_times() -> None:
    """Where nobody has configured logging: when each line was written, and recoveries as well as outages."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("resilience", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        if not logger.hasHandlers():
            logger.addHandler(handler)
            logger.setLevel(level)


def _who_may(tokens: Sequence[Token]) -> str:
    return f"{len(tokens)} tokens" if len(tokens) > 1 else "with a token" if tokens else "this machine only"
