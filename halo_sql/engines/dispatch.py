"""Channels to models for one run of a query: equal requests asked once, known answers taken from the store.

A prompt's way: it joins an equal one of this run, or is looked up in the response store, or enters the queue of
its engine's lane and is sent when window and budget have room for it. Requests that are not deterministic
(temperature above 0 without seed) only take the last way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from halo_sql.call_log import RunLog
from halo_sql.engines.budget import FREE, Budget, Price
from halo_sql.engines.calls import AnswerMemory, Call
from halo_sql.engines.experience import Experience
from halo_sql.engines.keys import RequestKeys
from halo_sql.engines.lane import Handed, Lane, hand_out, leaves, note
from halo_sql.engines.meter import Meter
from halo_sql.engines.prefix_cache import cache_of
from halo_sql.engines.protocol import (
    ChannelSpec,
    DeliverOutcomes,
    Engine,
    EngineInfo,
    GenRequest,
    GenResult,
    Move,
    Outcome,
    Validate,
    estimate_tok,
)
from halo_sql.engines.send_queue import SendQueue
from halo_sql.engines.store import ResponseStore
from halo_sql.engines.window import Window, limit_of
from halo_sql.metrics import NodeMetrics

ABORT_S = 1.0  # how long close waits for the engine to deliver what was aborted
LOOK_UP_AT_ONCE = 2048  # keys per read of the store
KEPT_BYTES = 64 << 20  # finished answers of a run kept in memory, for rows that ask the same later
TEMPLATE_TOK = 16  # what a chat template adds to a prompt, about
EXPECT_FROM = 4  # answers after which the next one's length is expected to be their average

EngineOf = Callable[[str], Awaitable[tuple[Engine, EngineInfo]]]


@dataclass(slots=True)
class Tally:
    """Requests of a node to one model: different ones, those not from the store; answered ones with their tokens."""

    asked: int = 0
    answered: int = 0
    prompt_tok: int = 0
    cached_tok: int = 0
    output_tok: int = 0


class Dispatcher:
    """``protocol.Channels`` for one run.

    engine_of        model name -> its started engine; raises EngineError('unavailable')
    store            the response store; None: off
    max_concurrency  requests in flight per engine; 0: as many as the engine says
    prices           model name -> price of hosted models
    log              where every call is noted
    ordered          prompts are sent in the order of their trie where their channel allows it
    """

    def __init__(
        self,
        engine_of: EngineOf,
        store: ResponseStore | None,
        budget: Budget,
        max_concurrency: int = 0,
        prices: Mapping[str, Price] | None = None,
        kept_bytes: int = KEPT_BYTES,
        log: RunLog | None = None,
        ordered: bool = True,
    ) -> None:
        self._ordered = ordered
        self._engine_of = engine_of
        self._store = store
        self._budget = budget
        self._max_concurrency = max_concurrency
        self._prices = prices or {}
        self._log = log
        self.meters: dict[str, Meter] = {}  # model name -> what its engine did
        self._memory = AnswerMemory(kept_bytes)
        self._lanes: dict[int, Lane] = {}  # by id of the engine, which the lane keeps alive
        self._queues: dict[int, SendQueue] = {}  # of these lanes
        self.tallies: dict[tuple[int, str], Tally] = {}  # (id of a node's counters, model) -> its requests
        self._tables: dict[object, dict[str, Call]] = {}
        self._channels: list[_Channel] = []
        self._unknown: list[Call] = []  # to be looked up in the store
        self._looking: list[Call] = []  # being looked up
        self._look_up_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.experience: dict[tuple[str, str], Experience] = {}  # (model, ChannelSpec.learn) -> what requests took

    async def open(
        self, spec: ChannelSpec, validate: Validate, metrics: NodeMetrics, deliver: DeliverOutcomes
    ) -> _Channel:
        """A channel for one LLM node. Its outcomes may be delivered before ``put`` returns.

        Raises EngineError('unavailable') when the engine cannot start.
        """
        engine, info = await self._engine_of(spec.model)
        spec = spec if self._ordered else replace(spec, ordered=False)
        lane = self._lanes.get(id(engine))
        if lane is None:
            lane = self._lanes[id(engine)] = self._new_lane(spec.model, engine, info)
        if self._budget.max_seconds and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._budget.left_s()), self._time_is_up)
        table, keys = None, None
        if spec.sampling.deterministic:
            signature = (id(engine), spec.system, spec.sampling, spec.answer, spec.cache)
            table = self._tables.setdefault(signature, {})
            if self._store is not None and info.storable and spec.cache:
                keys = RequestKeys(info.identity, spec.system, spec.sampling, spec.answer)
        channel = _Channel(self, lane, table, keys, spec, validate, metrics, deliver)
        if info.context_tok:
            channel.room_tok = max(1, info.context_tok - spec.sampling.max_tokens)
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        """Close every channel of the run; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(channel.close() for channel in list(self._channels)))
        if self._look_up_task is not None:
            self._look_up_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._look_up_task

    def _new_lane(self, model: str, engine: Engine, info: EngineInfo) -> Lane:
        cache = cache_of(engine, info)
        limit = self._max_concurrency or info.window_requests
        window = Window(info.window_tok, limit, info.kv_capacity_tok, info.batch_requests, shares=cache is None)
        if limit_of(engine) is not None:  # what it has found out so far
            window.follow(engine, 0)
        queue = SendQueue(cache, info.batch_requests)
        price = self._prices.get(model, FREE)
        lane = Lane(engine, window, queue, self._budget, price, self._memory, self._store, self._freed, self._log)
        lane.cache = cache
        self._queues[id(lane)] = queue
        self.meters[model] = lane.meter
        return lane

    def move(self, moves: Mapping[int, Move]) -> None:
        """Nodes, by ids of their counters, get other workers and priorities; for calls that are not sent yet."""
        lanes: dict[int, Lane] = {}
        for channel in self._channels:
            move = moves.get(id(channel.metrics))
            if move is not None:
                channel.spec = move.applied(channel.spec)
                lanes[id(channel.lane)] = channel.lane
        for number, lane in lanes.items():
            self._queues[number].reorder()
            lane.pump()

    def waiting(self) -> Counter[tuple[int, str]]:
        """(id of a node's counters, model) -> requests that are not sent yet."""
        calls = (call for queue in self._queues.values() for call in queue if not call.dropped)
        found = Counter((id(call.channel.metrics), call.channel.spec.model) for call in calls)
        for call in (*self._unknown, *self._looking):
            found[id(call.channel.metrics), call.channel.spec.model] += 1
        return found

    def _freed(self) -> None:
        for lane in self._lanes.values():
            if lane.starved:
                lane.starved = False
                lane.pump()

    def _time_is_up(self) -> None:
        for lane in self._lanes.values():
            lane.stop(self._budget.out_of_time())

    # --- what channels ask for

    def touch(self, call: Call) -> None:
        """A finished call was used again."""
        self._memory.touch(call)

    def look_up(self, calls: Sequence[Call]) -> None:
        """Ask the store before the engine."""
        self._unknown += calls
        if self._look_up_task is None:
            self._look_up_task = asyncio.get_running_loop().create_task(self._look_up())

    async def _look_up(self) -> None:
        assert self._store is not None
        try:
            while self._unknown:
                self._looking, self._unknown = self._unknown[:LOOK_UP_AT_ONCE], self._unknown[LOOK_UP_AT_ONCE:]
                for call in self._looking:
                    assert call.channel.keys is not None
                    call.key = call.channel.keys.key(call.user)
                found = await self._store.lookup([call.key for call in self._looking if call.key is not None])
                looked, self._looking = self._looking, []
                handed: Handed = {}
                missing: dict[_Channel, list[Call]] = {}
                for call in looked:
                    entry = found.get(call.key) if call.key is not None else None
                    if call.dropped:
                        continue
                    if entry is not None and call.channel.validate(entry.text, entry.finish) is None:
                        call.channel.metrics.llm_calls_from_store += 1
                        assert isinstance(call.channel, _Channel)
                        call.channel.found()
                        if self._log is not None:
                            note(self._log, call, entry.text, None, entry.prompt_tok, entry.output_tok)
                        known = Outcome(entry.text, None, entry.prompt_tok, entry.output_tok)
                        call.settle(entry.text, entry.finish, known)
                        self._memory.add(call)
                        hand_out(call, handed)
                    else:  # also an entry that does not fit: it is asked again and replaced
                        assert isinstance(call.channel, _Channel)
                        missing.setdefault(call.channel, []).append(call)
                for channel, calls in missing.items():
                    channel.lane.add(calls)
                for asker, outcomes in handed.items():
                    asker.emit(outcomes)
        finally:
            self._look_up_task = None

    def drop(self, channel: _Channel) -> None:
        """A channel is closed: nothing is to be done for it alone any more."""
        for call in [*self._unknown, *self._looking]:
            if not call.dropped and leaves(call, channel):
                call.dropped = True
        channel.lane.drop(channel)
        if channel in self._channels:
            self._channels.remove(channel)


class _Channel:
    """``protocol.Channel``; also what calls know of it (``calls.Asker``)."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        lane: Lane,
        table: dict[str, Call] | None,
        keys: RequestKeys | None,
        spec: ChannelSpec,
        validate: Validate,
        metrics: NodeMetrics,
        deliver: DeliverOutcomes,
    ) -> None:
        self.lane = lane
        self.keys = keys
        self.spec = spec
        self.validate = validate
        self.metrics = metrics
        self.base_tok = TEMPLATE_TOK + estimate_tok(spec.system or "")
        self.output_tok = output_bound(spec)
        self.room_tok = 0
        self._tally = dispatcher.tallies.setdefault((id(metrics), spec.model), Tally())
        self._experience: Experience | None = None
        if spec.learn:
            self._experience = dispatcher.experience.setdefault((spec.model, spec.learn), Experience())
        self._system_chars = len(spec.system or "")
        self._dispatcher = dispatcher
        self._table = table
        self._deliver = deliver
        self._emitting = False
        self._outbox: list[tuple[int, Outcome]] = []
        self._closed = False
        self._aborting = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def expected_tok(self) -> float:
        """See ``Asker``."""
        seen = self._experience
        if seen is None or seen.requests < EXPECT_FROM:
            return float(self.output_tok)
        return min(float(self.output_tok), seen.output_tok / seen.requests)

    def count_tok(self, prompt: str) -> int:
        """Tokens of a prompt, see ``protocol.Channel``."""
        spec = self.spec
        return self.lane.engine.count_tok(GenRequest(0, prompt, spec.system, spec.sampling, spec.answer))

    def put(self, prompts: Sequence[tuple[int, str]]) -> None:
        """Ask these; after ``close`` nothing is asked."""
        if self._closed or not prompts:
            return
        table = self._table
        if table is None:
            self._tally.asked += len(prompts)
            self.lane.add([Call(self, number, user, None) for number, user in prompts])
            return
        fresh: list[Call] = []
        known: list[tuple[int, Call]] = []
        for number, user in prompts:
            call = table.get(user)
            if call is None:
                table[user] = call = Call(self, number, user, table)
                fresh.append(call)
            elif call.outcome is not None:
                known.append((number, call))
            elif call.others is None:
                call.others = [(self, number)]
            else:
                call.others.append((self, number))
        self.metrics.llm_calls_coalesced += len(prompts) - len(fresh)
        self._tally.asked += len(fresh)
        outcomes = [(number, self._known(call)) for number, call in known]
        if fresh:
            if self.keys is None:
                self.lane.add(fresh)
            else:
                self._dispatcher.look_up(fresh)
        if outcomes:
            self.emit(outcomes)

    def _known(self, call: Call) -> Outcome:
        self._dispatcher.touch(call)
        outcome = call.outcome_for(self)
        if outcome.error is not None:
            self.metrics.errors += 1
        return outcome

    async def close(self) -> None:
        """Deliver nothing more; wait (up to a second) until the engine has let go of what was in flight."""
        if not self._closed:
            self._closed = True
            self._outbox.clear()
            self._dispatcher.drop(self)
        if not self._quiet.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), ABORT_S)

    def emit(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """Deliver; what comes up while the operator handles a delivery follows after it, not inside it."""
        if self._emitting:
            self._outbox += outcomes
            return
        self._emitting = True
        try:
            while outcomes and not self._closed:
                self._deliver(outcomes)
                outcomes, self._outbox = self._outbox, []
        finally:
            self._emitting = False

    def learn(self, user: str, result: GenResult) -> None:
        """See ``Asker``."""
        tally = self._tally
        tally.answered += 1
        tally.prompt_tok += result.prompt_tok
        tally.cached_tok += result.prompt_tok_cached
        tally.output_tok += result.output_tok
        if self._experience is not None:
            chars = len(user) + self._system_chars
            self._experience.add(chars, result.prompt_tok, result.output_tok, len(result.text))

    def found(self) -> None:
        """One of its requests was answered by the store."""
        self._tally.asked -= 1

    def aborting(self, change: int) -> None:
        """Counts own calls that the engine was told to abort and has not delivered yet."""
        self._aborting += change
        if self._aborting:
            self._quiet.clear()
        else:
            self._quiet.set()


def output_bound(spec: ChannelSpec) -> int:
    """The most tokens an answer may take: a choice at most its bytes and an end, a score one, a vector none."""
    if spec.answer.kind in ("score", "embedding"):
        return 1 if spec.answer.kind == "score" else 0
    if spec.answer.kind != "choice":
        return spec.sampling.max_tokens
    return min(spec.sampling.max_tokens, 1 + max((len(choice.encode()) for choice in spec.answer.choices), default=0))
