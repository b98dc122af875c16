"""A placement planned again while its plan runs: what is left of it as observed, and whether other workers or another
order would end it sooner.

Averages of what was seen stand for what is still to come (Kabra and DeWitt, "Efficient Mid-Query Re-Optimization",
SIGMOD 1998, do the same at the ends of operators). Calls that are sent stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from halo_sql.ir.estimate import NOTHING_EXPECTED, Estimate
from halo_sql.ir.physical import (
    AgentApplyExec,
    DuckFragmentExec,
    LimitExec,
    LlmFilterExec,
    LlmMapExec,
    MaterializeExec,
    PhysicalNode,
    PrefixClusterExec,
    RestoreOrderExec,
    RowGraphExec,
    SelectExec,
    SettleExec,
    ToolApplyExec,
    calls_by,
)
from halo_sql.optimizer.context import OptimizerContext, WorkerProfile
from halo_sql.optimizer.engine_cost import Load, engine_cost
from halo_sql.optimizer.placement.listing import Step
from halo_sql.optimizer.placement.plan import models_of, part_of, placed_of, problem_of
from halo_sql.optimizer.placement.problem import Problem, Work
from halo_sql.optimizer.placement.solve import Limits, solve
from halo_sql.optimizer.placement.state import State
from halo_sql.optimizer.placement.table import Table
from halo_sql.optimizer.prefixes import static_prefix

#: Its name in ``halo_disabled_rules``.
REPLAN = "replan"
#: What another placement has to save of the seconds that are left: this part, and so many.
LEAST_GAIN, LEAST_GAIN_S = 0.1, 1.0
#: Answers, or rows, from which on their averages count.
ENOUGH = 8
#: How long is looked for another placement.
LOOK = Limits(beam=4, states=60, visits=1_500, large_visits=1_000)
#: Operators that give a row for each that they read.
_ROW_WISE = (SelectExec, MaterializeExec, PrefixClusterExec, RestoreOrderExec, RowGraphExec, SettleExec, LlmMapExec)


@dataclass(frozen=True, slots=True)
class Asked:
    """Different requests of a node to one model so far: of these sent, answered; tokens of the answered ones."""

    asked: int = 0
    sent: int = 0
    answered: int = 0
    prompt_tok: int = 0
    cached_tok: int = 0
    output_tok: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node has done so far.

    rows   given; ended: all of them
    read   of its input
    graph  it is part of a row graph: rows that are read may still wait for other calls
    calls  model -> requests
    """

    rows: int = 0
    ended: bool = False
    read: int = 0
    tool_calls: int = 0
    graph: bool = False
    calls: Mapping[str, Asked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known at a moment of a run.

    nodes     id -> what it did
    paces     device -> how many times longer its work took than its workers' profiles say
    lost      workers (model, number) that will not answer
    resident  models that have started
    """

    nodes: Mapping[int, Seen] = field(default_factory=dict)
    paces: Mapping[str, float] = field(default_factory=dict)
    lost: frozenset[tuple[str, int]] = frozenset()
    resident: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Replanned:
    """Another placement (workers and priorities per node), and the seconds that are left with the one before and
    with it."""

    workers: tuple[str, ...]
    priorities: tuple[int, ...]
    before_s: float
    after_s: float

    @property
    def pays(self) -> bool:
        """Whether it saves enough to change anything."""
        saved_s = self.before_s - self.after_s
        return saved_s >= LEAST_GAIN_S and saved_s >= LEAST_GAIN * self.before_s


@dataclass(frozen=True, slots=True)
class Total:
    """What a node will have made in the end: rows, calls of tools, and per model its calls with their tokens."""

    rows: float
    tool_calls: float
    calls: Mapping[str, Estimate]


def whole(nodes: Sequence[PhysicalNode], observed: Observed) -> tuple[Total, ...]:
    """What each node will have made in the end. ``nodes`` stand inputs first, ids being places.

    Rows of what has ended are known; others grow with what they read. Below a LIMIT nothing is taken to grow.
    """
    limited = _limited(nodes)
    found: list[Total] = []
    for node in nodes:
        guess, did = node.estimate, observed.nodes.get(node.id, Seen())
        expected = max((nodes[source].estimate.rows for source in node.inputs), default=0.0)
        comes = max((found[source].rows for source in node.inputs), default=0.0)
        growth = 1.0 if node.id in limited or not expected else comes / max(1.0, expected)
        rows = max(float(did.rows), guess.rows * (growth if _row_wise(node) else 1.0))
        came = sum(observed.nodes[source].rows for source in node.inputs if source in observed.nodes)
        if isinstance(node.op, DuckFragmentExec) and node.op.streaming and came >= ENOUGH and node.id not in limited:
            rows = max(rows, did.rows / came * comes)
        if isinstance(node.op, LlmFilterExec) and node.id not in limited:
            own = did.calls.get(node.op.call.model, Asked())
            if own.answered >= ENOUGH:  # rows wait for those before them: as many as have left, at least
                judged = did.read * own.answered / max(1, own.asked)
                rows = min(comes, max(rows, did.rows / max(1.0, judged) * comes))
        if did.ended:
            rows = float(did.rows)
        known = did.read >= ENOUGH and _asks_at_once(node, did) and node.id not in limited
        calls: dict[str, Estimate] = {}
        for model in models_of(node.op):
            mine, part = did.calls.get(model, Asked()), part_of(node, model)
            count = part.llm_calls * growth
            if did.ended:
                count = float(mine.sent)
            elif known:
                count = mine.asked + max(0.0, comes - did.read) * mine.asked / did.read
            count = max(count, float(mine.sent if did.ended else mine.asked))
            prompt, cached, output = each(part, mine)
            calls[model] = Estimate(rows, count, count * prompt, count * cached, count * output)
        found.append(Total(rows, max(float(did.tool_calls), guess.tool_calls * growth), calls))
    return tuple(found)


def each(guess: Estimate, did: Asked) -> tuple[float, float, float]:
    """Tokens of a call: prompt, of these cached, output; as seen, else as expected."""
    calls = guess.llm_calls or 1.0
    if did.answered >= ENOUGH and did.prompt_tok:
        return did.prompt_tok / did.answered, did.cached_tok / did.answered, did.output_tok / did.answered
    return guess.prompt_tok / calls, guess.prompt_tok_cached / calls, guess.output_tok / calls


def _limited(nodes: Sequence[PhysicalNode]) -> set[int]:
    """The nodes below a LIMIT, which may not read their inputs to the end."""
    found: set[int] = set()
    for node in reversed(nodes):
        if isinstance(node.op, LimitExec) or node.id in found:
            found.update(node.inputs)
    return found


def _row_wise(node: PhysicalNode) -> bool:
    if isinstance(node.op, DuckFragmentExec):
        return node.op.streaming
    return isinstance(node.op, (*_ROW_WISE, LlmFilterExec))


def _asks_at_once(node: PhysicalNode, did: Seen) -> bool:
    """Whether requests are known as soon as rows are read."""
    rows = isinstance(node.op, LlmMapExec | LlmFilterExec) and not isinstance(node.op, AgentApplyExec | ToolApplyExec)
    return rows and not did.graph


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left. ``calls``: (node, model) -> the calls that are not sent yet; ``flying``: engine seconds of those
    that are in flight, half done on the average; ``nodes``: with the estimates of what others have left."""

    nodes: tuple[PhysicalNode, ...]
    calls: Mapping[tuple[int, str], Estimate]
    flying: Mapping[tuple[int, str], float]


def rest(nodes: Sequence[PhysicalNode], observed: Observed, options: OptimizerContext) -> Rest:
    """What is left at this moment; without calls left: ``NOTHING_EXPECTED``."""
    left: list[PhysicalNode] = []
    calls: dict[tuple[int, str], Estimate] = {}
    flying: dict[tuple[int, str], float] = {}
    for node, total in zip(nodes, whole(nodes, observed), strict=True):
        did = observed.nodes.get(node.id, Seen())
        done, of_all = (did.tool_calls, total.tool_calls) if total.tool_calls else (did.rows, total.rows)
        share = 0.0 if did.ended else max(0.0, 1.0 - done / max(1.0, of_all))
        left.append(replace(node, estimate=replace(node.estimate.part(share), rows=total.rows)))
        for model, all_calls in total.calls.items():
            mine, engine, count = did.calls.get(model, Asked()), options.engine(model), all_calls.llm_calls
            prompt, cached, output = each(all_calls, Asked())
            in_flight = 0 if did.ended else max(0, mine.sent - mine.answered)
            if in_flight:
                load = Load(in_flight, prompt, in_flight * (prompt - cached), output, cached)
                flying[node.id, model] = engine_cost(load, engine).gpu_s / 2
            open_calls = 0.0 if did.ended else max(0.0, count - mine.sent)
            if not open_calls:
                calls[node.id, model] = NOTHING_EXPECTED
                continue
            load = Load(open_calls, prompt, open_calls * (prompt - cached), output, cached)
            tok = (open_calls * prompt, open_calls * cached, open_calls * output)
            calls[node.id, model] = Estimate(total.rows, open_calls, *tok, engine_cost(load, engine))
    return Rest(tuple(left), calls, flying)


def warmed(
    nodes: Sequence[PhysicalNode], workers: Sequence[str], observed: Observed, options: OptimizerContext
) -> OptimizerContext:
    """The context, with what calls that were sent have left on their workers: what their prompts begin with."""
    warm, prefixes = dict(options.warm), dict[str, set[str]]()
    for node in nodes:
        for call in calls_by(node.op):
            did = observed.nodes.get(node.id, Seen()).calls.get(call.model)
            if did is not None and did.sent and (text := static_prefix(call)):
                warm[call.model, text] = 1.0
                for name in workers[node.id].split(","):
                    prefixes.setdefault(name.strip(), set()).add(text)
    known = {model: options.workers_of(model) for node in nodes for model in models_of(node.op)}
    found = {
        model: tuple(replace(one, prefixes=one.prefixes | prefixes.get(f"{model}/{one.number}", set())) for one in each)
        for model, each in known.items()
    }
    return replace(options, warm=warm, workers={**options.workers, **found})


def workers_now(options: OptimizerContext, models: Sequence[str], observed: Observed) -> OptimizerContext:
    """What is known of the workers of these models by now; of a model without any left, all of them."""
    found: dict[str, tuple[WorkerProfile, ...]] = dict(options.workers)
    for model in models:
        known = options.workers_of(model)
        able = tuple(one for one in known if (model, one.number) not in observed.lost) or known
        found[model] = tuple(_now(one, observed.paces.get(one.device, 1.0), model in observed.resident) for one in able)
    return replace(options, workers=found)


def _now(one: WorkerProfile, pace: float, resident: bool) -> WorkerProfile:
    if pace != 1.0:
        one = replace(one, kind=f"{one.kind} × {pace:.3g}", pace=one.pace * pace)
    return replace(one, resident=True) if resident else one


def replanned(
    nodes: Sequence[PhysicalNode],
    workers: Sequence[str],
    priorities: Sequence[int],
    observed: Observed,
    options: OptimizerContext,
) -> Replanned | None:
    """The best placement found of what is left, beside the one that is in force (``workers`` and ``priorities`` per
    node). None when nothing is left to place."""
    left = rest(nodes, observed, options)
    models = sorted({model for (_, model), calls in left.calls.items() if calls.llm_calls})
    if not models:
        return None
    options = warmed(nodes, workers, observed, options)
    options = workers_now(options, sorted({model for _, model in left.calls}), observed)
    problem, parts = problem_of(left.nodes, options, left.calls)
    busy_s = _busy(workers, left.flying, options)
    devices = tuple(replace(one, free_s=busy_s.get(one.name, 0.0)) for one in problem.devices)
    problem = _settled(replace(problem, devices=devices), workers)
    found = placed_of(left.nodes, problem, parts, solve(problem, LOOK))
    placed = tuple(_kept(old, new) for old, new in zip(workers, found.workers, strict=True))
    before_s = _end_s(problem, parts, workers, priorities, options)
    after_s = _end_s(problem, parts, placed, found.priorities, options)
    return Replanned(placed, found.priorities, before_s, after_s)


def _settled(problem: Problem, workers: Sequence[str]) -> Problem:
    """The problem without new places for models that take turns on a device: a schedule has node after node and changes
    models once, but rows that trickle in make them change places again and again. A model that has lost all of its
    workers may go anywhere."""
    used = {name.strip() for names in workers for name in names.split(",")}
    asked = {node.model for node in problem.nodes}
    places = [(model, one) for device in problem.devices for model, one in device.models.items()]
    held = {model for model, one in places if f"{model}/{one.number}" in used}
    devices = []
    for device in problem.devices:
        if device.memory_bytes and sum(one.bytes for one in device.models.values()) > device.memory_bytes:
            stay = {
                model: one
                for model, one in device.models.items()
                if f"{model}/{one.number}" in used or (model in asked and model not in held)
            }
            device = replace(device, models=stay)
        devices.append(device)
    return replace(problem, devices=tuple(devices))


def _kept(old: str, new: str) -> str:
    """Workers of a node: the new ones, and the old ones of the models that have no calls left."""
    models = {_model_of(name) for name in new.split(",")}
    names = [name for name in old.split(",") if name and _model_of(name) not in models]
    return ",".join([*(name for name in new.split(",") if name), *names])


def _model_of(worker: str) -> str:
    return worker.strip().rpartition("/")[0]


def _busy(
    workers: Sequence[str], flying: Mapping[tuple[int, str], float], options: OptimizerContext
) -> dict[str, float]:
    """Device -> seconds of the calls in flight, each node's spread evenly over its workers."""
    found: dict[str, float] = {}
    for (node, model), seconds in flying.items():
        mine = [name for name in workers[node].split(",") if _model_of(name) == model]
        held = [one for name in mine for one in _of(name, options)]
        for one in held:
            found[one.device] = found.get(one.device, 0.0) + seconds * one.pace / len(held)
    return found


def _of(worker: str, options: OptimizerContext) -> list[WorkerProfile]:
    """The worker ``model/number`` where it is there."""
    model, _, number = worker.strip().rpartition("/")
    return [one for one in options.workers_of(model) if one.number == int(number)]


def _end_s(
    problem: Problem,
    parts: Sequence[Sequence[int]],
    workers: Sequence[str],
    priorities: Sequence[int],
    options: OptimizerContext,
) -> float:
    """Seconds until the end with these workers and in this order. The workers of a split node share its rows by their
    speeds, as the router does, and not equally."""
    places = {device.name: place for place, device in enumerate(problem.devices)}
    chosen: dict[int, list[int]] = {}
    rank: dict[int, int] = {}
    made = list(problem.nodes)
    for names, priority, own in zip(workers, priorities, parts, strict=True):
        for number in own:
            rank[number] = priority
            node = problem.nodes[number]
            if not node.model:
                continue
            mine = [name for name in names.split(",") if _model_of(name) == node.model]
            held = {one.device for name in mine for one in _of(name, options)}
            devices = sorted(places[name] for name in held if name in places)
            able = problem.devices_of(number)
            devices = [place for place in devices if place in able] or list(able)
            chosen[number] = devices = devices[: max(1, node.max_parts)]
            if len(devices) > 1:
                rate = sum(1.0 / max(problem.part_s(number, place, 1), 1e-9) for place in devices)
                seconds = len(devices) / rate
                work = {
                    kind: Work(decode_s=seconds, prefix_s=one.prefix_s, floor_s=one.floor_s)
                    for kind, one in node.work.items()
                }
                made[number] = replace(node, work=work)
    state = State(Table(replace(problem, nodes=tuple(made))))
    while state.ready:
        number = min(state.nodes(), key=lambda number: (rank[number], number))
        steps: list[Step] = [(number, place, len(chosen[number])) for place in chosen.get(number, ())]
        for step in steps or [(number, -1, 1)]:
            state.put(*step)
    return state.makespan_s
