"""The command line: reads arguments, starts one command, and turns what goes wrong into one line and a status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NoReturn

from resilience.errors import ResilienceError
from resilience.ops import steering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OK: Final = 0
PROBLEMS: Final = 1
USAGE: Final = 2
# What shells report for a program that SIGINT or SIGPIPE ended.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

SHORTEST_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 42.0
DEFAULT_SECONDS: Final = 36.0


class UsageError(Exception):
    """The command was called in a way that it does not know."""


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake becomes one line instead of a page."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; None: those of this process.

    Returns:
        0: all is well. 1: problems, which were told. 2: wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A name in settings may hold any letter; a terminal of another encoding shows a stand-in instead of failing.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper, mostly
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except UsageError as error:
        return _complain(str(error), USAGE)
    except ResilienceError as error:
        return _complain(f"resilience: {error}", PROBLEMS)
    except KeyboardInterrupt:
        return _complain("resilience: stopped", INTERRUPTED)
    return status


def _run(arguments: list[str]) -> int:
    parser = _parser()
    if not arguments:
        parser.print_help()
        return OK
    if not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        raise UsageError(f"resilience: {arguments[0]!r} is not a command; {_guess(arguments[0])}")
    try:
        chosen = parser.parse_args(arguments)
    except SystemExit as done:  # --help and --version print and leave
        return done.code if isinstance(done.code, int) else OK
    if chosen.command is None:
        parser.print_help()
        return OK
    return _COMMANDS[chosen.command](chosen)


def _guess(word: str) -> str:
    near = get_close_matches(word, _COMMANDS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(_COMMANDS)}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="resilience",
        description="As long as one of your LLM providers works, your call works, and you can see why.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and leave")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="", parser_class=_Parser)

    demo = commands.add_parser(
        "demo",
        help="watch it work: three local providers break one after the other under real traffic",
        description="Starts three providers on 127.0.0.1, sends real LiteLLM traffic, breaks the providers one after "
        "the other and shows what happens. Needs no keys and no network. Exit status 1: a request failed while a "
        "provider was up.",
    )
    demo.add_argument(
        "--seconds",
        type=_seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help=f"how long, {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} (default {DEFAULT_SECONDS:g})",
    )
    demo.add_argument("--plain", action="store_true", help="plain lines instead of the live view")

    check = commands.add_parser(
        "check",
        help="check a settings file: routes, providers, missing keys",
        description="Checks a settings file and prints its routes with their targets, providers and limits. Sends "
        "nothing. Exit status 1: something is wrong with it or a key is missing.",
    )
    check.add_argument("file", metavar="FILE", help="a YAML or JSON file")

    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of the settings",
        description="Prints the JSON schema of the settings, or of a simulation's scenario, for editors and CI.",
    )
    schema.add_argument("--scenario", action="store_true", help="the scenario of `resilience simulate` instead")
    simulation = commands.add_parser(
        "simulate",
        help="try settings out on simulated outages, in virtual time",
        description="Runs the real engine and breakers in virtual time against providers that fail as the scenario "
        "says, and tells what callers would have noticed. The same seed gives the same result to the byte. Sends "
        "nothing.",
    )
    simulation.add_argument("file", metavar="FILE", help="a YAML or JSON file, or the name of a scenario that ships")
    simulation.add_argument("--seed", type=_seed, metavar="N", help="of all chance, instead of the scenario's own")
    simulation.add_argument("--json", action="store_true", help="JSON instead of text")
    simulation.add_argument("--picture", metavar="OUT.svg", help="also draw a timeline of every target")
    simulation.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="also run this in the same world; more than once, or 'all'",
    )
    steering.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """``--version``; the version is looked up only when somebody asks."""

    def __init__(self, option_strings: Sequence[str], **more: str | None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=more.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from resilience import __version__

        print(f"resilience {__version__}")
        parser.exit(OK)


def _seconds(text: str) -> float:
    allowed = f"a number from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g}"
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: {allowed}")
    return seconds


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: a whole number, 0 or more")
    return int(text)


def _demo(chosen: argparse.Namespace) -> int:
    from resilience.ops.demo import run_demo

    return run_demo(chosen.seconds, plain=chosen.plain)


def _check(chosen: argparse.Namespace) -> int:
    from resilience.ops.check import run_check

    if not os.path.exists(os.path.expanduser(chosen.file)):  # noqa: PTH110, PTH111 (Path() would fold "" into ".")
        raise UsageError(f"resilience check: {chosen.file}: there is no such file")
    return run_check(chosen.file)


def _schema(chosen: argparse.Namespace) -> int:
    import json

    if chosen.scenario:
        from resilience.simulator import Scenario as Described
    else:
        from resilience.settings import Settings as Described  # type: ignore[assignment]  # either has a schema
    print(json.dumps(Described.model_json_schema(), indent=2))
    return OK


def _simulate(chosen: argparse.Namespace) -> int:
    from resilience.ops.simulation import is_known, run_simulation, shipped

    if not is_known(chosen.file):
        raise UsageError(f"resilience simulate: {chosen.file}: there is no such file; scenarios that ship: {shipped()}")
    return run_simulation(
        chosen.file, seed=chosen.seed, as_json=chosen.json, picture=chosen.picture, baselines=chosen.baseline
    )


def _complain(line: str, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        print(line, file=sys.stderr)
    return status


def _drop_stdout() -> None:
    """Whoever read our output has left: nothing may complain about that at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "demo": _demo,
    "check": _check,
    "schema": _schema,
    "simulate": _simulate,
    **steering.COMMANDS,
}
