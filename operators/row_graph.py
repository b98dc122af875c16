"""Calls that depend on one another, as one operator: every row advances on its own, rows leave in order.

Each row carries the set of its finished steps. When a step has what it reads, the row joins the step's queue; what is
queued is taken together, and nothing waits for more: calls go out at once, expressions as soon as DuckDB is free. A row
that a filter takes out begins no step above it, and leaves when those of the nodes below are finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from halo_sql.errors import EngineError, Error, InterruptedQueryError
from halo_sql.ir.physical import PhysicalNode, RowGraphExec, batch_name
from halo_sql.ir.row_graph import MARKS, OPEN, SOURCE, CallStep, FilterStep, Reads, Slot, members
from halo_sql.ir.row_stack import graph_of
from halo_sql.operators.asking import ORDERED_FROM_ROWS, ends_at_once
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.duck_fragment import ROWS_AT_ONCE, fragment_sql, run_rows
from halo_sql.operators.llm_rows import RowWindow
from halo_sql.operators.priorities import scheduled
from halo_sql.operators.readahead import ReadAhead
from halo_sql.operators.row_call import RowCall
from halo_sql.operators.row_gates import RowGates
from halo_sql.operators.row_values import RowValues, numbered
from halo_sql.operators.settle import marks
from halo_sql.operators.temp_table import drop_all


async def row_graph(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The rows of the stack below (``inputs`` is what its lowest node reads), in order.

    Raises the EngineError of a failing row of a call with on_error 'fail', or DuckDB's of an expression: at once (of
    those known, the lowest node's first), or with ``by_turn`` when all rows before it have been handed on and the nodes
    below the failing one have finished the row.
    """
    run = _Run(node, inputs[0], ctx)
    try:
        while True:
            run.wake.clear()
            await run.read()
            await run.advance()
            run.raise_failure()
            batch = run.leave()
            if batch is not None:
                yield batch
            elif run.ended():
                return
            elif not run.wake.is_set():
                await run.wake.wait()
                await asyncio.sleep(0)  # one turn of the loop, so that what finishes together advances together
    finally:
        await run.close()


class _Run:
    """One run of a row graph.

    A set of steps is an integer, with a bit for each. ``done``: row -> its finished steps.
    ``stopped``: row -> (step, error) of the lowest failure that waits for its turn.
    """

    def __init__(self, node: PhysicalNode, source: Batches, ctx: RunContext) -> None:
        op = node.op
        assert isinstance(op, RowGraphExec)
        assert ctx.dag is not None
        self.wake = asyncio.Event()
        self._op, self._ctx = op, ctx
        nodes = [scheduled(each) for each in members(ctx.dag, node)]
        source_columns = ctx.dag.node(nodes[0].inputs[0]).columns
        graph = self._graph = graph_of(nodes, source_columns)
        first = source_columns[0]
        self._any: Reads = (
            (first, Slot(SOURCE, batch_name(first.id), first)),
        )  # for what reads nothing: it counts rows
        self._metrics = [ctx.node_metrics(each.id) for each in nodes]
        steps, remaining = graph.steps, graph.remaining()
        ranked = len({step.call.priority for step in steps if isinstance(step, CallStep)}) == 1
        self._calls: dict[int, RowCall] = {}
        for place, step in enumerate(steps):
            if isinstance(step, CallStep):
                own: Any = step.node.op
                later = max(remaining) - remaining[place] if ranked else 0
                keeps = op.by_turn or own.failed is not None
                self._calls[place] = RowCall(step, own.distinct, keeps, later, self.wake.set, ctx)
        self._passes = {place for _, places in graph.marks for place in places}
        self._gates = RowGates(graph)
        ahead = graph.lookaheads()
        self._ordered = {place: ahead[steps[place].gate] >= ORDERED_FROM_ROWS for place in self._calls}
        self._filters = {place: steps[place].level for place in self._calls if steps[place].filters}
        self._reading: dict[int, set[int]] = {}  # gate -> places of the nodes whose calls read the rows behind it
        for place in self._calls.keys() - self._filters.keys():
            self._reading.setdefault(steps[place].gate, set()).add(steps[place].level)
        self._sql = sorted(set(range(len(steps))) - self._calls.keys(), key=lambda place: (-remaining[place], place))
        self._texts: dict[int, str] = {}
        self._table = ctx.temp_name()
        self._limit = dict.fromkeys(self._sql, ROWS_AT_ONCE)
        self._evaluating: tuple[int, list[int], asyncio.Task[list[Any]]] | None = None
        self._need = [sum(1 << source for source in graph.producers(place)) for place in range(len(steps))]
        self._readers = [
            [place for place in range(len(steps)) if self._need[place] >> source & 1] for source in range(len(steps))
        ]
        self._all = (1 << len(steps)) - 1
        self._below = [sum(1 << p for p, other in enumerate(steps) if other.level < step.level) for step in steps]
        self._queues: list[list[int]] = [[] for _ in steps]
        self._values = RowValues(self._calls)
        self._done: dict[int, int] = {}
        self._stopped: dict[int, tuple[int, Error]] = {}
        self._window = RowWindow(max(1, op.lookahead))
        self._reader = ReadAhead(source)
        self._problem: Error | None = None  # the source's, which waits for the rows before it

    # --- rows in

    async def read(self) -> None:
        """Take what has arrived, and the rows that may be worked on."""
        window, reader = self._window, self._reader
        if reader.arrived():
            try:
                batch = await reader.take()
            except Error as error:
                if not self._op.by_turn or _is_of_all_rows(error):
                    raise
                self._problem, batch, reader.ended = error, None, True
            if batch is not None and batch.num_rows:
                window.add(batch)
                self._read(OPEN, batch.num_rows)
        if self._stopped:
            return
        if window.has_room() and not reader.ended:
            reader.start(self.wake.set)
        for chunk, first in window.to_submit():
            rows = range(first, first + chunk.num_rows)
            self._values.add(chunk, first)
            self._done.update(dict.fromkeys(rows, 0))
            for place, needed in enumerate(self._need):
                if not needed:
                    self._queues[place] += rows

    def _read(self, gate: int, rows: int) -> None:
        for level in self._reading.get(gate, ()):
            self._metrics[level].rows_total += rows

    # --- steps

    async def advance(self) -> None:
        """Make every call and begin every evaluation that can be."""
        self._collect()
        moved = True
        while moved:
            moved = False
            for place, call in self._calls.items():
                queue = self._take(place, len(self._done))
                if queue:
                    batch = self._values.batch(self._reads(place), queue)
                    call.ask(queue, batch, self._ordered[place])
                    if place in self._filters:
                        self._metrics[self._filters[place]].rows_total += len(queue)
                found = call.finished()
                if found:
                    moved = True
                    if call.failed and self._op.by_turn and place not in self._passes:
                        for row in found:
                            if row in call.failed:
                                self._stop(row, place, call.failed[row])
                    if place in self._filters:
                        tested = [row for row in found if row not in call.failed]
                        passed = self._decided(place, tested, call.verdicts(tested))
                        self._metrics[self._filters[place]].rows += passed
                    else:
                        self._finish(place, found)
            moved = self._admit() or moved
        await self._evaluate()

    def _decided(self, gate: int, rows: Sequence[int], passed: Sequence[bool]) -> int:
        """A filter has tested some rows; how many passed."""
        count = self._gates.decided(gate, rows, passed)
        if count < len(rows) and not self._op.by_turn:
            self._window.gone = len(self._gates.gone)
            self.wake.set()  # there is room for others
        return count

    def _admit(self) -> bool:
        """Let the rows go on that have passed a filter, as far as the nodes behind it read; whether there are any."""
        admitted = list(self._gates.admitted(self._window.left))
        for gate, rows in admitted:
            self._read(gate, len(rows))
            self._finish(gate, rows)
        return bool(admitted)

    def _reads(self, place: int) -> Reads:
        return self._graph.steps[place].reads or self._any

    def _take(self, place: int, count: int) -> list[int]:
        """The next rows of a step's queue, without those that a failure has made useless."""
        queue = self._queues[place]
        if not queue:
            return queue
        if self._stopped:
            queue = [row for row in queue if self._is_wanted(row, place)]
        queue.sort()
        self._queues[place] = queue[count:]
        return queue[:count]

    def _is_wanted(self, row: int, place: int) -> bool:
        last = min(self._stopped)
        if row != last:
            return row < last
        return bool(self._below[self._stopped[row][0]] >> place & 1)

    def _finish(self, place: int, rows: Iterable[int]) -> None:
        done, bit, need, queues = self._done, 1 << place, self._need, self._queues
        readers = self._readers[place]
        for row in rows:
            found = done[row] = done[row] | bit
            for reader in readers:
                if found & need[reader] == need[reader]:
                    queues[reader].append(row)

    def _stop(self, row: int, place: int, error: Error) -> None:
        known = self._stopped.get(row)
        level = self._graph.steps[place].level
        if known is None or (level, place) < (self._graph.steps[known[0]].level, known[0]):
            self._stopped[row] = (place, error)

    async def _evaluate(self) -> None:
        """Give DuckDB the queue whose rows have the longest way before them, unless it is busy."""
        if self._evaluating is not None:
            return
        for place in self._sql:
            rows = self._take(place, self._limit[place])
            if not rows:
                continue
            step = self._graph.steps[place]
            assert not isinstance(step, CallStep)
            if place not in self._texts:
                self._texts[place] = fragment_sql(step.tree, step.outputs, [self._table])
            side = await self._ctx.side()
            batch = self._values.batch(step.reads, rows)
            if isinstance(step, FilterStep):
                batch = numbered(batch, batch_name(step.place.id))
            work = partial(run_rows, side.duck, self._table, step.columns, [batch], self._texts[place])
            task = asyncio.create_task(side.call(work, self._metrics[step.level]))
            task.add_done_callback(lambda _: self.wake.set())
            self._evaluating = (place, rows, task)
            return

    def _collect(self) -> None:
        if self._evaluating is None or not self._evaluating[2].done():
            return
        (place, rows, task), self._evaluating = self._evaluating, None
        try:
            batches = task.result()
        except Error as problem:
            if not self._op.by_turn or _is_of_all_rows(problem):
                raise
            if len(rows) == 1:  # its turn will come
                self._stop(rows[0], place, problem)
                self._finish(place, ())
            else:  # which row it is, is found by halves
                self._limit[place] = len(rows) // 2
                self._queues[place] = rows + self._queues[place]
            return
        if isinstance(self._graph.steps[place], FilterStep):
            passing = {index for batch in batches for index in batch.column(0).to_pylist()}
            self._decided(place, rows, [index in passing for index in range(len(rows))])
        else:
            self._values.computed(place, rows, batches)
            self._finish(place, rows)

    # --- failures

    def raise_failure(self) -> None:
        """Raise what ends the query at once, or the next row's failure when its turn has come."""
        for call in self._calls.values():
            if call.problem is not None:
                raise call.problem
        steps = self._graph.steps
        found = [
            (steps[place].level, row, place, error) for place, call in self._calls.items() for row, error in call.fatal
        ]
        if found:
            _, row, place, error = min(found, key=lambda failure: failure[:3])
            raise self._failure(place, row, error)
        if self._window.left in self._stopped:
            row = self._window.left
            place, problem = self._stopped[row]
            if not self._below[place] & ~self._done[row]:
                raise self._failure(place, row, problem)

    def _failure(self, place: int, row: int, error: Error) -> Error:
        call = self._calls.get(place)
        if call is None or not isinstance(error, EngineError):
            return error
        return call.failure(error, self._values.batch(self._reads(place), [row]))

    # --- rows out

    def leave(self) -> Any:
        """The finished rows before the first that is not, as a batch; None: there is none.

        Those that filters took out go with them; when there are no others, ``wake`` is set.
        """
        left = end = self._window.left
        while end not in self._stopped and self._is_through(end):
            end += 1
        if end == left:
            return None
        rows, gone = range(left, end), self._gates.gone
        kept: Sequence[int] = [row for row in rows if row not in gone] if gone else rows
        batch = self._values.batch(self._graph.outputs, kept, self._marks(kept)) if kept else None
        self._count(rows)
        self._window.leave(len(rows))
        for row in rows:
            del self._done[row]
        self._values.forget(rows)
        for call in self._calls.values():
            call.forget(rows)
        if gone:
            self._gates.forget(rows)
            self._window.gone = 0 if self._op.by_turn else len(gone)
        if batch is None:
            self.wake.set()
        return batch

    def _is_through(self, row: int) -> bool:
        done = self._done.get(row)
        if done is None or done == self._all:
            return done is not None
        gate = self._gates.gone.get(row)
        return gate is not None and not self._below[gate] & ~done

    def _count(self, rows: range) -> None:
        """Rows leave: each node gave those that no filter up to it took out."""
        taken = self._gates.by_level(rows) if self._gates.gone else {}
        count = len(rows)
        for level, metrics in enumerate(self._metrics):
            count -= taken.get(level, 0)
            if level not in self._filters.values():  # those have counted when they knew
                metrics.rows += count
            metrics.batches += bool(count)

    def _marks(self, rows: Sequence[int]) -> Mapping[str, Any]:
        """The columns of deferrals, by the names they leave under."""
        found = {}
        for deferral, places in self._graph.marks:
            failed: dict[int, EngineError] = {}
            for place in places:
                call = self._calls[place]
                for index, row in enumerate(rows) if call.failed else ():
                    if row in call.failed and index not in failed:
                        error = self._failure(place, row, call.failed[row])
                        assert isinstance(error, EngineError)
                        failed[index] = error
            array = marks(failed, len(rows), self._ctx)
            name = batch_name(deferral.column.id)
            for column, slot in self._graph.outputs:
                if slot.step == MARKS and slot.name == name:
                    found[batch_name(column.id)] = array
        return found

    def ended(self) -> bool:
        """Whether no row comes any more; raises the source's error when it waited for the rows before it."""
        if not self._reader.ended or not self._window.empty():
            return False
        if self._problem is not None:
            raise self._problem
        return True

    async def close(self) -> None:
        """Stop everything that is under way."""
        await self._reader.close()
        if self._evaluating is not None:
            task = self._evaluating[2]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(call.close() for call in self._calls.values()))
        if self._texts:
            side = await self._ctx.side()
            await side.call(partial(drop_all, side.duck, [self._table]))


def _is_of_all_rows(error: Error) -> bool:
    return isinstance(error, InterruptedQueryError) or (isinstance(error, EngineError) and ends_at_once(error))
