"""A tool whose argument is SQL that a model writes: ``AS SQL '$query' WITH (tables = [a, b])``.

The text never reaches the user's connection or process. It runs in a child process with copies of the named tables
and nothing else: no other table, no file, no network, no environment, no settings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from halo_sql.duck import Duck
from halo_sql.duck_tokens import tokenize
from halo_sql.errors import EngineError
from halo_sql.tools.limits import limits_of
from halo_sql.tools.protocol import BoundTool, ToolRequest
from halo_sql.tools.sandbox_copy import Copies, copy_tables
from halo_sql.tools.sandbox_gate import MAX_TEXT_BYTES, STARTS
from halo_sql.tools.sandbox_process import ChildEndedError, SandboxProcess, ended_error
from halo_sql.tools.sql_values import finite_json, members, row, spelled

CHILDREN = 2
PROCESSOR_S = 5
MEMORY_BYTES = 1 << 30  # address space of a child
DUCKDB_MEMORY = "512MB"

Outcome = str | EngineError


class SandboxRunner:
    """Runs queries in the sandbox. It serves one statement: the copies are made once, by ``start``.

    on_connection  runs ``fn(duck)`` on the user's connection's own thread; the tables are read there

    RETURNS VARCHAR or JSON gives a list of objects with the query's own columns (VARCHAR: its text), RETURNS TABLE the
    declared columns, by name, or by position where the names differ; another type the first column of the first row.

    Errors: 'denied' (what is not a SELECT from the tool's tables), 'rejected' (what DuckDB cannot read), 'tool' (an
    error at run time, too little memory), 'timeout' (10 s, or 5 s of processor time), 'too_large' (1,000 rows, 64 KB);
    the tool's options may set other seconds, rows and bytes.
    A query that ends its child harms no other: the next one gets a new child.
    """

    beside = True  # its calls are made outside this process: a virtual clock stands meanwhile

    def __init__(self, tool: BoundTool, on_connection: Callable[[Callable[[Duck], Any]], Awaitable[Any]]) -> None:
        self._tool = tool
        self._limits = limits_of(tool)
        named = tool.tool.body.strip().rstrip(";").strip()[1:].strip('"').replace('""', '"').lower()
        self._argument = next(name for name, _ in tool.parameters if name.lower() == named)
        self._on_connection = on_connection
        self._copies: Copies | None = None
        self._starting = asyncio.Lock()
        self._free = asyncio.Semaphore(CHILDREN)
        self._idle: list[SandboxProcess] = []
        self._closed = False

    async def start(self) -> None:
        """Copy the tables. Raises EngineError('unavailable') when one cannot be read."""
        async with self._starting:
            if self._closed:
                raise self._error("unavailable", "its sandbox is closed", "")
            if self._copies is None:
                given = self._tool.options.get("tables") or ()
                tables = [str(name) for name in given] if isinstance(given, list | tuple) else [str(given)]
                self._copies = await self._on_connection(lambda duck: copy_tables(duck, tables))

    async def close(self) -> None:
        """End the children and forget the copies."""
        self._closed = True
        idle, self._idle = self._idle, []
        for child in idle:
            await child.end()
        copies, self._copies = self._copies, None
        if copies is not None:
            copies.close()

    async def call(self, request: ToolRequest) -> str:
        """The result as JSON text."""
        await self.start()
        sql = self._sql(request)
        async with self._free:
            return await self._run(sql)

    async def call_many(self, requests: Sequence[ToolRequest]) -> list[Outcome]:
        """The results, or what is wrong, in the order of the requests; children are shared."""
        return list(await asyncio.gather(*map(self._outcome, requests)))

    async def _outcome(self, request: ToolRequest) -> Outcome:
        try:
            return await self.call(request)
        except EngineError as problem:
            return problem

    def _sql(self, request: ToolRequest) -> str:
        """The query of a call, as far as it can be judged without a parser.

        DuckDB's takes time exponential in the nesting of some texts (seconds for 100 characters), so that only the
        child, whose time is limited, parses.
        """
        sql = json.loads(members(request.arguments).get(self._argument, "null"))
        if not isinstance(sql, str):
            raise self._error("rejected", "no query was given", "Give one SELECT as a text.")
        try:
            size = len(sql.encode())
        except UnicodeEncodeError:
            raise self._error("rejected", "the query is not Unicode text", "Write it without surrogates.") from None
        if size > MAX_TEXT_BYTES:
            raise self._error("rejected", f"the query is longer than {MAX_TEXT_BYTES} bytes", "Write a shorter one.")
        tokens = [token for token in tokenize(sql) if token.kind != "comment"]
        while tokens and tokens[-1].text == ";":
            tokens.pop()
        if not tokens or tokens[0].text.upper() not in STARTS:
            raise self._error("denied", "only a SELECT may run", "Write one SELECT.")
        if any(token.text == ";" and token.kind == "operator" for token in tokens):
            raise self._error("denied", "only one statement may run", "Write one SELECT, without a semicolon.")
        return sql

    async def _run(self, sql: str) -> str:
        answer = await self._answer(sql)
        if "error" in answer:
            raise self._error(*answer["error"])
        text = finite_json(str(answer["value"]))
        return json.dumps(text, ensure_ascii=False) if self._tool.returns.kind == "varchar" else text

    async def _answer(self, sql: str) -> dict[str, Any]:
        """A child's answer. A child without memory, or with a database that has failed, is not used again; as one that
        has served others may be so for their sake, the query gets a new one."""
        timeout_s = self._limits.timeout_s
        while True:
            child, fresh = (self._idle.pop(), False) if self._idle else (await self._child(), True)
            try:
                answer = await child.ask(sql, timeout_s)
            except TimeoutError:
                message = f"the query takes longer than {timeout_s:g} s"
                raise self._error("timeout", message, "Read fewer rows.") from None
            except ChildEndedError as problem:
                if not fresh and not problem.decided:
                    continue
                raise ended_error(problem.status, self._tool.name, PROCESSOR_S) from None
            spent = bool(answer.get("spent"))
            if self._closed or spent:
                await child.end()
            else:
                self._idle.append(child)
            if fresh or not spent:
                return answer

    async def _child(self) -> SandboxProcess:
        assert self._copies is not None
        return await SandboxProcess.start(self._copies.descriptor, self._setup())

    def _setup(self) -> dict[str, Any]:
        assert self._copies is not None
        returns = self._tool.returns
        if self._tool.tool.columns:
            kind, columns = "table", list(returns.fields[0][1].fields)
            value = row([(name, f"c{place}", member) for place, (name, member) in enumerate(columns)])
        elif returns.kind in ("varchar", "json"):
            kind, columns, value = "rows", [], ""
        else:
            kind, columns, value = "scalar", [("", returns)], spelled("c0", returns)
        return {
            "tables": self._copies.tables,
            "time_zone": self._copies.time_zone,
            "memory": DUCKDB_MEMORY,
            "memory_bytes": MEMORY_BYTES,
            "processor_s": PROCESSOR_S,
            "max_rows": self._limits.max_rows or self._limits.max_result_bytes // 2,
            "max_bytes": self._limits.max_result_bytes,
            "kind": kind,
            "columns": [(name, member.text) for name, member in columns],
            "value": value,
        }

    def _error(self, code: str, message: str, remedy: str) -> EngineError:
        return EngineError(f'tool "{self._tool.name}": {message}', code=code, remedy=remedy)
