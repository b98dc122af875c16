"""LLM_FILTER in a WHERE, decided by a cheaper model in part, within the precision and recall that the call asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from itertools import accumulate
from math import isinf
from random import Random
from typing import Any

from halo_sql.ir.call_key import call_key
from halo_sql.ir.cascade import SHARES, pays, sample_draws
from halo_sql.ir.physical import LlmFilterCascadeExec, PhysicalNode, batch_name
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking_all import AskingAll
from halo_sql.operators.cascade_cut import NOTHING, choose_cut
from halo_sql.operators.cascade_proxy import Prompts, proxy_scores
from halo_sql.operators.context import Batches, RunContext
from halo_sql.operators.sorting import collect


async def llm_filter_cascade(node: PhysicalNode, inputs: list[Batches], ctx: RunContext) -> AsyncIterator[Any]:
    """The input's rows decided TRUE, in order; NULL, no and (with on_error other than 'fail') failed rows go.

    The proxy scores every different prompt, the model answers those of a sample of rows, and ``cascade_cut`` says from
    which score on the proxy is right often enough. The model answers all others, so that where nothing can be shown, or
    the rows are too few, the result is exact. All rows are held (past the spool's limit in a file), and their prompts.

    Raises EngineError for a failing row of a call with on_error 'fail'; where the proxy fails, the model is asked.
    """
    op = node.op
    assert isinstance(op, LlmFilterCascadeExec)
    metrics = ctx.node_metrics(node.id)
    batches = await collect(inputs[0], ctx)
    prompts = Prompts(op)
    for batch in batches:
        prompts.add(batch)
        metrics.rows_total += batch.num_rows
    metrics.llm_calls_coalesced += sum(prompts.rows) - len(prompts.texts)
    kept = await _decide(op, prompts, metrics, ctx)
    names = [batch_name(column.id) for column in node.columns]
    for batch, places in zip(batches, prompts.places, strict=True):
        rows = [row for row, place in enumerate(places) if place >= 0 and kept[place]]
        if rows:
            yield batch.select(names).take(_indices(rows))


def _indices(rows: Sequence[int]) -> Any:
    import pyarrow as pa

    return pa.array(rows, pa.int64())


async def _decide(op: LlmFilterCascadeExec, prompts: Prompts, metrics: NodeMetrics, ctx: RunContext) -> list[bool]:
    """Whether each prompt's rows stay."""
    count, quality = len(prompts.texts), op.call.quality
    scores: list[float | None] = [None] * count
    if pays(sample_draws(quality, SHARES[1]), count):
        scores = await proxy_scores(op, prompts, metrics, ctx)
    model = _Model(op, prompts, metrics, ctx)
    try:
        draws = drawn(op, prompts, scores)
        sampled = await model.answers(dict.fromkeys(draws))
        cut = choose_cut(scores, prompts.rows, draws, sampled, quality) if draws else NOTHING
        said = [cut.verdict(score) for score in scores]
        rest = [place for place, verdict in enumerate(said) if verdict is None and place not in sampled]
        asked = await model.answers(rest)
    finally:
        await model.close()
    by_proxy = [verdict for place, verdict in enumerate(said) if place not in sampled and verdict is not None]
    metrics.details = {
        "sampled": len(sampled),
        "accepted by proxy": sum(by_proxy),
        "rejected by proxy": len(by_proxy) - sum(by_proxy),
        "asked": len(rest),
    }
    metrics.details |= {} if isinf(cut.accept) else {"accepts from": cut.accept}
    metrics.details |= {} if isinf(cut.reject) else {"rejects below": cut.reject}
    decided = sampled | asked
    return [decided[place] if place in decided else bool(said[place]) for place in range(count)]


def drawn(op: LlmFilterCascadeExec, prompts: Prompts, scores: Sequence[float | None]) -> list[int]:
    """The prompts of the sample's rows, drawn uniformly and with replacement; none when the sample would not pay.

    How many, follows from the scores. Which, follows from the call (its seed too) and the set of prompts, whatever the
    order of their rows: the same statement over the same data draws the same.
    """
    known = [(score, rows) for score, rows in zip(scores, prompts.rows, strict=True) if score is not None]
    total = sum(rows for _, rows in known)
    share = sum(score * rows for score, rows in known) / total if total else 0.0
    number = sample_draws(op.call.quality, share)
    if not known or not pays(number, len(known)):
        return []
    order = sorted(range(len(prompts.texts)), key=prompts.texts.__getitem__)
    digest = blake2b(f"{call_key(op.call)} {op.call.model} {op.proxy.model}".encode(), digest_size=16)
    for place in order:
        digest.update(prompts.texts[place].encode("utf-8", "surrogatepass") + b"\0")
    generator = Random(int.from_bytes(digest.digest(), "big"))
    weights = list(accumulate(prompts.rows[place] for place in order))
    return generator.choices(order, cum_weights=weights, k=number)


class _Model:
    """The filter's own model, asked for some of the prompts."""

    def __init__(self, op: LlmFilterCascadeExec, prompts: Prompts, metrics: NodeMetrics, ctx: RunContext) -> None:
        self._asking = AskingAll(op.call, metrics, ctx)
        self._prompts = prompts

    async def answers(self, places: Sequence[int] | dict[int, None]) -> dict[int, bool]:
        """Whether the model keeps each of these."""
        prompts = self._prompts
        asked = {place: prompts.texts[place] for place in sorted(places)}
        texts = await self._asking.texts(asked, lambda place: prompts.rows[place] - 1)
        found = self._asking.converter.verdicts([texts[place] for place in asked]).to_pylist()
        return {place: bool(verdict) for place, verdict in zip(asked, found, strict=True)}

    async def close(self) -> None:
        """Nothing more is wanted."""
        await self._asking.close()
