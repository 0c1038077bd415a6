"""The operator's commands: serve, status, isolate, reset and ops-files, as the command line offers them."""

from __future__ import annotations

import json
import signal
import sys
import threading
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilience.clock import SYSTEM_CLOCK
from resilience.errors import ConfigurationError, ResilienceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Command = Callable[[argparse.Namespace], int]
    Look = Callable[[], tuple[str, str]]

OK: Final = 0
DOWN: Final = 1
_CLEAR: Final = "\x1b[H\x1b[2J"
_WATCH_SECONDS: Final = 1.0


def add_commands(commands: Any, *, default_host: str = "127.0.0.1", default_port: int = 8000) -> None:
    """Add the parsers of these commands to the command line's."""
    serve = commands.add_parser(
        "serve",
        help="serve the page, health, events, metrics and /process over HTTP",
        description="Serves a runtime of FILE: a page at /, /health, /ready, /breakers, /events, /metrics and "
        "POST /process. Only this machine may ask unless RESILIENCE_TOKEN holds tokens: admin:TOKEN for full rights, "
        "read:TOKEN for looking only, several separated by commas. SIGTERM: /ready says 503 while everything is still "
        "served, then what is on its way is answered; a second one ends it at once.",
    )
    serve.add_argument("file", metavar="FILE", nargs="?", help="a YAML or JSON file (default: RESILIENCE_CONFIG)")
    serve.add_argument("--host", default=default_host, help=f"where to listen (default {default_host})")
    serve.add_argument("--port", type=_port, default=default_port, help=f"default {default_port}; 0: any free one")
    serve.add_argument(
        "--notice-seconds",
        type=_patience,
        default=5.0,
        metavar="N",
        help="how long /ready says 503 after SIGTERM before the server leaves (5; none where nobody has asked it in "
        "the last minute, or at Ctrl-C on a terminal)",
    )
    serve.add_argument(
        "--drain-seconds", type=_patience, default=30.0, metavar="N", help="how long requests may end after that (30)"
    )

    status = commands.add_parser(
        "status",
        help="who is out, why, since when, until when, who serves instead",
        description="Shows where a running server's breakers and routes stand. Exit status 1: some route has nobody "
        "to serve it, the server or store cannot be reached, or what stands in the store cannot be read.",
    )
    status.add_argument("--json", action="store_true", help="the server's own document")
    status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    _add_where(status)

    for name, what in (
        ("isolate", "take a provider or target out of rotation until somebody resets it"),
        ("reset", "put a provider or target back into rotation, its history forgotten"),
    ):
        parser = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
        parser.add_argument("name", metavar="NAME", help="the provider's or target's name")
        parser.add_argument("--kind", choices=("provider", "target"), help="where both have that name")
        if name == "isolate":
            parser.add_argument("--reason", default="", help="why, for whoever looks next")
        _add_where(parser)

    written = commands.add_parser(
        "ops-files",
        help="write alert rules, a Grafana dashboard and deployment files to a directory",
        description="Writes Prometheus alert rules, a Grafana dashboard, a Kubernetes Deployment, a container file "
        "and the set-up beside LiteLLM Proxy. Files that are there already are left alone, unless --force.",
    )
    written.add_argument("directory", metavar="DIR")
    written.add_argument("--force", action="store_true", help="replace files that are there already")


def serve(chosen: argparse.Namespace) -> int:
    """Serve until a signal."""
    if chosen.file is not None and not Path(chosen.file).expanduser().is_file():
        raise ConfigurationError(f"serve: {chosen.file}: there is no such file")
    from resilience.ops.serve import run_serve

    return run_serve(
        chosen.file,
        host=chosen.host,
        port=chosen.port,
        drain_seconds=chosen.drain_seconds,
        notice_seconds=chosen.notice_seconds,
        tell=lambda line: print(line, flush=True),
    )


def status(chosen: argparse.Namespace) -> int:
    """Show where everything stands, at a server or in a fleet's store."""
    _one_place(chosen)
    look = _fleet_look(chosen) if chosen.storage is not None else _server_look(chosen)
    stopped = _remember_ctrl_c() if chosen.watch else []
    while True:
        try:
            text, tone = look()
        except ResilienceError as error:
            if not chosen.watch:
                raise
            text, tone = f"resilience: {error}", "bad"
        print((_CLEAR if chosen.watch and not chosen.json and sys.stdout.isatty() else "") + text, flush=True)
        if not chosen.watch:
            return DOWN if tone == "bad" else OK
        SYSTEM_CLOCK.sleep(_WATCH_SECONDS)
        if stopped:
            raise KeyboardInterrupt


def _remember_ctrl_c() -> list[int]:
    """Note each Ctrl-C down as well as raising it: one that comes inside a finalizer is swallowed by Python."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    return seen


def isolate(chosen: argparse.Namespace) -> int:
    """Take one out of rotation."""
    return _steer(chosen, "isolate", {"reason": chosen.reason} if chosen.reason else {})


def reset(chosen: argparse.Namespace) -> int:
    """Put one back."""
    return _steer(chosen, "reset", {})


def ops_files(chosen: argparse.Namespace) -> int:
    """Write the files that ship with the package."""
    place = Path(chosen.directory)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for source in sorted(files("resilience.ops").joinpath("files").iterdir(), key=lambda file: file.name):
            goal = place / source.name
            if goal.exists() and not chosen.force:
                print(f"{goal} is there already; left alone (--force replaces it)")
                continue
            goal.write_bytes(source.read_bytes())
            print(goal)
    except OSError as error:
        raise ConfigurationError(f"ops-files: cannot write to {place}: {error.strerror}") from error
    return OK


COMMANDS: Final[dict[str, Command]] = {
    "serve": serve,
    "status": status,
    "isolate": isolate,
    "reset": reset,
    "ops-files": ops_files,
}


def _steer(chosen: argparse.Namespace, action: str, body: dict[str, str]) -> int:
    _one_place(chosen)
    from resilience.ops.status import harmless

    if chosen.storage is not None:
        from resilience.ops.fleet import steer_fleet

        one = steer_fleet(
            chosen.storage,
            action,
            chosen.name,
            kind=chosen.kind,
            reason=body.get("reason", ""),
            warn=lambda line: print(harmless(f"resilience: {line}"), file=sys.stderr),
        )
        print(
            harmless(f"{one.kind} {one.name} is {one.state} in the fleet" + (f": {one.reason}" if one.reason else ""))
        )
        return OK
    from resilience.ops.remote import Remote

    now = Remote(chosen.url).steer(action, chosen.name, chosen.kind, body)
    print(harmless(f"{now['role']} {now['name']} is {now['state']}" + (f": {now['reason']}" if now["reason"] else "")))
    return OK


def _shown(document: dict[str, Any], *, as_json: bool) -> str:
    from resilience.ops.status import render

    return json.dumps(document) if as_json else render(document)


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="a running server (default: RESILIENCE_URL, else http://127.0.0.1:8000)")
    parser.add_argument("--storage", metavar="URL", help="instead: a fleet's store, such as redis://host:6379")


def _one_place(chosen: argparse.Namespace) -> None:
    if chosen.storage is not None and chosen.url is not None:
        raise ConfigurationError("--url and --storage exclude each other; give one place to ask")


def _server_look(chosen: argparse.Namespace) -> Look:
    from resilience.ops.remote import Remote

    remote = Remote(chosen.url)

    def look() -> tuple[str, str]:
        document = remote.status()
        return _shown(document, as_json=chosen.json), document["headline"]["tone"]

    return look


def _fleet_look(chosen: argparse.Namespace) -> Look:
    from resilience.ops.fleet import as_json, read_fleet, render

    def look() -> tuple[str, str]:
        found = read_fleet(chosen.storage)
        # Which process serves which route is not in the store, so nothing here says that a route has nobody. But
        # nobody may take "I cannot read it" for "all is well".
        return (as_json if chosen.json else render)(found), "bad" if found.unreadable else "good"

    return look


def _port(text: str) -> int:
    import argparse

    if not (text.isascii() and text.isdigit() and int(text[:6]) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: 0 to 65535")
    return int(text)


def _patience(text: str) -> float:
    import argparse

    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: 0 to 3600")
    return seconds
