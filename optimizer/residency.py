"""The models of a plan and their devices: seconds until all can be asked, and whether they fit the memory."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.nodes import walk_once


def models_of(plan: LogicalPlan) -> list[str]:
    """The models that a plan's calls and agents ask, by name."""
    return sorted({call.model for node in walk_once(plan) for call in calls_made(node) if call.model})


def load_seconds(models: Sequence[str], options: OptimizerContext) -> float:
    """Seconds of the starts that the plan still needs, one after the other."""
    return sum(options.engine(model).load_s for model in models)


def memory_notes(models: Sequence[str], options: OptimizerContext) -> list[str]:
    """A sentence per device whose memory does not hold weights and KV cache of the plan's models and of those that
    others have left there. Devices and models that tell no sizes are left out."""
    by_device: dict[str, list[str]] = {}
    for model in models:
        engine = options.engine(model)
        if engine.resident_bytes and engine.memory_bytes:
            by_device.setdefault(engine.device, []).append(model)
    found = []
    for device, names in by_device.items():
        needed = sum(options.engine(name).resident_bytes for name in names)
        others = options.occupied_bytes.get(device, 0.0)
        room = min(options.engine(name).memory_bytes for name in names)
        if needed + others > room:
            beside = f" beside {others / 1e9:.1f} GB of other models" if others else ""
            found.append(
                f"{', '.join(names)}: weights and KV cache of {needed / 1e9:.1f} GB{beside} exceed the "
                f"{room / 1e9:.1f} GB of {device}"
            )
    return found
