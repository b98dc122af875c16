"""The statements with LLM calls of one session: from text to plan, from plan to rows, and what they did."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_sql import config
from halo_sql.call_log import CallLog, RunLog
from halo_sql.collector import collector_waits
from halo_sql.config import Settings
from halo_sql.deep import deep
from halo_sql.duck import Duck
from halo_sql.engines.budget import Budget
from halo_sql.errors import Error, InterruptedQueryError, NotSupportedError
from halo_sql.metrics import NodeMetrics, Profile
from halo_sql.result import BatchResult, Result
from halo_sql.runtime import Runtime

if TYPE_CHECKING:
    from concurrent.futures import Future

    from halo_sql.catalog.objects import ModelDef, Snapshot
    from halo_sql.engines.knowledge import Knowledge
    from halo_sql.engines.speed import Speed
    from halo_sql.engines.store import ResponseStore
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.ir.logical import BoundStatement
    from halo_sql.ir.physical import PhysicalDag
    from halo_sql.optimizer.context import OptimizerContext
    from halo_sql.optimizer.optimize import Optimized
    from halo_sql.planning import Planned
    from halo_sql.running import QueryRun
    from halo_sql.targets import Targets
    from halo_sql.tools.journal import BatchJournal

PROFILES_KEPT = 100


class Queries:
    """LLM queries of a session, one running at a time.

    snapshot  gives the catalog as the connection sees it now
    warnings  sentences for the user
    calls     the latest LLM calls
    profiles  what the latest queries did, oldest first
    """

    def __init__(self, duck: Duck, settings: Settings, runtime: Runtime, snapshot: Callable[[], Snapshot]) -> None:
        self.calls = CallLog()
        self.warnings: list[str] = []
        self.profiles: list[Profile] = []
        self._duck = duck
        self._settings = settings
        self._runtime = runtime
        self._snapshot = snapshot
        self._run: QueryRun | None = None
        self._work: Future[Speed] | None = None  # on the loop, waited for
        self._lock = threading.Lock()
        self._count = 0
        self._planning = 0  # statements that are planned (one may need the answer of another)
        self._stopped = False
        self._budget: Budget | None = None  # of a batch
        self._acted: BatchJournal | None = None  # what statements of a batch did
        self._watched: list[tuple[BoundStatement, Optimized]] | None = None

    @contextmanager
    def watched(self) -> Iterator[list[tuple[BoundStatement, Optimized]]]:
        """What is planned meanwhile, in order."""
        before, self._watched = self._watched, []
        try:
            yield self._watched
        finally:
            self._watched = before

    def bind(
        self, sql: str, params: object, expanded: Expanded | None = None, answers: bool = False
    ) -> tuple[BoundStatement, Snapshot]:
        """The logical plan as written, and the catalog it was bound against. ``answers``: a call whose answer DuckDB
        needs to bind the statement may be made."""
        from halo_sql.grammar.bind import bind

        snapshot = self._snapshot()
        answer = self._constant if answers else None
        return bind(sql, self._duck, snapshot, self._settings, params, expanded, answer), snapshot

    def _constant(self, call: str, params: object) -> str:
        """The answer of a call without columns as a SQL expression."""
        from halo_sql.grammar.values import constant

        result, _ = self.run(f"SELECT CAST({call} AS VARCHAR) AS value, typeof({call}) AS kind", params)
        try:
            value, kind = result.fetchall()[0]
        finally:
            result.close()
        return constant(kind, value)

    def optimize(self, bound: BoundStatement, snapshot: Snapshot, closely: bool = False) -> Optimized:
        """The physical plan. ``closely``: its estimates will be read, they are worth a query over the data."""
        from halo_sql.optimizer.optimize import optimize
        from halo_sql.planning import optimizer_context, survey
        from halo_sql.targets import targets_of

        targets = targets_of(bound, snapshot, self._settings, self._duck)

        def plan() -> Optimized:
            context = optimizer_context(bound, self._duck, self._settings, targets.models, self._runtime)
            asked = survey(self._duck, closely, targets, self.knowledge(), self._runtime)
            return optimize(bound.plan, bound.columns, context, survey=asked)

        with collector_waits():
            optimized = deep(plan)
        if self._watched is not None:
            self._watched.append((bound, optimized))
        return optimized

    def run(
        self, sql: str, params: object, expanded: Expanded | None = None, closely: bool = False, sample: int = 0
    ) -> tuple[Result, Profile]:
        """Plan and begin to run; returns when the first rows are there, or when what writes or acts is done.
        ``closely`` as in ``optimize``. ``sample``: only so many rows are read below calls, and nothing is changed."""
        from halo_sql.planning import is_sink
        from halo_sql.running import primed

        with self.interruptible():
            planned = self.plan(sql, params, expanded, closely, sample)
            options = planned.optimized.problem.surveyed
            profile, statement = self._profile(planned), self._journaled(planned)
            run = self._begin(planned.optimized.dag, planned.targets, profile, statement, options)
            if self._stopped:
                run.interrupt()
        bound, batches = planned.bound, run.batches()
        if is_sink(bound):
            counted = list(batches)
            changed = sum(batch.column(0)[0].as_py() for batch in counted if batch.num_rows)
            self._run = None
            return BatchResult(bound.columns, counted, rowcount=changed), run.profile
        if planned.targets.acting:  # how many rows are read must not decide what happens
            found = list(batches)
            self._run = None
            return BatchResult(bound.columns, found), run.profile
        return BatchResult(bound.columns, primed(batches), run.close), run.profile

    def together(self, planned: Mapping[int, Planned], tables: Set[str]) -> tuple[list[Result | Error], Profile]:
        """Run queries, by their numbers, as one plan: the result of each (in memory) or its error, and what all did.
        InterruptedQueryError ends them all. ``tables`` as of ``consolidate``."""
        from halo_sql.joint import Joint

        plans = list(planned.values())
        joint = Joint(plans, [self._profile(each) for each in plans], list(planned), tables)
        joint.profile.log = RunLog(self.calls, 0, {}, self._settings.flag("halo_trace_text"), joint.nodes())
        run = self._begin(joint.plan.dag, joint.targets, joint.profile, "", joint.plan.options)
        if self._stopped:
            run.interrupt()
        try:
            return joint.collect(run), joint.profile
        finally:
            self._run = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """The statements run inside use one budget, and an interrupt ends them all: run again, they repeat nothing that
        they did."""
        with self.interruptible():
            self._budget = Budget()
            try:
                yield
                if self._acted is not None:
                    self._acted.finish()
            finally:
                self._budget = self._acted = None

    def check_interrupted(self) -> None:
        """InterruptedQueryError after an interrupt within ``batch``."""
        if self._stopped:
            raise InterruptedQueryError("Interrupted!")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """An interrupt that comes inside, while a statement is read or planned, ends the run as soon as it begins."""
        if not self._planning:
            self._stopped = False
        self._planning += 1
        try:
            yield
        finally:
            self._planning -= 1

    def plan(
        self,
        sql: str,
        params: object,
        expanded: Expanded | None = None,
        closely: bool = False,
        sample: int = 0,
        starting: bool = True,
    ) -> Planned:
        """What ``run`` would run. ``starting``: engines that are sure to be needed begin to start, except in virtual
        time, where planning takes no time and must not depend on how far starts are."""
        from halo_sql.planning import Planned, check_secrets, is_sink, sampled
        from halo_sql.targets import check_tool_secrets, targets_of

        began = time.perf_counter()
        bound, snapshot = self.bind(sql, params, expanded, answers=True)
        targets = targets_of(bound, snapshot, self._settings, self._duck)
        if sample:
            bound = sampled(bound, sample)
            if is_sink(bound) or targets.acting:
                raise NotSupportedError(
                    "the statement would change something", remedy="ANALYZE a query that only reads."
                )
        check_secrets(targets.models, self._runtime.secrets)
        check_tool_secrets(targets, self._runtime.secrets)
        if starting and not self._runtime.virtual_time:
            self._start_engines(targets)
        optimized = self.optimize(bound, snapshot, closely)
        return Planned(sql, params, bound, targets, optimized, time.perf_counter() - began)

    def _start_engines(self, targets: Targets) -> None:
        from halo_sql.planning import warm

        needed = {name: model for name, model in targets.models.items() if name not in targets.proxies}
        self._runtime.begin(warm(self._runtime, needed, self.store()))

    def _profile(self, planned: Planned) -> Profile:
        """The profile of a statement that is about to run."""
        dag = planned.optimized.dag
        profile = Profile(planned.sql, dag, {node.id: NodeMetrics() for node in dag.nodes})
        profile.virtual = self._runtime.virtual_time
        profile.number = self._count = self._count + 1
        nodes = {id(counters): number for number, counters in profile.nodes.items()}
        profile.log = RunLog(self.calls, profile.number, nodes, self._settings.flag("halo_trace_text"))
        profile.planning_s = planned.seconds
        self.profiles = [*self.profiles[-PROFILES_KEPT + 1 :], profile]
        self.warnings += planned.bound.warnings
        self._tell_speeds()
        return profile

    def _journaled(self, planned: Planned) -> str:
        """What makes two runs of a statement with side effects the same."""
        statement = planned.sql if not planned.params else f"{planned.sql}\n{planned.params!r}"
        if not planned.targets.acting:
            return statement
        statement = f"{self._database()}\n{statement}"
        if self._budget is None:
            return statement
        if self._acted is None:
            from halo_sql.tools.journal import BatchJournal

            self._acted = BatchJournal(self._runtime.journal)
        return self._acted.named(statement)

    def _database(self) -> str:
        """The file of the current database; '' in memory."""
        query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
        found = self._duck.rows(query)
        return str(Path(found[0][0]).resolve()) if found and found[0][0] else ""

    def _begin(
        self, dag: PhysicalDag, targets: Targets, profile: Profile, statement: str, options: OptimizerContext
    ) -> QueryRun:
        from halo_sql.planning import start_run
        from halo_sql.running import QueryRun

        if self._runtime.virtual_time:
            self._start_engines(targets)
        store = self.store()
        warned = 0 if store is None else len(store.warnings)

        def start() -> Any:
            return start_run(
                self._duck,
                self._runtime,
                dag,
                targets,
                store,
                self._settings,
                profile,
                statement,
                self.knowledge(),
                self._budget,
                options,
                self._acted,
            )

        run = QueryRun(self._runtime, self._duck, start, profile)
        self._run = run
        run.prefetch()
        if store is not None:
            self.warnings += store.warnings[warned:]
        return run

    def store(self) -> ResponseStore | None:
        """The response store; None when it is off."""
        path = config.store_path(self._settings)
        return None if path is None else self._runtime.store(path)

    def knowledge(self) -> Knowledge | None:
        """What was learnt from finished calls; None when it is not to be used."""
        if not self._settings.flag("halo_learn"):
            return None
        return self._runtime.knowledge(config.store_path(self._settings))

    def calibrate(self, model: ModelDef) -> Speed:
        """Measure a model, see ``calibrating``; ``interrupt`` stops it."""
        from concurrent.futures import CancelledError

        from halo_sql.calibrating import calibrated

        self.end()
        with self._lock:
            work = self._work = self._runtime.begin(calibrated(self._runtime, model, self._settings))
        try:
            return self._runtime.wait(work)
        except CancelledError:
            raise InterruptedQueryError("Interrupted!") from None
        finally:
            work.cancel()
            self._work = None
            self._tell_speeds()

    def _tell_speeds(self) -> None:
        """Warn of calibrations that cannot be read or kept."""
        self.warnings += [warning for warning in self._runtime.speeds.warnings if warning not in self.warnings]

    def end(self) -> None:
        """End what runs."""
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def interrupt(self) -> None:
        """Cancel what runs, or is planned, from any thread."""
        self._stopped = True
        with self._lock:  # what has begun is known
            run, work = self._run, self._work
        if run is not None:
            run.interrupt()
        elif work is not None:
            work.cancel()
        else:
            self._duck.interrupt()

    def progress(self) -> list[tuple[str, NodeMetrics]]:
        """Label and live counters of the LLM operators of the running query."""
        from halo_sql.explain import llm_label

        run = self._run
        if run is None:
            return []
        labelled = [(llm_label(node), node) for node in run.profile.dag.nodes]
        return [(label, run.profile.nodes[node.id]) for label, node in labelled if label]
