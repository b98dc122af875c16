"""Several questions about the same data in one request, where the calls say ``fuse => true``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr, column_expr, literal
from halo_sql.ir.logical import LlmMap, LogicalPlan, Project
from halo_sql.ir.prompt import Hole, LlmCall, ObjectHole, Prompt, Segment
from halo_sql.ir.types import SqlType
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.memo import Memo
from halo_sql.optimizer.plan_context import PlanContext

HEAD = (
    "Answer each of the following questions by itself. They are about the data at the end, where [1] stands for the "
    "first part of it, and so on. Answer with a JSON object that has a member for each question, by its name.\n"
)
Columns = Mapping[ColumnId, ColumnId]
#: Tokens of the answer's form, for each member.
MEMBER_ROOM = 16
#: Of a member's labels: they are part of one grammar.
LABELS_CHARS = 4096


def fuse_llm_maps(expr: Any, memo: Memo, ctx: PlanContext) -> list[LogicalPlan]:
    """``LlmMap[a, b](X) => Project[a := f.q1, b := f.q2](LlmMap[f](X))``: f shows the data once and asks both.

    Safe only where the user allows it with ``fuse => true``, as it changes prompts, and so perhaps answers: then rows,
    types, NULLs and failing are as before (but one answer that is cut fails, as all are one JSON object). By cost: it
    saves prompt tokens, not output tokens. The calls must be of kind 'map', 'classify' or 'extract' (what these say of
    labels and fields goes from the system message into the question) and ask the same rows (guard, the same holes, so
    that the same NULLs ask nothing), of the same model, in the same way (the user's system message, sampling but for
    max_tokens, which add up, cache, priority). Not for volatile calls, whose answers would no longer be independent,
    nor with ``stop`` (it would cut the object), nor with another on_error than 'fail': one answer that is wrong makes
    all of a row wrong::

        SELECT LLM_MAP('{{ b }}: its topic?', fuse => true),
               LLM_MAP('{{ b }}: its mood?', fuse => true, on_error => 'null') FROM t
    """
    if type(expr) is not LlmMap:
        return []
    groups: dict[tuple[object, ...], list[LlmCall]] = {}
    same = _same_values(expr, memo)
    for call in expr.calls:
        if _fusible(call):
            groups.setdefault(_alike(call, same), []).append(call)
    fused = [_fused(calls, same, ctx) for calls in groups.values() if len(calls) > 1]
    if not fused:
        return []
    asked = {part.output for call in fused for part in call.fused}
    others = tuple(call for call in expr.calls if call.output not in asked)
    answers = {
        part.output: SqlExpr(
            ("struct_extract(", ColumnRef(call.output), f", {literal(_name(place))})"), part.returns, row_wise=True
        )
        for call in fused
        for place, part in enumerate(call.fused)
    }
    items: list[tuple[Column, SqlExpr]] = [
        (column, answers.get(column.id) or column_expr(column)) for column in output_columns(expr)
    ]
    return [Project(replace(expr, calls=(*others, *fused)), tuple(items))]


def _fusible(call: LlmCall) -> bool:
    return (
        call.fuse
        and call.kind in ("map", "classify", "extract")
        and sum(map(len, call.labels)) <= LABELS_CHARS
        and call.deterministic
        and call.on_error == "fail"
        and not call.sampling.stop
        and not call.fused
    )


def _same_values(expr: Any, memo: Memo) -> Columns:
    """Columns of the input -> the first one that a projection computes by the same expression."""
    found: dict[ColumnId, ColumnId] = {}
    for below in memo.expressions(expr.input):
        if isinstance(below, Project):
            first: dict[SqlExpr, ColumnId] = {}
            for column, value in below.exprs:
                if not value.volatile:
                    found.setdefault(column.id, first.setdefault(value, column.id))
    return found


def _alike(call: LlmCall, same: Columns) -> tuple[object, ...]:
    """What must be equal in calls that are asked together."""
    holes = frozenset(_hole(segment, same) for segment in call.prompt.user if not isinstance(segment, str))
    sampling = replace(call.sampling, max_tokens=0)
    return call.model, _own_system(call), sampling, call.cache, call.priority, call.guard, holes


def _own_system(call: LlmCall) -> str | None:
    """The user's part of the system message."""
    if not call.instructions:
        return call.prompt.system
    return (call.prompt.system or "").removesuffix(call.instructions).removesuffix("\n\n") or None


def _question(call: LlmCall, numbers: Mapping[object, int], same: Columns) -> str:
    """What is asked, with the numbers of the data in the places of the holes."""
    said = "".join(item if isinstance(item, str) else f"[{numbers[_hole(item, same)]}]" for item in call.prompt.user)
    return f"The text that the user gives is: {said}\n{call.instructions}" if call.instructions else said


def _hole(segment: Segment, same: Columns) -> object:
    """What a hole shows; an object in whatever order its fields are."""
    if isinstance(segment, ObjectHole):
        return frozenset((name, same.get(column, column)) for name, column in segment.fields)
    assert isinstance(segment, Hole), "of a group's inputs only calls of kind 'reduce' have holes"
    return same.get(segment.column, segment.column)


def _name(place: int) -> str:
    return f"q{place + 1}"


def _fused(calls: Sequence[LlmCall], same: Columns, ctx: PlanContext) -> LlmCall:
    first = calls[0]
    numbers: dict[object, int] = {}
    data: list[Segment] = []
    for segment in first.prompt.user:
        if not isinstance(segment, str) and _hole(segment, same) not in numbers:
            numbers[_hole(segment, same)] = len(numbers) + 1
            data += [f"\n\n[{len(numbers)}]:\n", segment]
    questions = [f"\n{_name(place)}: {_question(call, numbers, same)}" for place, call in enumerate(calls)]
    members = tuple((_name(place), call.returns) for place, call in enumerate(calls))
    text = f"STRUCT({', '.join(f'{name} {kind.text}' for name, kind in members)})"
    data[0] = HEAD + "".join(questions) + str(data[0]) if data else HEAD + "".join(questions)
    return replace(
        first,
        output=ctx.fresh(1 + min(call.output for call in calls)),
        kind="map",
        prompt=Prompt(tuple(data), _own_system(first)),
        returns=SqlType(text, "struct", members),
        sampling=replace(first.sampling, max_tokens=sum(call.sampling.max_tokens + MEMBER_ROOM for call in calls)),
        label=" + ".join(call.label for call in calls),
        labels=(),
        fuse=False,
        instructions="",
        fused=tuple(calls),
    )
