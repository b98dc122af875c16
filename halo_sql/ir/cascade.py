"""Proxy cascades: which questions a cheaper model is asked in place of a filter's, and how many the filter's model
answers to see how far it can be trusted.

The cascade is that of SUPG (Kang, Gan, Bailis, Hashimoto and Zaharia, "Approximate Selection with Guarantees using
Proxies", VLDB 2020): ``operators.cascade_cut`` has its statistics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import Hole, LlmCall, Prompt, Sampling
from halo_sql.ir.types import DOUBLE, VARCHAR_LIST

#: Chance that precision or recall is below the target; each has half of it.
MISS_CHANCE = 0.05
#: Shares of rows kept that samples are made for: a rarer answer takes a larger sample than is worth its calls.
SHARES = (0.05, 0.5)
#: Labels that one classification may be asked about.
MOST_LABELS = 50
LONGEST_LABEL = 200  # characters
PLACEHOLDER = "[LABEL]"
_FORM_TOKENS = 16  # what a server may put around a list of labels


def least_draws(quality: float) -> int:
    """Draws without a single miss that show a rate of at least ``quality``: qⁿ ≤ δ / 2."""
    return ceil(log(MISS_CHANCE / 2) / log(quality))


def sample_draws(quality: float, share: float) -> int:
    """Rows drawn, with replacement, of which the part ``share`` is expected to be kept: three times ``least_draws`` of
    those, so that some misses are no obstacle."""
    return ceil(3 * least_draws(quality) / min(SHARES[1], max(SHARES[0], share)))


def pays(draws: float, prompts: float) -> bool:
    """Whether so many draws are a small enough part of the prompts."""
    return draws <= prompts / 2


def score_call(call: LlmCall) -> LlmCall:
    """The filter's question as an LLM_SCORE of its proxy: the same prompt, answered by a probability."""
    return replace(
        call,
        kind="score",
        model=call.proxy,
        returns=DOUBLE,
        sampling=Sampling(max_tokens=1),
        on_error="null",
        label=f"LLM_SCORE for {call.label}",
        quality=0.0,
        proxy="",
    )


def classify_call(call: LlmCall, label: ColumnId, labels: Sequence[str] = ()) -> LlmCall:
    """The filter's question for all labels at once: the hole ``label`` stays open, the answer are those of ``labels``
    for which it would be yes. Asked of the proxy, or of the model itself when there is none."""
    lines = [] if call.prompt.system is None else [call.prompt.system, ""]
    lines += [
        f"In the user's question, {PLACEHOLDER} stands for one of the labels below.",
        "Answer with a JSON array of every label for which the answer to the question is yes, and nothing else.",
        "Labels:",
        *(f"- {text}" for text in labels),
    ]
    user = tuple(
        PLACEHOLDER if isinstance(segment, Hole) and segment.column == label else segment
        for segment in call.prompt.user
    )
    return replace(
        call,
        kind="classify",
        model=call.proxy or call.model,
        prompt=Prompt(user, "\n".join(lines)),
        returns=VARCHAR_LIST,
        sampling=Sampling(max_tokens=_FORM_TOKENS + sum(len(json.dumps(text)) + 2 for text in labels)),
        on_error="null",
        label=f"LLM_CLASSIFY for {call.label}",
        labels=tuple(labels),
        quality=0.0,
        proxy="",
    )


def proxy_calls(call: LlmCall) -> list[tuple[LlmCall, ColumnId | None]]:
    """What may decide in a filter's place: its proxy, prompt by prompt (no label), or a classification by each of its
    holes."""
    if not call.quality or not call.deterministic:
        return []
    found: list[tuple[LlmCall, ColumnId | None]] = [(score_call(call), None)] if call.proxy else []
    return found + [(classify_call(call, column), column) for column in label_holes(call)]


def label_holes(call: LlmCall) -> list[ColumnId]:
    """The holes that can be labels: each a text of its own, with another hole beside it."""
    holes = call.prompt.columns()
    single = dict.fromkeys(segment.column for segment in call.prompt.user if isinstance(segment, Hole))
    return [column for column in single if len(holes) > 1]
