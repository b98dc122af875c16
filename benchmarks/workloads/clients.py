"""What the baselines call with: models through their engines, DuckDB in threads, HTTP by asyncio, functions."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx
import pack
from adapters import Bench
from stub import HttpStub, VirtualStub

from halo_sql.engines.protocol import TEXT, Answer, GenRequest, GenResult
from halo_sql.ir.prompt import Sampling


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool as it was made; times in seconds of the loop."""

    kind: str
    tool: str
    began: float
    ended: float


class Clients:
    """Answers the operators of one workload and counts the calls that are made.

    scale       'cpu' or 'gpu'
    stub        the HTTP services
    http_limit  requests at once, 0 for no limit
    """

    def __init__(self, bench: Bench, reference: pack.Reference, stub: HttpStub | VirtualStub, http_limit: int) -> None:
        self._bench, self._workload, self._scale = bench, reference.workload, reference.scale
        self._spec, self._rules = pack.module("spec"), pack.module("rules")
        self._stub, self._http_limit = stub, http_limit
        self._turns = asyncio.Semaphore(http_limit or 1 << 30)
        self._systems = {
            node.id: self._spec.system_text(self._workload, node, self._scale)
            for node in self._workload.nodes
            if node.kind == "llm"
        }
        words = tuple(reference.keywords)
        # as `returns => at_scale('search_word', …)`: on the CPU scale a planner is held to the vocabulary
        self._answers = {
            node.id: Answer("choice", choices=words) if node.post and self._scale == "cpu" else TEXT
            for node in self._workload.nodes
        }
        self._ids = itertools.count(1)
        self.issued: Counter[str] = Counter()
        self.log: list[ToolCall] = []

    async def __aenter__(self) -> Self:
        import duckdb

        self._database = duckdb.connect(str(pack.data()), read_only=True)
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="baseline-sql")
        limits = httpx.Limits(max_connections=self._http_limit or None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(limits=limits, timeout=None, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        self._threads.shutdown()
        self._database.close()

    def request(self, node: Any, values: Mapping[str, str]) -> tuple[object, ...]:
        """What makes two calls the same: model, system and user message, or tool and arguments."""
        if node.kind == "llm":
            return "llm", node.model, self._systems[node.id], self._spec.user_text(node, values)
        bound = self._spec.bind(self._workload, node, values, self._scale)
        return node.kind, self._spec.tool_identity(node), tuple(sorted(bound.items()))

    async def answer(self, node: Any, values: Mapping[str, str]) -> str:
        """The value of an operator for one query."""
        self.issued[node.kind] += 1
        if node.kind == "llm":
            return await self._ask(node, values)
        bound = self._spec.bind(self._workload, node, values, self._scale)
        loop = asyncio.get_running_loop()
        began = loop.time()
        if node.kind == "http":
            text = await self._service(node.path, bound)
        elif node.kind == "sql":
            rows = self._workload.settings[self._scale]["rows"]
            statement = self._spec.SQL_WRAPPER.format(sql=node.sql, rows=rows)
            text = await loop.run_in_executor(self._threads, self._select, statement, bound)
        else:
            text = self._rules.trade_params(**bound)
        self.log.append(ToolCall(node.kind, node.id, began, loop.time()))
        return text

    async def _service(self, path: str, bound: Mapping[str, Any]) -> str:
        if isinstance(self._stub, VirtualStub):
            async with self._turns:
                return await self._stub.get(path, bound)
        reply = await self._http.get(self._stub.url + path, params=bound)
        reply.raise_for_status()
        return str(reply.text)

    async def _ask(self, node: Any, values: Mapping[str, str]) -> str:
        request = GenRequest(
            next(self._ids),
            self._spec.user_text(node, values),
            self._systems[node.id],
            Sampling(max_tokens=node.max_tokens[self._scale]),
            self._answers[node.id],
        )
        done: asyncio.Future[GenResult] = asyncio.get_running_loop().create_future()
        deliver: Callable[[Sequence[GenResult]], None] = lambda results: done.set_result(results[0])  # noqa: E731
        self._bench.engine(node.model).submit([request], deliver)
        result = await done
        if result.error is not None:
            raise result.error
        post: str = self._spec.keyword_post(result.text) if node.post else result.text
        return post

    def _select(self, statement: str, bound: Mapping[str, Any]) -> str:
        row = self._database.cursor().execute(statement, dict(bound)).fetchone()
        assert row is not None
        return str(row[0])
