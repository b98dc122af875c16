"""What a cascade's proxy says of prompts: a probability for each, or one classification for all labels of an item."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from halo_sql.ir.cascade import LONGEST_LABEL, MOST_LABELS, classify_call
from halo_sql.ir.physical import LlmFilterCascadeExec, batch_name
from halo_sql.ir.prompt import LlmCall
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.asking_all import AskingAll
from halo_sql.operators.context import RunContext
from halo_sql.operators.render import Renderer


class Prompts:
    """The different prompts of all rows, by the order in which they first appear.

    texts   of each
    rows    how many rows ask it
    places  per batch and row its prompt; -1: none is asked
    items, labels  of a classification, per prompt: the question with its label left open, and the label
    """

    def __init__(self, op: LlmFilterCascadeExec) -> None:
        self.texts: list[str] = []
        self.rows: list[int] = []
        self.places: list[array[int]] = []
        self.items: list[str] = []
        self.labels: list[str] = []
        self._known: dict[str, int] = {}
        self._op = op
        self._renderer = Renderer(op.call)
        self._open = Renderer(op.proxy) if op.label is not None else None

    def add(self, batch: Any) -> None:
        """The rows of a further batch."""
        prompts = self._renderer.prompts(batch)
        open_prompts: Sequence[str | None] = ()
        labels: Sequence[str | None] = ()
        if self._open is not None and self._op.label is not None:
            open_prompts = self._open.prompts(batch)
            labels = batch.column(batch_name(self._op.label)).to_pylist()
        places = array("q")
        for row, prompt in enumerate(prompts):
            if prompt is None:
                places.append(-1)
                continue
            place = self._known.setdefault(prompt, len(self.texts))
            places.append(place)
            if place < len(self.texts):
                self.rows[place] += 1
                continue
            self.texts.append(prompt)
            self.rows.append(1)
            if labels:
                self.items.append(open_prompts[row] or "")
                self.labels.append(labels[row] or "")
        self.places.append(places)


async def proxy_scores(
    op: LlmFilterCascadeExec, prompts: Prompts, metrics: NodeMetrics, ctx: RunContext
) -> list[float | None]:
    """The proxy's score of each prompt, in 0 … 1; None where it gave none.

    A classification scores 1 for the labels it names and 0 for the others.
    """
    if op.label is None:
        asked = dict(enumerate(prompts.texts))
        found = await _answers(op.proxy, op.proxy, asked, metrics, ctx)
        return [found[place] for place in asked]
    labels = sorted(set(prompts.labels))
    items = dict.fromkeys(prompts.items)
    if not all(label.strip() and len(label) <= LONGEST_LABEL for label in labels):
        return [None] * len(prompts.texts)
    if not 1 < len(labels) <= MOST_LABELS or len(items) >= len(prompts.texts) / 2:
        return [None] * len(prompts.texts)
    call = classify_call(op.call, op.label, labels)
    chosen = await _answers(call, op.proxy, dict(enumerate(items)), metrics, ctx)
    of_item = {item: None if chosen[number] is None else frozenset(chosen[number]) for number, item in enumerate(items)}
    scores: list[float | None] = []
    for item, label in zip(prompts.items, prompts.labels, strict=True):
        named = of_item[item]
        scores.append(None if named is None else float(label in named))
    return scores


async def _answers(
    call: LlmCall, template: LlmCall, asked: dict[int, str], metrics: NodeMetrics, ctx: RunContext
) -> dict[int, Any]:
    asking = AskingAll(call, metrics, ctx, template)
    try:
        texts = await asking.texts(asked, lambda number: 0)
    finally:
        await asking.close()
    values = asking.converter.to_arrow([texts[number] for number in asked]).to_pylist()
    return dict(zip(asked, values, strict=True))
