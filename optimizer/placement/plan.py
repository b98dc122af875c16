"""A physical DAG as a placement problem, and its schedule as workers, priorities and a starting order of the nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from halo_sql.ir.estimate import NOTHING_EXPECTED, Estimate
from halo_sql.ir.physical import (
    DemandExec,
    DuckFragmentExec,
    LlmFilterCascadeExec,
    LlmTopKExec,
    PhysicalNode,
    PhysicalOp,
    PrefixClusterExec,
    RestoreOrderExec,
    SinkExec,
    ToolApplyExec,
    calls_by,
)
from halo_sql.ir.prompt import Hole, LlmCall
from halo_sql.optimizer.context import OptimizerContext, WorkerProfile
from halo_sql.optimizer.placement.problem import Device, Edge, Node, Problem, Residence, Schedule, Work
from halo_sql.optimizer.placement.solve import DEFAULT_LIMITS, Limits, solve
from halo_sql.optimizer.prefixes import static_prefix, warm_tok

#: Its name in ``halo_disabled_rules``.
PLACEMENT = "placement"
#: Rows of a batch between operators that make no calls.
BATCH_ROWS = 2048
#: Between the priorities of two nodes: the calls inside an agent's conversation go one level before those of its node.
STEP = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """Per place in the DAG: workers ('' none), priority (0 without calls, else from STEP on), planned start.

    notes              what EXPLAIN says of it
    problem, schedule  what was solved; ``parts``: nodes of the problem by place in the DAG
    """

    workers: tuple[str, ...]
    priorities: tuple[int, ...]
    starts_s: tuple[float, ...]
    notes: tuple[str, ...]
    problem: Problem
    schedule: Schedule
    parts: tuple[tuple[int, ...], ...]


def has_choice(nodes: Sequence[PhysicalNode], options: OptimizerContext) -> bool:
    """Whether some model that is asked has several workers, and it is known what its calls take there; never when
    placement is turned off."""
    if PLACEMENT in options.disabled_rules:
        return False
    models = {call.model for node in nodes for call in calls_by(node.op) if call.model}
    known = (name for name in models if name in options.workers or options.engine(name).calibrated)
    return any(len(options.workers_of(name)) > 1 for name in known)


def place(nodes: Sequence[PhysicalNode], options: OptimizerContext, limits: Limits = DEFAULT_LIMITS) -> Placement:
    """Where and when each node runs. ``nodes`` stand inputs first, ids being places."""
    problem, parts = problem_of(nodes, options)
    return placed_of(nodes, problem, parts, solve(problem, limits))


def placed_of(
    nodes: Sequence[PhysicalNode], problem: Problem, parts: tuple[tuple[int, ...], ...], found: Schedule
) -> Placement:
    """A schedule of ``problem_of(nodes)`` as workers, priorities and starts."""
    starts = [min((run.start_s for run in found.runs if run.node in own), default=0.0) for own in map(set, parts)]
    calling = [node.id for node in nodes if calls_by(node.op)]
    ranks = {node: STEP * rank for rank, node in enumerate(sorted(calling, key=lambda node: (starts[node], node)), 1)}
    workers = tuple(_workers(problem, found, own) for own in parts)
    priorities = tuple(ranks.get(node.id, 0) for node in nodes)
    return Placement(workers, priorities, tuple(starts), _notes(problem, found), problem, found, parts)


def problem_of(
    nodes: Sequence[PhysicalNode],
    options: OptimizerContext,
    known: Mapping[tuple[int, str], Estimate] | None = None,
) -> tuple[Problem, tuple[tuple[int, ...], ...]]:
    """The problem, and the places of each physical node's parts in it: one per model that it asks.

    known  (node, model) -> what its calls take, where it is not their part of the node's estimate
    """
    known = known or {}
    models = sorted({call.model for node in nodes for call in calls_by(node.op) if call.model})
    shared = Counter(key for node in nodes for call in calls_by(node.op) if (key := _input_key(call)) is not None)
    made: list[Node] = []
    edges: list[Edge] = []
    parts: list[tuple[int, ...]] = []
    for node in nodes:
        own = tuple(range(len(made), len(made) + max(1, len(models_of(node.op)))))
        asking = [
            _asking(node, model, options, shared, known.get((node.id, model)) or part_of(node, model))
            for model in models_of(node.op)
        ]
        made += asking or [_other(node)]
        pipelined = not _reads_all(node.op)
        sources = sorted({source for read in node.inputs for source in parts[read]})
        edges += [Edge(source, target, pipelined) for source in sources for target in own]
        parts.append(own)
    tools = dict.fromkeys(sorted({node.tool for node in made if node.tool}), 1)
    return Problem(tuple(made), tuple(edges), _devices(models, options), tools), tuple(parts)


def models_of(op: PhysicalOp) -> tuple[str, ...]:
    """The models that an operator's calls ask, each once."""
    return tuple(dict.fromkeys(call.model for call in calls_by(op) if call.model))


def _reads_all(op: PhysicalOp) -> bool:
    """Whether an operator gives nothing before it has all of its input."""
    blocking = SinkExec | DemandExec | PrefixClusterExec | RestoreOrderExec | LlmTopKExec | LlmFilterCascadeExec
    return isinstance(op, blocking) or (isinstance(op, DuckFragmentExec) and not op.streaming)


def _other(node: PhysicalNode) -> Node:
    """A tool, which its calls share (the estimate is of all that it does at once), or a node without calls."""
    guess = node.estimate
    tool = calls_by(node.op)[0].target if isinstance(node.op, ToolApplyExec) else ""
    share = 1.0 if _reads_all(node.op) else min(1.0, (16.0 if tool else BATCH_ROWS) / max(1.0, guess.rows))
    seconds = guess.cost.cpu_s + guess.cost.gpu_s
    return Node({"": Work(decode_s=seconds)}, tool=tool, first_share=share, last_share=share)


def part_of(node: PhysicalNode, model: str) -> Estimate:
    """The share of a node's estimate that the calls of one model take."""
    models = [call.model for call in calls_by(node.op) if call.model]
    return node.estimate.part(models.count(model) / max(1, len(models)))


def _asking(
    node: PhysicalNode, model: str, options: OptimizerContext, shared: Counter[tuple[str, ...]], guess: Estimate
) -> Node:
    """The calls of one model; none are left: nothing."""
    calls = [call for call in calls_by(node.op) if call.model == model]
    if guess == NOTHING_EXPECTED:
        return Node({"": Work()})
    engine, requests = options.engine(model), max(1.0, guess.llm_calls)
    batch = float(min(engine.window_requests, engine.batch_requests or engine.window_requests))
    share = 1.0 if _reads_all(node.op) else min(1.0, batch / requests)
    text, tokens = _prefix(calls[0], guess.prompt_tok / requests, requests, shared, engine.chars_per_tok)
    if tokens < engine.block_tok:
        text, tokens = "", 0.0
    work: dict[str, Work] = {}
    warm_s = warm_tok(calls[0], tokens, options) / engine.prefill_tok_per_s if text == static_prefix(calls[0]) else 0.0
    prefill_s = guess.cost.prefill_s + warm_s  # where the prefix is not: which workers have it is said by themselves
    for worker in options.workers_of(model):
        pace = worker.pace
        prefix_s = min(prefill_s, tokens / engine.prefill_tok_per_s) * pace
        work[worker.kind] = Work(
            prefill_s * pace - prefix_s,
            (guess.cost.gpu_s - guess.cost.prefill_s) * pace,
            prefix_s,
            guess.output_tok / requests * engine.decode_step_s * pace + node.estimate.cost.cpu_s,
        )
    kv_tok_bytes = options.workers_of(model)[0].kv_tok_bytes
    most = 1 if isinstance(node.op, LlmTopKExec) or requests < 2 else len(options.workers_of(model))
    return Node(
        work,
        model,
        prefix=text,
        prefix_bytes=tokens * kv_tok_bytes,
        first_share=share,
        last_share=share,
        max_parts=most,
    )


def _prefix(
    call: LlmCall, each_tok: float, requests: float, shared: Counter[tuple[str, ...]], chars_per_tok: float
) -> tuple[str, float]:
    """What the call's prompts share with those of other nodes, and its tokens: the static part; or, where others begin
    with the same input, all up to the end of that."""
    if call.kind == "agent":
        return "", 0.0
    key = _input_key(call)
    if key is not None and shared[key] > 1:
        rest = sum(len(part) for part in call.prompt.user if isinstance(part, str)) / chars_per_tok
        return "\n".join(key), max(0.0, each_tok - rest) * requests
    text = static_prefix(call)
    return text, len(text) / chars_per_tok


def _input_key(call: LlmCall) -> tuple[str, ...] | None:
    """What prompts begin with when their only hole comes first: model, system message, column."""
    user = call.prompt.user
    holes = [part for part in user if not isinstance(part, str)]
    if call.kind in ("tool", "agent") or len(holes) != 1 or not isinstance(user[0], Hole):
        return None
    return call.model, call.prompt.system or "", f"#{user[0].column}"


def _devices(models: Sequence[str], options: OptimizerContext) -> tuple[Device, ...]:
    by_device: dict[str, list[tuple[str, WorkerProfile]]] = {}
    for model in models:
        for worker in options.workers_of(model):
            by_device.setdefault(worker.device, []).append((model, worker))
    found = []
    for name, held in by_device.items():
        residences: dict[str, Residence] = {}
        for model, worker in held:
            if model not in residences:  # of several workers there, they being one device, the first
                residences[model] = _residence(model, worker, options)
        memory = min((worker.memory_bytes for _, worker in held if worker.memory_bytes), default=0.0)
        memory = max(0.0, memory - options.occupied_bytes.get(name, 0.0))
        largest = max(one.bytes for one in residences.values())
        if memory and sum(one.bytes for one in residences.values() if one.state == "resident") > memory:
            residences = {model: _out(one) for model, one in residences.items()}
        link = max(worker.link_bytes_per_s for _, worker in held)
        found.append(Device(name, held[0][1].kind, residences, max(memory, largest) if memory else 0.0, link))
    return tuple(found)


def _residence(model: str, worker: WorkerProfile, options: OptimizerContext) -> Residence:
    engine = options.engine(model)
    held_bytes = worker.resident_bytes or engine.resident_bytes
    state = "resident" if worker.resident else "asleep" if worker.asleep else "cold"
    times = worker.load_s, worker.wake_s, worker.sleep_s
    return Residence(worker.number, held_bytes, *times, state, worker.prefixes, worker.link_bytes_per_s > 0)


def _out(one: Residence) -> Residence:
    return replace(one, state="asleep", prefixes=frozenset())


def _workers(problem: Problem, found: Schedule, own: Sequence[int]) -> str:
    names = []
    for node in own:
        model = problem.nodes[node].model
        numbers = sorted(problem.devices[d].models[model].number for d in found.devices_of(node) if d >= 0)
        names += [f"{model}/{number}" for number in numbers]
    return ",".join(names)


def _notes(problem: Problem, found: Schedule) -> tuple[str, ...]:
    """How good the schedule is, and the loads that it has."""
    floor = "no schedule is shorter" if found.exact else f"none is below {found.bound_s:.1f} s"
    said = [f"placed on {len(problem.devices)} devices: ~{found.makespan_s:.1f} s, {floor} ({found.method})"]
    for change in found.changes:
        verb = {"load": "loads", "wake": "wakes", "sleep": "puts to sleep"}[change.kind]
        name, took_s = problem.devices[change.device].name, change.end_s - change.start_s
        said.append(f"{name} {verb} {change.model} at ~{change.start_s:.1f} s, ~{took_s:.1f} s")
    for run in found.runs:
        if run.prefix == "moved":
            node, name = problem.nodes[run.node], problem.devices[run.device].name
            move_s, compute_s = problem.move_s(run.node, run.device), problem.prefix_s(run.node, run.device)
            said.append(
                f"{name} gets a prefix of {node.model} from another worker at ~{run.start_s:.1f} s, ~{move_s:.2g} s "
                f"instead of ~{compute_s:.2g} s"
            )
    return tuple(said)
