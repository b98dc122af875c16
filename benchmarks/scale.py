"""10,000 queries of a workflow of ten calls, with a model that costs nothing: as one statement, and as a batch.

    python benchmarks/scale.py [queries] [statements of the batch]

The workflow: three chains of two calls, two calls that each read two of them, one that reads both, and one behind it.
All prompts are different, so every call is made. The statements of the batch share the queries evenly. Calls are
counted by ``halo_queries()``; each case runs in a process of its own, whose peak of resident memory is read at its end.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from report import finish, show, verdict

import halo_sql

QUERIES = 10_000
STATEMENTS = 20
CALLS = 10
SECONDS_GOAL = 60.0
MEMORY_GOAL_MB = 2048.0

WORKFLOW = """
WITH begun AS (
    SELECT id, LLM_MAP('plan {{ id }}') AS a, LLM_MAP('scout {{ id }}') AS b, LLM_MAP('check {{ id }}') AS c
    FROM queries WHERE id >= $low AND id < $high
),
noted AS (
    SELECT id, LLM_MAP('title {{ a }}') AS d, LLM_MAP('people {{ b }}') AS e, LLM_MAP('genre {{ c }}') AS f FROM begun
),
joined AS (SELECT id, LLM_MAP('join {{ d }} {{ e }}') AS g, LLM_MAP('meet {{ e }} {{ f }}') AS h FROM noted),
ended AS (SELECT id, LLM_MAP('both {{ g }} {{ h }}') AS i FROM joined)
SELECT id, LLM_MAP('answer {{ i }}') AS answer FROM ended ORDER BY id
"""


def measure(queries: int, statements: int) -> tuple[float, int, int, float]:
    """Seconds, calls made, rows given, peak MB of resident memory; this process must have run nothing before."""
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_max_calls": 0}
    bounds = [queries * number // statements for number in range(statements + 1)]
    parts = [{"low": low, "high": high} for low, high in itertools.pairwise(bounds)]
    with halo_sql.connect(config=config) as connection:
        connection.execute(f"CREATE TABLE queries AS SELECT i AS id FROM range({queries}) t(i)")
        began = time.perf_counter()
        if statements == 1:
            cursors = [connection.execute(WORKFLOW, parts[0])]
        else:
            cursors = connection.execute_batch([(WORKFLOW, part) for part in parts])
        rows = sum(len(cursor.fetchall()) for cursor in cursors)
        seconds = time.perf_counter() - began
        calls = connection.execute("SELECT sum(llm_calls)::BIGINT FROM halo_queries()").fetchall()[0][0]
    return seconds, calls, rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(queries: int, statements: int) -> tuple[float, int, int, float]:
    """``measure`` in a new process."""
    command = [sys.executable, __file__, "--one", str(queries), str(statements)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, calls, rows, peak = done.stdout.split()
    return float(seconds), int(calls), int(rows), float(peak)


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] == "--one":
        print(*measure(int(arguments[1]), int(arguments[2])))
        return
    queries = int(arguments[0]) if arguments else QUERIES
    statements = int(arguments[1]) if len(arguments) > 1 else STATEMENTS
    goal = SECONDS_GOAL * queries / QUERIES
    table = []
    all_reached = True
    for name, parts in (("one statement", 1), (f"a batch of {statements:,}", statements)):
        seconds, calls, rows, peak = apart(queries, parts)
        reached = seconds <= goal and peak <= MEMORY_GOAL_MB and calls == queries * CALLS and rows == queries
        all_reached &= reached
        counted = [f"{seconds / goal:.2f}", f"{calls / seconds:,.0f}", f"{calls:,}", f"{peak:,.0f}"]
        table.append(
            [name, *counted, f"{queries * CALLS:,} calls, <= 1.00, <= {MEMORY_GOAL_MB:,.0f} MB", verdict(reached)]
        )
    head = [f"{queries:,} queries", "seconds / goal", "rows x calls/s", "calls", "peak MB", "goal", ""]
    show(f"a workflow of {CALLS} calls on echo", head, table)
    finish(all_reached)


if __name__ == "__main__":
    main(sys.argv[1:])
