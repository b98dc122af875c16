"""Between the binder, the optimizer and the operators: statistics for one, a run context for the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from halo_sql.catalog.objects import ModelDef
from halo_sql.config import Settings
from halo_sql.desks import Desks
from halo_sql.duck import Duck
from halo_sql.engines.budget import Budget
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.protocol import Engine, EngineInfo
from halo_sql.engines.registry import price, with_secret
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.store import ResponseStore
from halo_sql.errors import Error
from halo_sql.ir.logical import BoundStatement, Demand, Fragment, Sink
from halo_sql.ir.physical import PhysicalDag
from halo_sql.ir.walk import walk
from halo_sql.metrics import Profile
from halo_sql.operators.build import build
from halo_sql.operators.context import RunContext
from halo_sql.operators.text_cast import TextCast
from halo_sql.optimizer.context import EngineProfile, FragmentStats, OptimizerContext
from halo_sql.runtime import Runtime
from halo_sql.statistics import fragment_stats
from halo_sql.targets import Targets, surroundings_of


def is_sink(bound: BoundStatement) -> bool:
    """Whether the statement writes its rows somewhere, and gives a count."""
    plan = bound.plan
    return isinstance(plan, Sink) or (isinstance(plan, Demand) and plan.counts)


def optimizer_context(
    bound: BoundStatement, duck: Duck, settings: Settings, models: Mapping[str, ModelDef], runtime: Runtime
) -> OptimizerContext:
    """What the optimizer may know of a statement: settings, statistics of the sources, prices, and the engines that
    have run before. Sources are sampled only for engines whose KV cache may be too small for them."""
    engines = {name: engine_profile(model, runtime.infos.get(name)) for name, model in models.items()}
    window = min((profile.window_requests for profile in engines.values() if profile.kv_capacity_tok), default=0)
    stats: dict[Fragment, FragmentStats] = {}
    estimates: dict[str, float | None] = {}
    for node in walk(bound.plan):
        if isinstance(node, Fragment) and not node.inputs and node not in stats:
            found = fragment_stats(duck, node, window, estimates)
            if found is not None:
                stats[node] = found
    return OptimizerContext(
        enabled=settings.text("halo_optimizer") == "on",
        disabled_rules=settings.names("halo_disabled_rules"),
        verify=settings.flag("halo_verify"),
        objective=settings.text("halo_objective"),
        stats=stats,
        engines=engines,
        ordered=True,
    )


def check_secrets(models: Mapping[str, ModelDef], secrets: SecretStore) -> None:
    """CatalogError when the SECRET of a model is missing, or is for another server: before anything is asked."""
    for model in models.values():
        if "secret" in model.options:
            with_secret(model, secrets)


def engine_profile(model: ModelDef, info: EngineInfo | None) -> EngineProfile:
    """What the cost model may know of an engine: its price, and its sizes once it has run."""
    usd = price(model)
    known = EngineProfile(usd_per_prompt_tok=usd.prompt_usd / 1e6, usd_per_output_tok=usd.output_usd / 1e6)
    if info is None:
        return known
    return replace(
        known,
        window_requests=info.window_requests,
        kv_capacity_tok=info.kv_capacity_tok,
        context_tok=info.context_tok,
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


async def start_run(
    duck: Duck,
    runtime: Runtime,
    dag: PhysicalDag,
    targets: Targets,
    store: ResponseStore | None,
    settings: Settings,
    profile: Profile,
    statement: str,
) -> tuple[AsyncIterator[Any], Callable[[bool], Awaitable[None]]]:
    """The root iterator of a plan and a closer (told whether the statement ended well); on the runtime's loop.

    statement  text and parameters
    """
    pool, models = runtime.pool, targets.models
    held: dict[str, Engine] = {}

    async def engine_of(model: str) -> tuple[Engine, EngineInfo]:
        engine = held.get(model)
        if engine is None:
            engine = held[model] = pool.get(models[model])
        info = runtime.infos[model] = (await engine.describe() if store is not None else None) or await engine.start()
        profile.engines[model] = f"{info.identity} ({info.device})" if info.device else info.identity
        return engine, info

    budget = Budget(
        settings.integer("halo_max_calls"),
        settings.integer("halo_max_tokens"),
        settings.number("halo_max_seconds"),
        settings.number("halo_max_usd"),
    )
    prices = {name: price(model) for name, model in models.items()}
    dispatcher = Dispatcher(engine_of, store, budget, settings.integer("halo_max_concurrency"), prices, log=profile.log)
    cast = TextCast()
    desks = Desks(
        dispatcher,
        targets,
        surroundings_of(runtime),
        store=store,
        journal=runtime.journal,
        budget=budget,
        log=profile.log,
        statement=statement,
        cast=cast,
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

    async def close(well: bool) -> None:
        if well:
            await desks.finish()
        await desks.close()
        context.close()

    return build(dag, context), close
