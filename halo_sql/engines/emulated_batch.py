"""Continuous batching of an emulated engine: which request computes how many tokens in each step.

It follows vLLM's scheduler (V1): running requests first, each its next token, a prompt that did not fit the step goes
on; then waiting ones, by priority and arrival, as long as the step's tokens, the number of sequences and the KV cache
allow (a request is let in when its whole prompt fits). When a running request finds no block, the one of lowest
priority that came last is preempted: its blocks are given back, its tokens computed again later.

Sequences that only decode are not touched step by step: they lie in buckets by the step in which they next need a
block, and in a heap by the step of their last token, so a step costs what changes in it, and many steps are planned
as one where nothing but decoding happens (a *turn*). Nothing here knows of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from halo_sql.engines.emulated_cache import Block, BlockCache

_WAITING, _PREFILL, _DECODE, _ENDED = range(4)


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the engine.

    keys        chained hashes of the whole blocks of prompt and answer
    output_tok  tokens of the answer, at least 1
    tag         whatever the engine wants back with it
    cached_tok  prompt tokens found in the cache when it was first let in; -1: not yet
    moved       blocks that came from another worker for it
    """

    keys: list[int]
    prompt_tok: int
    output_tok: int
    priority: int = 0
    tag: Any = None
    cached_tok: int = -1
    moved: int = 0
    arrival: int = 0
    place: int = 0  # in the order in which requests were let in
    produced: int = 0  # tokens of the answer; of a decoding one as of ``joined``
    computed: int = 0  # tokens in its blocks, while it is prefilled
    joined: int = 0  # the step from which on it decodes
    sealed: int = 0  # blocks that others find
    state: int = _WAITING
    blocks: list[Block] = field(default_factory=list)

    @property
    def tok(self) -> int:
        """Tokens that are known: those of the prompt and of the answer so far."""
        return self.prompt_tok + self.produced


@dataclass(slots=True)
class Turn:
    """Steps that the engine makes without looking up.

    steps        how many; all but the first, and the first when ``prefill_tok`` is 0, only decode
    prefill_tok  prompt tokens computed in the first
    admitted     requests let in for the first time
    sequences    that get a token in each step
    read_tok     tokens before those, in the first step; ``sequences`` more in each further one
    """

    steps: int
    prefill_tok: int
    admitted: int
    sequences: int
    read_tok: int


class Batch:
    """The requests of one engine."""

    def __init__(self, cache: BlockCache, block_tok: int, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.cache = cache
        self.preemptions = 0
        self.prefilled_tok = 0  # also those computed again
        self.steps = 0
        self._block_tok = block_tok
        self._max_seqs = max_num_seqs
        self._max_tok = max(max_num_batched_tokens, max_num_seqs)
        self._arrivals = count()
        self._places = count()
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._waits = 0  # of those how many are still wanted
        self._running: dict[Sequence, None] = {}
        self._part: Sequence | None = None  # a prompt of which a part is computed; always the last one running
        self._whole: list[Sequence] = []  # prompts whose last token is computed in this turn
        self._buckets: list[dict[Sequence, None]] = [{} for _ in range(block_tok)]
        self._ends: list[tuple[int, int, Sequence]] = []
        self._decoding = 0
        self._context = 0  # of decoding sequences: tokens known, less the steps made since
        self._preempted = False

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks."""
        return self._waits

    @property
    def running(self) -> int:
        """Requests that are computed."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """A new request."""
        sequence.arrival = next(self._arrivals)
        self._wait(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A request that is not wanted any more; not during a turn."""
        if sequence.state == _WAITING:
            self._waits -= 1
        elif sequence.state != _ENDED:
            self._leave(sequence)
        sequence.state = _ENDED

    def sequences(self) -> Iterator[Sequence]:
        """All of them, in no order to rely on."""
        yield from self._running
        yield from (item[2] for item in self._waiting if item[2].state == _WAITING)

    # --- a turn

    def plan(self, alone: bool) -> Turn | None:
        """The next turn, its first step's tokens given out; None when there is nothing to do. ``alone``: it may be
        more than one step."""
        while True:
            self._preempted = False
            self._whole = []
            for sequence in tuple(self._buckets[self.steps % self._block_tok]):
                if sequence.state == _DECODE:
                    self._grow(sequence)
            budget = self._max_tok - self._decoding
            prefill_tok = self._go_on(budget)
            admitted, blocked = 0, True
            if not self._preempted:
                more_tok, admitted, blocked = self._admit(budget - prefill_tok)
                prefill_tok += more_tok
            self.prefilled_tok += prefill_tok
            if prefill_tok or self._decoding:
                break
            if not self._preempted:
                return None
        sequences = self._decoding + len(self._whole)
        read_tok = self._context + self._decoding * self.steps + sum(sequence.tok for sequence in self._whole)
        turn = Turn(1, prefill_tok, admitted, sequences, read_tok)
        if alone and not prefill_tok and not self._preempted and blocked:
            turn.steps = self._jump()
        return turn

    def finish(self, turn: Turn) -> list[Sequence]:
        """The turn's steps are made: the requests that are answered, in the order in which they were let in."""
        for _ in range(1, turn.steps):
            self.steps += 1
            for sequence in tuple(self._buckets[self.steps % self._block_tok]):
                self._grow(sequence)
        self.steps += 1
        ended = []
        while self._ends and self._ends[0][0] <= self.steps:
            end, _, sequence = heappop(self._ends)
            if sequence.state == _DECODE and end == self._end_of(sequence):
                ended.append(sequence)
        for sequence in self._whole:
            sequence.produced += 1
            if sequence.produced == sequence.output_tok:
                ended.append(sequence)
            else:
                self._decode(sequence)
        self._whole = []
        for sequence in ended:
            self._leave(sequence)
            sequence.state = _ENDED
        return ended

    def _jump(self) -> int:
        """How many steps pass until a sequence ends or a block is missing (every step has one sequence at least)."""
        ends = self._ends
        while ends[0][2].state != _DECODE or ends[0][0] != self._end_of(ends[0][2]):
            heappop(ends)
        most, free = ends[0][0] - self.steps, self.cache.free
        for further in range(1, most):
            free -= len(self._buckets[(self.steps + further) % self._block_tok])
            if free < 0:
                return further
        return most

    # --- within a step

    def _grow(self, sequence: Sequence) -> None:
        """A decoding sequence whose blocks are full takes another, or is preempted."""
        if self._make_room(1, sequence):
            self._seal(sequence, len(sequence.blocks) * self._block_tok)
            sequence.blocks += self.cache.take(1)

    def _go_on(self, budget: int) -> int:
        """Compute more of the prompt that was begun; its tokens."""
        part = self._part
        if part is None or budget <= 0:
            return 0
        tok = min(part.tok - part.computed, budget)
        needed = self._blocks_for(part.computed + tok) - len(part.blocks)
        if not self._make_room(needed, part):
            return 0
        self._part = None
        self._compute(part, tok, needed)
        return tok

    def _admit(self, budget: int) -> tuple[int, int, bool]:
        """Let waiting requests in: their tokens in this step, how many came for the first time, and whether further
        ones have to wait for one to end."""
        used = first = 0
        cache = self.cache
        while self._waits:
            if len(self._running) >= self._max_seqs:
                return used, first, True
            if used >= budget:
                return used, first, False
            sequence = self._waiting[0][2]
            if sequence.state != _WAITING:
                heappop(self._waiting)
                continue
            found = cache.find(sequence.keys[: (sequence.tok - 1) // self._block_tok])
            needed = self._blocks_for(sequence.tok) - len(found)
            if needed + cache.idle(found) > cache.free:
                return used, first, True
            heappop(self._waiting)
            self._waits -= 1
            cache.use(found)
            sequence.blocks = found
            sequence.sealed = len(found)
            sequence.computed = cached_tok = len(found) * self._block_tok
            sequence.state = _PREFILL
            sequence.place = next(self._places)
            self._running[sequence] = None
            if sequence.cached_tok < 0:
                sequence.cached_tok = cached_tok
                first += 1
            tok = min(sequence.tok - cached_tok, budget - used)
            used += tok
            self._compute(sequence, tok, self._blocks_for(cached_tok + tok) - len(found))
        return used, first, True

    def _compute(self, sequence: Sequence, tok: int, blocks: int) -> None:
        sequence.blocks += self.cache.take(blocks)
        sequence.computed += tok
        self._seal(sequence, sequence.computed)
        if sequence.computed < sequence.tok:
            self._part = sequence
        else:
            self._whole.append(sequence)

    def _make_room(self, blocks: int, sequence: Sequence) -> bool:
        """Preempt until so many blocks are free; False when it was the sequence itself that had to go."""
        while self.cache.free < blocks:
            victim = max(self._running, key=lambda one: (one.priority, one.arrival))
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._preempted = True
        self._leave(sequence)
        sequence.computed = 0
        self._wait(sequence)

    # --- states

    def _wait(self, sequence: Sequence) -> None:
        sequence.state = _WAITING
        self._waits += 1
        heappush(self._waiting, (sequence.priority, sequence.arrival, sequence))

    def _decode(self, sequence: Sequence) -> None:
        sequence.state = _DECODE
        sequence.joined = self.steps
        self._decoding += 1
        self._context += sequence.tok - self.steps
        self._bucket(sequence)[sequence] = None
        heappush(self._ends, (self._end_of(sequence), sequence.place, sequence))

    def _leave(self, sequence: Sequence) -> None:
        """Give the blocks of a running sequence back; what it has computed and produced is noted."""
        if sequence.state == _DECODE:
            self._decoding -= 1
            self._context -= sequence.tok - sequence.joined
            del self._bucket(sequence)[sequence]
            sequence.produced += self.steps - sequence.joined
            sequence.computed = sequence.tok - 1
        elif sequence is self._part:
            self._part = None
        del self._running[sequence]
        self._seal(sequence, sequence.computed)
        self.cache.release(sequence.blocks)
        sequence.blocks = []
        sequence.sealed = 0

    def _seal(self, sequence: Sequence, computed: int) -> None:
        """Let others find the blocks that are full."""
        full = computed // self._block_tok
        for place in range(sequence.sealed, full):
            self.cache.seal(sequence.blocks[place], sequence.keys[place])
        sequence.sealed = max(sequence.sealed, full)

    def _end_of(self, sequence: Sequence) -> int:
        return sequence.joined + sequence.output_tok - sequence.produced

    def _bucket(self, sequence: Sequence) -> dict[Sequence, None]:
        """Those that begin a block in the same steps: the token computed in step s is number tok - 1 + s - joined."""
        return self._buckets[(sequence.joined - sequence.tok + 1) % self._block_tok]

    def _blocks_for(self, tok: int) -> int:
        return -(-tok // self._block_tok)
