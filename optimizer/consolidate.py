"""The plans of several statements as one DAG: equal sub-plans are run once, whoever reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from halo_sql.errors import Span
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.physical import BatchExec, PhysicalDag, PhysicalNode, RowGraphExec, batch_name, calls_by
from halo_sql.optimizer.context import OptimizerContext, WorkerProfile
from halo_sql.optimizer.intern import Interner, Written
from halo_sql.optimizer.optimize import Optimized
from halo_sql.optimizer.pipeline import row_graphs, without_row_graphs
from halo_sql.optimizer.prefixes import shared_prefixes
from halo_sql.optimizer.residency import charged, crowded, switches
from halo_sql.optimizer.schedule import schedule
from halo_sql.optimizer.share import materialize_shared
from halo_sql.optimizer.share_scans import share_scans

_COLUMN = re.compile(r"(?<=\bcolumn )c(\d+)\b")


@dataclass(frozen=True, slots=True)
class Consolidated:
    """Statements as one plan.

    dag      its root is a ``BatchExec``; positions of calls are those in the statements, one behind the other
    starts   where each statement begins in these
    columns  of each statement: ids of columns -> the statement's own ids
    aliases  (position of a call that several share, statement) -> that call, and the statement's own equal one
    options  what it was planned with
    """

    dag: PhysicalDag
    starts: tuple[int, ...]
    columns: tuple[Mapping[ColumnId, ColumnId], ...]
    aliases: Mapping[tuple[Span, int], tuple[Written, Written]]
    options: OptimizerContext

    @property
    def roots(self) -> tuple[int, ...]:
        """The node of each statement's result, whose columns are the statement's in order."""
        return self.dag.node(self.dag.root).inputs

    def own_place(self, span: Span, statement: int) -> Span | None:
        """A position in the common numbering as one in the text of a statement; None when it has none there."""
        own = self.aliases.get((span, statement))
        found = span if own is None else own[1].span
        start = self.starts[statement]
        end = self.starts[statement + 1] if statement + 1 < len(self.starts) else None
        if found.start < start or (end is not None and found.start >= end):
            return None
        return Span(found.start - start, found.end - start)

    def own_words(self, message: str, span: Span | None, statement: int) -> str:
        """A message about a call, or else of DuckDB's about columns, as it is when the statement runs alone."""
        if span is None:
            return _COLUMN.sub(lambda found: self._own_column(int(found[1]), statement), message)
        own = self.aliases.get((span, statement))
        if own is None or not message.startswith(own[0].label):
            return message
        return own[1].label + message.removeprefix(own[0].label)

    def _own_column(self, number: int, statement: int) -> str:
        return batch_name(self.columns[statement].get(ColumnId(number), ColumnId(number)))

    def part(self, statement: int) -> PhysicalDag:
        """What one statement reads of the DAG, node ids unchanged."""
        root, nodes = self.roots[statement], self.dag.nodes
        wanted, stack = {root}, [root]
        while stack:
            fresh = [source for source in nodes[stack.pop()].inputs if source not in wanted]
            wanted.update(fresh)
            stack += fresh
        return PhysicalDag(tuple(nodes[number] for number in sorted(wanted)), root)


def consolidate(
    plans: Sequence[Optimized],
    texts: Sequence[str],
    numbers: Sequence[int] | None = None,
    tables: Set[str] = frozenset(),
) -> Consolidated:
    """The DAGs of ``plans``, whose statements are ``texts``, as one.

    numbers  of the statements in the batch; None: 1, 2, …
    tables   lower-case names that can only be of tables whose columns cannot fail: their scans are shared
    """
    interner = Interner()
    roots: list[int] = []
    starts: list[int] = []
    end = 0
    for number, (plan, text) in enumerate(zip(plans, texts, strict=True)):
        starts.append(end)
        stacks, root = without_row_graphs(plan.dag.nodes, plan.dag.root)
        found = interner.add(stacks, number, end)
        place, ids = found[root]
        wanted = plan.dag.node(plan.dag.root).columns
        roots.append(interner.pick(place, [(column, ids[column.id]) for column in wanted]))
        end += len(text) + 1
    nodes, places = share_scans(interner.nodes, interner.fresh, tables)
    top = len(nodes)
    inputs = tuple(places[root] for root in roots)
    nodes.append(PhysicalNode(top, BatchExec(tuple(numbers or range(1, len(plans) + 1))), inputs, ()))
    nodes, top = materialize_shared(nodes, top)
    if any(isinstance(node.op, RowGraphExec) for plan in plans for node in plan.dag.nodes):
        nodes, top = row_graphs(nodes, top)
    known = [plan.problem.surveyed for plan in plans]
    engines, warm = _merged([each.engines for each in known]), _merged([each.warm for each in known])
    options = replace(known[0], engines=engines, workers=_workers([each.workers for each in known]), warm=warm)
    models = sorted({call.model for node in nodes for call in calls_by(node.op) if call.model})
    devices = crowded(models, options)
    ordered, top, placed = schedule(nodes, top, devices, options)
    swaps = [] if placed else switches(ordered, devices, options)
    notes = dict.fromkeys([*(note for plan in plans for note in plan.dag.notes), *placed])
    dag = PhysicalDag(charged(ordered, swaps), top, tuple(notes), shared_prefixes(ordered, options))
    return Consolidated(
        dag, tuple(starts), tuple(interner.owns[number] for number in range(len(plans))), interner.aliases, options
    )


def _workers(maps: Sequence[Mapping[str, tuple[WorkerProfile, ...]]]) -> dict[str, tuple[WorkerProfile, ...]]:
    """Workers of all models, with the warm prefixes of all plans."""
    found: dict[str, tuple[WorkerProfile, ...]] = _merged(maps)
    for model, workers in found.items():
        known = [each[model] for each in maps if model in each]
        found[model] = tuple(
            replace(one, prefixes=frozenset().union(*(each[place].prefixes for each in known if place < len(each))))
            for place, one in enumerate(workers)
        )
    return found


def _merged(maps: Sequence[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for each in maps:
        found |= each
    return found
