"""The fields of object holes in the order in which rows share most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Demand, LlmFilter, LlmMap, LlmTopK, LogicalPlan
from halo_sql.ir.prompt import LlmCall, ObjectHole, Segment
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.field_order import KINDS, Choice, choose
from halo_sql.optimizer.nodes import calls_of, walk_once
from halo_sql.optimizer.plan_context import PlanContext
from halo_sql.optimizer.required import rewrite_down
from halo_sql.optimizer.samples import ObjectSample, joined


def order_object_fields(plan: Any, ctx: PlanContext) -> LogicalPlan | None:
    """``LLM['… {text, title}'](X) => LLM['… {title, text}'](X)`` when titles repeat and texts do not. Over the whole
    plan, once: by a sample of X, fields that many rows share come first (see ``field_order``).

    Safe: the order of the fields in ``{{ a, b }}`` and ``{{ * }}`` is the optimizer's to choose. All rows of a call,
    and all calls of a statement with the same template, get the same order, so that equal prompts stay equal. As an
    answer may depend on the order, the one as written stays unless another saves 5 % of the prompt tokens. Not where
    every row differs from the first field on, not behind a hole that differs in every row, not for small tables, and
    not when DuckDB places a call with the same template::

        SELECT LLM_MAP('{{ * }}') FROM (SELECT DISTINCT body FROM t)
        SELECT LLM_MAP('{{ body }} of {{ title, channel }}') FROM tickets

    Liu et al., "Optimizing LLM Queries in Relational Data Analytics Workloads", MLSys 2025.
    """
    samples = ctx.options.objects
    if not samples:
        return None
    alike: dict[Any, list[LlmCall]] = {}
    elsewhere: set[Any] = set()
    for node in walk_once(plan):
        for call in calls_of(node):
            if call.kind in KINDS:
                alike.setdefault(_template(call), []).append(call)
        if isinstance(node, Demand):
            elsewhere.update(_template(call) for call in calls_made(node))
    ordered: dict[ColumnId, tuple[Segment, ...]] = {}
    for template, calls in alike.items():
        known = [samples[call.output] for call in calls if call.output in samples]
        if known and template not in elsewhere:
            _order(calls, known, ordered, ctx)
    if not ordered:
        return None
    rewritten: LogicalPlan = rewrite_down(plan, lambda node, required: _rewritten(node, ordered))
    return rewritten


def _template(call: LlmCall) -> Any:
    """What calls that may render to equal prompts have in common."""
    segments = (
        tuple(name for name, _ in segment.fields)
        if isinstance(segment, ObjectHole)
        else segment
        if isinstance(segment, str)
        else None
        for segment in call.prompt.user
    )
    return call.model, call.prompt.system, *segments


def _order(
    calls: Sequence[LlmCall],
    samples: Sequence[Sequence[ObjectSample | None]],
    ordered: dict[ColumnId, tuple[Segment, ...]],
    ctx: PlanContext,
) -> None:
    """Add the calls' segments to ``ordered`` if one of their object holes gets another order."""
    choices: list[Choice | None] = []
    for parts in zip(*samples, strict=True):
        known = [part for part in parts if part is not None]
        choice = choose(joined(known)) if len(known) == len(parts) else None
        changed = choice is not None and choice.names != known[0].names
        choices.append(choice if changed else None)
        if changed and choice is not None:
            saved = 1.0 - choice.tok / choice.written_tok
            rows = sum(part.rows for part in known)
            ctx.recorder.note(
                f"fields of {calls[0].label or calls[0].operator} in the order {', '.join(choice.names)}: "
                f"{saved:.0%} fewer prompt tokens in a sample of {rows:,} rows"
            )
    if not any(choices):
        return
    for call in calls:
        places = iter(choices)
        ordered[call.output] = tuple(
            _in_order(segment, next(places)) if isinstance(segment, ObjectHole) else segment
            for segment in call.prompt.user
        )


def _in_order(hole: ObjectHole, choice: Choice | None) -> ObjectHole:
    if choice is None:
        return hole
    columns = dict(hole.fields)
    return ObjectHole(tuple((name, columns[name]) for name in choice.names))


def _rewritten(node: Any, ordered: dict[ColumnId, tuple[Segment, ...]]) -> Any:
    if not isinstance(node, LlmMap | LlmFilter | LlmTopK):
        return node
    calls = tuple(
        replace(call, prompt=replace(call.prompt, user=ordered[call.output]))
        if ordered.get(call.output, call.prompt.user) != call.prompt.user
        else call
        for call in calls_of(node)
    )
    if all(new is old for new, old in zip(calls, calls_of(node), strict=True)):
        return node
    return replace(node, calls=calls) if isinstance(node, LlmMap) else replace(node, call=calls[0])
