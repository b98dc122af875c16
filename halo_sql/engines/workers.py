"""Several workers of one model as one engine: requests go where their prefix is, and on when a worker dies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest, GenResult, Limit
from halo_sql.engines.router import Router
from halo_sql.engines.tasks import Shared, cancelled
from halo_sql.engines.worker import (
    MAX_ATTEMPTS,
    Link,
    Pending,
    Worker,
    hand_over,
    limit_together,
    suspect,
    together,
    transfer_cost,
)
from halo_sql.errors import EngineError

MAX_RESTARTS = 2  # of a worker, one after the other, before it is given up
RETRY_S = 0.5  # before the second restart; doubled for each further one


class WorkerGroup:
    """``engines.protocol.Engine`` over several engines of the same model.

    engines    one per worker, with the same answers
    alike      refuse a worker that says it has another model than the first one
    storage    through which a worker gets what another one computed; None: they share nothing. Closed with the group
    prefill_tok_per_s  of a worker, until measured: what fetching is compared with; None: by the model's size
    one_place  they share a device: one works, the others take its place when it dies

    The first worker that is ready begins; the others join when they are. A worker that dies is started again, at most
    ``MAX_RESTARTS`` times in a row, and its unfinished requests go to the others meanwhile (each at most
    ``MAX_ATTEMPTS`` times, the last time alone). When none is left, requests fail with the last worker's error.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        alike: bool = True,
        storage: Link | None = None,
        prefill_tok_per_s: float | None = None,
        one_place: bool = False,
    ) -> None:
        self.workers = [Worker(number, engine) for number, engine in enumerate(engines)]
        self.router = Router(len(engines), one_place=one_place)
        self.restarts = 0
        self._alike = alike
        self.storage = storage
        self._prefill_tok_per_s = prefill_tok_per_s
        self._one: EngineInfo | None = None  # what a worker says of itself
        self._open: dict[int, Pending] = {}
        self._waiting: deque[Pending] = deque()  # for a worker to be ready
        self._changed = asyncio.Event()
        self._start = Shared(self._started)
        self._closed = self._pumping = False
        for worker in self.workers:
            if hasattr(worker.engine, "on_lost"):  # it leaves to us what is done about its death
                worker.engine.on_lost = partial(self._died, worker)

    @property
    def failed(self) -> EngineError | None:
        """Why a worker will never answer again (refused credentials)."""
        return next((found for worker in self.workers if (found := getattr(worker.engine, "failed", None))), None)

    @property
    def can_sleep(self) -> bool:
        """Whether all workers can leave their devices without ending."""
        return all(getattr(worker.engine, "can_sleep", False) for worker in self.workers)

    # --- starting

    async def start(self) -> EngineInfo:
        """Start all workers at once; returns when the first is ready. EngineError of the first when none is."""
        return await self._start.get()

    async def _started(self) -> EngineInfo:
        self._begin_all()
        if self.storage is not None:
            await asyncio.to_thread(self.storage.bytes_per_s)  # measured here, known from then on
        while self._one is None or not self._ready():
            if all(worker.state == "lost" for worker in self.workers):
                raise self.workers[0].error or EngineError("no worker could be started", code="unavailable")
            self._changed.clear()
            await self._changed.wait()
        return together(self._one, len(self.workers), self.router.one_place)

    async def all_ready(self) -> None:
        """Wait until every worker is ready, or given up."""
        while any(worker.state not in ("ready", "lost") for worker in self.workers):
            self._changed.clear()
            await self._changed.wait()

    async def describe(self) -> EngineInfo | None:
        """What can be said without a start, see ``Engine.describe``."""
        one = self._one or await self.workers[0].engine.describe()
        return None if one is None else together(one, len(self.workers), self.router.one_place)

    def _begin_all(self) -> None:
        for worker in self.workers:
            if worker.state in ("new", "lost"):
                worker.restarts = 0
                self._begin(worker)

    def _begin(self, worker: Worker, delay_s: float = 0.0) -> None:
        worker.state = "starting"
        worker.starting = asyncio.get_running_loop().create_task(self._start_one(worker, delay_s))

    async def _start_one(self, worker: Worker, delay_s: float) -> None:
        while not self._closed:
            await asyncio.sleep(delay_s)
            try:
                info = await worker.engine.start()
                if self._alike and self._one is not None and info.identity != self._one.identity:
                    message = f"worker {worker.number} has another model: {info.identity}, not {self._one.identity}"
                    raise EngineError(message, code="unavailable", fatal=True)
            except EngineError as problem:
                worker.error = problem
                if problem.fatal or problem.code != "unavailable" or worker.restarts >= MAX_RESTARTS or not self._one:
                    self._give_up(worker)
                    return
                worker.restarts += 1
                delay_s = RETRY_S * 2**worker.restarts
                continue
            if self._one is None:
                self._one = info
                self.router.set_capacity(info.kv_capacity_tok)
            worker.state = "ready"
            self._changed.set()
            self.pump()
            return

    def _give_up(self, worker: Worker) -> None:
        worker.state = "lost"
        self._changed.set()
        self._take_back(worker)
        self.pump()

    # --- requests

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """See ``Engine.submit``."""
        if self._closed:
            deliver([cancelled(request.id) for request in requests])
            return
        for request in requests:
            assert request.id not in self._open, f"request {request.id} is in flight already"
            if request.workers and max(request.workers) >= len(self.workers):  # the plan was made for more
                there = tuple(number for number in request.workers if number < len(self.workers))
                request = replace(request, workers=there)
            self._open[request.id] = found = Pending(request, deliver)
            self._waiting.append(found)
        if all(worker.state in ("new", "lost") for worker in self.workers):
            self._begin_all()
        self.pump()

    def pump(self) -> None:
        """Route what waits, and send each worker what it has room for."""
        if self._pumping or self._closed:  # an engine answers inside ``submit``: the loop below goes on
            return
        self._pumping = True
        try:
            while True:
                self._route()
                self._steal()
                if not sum(self._feed(worker) for worker in self.workers if worker.state == "ready"):
                    return
        finally:
            self._pumping = False

    def _route(self) -> None:
        ready = self._ready()
        waiting, self._waiting = self._waiting, deque()
        now: list[Pending] = []
        hopeless: list[Pending] = []
        for item in waiting:
            if item.aborted:
                continue
            mine = [self.workers[number] for number in self._allowed(item.request)]
            if item.request.workers and all(worker.state == "lost" for worker in mine):
                item.request, mine = replace(item.request, workers=()), self.workers  # any other gives its answer
            if any(worker.state == "ready" for worker in mine):
                now.append(item)
            elif all(worker.state == "lost" for worker in mine):
                hopeless.append(item)
            else:
                self._waiting.append(item)
        if now:
            self.router.transfer = transfer_cost(self.storage, self._one, self.workers, self._prefill_tok_per_s)
            for item, route in zip(now, self.router.assign([item.request for item in now], ready), strict=True):
                item.route = route
                self.workers[route.worker].queue.append(item)
        for item in hopeless:
            self._fail(item, self.workers[self._allowed(item.request)[0]].error)

    def _allowed(self, request: GenRequest) -> Sequence[int]:
        return request.workers or range(len(self.workers))

    def _steal(self) -> None:
        """A worker without work takes half of the longest queue, from its end."""
        for idle in self.workers:
            if idle.state != "ready" or idle.in_flight or idle.queue or self.router.one_place:
                continue
            full = max(self.workers, key=lambda worker: len(worker.queue))
            taken: list[Pending] = []
            for _ in range((len(full.queue) + 1) // 2):
                if idle.number not in self._allowed(full.queue[-1].request):
                    break
                item = full.queue.pop()
                if not item.aborted:
                    self._unroute(item)
                    taken.append(item)
            if taken:
                taken.reverse()
                routes = self.router.assign([item.request for item in taken], [idle.number])
                for item, route in zip(taken, routes, strict=True):
                    item.route = route
                    idle.queue.append(item)

    def _feed(self, worker: Worker) -> int:
        """Send what its window has room for; how many were sent."""
        assert self._one is not None
        requests: list[GenRequest] = []
        alone, takes = any(map(suspect, worker.in_flight.values())), worker.takes(self._one)
        while worker.queue and len(worker.in_flight) < takes:
            if worker.in_flight and (alone or suspect(worker.queue[0])):
                break
            item = worker.queue.popleft()
            if item.aborted:
                continue
            alone = suspect(item)
            assert item.route is not None
            worker.in_flight[item.request.id] = item
            item.sent = True
            request = item.request
            if item.route.keep_chars or item.route.fetch:
                request = replace(request, keep_chars=item.route.keep_chars, fetch=item.route.fetch)
            requests.append(request)
        if requests:
            worker.meter.change(len(requests))
            worker.engine.submit(requests, partial(self._on_results, worker))
        return len(requests)

    def _on_results(self, worker: Worker, results: Sequence[GenResult]) -> None:
        groups: dict[Deliver, list[GenResult]] = {}
        died: EngineError | None = None
        back: list[Pending] = []
        for result in results:
            item = worker.in_flight.pop(result.id, None)
            route = None if item is None else item.route
            if item is None or route is None:
                continue
            worker.meter.change(-1)
            self.router.done(item.request, route, result)
            error = result.error
            if error is not None and error.code == "unavailable" and not error.fatal and not self._closed:
                died = error
                item.lost += 1
                item.route, item.sent = None, False
                if item.aborted:
                    result = cancelled(result.id)
                elif item.lost < MAX_ATTEMPTS:
                    back.append(item)
                    continue
            else:
                worker.restarts = 0
                worker.meter.add(result)
                worker.moved_tok += result.prompt_tok_moved
                worker.again_tok += max(0.0, route.again_tok - result.prompt_tok_moved)
            del self._open[result.id]
            retries = result.retries + item.lost
            groups.setdefault(item.deliver, []).append(replace(result, worker=worker.number, retries=retries))
        self._waiting.extendleft(reversed(back))
        if died is not None:
            self._died(worker, died)
        hand_over(groups)
        self.pump()

    def _died(self, worker: Worker, error: EngineError) -> None:
        """Start it again; what is queued for it goes to the others (what is in flight it fails itself)."""
        if worker.state != "ready" or self._closed:
            return
        worker.error = error
        self.restarts += 1
        self.router.forget(worker.number)
        self._take_back(worker)
        if worker.restarts >= MAX_RESTARTS:
            worker.state = "lost"
        else:
            self._begin(worker, RETRY_S * 2**worker.restarts if worker.restarts else 0.0)
            worker.restarts += 1
        self.pump()

    def _take_back(self, worker: Worker) -> None:
        for item in worker.queue:
            self._unroute(item)
        self._waiting.extendleft(reversed(worker.queue))
        worker.queue.clear()

    def _unroute(self, item: Pending) -> None:
        if item.route is not None:
            self.router.back(item.route)
            item.route = None

    def _fail(self, item: Pending, problem: EngineError | None) -> None:
        if self._open.pop(item.request.id, None) is not None:
            problem = problem or EngineError("no worker is left", code="unavailable")
            error = EngineError(problem.message, code=problem.code, fatal=True, remedy=problem.remedy)
            item.deliver([GenResult(item.request.id, finish="error", retries=item.lost, error=error)])

    def abort(self, ids: Sequence[int]) -> None:
        """See ``Engine.abort``."""
        sent: dict[int, list[int]] = {}
        for number in ids:
            if (item := self._open.get(number)) is None:
                continue
            item.aborted = True
            if item.sent and item.route is not None:
                sent.setdefault(item.route.worker, []).append(number)
            else:
                asyncio.get_running_loop().call_soon(self._cancel, number)
        for place, numbers in sent.items():
            self.workers[place].engine.abort(numbers)

    def _cancel(self, number: int) -> None:
        if (item := self._open.get(number)) is None or item.sent:
            return
        del self._open[number]
        self._unroute(item)
        item.deliver([cancelled(number)])

    def count_tok(self, request: GenRequest) -> int:
        """See ``Engine.count_tok``."""
        return self._asked().count_tok(request)

    def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
        """As of the engines, see ``Engine``."""
        found = getattr(self._asked(), "prompt_ids", None)
        return None if found is None else found(requests)

    def _asked(self) -> Engine:
        return next(iter(self._ready_workers()), self.workers[0]).engine

    # --- ending

    async def close(self) -> None:
        """See ``Engine.close``."""
        if self._closed:
            return
        self._closed = True
        self._start.cancel()
        tasks = [worker.starting for worker in self.workers if worker.starting is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*(worker.engine.close() for worker in self.workers), return_exceptions=True)
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        for number, item in list(self._open.items()):
            del self._open[number]
            item.deliver([cancelled(number)])
        if self.storage is not None:
            self.storage.close()

    async def sleep(self) -> None:
        """All workers leave."""
        await asyncio.gather(*(worker.engine.sleep() for worker in self._ready_workers()))  # type: ignore[attr-defined]
        for worker in self.workers:
            self.router.forget(worker.number)

    async def wake(self) -> None:
        """Undo ``sleep``."""
        await asyncio.gather(*(worker.engine.wake() for worker in self._ready_workers()))  # type: ignore[attr-defined]

    # --- looking

    def worker_stats(self) -> list[dict[str, float]]:
        """Per worker: requests, prompt_tok, prompt_tok_cached, prompt_tok_moved (of these from another worker),
        prompt_tok_again (computed though another had them, about), output_tok, busy_s, in_flight."""
        return [worker.counts() for worker in self.workers]

    def limit(self) -> Limit | None:
        """Of the workers that are ready, or will be."""
        return limit_together(self._ready_workers() or self.workers)

    def _ready_workers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state == "ready"]

    def _ready(self) -> list[int]:
        return [worker.number for worker in self._ready_workers()]
