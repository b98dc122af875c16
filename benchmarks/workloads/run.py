"""W1 to W6 by HaloSQL and by the baselines, side by side on one engine and one HTTP stub.

Every run must give the ledger's answers with exactly the ledger's counters: HaloSQL those of the distinct calls. Prints
a table, writes it as JSON with pictures into ``benchmarks/results``. Run: ``python benchmarks/workloads/run.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import baselines  # noqa: E402
import pack  # noqa: E402
import plots  # noqa: E402
import rates  # noqa: E402
from adapters import ADAPTERS, Bench  # noqa: E402
from floor import EmulatedFloors, Floor, Floors, Rates  # noqa: E402
from halo import Workload  # noqa: E402
from measure import HALO, LESS, SYSTEMS, Measured, measure, same_answers  # noqa: E402
from report import finish, show, verdict  # noqa: E402
from stub import HttpStub, VirtualStub  # noqa: E402

import halo_sql  # noqa: E402
from halo_sql.engines.profiles import find  # noqa: E402

RESULTS = FOLDER.parent / "results"
NAMES = ("w1", "w2", "w3", "w4", "w5", "w6")
GOAL_RATIO = 0.98  # of dispatch-all's seconds ÷ HaloSQL's, on the real engine
NO_FLOOR = Floor(0.0, 0.0, 0.0, 0.0)
GOAL_FLOOR = 1.25  # HaloSQL's seconds ÷ those of the floor, on the real engine


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", choices=sorted(ADAPTERS), default="standin")
    parser.add_argument("--n", nargs="+", type=int, default=[16, 64], help="queries of a batch")
    parser.add_argument("--workloads", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="RULES", help="HaloSQL also without these rules, one run for each"
    )
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--time-scale", type=float, default=0.1, help="factor on the latencies of the HTTP stub")
    parser.add_argument(
        "--http-limit",
        type=int,
        default=0,
        help="HTTP requests at once of a client (HaloSQL: of a tool), 0: any number",
    )
    parser.add_argument(
        "--runs", type=int, default=1, help="runs of each system, in an order drawn anew; the median counts"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for JSON and pictures")
    parser.add_argument("--no-plots", action="store_true")
    parser.add_argument("--no-floor", action="store_true", help="do not time statements and the engine for the floor")
    return parser.parse_args(given)


def run(options: argparse.Namespace) -> tuple[list[Measured], dict[tuple[str, int], Floor]]:
    """All runs, and the floors by workload and number of queries."""
    systems = [system for system in options.systems if system != "langgraph" or _has_langgraph()]
    systems += [LESS + rules for rules in options.without]
    runs: list[Measured] = []
    floors: dict[tuple[str, int], Floor] = {}
    bench = Bench(ADAPTERS[options.engine](options.scale))
    try:
        kind = VirtualStub if bench.adapter.virtual else HttpStub
        with kind(options.time_scale) as stub, tempfile.TemporaryDirectory() as folder:
            for name in options.workloads:
                reference = pack.Reference(name, options.scale, max(options.n))
                bounds = None if options.no_floor else _floors(bench, reference, options)
                halo = Workload(bench, name, options.scale, stub, options.http_limit, Path(folder))
                for count in options.n:
                    floors[name, count] = NO_FLOOR if bounds is None else bounds.of(count)
                    once = partial(measure, bench, stub, reference, halo, count=count, limit=options.http_limit)
                    found = _turns(options, systems, once)
                    runs += found
                    _show(f"{name}, N = {count}", found, floors[name, count], bench.adapter.exact)
                halo.close()
    finally:
        bench.close()
    return runs, floors


def _turns(options: argparse.Namespace, systems: Sequence[str], once: Any) -> list[Measured]:
    """Some runs of each system, in an order drawn anew; each system's median run, with what was ever wrong."""
    found: dict[str, list[Measured]] = {system: [] for system in systems}
    for _ in range(options.runs):
        for system in random.sample(systems, len(systems)):
            found[system].append(once(system))
    medians = []
    for own in found.values():
        middle = sorted(own, key=lambda run: run.wall_s)[len(own) // 2]
        middle.wall_s = median(run.wall_s for run in own)
        middle.wrong = list(dict.fromkeys(words for run in own for words in run.wrong))
        medians.append(middle)
    return medians


def _floors(bench: Bench, reference: pack.Reference, options: argparse.Namespace) -> Floors | EmulatedFloors:
    if bench.adapter.profiles:
        profiles = {name: find(source) for name, source in bench.adapter.profiles.items()}
        return EmulatedFloors(reference, options.time_scale, profiles, bench.adapter.devices)
    if bench.adapter.exact:  # answers that cost nothing
        return Floors(reference, options.time_scale, Rates())
    ledger = reference.figures(options.n[0])
    prompt_tok = ledger["prompt_tokens"]["naive"] // ledger["llm"]["naive"]
    return Floors(reference, options.time_scale, rates.measured(bench, prompt_tok))


def _has_langgraph() -> bool:
    if baselines.langgraph_version() is None:
        print("langgraph is not installed, so its baseline is left out (the extra `bench` has it).")
        return False
    return True


def _show(title: str, runs: Sequence[Measured], floor: Floor, exact: bool) -> None:
    own = next((run.wall_s for run in runs if run.system == HALO), None)
    rows = []
    for run in runs:
        counters = run.counters
        rows.append(
            [
                run.system,
                f"{run.wall_s:.2f} s",
                "" if own is None else f"{run.wall_s / own:.2f} x",
                *(f"{counters[key]:,}" for key in ("llm", "sql", "http", "python", "prompt_tok", "output_tok")),
                f"{run.http_peak}",
                f"{run.engine_idle:.0%}",
                f"{run.wall_s / floor.strict:.2f} x" if floor.strict else "",
                verdict(not run.wrong),
            ]
        )
    head = ["system", "wall", "÷ halosql", "llm", "sql", "http", "python", "prompt tok", "output tok", "http at once"]
    show(f"{title} (floor {floor.strict:.2f} s by {floor.by})", [*head, "idle", "÷ floor", "= ledger"], rows)
    for run in runs:
        for words in run.wrong:
            print(f"  {run.system}: {words}")
    if not exact:  # near ties may flip where batches differ (README of the pack), so it is told and no goal
        print(f"  the systems' answers are {'the same' if same_answers(runs) else 'not all the same'}")


def summary(options: argparse.Namespace, runs: Sequence[Measured], floors: dict[tuple[str, int], Floor]) -> bool:
    """Print ratios against the goals; whether all were reached. Times have goals on a real engine only."""
    timed = options.engine == "bundled" and not options.no_floor
    walls = {(run.workload, run.queries, run.system): run.wall_s for run in runs}
    rows, reached = [], not any(run.wrong for run in runs)
    for name, count in floors:
        own = walls.get((name, count, HALO))
        base = walls.get((name, count, "dispatch-all"))
        if own is None or base is None:
            continue
        bound = floors[name, count].strict
        ok = base / own >= GOAL_RATIO and own <= GOAL_FLOOR * bound
        reached &= ok or not timed
        word = verdict(ok) if timed else ""
        rows.append([f"{name}, N = {count}", f"{base / own:.2f} x", f"{own / bound:.2f} x" if bound else "", word])
    if rows:
        goal = f"≥ {GOAL_RATIO} x; ≤ {GOAL_FLOOR} x" if timed else "none: nothing is measured on a real engine"
        show("HaloSQL", ["batch", "dispatch-all ÷ halosql", "÷ floor", f"goal: {goal}"], rows)
        for system in [*SYSTEMS[1:], *(LESS + rules for rules in options.without)]:
            ratios = [
                walls[n, c, system] / walls[n, c, HALO]
                for n, c in floors
                if (n, c, system) in walls and (n, c, HALO) in walls
            ]
            if ratios:
                print(
                    f"  geometric mean over {len(ratios)} batches, {system} ÷ halosql: {geometric_mean(ratios):.2f} x"
                )
    wrong = sum(bool(run.wrong) for run in runs)
    print(f"\n{len(runs) - wrong} of {len(runs)} runs gave the ledger's answers and counters: {verdict(not wrong)}")
    return reached


def write(options: argparse.Namespace, runs: Sequence[Measured], floors: dict[tuple[str, int], Floor]) -> None:
    """Figures and pictures into the results folder."""
    options.results.mkdir(parents=True, exist_ok=True)
    stem = f"workloads-{options.engine}-{options.scale}"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    told = {
        "settings": settings | {"seed": pack.SEED, "data_scale": pack.SCALE},
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("duckdb", "httpx")}
        | {"halo-sql": halo_sql.__version__, "langgraph": baselines.langgraph_version()},
        "runs": [{key: value for key, value in asdict(run).items() if key != "bars"} for run in runs],
        "floors": [
            {"workload": name, "queries": count, **asdict(floor), "strict": floor.strict, "good": floor.good}
            for (name, count), floor in floors.items()
        ],
    }
    path = options.results / f"{stem}.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    made = [] if options.no_plots else plots.plot(runs, options.results, stem)
    print(f"\nWritten: {', '.join(file.name for file in [path, *made])} in {options.results}")


def main() -> None:
    options = arguments()
    if not pack.available():
        raise SystemExit(pack.MISSING)
    runs, floors = run(options)
    reached = summary(options, runs, floors)
    write(options, runs, floors)
    finish(reached)


if __name__ == "__main__":
    main()
