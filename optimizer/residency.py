"""The models of a plan and their devices: seconds until all can be asked, whether they fit the memory together, and
what it takes to change places when they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from halo_sql.ir.estimate import Cost
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.physical import PhysicalNode, calls_by
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.context import OptimizerContext
from halo_sql.optimizer.nodes import walk_once


@dataclass(frozen=True, slots=True)
class Switch:
    """A model that is started again in the course of a plan, as others had taken its place.

    node  that needs it
    """

    node: int
    model: str
    seconds: float


def models_of(plan: LogicalPlan) -> list[str]:
    """The models that a plan's calls and agents ask, by name."""
    return sorted({call.model for node in walk_once(plan) for call in calls_made(node) if call.model})


def load_seconds(models: Sequence[str], options: OptimizerContext) -> float:
    """Seconds of the starts that the plan still needs, one after the other."""
    return sum(options.engine(model).load_s for model in models)


def crowded(models: Sequence[str], options: OptimizerContext) -> dict[str, list[str]]:
    """Device -> the plan's models on it, where its memory does not hold weights and KV cache of these and of what
    others have left there. Devices and models that tell no sizes are left out."""
    by_device: dict[str, list[str]] = {}
    for model in models:
        engine = options.engine(model)
        if engine.resident_bytes and engine.memory_bytes:
            by_device.setdefault(engine.device, []).append(model)
    return {
        device: names
        for device, names in by_device.items()
        if _needed(names, options) + options.occupied_bytes.get(device, 0.0) > _room(names, options)
    }


def memory_notes(models: Sequence[str], options: OptimizerContext, switches: Sequence[Switch] = ()) -> list[str]:
    """A sentence per crowded device, with the switches that the plan's order makes of it."""
    found = []
    for device, names in crowded(models, options).items():
        others = options.occupied_bytes.get(device, 0.0)
        beside = f" beside {others / 1e9:.1f} GB of other models" if others else ""
        own = [switch for switch in switches if switch.model in names]
        seconds = sum(switch.seconds for switch in own)
        times = "once" if len(own) == 1 else f"{len(own)} times"
        found.append(
            f"{', '.join(names)}: weights and KV cache of {_needed(names, options) / 1e9:.1f} GB{beside} exceed the "
            f"{_room(names, options) / 1e9:.1f} GB of {device}"
            + (f"; models change places {times}, ~{seconds:.1f} s" if own else "")
        )
    return found


def switches(
    nodes: Sequence[PhysicalNode], places: Mapping[str, Sequence[str]], options: OptimizerContext
) -> list[Switch]:
    """The starts beside each model's first when the nodes run one after the other on crowded devices (``places``).

    Room is made by putting out the models that are needed again last (Belady, 1966), which no other choice beats. Nodes
    that stream into each other take turns, so there may be more.
    """
    device_of = {model: device for device, names in places.items() for model in names}
    uses = [(node.id, call.model) for node in nodes for call in calls_by(node.op) if call.model in device_of]
    there: dict[str, list[str]] = {device: [] for device in places}
    started: set[str] = set()
    found: list[Switch] = []
    for place, (node, model) in enumerate(uses):
        residents = there[device_of[model]]
        if model in residents:
            continue
        later = [name for _, name in uses[place + 1 :]]
        residents.sort(key=lambda name: later.index(name) if name in later else len(later))
        room = _room(places[device_of[model]], options)
        while residents and _needed([*residents, model], options) > room:
            residents.pop()
        residents.append(model)
        if model in started:
            found.append(Switch(node, model, options.engine(model).swap_s))
        started.add(model)
    return found


def charged(nodes: Sequence[PhysicalNode], found: Sequence[Switch]) -> tuple[PhysicalNode, ...]:
    """The nodes, with the seconds of the switches that they make."""
    extra: dict[int, float] = {}
    for switch in found:
        extra[switch.node] = extra.get(switch.node, 0.0) + switch.seconds
    return tuple(
        replace(node, estimate=replace(node.estimate, cost=node.estimate.cost + Cost(gpu_s=extra[node.id])))
        if node.id in extra
        else node
        for node in nodes
    )


def _needed(names: Sequence[str], options: OptimizerContext) -> float:
    return sum(options.engine(name).resident_bytes for name in names)


def _room(names: Sequence[str], options: OptimizerContext) -> float:
    return min(options.engine(name).memory_bytes for name in names)
