"""The prompt prefixes that calls of a plan share: the static part of the prefix trie over all LLM nodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from halo_sql.ir.physical import LlmTopKExec, PhysicalNode, calls_by
from halo_sql.ir.prompt import LlmCall
from halo_sql.optimizer.cardinality import CHARS_PER_TOK
from halo_sql.optimizer.context import OptimizerContext

#: What sends prompts in the order of their trie, in ``halo_disabled_rules``; without it they go as they come.
PREFIX_ORDER = "prefix_order"


def shared_prefixes(nodes: Sequence[PhysicalNode], options: OptimizerContext) -> tuple[tuple[str, float], ...]:
    """(text, expected calls) of each prefix of at least one KV block that several calls start with.

    The longest first; a prefix of two nodes' prompts stands beside their own when it is shorter. System
    message and user text are joined by a newline.
    """
    by_model: dict[str, dict[str, float]] = {}
    for node in nodes:
        if isinstance(node.op, LlmTopKExec) and node.op.method != "score":
            continue  # a comparison begins with its own question
        calls = calls_by(node.op)
        for call in calls:
            if call.kind in ("tool", "agent"):
                continue  # what an agent says before its task is made when it runs
            texts = by_model.setdefault(call.model, {})
            text = static_prefix(call)
            texts[text] = texts.get(text, 0.0) + node.estimate.llm_calls / len(calls)
    found: dict[str, float] = {}
    for model, texts in by_model.items():
        least = options.engine(model).block_tok * CHARS_PER_TOK
        for text in _branches(texts):
            calls_expected = sum(count for other, count in texts.items() if other.startswith(text))
            if len(text) >= least and calls_expected > 1:
                found[text] = found.get(text, 0.0) + calls_expected
    return tuple(sorted(found.items(), key=lambda item: (-len(item[0]), item[0])))


def static_prefix(call: LlmCall) -> str:
    """The text that every prompt of the call starts with."""
    system, user = static_parts(call)
    return user if system is None else f"{system}\n{user}"


def static_parts(call: LlmCall) -> tuple[str | None, str]:
    """The system message, and what every user message of the call starts with."""
    first = call.prompt.user[0] if call.prompt.user else ""
    return call.prompt.system, first if isinstance(first, str) else ""


def warm_tok(call: LlmCall, static_tok: float, options: OptimizerContext) -> float:
    """Of the ``static_tok`` tokens that all prompts of a call begin with, those that its engine holds from before."""
    share = options.warm.get((call.model, static_prefix(call)), 0.0) if options.warm else 0.0
    block_tok = options.engine(call.model).block_tok
    return share * static_tok // block_tok * block_tok


def _branches(texts: dict[str, float]) -> list[str]:
    """The texts and the points where they part (in sorted order, neighbours part last)."""
    ordered = sorted(texts)
    found = dict.fromkeys(ordered)
    for first, second in pairwise(ordered):
        length = 0
        for left, right in zip(first, second, strict=False):
            if left != right:
                break
            length += 1
        found.setdefault(first[:length])
    return list(found)
