"""Top-k by comparisons: a tree of small contests, as in tournament sort (Knuth, TAOCP 3, 5.2.3).

The first row is found by (n - 1) / (m - 1) comparisons of m rows, those of a level side by side; each further row by
the comparisons on the way of the row before it, one per level. Candidates are shown in input order and the first of
equals wins: with a model that compares as it grades, the order is that of the grades.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

from halo_sql.engines.protocol import Channel, ChannelSpec, Outcome
from halo_sql.engines.ranking import LETTERS, choice, compare_system, comparison
from halo_sql.errors import EngineError
from halo_sql.ir.physical import LlmTopKExec, PhysicalNode, batch_name
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.readahead import gather_all
from halo_sql.operators.render import Renderer, excerpt
from halo_sql.operators.sorting import collect, take_rows


async def tournament(node: PhysicalNode, op: LlmTopKExec, source: Batches, ctx: RunContext) -> AsyncIterator[Any]:
    """See ``llm_top_k``. All rows are held (past the spool's limit in a file), and a prompt for each."""
    if op.count == 0:
        return
    metrics = ctx.node_metrics(node.id)
    renderer = Renderer(op.call)
    names = [batch_name(column.id) for column in node.columns]
    batches = await collect(source, ctx)
    prompts = [prompt for batch in batches for prompt in renderer.prompts(batch)]
    metrics.rows_total += len(prompts)
    ranked = [row for row, prompt in enumerate(prompts) if prompt is not None]
    rest = [row for row, prompt in enumerate(prompts) if prompt is None]
    end = None if op.count is None else op.count + op.offset
    wanted = len(ranked) if end is None else min(len(ranked), max(0, end - (len(rest) if op.nulls_first else 0)))
    judge = Judge(op, [prompt or "" for prompt in prompts], metrics, ctx)
    try:
        best = await first_of(ranked, wanted, max(2, op.fan_in), judge)
    finally:
        await judge.close()
    order = [*rest, *best] if op.nulls_first else [*best, *rest]
    for batch in take_rows([batch.select(names) for batch in batches], order[op.offset : end]):
        yield batch


async def first_of(rows: Sequence[int], wanted: int, fan_in: int, judge: Judge) -> list[int]:
    """The first ``wanted`` of the rows in the judge's order; rows of equal rank in the order given."""
    levels: list[list[int | None]] = [list(rows)]
    while wanted and len(levels[-1]) > 1:
        below = levels[-1]
        contests = [below[start : start + fan_in] for start in range(0, len(below), fan_in)]
        levels.append(await judge.winners(contests))
    places = {row: place for place, row in enumerate(rows)}
    found: list[int] = []
    while len(found) < wanted:
        winner = levels[-1][0]
        assert winner is not None
        found.append(winner)
        if len(found) == wanted:
            break
        place = places[winner]
        levels[0][place] = None
        for below, level in pairwise(levels):
            place //= fan_in
            level[place] = (await judge.winners([below[place * fan_in : (place + 1) * fan_in]]))[0]
    return found


class Judge:
    """Decides contests by asking the model. Rows are numbers; ``None`` is a row that is out."""

    def __init__(self, op: LlmTopKExec, prompts: Sequence[str], metrics: NodeMetrics, ctx: RunContext) -> None:
        self._op = op
        self._prompts = prompts
        self._metrics = metrics
        self._ctx = ctx
        self._channels: dict[int, Channel] = {}  # by number of candidates
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._asked = 0

    async def winners(self, contests: Sequence[Sequence[int | None]]) -> list[int | None]:
        """The winner of each contest, all asked side by side; None where nobody is left."""
        found: list[int | None] = [None] * len(contests)
        asked: list[tuple[int, list[int], asyncio.Future[Outcome]]] = []
        requests: dict[Channel, list[tuple[int, str]]] = {}
        for place, contest in enumerate(contests):
            rows = [row for row in contest if row is not None]
            texts = [self._prompts[row] for row in rows]
            if len(set(texts)) <= 1:
                found[place] = rows[0] if rows else None
                continue
            channel = await self._channel(len(rows))
            message = comparison(texts, self._op.descending)
            if len(rows) > 2 and channel.room_tok and len(message) > channel.room_tok < channel.count_tok(message):
                halves = await self.winners([rows[: len(rows) // 2], rows[len(rows) // 2 :]])
                found[place] = (await self.winners([halves]))[0]
                continue
            number, self._asked = self._asked, self._asked + 1
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._waiting[number] = answer
            asked.append((place, rows, answer))
            requests.setdefault(channel, []).append((number, message))
        for channel, messages in requests.items():
            channel.put(messages)
        for place, rows, answer in asked:
            outcome = await answer
            if outcome.error is not None:
                raise self._failure(outcome.error, [self._prompts[row] for row in rows])
            found[place] = rows[LETTERS.index(outcome.text)]
        return found

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for number, outcome in outcomes:
            self._waiting.pop(number).set_result(outcome)

    async def _channel(self, candidates: int) -> Channel:
        if candidates not in self._channels:
            call = self._op.call
            form = choice(candidates)
            spec = ChannelSpec(
                model=call.model,
                system=compare_system(call.prompt.system),
                sampling=call.sampling,
                answer=form,
                cache=call.cache,
                priority=call.priority,
            )

            def valid(text: str, finish: str) -> EngineError | None:
                if text in form.choices:
                    return None
                return EngineError(f'the answer "{excerpt(text)}" names no candidate', code="invalid_output")

            self._channels[candidates] = await self._ctx.channels.open(spec, valid, self._metrics, self._deliver)
        return self._channels[candidates]

    def _failure(self, error: EngineError, texts: Sequence[str]) -> EngineError:
        call = self._op.call
        shown = " / ".join(f'"{excerpt(text, 40)}"' for text in texts)
        return EngineError(
            error.message if error.fatal else f"{call.label or 'LLM_RANK'}, comparing {shown}: {error.message}",
            code=error.code,
            retryable=error.retryable,
            kind=error.kind,
            span=call.span,
            remedy=error.remedy,
        )

    async def close(self) -> None:
        """Nothing more is wanted."""
        await gather_all([channel.close() for channel in self._channels.values()])
