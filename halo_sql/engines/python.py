"""The python engine: a callable of the user's; messages in, text out, or texts in, vectors out."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import types
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from halo_sql.engines.batches import BatchQueue, halved
from halo_sql.engines.kinds import DIMENSIONS, EMBEDDING, GENERATE, KIND, admitted
from halo_sql.engines.options import Option, resolve
from halo_sql.engines.protocol import (
    Deliver,
    EngineInfo,
    GenRequest,
    GenResult,
    estimate_prompt_tok,
    estimate_tok,
    failure,
    turns_of,
)
from halo_sql.engines.scores import read_score
from halo_sql.engines.shares import WORKERS
from halo_sql.engines.tasks import Shared, TaskQueue
from halo_sql.engines.vectors import encode_vector
from halo_sql.errors import EngineError

OPTIONS: tuple[Option, ...] = (
    Option("concurrency", "integer", 16, "Calls at once", 1, 1024),
    Option("timeout_s", "number", 120.0, "Deadline of a call", 0.01, 86_400),
    Option("storable", "boolean", None, "Whether answers may enter the response store"),
    KIND,
    DIMENSIONS,
    WORKERS,
    Option("batch_size", "integer", 64, "Texts per call of an embedding function", 1, 65_536),
)
Messages = list[dict[str, str]]
Function = Callable[[Any], "str | Awaitable[str] | Sequence[Sequence[float]] | Awaitable[Sequence[Sequence[float]]]"]


class PythonEngine:
    """Calls a function with the messages (``[{'role': 'system' | 'user' | 'assistant', 'content': text}]``), takes its
    text, or the dict of a JSON answer. Asked for a score, it reads a number in 0 … 1, true or false (yes, no) from the
    text; a step of an agent is ``{"calls": …}`` or ``{"answer": …}``, as in ``Answer``.

    With ``kind = 'embedding'`` it is called with a list of at most ``batch_size`` texts and gives as many vectors: a
    list of lists of numbers, or a NumPy array (the ``encode`` of sentence-transformers fits). When a call for several
    texts raises, they are tried in halves, so that one text at fault does not take the others with it.

    function  a callable, or 'module:function' (imported at the start); a sync one runs in ``concurrency`` threads
    options   those of ``OPTIONS``; answers may be stored unless the function is a closure, a method or an object
              (what those depend on may change unseen)

    An exception becomes that request's error (code 'engine'), another type than str one of code 'invalid_output'.
    A sync call that was aborted or ran past its deadline cannot be stopped: its thread ends when the function does.
    """

    def __init__(self, function: str | Function, options: Mapping[str, object]) -> None:
        values = resolve("python", options, OPTIONS)
        self._source = function
        self._function: Function | None = None
        self._timeout_s: float = values["timeout_s"]
        self._concurrency: int = values["concurrency"]
        self._storable: bool | None = values["storable"]
        self._name = function if isinstance(function, str) else function_name(function)
        self._threads: ThreadPoolExecutor | None = None
        self._kind: str = values["kind"] or GENERATE
        self._dimensions: int | None = values["dimensions"]
        self._queue: TaskQueue | BatchQueue = TaskQueue(self._run, self._concurrency)
        if self._kind == EMBEDDING:
            self._queue = BatchQueue(self._embed, self._concurrency, values["batch_size"])
        self._window = self._concurrency * (values["batch_size"] if self._kind == EMBEDDING else 1)
        self._start = Shared(self._load)

    async def start(self) -> EngineInfo:
        """Import the function; EngineError('unavailable') names what is missing."""
        return await self._start.get()

    async def _load(self) -> EngineInfo:
        function = await asyncio.to_thread(load, self._source) if isinstance(self._source, str) else self._source
        self._function = function
        if not _is_async(function):
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="halo-python")
        plain = isinstance(function, types.FunctionType) and function.__closure__ is None
        vectors = f"|{EMBEDDING}|{self._dimensions or ''}" if self._kind == EMBEDDING else ""
        return EngineInfo(
            f"python|{self._name}|{code_digest(function)}{vectors}",
            window_tok=1_000_000,
            window_requests=self._window,
            storable=plain if self._storable is None else self._storable,
            device="cpu",
        )

    async def describe(self) -> EngineInfo | None:
        """See ``Engine.describe``: a start costs nothing."""
        return await self.start()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """Call at most ``concurrency`` at once, the rest waits here."""
        self._queue.submit(admitted(self._kind, f"the function {self._name}", requests, deliver), deliver)

    def abort(self, ids: Sequence[int]) -> None:
        """Cancel these calls."""
        self._queue.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        """Characters / 4."""
        return estimate_prompt_tok(request)

    async def close(self) -> None:
        """Cancel what is in flight; threads end with the calls they run."""
        self._start.cancel()
        await self._queue.close()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, request: GenRequest) -> GenResult:
        answer = await self._outcome(messages_of(request))
        if isinstance(answer, EngineError):
            return GenResult(request.id, finish="error", error=answer)
        text = read_answer(self._name, request, answer)
        if isinstance(text, GenResult):
            return text
        return GenResult(request.id, text, "stop", self.count_tok(request), 0, estimate_tok(text))

    async def _embed(self, requests: Sequence[GenRequest]) -> list[GenResult]:
        answer = await self._outcome([request.user for request in requests])
        if isinstance(answer, EngineError):
            if answer.code == "engine" and len(requests) > 1:
                return await halved(requests, self._embed)
            return [GenResult(request.id, finish="error", error=answer) for request in requests]
        found = _rows(answer)
        if found is None or len(found) != len(requests):
            given = f"{type(answer).__name__}" if found is None else f"{len(found)} vectors for {len(requests)} texts"
            message = f"{self._name} returned {given}, not a list with a vector for each text"
            return [failure(request.id, message, "invalid_output") for request in requests]
        return [self._vector(request, row) for request, row in zip(requests, found, strict=True)]

    def _vector(self, request: GenRequest, row: object) -> GenResult:
        values = _rows(row)
        if values is None:
            message = f"{self._name} returned {type(row).__name__} for a text, not a list of numbers"
            return failure(request.id, message, "invalid_output")
        if self._dimensions not in (None, len(values)):
            message = f"{self._name} returned {len(values)} numbers, not dimensions = {self._dimensions}"
            return failure(request.id, message, "invalid_output")
        try:
            text = encode_vector(values)
        except (ValueError, TypeError, OverflowError) as problem:
            message = f"{self._name} returned no vector of finite numbers ({problem})"
            return failure(request.id, message, "invalid_output")
        return GenResult(request.id, text, "stop", self.count_tok(request))

    async def _outcome(self, argument: Messages | list[str]) -> object:
        """What the function returns, or the EngineError that became of it."""
        assert self._function is not None, "started"
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._call(argument)
        except Exception as problem:
            if isinstance(problem, TimeoutError) and deadline.expired():
                message = f"{self._name} took longer than timeout_s = {self._timeout_s:g}"
                return EngineError(message, code="timeout", retryable=True)
            return EngineError(f"{self._name} raised {type(problem).__name__}: {problem}", code="engine")

    async def _call(self, argument: Messages | list[str]) -> object:
        function = self._function
        assert function is not None, "started"
        if self._threads is None:
            answer: object = function(argument)
        else:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, _shielded, function, argument)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer


def messages_of(request: GenRequest) -> Messages:
    """What a function is called with."""
    messages = [
        {"role": "assistant" if number % 2 else "user", "content": turn}
        for number, turn in enumerate(turns_of(request.user))
    ]
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    return messages


def read_answer(name: str, request: GenRequest, answer: object) -> str | GenResult:
    """The text of what a function returned, or the failure of one that is none."""
    if isinstance(answer, dict) and request.answer.kind in ("json", "step"):
        try:
            answer = json.dumps(answer, ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError) as problem:
            return failure(request.id, f"{name} returned a dict that is no JSON ({problem})", "invalid_output")
    if not isinstance(answer, str):
        return failure(request.id, f"{name} returned {type(answer).__name__}, not str", "invalid_output")
    if request.answer.kind != "score":
        return answer
    found = read_score(answer)
    if found is None:
        shown = answer if len(answer) <= 80 else answer[:77] + "..."
        message = f"{name} returned {shown!r}, which is no number in 0 … 1, true or false"
        return failure(request.id, message, "invalid_output")
    return found


def _rows(value: Any) -> list[Any] | None:
    """A list of what a list, tuple or array holds; None for anything else (a text is no list)."""
    to_list = getattr(value, "tolist", None)
    found = to_list() if callable(to_list) else value
    return list(found) if isinstance(found, list | tuple | array) else None


def _shielded(function: Function, argument: Messages | list[str]) -> object:
    try:
        return function(argument)
    except Exception:
        raise
    except BaseException as problem:  # sys.exit() in a thread must not end the loop that waits for it
        raise RuntimeError(f"{type(problem).__name__}: {problem}") from None


def load(source: str) -> Function:
    """The function that 'module:function' names; EngineError('unavailable') says what is missing."""
    module_name, _, path = source.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as problem:  # importing runs the user's code: it may raise anything
        raise EngineError(
            f"cannot load {source!r}: {type(problem).__name__}: {problem}",
            code="unavailable",
            remedy="USING python takes 'module:function' of a module that Python can import here.",
        ) from None
    if not callable(found):
        raise EngineError(
            f"{source!r} is {type(found).__name__}, not a function",
            code="unavailable",
            remedy="It takes a list of messages and returns a text, or a list of texts and returns their vectors.",
        )
    function: Function = found
    return function


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def function_name(function: object) -> str:
    """'module:function' of a callable, for messages."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}:{name}"


def code_digest(function: object) -> str:
    """A digest of what the function's own code says, so that an edited function has new answers."""
    digest = hashlib.sha256()
    pending = [getattr(function, "__code__", None)]
    while pending:
        code = pending.pop()
        if code is None:
            continue
        inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        plain = [constant for constant in code.co_consts if not isinstance(constant, types.CodeType | frozenset)]
        digest.update(repr((code.co_code, plain, code.co_names)).encode("utf-8", "backslashreplace"))
        pending += inner
    return digest.hexdigest()[:16]
