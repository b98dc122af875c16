"""The exact oracle of the placement problem: a time-indexed mixed-integer program, solved by HiGHS.

Exactly the problem of ``halo_sql.optimizer.placement.problem`` with ``tick_s`` set: all seconds are whole ticks, so a
best schedule starts everything at whole ticks. Sousa and Wolsey, 1992, introduced the formulation. Variables by tick t:

    x  a part of a node in a mode (parts, device, how its prefix comes) starts at t
    y  a model is on a device at t;  l, w, s  its first load, wake, sleep starts at t
    u  a prefix is warm on a device at t
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import highspy
import numpy as np

from halo_sql.optimizer.placement.problem import Change, Problem, Run, Schedule
from halo_sql.optimizer.placement.table import Table, earliest

Terms = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """status  'optimal' | 'none' (no schedule within the horizon) | 'open' (out of time)

    makespan_s  of the best schedule found; infinite without
    bound_s     no schedule is shorter than the smaller of this and the horizon's end
    """

    status: str
    makespan_s: float
    bound_s: float
    variables: int
    schedule: Schedule | None = None


@dataclass(frozen=True, slots=True)
class _Mode:
    """A way of running a part: seconds in ticks. ``starts``: tick -> variable."""

    node: int
    parts: int
    device: int
    prefix: str
    ticks: int
    first: int
    last: int
    starts: dict[int, int]


Moment = Callable[[_Mode], int]


def _no_ticks(_: _Mode) -> int:
    return 0


def _first(mode: _Mode) -> int:
    return mode.first


def _length(mode: _Mode) -> int:
    return mode.ticks


def _before_last(mode: _Mode) -> int:
    return mode.ticks - mode.last


class _Program:
    def __init__(self) -> None:
        self.costs: list[float] = []
        self.upper: list[float] = []
        self.rows: list[tuple[float, float, Terms]] = []

    def variable(self, cost: float = 0.0, upper: float = 1.0) -> int:
        self.costs.append(cost)
        self.upper.append(upper)
        return len(self.costs) - 1

    def row(self, low: float, terms: Iterable[tuple[int, float]], high: float) -> None:
        merged: dict[int, float] = defaultdict(float)
        for variable, factor in terms:
            merged[variable] += factor
        self.rows.append((low, high, [(v, f) for v, f in merged.items() if f]))

    def solve(self, time_s: float, threads: int) -> tuple[str, float, float, list[float]]:
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("time_limit", time_s)
        solver.setOptionValue("threads", threads)
        solver.setOptionValue("mip_rel_gap", 0.0)
        solver.setOptionValue("mip_abs_gap", 0.999)
        solver.setOptionValue("random_seed", 1)
        model = highspy.HighsLp()
        count = len(self.costs)
        model.num_col_, model.num_row_ = count, len(self.rows)
        model.col_cost_ = np.array(self.costs)
        model.col_lower_ = np.zeros(count)
        model.col_upper_ = np.array(self.upper)
        model.integrality_ = [highspy.HighsVarType.kInteger] * count
        model.row_lower_ = np.array([low for low, _, _ in self.rows])
        model.row_upper_ = np.array([high for _, high, _ in self.rows])
        starts = np.cumsum([0, *(len(terms) for _, _, terms in self.rows)])
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = starts
        model.a_matrix_.index_ = np.array([v for _, _, terms in self.rows for v, _ in terms])
        model.a_matrix_.value_ = np.array([f for _, _, terms in self.rows for _, f in terms], dtype=float)
        solver.passModel(model)
        solver.run()
        status = solver.getModelStatus()
        info = solver.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return "none", math.inf, math.inf, []
        value = info.objective_function_value if info.primal_solution_status == 2 else math.inf
        values = list(solver.getSolution().col_value) if value < math.inf else []
        if status == highspy.HighsModelStatus.kOptimal:
            return "optimal", value, value, values
        return "open", value, info.mip_dual_bound, values


def solve(problem: Problem, horizon_s: float, time_s: float, threads: int = 1) -> Answer:
    """The best schedule that ends by ``horizon_s``. Every seconds' value must be a whole multiple of ``tick_s``."""
    assert problem.tick_s > 0, "the program needs ticks"
    builder = _Builder(problem, round(horizon_s / problem.tick_s))
    if builder.impossible:
        return Answer("none", math.inf, math.inf, 0)
    status, value, bound, values = builder.program.solve(time_s, threads)
    bound = math.ceil(max(bound, 0.0) - 1e-6) if bound < math.inf else bound
    variables = len(builder.program.costs)
    schedule = builder.schedule(values) if values else None
    return Answer(status, value * problem.tick_s, bound * problem.tick_s, variables, schedule)


class _Builder:
    def __init__(self, problem: Problem, horizon: int) -> None:
        self.problem, self.horizon = problem, horizon
        self.table = Table(problem)
        self.program = _Program()
        self.impossible = False
        self.end = self.program.variable(1.0, float(horizon))
        self.modes: list[list[_Mode]] = []
        self._nodes()
        if self.impossible:
            return
        self._edges()
        self._tools()
        self.events: list[tuple[int, Change]] = []  # variable, what it stands for
        self.there: dict[tuple[int, int], list[int]] = {}
        for d in range(len(problem.devices)):
            self._device(d)
        self._prefixes()

    def ticks(self, seconds: float) -> int:
        whole = seconds / self.problem.tick_s
        assert abs(whole - round(whole)) < 1e-6, seconds
        return round(whole)

    def _nodes(self) -> None:
        table, program = self.table, self.program
        head = earliest(table)
        for i in range(table.count):
            modes, by_parts = [], {}
            for parts in range(1, table.parts[i] + 1):
                by_parts[parts] = program.variable()
                for d in table.options[i] or (-1,):
                    for prefix, extra_s in self._extras(i, d):
                        part_s = table.part_s[i][d][parts]
                        length = self.ticks(part_s + extra_s)
                        first = self.ticks(extra_s + table.first_s[i][d][parts])
                        last = self.ticks(table.last_s[i][d][parts])
                        tail = max(length + self.ticks(table.from_end[i]), 0)
                        window = range(self.ticks(head[i]), self.horizon - tail + 1)
                        starts = {t: program.variable() for t in window}
                        modes.append(_Mode(i, parts, d, prefix, length, first, last, starts))
            self.modes.append(modes)
            if not any(mode.starts for mode in modes):
                self.impossible = True
                return
            program.row(1, ((z, 1) for z in by_parts.values()), 1)
            for parts, z in by_parts.items():
                own = [mode for mode in modes if mode.parts == parts]
                program.row(0, [*((x, 1) for mode in own for x in mode.starts.values()), (z, -parts)], 0)
                for d in {mode.device for mode in own} if parts > 1 else ():
                    used = [(x, 1.0) for mode in own if mode.device == d for x in mode.starts.values()]
                    program.row(-1, [*used, (z, -1)], 0)
            for d in {mode.device for mode in modes}:
                ends = [(x, t + m.ticks) for m in modes if m.device == d for t, x in m.starts.items()]
                program.row(-math.inf, [*ends, (self.end, -1.0)], 0)
            shares = [(x, (t + m.ticks) / m.parts) for m in modes for t, x in m.starts.items()]
            program.row(-math.inf, [*shares, (self.end, -1.0)], 0)

    def _extras(self, node: int, d: int) -> list[tuple[str, float]]:
        table = self.table
        if table.prefix[node] < 0:
            return [("", 0.0)]
        found = [("computed", table.compute_s[node][d]), ("warm", 0.0)]
        if table.move_s[node][d] < table.compute_s[node][d]:
            found.append(("moved", table.move_s[node][d]))
        return found

    def _edges(self) -> None:
        for edge in self.problem.edges:
            source, target = self.modes[edge.source], self.modes[edge.target]
            self._follow(source, target, _first if edge.pipelined else _length, _no_ticks)
            if edge.pipelined:
                self._follow(source, target, _length, _before_last)

    def _follow(self, source: list[_Mode], target: list[_Mode], reached: Moment, begun: Moment) -> None:
        """No part of the target is ``begun`` ticks after its start before all parts of the source have ``reached``."""
        places = {mode.device for mode in target}
        moments = sorted({t + begun(m) for m in target for t in m.starts})
        for t in moments:
            done = [(x, -1.0 / m.parts) for m in source for at, x in m.starts.items() if at + reached(m) <= t]
            if len(done) == sum(len(m.starts) for m in source):
                break
            all_parts = [(x, 1.0 / m.parts) for m in target for at, x in m.starts.items() if at + begun(m) <= t]
            self.program.row(-math.inf, [*all_parts, *done], 0)
            if any(m.parts > 1 for m in target):
                for d in places:
                    own = [m for m in target if m.device == d]
                    parts = [(x, 1.0) for m in own for at, x in m.starts.items() if at + begun(m) <= t]
                    self.program.row(-math.inf, [*parts, *done], 0)

    def _tools(self) -> None:
        table = self.table
        for tool, slots in enumerate(table.slots):
            modes = [m for i in range(table.count) if table.tool[i] == tool for m in self.modes[i]]
            for terms in self._covering(modes).values():
                if len(terms) > slots:
                    self.program.row(-math.inf, terms, slots)

    def _covering(self, modes: Iterable[_Mode]) -> dict[int, Terms]:
        """Tick -> the starts whose runs cover it."""
        found: dict[int, Terms] = defaultdict(list)
        for mode in modes:
            for t, x in mode.starts.items():
                for tick in range(t, t + mode.ticks):
                    found[tick].append((x, 1.0))
        return found

    def _device(self, d: int) -> None:
        table, program, horizon = self.table, self.program, self.horizon
        free = self.ticks(table.free_s[d])
        modes = [m for per_node in self.modes for m in per_node if m.device == d]
        asked = sorted({table.model[m.node] for m in modes})
        present = sorted({*asked, *(m for m in range(len(table.models)) if table.there[d] >> m & 1)})
        most_kv = max((table.kv[m.node] for m in modes), default=0.0)
        crowded = sum(table.bytes[d][m] for m in present) + most_kv > table.memory[d]
        busy: dict[int, Terms] = self._covering(modes)
        memory: dict[int, Terms] = defaultdict(list)
        for m in present:
            y = [program.variable() for _ in range(horizon + 1)]
            self.there[m, d] = y
            kinds = {"load": table.load_s[d][m], "wake": table.wake_s[d][m], "sleep": table.sleep_s[d][m]}
            done: dict[int, Terms] = defaultdict(list)
            loaded: dict[int, int] = {}
            for kind, seconds in kinds.items():
                if (kind == "sleep" and not crowded) or (kind == "wake" and not (crowded or table.been[d] >> m & 1)):
                    continue
                if kind != "sleep" and m not in asked:
                    continue
                ticks = self.ticks(seconds)
                events = {t: program.variable() for t in range(free, horizon - ticks + 1)}
                name, tick_s = table.models[m], self.problem.tick_s
                self.events += [
                    (event, Change(d, name, kind, t * tick_s, (t + ticks) * tick_s)) for t, event in events.items()
                ]
                for t, event in events.items():
                    for tick in range(t, t + ticks):
                        busy[tick].append((event, 1.0))
                        if kind != "sleep":
                            memory[tick].append((event, table.bytes[d][m]))
                    done[t + ticks].append((event, -1.0 if kind == "sleep" else 1.0))
                if kind == "load":
                    loaded = {t + ticks: event for t, event in events.items()}
                if kind == "wake" and not table.been[d] >> m & 1:
                    for t, event in events.items():
                        before = [(at_event, -1.0) for at, at_event in loaded.items() if at <= t]
                        program.row(-math.inf, [(event, 1.0), *before], 0)
            here = float(table.there[d] >> m & 1)
            for t in range(horizon + 1):
                before = [(y[t - 1], -1.0)] if t else []
                change = [(event, -sign) for event, sign in done.get(t, [])]
                program.row(0.0 if t else here, [(y[t], 1.0), *before, *change], 0.0 if t else here)
                memory[t].append((y[t], table.bytes[d][m]))
            running = self._covering(mode for mode in modes if table.model[mode.node] == m)
            for t, terms in running.items():
                program.row(-math.inf, [*terms, (y[t], -1.0)], 0)
        for t, terms in busy.items():
            program.row(-math.inf, terms, 1.0 if t >= free else 0.0)
        if crowded:
            scale = max(table.memory[d], 1.0)
            for mode in modes:
                for t, x in mode.starts.items():
                    for tick in range(t, t + mode.ticks):
                        memory[tick].append((x, table.kv[mode.node]))
            for terms in memory.values():
                program.row(-math.inf, [(v, f / scale) for v, f in terms], 1.0)

    def _prefixes(self) -> None:
        table, program, horizon = self.table, self.program, self.horizon
        for p in range(len(table.prefixes)):
            modes = [m for per_node in self.modes for m in per_node if table.prefix[m.node] == p]
            warm: dict[int, list[int]] = {}
            for d in sorted({mode.device for mode in modes}):
                u = warm[d] = [program.variable() for _ in range(horizon + 1)]
                model = table.model[modes[0].node]
                ends: Mapping[int, Terms] = defaultdict(list)
                for mode in modes:
                    if mode.device == d:
                        for t, x in mode.starts.items():
                            ends[t + mode.ticks].append((x, -1.0))
                for t in range(horizon + 1):
                    before = [(u[t - 1], -1.0)] if t else []
                    first = float(table.warm[d] >> p & 1) if not t else 0.0
                    program.row(-math.inf, [(u[t], 1.0), *before, *ends.get(t, [])], first)
                    program.row(-math.inf, [(u[t], 1.0), (self.there[model, d][t], -1.0)], 0)
            for d in warm:
                for prefix in ("warm", "moved"):
                    starts: dict[int, Terms] = defaultdict(list)
                    for mode in modes:
                        if mode.device == d and mode.prefix == prefix:
                            for t, x in mode.starts.items():
                                starts[t].append((x, 1.0))
                    places = [d] if prefix == "warm" else [other for other in warm if other != d]
                    for t, terms in starts.items():
                        program.row(-math.inf, [*terms, *((warm[place][t], -1.0) for place in places)], 0)

    def schedule(self, values: list[float]) -> Schedule:
        """The solution as a schedule."""
        tick_s, runs = self.problem.tick_s, []
        for modes in self.modes:
            chosen = [(m, t) for m in modes for t, x in m.starts.items() if values[x] > 0.5]
            for part, (m, t) in enumerate(chosen):
                end_s = (t + m.ticks) * tick_s
                runs.append(Run(m.node, m.device, t * tick_s, end_s, part, m.parts, m.prefix))
        changes = [change for event, change in self.events if values[event] > 0.5]
        last_s = max(run.end_s for run in runs)
        runs.sort(key=lambda run: run.start_s)
        return Schedule(tuple(runs), tuple(sorted(changes, key=lambda change: change.start_s)), last_s, 0.0, "program")
