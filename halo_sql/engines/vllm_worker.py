"""The child process that holds one vLLM engine: ``python -m halo_sql.engines.vllm_worker --socket PATH``.

It connects to the socket, reads the ``start`` frame, loads the model, says ``ready`` and then answers frames (see
``frames``). It ends when the socket closes, however its parent died and whatever it is doing then: a watchdog thread
waits for the hang-up and kills the process group, which holds vLLM's own children too. So there are no orphans.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import select
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from halo_sql.engines.process_group import end_group
from halo_sql.engines.vllm_gauges import scheduler_gauges

#: Exit status when vLLM (or what the worker needs beside it) is not installed.
EXIT_NOT_INSTALLED = 77
_NEEDED = ("msgpack", "vllm")
_GRACE_S = 2.0
#: How the names of KV connectors begin, and the packages of which they need one.
_CONNECTORS = {"Nixl": ("nixl", "nixl_cu12", "nixl_cu13"), "LMCache": ("lmcache",), "Mooncake": ("mooncake",)}
#: Finished requests are collected this long before they are sent as one frame.
_FLUSH_S = 0.001
#: The scheduler's gauges go with results at most so often.
_GAUGES_S = 0.25


class Worker:
    """One engine and the socket it answers on; lives on one asyncio loop."""

    def __init__(self, llm: Any, writer: asyncio.StreamWriter) -> None:
        self._llm = llm
        self._writer = writer
        self._running: dict[int, asyncio.Task[None]] = {}
        self._aborted: set[int] = set()
        self._finished: list[list[Any]] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._gauges_due_s = 0.0
        self._telling: asyncio.Task[None] | None = None
        self._totals = {"requests": 0, "prompt_tok": 0, "prompt_tok_cached": 0, "output_tok": 0}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer frames until ``shutdown`` or the end of the stream."""
        from halo_sql.engines import frames

        while (frame := await frames.read(reader)) is not None:
            match frame["op"]:
                case "generate":
                    self._generate(frame)
                case "abort":
                    for seq in frame["seqs"]:
                        if seq in self._running:
                            self._aborted.add(seq)
                            self._running[seq].cancel()
                case "call":
                    task = asyncio.ensure_future(self._call(frame["call"], frame["name"]))
                    self._calls.add(task)
                    task.add_done_callback(self._calls.discard)
                case "shutdown":
                    return

    def _generate(self, frame: dict[str, Any]) -> None:
        params: list[Any] = []
        for spec in frame["params"]:
            try:
                params.append(pooling_params(spec) if "embed" in spec else sampling_params(spec))
            except Exception as error:  # vLLM refuses the options in many types of its own
                params.append(error)
        for seq, index, priority, tokens, keep_tok, fetch in frame["items"]:
            if isinstance(params[index], Exception):
                self._emit([seq, "", "error", 0, 0, 0, "rejected", _short(params[index]), 0])
                continue
            own = params[index].clone()  # vLLM completes the object it is given
            if keep_tok or fetch:
                own.extra_args = {"kv_transfer_params": {"keep_tok": keep_tok, "fetch": fetch}}
            task = asyncio.ensure_future(self._one(seq, frame["params"][index], own, priority, tokens))
            self._running[seq] = task
        if self._running and (self._telling is None or self._telling.done()):
            self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        """The scheduler's gauges, also while no request ends."""
        while self._running:
            await asyncio.sleep(_GAUGES_S)
            if not self._finished:  # else they go with these
                self._flush()

    async def _one(self, seq: int, spec: dict[str, Any], params: Any, priority: int, tokens: bytes) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        from halo_sql.engines import frames

        prompt = {"prompt_token_ids": frames.unpack_tokens(tokens)}
        try:
            last = None
            ask = self._llm.encode if "embed" in spec else self._llm.generate
            async for output in ask(prompt, params, str(seq), priority=priority):
                last = output
            assert last is not None, "vLLM ended a request without an output"
            self._emit(self._vector(seq, last) if "embed" in spec else self._result(seq, last, spec))
        except asyncio.CancelledError:
            if seq not in self._aborted:
                raise
            self._emit([seq, "", "error", 0, 0, 0, "cancelled", "the request was aborted", 0])
        except EngineDeadError:
            # The parent sees the end of the stream, starts a new worker and sends again what is unfinished.
            _die(f"engine core died: {self._llm.errored}")
        except Exception as error:  # one request's failure is that request's result
            if self._llm.errored:
                _die(f"engine core died: {_short(error)}")
            self._emit([seq, "", "error", 0, 0, 0, _code(error), _short(error), 0])
        finally:
            self._aborted.discard(seq)
            self._running.pop(seq, None)

    def _count(self, output: Any, output_tok: int) -> tuple[int, int]:
        """Prompt tokens of a finished request, and how many of them were cached; adds to the totals."""
        prompt_tok, cached_tok = len(output.prompt_token_ids), max(0, output.num_cached_tokens or 0)
        totals = self._totals
        totals["requests"] += 1
        totals["prompt_tok"] += prompt_tok
        totals["prompt_tok_cached"] += cached_tok
        totals["output_tok"] += output_tok
        return prompt_tok, cached_tok

    def _vector(self, seq: int, output: Any) -> list[Any]:
        from halo_sql.engines.vectors import encode_vector

        prompt_tok, cached_tok = self._count(output, 0)
        try:
            text = encode_vector(output.outputs.data.tolist())
        except (ValueError, TypeError) as problem:
            return [seq, "", "error", prompt_tok, cached_tok, 0, "engine", f"vLLM gave no vector: {problem}", 0]
        return [seq, text, "stop", prompt_tok, cached_tok, 0, None, "", 0]

    def _result(self, seq: int, output: Any, spec: dict[str, Any]) -> list[Any]:
        """What was asked for by ``spec``: a text, a score, a choice by its first token."""
        from halo_sql.engines.scores import score

        completion = output.outputs[0]
        output_tok = len(completion.token_ids)
        prompt_tok, cached_tok = self._count(output, output_tok)
        moved_tok = int((output.kv_transfer_params or {}).get("moved_tok", 0))
        finish = completion.finish_reason or "stop"
        if finish not in ("stop", "length"):
            message = f"vLLM ended the request with {finish!r}"
            return [seq, "", "error", prompt_tok, cached_tok, output_tok, "engine", message, moved_tok]
        if spec.get("first"):
            text = spec["choice"][dict(spec["first"])[completion.token_ids[0]]]
            return [seq, text, "stop", prompt_tok, cached_tok, output_tok, None, "", moved_tok]
        if spec.get("score"):
            logs = completion.logprobs[0]
            yes, no = ([logs[token].logprob for token in ids if token in logs] for ids in spec["score"])
            found = score(yes, no)
            if found is None:
                message = "vLLM gave no log-probability of yes or no"
                return [seq, "", "error", prompt_tok, cached_tok, output_tok, "engine", message, moved_tok]
            return [seq, found, "stop", prompt_tok, cached_tok, output_tok, None, "", moved_tok]
        return [seq, completion.text, finish, prompt_tok, cached_tok, output_tok, None, "", moved_tok]

    def _emit(self, item: list[Any]) -> None:
        if not self._finished:
            asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)
        self._finished.append(item)

    def _flush(self) -> None:
        items, self._finished = self._finished, []
        frame: dict[str, Any] = {"op": "results", "items": items}
        now_s = time.monotonic()
        if now_s >= self._gauges_due_s:
            self._gauges_due_s = now_s + _GAUGES_S
            frame["gauges"] = scheduler_gauges()
        if len(frame) > 2 or items:
            self._send(frame)

    def _send(self, frame: dict[str, Any]) -> None:
        from halo_sql.engines import frames

        if not self._writer.is_closing():
            self._writer.write(frames.pack(frame))

    async def _call(self, number: int, name: str) -> None:
        value: Any = None
        error: str | None = None
        try:
            match name:
                case "stats":
                    value = self._totals | {"in_flight": len(self._running)} | scheduler_gauges()
                case "reset_prefix_cache":
                    value = bool(await self._llm.reset_prefix_cache())
                case "sleep":
                    await self._llm.sleep(1)
                case "wake":
                    await self._llm.wake_up()
                case _:
                    error = f"unknown call {name!r}"
        except Exception as problem:  # reported to whoever called
            error = _short(problem)
        self._send({"op": "reply", "call": number, "value": value, "error": error})


def sampling_params(spec: dict[str, Any]) -> Any:
    """vLLM's SamplingParams of one sampling map (see ``frames``)."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    if spec.get("score"):
        yes, no = spec["score"]
        return SamplingParams(
            temperature=0.0, max_tokens=1, logprob_token_ids=[*yes, *no], output_kind=RequestOutputKind.FINAL_ONLY
        )
    structured = None
    if spec.get("json"):
        structured = StructuredOutputsParams(json=spec["json"])
    elif spec.get("choice") and not spec.get("first"):
        structured = StructuredOutputsParams(choice=list(spec["choice"]))
    return SamplingParams(
        temperature=spec["temperature"],
        top_p=spec["top_p"],
        max_tokens=1 if spec.get("first") else spec["max_tokens"],
        seed=spec.get("seed"),
        stop=list(spec.get("stop") or ()),
        structured_outputs=structured,
        allowed_token_ids=[token for token, _ in spec["first"]] if spec.get("first") else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def pooling_params(spec: dict[str, Any]) -> Any:
    """vLLM's PoolingParams of one map {embed: dimensions or 0}."""
    from vllm import PoolingParams

    return PoolingParams(task="embed", dimensions=spec["embed"] or None)


def load(start: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The engine for a ``start`` frame and its ``ready`` frame. Call on a running loop."""
    import vllm
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    problem = missing_connector(start["args"].get("kv_transfer_config"))
    if problem:
        raise RuntimeError(problem)
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**start["args"]))
    model, cache = llm.vllm_config.model_config, llm.vllm_config.cache_config
    ready = {
        "op": "ready",
        "context_tok": int(model.max_model_len),
        "block_tok": int(cache.block_size),
        "kv_capacity_tok": int((cache.num_gpu_blocks or 0) * cache.block_size),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(llm.vllm_config.device_config.device_type),
        "version": vllm.__version__,
        "max_num_seqs": int(llm.vllm_config.scheduler_config.max_num_seqs),
        "step_tok": int(llm.vllm_config.scheduler_config.max_num_batched_tokens),
        "tokenizer_dir": "",
        "revision": "",
        "kv_tok_bytes": kv_tok_bytes(llm.vllm_config),
        "memory_bytes": memory_bytes(),
    }
    folder = Path(start["args"]["model"])
    if start["hub"]:
        folder = _tokenizer_snapshot(start["args"]["model"], start["args"].get("revision"))
        ready |= {"tokenizer_dir": str(folder), "revision": folder.name}
    ready["weight_bytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return llm, ready


def missing_connector(config: dict[str, Any] | None) -> str:
    """What a KV connector needs and this environment lacks, a sentence; '' when nothing is known to be missing."""
    name = str((config or {}).get("kv_connector") or "")
    for begins, packages in _CONNECTORS.items():
        if name.startswith(begins) and not any(importlib.util.find_spec(package) for package in packages):
            return f"the KV connector {name} needs the package {packages[0]}, which is not installed"
    return ""


def kv_tok_bytes(config: Any) -> int:
    """Bytes of a token's keys and values in all layers; 0 for models that vLLM does not describe like that."""
    model, parallel = config.model_config, config.parallel_config
    try:
        numbers = model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
        each = 1 if "fp8" in str(config.cache_config.cache_dtype) else int(model.dtype.itemsize)
        return 2 * int(numbers) * each
    except Exception:  # the sizes serve estimates only
        return 0


def memory_bytes() -> int:
    """Memory of the device; 0 when vLLM cannot tell."""
    from vllm.platforms import current_platform

    try:
        return int(current_platform.get_device_total_memory())
    except Exception:  # as above
        return 0


def _tokenizer_snapshot(model: str, revision: str | None) -> Path:
    """The folder of the hub's cache with the tokenizer files; its name is the commit."""
    from huggingface_hub import snapshot_download

    patterns = ["tokenizer*.json", "*.jinja", "special_tokens_map.json", "config.json"]
    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


async def run(connection: socket.socket) -> int:
    """Serve one parent on a connected socket; the exit status."""
    from halo_sql.engines import frames

    reader, writer = await asyncio.open_unix_connection(sock=connection)
    start = await frames.read(reader)
    if start is None:
        return 1
    try:
        llm, ready = load(start)
    except Exception as error:  # a bad folder, too little memory, an unsupported model: the parent tells the user
        import traceback

        traceback.print_exc()
        writer.write(frames.pack({"op": "failed", "message": _short(error)}))
        await writer.drain()
        return 1
    writer.write(frames.pack(ready))
    await Worker(llm, writer).serve(reader)
    return 0


def watch(connection: socket.socket, folder: Path) -> None:
    """Wait for the other end to close, leave some time for the answering loop to see it too, then end everything."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    poll.poll()
    time.sleep(_GRACE_S)
    finish(folder)


def finish(folder: Path) -> None:
    """End this process and vLLM's, and remove the folder of their sockets. Does not return."""
    shutil.rmtree(folder, ignore_errors=True)
    end_group(os.getpid())


def _die(reason: str) -> None:
    """End because vLLM is dead; the parent, which removes the folder, starts a new worker."""
    print(f"halo_sql worker: {reason}", file=sys.stderr, flush=True)
    end_group(os.getpid())


def _code(error: Exception) -> str:
    text = str(error).lower()
    if "maximum model length" in text or "max_model_len" in text or "context length" in text:
        return "context"
    from vllm.exceptions import VLLMClientError

    return "rejected" if isinstance(error, ValueError | VLLMClientError) else "engine"


def _short(error: BaseException) -> str:
    cause = error.__cause__ if error.__cause__ is not None and not str(error) else error
    return f"{type(cause).__name__}: {cause}"[:2000]


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="halo_sql.engines.vllm_worker")
    parser.add_argument("--socket", required=True)
    arguments = parser.parse_args()
    if os.getpgrp() != os.getpid():
        os.setsid()  # the group that is killed at the end must be ours alone
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return EXIT_NOT_INSTALLED
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(arguments.socket)
    folder = Path(arguments.socket).parent
    threading.Thread(target=watch, args=(connection.dup(), folder), daemon=True).start()
    status = asyncio.run(run(connection))
    sys.stdout.flush()
    sys.stderr.flush()
    finish(folder)  # vLLM's children too, whatever state they are in
    return status


if __name__ == "__main__":
    raise SystemExit(main())
