"""What planning costs: from SQL text to a physical plan (bind and optimize), nothing is executed.

Goals: a query with one call within 5 ms, with three operators over 10,000 rows within 10 ms; 50 calls in 20 CTEs within
100 ms; 100 LLM nodes within 250 ms, whatever their shape; long lists within a second. The fields of an object hole are
put in order by a sample of the data, which is read in 30 ms.
Each statement is planned several times on a warm connection and the quickest run counts. The goals are for the CPU time
of the process (DuckDB's threads included): what else the machine does changes it least.

Counters of the search: a join of 12 tables with 4 LLM filters keeps within the limits, and rows of LLM operators twice
as long take at most 2.2 × the groups, expressions and tasks. ``planning.py --counters`` prints these only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from report import finish, show, verdict

from halo_sql.optimizer.context import Limits
from halo_sql.session import Session, Stage

SETUP = [
    "CREATE TABLE t AS SELECT range AS id, 'row ' || range AS a, 'text ' || range AS b FROM range(1000)",
    "CREATE TABLE large AS SELECT range AS id, 'row ' || range AS a, 'text ' || range % 50 AS b, range % 7 AS c "
    "FROM range(10000)",
]


def call(text: str) -> str:
    return f"LLM_MAP('{text}', model => 'echo')"


def chain_of_ctes(ctes: int = 20, calls: int = 50) -> str:
    """Each CTE reads the one before it and adds two or three calls of its own."""
    parts, made = [], 0
    for number in range(ctes):
        here = calls * (number + 1) // ctes - made
        items = ", ".join(f"{call(f'{made + index}: {{{{ a }}}}')} AS x{made + index}" for index in range(here))
        before = f"q{number - 1}" if number else "t"
        parts.append(f"q{number} AS (SELECT *, {items} FROM {before} WHERE id > {number})")
        made += here
    return f"WITH {', '.join(parts)} SELECT * FROM q{ctes - 1} WHERE b > 'a' ORDER BY id LIMIT 10"


def siblings(ctes: int = 20, calls: int = 50) -> str:
    """CTEs side by side, joined at the end."""
    parts, made = [], 0
    for number in range(ctes):
        here = calls * (number + 1) // ctes - made
        items = ", ".join(f"{call(f'{made + index}: {{{{ a }}}}')} AS x{made + index}" for index in range(here))
        parts.append(f"q{number} AS (SELECT id, {items} FROM t WHERE id > {number})")
        made += here
    joined = " ".join(f"JOIN q{number} USING (id)" for number in range(1, ctes))
    return f"WITH {', '.join(parts)} SELECT * FROM q0 {joined}"


def plain_ctes(ctes: int = 20) -> str:
    """CTEs without calls below two that have them."""
    parts = ["p0 AS (SELECT * FROM t)"]
    parts += [f"p{n} AS (SELECT *, {n} AS n{n} FROM p{n - 1} WHERE id > {n})" for n in range(1, ctes)]
    parts.append(f"x AS (SELECT *, {call('{{ a }}')} AS y FROM p{ctes - 1})")
    return f"WITH {', '.join(parts)} SELECT id, {call('{{ y }}')} FROM x WHERE n3 = 3"


def one_select(calls: int = 50) -> str:
    return f"SELECT {', '.join(call(f'{n}: {{{{ a }}}} {{{{ id + {n} }}}}') for n in range(calls))} FROM t"


def conditions(calls: int = 50) -> str:
    """A WHERE of many filters beside plain conditions."""
    filters = " AND ".join(f"LLM_FILTER('{n}: {{{{ a }}}}', model => 'echo') AND id <> {n}" for n in range(calls))
    return f"SELECT id FROM t WHERE {filters}"


def nested(levels: int = 10) -> str:
    """Sub-queries in FROM, a call on each level."""
    query = "SELECT id, a AS v0 FROM t"
    for level in range(1, levels + 1):
        query = f"SELECT *, {call(f'{{{{ v{level - 1} }}}}')} AS v{level} FROM ({query}) AS s{level}"
    return query


def stacked(levels: int = 100) -> str:
    """CTEs, each with a call on the answer of the one before it."""
    parts = ["q0 AS (SELECT id, a AS v0 FROM t)"]
    parts += [
        f"q{level} AS (SELECT id, {call(f'{{{{ v{level - 1} }}}}')} AS v{level} FROM q{level - 1})"
        for level in range(1, levels + 1)
    ]
    return f"WITH {', '.join(parts)} SELECT * FROM q{levels}"


def union(arms: int = 50) -> str:
    return " UNION ALL ".join(f"SELECT id, {call(f'{n}: {{{{ a }}}}')} AS x FROM t" for n in range(arms))


def wide_join(tables: int = 12, filters: int = 4) -> str:
    """Tables joined in a row; LLM filters over the first of them."""
    items = ", ".join(f"t{number}" for number in range(tables))
    keys = " AND ".join(f"t{number}.id = t{number - 1}.id" for number in range(1, tables))
    asked = " AND ".join(f"LLM_FILTER('{n}: {{{{ t{n}.a }}}}', model => 'echo')" for n in range(filters))
    return f"SELECT t0.id FROM {items} WHERE {keys} AND {asked}"


def filters_in_a_row(length: int) -> str:
    asked = " AND ".join(f"LLM_FILTER('{n}: {{{{ a }}}}', model => 'echo')" for n in range(length))
    return f"SELECT id FROM t WHERE {asked}"


def counters(session: Session) -> bool:
    """The search's counters: whether they keep within the limits and grow as they should."""
    names, limits = ("groups", "expressions", "tasks"), Limits()
    for number in range(12):
        session.execute(f"CREATE OR REPLACE TABLE t{number} AS SELECT * FROM t").close()
    rows, good = [], True
    for filters in (1, 2, 4):
        trace = session.compile(wide_join(filters=filters)).trace
        within = trace.counter("groups") <= limits.groups and trace.counter("tasks") <= limits.tasks
        within &= not any("limit reached" in note for note in trace.notes)
        good &= within
        numbers = [f"{trace.counter(name):,}" for name in names]
        rows.append([f"12 tables, {filters} LLM filters", *numbers, f"{trace.seconds * 1e3:.0f}", verdict(within)])
    head = ["statement", *names, "optimize ms", ""]
    show(f"A join of 12 tables (limits: {limits.groups:,} groups, {limits.tasks:,} tasks)", head, rows)
    rows = []
    for kind, make in (("filters", filters_in_a_row), ("calls, each of the one before", nested)):
        before: list[int] = []
        for length in (10, 20, 40, 80):
            trace = session.compile(make(length)).trace
            now = [trace.counter(name) for name in names]
            linear = not before or all(new <= 2.2 * old for new, old in zip(now, before, strict=True))
            good &= linear
            shown = [f"{number:,}" for number in now]
            rows.append([f"{length} {kind}", *shown, f"{trace.seconds * 1e3:.0f}", verdict(linear)])
            before = now
    show("Rows of LLM operators (twice as long: at most 2.2 × as many)", head, rows)
    return good


STATEMENTS: dict[str, tuple[str, float]] = {
    "one call": ("SELECT LLM_MAP('{{ a }}') FROM t", 5),
    "a map, a filter and a condition": (
        f"SELECT id, {call('{{ a }}')} AS m FROM large WHERE LLM_FILTER('{{{{ b }}}}', model => 'echo') AND id > 100",
        10,
    ),
    "an object hole of 3 fields": (f"SELECT {call('{{ a, b, c }}')} FROM large", 30),
    "50 calls in a chain of 20 CTEs": (chain_of_ctes(), 100),
    "50 calls in 20 CTEs side by side": (siblings(), 100),
    "20 CTEs without calls below two calls": (plain_ctes(), 100),
    "50 calls in one SELECT": (one_select(), 100),
    "50 filters in one WHERE": (conditions(), 100),
    "10 nested sub-queries": (nested(), 100),
    "50 arms of a UNION ALL": (union(), 100),
    "100 calls in one SELECT": (one_select(100), 250),
    "100 filters in one WHERE": (conditions(100), 250),
    "100 calls in 20 CTEs side by side": (siblings(calls=100), 250),
    "100 CTEs, each on the answer of the last": (stacked(), 250),
    "100 nested sub-queries": (nested(100), 250),
    "1,000 ORs": ("SELECT " + call("{{ a }}") + " FROM t WHERE " + " OR ".join(f"id = {n}" for n in range(1000)), 1000),
    "IN of 10,000": (f"SELECT {call('{{ a }}')} FROM t WHERE id IN ({', '.join(map(str, range(10_000)))})", 1000),
}


def quickest_ms(run: Callable[[], object], rounds: int = 15, budget_s: float = 4.0) -> tuple[float, float]:
    """Elapsed and CPU milliseconds, each of its quickest run."""
    elapsed_s = cpu_s = float("inf")
    began = time.perf_counter()
    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        elapsed_s = min(elapsed_s, time.perf_counter() - start)
        cpu_s = min(cpu_s, time.process_time() - start_cpu)
        if time.perf_counter() - began > budget_s:
            break
    return elapsed_s * 1e3, cpu_s * 1e3


def main() -> None:
    session = Session.open(":memory:", False, {"halo_store": "off", "halo_default_model": "echo", "threads": 2})
    for statement in SETUP:
        session.execute(statement).close()
    if "--counters" in sys.argv[1:]:
        finish(counters(session))
    session.compile("SELECT LLM_MAP('{{ a }}') FROM t")
    rows, all_reached = [], True
    for name, (statement, goal_ms) in STATEMENTS.items():
        bound_ms, _ = quickest_ms(lambda: session.compile(statement, until=Stage.BIND))  # noqa: B023 - called at once
        planned_ms, cpu_ms = quickest_ms(lambda: session.compile(statement))  # noqa: B023
        reached = cpu_ms <= goal_ms
        all_reached &= reached
        times = [f"{bound_ms:.1f}", f"{planned_ms:.1f}", f"{cpu_ms:.1f}"]
        rows.append([name, *times, f"<= {goal_ms:g}", verdict(reached)])
    head = ["statement", "bind ms", "bind + optimize ms", "its CPU ms", "goal", "reached"]
    show("Planning (quickest of some runs)", head, rows)
    all_reached &= counters(session)
    session.close()
    finish(all_reached)


if __name__ == "__main__":
    main()
