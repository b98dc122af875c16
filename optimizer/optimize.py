"""From a bound plan to a physical DAG, in stages: normalize, memo search, extract and share, schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from halo_sql.ir.estimate import Estimate
from halo_sql.ir.expr import Column
from halo_sql.ir.logical import LogicalPlan, Sink
from halo_sql.ir.physical import PhysicalDag, SelectExec, SinkExec, calls_by
from halo_sql.optimizer.alternative import Alternative, Requirement
from halo_sql.optimizer.bare_joins import bare_joins, rows_of_joins
from halo_sql.optimizer.bounds import bounds_of, keep_bounds
from halo_sql.optimizer.context import EngineProfile, FragmentStats, OptimizerContext, ToolProfile
from halo_sql.optimizer.defer import CannotWaitError, defer_failures
from halo_sql.optimizer.dump import dump
from halo_sql.optimizer.exactness import exact_notes
from halo_sql.optimizer.greedy import longest_chain, order_greedily
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.nodes import relational_trees
from halo_sql.optimizer.normalize import normalize
from halo_sql.optimizer.pipeline import ROW_GRAPH, row_graphs
from halo_sql.optimizer.placement.plan import PLACEMENT
from halo_sql.optimizer.placement.replan import REPLAN
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.prefixes import PREFIX_ORDER, shared_prefixes
from halo_sql.optimizer.properties import Order, Properties
from halo_sql.optimizer.residency import Switch, charged, crowded, load_seconds, memory_notes, models_of, switches
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.implement.cascade import CASCADES
from halo_sql.optimizer.rules.rule import Rule, Stage
from halo_sql.optimizer.schedule import schedule
from halo_sql.optimizer.search import Context, Search
from halo_sql.optimizer.share import DagBuilder, materialize_shared
from halo_sql.optimizer.share_subplans import SHARE_SUBPLANS, share_subplans
from halo_sql.optimizer.trace import Trace

Survey = Callable[[LogicalPlan, OptimizerContext], OptimizerContext]

#: What ``halo_disabled_rules`` knows beside RULES -> when it works, for ``halo_rules()``.
BESIDE: Mapping[str, str] = {
    SHARE_SUBPLANS: "share",
    ROW_GRAPH: "pipeline",
    PLACEMENT: "schedule",
    REPLAN: "run",
    PREFIX_ORDER: "run",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What ``optimize`` was given: all that its outcome depends on.

    columns   the result's columns
    ctx       the context before the survey
    surveyed  the context after it
    """

    plan: LogicalPlan
    columns: tuple[Column, ...]
    ctx: OptimizerContext
    surveyed: OptimizerContext


@dataclass(frozen=True, slots=True)
class Optimized:
    """The outcome: the logical plan after normalize, the physical DAG, and how it came about.

    cost     of the whole plan in the objective's unit (seconds, dollars or tokens), before sharing
    engines  models that the plan asks -> what the costs were computed with
    tools    tools that it calls, or its agents -> the same
    swaps    starts of models that others had put out; their seconds are in the nodes' estimates, not in ``cost``
    """

    problem: Problem
    logical: LogicalPlan
    dag: PhysicalDag
    trace: Trace
    cost: float
    engines: Mapping[str, EngineProfile] = field(default_factory=dict)
    tools: Mapping[str, ToolProfile] = field(default_factory=dict)
    swaps: tuple[Switch, ...] = ()


def optimize(
    plan: LogicalPlan,
    columns: tuple[Column, ...],
    ctx: OptimizerContext | None = None,
    rules: tuple[Rule, ...] = RULES,
    survey: Survey | None = None,
) -> Optimized:
    """The best physical plan found for ``plan``.

    ``columns`` are the result's columns in order (of a Sink: of the statement's own result); the DAG's root has exactly
    these. ``survey`` is asked once, of the normalized plan: it adds what is known of its data and calls to the context.
    Equal arguments and an equal answer of ``survey`` give an equal DAG. Raises InternalError when ``ctx.verify`` is set
    and a rule breaks a plan.
    """
    started = perf_counter()
    options = ctx or OptimizerContext()
    written = plan
    state = PlanContext(options, plan)
    active = _active(rules, state)
    if options.enabled:
        plan = normalize(plan, active, state)
    if survey is not None:
        options = state.options = survey(plan, options)
    problem = Problem(written, columns, ctx or OptimizerContext(), options)
    models = models_of(plan)
    try:
        search, winner, dag, swaps = _searched(plan, columns, active, models, state)
    except CannotWaitError:
        state.recorder.note("a failing call could not wait for the conditions before it: orders not explored")
        fixed = tuple(rule for rule in active if rule.stage is not Stage.EXPLORE and rule.name not in CASCADES)
        search, winner, dag, swaps = _searched(plan, columns, fixed, models, state)
    models = sorted({*models, *(call.model for node in dag.nodes for call in calls_by(node.op) if call.model)})
    for note in [*memory_notes(models, options, swaps), *dag.notes, *exact_notes(dag.nodes, options)]:
        state.recorder.note(note)
    dag = replace(dag, notes=tuple(state.recorder.notes))
    memo = search.memo
    counters = (
        ("groups", len(memo.groups)),
        ("expressions", memo.expression_count),
        ("merges", memo.merges),
        ("tasks", search.tasks_run),
        ("pruned", search.pruned),
        ("contexts", len(search.contexts)),
    )
    trace = Trace(
        rules=state.recorder.firings(),
        groups=lambda: dump(search),
        counters=counters,
        notes=dag.notes,
        seconds=perf_counter() - started,
    )
    engines = {model: options.engine(model) for model in models}
    tools = dict(sorted(options.tools.items()))
    return Optimized(problem, plan, dag, trace, winner.best_value, engines, tools, tuple(swaps))


def _searched(
    plan: Any, columns: tuple[Column, ...], active: tuple[Rule, ...], models: list[str], state: PlanContext
) -> tuple[Search, Context, PhysicalDag, list[Switch]]:
    """The best DAG that these rules give; CannotWaitError when it may fail where the plan does not."""
    options = state.options
    memo = Memo(options)
    root = memo.insert(plan, stats=_measured_trees(plan, options))
    _insert_bare_joins(plan, memo, options)
    active = _without_orders_of_long_chains(plan, root, active, memo, state)
    search = Search(memo, active, state)
    order = Order.INPUT if options.ordered else Order.ANY
    winner = search.run(Requirement(root, Properties(order=order)))
    places = crowded(models, options)
    dag, swaps = _extract(plan, winner.requirement, search, columns, places)
    if bounds_of(options):
        load_s = load_seconds(models, options) + sum(swap.seconds for swap in swaps)
        keep_bounds(search, winner.requirement, options, load_s)
        dag, swaps = _extract(plan, winner.requirement, search, columns, places)
    return search, winner, dag, swaps


def _active(rules: tuple[Rule, ...], state: PlanContext) -> tuple[Rule, ...]:
    """The rules in use; essential ones stay when they are disabled, and a note says so."""
    options = state.options
    active: list[Rule] = []
    for name in sorted(options.disabled_rules & BESIDE.keys()):
        state.recorder.note(f"rule disabled: {name}")
    for name in sorted(options.disabled_rules - {rule.name for rule in rules} - BESIDE.keys()):
        state.recorder.note(f"disabled rule does not exist: {name}")
    for rule in rules:
        if rule.name in options.disabled_rules:
            if not rule.essential:
                state.recorder.note(f"rule disabled: {rule.name}")
                continue
            state.recorder.note(f"rule cannot be disabled: {rule.name}")
        if options.enabled or rule.essential or rule.stage is Stage.IMPLEMENT:
            active.append(rule)
    if not options.enabled:
        state.recorder.note("optimizer off: the statement as written")
    return tuple(active)


def _measured_trees(plan: Any, options: OptimizerContext) -> dict[int, FragmentStats]:
    """Statistics of the plan's largest relational trees, by the identity of their roots."""
    trees = {id(tree): options.stats.get(tree) for tree in relational_trees(plan)} if options.stats else {}
    found = {tree: stats for tree, stats in trees.items() if stats is not None}
    return {**found, **rows_of_joins(plan, options.stats)} if options.stats else found


def _insert_bare_joins(plan: Any, memo: Memo, options: OptimizerContext) -> None:
    """What was measured of joins without the calls on their sides, for when these move above them."""
    for _, bare, _ in bare_joins(plan) if options.stats else ():
        stats = options.stats.get(bare)
        if stats is not None:
            memo.insert(bare, stats={id(bare): stats})


def _without_orders_of_long_chains(
    plan: Any, root: int, rules: tuple[Rule, ...], memo: Memo, state: PlanContext
) -> tuple[Rule, ...]:
    """For plans with long rows of LLM nodes: adds the greedy order to the memo and takes out the explore rules."""
    if not any(rule.stage is Stage.EXPLORE for rule in rules):
        return rules
    length = longest_chain(plan)
    if length <= state.options.limits.chain:
        return rules
    memo.insert(order_greedily(plan, state), root)
    state.recorder.note(f"{length} LLM operators in a row: ordered by rank, other orders not explored")
    return tuple(rule for rule in rules if rule.stage is not Stage.EXPLORE)


def _extract(
    plan: Any, root: Requirement, search: Search, columns: tuple[Column, ...], places: Mapping[str, Sequence[str]]
) -> tuple[PhysicalDag, list[Switch]]:
    """The winners as a DAG, and the switches between models that do not fit their devices (``places``) together."""
    winners: dict[Requirement, Alternative] = {
        requirement: context.best for requirement, context in search.contexts.items() if context.best is not None
    }
    assert root in winners, "every plan has an implementation"
    builder = DagBuilder(winners)
    top = builder.build(root)
    if isinstance(plan, Sink):
        node = builder.nodes[top]
        assert isinstance(node.op, SinkExec)
        builder.nodes[top] = replace(node, columns=columns)
    elif builder.nodes[top].columns != columns:
        picked = tuple((column, column.id) for column in columns)
        rows = builder.nodes[top].estimate.rows
        op, below = SelectExec(picked), builder.nodes[top]
        inputs: tuple[int, ...] = (top,)
        if isinstance(below.op, SelectExec) and not any(top in node.inputs for node in builder.nodes):
            sources = {column.id: source for column, source in below.op.columns}
            op, inputs = SelectExec(tuple((column, sources[column.id]) for column in columns)), below.inputs
            builder.nodes.pop()
        top = builder.add(op, inputs, columns, Estimate(rows))
    options = search.ctx.options
    nodes, top = defer_failures(plan, builder.nodes, top, search.ctx.fresh(1))
    if options.enabled and SHARE_SUBPLANS not in options.disabled_rules:
        nodes, top = share_subplans(nodes, top, options)
    nodes, top = materialize_shared(nodes, top)
    if options.enabled and ROW_GRAPH not in options.disabled_rules:
        nodes, top = row_graphs(nodes, top)
    ordered, top, notes = schedule(nodes, top, places, options)
    swaps = [] if notes else switches(ordered, places, options)
    prefixes = shared_prefixes(ordered, options)
    return PhysicalDag(charged(ordered, swaps), top, notes, prefixes), swaps
