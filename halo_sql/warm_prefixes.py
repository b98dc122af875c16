"""What the prefix caches of running engines hold of a statement's prompts, as the optimizer may know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines.prefix_cache import known_cache
from halo_sql.engines.router import CHUNK_CHARS
from halo_sql.engines.workers import WorkerGroup
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.nodes import walk_once
from halo_sql.optimizer.prefixes import static_parts, static_prefix
from halo_sql.runtime import Runtime


def with_warm(
    ctx: OptimizerContext, plan: LogicalPlan, models: Mapping[str, ModelDef], runtime: Runtime
) -> OptimizerContext:
    """The context with the beginnings of the plan's prompts that engines hold from before.

    What all prompts of a call begin with is asked for in the models that the engines' users keep of their caches; of
    several workers, each that holds all of it (but for a chunk at the end) is told, and how fast it comes to others.
    """
    if not runtime.infos:  # nothing has started
        return ctx
    warm: dict[tuple[str, str], float] = {}
    prefixes: dict[str, dict[int, set[str]]] = {}
    links: dict[str, float] = {}
    for call in (call for node in walk_once(plan) for call in calls_made(node)):
        text = static_prefix(call)
        if call.kind in ("tool", "agent") or not text or (call.model, text) in warm or call.model not in models:
            continue
        engine = runtime.pool.at_hand(models[call.model])
        if engine is None:
            continue
        system, user = static_parts(call)
        whole = len(system or "") + len(user)
        if isinstance(engine, WorkerGroup):
            links[call.model] = 0.0 if engine.storage is None else engine.storage.bytes_per_s()
            held = [engine.router.held_chars(one.number, system or "", user) for one in engine.workers]
            for number, chars in enumerate(held):
                if chars and whole - chars < CHUNK_CHARS:
                    prefixes.setdefault(call.model, {}).setdefault(number, set()).add(text)
            found = max(held, default=0)
        else:
            cache = known_cache(engine)
            found = 0 if cache is None else cache.held_chars(system, user)
        if found:
            warm[call.model, text] = min(1.0, found / whole)
    workers = {
        model: tuple(
            replace(
                one,
                prefixes=frozenset(prefixes.get(model, {}).get(one.number, ())),
                link_bytes_per_s=links.get(model) or one.link_bytes_per_s,
            )
            for one in known
        )
        for model, known in ctx.workers.items()
    }
    return replace(ctx, warm=warm, workers=workers)
