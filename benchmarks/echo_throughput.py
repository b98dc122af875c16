"""Rows per second through LLM operators with an engine that costs nothing, against a plain Python loop, and memory.

    python benchmarks/echo_throughput.py [rows]

Prints ratios: the baseline reads the same rows from DuckDB's Arrow stream and calls a Python function for each.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halo_sql.duck import Duck
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.echo import EchoEngine
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import Fragment
from halo_sql.ir.physical import DuckFragmentExec, LlmMapExec, PhysicalDag, PhysicalNode
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Prompt, Segment
from halo_sql.ir.types import BIGINT, VARCHAR, SqlType
from halo_sql.operators.build import build
from halo_sql.operators.context import RunContext

SOURCE = "SELECT id, body FROM rows"


def column(number: int, kind: SqlType = VARCHAR) -> Column:
    return Column(ColumnId(number), f"c{number}", kind)


def plan(segments: tuple[Segment, ...], returns: SqlType = VARCHAR, sql: str = SOURCE) -> PhysicalDag:
    columns = (column(0, BIGINT), column(1))
    source = PhysicalNode(0, DuckFragmentExec(Fragment((sql,), columns)), (), columns)
    call = LlmCall(ColumnId(2), "map", Prompt(segments), "echo", returns=returns)
    return PhysicalDag((source, PhysicalNode(1, LlmMapExec((call,)), (0,), (columns[0], column(2, returns)))), 1)


async def through_operators(duck: Duck, dag: PhysicalDag) -> int:
    engine = EchoEngine()
    info = await engine.start()

    async def engine_of(model: str) -> tuple[Any, Any]:
        return engine, info

    dispatcher = Dispatcher(engine_of, None, Budget())
    ctx = RunContext(duck, dispatcher)
    stream = build(dag, ctx)
    count = 0
    async for batch in stream:
        count += batch.num_rows
    await stream.aclose()
    await dispatcher.close()
    ctx.close()
    return count


def through_loop(duck: Duck, answer: Any) -> int:
    """What a user would write: batches to lists, a function call per row, lists to Arrow."""
    import pyarrow as pa

    count = 0
    for batch in duck.stream(SOURCE):
        answers = [answer(text) for text in batch.column(1).to_pylist()]
        count += len(pa.array(answers, pa.string()))
    duck.release()
    return count


class Peak(threading.Thread):
    """The largest resident size in MB while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mb = self.peak_mb = resident_mb()
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.peak_mb = max(self.peak_mb, resident_mb())

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.peak_mb


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main(arguments: Sequence[str]) -> None:
    rows = int(arguments[0]) if arguments else 200_000
    duck = Duck.connect(":memory:", False, {"memory_limit": "2GB"})
    text = "md5(i::VARCHAR) || repeat(md5((i + 1)::VARCHAR), 31)"  # 1 KB, all different
    duck.rows(f"CREATE VIEW rows AS SELECT i AS id, {text} AS body FROM range({rows}) t(i)")
    body = Hole(ColumnId(1))
    integer = SqlType("BIGINT", "bigint")
    digits = "SELECT i, (i * 7)::VARCHAR FROM range({}) t(i)".format(rows)
    named = ObjectHole((("body", ColumnId(1)),))
    cases = [
        ("LLM_MAP('{{ body }}')", plan((body,)), 50_000),
        ("3 holes", plan(("a ", body, " b ", body, " c ", body)), 20_000),
        ("object hole", plan(("Row: ", named, ".")), 20_000),
        ("returns BIGINT", plan((body,), integer, digits), 20_000),
    ]
    started = time.perf_counter()
    assert through_loop(duck, lambda text: text) == rows
    loop_rate = rows / (time.perf_counter() - started)
    print(f"{'python loop':<24}{loop_rate:>12,.0f} rows/s")
    for name, dag, goal in cases:
        peak = Peak()
        started = time.perf_counter()
        assert asyncio.run(through_operators(duck, dag)) == rows
        rate = rows / (time.perf_counter() - started)
        peak_mb = peak.stop()
        print(
            f"{name:<24}{rate:>12,.0f} rows/s   {rate / loop_rate:.2f} of the loop   {rate / goal:.2f} of the goal"
            f"   {peak_mb:,.0f} MB resident (+{peak_mb - peak.start_mb:,.0f})"
        )
    duck.close()


if __name__ == "__main__":
    main(sys.argv[1:])
