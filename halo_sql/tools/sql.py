"""A tool that is a developer's query: ``AS SQL $$ SELECT … $argument … $$``, on the user's own connection.

It sees what the user's next statement would see: the open transaction, temporary tables. It leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from halo_sql.duck import Duck
from halo_sql.errors import EngineError, Error, InterruptedQueryError
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sql_join import QueryTexts, joinable, joins
from halo_sql.tools.sql_values import bound, finite_json
from halo_sql.virtual_time import is_virtual

T = TypeVar("T")
OnConnection = Callable[[Callable[[Duck], T]], Awaitable[T]]
Outcome = str | EngineError
Texts = list[str | None]  # of the arguments of a call
BATCH = 1024  # calls of one join
_FETCH = 2048


class SqlRunner:
    """Runs calls of a query with bound arguments; many calls at once are one join.

    tool           the tool; its query has been checked
    on_connection  runs ``fn(duck)`` on the connection's own thread and gives its result; what it interrupts when it
                   is cancelled, ends
    max_rows       rows of a table at most; 0: no limit but the next
    max_bytes      size of a value at most
    join_from      calls that are there together are joined when they are so many; fewer run one by one
    took           called with the calls and the seconds of each query

    A value that is larger than it may be is the error 'too_large', as soon as that is seen. An error of one call
    leaves the others alone, with one exception that is DuckDB's: in a transaction that the user has begun, an error
    at run time ends the transaction, so that error is fatal. There calls run one by one, and arguments that do not
    fit their types are found elsewhere first.
    """

    def __init__(
        self,
        tool: BoundTool,
        on_connection: OnConnection[Any],
        *,
        max_rows: int = 0,
        max_bytes: int = 1 << 20,
        join_from: int = 2,
    ) -> None:
        self.took: Callable[[int, float], None] = lambda calls, seconds: None
        self._tool = tool
        self._on_connection = on_connection
        self._max_rows, self._max_bytes = max_rows, max_bytes
        # a row of a table takes two bytes and a comma at least: more rows than this cannot fit
        self._texts = QueryTexts(tool, max_rows or max_bytes // 3 + 1)
        self._join_from = max(2, join_from)
        self._joins: bool | None = None  # whether the query can be joined; decided by the first calls

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to release."""

    async def call(self, request: ToolRequest) -> str:
        """The value as JSON text."""
        (outcome,) = await self.call_many([request])
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    async def call_many(self, requests: Sequence[ToolRequest]) -> list[Outcome]:
        """The values, or what is wrong, in the order of the requests; the same as one by one."""
        arguments = [request.arguments for request in requests]
        outcomes: list[Outcome] = []
        for start in range(0, len(arguments), BATCH):
            times: list[tuple[int, float]] = []
            part = arguments[start : start + BATCH]
            outcomes += await self._on_connection(partial(self._run, arguments=part, times=times))
            for calls, seconds in times:
                self.took(calls, 0.0 if is_virtual() else seconds)
        return outcomes

    def _run(self, duck: Duck, arguments: list[str], times: list[tuple[int, float]]) -> list[Outcome]:
        texts, outcomes = self._bound(duck, arguments)
        in_transaction = duck.in_transaction()
        if self._joins is None:
            self._joins = joinable(duck, self._texts)
        together = [
            place for place, outcome in enumerate(outcomes) if outcome is None and joins(self._texts, arguments[place])
        ]
        if self._joins and not in_transaction and len(together) >= self._join_from:
            began = time.perf_counter()
            found = self._joined(duck, [texts[place] for place in together])
            if found:
                times.append((len(together), time.perf_counter() - began))
            for place, outcome in zip(together, found, strict=False):  # none: the join failed
                outcomes[place] = outcome
        return [
            outcome if outcome is not None else self._timed(duck, texts[place], in_transaction, times)
            for place, outcome in enumerate(outcomes)
        ]

    def _timed(self, duck: Duck, given: Texts, in_transaction: bool, times: list[tuple[int, float]]) -> Outcome:
        began = time.perf_counter()
        outcome = self._single(duck, given, in_transaction)
        times.append((1, time.perf_counter() - began))
        return outcome

    def _bound(self, duck: Duck, arguments: list[str]) -> tuple[list[Texts], list[Outcome | None]]:
        """What each call binds, and the errors of arguments that are not of their types.

        They are cast on a connection of their own: in an open transaction an error would end it.
        """
        outcomes: list[Outcome | None] = [None] * len(arguments)
        texts: list[Texts] = [[]] * len(arguments)
        for place, text in enumerate(arguments):
            try:
                texts[place] = bound(text, self._tool.parameters)
            except (ValueError, RecursionError) as problem:
                message = f'the arguments of tool "{self._tool.name}" cannot be read: {problem}'
                outcomes[place] = EngineError(message, code="rejected", remedy="Give a JSON object of them.")
        readable = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if self._tool.parameters and readable:
            aside = duck.duplicate()
            try:
                if _passes(aside, self._texts.check, [texts[place] for place in readable]) is not None:
                    for place in readable:
                        outcomes[place] = self._refusal(aside, texts[place])
            finally:
                aside.close()
        return texts, outcomes

    def _refusal(self, aside: Duck, given: Texts) -> EngineError | None:
        for (name, kind), query in zip(self._tool.parameters, self._texts.by_name.values(), strict=True):
            problem = _passes(aside, query, given)
            if problem is not None:
                return EngineError(
                    f'argument "{name}" of tool "{self._tool.name}" is no {kind.text}: {_first_line(problem)}',
                    code="rejected",
                    remedy=f"Give a {kind.text}.",
                )
        return None

    def _joined(self, duck: Duck, arguments: list[Texts]) -> list[Outcome]:
        """The values of several calls by one query; none when it fails, as then it takes one by one to tell whose
        error it is."""
        values: list[Outcome] = [self._empty()] * len(arguments)
        rows: list[str] = []
        current = 0
        try:
            result = duck.execute(self._texts.lateral, [arguments])
            if not self._texts.table:
                for place, number, text in result.fetchall():
                    values[place - 1] = self._scalar(number, text)
                return values
            while part := result.fetchmany(_FETCH):
                for place, text in part:
                    if place != current:
                        if rows:
                            values[current - 1] = self._table(rows)
                        current, rows = place, []
                    rows.append(text)
        except InterruptedQueryError:
            raise
        except Error:
            return []
        finally:
            duck.abandon()
        if rows:
            values[current - 1] = self._table(rows)
        return values

    def _single(self, duck: Duck, arguments: Texts, in_transaction: bool) -> Outcome:
        text = self._texts.single(ordered=bool(self._joins))
        try:
            result = duck.execute(text, [arguments]) if self._texts.binds else duck.execute(text)
            if not self._texts.table:
                return self._scalar(*result.fetchone())
            rows: list[str] = []
            size = 0
            while size <= self._max_bytes and (part := result.fetchmany(_FETCH)):
                rows += [text for (text,) in part]
                size += sum(len(text) for (text,) in part)
            return self._table(rows)
        except InterruptedQueryError:
            raise
        except Error as problem:
            return self._failed(problem, in_transaction)
        finally:
            duck.abandon()

    def _empty(self) -> str:
        return "[]" if self._texts.table else "null"

    def _scalar(self, number: int, text: str | None) -> Outcome:
        if number > 1:
            return EngineError(
                f'the query of tool "{self._tool.name}" gives {number} rows, RETURNS names one value',
                code="invalid_output",
                remedy="Use RETURNS TABLE (…), or LIMIT 1 in the query.",
            )
        return self._sized("null" if text is None else finite_json(text))

    def _table(self, rows: list[str]) -> Outcome:
        if self._max_rows and len(rows) > self._max_rows:
            return EngineError(
                f'the query of tool "{self._tool.name}" gives more than {self._max_rows} rows',
                code="too_large",
                remedy="Narrow the query, or end it with LIMIT.",
            )
        return self._sized("[" + ",".join(map(finite_json, rows)) + "]")

    def _sized(self, text: str) -> Outcome:
        if len(text) > self._max_bytes or len(text.encode()) > self._max_bytes:
            return EngineError(
                f'the result of tool "{self._tool.name}" is larger than {self._max_bytes} bytes',
                code="too_large",
                remedy="Return fewer rows or columns.",
            )
        return text

    def _failed(self, problem: Error, in_transaction: bool) -> EngineError:
        remedy = "Use TRY_CAST or a condition in the query."
        message = f'the query of tool "{self._tool.name}" failed: {_first_line(problem)}'
        if in_transaction:
            message, remedy = message + "; this ended the transaction", "ROLLBACK, and run it again. " + remedy
        return EngineError(message, code="tool", fatal=in_transaction, remedy=remedy)


def _passes(duck: Duck, query: str, parameter: Any) -> Error | None:
    """The error of a query, if any."""
    try:
        duck.rows(query, [parameter])
    except InterruptedQueryError:
        raise
    except Error as problem:
        return problem
    return None


def _first_line(problem: Error) -> str:
    return f"{problem.kind}: {problem.message}".splitlines()[0][:500]
