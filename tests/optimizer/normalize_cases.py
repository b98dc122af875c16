"""Plans for every normalize rule: where it fires and what comes out, where it must not fire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.ir.expr import ColumnId, ScopeTable, SqlExpr
from halo_sql.ir.logical import Distinct, Filter, Fragment, InputRef, Sink
from halo_sql.ir.types import BOOLEAN
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import OptimizerContext

from .plans import (
    BODIES,
    BODY,
    ID,
    TITLES,
    A,
    T,
    U,
    call,
    col,
    context,
    cte,
    first_rows,
    groups,
    holes,
    join,
    limit,
    llm_filter,
    llm_map,
    order_by,
    project,
    reduced,
    sample,
    sql,
    top_k,
    union,
    where,
)

H, S, R, K = col(10, "h"), col(20, "s"), col(21, "r"), col(5, "k")
MAPPED = llm_map(T, call(20, "x {3}"))
KEPT = llm_filter(T, 11, "y {3}")
SCOPED = SqlExpr(("id IN (SELECT id FROM u)",), BOOLEAN, (ScopeTable("t", (("id", ColumnId(1)),)),))


CAST_BODY = "CAST(#3 AS VARCHAR)"
RANDOM = sql("random()", volatile=True)


def two_readings(plan: Any) -> Fragment:
    """A self-join of a CTE."""
    readers = (cte(plan, 1, 40), cte(plan, 1, 50))
    refs = tuple(
        InputRef(index, tuple((column.name, column.id) for column in output_columns(reader)))
        for index, reader in enumerate(readers)
    )
    return Fragment(("SELECT l.id FROM ", refs[0], " l, ", refs[1], " r"), (col(60, "id"),), readers)


#: rule -> (plan, its shape afterwards)
FIRES: dict[str, list[tuple[Any, str]]] = {
    "inline_single_cte": [(cte(MAPPED, 1, 40), "Project > LlmMap('x {3}') > Fragment")],
    "merge_projects": [
        (project(project(T, ID, (H, "CAST(#3 AS VARCHAR)")), H), "Project > Fragment"),
        (project(project(T, ID, (H, "#2 + 1")), (S, "#10 * 2"), ID), "Project > Fragment"),
        (project(T, *T.columns), "Fragment"),
        (project(project(T, (H, RANDOM)), H), "Project > Fragment"),
    ],
    "fold_constant_prompts": [
        (llm_map(holes(T, (H, "'b''s'")), call(20, "a {10} c {3}")), "LlmMap('a {10} c {3}') > Project > Fragment"),
        (
            llm_filter(where(holes(T, (H, "CAST('b' AS VARCHAR)")), "#2 > 1"), 20, "a {10}"),
            "LlmFilter('a {10}') > Filter(#2 > 1) > Project > Fragment",
        ),
    ],
    "lift_llm_above_fragment": [
        (first_rows(MAPPED, 20), "Project > LlmMap('x {3}') > Project > Fragment > Fragment"),
        (
            first_rows(llm_map(T, call(20, "x {3} {4}")), 20),
            "Project > LlmMap('x {3} {4}') > Project > Fragment > Project > Fragment",
        ),
        (
            first_rows(llm_map(T, call(20, "x {3}"), call(21, "y {4}")), 20, order=21),
            "Project > LlmMap('x {3}') > Project > Fragment > LlmMap('y {4}') > Fragment",
        ),
        (
            first_rows(llm_map(holes(MAPPED, (H, "upper(#20)")), call(21, "y {10}")), 21),
            "Project > LlmMap('y {10}') > Project > LlmMap('x {3}') > Project > Fragment > Project > Fragment",
        ),
    ],
    "push_filter_into_arms": [
        (where(union(MAPPED), "#61 > 1"), "Filter(#61 > 1) > Fragment > LlmMap('x {3}') > Filter(#2 > 1) > Fragment"),
        (
            where(where(union(MAPPED), "#61 > 1"), "#60 > 1"),
            "Filter(#60 > 1) > Filter(#61 > 1) > Fragment > LlmMap('x {3}') > "
            "Filter(#1 > 1) > Filter(#2 > 1) > Fragment",
        ),
    ],
    "push_filter_below_llm": [
        (where(MAPPED, "#2 > 1"), "LlmMap('x {3}') > Filter(#2 > 1) > Fragment"),
        (where(KEPT, "#2 > 1"), "LlmFilter('y {3}') > Filter(#2 > 1) > Fragment"),
        (
            where(project(MAPPED, ID, S, (H, "#2 + 1")), "#10 > 1"),
            "Project > LlmMap('x {3}') > Filter((#2 + 1) > 1) > Fragment",
        ),
        (where(order_by(KEPT, "#1"), "#2 > 1"), "Sort > LlmFilter('y {3}') > Filter(#2 > 1) > Fragment"),
        (
            where(where(MAPPED, "#20 = 'a'"), "#2 > 1"),
            "Filter(#20 = 'a') > LlmMap('x {3}') > Filter(#2 > 1) > Fragment",
        ),
        (Filter(KEPT, SCOPED), "LlmFilter('y {3}') > Filter(id IN (SELECT id FROM u)) > Fragment"),
        (where(MAPPED, "f(#2) > 1", row_wise=False), "LlmMap('x {3}') > Filter(f(#2) > 1) > Fragment"),
    ],
    "filter_into_join": [
        (where(join(T, U), "#2 > 1"), "Join inner(#2 = #5 AND #2 > 1) > [Fragment | Fragment]"),
        (where(join(T, U, on=()), "#2 = #5"), "Join inner(#2 = #5) > [Fragment | Fragment]"),
        (
            where(project(join(T, U), ID, (H, "upper(#6)")), "#10 = 'X'"),
            "Project > Join inner(#2 = #5 AND (upper(#6)) = 'X') > [Fragment | Fragment]",
        ),
        (where(join(T, U, kind="left"), "#2 > 1"), "Join left(#2 = #5) > [Filter(#2 > 1) > Fragment | Fragment]"),
        (where(join(T, U, kind="anti"), "#2 > 1"), "Join anti(#2 = #5) > [Filter(#2 > 1) > Fragment | Fragment]"),
    ],
    "push_join_condition_below_llm": [
        (
            join(MAPPED, U, on=("#2 = #5", "#1 > 3")),
            "Join inner(#2 = #5) > [LlmMap('x {3}') > Filter(#1 > 3) > Fragment | Fragment]",
        ),
        (
            join(U, KEPT, on=("#2 = #5", "#1 > 3"), kind="left"),
            "Join left(#2 = #5) > [Fragment | LlmFilter('y {3}') > Filter(#1 > 3) > Fragment]",
        ),
        (
            join(MAPPED, U, on=("#2 = #5", "#1 > 3"), kind="semi"),
            "Join semi(#2 = #5) > [LlmMap('x {3}') > Filter(#1 > 3) > Fragment | Fragment]",
        ),
        (
            join(U, KEPT, on=("#2 = #5", "#1 > 3"), kind="anti"),
            "Join anti(#2 = #5) > [Fragment | LlmFilter('y {3}') > Filter(#1 > 3) > Fragment]",
        ),
    ],
    "lift_project_above_join": [
        (
            join(project(KEPT, ID, (H, "#2")), U, on=("#10 = #5",)),
            "Project > Join inner(#2 = #5) > [LlmFilter('y {3}') > Fragment | Fragment]",
        ),
        (
            join(U, project(MAPPED, A, (H, "upper(#20)"))),
            "Project > Join inner(#2 = #5) > [Fragment | LlmMap('x {3}') > Fragment]",
        ),
        (
            join(U, project(MAPPED, A, S), kind="left"),
            "Project > Join left(#2 = #5) > [Fragment | LlmMap('x {3}') > Fragment]",
        ),
        (
            join(project(MAPPED, A, (H, "upper(#20)")), project(llm_map(U, call(22, "z {6}")), K), kind="anti"),
            "Project > Join anti(#2 = #5) > [LlmMap('x {3}') > Fragment | LlmMap('z {6}') > Fragment]",
        ),
    ],
    "push_limit_below_llm": [
        (limit(MAPPED, 10), "LlmMap('x {3}') > Limit > Fragment"),
        (limit(project(MAPPED, S, (H, "#2 + 1")), 10, 5), "Project > LlmMap('x {3}') > Limit > Fragment"),
        (limit(project(KEPT, ID), 10), "Project > Limit > LlmFilter('y {3}') > Fragment"),
        (limit(order_by(MAPPED, "#1"), 10), ""),
    ],
    "top_k_below_llm": [
        (top_k(MAPPED, 21, "z {3}", 2), "LlmMap('x {3}') > LlmTopK('z {3}') > Fragment"),
        (
            top_k(project(MAPPED, S, (H, "#3")), 21, "z {10}", 2),
            "Project > LlmMap('x {3}') > LlmTopK('z {10}') > Fragment",
        ),
        (
            top_k(llm_map(KEPT, call(20, "x {3}")), 21, "z {3}", 2),
            "LlmMap('x {3}') > LlmTopK('z {3}') > LlmFilter('y {3}') > Fragment",
        ),
    ],
    "sort_below_llm": [
        (order_by(MAPPED, "#1"), "LlmMap('x {3}') > Sort > Fragment"),
        (order_by(KEPT, "#1"), "LlmFilter('y {3}') > Sort > Fragment"),
        (order_by(project(MAPPED, ID, S, (H, "#2 + 1")), "#10"), "Project > LlmMap('x {3}') > Sort > Fragment"),
        (order_by(where(MAPPED, "#20 = 'a'"), "#1"), "Filter(#20 = 'a') > LlmMap('x {3}') > Sort > Fragment"),
        (
            order_by(llm_map(llm_filter(MAPPED, 22, "y {3}"), call(21, "z {20}")), "#20"),
            "LlmMap('z {20}') > Sort > LlmFilter('y {3}') > LlmMap('x {3}') > Fragment",
        ),
    ],
    "push_project_below_llm": [
        (project(MAPPED, S, (H, "#2 + 1")), "Project > LlmMap('x {3}') > Project > Fragment"),
        (project(KEPT, ID, (H, "CAST(#3 AS VARCHAR)")), "Project > LlmFilter('y {3}') > Project > Fragment"),
        (
            project(limit(KEPT, 3), ID, (H, "coalesce(#3, 'none') || '::' || upper(#4)")),
            "Project > Limit > LlmFilter('y {3}') > Project > Fragment",
        ),
        (
            project(llm_map(KEPT, call(20, "x {3}")), S, (H, "#2 + 1")),
            "Project > LlmMap('x {3}') > Project > LlmFilter('y {3}') > Fragment",
        ),
    ],
    "lift_pick_above_llm": [
        (
            llm_map(project(MAPPED, (H, "#3"), S), call(21, "z {10}")),
            "Project > LlmMap('z {10}') > LlmMap('x {3}') > Fragment",
        ),
        (
            llm_filter(project(KEPT, (H, "#3")), 21, "z {10}"),
            "Project > LlmFilter('z {10}') > LlmFilter('y {3}') > Fragment",
        ),
        (
            where(project(MAPPED, (H, "#20"), BODY), "#10 = 'a'"),
            "Project > Filter(#20 = 'a') > LlmMap('x {3}') > Fragment",
        ),
    ],
    "merge_equal_calls": [
        (llm_map(T, call(20, "x {3}"), call(21, "x {3}")), "Project > LlmMap('x {3}') > Fragment"),
        (llm_map(MAPPED, call(21, "x {3}")), "Project > LlmMap('x {3}') > Fragment"),
        (
            llm_map(holes(T, (H, CAST_BODY), (col(12), CAST_BODY)), call(20, "x {10}"), call(21, "x {12}")),
            "Project > LlmMap('x {10}') > Project > Fragment",
        ),
        (
            llm_filter(llm_map(T, call(20, "y {3}", kind="filter")), 21, "y {3}"),
            "Filter(#20) > LlmMap('y {3}') > Fragment",
        ),
    ],
    "merge_llm_maps": [
        (llm_map(MAPPED, call(21, "z {3}")), "LlmMap('x {3}', 'z {3}') > Fragment"),
    ],
    "distinct_before_llm": [
        (MAPPED, "LlmMap('x {3}') > Fragment"),
        (KEPT, "LlmFilter('y {3}') > Fragment"),
    ],
    "drop_unused_calls": [
        (project(MAPPED, ID), "Project > Fragment"),
        (project(llm_map(T, call(20, "x {3}"), call(21, "z {3}")), R), "Project > LlmMap('z {3}') > Fragment"),
        (project(where(llm_map(MAPPED, call(21, "u {20}")), "#2 > 1"), ID), "Project > Filter(#2 > 1) > Fragment"),
    ],
    "prune_columns": [
        (project(order_by(project(T, ID, A, BODY), "#2"), ID), "Project > Sort > Project > Fragment"),
        (
            project(llm_map(project(T, ID, A, BODY), call(20, "x {3}")), S),
            "Project > LlmMap('x {3}') > Project > Fragment",
        ),
    ],
    "narrow_inputs": [
        (project(MAPPED, S), "Project > LlmMap('x {3}') > Project > Fragment"),
        (project(order_by(MAPPED, "#20"), S), "Project > Sort > Project > LlmMap('x {3}') > Project > Fragment"),
        (project(llm_map(T, call(20, "a constant")), S), "Project > LlmMap('a constant') > Project > Fragment"),
    ],
    "order_object_fields": [
        (llm_map(T, call(20, "about {3, 4}")), "LlmMap('about {3, 4}') > Fragment"),
        (llm_filter(T, 20, "about {3, 4}"), "LlmFilter('about {3, 4}') > Fragment"),
        (top_k(T, 20, "about {3, 4}", 2), "LlmTopK('about {3, 4}') > Fragment"),
    ],
}  # fmt: skip

#: rule -> plans it must leave alone
STAYS: dict[str, list[Any]] = {
    "inline_single_cte": [two_readings(MAPPED)],
    "merge_projects": [
        project(project(T, (H, RANDOM)), (S, "#10 + #10")),
        project(project(T, (H, RANDOM)), (S, "#10 + 1")),
        project(project(T, (H, "expensive(#3)"), ID), (S, "#10 || #10")),
        project(T, A, ID),
    ],
    "fold_constant_prompts": [
        llm_map(holes(T, (H, "NULL")), call(20, "a {10}")),
        llm_map(holes(T, (H, "DATE '2024-01-01'")), call(20, "a {10}")),
        llm_map(holes(T, (H, "CAST(#3 AS VARCHAR)")), call(20, "a {10} b")),
    ],
    "lift_llm_above_fragment": [
        first_rows(MAPPED, 20, order=20),
        first_rows(llm_map(T, call(20, "x {3}", volatile=True)), 20),
        first_rows(MAPPED, 3),
        replace(first_rows(MAPPED, 20), carried=()),
        first_rows(llm_map(MAPPED, call(21, "y {20}")), 20, order=21),
    ],
    "push_filter_into_arms": [
        where(union(MAPPED), "#64 = 'a'"),
        where(union(T), "#61 > 1"),
        where(union(MAPPED), "#61 > random()", volatile=True),
        where(replace(union(MAPPED), by_position=False), "#61 > 1"),
        where(replace(union(MAPPED), columns=tuple(col(60 + at, "c") for at in range(5))), "#61 > 1"),
    ],
    "push_filter_below_llm": [
        where(MAPPED, "#20 = 'a'"),
        where(limit(MAPPED, 10), "#2 > 1"),
        where(MAPPED, "random() < 0.5", volatile=True),
        where(KEPT, "row_number() OVER (ORDER BY #1) = 1", row_wise=False),
        where(Distinct(MAPPED), "#2 > 1"),
        where(T, "#2 > 1"),
        where(Fragment(("SELECT count(*) FROM ", InputRef(0, (("s", S.id),))), (H,), (MAPPED,)), "#10 = 'a'"),
        two_readings(where(T, "#2 > 1")),
    ],
    "filter_into_join": [
        where(join(T, U), "random() < 0.5", volatile=True),
        where(join(T, U, kind="left"), "#6 IS NULL"),
        where(join(T, U, kind="left"), "1 > 2"),
        where(limit(join(T, U), 3), "#2 > 1"),
        Filter(join(T, U), SCOPED),
    ],
    "push_join_condition_below_llm": [
        join(MAPPED, U, on=("#2 = #5", "#20 = 'a'")),
        join(MAPPED, U, on=("#2 = #5", "#1 > 3"), kind="left"),
        join(MAPPED, U, on=("#2 = #5", "#1 > 3"), kind="anti"),
        join(T, U, on=("#2 = #5", "#1 > 3")),
        join(limit(MAPPED, 3), U, on=("#2 = #5", "#1 > 3")),
    ],
    "lift_project_above_join": [
        join(project(T, A, (H, "upper(#3)")), U),
        join(project(MAPPED, (H, "#20 || '!'")), U, on=("#10 = #6",)),
        join(U, project(MAPPED, A, (H, "coalesce(#20, '-')")), kind="left"),
        join(project(MAPPED, A, (H, RANDOM)), U),
    ],
    "push_limit_below_llm": [
        limit(KEPT, 10),
        limit(where(MAPPED, "#20 = 'a'"), 10),
        limit(project(MAPPED, (H, RANDOM)), 10),
        limit(order_by(MAPPED, "#20"), 10),
        limit(T, 10),
    ],
    "top_k_below_llm": [
        top_k(MAPPED, 21, "z {20}", 2),
        top_k(project(MAPPED, (H, "#20")), 21, "z {10}", 2),
        top_k(project(MAPPED, (H, "upper(#3)")), 21, "z {10}", 2),
        top_k(KEPT, 21, "z {3}", 2),
        top_k(limit(MAPPED, 5), 21, "z {3}", 2),
    ],
    "sort_below_llm": [
        order_by(MAPPED, "#20"),
        order_by(KEPT, "CAST(#3 AS INTEGER)"),
        order_by(llm_filter(MAPPED, 21, "y {3}"), "#20"),
        order_by(project(MAPPED, (H, "#20"), ID), "#10"),
        order_by(T, "#1"),
    ],
    "push_project_below_llm": [
        project(KEPT, (H, "CAST(#3 AS INTEGER)")),
        project(MAPPED, (H, "upper(#20)")),
        project(MAPPED, (H, RANDOM)),
        project(T, (H, "#2 + 1")),
        project(limit(KEPT, 3), (H, "#2 / 0")),
        project(project(MAPPED, S), (ID, "CAST(NULL AS INTEGER)")),  # another id is in the rows of the map
    ],
    "lift_pick_above_llm": [
        llm_filter(holes(KEPT, (H, "#2 + 1")), 21, "z {10}"),
        llm_map(project(T, BODY), call(20, "x {3}")),
    ],
    "merge_equal_calls": [
        llm_map(T, call(20, "x {3}", volatile=True), call(21, "x {3}", volatile=True)),
        llm_map(T, call(20, "x {3}", guard=ColumnId(2)), call(21, "x {3}", guard=ColumnId(1))),
        llm_map(T, call(20, "x {3}"), call(21, "x {3}", model="other")),
        llm_map(T, call(20, "x {3}"), call(21, "x {3}", on_error="null")),
        llm_map(T, call(20, "x {3}"), call(21, "x {4}")),
    ],
    "merge_llm_maps": [
        llm_map(MAPPED, call(21, "z {20}")),
        llm_map(MAPPED, call(21, "z {3}", guard=ColumnId(20))),
        llm_map(MAPPED, call(21, "z {3}", volatile=True)),
        llm_map(reduced(groups(T, 30), 20, "sum", 31), call(21, "z {30}")),
    ],
    "distinct_before_llm": [
        reduced(groups(T, 30), 20, "sum", 31),
        llm_map(T, call(20, "x {3}", volatile=True)),
        llm_filter(T, 20, "x {3}", volatile=True),
    ],
    "drop_unused_calls": [
        project(where(MAPPED, "#20 = 'a'"), ID),
        project(llm_map(MAPPED, call(21, "u {20}")), R),
        project(order_by(MAPPED, "#20"), ID),
        Sink(MAPPED, "INSERT INTO u ", "", (("s", S.id),), "insert"),
        two_readings(MAPPED),
    ],
    "prune_columns": [
        project(Distinct(project(T, ID, A)), ID),
        two_readings(project(T, ID, A)),
        project(where(project(T, ID, A), "#2 > 1"), ID),
    ],
    "narrow_inputs": [MAPPED, project(where(T, "#2 > 1"), ID)],
    "order_object_fields": [
        llm_map(T, call(21, "about {3, 4}")),  # of a source that could not be sampled
        llm_map(T, call(22, "about {4, 3}")),
        llm_map(T, call(23, "{3} about {3, 4}")),
        MAPPED,
    ],
}

#: what a rule needs to know
KNOWN: dict[str, OptimizerContext] = {
    "order_object_fields": context(
        objects={
            ColumnId(20): (sample(c3=BODIES, c4=TITLES),),
            ColumnId(22): (sample(c4=TITLES, c3=BODIES),),
            ColumnId(23): (sample(before=BODIES, c3=BODIES, c4=TITLES),),
        }
    )
}
