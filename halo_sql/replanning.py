"""The placement of a running plan: watched, and changed where what is observed makes another one better."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from halo_sql.clock import clock_s
from halo_sql.desks import Desks
from halo_sql.engines.dispatch import Dispatcher
from halo_sql.engines.meter import Did
from halo_sql.engines.pooled import PooledEngine
from halo_sql.explain_ops import one_line, operator_name
from halo_sql.ir.physical import PhysicalDag, PhysicalNode, RowGraphExec, calls_by
from halo_sql.ir.row_graph import members
from halo_sql.metrics import Profile
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.placement.plan import has_choice, models_of, part_of
from halo_sql.optimizer.placement.replan import ENOUGH, REPLAN, Asked, Observed, Seen, each, replanned, whole

#: Seconds between two looks; after one that brought nothing twice as long, up to the second figure.
CHECK_S, MOST_S = 1.0, 16.0
#: How many times more or less than planned (or than when it was last looked) something has to be.
DRIFT = 1.5
#: Seconds of work from which on it tells a device's pace.
PACE_S = 1.0
WORDS = 48


@dataclass(frozen=True, slots=True)
class Drift:
    """A figure that differs: what, as it was planned, as it is; and what it is known by."""

    key: tuple[str, str]
    expected: float
    found: float
    words: str

    @property
    def ratio(self) -> float:
        """How far apart they are, at least 1."""
        low, high = sorted((max(self.expected, 1e-9), max(self.found, 1e-9)))
        return high / low


class Replanner:
    """Looks at a run at most once a second of its loop's time, if its plan has a choice of workers.

    engines   model -> its engine, for those that were asked
    resident  whether a model has started
    expect    is told the order in which models will be asked, when it is another one
    """

    def __init__(
        self,
        dag: PhysicalDag,
        options: OptimizerContext,
        profile: Profile,
        dispatcher: Dispatcher,
        desks: Desks,
        engines: Mapping[str, PooledEngine],
        resident: Callable[[str], bool],
        expect: Callable[[Sequence[str]], None],
    ) -> None:
        self._dag, self._options, self._profile = dag, options, profile
        self._dispatcher, self._desks, self._engines = dispatcher, desks, engines
        self._resident, self._expect = resident, expect
        self._workers = [getattr(node.op, "worker", "") for node in dag.nodes]
        self._priorities = [getattr(node.op, "priority", 0) for node in dag.nodes]
        graphs = {node.id: members(dag, node) for node in dag.nodes if isinstance(node.op, RowGraphExec)}
        self._graph_of = {inner.id: graph for graph, inside in graphs.items() for inner in inside}
        self._before: dict[str, dict[int, Did]] = {}
        self._known: dict[tuple[str, str], float] = {}  # what drifts are measured from, once looked at
        self._began_s = clock_s()
        self._wait_s = CHECK_S
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def wanted(dag: PhysicalDag, options: OptimizerContext) -> bool:
        """Whether there is anything to decide while this plan runs."""
        return options.enabled and REPLAN not in options.disabled_rules and has_choice(dag.nodes, options)

    def asks(self, model: str, engine: PooledEngine) -> None:
        """The run begins to ask a model."""
        self._before[model] = engine.workers_did()
        self._watch()

    def stop(self) -> None:
        """The run ends."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)

    def _check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._check)
        observed = self.observed()
        drifts = self._drifts(observed)
        fresh = [one for one in drifts if self._moved(one)]
        if not fresh:
            return
        self._known.update((one.key, one.found) for one in drifts)
        found = replanned(self._dag.nodes, self._workers, self._priorities, observed, self._options)
        if found is None or not found.pays:
            self._wait_s = min(MOST_S, 2 * self._wait_s)
            return
        self._wait_s = CHECK_S
        went = self._replace(found.workers, found.priorities)
        reasons = "; ".join(one.words for one in sorted(drifts, key=lambda one: -one.ratio)[:3])
        seconds = f"what was left ~{found.before_s:.1f} s → ~{found.after_s:.1f} s"
        self._profile.replans.append(f"re-planned at {clock_s() - self._began_s:.1f} s: {reasons}; {seconds}; {went}")

    def _moved(self, drift: Drift) -> bool:
        known = self._known.get(drift.key, drift.expected)
        return Drift(drift.key, known, drift.found, "").ratio >= DRIFT

    # --- what is seen

    def observed(self) -> Observed:
        """The run as it stands."""
        waiting = self._dispatcher.waiting()
        seen = {node.id: self._seen(node, waiting) for node in self._dag.nodes}
        lost = frozenset((name, number) for name, engine in self._engines.items() for number in engine.lost())
        resident = frozenset(name for name in self._engines if self._resident(name))
        return Observed(seen, self._paces(), lost, resident)

    def _seen(self, node: PhysicalNode, waiting: Mapping[tuple[int, str], int]) -> Seen:
        did = self._profile.nodes[node.id]
        graph = self._graph_of.get(node.id)
        calls: dict[str, Asked] = {}
        for model in models_of(node.op):
            key = id(did), model
            tally = self._dispatcher.tallies.get(key)
            if tally is not None:
                tok = tally.prompt_tok, tally.cached_tok, tally.output_tok
                calls[model] = Asked(tally.asked, max(0, tally.asked - waiting.get(key, 0)), tally.answered, *tok)
        ended = did.ended if graph is None else self._profile.nodes[graph].ended
        return Seen(did.rows, ended, did.rows_total, did.tool_calls, graph is not None, calls)

    def _paces(self) -> dict[str, float]:
        """Device -> how many times longer its work took than planned.

        The models of a device take turns, so that its seconds are at least those of the one that was asked longest (its
        start left out), and at most the sum; of what is in flight all may be done, or nothing. A pace that the least
        and the most agree on is one. Where models change places nothing is said.
        """
        work_s: dict[str, float] = {}
        begun_s: dict[str, float] = {}
        least_s: dict[str, float] = {}
        most_s: dict[str, float] = {}
        held_bytes: dict[str, float] = {}
        for model, engine in self._engines.items():
            known = {one.number: one for one in self._options.workers_of(model)}
            for number, now in engine.workers_did().items():
                did = _since(now, self._before.get(model, {}).get(number))
                if number not in known:
                    continue
                one, profile = known[number], self._options.engine(model)
                held = held_bytes.get(one.device, 0.0) + (one.resident_bytes or profile.resident_bytes)
                held_bytes[one.device] = math.inf if 0 < one.memory_bytes < held else held
                if did.requests >= ENOUGH:
                    waited_s = 0.0 if one.resident else one.load_s
                    batch = float(profile.batch_requests or profile.window_requests)
                    done_s = one.pace * expected_s(did, profile)
                    begun = 1.0 + min(batch, now.in_flight) / did.requests
                    work_s[one.device] = work_s.get(one.device, 0.0) + done_s
                    begun_s[one.device] = begun_s.get(one.device, 0.0) + done_s * begun
                    least_s[one.device] = max(least_s.get(one.device, 0.0), did.busy_s - waited_s)
                    most_s[one.device] = most_s.get(one.device, 0.0) + did.busy_s
        found: dict[str, float] = {}
        for device, seconds in work_s.items():
            if seconds < PACE_S or math.isinf(held_bytes[device]):
                continue
            low, high = least_s[device] / begun_s[device], most_s[device] / seconds
            pace = low if low >= DRIFT else high if high <= 1 / DRIFT else 1.0
            if pace > 0.0 and pace != 1.0:
                found[device] = pace
        return found

    def _drifts(self, observed: Observed) -> list[Drift]:
        """All that is not as planned."""
        found: list[Drift] = []
        for node, total in zip(self._dag.nodes, whole(self._dag.nodes, observed), strict=True):
            did, guess = observed.nodes[node.id], node.estimate
            name, key = _name(node), str(node.id)
            if not node.inputs:
                words = f"{name}: rows ~{guess.rows:,.0f}, now ~{total.rows:,.0f}"
                found.append(Drift((key, "rows"), guess.rows, total.rows, words))
            for model, now in total.calls.items():
                part, name = part_of(node, model), _name(node, model)
                words = f"{name}: calls ~{part.llm_calls:,.0f}, now ~{now.llm_calls:,.0f}"
                found.append(Drift((f"{key} {model}", "calls"), part.llm_calls, now.llm_calls, words))
                planned_tok, tok = each(part, Asked())[2], each(part, did.calls.get(model, Asked()))[2]
                words = f"{name}: output tok per call ~{planned_tok:,.0f}, now {tok:,.0f}"
                found.append(Drift((f"{key} {model}", "output"), planned_tok, tok, words))
        for device, pace in sorted(observed.paces.items()):
            found.append(Drift((device, "pace"), 1.0, pace, f"{device} takes {pace:.2g} × as long"))
        for model, number in sorted(observed.lost):
            found.append(Drift((f"{model}/{number}", "lost"), 1.0, DRIFT, f"worker {model}/{number} is lost"))
        return [one for one in found if one.ratio >= DRIFT]

    # --- what is done about it

    def _replace(self, workers: Sequence[str], priorities: Sequence[int]) -> str:
        """Put a placement into force, for nodes that have calls left; where they went."""
        placed: dict[int, str] = {}
        shifts: dict[int, int] = {}
        said: list[str] = []
        order = False
        for node in self._dag.nodes:
            names, rank, key = workers[node.id], priorities[node.id], id(self._profile.nodes[node.id])
            if not names:
                continue
            if names != self._workers[node.id]:
                said += [f"{_name(node, model)} to {new}" for model, new in _changed(self._workers[node.id], names)]
                placed[key], self._workers[node.id] = names, names
            if rank != self._priorities[node.id]:
                shifts[key], self._priorities[node.id], order = rank - self._priorities[node.id], rank, True
        self._desks.move(placed, shifts)
        left = sorted((node for node in self._dag.nodes if workers[node.id]), key=lambda node: priorities[node.id])
        self._expect([model for node in left for model in models_of(node.op)])
        return ", ".join(said + (["another order"] if order and not said else [])) or "as before"


def expected_s(did: Did, engine: EngineProfile) -> float:
    """Engine seconds that some work takes by a profile (``Speed.seconds``)."""
    batch = max(1.0, did.flight_s / did.busy_s if did.busy_s else 1.0)
    batch = min(batch, float(engine.batch_requests or engine.window_requests))
    return (
        did.computed_tok / engine.prefill_tok_per_s
        + did.output_tok / batch * engine.decode_step_s
        + did.output_tok * engine.decode_seq_s
        + did.read_tok * engine.kv_read_s
        + did.requests * engine.request_s
    )


def _changed(old: str, new: str) -> list[tuple[str, str]]:
    """Models whose workers are others now, and which these are."""
    before, after = (
        {model: [n for n in names.split(",") if n.rpartition("/")[0] == model] for model in models_in(names)}
        for names in (old, new)
    )
    return [(model, ",".join(names)) for model, names in after.items() if names != before.get(model)]


def models_in(workers: str) -> list[str]:
    """The models of ``model/number, …``, each once."""
    return list(dict.fromkeys(name.rpartition("/")[0] for name in workers.split(",")))


def _since(now: Did, before: Did | None) -> Did:
    return now if before is None else Did(*(max(0.0, a - b) for a, b in zip(now, before, strict=True)))


def _name(node: PhysicalNode, model: str = "") -> str:
    """The operator, and its first call (of this model) as far as a line has room for it."""
    calls = [call for call in calls_by(node.op) if not model or call.model == model]
    said = next((f"{call.operator}({call.model or call.target})" for call in calls), "")
    return f"{operator_name(node.op)} {one_line(said, WORDS)}".rstrip()
