"""Pictures of a run in ``benchmarks/results``; without matplotlib a line says that there are none."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import HALO, SYSTEMS, Measured

POINTS = 250  # of time, in a picture
COLOURS = {"llm": "#4c72b0", "tool": "#dd8452", "sql": "#dd8452", "http": "#55a868", "python": "#8172b3"}


def plot(runs: Sequence[Measured], folder: Path, stem: str) -> list[Path]:
    """Draw the speed-up per workload and a Gantt picture of HaloSQL's last run of each; the files made."""
    try:
        import matplotlib
    except ImportError:
        print("\nNo pictures: matplotlib is not installed (the extra `bench` has it).")
        return []
    matplotlib.use("Agg")
    made = [_speed_up(runs, folder / f"{stem}-speedup.svg"), _tokens(runs, folder / f"{stem}-calls.svg")]
    for name in dict.fromkeys(run.workload for run in runs):
        own = [run for run in runs if run.workload == name and run.system == HALO]
        if own:
            made.append(_gantt(own[-1], folder / f"{stem}-gantt-{name}.svg"))
    return made


def _bars(runs: Sequence[Measured], path: Path, title: str, label: str, value: Any) -> Path:
    from matplotlib import pyplot

    most = max(run.queries for run in runs)
    names = list(dict.fromkeys(run.workload for run in runs))
    systems = [system for system in SYSTEMS if any(run.system == system for run in runs)]
    figure, axes = pyplot.subplots(figsize=(9, 4))
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        found = {run.workload: value(run) for run in runs if run.system == system and run.queries == most}
        places = [number + place * width for number in range(len(names))]
        axes.bar(places, [found.get(name, 0.0) for name in names], width, label=system)
    axes.set_xticks([number + 0.4 - width / 2 for number in range(len(names))], names)
    axes.set_ylabel(label)
    axes.set_title(f"{title}, N = {most}")
    axes.legend(fontsize=8)
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _speed_up(runs: Sequence[Measured], path: Path) -> Path:
    base = {(run.workload, run.queries): run.wall_s for run in runs if run.system == "dispatch-all"}

    def value(run: Measured) -> float:
        return base.get((run.workload, run.queries), 0.0) / run.wall_s

    return _bars(runs, path, "Speed-up over dispatch-all", "times faster", value)


def _tokens(runs: Sequence[Measured], path: Path) -> Path:
    return _bars(
        runs, path, "Prompt tokens computed", "tokens", lambda run: run.counters["prompt_tok"] - run.cached_tok
    )


def _gantt(run: Measured, path: Path) -> Path:
    """A row for each tool and model, as high as it has calls at work, by when."""
    from matplotlib import pyplot

    least_s = run.wall_s / POINTS  # a line, of what takes no virtual time
    lanes: dict[str, list[tuple[float, float]]] = {}
    kinds: dict[str, str] = {}
    for lane, kind, began, ended in sorted(run.bars, key=lambda bar: (bar[1] == "llm", bar[2])):
        lanes.setdefault(lane, []).append((began, max(ended, began + least_s)))
        kinds[lane] = kind
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(lanes)))
    times = [run.wall_s * point / POINTS for point in range(POINTS + 1)]
    labels = []
    for place, (lane, spans) in enumerate(lanes.items()):
        begun, ended_at = sorted(first for first, _ in spans), sorted(last for _, last in spans)
        counts = [bisect_right(begun, time) - bisect_right(ended_at, time) for time in times]
        most = max(1, *counts)
        kept = [point for point in range(POINTS + 1) if point in (0, POINTS) or counts[point] != counts[point - 1]]
        heights = [place + 0.9 * counts[point] / most for point in kept]
        drawn = [times[point] for point in kept]
        axes.fill_between(drawn, heights, place, step="post", color=COLOURS[kinds[lane]], linewidth=0)
        labels.append(f"{lane} (at most {most})")
    axes.set_yticks([place + 0.45 for place in range(len(lanes))], labels, fontsize=8)
    axes.set_xlim(0, run.wall_s)
    axes.set_xlabel("seconds")
    axes.set_title(f"{run.workload}: {run.system}, N = {run.queries}; calls at work")
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path
