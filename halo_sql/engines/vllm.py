"""The vLLM engine: chats rendered here, answered by a worker process, matched by number.

The worker (``vllm_worker``) is a child process, so this process never imports vllm or torch, a crash of vLLM costs
nothing but a restart, and a plain script needs no ``__main__`` guard.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halo_sql.engines import bundled, frames
from halo_sql.engines.kinds import GENERATE, admitted
from halo_sql.engines.model_dir import fingerprint
from halo_sql.engines.protocol import (
    Deliver,
    EngineInfo,
    Gauges,
    GenRequest,
    GenResult,
    estimate_prompt_tok,
    failure,
)
from halo_sql.engines.shares import ALONE, Share
from halo_sql.engines.vllm_gauges import read_gauges
from halo_sql.engines.vllm_model import VllmModel
from halo_sql.engines.vllm_options import (
    VLLM_OPTIONS,
    check_options,
    cpu_build,
    engine_arguments,
    not_installed,
    one_place,
    worker_environment,
)
from halo_sql.engines.vllm_process import WorkerProcess
from halo_sql.engines.vllm_requests import fitted, kept_tok, worker_params
from halo_sql.errors import EngineError

__all__ = ["VLLM_OPTIONS", "VllmEngine", "check_options", "one_place"]

_BATCH_REQUESTS = 256
_MAX_RESTARTS = 2
_PARENT_MODULES = ("tokenizers", "jinja2", "msgpack")


@dataclass(slots=True)
class _Pending:
    """A request that is not delivered yet.

    sent      the worker has it
    attempts  how often it was sent
    """

    request: GenRequest
    deliver: Deliver
    sent: bool = False
    attempts: int = 0


class VllmEngine:
    """One model on vLLM in a worker process (``engines.protocol.Engine``).

    source    hub id, model folder or ``bundled:name``
    options   WITH (…) options, see VLLM_OPTIONS
    python    interpreter that has vLLM; default this one
    progress  gets a line per step when a bundled model is fetched
    share     its part of the machine, as one of several workers
    on_lost   set: called when the worker has died and its requests have failed; it is not started again by itself
    Raises CatalogError for a wrong option.
    """

    def __init__(
        self,
        source: str,
        options: Mapping[str, object] | None = None,
        *,
        python: str = sys.executable,
        progress: bundled.Progress = bundled.to_stderr,
        share: Share = ALONE,
    ) -> None:
        self.source = source
        self.restarts = 0
        self.on_lost: Callable[[EngineError], None] | None = None
        self._share = share
        self._options = check_options(options or {})
        self._model = VllmModel(source, self._options, progress)
        self._python = python
        self._starting: asyncio.Task[EngineInfo] | None = None
        self._worker: WorkerProcess | None = None
        self._pending: dict[int, _Pending] = {}
        self._queue: deque[int] = deque()
        self._by_id: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._pump_task: asyncio.Task[None] | None = None
        self._closed = False
        self._told: dict[str, float] | None = None
        self._gauges: Gauges | None = None
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="halo-encode")

    @property
    def can_sleep(self) -> bool:
        """Whether it can leave its device without ending: on a GPU, with the option ``sleep_mode``."""
        info = self._model.info
        return bool(self._options["sleep_mode"]) and info is not None and info.device != "cpu"

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id (and its process group's); None while none runs."""
        return self._worker.pid if self._worker is not None else None

    async def start(self) -> EngineInfo:
        """Fetch the model if needed, start the worker, load the model; see ``Engine.start``."""
        if self._closed:
            raise EngineError(f"The engine of {self.source} is closed", code="unavailable")
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add_done_callback(self._started)
        # Shielded: the start goes on for the other callers, and for the next query, when this one is cancelled.
        return await asyncio.shield(self._starting)

    def _started(self, task: asyncio.Task[EngineInfo]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._starting = None  # the next caller tries again

    async def _start(self) -> EngineInfo:
        for module in (*_PARENT_MODULES, *(("vllm",) if self._python == sys.executable else ())):
            if importlib.util.find_spec(module) is None:
                raise not_installed(module)
        model = self._model
        folder = await asyncio.to_thread(model.folder)
        cpu = await asyncio.to_thread(cpu_build)
        environment = worker_environment(self._options, cpu, folder is not None, share=self._share)
        arguments = engine_arguments(
            str(folder) if folder else self.source, self._options, cpu, model.kind, self._share
        )
        spawning = asyncio.ensure_future(
            WorkerProcess.spawn(
                self._python,
                environment,
                {"args": arguments, "hub": folder is None},
                self._on_results,
                self._on_lost,
            )
        )
        try:
            weights = ""
            if folder is not None:
                await asyncio.to_thread(model.load_tokenizer, folder)
                weights = await asyncio.to_thread(fingerprint, folder)
            worker = await spawning
        except BaseException:
            spawning.cancel()
            with suppress(BaseException):
                await (await spawning).close()
            raise
        try:
            if folder is None:
                await asyncio.to_thread(model.load_tokenizer, Path(worker.ready["tokenizer_dir"]))
            info = model.describe(worker.ready, weights)
            if worker.lost:
                raise EngineError(f"the vLLM worker died: {worker.trouble()}", code="unavailable")
        except BaseException:
            await worker.close()
            raise
        self._worker = worker
        if weights:
            await model.remember(weights)
        return info

    async def describe(self) -> EngineInfo | None:
        """What a worker with the same model, options and build said the last time it ran; see ``Engine.describe``."""
        return self._model.info or await asyncio.to_thread(self._model.recall)

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """See ``Engine.submit``. Prompts that cannot fit the context are refused one by one, before sending."""
        if self._closed:
            deliver([failure(request.id, "the engine is closed", "unavailable") for request in requests])
            return
        for request in admitted(self._model.kind, f"the model {self.source}", requests, deliver):
            number = next(self._numbers)
            assert request.id not in self._by_id, f"request {request.id} is in flight already"
            self._by_id[request.id] = number
            self._pending[number] = _Pending(request, deliver)
            self._queue.append(number)
        self._wake_pump()

    def _wake_pump(self) -> None:
        if self._queue and (self._pump_task is None or self._pump_task.done()):
            self._pump_task = asyncio.get_running_loop().create_task(self._pump())
            self._pump_task.add_done_callback(self._pumped)

    def _pumped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:  # no request may wait for ever
            self._fail_all(EngineError(f"rendering the prompts failed: {error!r}", code="engine"))

    async def _pump(self) -> None:
        """Render and send what is queued, in order, a batch at a time."""
        loop = asyncio.get_running_loop()
        while self._queue:
            numbers: list[int] = []
            try:
                info = await self.start()
                worker, tokenizer = self._worker, self._model.tokenizer
                if worker is None or tokenizer is None:
                    continue  # it died in this moment: start again
                while self._queue and len(numbers) < _BATCH_REQUESTS:
                    number = self._queue.popleft()
                    if number in self._pending:  # else aborted meanwhile
                        numbers.append(number)
                requests = [self._pending[number].request for number in numbers]
                prompts = await loop.run_in_executor(self._encoder, tokenizer.render_batch, requests)
            except EngineError as error:
                self._fail_all(error, fatal=True)  # it cannot be started
                return
            if worker is not self._worker:  # it died while we rendered: these go to its successor, first
                self._queue.extendleft(reversed(numbers))
                continue
            self._send(worker, info, dict(zip(numbers, prompts, strict=True)))
            await worker.drain()

    def _send(self, worker: WorkerProcess, info: EngineInfo, prompts: Mapping[int, list[int]]) -> None:
        params: dict[Any, int] = {}
        items: list[list[Any]] = []
        refused: list[tuple[int, GenResult]] = []
        for number, prompt in prompts.items():
            pending = self._pending.get(number)
            if pending is None:
                continue
            request = pending.request
            outcome = fitted(request, prompt, info.context_tok, self._model)
            if isinstance(outcome, GenResult):
                refused.append((number, outcome))
                continue
            pending.sent = True
            pending.attempts += 1
            index = params.setdefault((request.sampling, request.answer), len(params))
            keep_tok, fetch = 0, False
            if self._share.storage is not None and self._model.kind == GENERATE:
                keep_tok, fetch = kept_tok(request, len(outcome)), request.fetch
            items.append([number, index, request.priority, frames.pack_tokens(outcome), keep_tok, fetch])
        if items:
            specs = [worker_params(sampling, answer, self._model) for sampling, answer in params]
            worker.send({"op": "generate", "params": specs, "items": items})
        self._deliver(refused)

    def _on_results(self, items: list[list[Any]]) -> None:
        results: list[tuple[int, GenResult]] = []
        for number, text, finish, prompt_tok, cached_tok, output_tok, code, message, moved_tok in items:
            pending = self._pending.get(number)
            if pending is None:
                continue
            error = EngineError(message, code=code, retryable=code == "engine") if code else None
            retries = pending.attempts - 1
            result = GenResult(
                pending.request.id,
                text,
                finish,
                prompt_tok,
                cached_tok,
                output_tok,
                max(0, retries),
                error,
                prompt_tok_moved=moved_tok,
            )
            results.append((number, result))
        self._deliver(results)

    def _deliver(self, results: Sequence[tuple[int, GenResult]]) -> None:
        """Hand results over, grouped by who asked; each request leaves the books first, so it is delivered once."""
        groups: dict[Deliver, list[GenResult]] = {}
        for number, result in results:
            pending = self._pending.pop(number, None)
            if pending is not None:
                self._by_id.pop(pending.request.id, None)
                groups.setdefault(pending.deliver, []).append(result)
        for deliver, group in groups.items():
            try:
                deliver(group)
            except Exception as error:  # one caller's mistake must not stop the others' results
                context = {"message": "a result could not be delivered", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def _fail_all(self, error: EngineError, fatal: bool = False) -> None:
        self._queue.clear()
        results = []
        for number, pending in self._pending.items():
            own = EngineError(error.message, code=error.code, fatal=fatal, remedy=error.remedy)
            retries = max(0, pending.attempts - 1)
            results.append((number, GenResult(pending.request.id, finish="error", retries=retries, error=own)))
        self._deliver(results)

    def _on_lost(self) -> None:
        """The worker died. Start another one and send again what is unfinished, a limited number of times."""
        worker, self._worker, self._starting = self._worker, None, None
        if worker is None or self._closed:
            return
        if self.on_lost is not None:
            error = EngineError(f"the vLLM worker died: {worker.trouble()}", code="unavailable")
            self._fail_all(error)
            self.on_lost(error)
            return
        if self.restarts >= _MAX_RESTARTS:
            remedy = f"It was restarted {self.restarts} times; the log is in {worker.log}."
            error = EngineError(f"the vLLM worker died: {worker.trouble()}", code="unavailable", remedy=remedy)
            self.restarts = 0  # a later query may try again
            self._fail_all(error)
            return
        self.restarts += 1
        again = [number for number, pending in self._pending.items() if pending.sent]
        for number in again:
            self._pending[number].sent = False
        self._queue.extendleft(reversed(again))
        self._wake_pump()

    def abort(self, ids: Sequence[int]) -> None:
        """See ``Engine.abort``."""
        sent: list[int] = []
        unsent: list[tuple[int, GenResult]] = []
        for request_id in ids:
            number = self._by_id.get(request_id)
            if number is None:
                continue
            if self._pending[number].sent:
                sent.append(number)
            else:
                unsent.append((number, failure(request_id, "the request was aborted", "cancelled")))
        if sent and self._worker is not None:
            self._worker.send({"op": "abort", "seqs": sent})
        self._deliver(unsent)

    def count_tok(self, request: GenRequest) -> int:
        """Tokens of the rendered prompt; an estimate before the first start."""
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            return estimate_prompt_tok(request)
        return tokenizer.count(request)

    def prompt_ids(self, requests: Sequence[GenRequest]) -> list[list[int]] | None:
        """Token ids per prompt; None before the tokenizer is loaded."""
        tokenizer = self._model.tokenizer
        return None if tokenizer is None else tokenizer.render_batch(requests)

    def gauges(self) -> Gauges | None:
        """How the scheduler stood when the worker last told; None: it has not."""
        told = self._worker.gauges if self._worker is not None else None
        if told is not self._told:
            self._told, before = told, self._told or {}
            self._gauges = None if told is None else read_gauges(told, before)
        return self._gauges

    async def stats(self) -> dict[str, float]:
        """Counters of the worker: requests, prompt_tok, prompt_tok_cached, output_tok, in_flight, kv_used, …"""
        found: dict[str, float] = await self._call("stats")
        return found

    async def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        return bool(await self._call("reset_prefix_cache"))

    async def sleep(self) -> None:
        """Move the weights to host memory and drop the KV cache (GPU, option sleep_mode)."""
        await self._call("sleep")

    async def wake(self) -> None:
        """Undo ``sleep``."""
        await self._call("wake")

    async def _call(self, name: str) -> Any:
        await self.start()
        assert self._worker is not None
        return await self._worker.call(name)

    async def close(self) -> None:
        """See ``Engine.close``."""
        if self._closed:
            return
        self._closed = True
        for task in (self._pump_task, self._starting):
            if task is not None and not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, EngineError):
                    await task
        self._fail_all(EngineError("the engine was closed", code="cancelled"))
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()
        self._encoder.shutdown(wait=False, cancel_futures=True)
