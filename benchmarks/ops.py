"""What do metrics and traces cost an attempt, and how fast is the page?"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, Table, arguments, deliver
from benchmarks.rounds import awaiting, calling, measure
from benchmarks.upstream import ImmediateUpstream
from resilience import MultiProviderFallback
from resilience.events import AttemptFailed, AttemptSucceeded, CircuitOpened, FallbackTaken
from resilience.outcome import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

QUESTION = "What do metrics and traces cost an attempt, and how fast is the page?"
METHOD = (
    "Sinks are called with one event again and again. Requests go through the engine to an upstream that answers at "
    "once, with and without an observer; the difference is taken within each round. The page is opened in headless "
    "Chromium on the same machine, in a browser that has opened it before; a state change is timed from the call "
    "that isolates a breaker to the change in the document."
)
SETTINGS = {"routes": {"chat": {"targets": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]}}, "warm": False}
ASK: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
EVENTS = {
    "attempt succeeded": AttemptSucceeded("chat", "gpt", "openai", 0.3, 1, stream=False),
    "attempt succeeded, stream": AttemptSucceeded("chat", "gpt", "openai", 0.3, 1, stream=True),
    "attempt failed": AttemptFailed("chat", "gpt", "openai", Kind.TIMEOUT, None, "Timeout", None, 9.0, 1, stream=False),
    "fallback taken": FallbackTaken("chat", "gpt", "claude", Kind.TIMEOUT),
    "circuit opened": CircuitOpened("gpt", "openai", "failure_rate", Kind.TIMEOUT, 5, 20, 0.25, 10.0, 2),
}


def sinks(rounds: int, calls: int) -> Table:
    """One event into each sink."""
    from prometheus_client import CollectorRegistry

    from resilience.ops.journal import Journal
    from resilience.ops.traffic import Traffic
    from resilience.telemetry.metrics import Metrics

    heard = {
        "metrics": Metrics(CollectorRegistry()).hear,
        "page's journal": Journal().hear,
        "page's minute": Traffic().hear,
    }
    cases = {
        (sink, name): calling(lambda hear=hear, event=event: hear(event), calls)
        for sink, hear in heard.items()
        for name, event in EVENTS.items()
    }
    found = measure({f"{sink}: {name}": case for (sink, name), case in cases.items()}, rounds)
    table = Table("Sinks", ("sink: event", "ns an event", "±", "goal, ns"))
    for name, sample in found.items():
        goal = 3000 if name.startswith("metrics: attempt") else None
        table.add(name, sample.median, sample.deviation, goal)
    return table


def observers(rounds: int, calls: int) -> Table:
    """A request of one attempt, with each observer."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
    from opentelemetry.trace import NoOpTracerProvider
    from prometheus_client import CollectorRegistry

    from resilience.ops.traffic import Traffic
    from resilience.telemetry.metrics import Metrics
    from resilience.telemetry.tracing import Tracing

    kinds: dict[str, Any] = {
        "nobody": None,
        "metrics": Metrics(CollectorRegistry()),
        "page's minute": Traffic(names=("chat",)),
        "tracing, no SDK": Tracing(NoOpTracerProvider()),
        "tracing, sampled out": Tracing(TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)),
        "tracing, recording": Tracing(TracerProvider(shutdown_on_exit=False)),
    }
    runtimes = {}
    for name, observer in kinds.items():
        runtimes[name] = MultiProviderFallback(SETTINGS, upstream=ImmediateUpstream(), sinks=())  # type: ignore[arg-type]  # all that is asked of it
        if observer is not None:
            runtimes[name].observe(observer)
    with asyncio.Runner() as runner:
        cases = {f"sync {name}": calling(runtime.completion, calls, **ASK) for name, runtime in runtimes.items()}
        cases |= {f"async {name}": awaiting(runner, one.acompletion, calls, **ASK) for name, one in runtimes.items()}
        found = measure(cases, rounds)
    table = Table(
        "A request of one attempt, observed",
        ("observer", "ns", "ns over nobody", "±", "goal, ns over"),
        note="`nobody` is the engine alone. An observer also makes the engine build an event for each attempt.",
    )
    for name, sample in found.items():
        over = sample.over(found[f"{name.split()[0]} nobody"])
        table.add(name, sample.median, over.median, over.deviation, 5000 if name.endswith("no SDK") else None)
    return table


def unrecorded_attempts(rounds: int, calls: int) -> Table:
    """An attempt of a request that is not recorded: the upstream, with and without tracing around it."""
    from opentelemetry.trace import NoOpTracerProvider

    from resilience.telemetry.tracing import Tracing

    upstream: Any = ImmediateUpstream()
    traced: Any = Tracing(NoOpTracerProvider()).upstream(upstream)
    ask = (None, None, None, None)
    with asyncio.Runner() as runner:
        cases = {
            "sync bare": calling(lambda: upstream.call(*ask), calls),
            "sync traced": calling(lambda: traced.call(*ask), calls),
            "async bare": awaiting(runner, lambda: upstream.acall(*ask), calls),
            "async traced": awaiting(runner, lambda: traced.acall(*ask), calls),
        }
        found = measure(cases, rounds)
    table = Table(
        "An attempt that is not recorded",
        ("attempt", "ns", "ns over bare", "±", "goal, ns over"),
        note="The span of the request itself is started once, whatever its attempts; that costs what the SDK takes "
        "for it, and is in the table above.",
    )
    for mode in ("sync", "async"):
        over = found[f"{mode} traced"].over(found[f"{mode} bare"])
        table.add(f"{mode} traced", found[f"{mode} traced"].median, over.median, over.deviation, 5000)
    return table


def page(loads: int) -> Table:
    """The page in a browser."""
    from resilience.ops.app import PAGE

    table = Table("The page", ("what", "median", "worst", "goal"))
    table.add("bytes in all", sum(file.stat().st_size for file in PAGE.iterdir()), None, 60 * 1024)
    try:
        paints, changes = seen(loads)
    except ImportError:
        paints, changes = [], []
    if paints:
        table.add("first paint, ms", statistics.median(paints), max(paints), 200)
        table.add("state change to page, ms", statistics.median(changes), max(changes), 500)
    return table


def seen(loads: int) -> tuple[list[float], list[float]]:
    """First paints and delays of state changes in milliseconds; empty without a browser."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        return [], []
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    paints, changes = [], []
    with serving() as (runtime, url):
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            browser.set_script_timeout(20)
            browser.get(url)
            for number in range(loads):
                browser.get("about:blank")
                browser.get(url)
                time.sleep(0.5)
                painted = browser.execute_script("return performance.getEntriesByName('first-paint')[0].startTime")
                paints.append(float(painted))
                browser.execute_script(_WATCH)
                time.sleep(0.05 + 0.083 * number % 1.0)
                started = time.time() * 1000  # noqa: TID251 (the browser has the same wall clock, and no other in common)
                runtime.registry.targets["openai/gpt-4o-mini"].isolate("benchmark")
                changes.append(float(browser.execute_async_script(_SEEN)) - started)
                runtime.registry.targets["openai/gpt-4o-mini"].reset()
        finally:
            browser.quit()
    return paints, changes


_WATCH = """
window.seen = new Promise((done) => new MutationObserver(() => {
  if (document.getElementById("headline").textContent.includes("isolated")) done(Date.now());
}).observe(document.body, {subtree: true, childList: true, characterData: true}));
"""
_SEEN = "const done = arguments[0]; window.seen.then(done);"


@contextlib.contextmanager
def serving() -> Iterator[tuple[MultiProviderFallback, str]]:
    """The ops app in a thread."""
    from resilience.ops.serve import Server, address, listen

    runtime = MultiProviderFallback(SETTINGS, upstream=ImmediateUpstream(), sinks=())  # type: ignore[arg-type]  # as above
    listener = listen("127.0.0.1", 0)
    server = Server(runtime, drain_seconds=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield runtime, address(listener)
    finally:
        server.app.state.ops.draining = True
        server.should_exit = True
        thread.join()


def main() -> None:
    options = arguments(QUESTION).parse_args()
    quick = options.quick
    tables = [sinks(*((1, 100) if quick else (31, 2000))), observers(*((1, 20) if quick else (31, 300)))]
    tables.append(unrecorded_attempts(*((1, 100) if quick else (31, 2000))))
    tables.append(page(1 if quick else 15))
    deliver(Report("ops", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
