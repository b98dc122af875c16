"""One call of a Python function: JSON of arguments in, JSON of the result out; here and in worker processes."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halo_sql.errors import EngineError
from halo_sql.ir.types import SqlType
from halo_sql.tools.hints import resolved_hints
from halo_sql.tools.python_arguments import Shape, WrongArgumentError, bind, read_arguments, shape_of
from halo_sql.tools.python_results import MAX_ITEMS, TooLargeError, WrongResultError, write_json

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_NEVER = (eval, exec, compile, __import__)  # they run the text they are given
_MESSAGE_CHARS = 500


def check_name(body: str) -> None:
    """EngineError('rejected') unless ``body`` is 'module:function' of plain names."""
    words = re.split(r"[.:]", body)
    if _FUNCTION.fullmatch(body) is None or any(word.startswith("__") for word in words):
        raise EngineError(
            f"{body[:80]!r} does not name a Python function that a tool may call",
            code="rejected",
            remedy="Write 'module:function' of a module that Python can import, without names that begin with __; "
            "a function of the program itself is registered with con.create_tool.",
        )
    if body.partition(":")[0] == "builtins" and words[1] in ("eval", "exec", "compile"):
        raise _runs_text(body)


def source_digest(body: str) -> str:
    """A digest of the file that holds 'module:function', found without running it; '' where there is no such file."""
    try:
        spec = importlib.util.find_spec(body.partition(":")[0])
        origin = None if spec is None else spec.origin
        return "" if origin is None else hashlib.sha256(Path(origin).read_bytes()).hexdigest()[:16]
    except Exception:  # a package around it is imported: it may raise anything
        return ""


def load(body: str) -> Callable[..., Any]:
    """The function that 'module:function' names; EngineError 'rejected' or 'unavailable' with the remedy."""
    check_name(body)
    module, _, path = body.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except BaseException as problem:  # importing runs the user's code: it may raise anything, SystemExit too
        raise EngineError(
            f"cannot load {body!r}: {one_line(problem)}",
            code="unavailable",
            remedy="AS PYTHON takes 'module:function' of a module that Python can import here.",
        ) from None
    if not callable(found):
        raise EngineError(f"{body!r} is {type(found).__name__}, not a function", code="unavailable")
    if any(found is never for never in _NEVER):
        raise _runs_text(body)
    return found  # type: ignore[no-any-return]


def _runs_text(body: str) -> EngineError:
    return EngineError(f"{body!r} runs text as code", code="rejected", remedy="Name a function of your own.")


@dataclass(slots=True)
class Callee:
    """A function and the types of the tool that it is.

    max_items  items of its result at most
    """

    tool: str
    function: Callable[..., Any]
    parameters: tuple[tuple[str, SqlType], ...]
    returns: SqlType
    max_items: int = MAX_ITEMS
    is_async: bool = field(init=False)
    _hints: dict[str, Any] = field(init=False)
    _shape: Shape | None = field(init=False)

    def __post_init__(self) -> None:
        self._shape = shape_of(self.function)
        self._hints = resolved_hints(self.function, strict=False)
        self.is_async = any(
            test(found)
            for found in (self.function, getattr(self.function, "__call__", None))  # noqa: B004
            for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        )

    def check(self) -> None:
        """EngineError('unavailable') when the function does not take the tool's arguments."""
        try:
            bind(self._shape, dict.fromkeys((name for name, _ in self.parameters), None))
        except WrongArgumentError as problem:
            raise EngineError(
                f'tool "{self.tool}": {problem}',
                code="unavailable",
                remedy="Give the tool the arguments that the function has.",
            ) from None

    def call(self, arguments: str) -> str | Coroutine[Any, Any, str]:
        """The result as JSON, or a coroutine that gives it. Raises EngineError; never the function's own error."""
        return self._guarded(lambda: self._finish(self._begin(arguments)))

    def _begin(self, arguments: str) -> Any:
        try:
            values = read_arguments(arguments, self.parameters, self._hints)
            positional, named = bind(self._shape, values)
        except WrongArgumentError as problem:
            raise EngineError(f'tool "{self.tool}": {problem}', code="rejected") from None
        return self.function(*positional, **named)

    def _finish(self, result: Any) -> str | Coroutine[Any, Any, str]:
        if inspect.isawaitable(result) or hasattr(result, "__aiter__"):
            return self._awaited(result)
        return self._written(result)

    async def _awaited(self, result: Any) -> str:
        try:
            if inspect.isawaitable(result):
                result = await result
            if hasattr(result, "__aiter__"):
                result = await self._collected(result)
            return self._written(result)
        except (asyncio.CancelledError, GeneratorExit, EngineError):
            raise
        except BaseException as problem:
            raise self._error(problem) from None

    async def _collected(self, items: AsyncIterator[Any]) -> list[Any]:
        found = []
        async for item in items:
            found.append(item)
            if len(found) > self.max_items:
                close = getattr(items, "aclose", None)
                if close is not None:
                    await close()
                raise TooLargeError(f"it has more than {self.max_items} items")
        return found

    def _written(self, result: Any) -> str:
        return write_json(result, self.returns, max_items=self.max_items)

    def _guarded(self, act: Callable[[], str | Coroutine[Any, Any, str]]) -> str | Coroutine[Any, Any, str]:
        try:
            return act()
        except EngineError:
            raise
        except BaseException as problem:  # sys.exit() ends no process of ours
            raise self._error(problem) from None

    def _error(self, problem: BaseException) -> EngineError:
        if isinstance(problem, TooLargeError):
            return EngineError(f'the result of tool "{self.tool}" is too large: {problem}', code="too_large")
        if isinstance(problem, WrongResultError):
            return EngineError(f'tool "{self.tool}" returned a wrong value: {problem}', code="invalid_output")
        later = isinstance(problem, ConnectionError | TimeoutError)
        return EngineError(one_line(problem), code="tool", retryable=later)


def one_line(problem: BaseException) -> str:
    """An exception as 'TypeName: message', one line of at most 500 characters; never a traceback."""
    try:
        said = " ".join(str(problem).split())
    except Exception:  # its __str__ is the user's
        said = ""
    text = f"{type(problem).__name__}: {said}" if said else type(problem).__name__
    return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 3] + "..."
