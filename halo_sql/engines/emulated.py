"""The emulated engine: behaves as vLLM would with a model and a device that are only described, on the loop's clock.

Requests are batched, cached, preempted as vLLM does it (``emulated_batch``, ``emulated_cache``), the seconds come from
a profile (``profiles.toml``). On a virtual clock (``halo_virtual_time``) hours of several devices pass in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from halo_sql.engines.emulated_batch import Batch, Turn
from halo_sql.engines.emulated_batch import Sequence as Queued
from halo_sql.engines.emulated_cache import BlockCache, chained
from halo_sql.engines.emulated_device import ABSENT, ASLEEP, Device, Times, device_of, devices_of
from halo_sql.engines.emulated_link import LINK, KvLink
from halo_sql.engines.emulated_options import check
from halo_sql.engines.emulated_replies import Replies, Reply, most_tok
from halo_sql.engines.emulated_text import Texts, packed, texts_of
from halo_sql.engines.kinds import GENERATE, admitted
from halo_sql.engines.profiles import Profile
from halo_sql.engines.protocol import Deliver, EngineInfo, GenRequest, GenResult, estimate_prompt_tok, failure
from halo_sql.engines.python import load
from halo_sql.engines.tasks import Shared, cancelled
from halo_sql.errors import EngineError

__all__ = ["EmulatedEngine", "Reply", "check"]

AT_ONCE = 128  # prompts rendered in one go


class EmulatedEngine:
    """One emulated model (``engines.protocol.Engine``); options are those of ``OPTIONS``.

    function  answers with a text from the messages, as of the python engine (it may give a ``Reply``); its time does
              not count. Without one answers are those of echo. An answer is delivered whole: ``max_tokens`` bounds
              the tokens counted and computed, not the text
    profile   in place of the one that ``source`` names
    worker    number of the model's worker that it is
    times     when it worked, was loaded, and left its device
    """

    def __init__(
        self,
        name: str,
        source: str,
        options: Mapping[str, object] | None = None,
        function: Callable[..., object] | None = None,
        profile: Profile | None = None,
        worker: int = 0,
    ) -> None:
        self.name = name
        self.profile, self._options, self.size = check(name, source, options or {}, profile)
        self.bytes = self.size.bytes
        self.times = Times()
        self._source = source
        self._replies = Replies(function)
        size = self.size
        self._cache = BlockCache(size.blocks - 1, self._options["enable_prefix_caching"])
        self._batch = Batch(self._cache, size.block_tok, size.max_num_seqs, size.max_num_batched_tokens)
        devices = [known for item in str(self._options["device"]).split(",") if (known := item.strip())] or ["gpu0"]
        self._device_name = devices[worker % len(devices)]
        self._device: Device | None = None
        block_s = self.transfer_s(size.block_tok)
        self._link = KvLink(self._cache, block_s, size.block_tok / self.profile.prefill_tok_per_s)
        self._fetching: set[Queued] = set()  # requests that wait for blocks
        self._texts: Texts | None = None
        self._start = Shared(self._started)
        self._early: list[tuple[GenRequest, Deliver]] = []  # asked for before the tokenizer was there
        self._open: dict[int, Queued] = {}
        self._unwanted: list[Queued] = []
        self._in_turn = self._was_loaded = self._closed = False
        self._totals = {"requests": 0, "prompt_tok": 0, "prompt_tok_cached": 0, "output_tok": 0}

    # --- the engine

    async def start(self) -> EngineInfo:
        """Load the model onto its device; see ``Engine.start``."""
        if self._closed:
            raise EngineError(f'The emulated engine of "{self.name}" is closed', code="unavailable")
        return await self._start.get()

    async def _started(self) -> EngineInfo:
        if self._options["answers"] and self._replies.function is None:
            self._replies = Replies(await asyncio.to_thread(load, self._options["answers"]))
        self._texts = await asyncio.to_thread(texts_of, self._options["tokenizer"])
        if self._device is None:
            device = device_of(self._device_name)
            device.join(self, self.profile.memory_bytes)
            self._device = device
        early, self._early = self._early, []
        for request, deliver in early:
            self._take([request], deliver)
        await self._device.reside(self)
        return self.info()

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``."""
        return self.info()

    def info(self) -> EngineInfo:
        """What it says of itself."""
        size, profile, capacity_tok = self.size, self.profile, self.size.blocks * self.size.block_tok
        return EngineInfo(
            f"emulated|{self._source}|{self._replies.name}",
            context_tok=size.context_tok,
            kv_capacity_tok=capacity_tok,
            window_tok=capacity_tok,
            window_requests=2 * size.max_num_seqs,
            storable=False,
            device=self._device_name,
            batch_requests=size.max_num_seqs,
            block_tok=size.block_tok,
            weight_bytes=profile.weight_bytes,
            kv_tok_bytes=profile.kv_tok_bytes,
            memory_bytes=profile.memory_bytes,
            step_tok=size.max_num_batched_tokens,
        )

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """See ``Engine.submit``."""
        if self._closed:
            deliver([failure(request.id, "the engine is closed", "unavailable") for request in requests])
            return
        wanted = admitted(GENERATE, f'the emulated model "{self.name}"', requests, deliver)
        if self._texts is None or self._device is None:
            self._early += [(request, deliver) for request in wanted]
            self._start.begin().add_done_callback(self._start_ended)
            return
        for first in range(0, len(wanted), AT_ONCE):
            self._take(wanted[first : first + AT_ONCE], deliver)

    def _start_ended(self, task: asyncio.Task[EngineInfo]) -> None:
        """Nobody may wait for an engine that cannot start."""
        problem = None if task.cancelled() else task.exception()
        if problem is None or not self._early:
            return
        early, self._early = self._early, []
        error = problem if isinstance(problem, EngineError) else EngineError(str(problem), code="unavailable")
        for request, deliver in early:
            deliver([GenResult(request.id, finish="error", error=error)])

    def _take(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Render, answer and queue requests; those that cannot be answered are delivered at once."""
        assert self._texts is not None, "started"
        assert self._device is not None, "started"
        refused: list[GenResult] = []
        answered: list[tuple[GenRequest, list[int], str | Reply]] = []
        for request, prompt in zip(requests, self._texts.prompts(requests), strict=True):
            assert request.id not in self._open, f"request {request.id} is in flight already"
            reply = self._refusal(request, prompt) or self._replies.reply(request)
            if isinstance(reply, GenResult):
                refused.append(reply)
            else:
                answered.append((request, prompt, reply))
        texts = ["" if isinstance(reply, Reply) else reply for _, _, reply in answered]
        for (request, prompt, reply), ids in zip(answered, self._texts.answers(texts), strict=True):
            sequence = self._sequence(request, prompt, reply, ids, deliver)
            self._open[request.id] = sequence
            self._queue(sequence)
        if refused:
            deliver(refused)

    def _refusal(self, request: GenRequest, prompt: list[int]) -> GenResult | None:
        """Why a request cannot be answered; None when it can."""
        assert self._texts is not None, "started"
        problem = None if prompt else self._texts.refusal(request)
        if problem is not None:
            return GenResult(request.id, finish="error", error=problem)
        wanted_tok, context_tok = most_tok(request), self.size.context_tok
        if len(prompt) + wanted_tok <= context_tok:
            return None
        message = (
            f"a prompt of {len(prompt)} tokens and max_tokens {wanted_tok} "
            f"exceed the model's context of {context_tok} tokens"
        )
        return failure(request.id, message, "context")

    def _sequence(
        self, request: GenRequest, prompt: list[int], reply: str | Reply, ids: list[int], deliver: Deliver
    ) -> Queued:
        answer = request.answer
        if isinstance(reply, Reply):
            text, output_tok = reply.text, reply.output_tok
        else:
            text, output_tok = reply, len(ids) + 1
            assert self._texts is not None, "started"
            decides = answer.kind == "choice" and not request.sampling.stop and self._texts.decides(answer.choices)
            if answer.kind == "score" or decides:
                ids, output_tok = [], 1
        output_tok = max(1, min(output_tok, most_tok(request)))
        tokens = packed([*prompt, *ids[:output_tok], *[0] * (output_tok - len(ids))])
        keys = chained(tokens, 4 * self.size.block_tok)
        return Queued(keys, len(prompt), output_tok, request.priority, (request.id, text, deliver))

    def abort(self, ids: Sequence[int]) -> None:
        """See ``Engine.abort``: one that runs leaves behind the step that is under way."""
        loop = asyncio.get_running_loop()
        for number in ids:
            sequence = self._open.get(number)
            if sequence is None:
                for place, (request, deliver) in enumerate(self._early):
                    if request.id == number:
                        del self._early[place]
                        loop.call_soon(deliver, [cancelled(number)])
                        break
            elif sequence in self._fetching:
                self._fetching.discard(sequence)
                loop.call_soon(self._give_up, sequence)
            elif self._in_turn:
                self._unwanted.append(sequence)
            else:
                self._batch.remove(sequence)
                loop.call_soon(self._give_up, sequence)
        if self._device is not None:
            self._device.kick(self)

    def _give_up(self, sequence: Queued) -> None:
        number, _, deliver = sequence.tag
        if self._open.pop(number, None) is not None:
            deliver([cancelled(number)])

    def count_tok(self, request: GenRequest) -> int:
        """Tokens of the rendered prompt; an estimate before the start."""
        found = self.prompt_ids([request])
        return len(found[0]) if found and found[0] else estimate_prompt_tok(request)

    def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
        """Token ids per prompt; None before the start."""
        return None if self._texts is None else self._texts.prompts(requests)

    async def close(self) -> None:
        """See ``Engine.close``."""
        if self._closed:
            return
        self._closed = True
        self._start.cancel()
        if self._device is not None:
            self._device.depart(self)
        early, self._early = self._early, []
        for request, deliver in early:
            deliver([cancelled(request.id)])
        for sequence in list(self._open.values()):
            self._give_up(sequence)

    # --- what vLLM's workers have besides

    async def stats(self) -> dict[str, float]:
        """As ``VllmEngine.stats``; also evictions, loads, computed_tok (again after a preemption), transferred_tok and
        busy_s."""
        cache, batch, times = self._cache, self._batch, self.times
        return {
            **self._totals,
            "in_flight": len(self._open),
            "kv_used": 1.0 - cache.free / cache.total,
            "running": batch.running,
            "waiting": batch.waiting + len(self._early) + len(self._fetching),
            "transferred_tok": self._link.blocks * self.size.block_tok,
            "preemptions": batch.preemptions,
            "computed_tok": batch.prefilled_tok,
            "evictions": cache.evictions,
            "loads": len(times.loads),
            "busy_s": sum(end - begin for begin, end in times.busy),
        }

    async def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        return self._cache.reset()

    async def sleep(self) -> None:
        """Leave the device. EngineError while requests are in flight."""
        await self.start()
        assert self._device is not None
        await self._device.vacate(self)

    @property
    def can_sleep(self) -> bool:
        """Whether it can leave its device without ending."""
        return bool(self._options["sleep_mode"])

    async def wake(self) -> None:
        """Undo ``sleep``; a request does so, too."""
        await self.start()
        assert self._device is not None
        await self._device.reside(self)

    def transfer_s(self, tok: int) -> float:
        """Seconds that KV blocks of so many tokens take over the link."""
        rate = self.profile.link_bytes_per_s.get(self._options["link"], 0.0)
        return tok * self.profile.kv_tok_bytes / rate if rate else 0.0

    def _queue(self, sequence: Queued) -> None:
        """To the batch, at once or when the blocks that another worker has are there."""
        assert self._device is not None, "started"
        if self._options["kv_sharing"] == LINK:
            loop = asyncio.get_running_loop()
            keys = sequence.keys[: (sequence.prompt_tok - 1) // self.size.block_tok]
            at_s, sequence.moved = self._link.fetch(keys, self._others(), loop.time())
            if at_s > loop.time():
                self._fetching.add(sequence)
                loop.call_at(at_s, self._fetched, sequence)
                return
        self._batch.add(sequence)
        self._device.kick(self)

    def _fetched(self, sequence: Queued) -> None:
        self._link.arrived(asyncio.get_running_loop().time())
        if sequence in self._fetching and self._device is not None:
            self._fetching.discard(sequence)
            self._batch.add(sequence)
            self._device.kick(self)

    def _others(self) -> list[BlockCache]:
        """The caches of the model's other workers."""
        tenants = [tenant for device in devices_of(asyncio.get_running_loop()) for tenant in device.tenants()]
        return [
            tenant._cache
            for tenant in tenants
            if isinstance(tenant, EmulatedEngine) and tenant is not self and tenant.name.lower() == self.name.lower()
        ]

    # --- on the device (``emulated_device.Tenant``)

    def has_work(self) -> bool:
        """Whether requests wait or run."""
        return bool(self._batch.waiting or self._batch.running)

    def plan(self, alone: bool) -> Turn | None:
        """The next turn."""
        turn = self._batch.plan(alone)
        self._in_turn = turn is not None
        return turn

    def seconds(self, turn: Turn, steps: int) -> float:
        """Prompts ÷ rate + requests + steps · (step + sequences · each) + tokens read, as ``Speed.seconds``."""
        profile, sequences = self.profile, turn.sequences
        read_tok = steps * turn.read_tok + sequences * (steps * (steps - 1) // 2)
        return (
            turn.prefill_tok / profile.prefill_tok_per_s
            + turn.admitted * profile.request_s
            + steps * (profile.decode_step_s + sequences * profile.decode_seq_s)
            + read_tok * profile.kv_read_s
        )

    def finish(self, turn: Turn) -> list[Queued]:
        """The requests that are answered; those that were aborted leave."""
        ended = self._batch.finish(turn)
        self._in_turn = False
        unwanted, self._unwanted = self._unwanted, []
        loop = asyncio.get_running_loop()
        for sequence in unwanted:
            if sequence not in ended:
                self._batch.remove(sequence)
                loop.call_soon(self._give_up, sequence)
        return ended

    def answered(self, sequences: list[Queued]) -> None:
        """Deliver, grouped by who asked."""
        groups, totals = dict[Deliver, list[GenResult]](), self._totals
        for sequence in sequences:
            number, text, deliver = sequence.tag
            if self._open.pop(number, None) is None:
                continue
            prompt_tok, cached_tok, output_tok = sequence.prompt_tok, sequence.cached_tok, sequence.output_tok
            totals["requests"] += 1
            totals["prompt_tok"] += prompt_tok
            totals["prompt_tok_cached"] += cached_tok
            totals["output_tok"] += output_tok
            moved_tok = min(cached_tok, sequence.moved * self.size.block_tok)
            result = GenResult(number, text, "stop", prompt_tok, cached_tok, output_tok, prompt_tok_moved=moved_tok)
            groups.setdefault(deliver, []).append(result)
        for deliver, results in groups.items():
            deliver(results)

    def load_s(self, state: str) -> float:
        """Seconds to become resident."""
        first, self._was_loaded = not self._was_loaded, True
        if first:
            return 0.0 if self._options["preloaded"] else self.profile.start_s + self.profile.loading_s()
        return self.profile.waking_s() if state == ASLEEP else self.profile.loading_s()

    def moves(self) -> tuple[float, float, float, float]:
        """Seconds of its first start, of coming back, of leaving; bytes per second of blocks from other workers."""
        profile, sleeps = self.profile, self._options["sleep_mode"]
        shares = self._options["kv_sharing"] == LINK
        return (
            0.0 if self._options["preloaded"] else profile.start_s + profile.loading_s(),
            profile.waking_s() if sleeps else profile.loading_s(),
            self.leave_s(),
            profile.link_bytes_per_s.get(self._options["link"], 0.0) if shares else 0.0,
        )

    def leave_s(self) -> float:
        """Seconds until its memory is free: asleep the weights go to host memory, else they are dropped."""
        return self.profile.waking_s() if self._options["sleep_mode"] else 0.0

    def left(self) -> str:
        """The KV cache is gone."""
        self._cache.reset()
        return ASLEEP if self._options["sleep_mode"] else ABSENT
