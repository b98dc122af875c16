"""One of several workers of a model, as their group sees it, and the requests it was given."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from halo_sql.engines.meter import Meter
from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest, GenResult, Limit
from halo_sql.engines.router import DECODE_TOK, Route
from halo_sql.engines.window import limit_of
from halo_sql.errors import EngineError

MAX_ATTEMPTS = 3  # of a request that its workers die of
LEARN_FROM = 16  # answers from which on their pace counts
ASSUMED_TOK_PER_S = 5_000.0  # of a model of unknown size
CPU_FLOPS = 1e11
GPU_FLOPS = 4e14


class Link(Protocol):
    """The way of KV blocks from worker to worker (``shares.Storage``)."""

    def bytes_per_s(self) -> float:
        """Of a block from one to another."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


@dataclass(slots=True, eq=False)
class Pending:
    """A request that is not delivered yet.

    lost     how often its worker died
    route    where it is; None: it waits for a worker
    sent     the worker has it
    aborted  nobody waits for its answer
    """

    request: GenRequest
    deliver: Deliver
    lost: int = 0
    route: Route | None = None
    sent: bool = False
    aborted: bool = False


class Worker:
    """One of the workers.

    state  'new' | 'starting' | 'ready' | 'lost' (given up until the model is started again)
    meter  what it did
    """

    def __init__(self, number: int, engine: Engine) -> None:
        self.number = number
        self.engine = engine
        self.state = "new"
        self.error: EngineError | None = None
        self.restarts = 0  # since it last answered
        self.meter = Meter()
        self.in_flight: dict[int, Pending] = {}
        self.queue: deque[Pending] = deque()
        self.starting: asyncio.Task[None] | None = None
        self.moved_tok = 0
        self.again_tok = 0.0

    def takes(self, one: EngineInfo) -> int:
        """Requests at once, now; ``one`` is what it says of itself."""
        limit = limit_of(self.engine)
        return one.window_requests if limit is None else limit.requests + limit.again

    def counts(self) -> dict[str, float]:
        """See ``WorkerGroup.worker_stats``."""
        moved = {"prompt_tok_moved": self.moved_tok, "prompt_tok_again": round(self.again_tok)}
        return self.meter.counts() | moved | {"in_flight": len(self.in_flight)}


def suspect(item: Pending) -> bool:
    """Whether it is sent alone: if its last worker dies, too, then of nothing else."""
    return item.lost == MAX_ATTEMPTS - 1


def together(one: EngineInfo, count: int, one_place: bool = False) -> EngineInfo:
    """What ``count`` workers are together. On a CPU they share its memory, each GPU brings its own. ``one_place``: one
    works, and the others take memory."""
    if one_place:
        idle_bytes = (count - 1) * one.kv_capacity_tok * one.kv_tok_bytes
        return replace(one, weight_bytes=one.weight_bytes * count + idle_bytes)
    return replace(
        one,
        window_tok=one.window_tok * count,
        window_requests=one.window_requests * count,
        batch_requests=one.batch_requests * count,
        kv_capacity_tok=one.kv_capacity_tok * count,
        weight_bytes=one.weight_bytes * count,
        memory_bytes=one.memory_bytes * (1 if one.device == "cpu" else count),
    )


def alone(all_of_them: EngineInfo, count: int) -> EngineInfo:
    """One of the ``count`` workers that are this together; its part of a CPU's memory."""
    info = all_of_them
    return replace(
        info,
        window_tok=info.window_tok // count,
        window_requests=info.window_requests // count,
        batch_requests=info.batch_requests // count,
        kv_capacity_tok=info.kv_capacity_tok // count,
        weight_bytes=info.weight_bytes // count,
        memory_bytes=info.memory_bytes // count,
    )


def limit_together(workers: Sequence[Worker]) -> Limit | None:
    """What these find out together; None: they do not."""
    found = [limit for worker in workers if (limit := limit_of(worker.engine)) is not None]
    sums = zip(*((limit.requests, limit.most, limit.again, limit.cuts) for limit in found), strict=True)
    return Limit(*map(sum, sums)) if found else None


def hand_over(groups: Mapping[Deliver, Sequence[GenResult]]) -> None:
    """Results to those who asked; one caller's mistake does not stop the others'."""
    for deliver, group in groups.items():
        try:
            deliver(group)
        except Exception as error:
            context = {"message": "a result could not be delivered", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)


def assumed_tok_per_s(info: EngineInfo) -> float:
    """Prompt tokens that a worker computes per second before anything was measured: two operations per parameter and
    token (Kaplan et al., 2020), at what a few CPU cores or half of a large GPU give."""
    if not info.weight_bytes:
        return ASSUMED_TOK_PER_S
    parameters = info.weight_bytes / (4 if info.dtype == "float32" else 2)
    return (CPU_FLOPS if info.device == "cpu" else GPU_FLOPS) / (2 * parameters)


def tok_per_s(workers: Sequence[Worker], assumed: float) -> float:
    """Prompt tokens that a busy worker computes per second, by what all did so far."""
    done = [worker.counts() for worker in workers]
    busy_s = sum(counts["busy_s"] for counts in done)
    if not busy_s or sum(counts["requests"] for counts in done) < LEARN_FROM:
        return assumed
    computed = sum(counts["prompt_tok"] - counts["prompt_tok_cached"] for counts in done)
    return (computed + DECODE_TOK * sum(counts["output_tok"] for counts in done)) / busy_s


def transfer_cost(
    link: Link | None, one: EngineInfo | None, workers: Sequence[Worker], prefill_tok_per_s: float | None
) -> float | None:
    """Time to fetch a token ÷ time to compute it; None: workers share nothing, or nothing is known of sizes.

    prefill_tok_per_s  of a worker, until measured; None: by the model's size
    """
    if link is None or one is None or not one.kv_tok_bytes:
        return None
    rate = tok_per_s(workers, prefill_tok_per_s or assumed_tok_per_s(one))
    return one.kv_tok_bytes / link.bytes_per_s() * rate
