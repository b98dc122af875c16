"""What the optimizer may know of a model's workers: where each stands, and what it takes to be there."""

from __future__ import annotations

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines.protocol import EngineInfo
from halo_sql.engines.registry import stated_moves, worker_places, workers_at_once
from halo_sql.optimizer.context import EngineProfile, WorkerProfile


def worker_profiles(
    model: ModelDef, one: EngineInfo | None, engine: EngineProfile, resident: bool
) -> tuple[WorkerProfile, ...]:
    """Of a model with several workers, or on a device that has a name; () where nothing is known to choose by.

    one       what a worker says of itself; None: nothing is known of them
    resident  whether they have started
    """
    count = workers_at_once(model)
    places = worker_places(model)
    if one is None or (count == 1 and model.engine != "emulated"):
        return ()
    moves = stated_moves(model)
    load_s, wake_s = (engine.swap_s, engine.swap_s) if moves is None else (moves.load_s, moves.wake_s)
    return tuple(
        WorkerProfile(
            number,
            place if isinstance(place, str) else f"{one.device}:{number if one.device == 'cpu' else place}",
            memory_bytes=float(one.memory_bytes),
            resident_bytes=float(one.weight_bytes + one.kv_capacity_tok * one.kv_tok_bytes),
            resident=resident,
            load_s=load_s,
            wake_s=wake_s,
            sleep_s=0.0 if moves is None else moves.sleep_s,
            kv_tok_bytes=float(one.kv_tok_bytes),
            link_bytes_per_s=0.0 if moves is None else moves.link_bytes_per_s,
        )
        for number, place in zip(range(count), places, strict=True)
    )
