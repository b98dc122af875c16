"""CALIBRATE MODEL: an engine's speed measured and kept, and what finished queries add to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from halo_sql.catalog.objects import ModelDef
from halo_sql.clock import clock_s
from halo_sql.config import Settings
from halo_sql.engines.budget import Budget
from halo_sql.engines.calibrate import calibrate
from halo_sql.engines.meter import Meter
from halo_sql.engines.registry import model_kind, price, worker_count, workers_at_once
from halo_sql.engines.speed import Speed
from halo_sql.engines.speeds import definition_of
from halo_sql.engines.worker import alone
from halo_sql.errors import CatalogError, Error
from halo_sql.runtime import Runtime


async def calibrated(runtime: Runtime, model: ModelDef, settings: Settings) -> Speed:
    """Start the model's engine if needed, measure it (of several workers the first), keep the figures.

    Raises CatalogError for an engine whose time is not a model's, and EngineError when it cannot start, refuses a
    probe, or when ``halo_max_calls``, ``halo_max_tokens`` or ``halo_max_usd`` do not allow the probes.
    """
    engine = runtime.pool.get(model)
    info = runtime.infos[model.name] = await engine.start()
    if not info.timed:
        raise CatalogError(
            f'model "{model.name}" answers at once: there is nothing to measure',
            remedy="Calibrate models of the engines vllm, openai and python.",
        )
    budget = Budget(
        settings.integer("halo_max_calls"),
        settings.integer("halo_max_tokens"),
        settings.number("halo_max_seconds"),
        settings.number("halo_max_usd"),
    )
    workers = worker_count(model)
    one = alone(info, workers_at_once(model))
    known = runtime.speeds.find(model, one)
    seen = [seconds for seconds in (engine.load_s, known.load_s if known else 0.0) if seconds]
    speed = await calibrate(
        engine,
        one,
        definition_of(model),
        model_kind(model),
        min(seen, default=0.0),
        clock_s,
        budget=budget,
        price=price(model),
        workers=(0,) if workers > 1 else (),
    )
    await asyncio.to_thread(runtime.speeds.put, speed)
    return speed


async def refine(runtime: Runtime, models: Mapping[str, ModelDef], meters: Mapping[str, Meter]) -> None:
    """Fold what a query took into the figures of the models it asked that are calibrated. Never raises for them."""
    with contextlib.suppress(Error):  # the pool may be closing
        for name, meter in meters.items():
            await _refine(runtime, name, models[name], meter)


async def _refine(runtime: Runtime, name: str, model: ModelDef, meter: Meter) -> None:
    info = runtime.infos.get(name)
    if workers_at_once(model) > 1:  # what was measured is of one worker
        return
    speed = None if info is None or not meter.sound else runtime.speeds.find(model, info)
    if speed is None or info is None:
        return
    refined = speed.refined(meter.work(info.batch_requests or info.window_requests), meter.busy_s)
    if refined is speed:
        return
    load_s = runtime.pool.get(model).load_s
    if load_s:
        refined = replace(refined, load_s=min(load_s, refined.load_s or load_s))
    await asyncio.to_thread(runtime.speeds.put, refined)
