"""Between the binder, the optimizer and the operators: statistics for one, a run context for the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from halo_sql.calibrating import refine
from halo_sql.catalog.objects import ModelDef
from halo_sql.config import Settings
from halo_sql.desks import Desks
from halo_sql.duck import Duck
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.knowledge import Knowledge
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.pooled import PooledEngine
from halo_sql.engines.protocol import Engine, EngineInfo
from halo_sql.engines.registry import price, stated_speed, with_secret, workers_at_once
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.speed import Speed
from halo_sql.engines.store import ResponseStore
from halo_sql.engines.worker import alone
from halo_sql.errors import Error
from halo_sql.ir.logical import BoundStatement, Demand, Limit, LogicalPlan, Sink
from halo_sql.ir.physical import PhysicalDag, ToolApplyExec, calls_by
from halo_sql.ir.walk import children, with_children
from halo_sql.learning import call_profiles, lessons, tool_lessons
from halo_sql.metrics import Profile
from halo_sql.operators.build import build
from halo_sql.operators.context import RunContext
from halo_sql.operators.text_cast import TextCast
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.nodes import walk_once
from halo_sql.optimizer.optimize import Optimized, Survey
from halo_sql.optimizer.prefixes import PREFIX_ORDER
from halo_sql.optimizer.static_tokens import StaticTokens
from halo_sql.reads import SteadyTexts
from halo_sql.replanning import Replanner
from halo_sql.runtime import Runtime
from halo_sql.sampling import object_samples
from halo_sql.statistics import Surveyor, has_choice, read_by_calls
from halo_sql.targets import Targets, surroundings_of
from halo_sql.tool_profiles import agent_tools, tool_profiles
from halo_sql.tools.journal import BatchJournal
from halo_sql.warm_prefixes import with_warm
from halo_sql.worker_profiles import worker_profiles


@dataclass(frozen=True, slots=True)
class Planned:
    """A statement that may begin to run.

    sql, params  as given
    seconds      that planning took
    """

    sql: str
    params: object
    bound: BoundStatement
    targets: Targets
    optimized: Optimized
    seconds: float


def is_sink(bound: BoundStatement) -> bool:
    """Whether the statement writes its rows somewhere, and gives a count."""
    plan = bound.plan
    return isinstance(plan, Sink) or (isinstance(plan, Demand) and plan.counts)


def optimizer_context(
    bound: BoundStatement, duck: Duck, settings: Settings, models: Mapping[str, ModelDef], runtime: Runtime
) -> OptimizerContext:
    """What the optimizer may know before it has seen a plan: settings, prices, the engines that have run, their speeds,
    and samples where the order of fields is to be chosen."""
    engines, workers, counters = {}, {}, {}
    for name, model in models.items():
        together = runtime.infos.get(name)
        info = None if together is None else alone(together, workers_at_once(model))
        speed = runtime.speeds.find(model, info) or stated_speed(model)
        resident = runtime.pool.resident(model)
        engines[name] = engine_profile(model, info, speed, speed is None or resident)
        if (together or resident) and (counter := runtime.pool.counter(model)):
            counters[name] = counter
        if found := worker_profiles(model, info or (None if speed is None else speed.info), engines[name], resident):
            workers[name] = found
    enabled, disabled = settings.text("halo_optimizer") == "on", settings.names("halo_disabled_rules")
    ordering = enabled and "order_object_fields" not in disabled
    return OptimizerContext(
        enabled=enabled,
        disabled_rules=disabled,
        verify=settings.flag("halo_verify"),
        objective=settings.text("halo_objective"),
        objects=object_samples(bound.plan, duck) if ordering else {},
        engines=engines,
        workers=workers,
        ordered=True,
        max_usd=settings.number("halo_max_usd"),
        max_seconds=settings.number("halo_max_seconds"),
        max_tokens=settings.number("halo_max_tokens"),
        occupied_bytes=_occupied(runtime, models),
        approximate=enabled and settings.flag("halo_approximate"),
        static=StaticTokens(counters) if counters else {},
        steady=SteadyTexts(duck) if enabled else {},
    )


def _occupied(runtime: Runtime, models: Mapping[str, ModelDef]) -> dict[str, float]:
    """Device -> bytes of the models that have started and are none of these."""
    found: dict[str, float] = {}
    names = {name.lower() for name in models}
    started = runtime.pool.started() if runtime.infos else ()
    for name, info in runtime.infos.items():
        if name.lower() in started and name.lower() not in names:
            taken = info.weight_bytes + info.kv_capacity_tok * info.kv_tok_bytes
            found[info.device] = found.get(info.device, 0.0) + taken
    return found


def survey(
    duck: Duck, closely: bool, targets: Targets, knowledge: Knowledge | None, runtime: Runtime | None = None
) -> Survey:
    """What ``optimize`` asks of data and calls. Rows that calls will read are counted when that may decide between
    plans, or ``closely``: somebody wants to read the estimates. ``knowledge`` None: nothing learnt is used.
    ``runtime``: its engines' caches are looked at."""

    def add(plan: LogicalPlan, ctx: OptimizerContext) -> OptimizerContext:
        ctx = ctx if runtime is None else with_warm(ctx, plan, targets.models, runtime)
        engines = ctx.engines.values()  # seconds are only as good as the lengths of the texts
        known = any(engine.kv_capacity_tok or engine.calibrated for engine in engines)
        counted = closely or known or has_choice(plan, ctx.approximate)
        calls = {} if knowledge is None else call_profiles(plan, targets.models, knowledge)
        return replace(
            ctx,
            stats=Surveyor(duck, counted).survey(plan),
            calls=calls,
            tools=tool_profiles(plan, targets, duck, knowledge),
            agent_tools=agent_tools(targets),
            acting=targets.acting_names,
        )

    return add


def _joined_from(dag: PhysicalDag) -> dict[str, int]:
    """Lower-case name of a query -> from how many calls on it is run as a join."""
    found: dict[str, int] = {}
    for node in dag.nodes:
        if isinstance(node.op, ToolApplyExec):
            pairs = zip(node.op.calls, node.op.join_from, strict=False)
            found.update((call.target.lower(), start) for call, start in pairs)
    return found


def sampled(bound: BoundStatement, rows: int) -> BoundStatement:
    """The statement over the first ``rows`` rows of each relational tree that calls read."""
    trees = {id(tree) for tree, _, _ in read_by_calls(bound.plan)}
    made: dict[int, Any] = {}
    for node in reversed(list(walk_once(bound.plan))):
        inputs = tuple(made[id(child)] for child in children(node))
        same = all(new is old for new, old in zip(inputs, children(node), strict=True))
        whole: LogicalPlan = node if same else with_children(node, inputs)
        made[id(node)] = Limit(whole, rows) if id(node) in trees else whole
    return replace(bound, plan=made[id(bound.plan)])


def check_secrets(models: Mapping[str, ModelDef], secrets: SecretStore) -> None:
    """CatalogError when the SECRET of a model is missing, or is for another server: before anything is asked."""
    for model in models.values():
        if "secret" in model.options:
            with_secret(model, secrets)


def engine_profile(model: ModelDef, info: EngineInfo | None, speed: Speed | None, resident: bool) -> EngineProfile:
    """What the cost model may know of an engine: its price, its sizes once it has run, its speed once calibrated. Sizes
    and speeds are those of one of its workers, windows of all."""
    usd = price(model)
    known = EngineProfile(
        usd_per_prompt_tok=usd.prompt_usd / 1e6, usd_per_output_tok=usd.output_usd / 1e6, workers=workers_at_once(model)
    )
    info = info or (None if speed is None else speed.info)
    if info is None:
        return known
    known = replace(
        known,
        window_requests=info.window_requests * known.workers,
        batch_requests=info.batch_requests,
        window_tok=info.window_tok * known.workers,
        kv_capacity_tok=info.kv_capacity_tok,
        block_tok=info.block_tok or known.block_tok,
        context_tok=info.context_tok,
        device=info.device,
        resident_bytes=float(info.weight_bytes + info.kv_capacity_tok * info.kv_tok_bytes),
        memory_bytes=float(info.memory_bytes),
    )
    if speed is None:
        return known
    refined = f", pace {speed.pace:.2f} of {speed.queries} queries" if speed.queries else ""
    return replace(
        known,
        prefill_tok_per_s=speed.prefill_tok_per_s / speed.pace,
        decode_step_s=speed.decode_step_s * speed.pace,
        decode_seq_s=speed.decode_seq_s * speed.pace,
        kv_read_s=speed.kv_read_s * speed.pace,
        request_s=speed.request_s * speed.pace,
        load_s=0.0 if resident else speed.load_s,
        swap_s=speed.load_s,
        chars_per_tok=speed.chars_per_tok,
        bare_tok=speed.bare_tok,
        system_tok=speed.system_tok,
        calibrated=f"calibrated on {info.device} {info.dtype}".rstrip() + f" (±{100 * speed.error:.0f} %{refined})",
    )


async def warm(runtime: Runtime, models: Mapping[str, ModelDef], store: ResponseStore | None) -> None:
    """Begin to start the engines that are sure to be needed, while the plan is made.

    One that can be described without a start waits for the first answer that is not in the store.
    """
    for model in models.values():
        try:
            engine = runtime.pool.get(model)
            if store is None or await engine.describe() is None:
                runtime.pool.start(model)
        except Error:
            continue  # the same error is raised when the run asks for the engine


def _resident(pool: EnginePool, models: Mapping[str, ModelDef], name: str) -> bool:
    return pool.resident(models[name])


async def start_run(
    duck: Duck,
    runtime: Runtime,
    dag: PhysicalDag,
    targets: Targets,
    store: ResponseStore | None,
    settings: Settings,
    profile: Profile,
    statement: str,
    knowledge: Knowledge | None = None,
    budget: Budget | None = None,
    options: OptimizerContext | None = None,
    journal: BatchJournal | None = None,
) -> tuple[AsyncIterator[Any], Callable[[bool], Awaitable[None]]]:
    """The root iterator of a plan and a closer (told whether the statement ended well); on the runtime's loop.

    statement  text and parameters
    knowledge  what is added to when it has ended well
    budget     what has been used counts against the limits, too; None: the statement has one of its own
    options    what the plan was made with: its placement follows what is observed; None: it stays
    journal    of the batch that it is a statement of
    """
    pool, models = runtime.pool, targets.models
    held: dict[str, PooledEngine] = {}
    before: dict[str, dict[int, dict[str, float]]] = {}  # model -> what its workers had done
    cuts: dict[str, int] = {}  # of windows, before

    async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
        engine = held.get(model)
        if engine is None:
            engine = held[model] = pool.get(models[model])
            before[model] = engine.worker_counts()
            cuts.update({model + name: limit.cuts for name, limit in engine.limits().items()})
            if replanner is not None:
                replanner.asks(model, engine)
        info = runtime.infos[model] = (await engine.describe() if store is not None else None) or await engine.start()
        profile.engines[model] = f"{info.identity} ({info.device})" if info.device else info.identity
        return engine, info

    budget = budget or Budget()
    budget.limit(
        settings.integer("halo_max_calls"),
        settings.integer("halo_max_tokens"),
        settings.number("halo_max_seconds"),
        settings.number("halo_max_usd"),
    )
    prices = {name: price(model) for name, model in models.items()}
    resident = {name for name, model in models.items() if pool.resident(model)}
    dispatcher = Dispatcher(
        engine_of,
        store,
        budget,
        settings.integer("halo_max_concurrency"),
        prices,
        log=profile.log,
        ordered=PREFIX_ORDER not in settings.names("halo_disabled_rules"),
    )
    cast = TextCast()
    desks = Desks(
        dispatcher,
        targets,
        surroundings_of(runtime),
        store=store,
        journal=journal or runtime.journal,
        budget=budget,
        log=profile.log,
        statement=statement,
        cast=cast,
        join_from=_joined_from(dag),
        placed={id(profile.nodes[node.id]): getattr(node.op, "worker", "") for node in dag.nodes},
    )
    context = RunContext(
        duck=duck,
        channels=desks,
        metrics=profile.nodes,
        max_recursion=settings.integer("halo_max_recursion"),
        text_cast=cast,
        querying=targets.querying,
    )
    desks.on_connection = context.on_connection
    expected: list[Callable[[], None]] = []

    def expect(order: Sequence[str]) -> None:
        """In place of what was expected before."""
        for ended in expected:
            ended()
        expected[:] = [pool.expect(order)]

    expect([call.model for node in dag.nodes for call in calls_by(node.op) if call.model])
    replanner = None
    if options is not None and Replanner.wanted(dag, options):
        resident_now = partial(_resident, pool, models)
        replanner = Replanner(dag, options, profile, dispatcher, desks, held, resident_now, expect)

    async def close(well: bool) -> None:
        if replanner is not None:
            replanner.stop()
        for ended in expected:
            ended()
        profile.engine_s = {name: meter.busy_s for name, meter in dispatcher.meters.items()}
        for model, engine in held.items():
            for number, did in engine.worker_counts().items():
                known = before[model].get(number, {})
                profile.workers[f"{model}/{number}"] = {key: max(0.0, did[key] - known.get(key, 0.0)) for key in did}
            for name, limit in engine.limits().items():
                less = max(0, limit.cuts - cuts.get(model + name, 0))
                profile.windows[model + name] = {"requests": limit.requests, "most": limit.most, "cuts": less}
        if well:
            await desks.finish()
            if knowledge is not None:
                learnt = lessons(dag, profile, dispatcher.experience, models)
                tools = (tool.tool for tool in targets.tools.values())
                knowledge.learn([*learnt, *tool_lessons(desks.tool_experience(), tools)])
            await refine(
                runtime, models, {name: meter for name, meter in dispatcher.meters.items() if name in resident}
            )
        await desks.close()
        context.close()

    return build(dag, context), close
