"""Several queries run as one plan: what they call together, what each did, and what each gives."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

from halo_sql.deep import deep
from halo_sql.errors import Error
from halo_sql.ir.physical import calls_by
from halo_sql.metrics import NodeMetrics, Profile
from halo_sql.optimizer.consolidate import Consolidated, consolidate
from halo_sql.optimizer.prefixes import shared_prefixes
from halo_sql.planning import Planned
from halo_sql.result import BatchResult, Result
from halo_sql.running import QueryRun, unexpected
from halo_sql.targets import Targets


class Joint:
    """Queries as one plan; ``numbers`` are those of the statements in their batch, ``tables`` as of ``consolidate``.

    plan      their DAG
    targets   what they call
    profile   of the whole run
    profiles  of each query; a node that several read counts for the first of them
    """

    def __init__(
        self, planned: Sequence[Planned], profiles: Sequence[Profile], numbers: Sequence[int], tables: Set[str]
    ) -> None:
        texts = [each.sql for each in planned]
        plans = [each.optimized for each in planned]
        self.plan: Consolidated = deep(lambda: consolidate(plans, texts, numbers, tables))
        self.targets = _all_of([each.targets for each in planned])
        self.profile = Profile(
            ";\n".join(texts), self.plan.dag, {node.id: NodeMetrics() for node in self.plan.dag.nodes}
        )
        self.profiles = profiles
        self._planned = planned
        self._owners: dict[int, int] = {}  # node -> the query it counts for
        for number, profile in enumerate(profiles):
            self._give_part(number, profile)

    def _give_part(self, number: int, profile: Profile) -> None:
        """Make a query's profile one of its part of the plan."""
        part = self.plan.part(number)
        profile.nodes.clear()
        elsewhere: dict[int, None] = {}
        for node in part.nodes:
            owner = self._owners.setdefault(node.id, number)
            if owner == number:
                profile.nodes[node.id] = self.profile.nodes[node.id]
            else:
                elsewhere[self.profiles[owner].number] = None
                profile.nodes[node.id] = NodeMetrics(details={"counted by query": self.profiles[owner].number})
        options = self._planned[number].optimized.problem.surveyed
        notes = self._planned[number].optimized.dag.notes
        if elsewhere:
            notes += (f"shares nodes with query {', '.join(map(str, elsewhere))}, where they are counted",)
        profile.dag = replace(part, notes=notes, prefixes=shared_prefixes(part.nodes, options))

    def nodes(self) -> dict[int, tuple[int, int]]:
        """id of a node's counters -> number of the query it counts for, and the node."""
        return {
            id(self.profile.nodes[node]): (self.profiles[owner].number, node) for node, owner in self._owners.items()
        }

    def collect(self, run: QueryRun) -> list[Result | Error]:
        """Run it: the result of each query in memory, or its error. InterruptedQueryError when it was interrupted."""
        began = time.perf_counter()
        rows: list[list[Any]] = [[] for _ in self._planned]
        found: list[Result | Error | None] = [None] * len(rows)
        left = len(rows)
        try:
            for event in run.batches():
                number = event.statement
                if event.batch is not None:
                    rows[number].append(event.batch)
                    continue
                profile = self.profiles[number]
                profile.elapsed_s = time.perf_counter() - began
                profile.status = "done" if event.error is None else "failed"
                columns = self._planned[number].bound.columns
                found[number] = (
                    BatchResult(columns, rows[number]) if event.error is None else self._own(event.error, number)
                )
                left -= 1
                if not left and any(isinstance(each, Error) for each in found):
                    run.close()  # nothing is learnt of statements that ended early
                    break
        finally:
            self._settle(time.perf_counter() - began)
        return [each for each in found if each is not None]

    def _settle(self, elapsed_s: float) -> None:
        for number, profile in enumerate(self.profiles):
            profile.replans = self.profile.replans
            if profile.status == "running":
                profile.status, profile.elapsed_s = "cancelled", elapsed_s
            for node, counters in profile.nodes.items():
                if self._owners[node] != number:
                    counters.rows, counters.batches = self.profile.nodes[node].rows, self.profile.nodes[node].batches
            models = {call.model for node in profile.dag.nodes for call in calls_by(node.op)}
            for name in models & self.profile.engines.keys():
                profile.engines[name] = self.profile.engines[name]
            for name in models & self.profile.engine_s.keys():
                profile.engine_s[name] = self.profile.engine_s[name]
            for name, did in self.profile.windows.items():
                if name in models or name.rpartition("/")[0] in models:
                    profile.windows[name] = did

    def _own(self, problem: Exception, number: int) -> Error:
        """An error of the run as the query alone would have raised it; several may have met the same one."""
        if not isinstance(problem, Error):
            return unexpected(problem)
        own: Error = type(problem).__new__(type(problem))
        own.args = problem.args
        own.__dict__.update(problem.__dict__)
        own.__cause__ = problem.__cause__
        own.message = self.plan.own_words(problem.message, problem.span, number)
        if problem.span is not None and problem.sql is None:
            own.span = self.plan.own_place(problem.span, number)
            own.sql = self._planned[number].sql
        return own


def _all_of(targets: Sequence[Targets]) -> Targets:
    """What several plans call; made of one catalog, so that equal names are the same objects."""
    models: dict[str, Any] = {}
    tools: dict[str, Any] = {}
    agents: dict[str, Any] = {}
    for each in targets:
        models |= each.models
        tools |= each.tools
        agents |= each.agents
    needed = {name for each in targets for name in each.models.keys() - each.proxies}
    return Targets(
        models,
        tools,
        agents,
        frozenset().union(*(each.querying for each in targets)),
        frozenset(models) - needed,
    )
