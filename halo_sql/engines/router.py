"""Which worker of a model gets a request: the one that holds its prefix, unless another would be done much earlier.

Work is counted in prompt tokens to compute. A batch is cut along its prefix trie into units of at most half a
worker's share, the largest first, each to the worker that would be done with it first (list scheduling, Graham 1969).
Where few requests come at a time what follows is unknown: a prefix then moves to another worker only when waiting for
its holder has become as dear as computing it again (ski rental: at most twice the best cost), so that the loads of two
workers differ by at most two shared prefixes and a request. Workers in one place have one load: one of them gets all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.engines.protocol import GenRequest, GenResult, estimate_tok

CHUNK_CHARS = 128  # what the index knows prompts by: about a KV block of 32 tokens
KNOWN_TOK = 4 << 20  # tokens remembered of a worker that does not tell what its cache holds
DECODE_TOK = 4.0  # prompt tokens that are computed in the time of an output token of a full batch
FEW = 8  # requests per worker below which a batch tells little of what follows
LEARN = 0.05

Chunk = tuple[int, int]  # hash of the prompt up to its end, tokens


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    worker      its number
    work_tok    work that it is expected to make there
    keep_chars  characters of its beginning that others share
    fetch       some of its beginning was computed by a worker that others may fetch it from
    again_tok   of its beginning that is computed here although another worker has it
    """

    worker: int
    work_tok: float
    keep_chars: int = 0
    fetch: bool = False
    again_tok: float = 0.0


class Prefixes:
    """The chunks a cache holds, as far as its requests tell: least recently used ones leave first, leaves before
    their stems."""

    def __init__(self, capacity_tok: int = 0) -> None:
        self.capacity_tok = capacity_tok or KNOWN_TOK
        self._chunks: OrderedDict[int, int] = OrderedDict()
        self._tok = 0

    def __contains__(self, chunk: int) -> bool:
        return chunk in self._chunks

    def add(self, chain: Sequence[Chunk]) -> None:
        """A prompt with these chunks is computed there."""
        chunks = self._chunks
        for chunk, tok in reversed(chain):
            if chunk in chunks:
                chunks.move_to_end(chunk)
            else:
                chunks[chunk] = tok
                self._tok += tok
        while self._tok > self.capacity_tok and chunks:
            self._tok -= chunks.popitem(last=False)[1]

    def clear(self) -> None:
        """The cache is empty: its worker has started anew."""
        self._chunks.clear()
        self._tok = 0


@dataclass(slots=True)
class _Item:
    """A request of a batch: its place, its chunks, and the work that nobody shares with it."""

    place: int
    chain: tuple[Chunk, ...]
    own_tok: float


class Router:
    """Routes the requests of one model to ``workers`` workers.

    capacity_tok  tokens a worker's KV cache holds; 0: unknown
    transfer      time of fetching a token from another worker's cache ÷ time of computing it; from 1 on, or None,
                  nothing is fetched
    one_place     they share a device: what one has to do, the others wait for
    load_tok      work assigned and not done, per worker
    """

    def __init__(
        self, workers: int, capacity_tok: int = 0, transfer: float | None = None, one_place: bool = False
    ) -> None:
        self.load_tok = [0.0] * workers
        self.one_place = one_place
        self.transfer = transfer
        self._held = [Prefixes(capacity_tok) for _ in range(workers)]
        self._stored = Prefixes()
        self._systems: OrderedDict[str, tuple[Chunk, ...]] = OrderedDict()
        self._output_tok = 64.0

    def set_capacity(self, capacity_tok: int) -> None:
        """What a worker's KV cache holds, once known."""
        for held in self._held:
            held.capacity_tok = capacity_tok or KNOWN_TOK

    @property
    def moves(self) -> bool:
        """Whether fetching a prefix is ever cheaper than computing it."""
        return self.transfer is not None and self.transfer < 1

    # --- choosing

    def assign(self, requests: Sequence[GenRequest], able: Sequence[int]) -> list[Route]:
        """A route per request, among the workers ``able`` and those the request allows (it allows one of them)."""
        sets: dict[tuple[int, ...], list[_Item]] = {}
        for place, request in enumerate(requests):
            allowed = tuple(worker for worker in able if worker in request.workers) if request.workers else tuple(able)
            assert allowed, "a request has a worker"
            sets.setdefault(allowed, []).append(_Item(place, self.chain(request), self._own_tok(request)))
        routes: list[Route | None] = [None] * len(requests)
        for allowed, items in sets.items():
            if len(items) == 1:
                units = [items]
            else:
                total = _work(items) + sum(self.load_tok[worker] for worker in allowed)
                units = _units(items, total / len(allowed) / 2)
                units.sort(key=_work, reverse=True)
            patient = len(items) < FEW * len(allowed)
            shared = _shared(items) if self.moves else set()
            for unit in units:
                self._place(unit, allowed, patient, shared, requests, routes)
        return [route for route in routes if route is not None]

    def _place(
        self,
        unit: Sequence[_Item],
        allowed: Sequence[int],
        patient: bool,
        shared: set[int],
        requests: Sequence[GenRequest],
        routes: list[Route | None],
    ) -> None:
        chunks = {chunk: tok for item in unit for chunk, tok in item.chain}
        own = sum(item.own_tok for item in unit)
        total = sum(chunks.values())
        moves = self.moves
        if self.one_place:  # the one that works already, if nothing speaks for another
            allowed = sorted(allowed, key=self.load_tok.__getitem__, reverse=True)
        best = holder = allowed[0]
        costs: dict[int, tuple[float, float]] = {}  # worker -> when it would be done, tokens it holds
        for worker in allowed:
            held = self._held[worker]
            known = sum(tok for chunk, tok in chunks.items() if chunk in held)
            saved = 0.0
            if moves and known < total:
                found = sum(tok for chunk, tok in chunks.items() if chunk in self._stored and chunk not in held)
                saved = found * (1 - (self.transfer or 0.0))
            load_tok = sum(self.load_tok) if self.one_place else self.load_tok[worker]
            costs[worker] = (load_tok + own + total - known - saved, known + saved)
            if costs[worker][0] < costs[best][0]:
                best = worker
            if costs[worker][1] > costs[holder][1] or (
                costs[worker][1] == costs[holder][1] and costs[worker][0] < costs[holder][0]
            ):
                holder = worker
        if patient and holder != best:
            dear = costs[holder][1] - costs[best][1]
            if costs[holder][0] <= costs[best][0] + dear:
                best = holder
        held = self._held[best]
        for item in unit:
            work, keep, fetch, again = item.own_tok, 0, False, 0.0
            for chunk, tok in item.chain:
                stored = moves and chunk in self._stored
                fetch = fetch or stored
                if chunk not in held:
                    work += tok * (self.transfer or 0.0) if stored else tok
                    if not stored and any(chunk in other for other in self._held):
                        again += tok
            if moves:
                keep = self._keep_chars(requests[item.place], item.chain, shared)
            held.add(item.chain)
            self.load_tok[best] += work
            routes[item.place] = Route(best, work, keep, fetch, again)

    def _keep_chars(self, request: GenRequest, chain: Sequence[Chunk], shared: set[int]) -> int:
        """Characters of the chunks that another request has, the system message at any rate."""
        system = request.system or ""
        first = len(self._system_chain(system))
        deep = first
        while deep < len(chain) and (chain[deep][0] in shared or any(chain[deep][0] in held for held in self._held)):
            deep += 1
        return len(system) + (deep - first) * CHUNK_CHARS

    # --- what became of them

    def done(self, request: GenRequest, route: Route, result: GenResult) -> None:
        """A request was answered by its worker, or failed there."""
        self.load_tok[route.worker] = max(0.0, self.load_tok[route.worker] - route.work_tok)
        if result.error is not None:
            return
        if request.answer.kind in ("text", "json", "step") and result.output_tok:
            self._output_tok += LEARN * (result.output_tok - self._output_tok)
        if route.keep_chars:
            system = len(self._system_chain(request.system or ""))
            kept = system + (route.keep_chars - len(request.system or "")) // CHUNK_CHARS
            self._stored.add(self.chain(request)[:kept])

    def back(self, route: Route) -> None:
        """A request leaves its worker without an answer: it is routed again, or nobody waits for it."""
        self.load_tok[route.worker] = max(0.0, self.load_tok[route.worker] - route.work_tok)

    def forget(self, worker: int) -> None:
        """A worker starts anew, with an empty cache."""
        self._held[worker].clear()

    def held_chars(self, worker: int, system: str, user: str) -> int:
        """Characters of a prompt's beginning that a worker holds, in whole chunks; from any thread."""
        held, at, found = self._held[worker], 0, 0
        for start in range(0, len(system), CHUNK_CHARS):
            at = hash((at, "system", system[start : start + CHUNK_CHARS]))
            if at not in held:
                return found
            found = min(len(system), start + CHUNK_CHARS)
        for end in range(CHUNK_CHARS, len(user) + 1, CHUNK_CHARS):
            at = hash((at, user[end - CHUNK_CHARS : end]))
            if at not in held:
                return found
            found = len(system) + end
        return found

    # --- what a request is

    def chain(self, request: GenRequest) -> tuple[Chunk, ...]:
        """The whole chunks of a prompt, system message first, each by a hash of all before it."""
        system = self._system_chain(request.system or "")
        user = request.user
        found = list(system)
        at = system[-1][0] if system else 0
        for end in range(CHUNK_CHARS, len(user) + 1, CHUNK_CHARS):
            at = hash((at, user[end - CHUNK_CHARS : end]))
            found.append((at, CHUNK_CHARS // 4))
        return tuple(found)

    def _system_chain(self, system: str) -> tuple[Chunk, ...]:
        known = self._systems.get(system)
        if known is None:
            at, found = 0, []
            for start in range(0, len(system), CHUNK_CHARS):
                piece = system[start : start + CHUNK_CHARS]
                at = hash((at, "system", piece))
                found.append((at, estimate_tok(piece)))
            known = self._systems[system] = tuple(found)
            if len(self._systems) > 256:
                self._systems.popitem(last=False)
        return known

    def _own_tok(self, request: GenRequest) -> float:
        """The tail of the prompt and the answer."""
        kind = request.answer.kind
        output = 0.0 if kind == "embedding" else 1.0 if kind in ("score", "choice") else self._output_tok
        tail = (len(request.user) % CHUNK_CHARS) / 4 + 1
        return tail + DECODE_TOK * min(output, request.sampling.max_tokens)


def _work(items: Sequence[_Item]) -> float:
    """The work of requests on one worker that has none of their prompts."""
    chunks = {chunk: tok for item in items for chunk, tok in item.chain}
    return sum(chunks.values()) + sum(item.own_tok for item in items)


def _shared(items: Sequence[_Item]) -> set[int]:
    """The chunks that two requests or more have."""
    once: set[int] = set()
    twice: set[int] = set()
    for item in items:
        for chunk, _ in item.chain:
            (twice if chunk in once else once).add(chunk)
    return twice


def _units(items: list[_Item], limit_tok: float) -> list[list[_Item]]:
    """The requests cut along their trie until no unit is more work than the limit, what its requests all share left
    out, or it is a single request."""
    found: list[list[_Item]] = []
    pending = [(items, 0)]
    while pending:
        group, depth = pending.pop()
        while all(len(item.chain) > depth and item.chain[depth] == group[0].chain[depth] for item in group):
            depth += 1
        stem = sum(tok for _, tok in group[0].chain[:depth])
        if len(group) == 1 or _work(group) - stem <= limit_tok:
            found.append(group)
            continue
        leaves: list[_Item] = []
        branches: dict[int, list[_Item]] = {}
        for item in group:
            if len(item.chain) == depth:
                leaves.append(item)
            else:
                branches.setdefault(item.chain[depth][0], []).append(item)
        pending += [(branch, depth + 1) for branch in branches.values()]
        found += _runs(leaves, limit_tok)
    return found


def _runs(items: Sequence[_Item], limit_tok: float) -> list[list[_Item]]:
    """Requests with the same chunks in runs of at most the limit."""
    found: list[list[_Item]] = []
    room = 0.0
    for item in items:
        if not found or item.own_tok > room:
            found.append([])
            room = limit_tok
        found[-1].append(item)
        room -= item.own_tok
    return found
