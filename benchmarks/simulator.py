"""Years of outages in virtual time: what does each policy save, what does it cost, and how fast is the simulator?"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from time import process_time
from typing import TYPE_CHECKING, Any

from benchmarks.report import RESULTS, Report, Table, arguments, deliver
from resilience.simulator import BASELINES, SHIPPED, Scenario, simulate
from resilience.simulator.picture import draw
from resilience.simulator.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

QUESTION = "Years of outages in virtual time: what does each policy save, and what does it cost?"
METHOD = (
    "`resilience simulate` runs the real engine, breakers and health registry against simulated providers in virtual "
    "time; the baselines stand in the same world with the same arrivals, incidents and luck. One year has ten "
    "incidents of two providers, drawn from published statistics (`resilience/simulator/traces.py` tells each number's "
    "source, and which are assumptions). Only the time around incidents is simulated: ten quiet minutes before each, "
    "and a quarter of an hour after. The same seed gives the same result to the byte, on any day. "
    "The first year as a timeline: [simulator-year.svg](simulator-year.svg)."
)
YEARS = tuple(range(2026, 2031))
SHORT_SECONDS = 30 * 86400.0
OTHERS = ("grey", "flapping", "one_model", "surge", "fleet")
SPEED_REQUESTS = 60_000


def year(seed: int, *, quick: bool = False) -> list[dict[str, Any]]:
    """One year under every policy."""
    told = Scenario.load(SHIPPED["two_providers_year"])
    if quick:
        told = shorter(told)
    found = simulate(told, seed=seed, baselines=list(BASELINES))
    return [asdict(one) for one in found.findings]


def shorter(told: Scenario) -> Scenario:
    """The same world in a month, with one incident each and less traffic."""
    data = told.model_dump(exclude_unset=True)
    data["lasts_seconds"] = SHORT_SECONDS
    data["traffic"] = {**data["traffic"], "per_second": 1.0}
    for provider in data["providers"].values():
        provider["trace"] = {**provider["trace"], "outages": 1, "longest_seconds": 1800.0}
    return Scenario.load(data)


def years(seeds: Sequence[int], *, quick: bool = False) -> dict[int, list[dict[str, Any]]]:
    """Every year under every policy; years do not know of each other, so each core takes its own."""
    if quick:
        return {seed: year(seed, quick=True) for seed in seeds}
    with ProcessPoolExecutor() as pool:
        return dict(zip(seeds, pool.map(year, seeds), strict=True))


def table_of_years(found: dict[int, list[dict[str, Any]]]) -> Table:
    incidents = [len(runs[0]["turns"]) for runs in found.values()]
    requests = sum(runs[0]["requests"] for runs in found.values())
    table = Table(
        f"{len(found)} years with {sum(incidents)} incidents",
        (
            "policy",
            "answered, %",
            "during incidents, %",
            "not answered, of a million",
            "times as many as resilience",
            "years better than it",
            "added ms, mean",
            "added s, p99, median of years",
            "wasted per 100 requests",
            "cost per 1,000 answers, $",
        ),
        note=f"{requests:,} requests for each policy, seeds {min(found)} to {max(found)}. Added latency is what a "
        "request took beyond what the target that answered takes on a good day, or to a stream's first content; only "
        "those that were answered have one, so a policy that gives up soon looks fast.",
    )
    ours = _lost(found, 0)
    for at in range(len(next(iter(found.values())))):
        runs = [of_year[at] for of_year in found.values()]
        lost, asked = _lost(found, at), sum(run["requests"] for run in runs)
        struck = [run["struck_availability"] for run in runs if run["struck_availability"] is not None]
        better = sum(
            run["answered"] > of_year[0]["answered"] for run, of_year in zip(runs, found.values(), strict=True)
        )
        answered = sum(run["answered"] for run in runs)
        p99 = sorted(run["added_seconds"]["p99"] or 0.0 for run in runs)
        table.add(
            runs[0]["policy"],
            f"{100 * (1 - lost / asked):.4f}",
            f"{100 * sum(struck) / len(struck):.4f}",
            1e6 * lost / asked,
            lost / ours if ours else None,
            f"{better} of {len(runs)}",
            1000 * sum(run["added_seconds"]["mean"] * run["answered"] for run in runs) / answered,
            p99[len(p99) // 2],
            100 * sum(run["wasted"] for run in runs) / asked,
            1000 * sum(run["cost_usd"] for run in runs) / answered,
        )
    return table


def _lost(found: dict[int, list[dict[str, Any]]], at: int) -> int:
    return sum(runs[at]["requests"] - runs[at]["answered"] for runs in found.values())


def table_of_years_one_by_one(found: dict[int, list[dict[str, Any]]]) -> Table:
    names = [run["policy"] for run in next(iter(found.values()))]
    table = Table("Requests that were not answered, year by year", ("year", "requests", *names))
    for seed, runs in found.items():
        table.add(str(seed), runs[0]["requests"], *(run["requests"] - run["answered"] for run in runs))
    return table


def table_of_scenarios(names: Sequence[str]) -> Table:
    table = Table(
        "Single faults: the scenarios that ship",
        (
            "scenario, policy",
            "answered, %",
            "added ms, mean",
            "wasted per 100 requests",
            "probes",
            "eject, s",
            "recover, s",
        ),
        note="`resilience simulate grey --baseline all`, and so on. A trip or a cooldown counts as ejection. Recovery "
        "is counted from the end of the fault to full rotation; after a long outage the open time has grown.",
    )
    for name in names:
        for found in simulate(SHIPPED[name], baselines=[one for one in BASELINES if one != "none"]).findings:
            table.add(
                f"{name}, {found.policy}",
                f"{100 * (found.availability or 0.0):.3f}",
                1000 * (found.added_seconds["mean"] or 0.0),
                100 * (found.wasted_share or 0.0),
                found.probes,
                found.eject_seconds["median"],
                found.recover_seconds["median"],
            )
    return table


def simple(*, outage: bool, stream: bool = False) -> Scenario:
    outages = [{"at_seconds": 200, "lasts_seconds": 120}] if outage else []
    return Scenario.load(
        {
            "lasts_seconds": 600,
            "settings": {"routes": {"chat": {"targets": ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]}}},
            "traffic": {"per_second": SPEED_REQUESTS / 600, "stream_share": float(stream)},
            "providers": {"openai": {"outages": outages}},
        }
    )


def table_of_speed(rounds: int) -> Table:
    table = Table(
        "Speed",
        ("world", "requests a second and core", "a month at 10 a second, minutes"),
        note=f"{SPEED_REQUESTS:,} requests, CPU time, the median of {rounds} rounds; the engine's share is most of it. "
        "Goal: 10,000.",
    )
    cases = {
        "no fault": simple(outage=False),
        "one provider down for a fifth of the time": simple(outage=True),
        "the same, all streams": simple(outage=True, stream=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, told in cases.items():
            world = World(told, told.seed)
            started = process_time()
            ledger = world.run()
            rates[name].append(ledger.requests / (process_time() - started))
    for name, found in rates.items():
        rate = sorted(found)[len(found) // 2]
        table.add(name, round(rate), 30 * 86400 * 10 / rate / 60)
    return table


def main() -> None:
    options = arguments(QUESTION).parse_args()
    found = years(YEARS[:1] if options.quick else YEARS, quick=options.quick)
    tables = [table_of_years(found)]
    if not options.quick:
        tables += [table_of_years_one_by_one(found), table_of_scenarios(OTHERS)]
    tables.append(table_of_speed(1 if options.quick else 5))
    if not options.quick:
        told = simulate(SHIPPED["two_providers_year"], seed=YEARS[0])
        (RESULTS / "simulator-year.svg").write_text(draw(told), encoding="utf-8")
    deliver(Report("simulator", QUESTION, METHOD, tables), options)


if __name__ == "__main__":
    main()
