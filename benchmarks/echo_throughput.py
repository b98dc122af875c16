"""Rows per second and memory through LLM operators with a model that costs nothing.

    python benchmarks/echo_throughput.py [rows]

The baseline is what one would write by hand: read the same rows from DuckDB in batches, call a Python function for
each, collect the results in Arrow. Baseline and statements are measured in turns, the best of three counts; rows per
second of processor time are shown beside it, because they do not depend on what else the machine does.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from report import finish, show, verdict

import halo_sql

TURNS = 3
MEMORY_GOAL_MB = 1024.0
#: name -> (statement, rows per second to reach)
CASES: dict[str, tuple[str, int]] = {
    "LLM_MAP('{{ body }}')": ("SELECT id, LLM_MAP('{{ body }}') FROM documents", 50_000),
    "three holes": ("SELECT id, LLM_MAP('a {{ id }} b {{ id + 1 }} c {{ short }}') FROM documents", 20_000),
    "JSON object of three": ("SELECT id, LLM_MAP('Row: {{ id, grp, short }}') FROM documents", 20_000),
    "returns => 'BIGINT'": ("SELECT id, LLM_MAP('{{ id }}', returns => 'BIGINT') FROM documents", 20_000),
}


def setup(rows: int) -> str:
    body = "md5(i::VARCHAR) || repeat(md5((i + 1)::VARCHAR), 31)"  # 1 KB, all different
    return (
        f"CREATE VIEW documents AS SELECT i AS id, i % 100 AS grp, {body} AS body, 'no ' || i AS short "
        f"FROM range({rows}) t(i)"
    )


def by_operator(connection: Any, statement: str) -> int:
    return sum(batch.num_rows for batch in connection.stream(statement))


def by_hand(connection: Any, answer: Callable[[str], str]) -> int:
    count = 0
    for batch in connection.stream("SELECT id, body FROM documents"):
        answers = [answer(text) for text in batch.column(1).to_pylist()]
        count += len(pyarrow.array(answers))
    return count


def rates(work: Callable[[], int]) -> tuple[float, float]:
    """Rows per second of wall time and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    rows = work()
    return rows / (time.perf_counter() - wall), rows / (time.process_time() - processor)


class Resident(threading.Thread):
    """Watches the resident size of this process while in the ``with`` block; ``peak_mb`` at its end."""

    def __enter__(self) -> Resident:
        self.peak_mb = 0.0
        self._ended = threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self._ended.wait(0.02):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.peak_mb = max(self.peak_mb, pages * 4096 / 2**20)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def main(arguments: Sequence[str]) -> None:
    rows = int(arguments[0]) if arguments else 1_000_000
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_max_calls": 0}
    all_reached = True
    with halo_sql.connect(config=config) as connection:
        connection.execute(setup(min(rows, 100_000)))
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ["by hand", *CASES]}
        for _ in range(TURNS):
            measured["by hand"].append(rates(lambda: by_hand(connection, str.__str__)))
            for name, (statement, _goal) in CASES.items():
                measured[name].append(rates(lambda statement=statement: by_operator(connection, statement)))
        hand = max(wall for wall, _ in measured["by hand"])
        table = [["a Python loop by hand", f"{hand:,.0f}", "", "1.00", "", ""]]
        for name, (_, goal) in CASES.items():
            wall, processor = (max(column) for column in zip(*measured[name], strict=True))
            reached = wall >= goal
            all_reached &= reached
            table.append(
                [name, f"{wall:,.0f}", f"{processor:,.0f}", f"{wall / hand:.2f}", f"{goal:,}", verdict(reached)]
            )
        show("echo engine", ["", "rows/s", "rows/cpu s", "of the loop", "goal", ""], table)

    with halo_sql.connect(config=config) as connection, Resident() as resident:
        connection.execute(setup(rows))
        assert by_operator(connection, CASES["LLM_MAP('{{ body }}')"][0]) == rows
    reached = resident.peak_mb <= MEMORY_GOAL_MB
    line = [f"{rows:,} rows of 1 KB", f"{resident.peak_mb:,.0f}", f"{MEMORY_GOAL_MB:,.0f}", verdict(reached)]
    show("resident memory", ["", "peak MB", "goal", ""], [line])
    finish(all_reached and reached)


if __name__ == "__main__":
    main(sys.argv[1:])
