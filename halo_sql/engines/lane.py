"""The way to one engine in one run: a queue before it, a window in flight, answers handed back.

Engines may deliver inside ``submit``, and whoever gets an answer may at once ask again: nothing here recurses,
a call that comes in while the lane is sending is left to the loop that sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from halo_sql.call_log import RunLog
from halo_sql.clock import unix_s
from halo_sql.engines.budget import FREE, Budget, Price
from halo_sql.engines.calls import FINAL_ERRORS, AnswerMemory, Asker, Call
from halo_sql.engines.meter import Meter
from halo_sql.engines.prefix_cache import PrefixCache
from halo_sql.engines.protocol import Engine, GenRequest, GenResult, Outcome
from halo_sql.engines.send_queue import SendQueue
from halo_sql.engines.store import Entry, ResponseStore
from halo_sql.engines.window import Watch, Window
from halo_sql.errors import EngineError

SEND_AT_ONCE = 2048  # requests per submit
_next_id = count(1).__next__  # engines are shared by runs: ids are unique in the process

Handed = dict[Asker, list[tuple[int, Outcome]]]  # by whom to tell


class Lane:
    """Sends calls to one engine and settles them.

    queue    where calls wait
    freed    called when a budget claim was settled: another lane may be waiting for it
    cache    model of what the engine's prefix cache holds; None: nothing is known of it
    meter    what the engine did
    stopped  set when nothing may be sent any more (credentials refused, time over): every call fails with it
    """

    def __init__(
        self,
        engine: Engine,
        window: Window,
        queue: SendQueue,
        budget: Budget,
        price: Price,
        memory: AnswerMemory,
        store: ResponseStore | None,
        freed: Callable[[], None],
        log: RunLog | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.engine = engine
        self.window = window
        self.cache: PrefixCache | None = None
        self.meter = meter or Meter()
        self.stopped: EngineError | None = None
        self.starved = False  # waits for budget that others have reserved
        self._budget = budget
        self._price = price
        self._memory = memory
        self._store = store
        self._freed = freed
        self._log = log
        self._queue = queue
        self._in_flight: dict[int, Call] = {}
        self._in_use: dict[int, int] = {}  # piece of the prompts in flight -> how many have it
        self._watch = Watch(engine, lambda: self.on_results([]))
        self._sending = False
        self._late_aborts: list[int] = []  # asked for while the engine was inside submit

    # --- sending

    def add(self, calls: Sequence[Call]) -> None:
        """Send calls (all of one channel) as soon as there is room."""
        channel = calls[0].channel
        spec = channel.spec
        if self.stopped is not None:
            self._fail(calls, self.stopped)
            return
        ordered = spec.ordered and len(calls) + len(self._queue) > 1
        if ordered and not self._queue:  # when all of them go out together their order is of no use
            each_tok = channel.base_tok + channel.output_tok + 1
            tok = self.window.estimate(sum(len(call.user) for call in calls)) + len(calls) * each_tok
            ordered = not self.window.fits_all(len(calls), tok)
        self._queue.add(calls, spec.priority, spec.system, ordered)
        self.pump()

    def pump(self) -> None:
        """Send what there is room for, again and again as long as the engine answers at once."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._queue or self._late_aborts:
                taken, refused = self._take()
                if taken:
                    self._submit(taken)
                for call, problem in refused:
                    self._fail([call], problem)
                if self._late_aborts:
                    ids, self._late_aborts = self._late_aborts, []
                    self.engine.abort([number for number in ids if number in self._in_flight])
                elif not taken and not refused:
                    break
        finally:
            self._sending = False
            self._watch.on(bool(self._queue and self._in_flight))

    def _take(self) -> tuple[list[Call], list[tuple[Call, EngineError]]]:
        """Calls off the queue that fit window and budget now, and those the budget will never allow."""
        taken: list[Call] = []
        refused: list[tuple[Call, EngineError]] = []
        window, budget, cache = self.window, self._budget, self.cache
        calls = self._queue.pop_many(min(SEND_AT_ONCE, window.room()))
        for place, call in enumerate(calls):
            tok = whole_tok = call.tok or self._weigh(call)
            if cache is not None:
                tok = self._unshared_tok(call, cache)
            if not window.fits(tok):
                self._queue.put_back(calls[place:])
                break
            if budget.limited:
                try:
                    if not budget.reserve(whole_tok, call.usd):
                        self.starved = True
                        self._queue.put_back(calls[place:])
                        break
                except EngineError as problem:
                    refused.append((call, problem))
                    continue
            if cache is None:
                window.used_tok += tok
            else:
                self._begin_use(call, cache)
            window.used_requests += 1
            window.usual_tok = tok or 1
            taken.append(call)
        return taken, refused

    def _unshared_tok(self, call: Call, cache: PrefixCache) -> int:
        """What a call adds to the KV cache beside the prefix that requests in flight have there already."""
        if call.pieces is None:
            call.pieces = cache.pieces(call.channel.spec.system, call.user)
        in_use = self._in_use
        call.room_tok = max(0, call.tok - int(len(call.pieces) * cache.piece_tok))
        return call.room_tok + int(sum(piece not in in_use for piece in call.pieces) * cache.piece_tok)

    def _begin_use(self, call: Call, cache: PrefixCache) -> None:
        """A call is sent: its prompt is in the cache as long as it is in flight, and for some time after."""
        in_use, pieces, window = self._in_use, call.pieces or (), self.window
        call.warm = cache.warm(pieces)
        cache.use(pieces)
        for piece in pieces:
            in_use[piece] = in_use.get(piece, 0) + 1
        window.used_tok += call.room_tok
        window.shared_tok = int(len(in_use) * cache.piece_tok)

    def _end_use(self, call: Call, result: GenResult, cache: PrefixCache) -> None:
        """The answer of a call came, or it is never to come."""
        in_use, pieces, window = self._in_use, call.pieces or (), self.window
        for piece in pieces:
            if in_use[piece] == 1:
                del in_use[piece]
            else:
                in_use[piece] -= 1
        if result.prompt_tok:
            cache.correct(pieces, call.warm, result.prompt_tok_cached)
            cache.piece_tok = window.estimate(cache.chars)
        end_tok = max(1.0, result.prompt_tok - len(pieces) * cache.piece_tok)
        cache.use(pieces, min(end_tok, cache.piece_tok) + result.output_tok)
        window.used_tok -= call.room_tok
        window.shared_tok = int(len(in_use) * cache.piece_tok)

    def _weigh(self, call: Call) -> int:
        """The tokens to reserve for a call: counted by the engine's tokenizer only where it matters."""
        channel, window = call.channel, self.window
        prompt_tok = window.estimate(len(call.user)) + channel.base_tok
        exact = self.cache is None or not window.has_learnt
        if exact and 2 * (window.used_tok + prompt_tok + channel.output_tok) > window.limit_tok:
            prompt_tok = self.engine.count_tok(request_of(call))
        if self._price is not FREE:
            call.usd = self._price.usd(prompt_tok, channel.output_tok)
        call.tok = tok = prompt_tok + channel.output_tok
        return tok

    def _submit(self, calls: list[Call]) -> None:
        requests = []
        in_flight, now_s = self._in_flight, unix_s()
        for call in calls:
            call.sent_s = now_s
            request = request_of(call)
            in_flight[request.id] = call
            requests.append(request)
            metrics = call.channel.metrics
            metrics.llm_calls += 1
            metrics.in_flight += 1
        self.meter.change(len(requests))
        self.engine.submit(requests, self.on_results)

    # --- answers

    def on_results(self, results: Sequence[GenResult]) -> None:
        """The engine delivers."""
        window, memory, cache = self.window, self._memory, self.cache
        handed: Handed = {}
        rows: list[tuple[bytes, Entry]] = []
        refusal: EngineError | None = None
        counting = self._budget.limited
        self.meter.change(-len(results))
        for result in results:
            call = self._in_flight.pop(result.id, None)
            if call is None:
                continue
            channel, error = call.channel, result.error
            if cache is None:
                window.used_tok -= call.tok
            else:
                self._end_use(call, result, cache)
            window.used_requests -= 1
            channel.metrics.in_flight -= 1
            if counting or result.prompt_tok or result.output_tok or result.retries:
                self._account(call, result)
            if error is None:
                error = channel.validate(result.text, result.finish)
                if error is None and call.key is not None:
                    rows.append((call.key, Entry(result.text, result.finish, result.prompt_tok, result.output_tok)))
                if error is None:
                    channel.learn(call.user, result)
            elif error.code == "auth":
                refusal = error
            elif error.code == "cancelled" and self.stopped is not None:
                error = self.stopped
            if self._log is not None:
                note(self._log, call, result.text, error, result.prompt_tok, result.output_tok, result.worker)
            if call.dropped:
                channel.aborting(-1)
                continue
            finish = "error" if result.error is not None else result.finish
            outcome = Outcome(result.text, error, result.prompt_tok, result.output_tok)
            call.settle(result.text, finish, outcome if error is None else Outcome(error=error))
            if call.table is not None:
                if error is None or error.code in FINAL_ERRORS:
                    memory.add(call)
                else:
                    call.forget()
            hand_out(call, handed)
        if rows and self._store is not None:
            self._store.put_many(rows)
        for channel, outcomes in handed.items():
            channel.emit(outcomes)
        if refusal is not None:
            self.stop(refusal)
        if self._budget.limited:
            self._freed()
        window.follow(self.engine, len(self._queue))
        self.pump()

    def _account(self, call: Call, result: GenResult) -> None:
        """What a call used, or may have to give back."""
        self.meter.add(result)
        self.window.on_result(len(call.user) + 4 * call.channel.base_tok, result)
        metrics = call.channel.metrics
        metrics.prompt_tok += result.prompt_tok
        metrics.prompt_tok_cached += result.prompt_tok_cached
        metrics.output_tok += result.output_tok
        metrics.retries += result.retries
        if result.worker >= 0:
            label = f"{call.channel.spec.model}/{result.worker}"
            metrics.workers[label] = metrics.workers.get(label, 0) + 1
        usd = 0.0
        if self._price is not FREE:
            usd = self._price.usd(result.prompt_tok, result.output_tok)
            metrics.usd += usd
        if self._budget.limited:
            self._budget.settle(call.tok, result.prompt_tok + result.output_tok, call.usd, usd)

    def _fail(self, calls: Sequence[Call], error: EngineError) -> None:
        """These calls are not sent."""
        handed: Handed = {}
        for call in calls:
            if self._log is not None:
                note(self._log, call, "", error)
            call.forget()
            call.settle("", "error", Outcome(error=error))
            hand_out(call, handed)
        for channel, outcomes in handed.items():
            channel.emit(outcomes)

    # --- ending

    def stop(self, error: EngineError) -> None:
        """Send nothing more: whatever waits fails with this error, what is in flight is aborted."""
        if self.stopped is not None:
            return
        self.stopped = error
        waiting = self._queue.pop_many(len(self._queue))
        self._abort(list(self._in_flight))
        self._fail(waiting, error)

    def drop(self, channel: Asker) -> None:
        """A channel wants nothing more: what only it waits for leaves the queue or is aborted."""
        for call in list(self._queue):
            if leaves(call, channel):
                self._queue.drop(call)
        ids = []
        for number, call in self._in_flight.items():
            owner = call.channel
            if call.dropped:
                continue
            if leaves(call, channel):
                call.dropped = True
                channel.aborting(+1)
                ids.append(number)
            elif call.channel is not owner:
                owner.metrics.in_flight -= 1
                call.channel.metrics.in_flight += 1
        self._abort(ids)

    def _abort(self, ids: list[int]) -> None:
        if self._sending:  # the engine may not have seen them yet
            self._late_aborts += ids
        elif ids:
            self.engine.abort(ids)


def note(
    log: RunLog,
    call: Call,
    text: str,
    error: EngineError | None,
    prompt_tok: int = 0,
    output_tok: int = 0,
    worker: int = -1,
) -> None:
    """Write a call that ended into the log."""
    channel, status = call.channel, "done" if error is None else "failed"
    if channel.spec.traced:
        return
    if error is None and not call.sent_s:
        status = "store"
    model, sent_s = channel.spec.model, call.sent_s
    log.add(
        channel.metrics,
        call.number,
        model,
        call.user,
        text,
        status,
        error,
        sent_s,
        prompt_tok,
        output_tok,
        worker=None if worker < 0 else worker,
    )


def request_of(call: Call) -> GenRequest:
    """The call as the engine sees it; made when it is about to be sent."""
    request = call.request
    if request is None:
        spec = call.channel.spec
        request = GenRequest(
            _next_id(), call.user, spec.system, spec.sampling, spec.answer, spec.priority, spec.workers
        )
        call.request = request
    return request


def leaves(call: Call, channel: Asker) -> bool:
    """Take a channel off a call's waiters; whether none is left (the call is then nobody's to share)."""
    if not call.without(channel):
        return False
    call.forget()
    return True


def hand_out(call: Call, handed: Handed) -> None:
    """Note a settled call's outcome for everybody who waits for it."""
    outcome = call.outcome
    assert outcome is not None
    channel = call.channel
    if outcome.error is not None:
        channel.metrics.errors += 1
    bucket = handed.get(channel)
    if bucket is None:
        handed[channel] = bucket = []
    bucket.append((call.number, outcome))
    if call.others:
        for other, number in call.others:
            theirs = call.outcome_for(other)
            if theirs.error is not None:
                other.metrics.errors += 1
            handed.setdefault(other, []).append((number, theirs))
        call.others = None
