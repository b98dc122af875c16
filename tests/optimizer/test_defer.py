"""Which failures wait, for what, on which way; and plans whose order has to stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.physical import Deferral, DuckFragmentExec, LlmFilterExec, LlmMapExec, PhysicalDag, SettleExec
from halo_sql.ir.sql import render
from halo_sql.ir.types import BIGINT, BOOLEAN
from halo_sql.optimizer.comparisons import never_fails
from halo_sql.optimizer.context import EngineProfile, Limits
from halo_sql.optimizer.defer import CannotWaitError, defer_failures
from halo_sql.optimizer.written import Conditions, as_written

from .plans import (
    BODY,
    ID,
    TITLE,
    T,
    U,
    call,
    col,
    context,
    cte,
    join,
    limit,
    llm_filter,
    llm_map,
    operators,
    order_by,
    plan_of,
    project,
    sql,
    well_formed,
    where,
)

LONG = "long " * 900
#: b is dear and comes first as written, a is cheap
SWAPPED = llm_filter(llm_filter(T, 21, LONG + "{3}"), 22, "a {4}")


def deferrals(dag: PhysicalDag) -> dict[str, Deferral]:
    """Operators whose failures wait, by their first call."""
    found = {}
    for node in dag.nodes:
        op = node.op
        if isinstance(op, LlmFilterExec | LlmMapExec) and op.failed is not None:
            found[op.call.label if isinstance(op, LlmFilterExec) else op.calls[0].label] = op.failed
    return found


def test_a_filter_made_early_waits_for_the_one_it_overtook() -> None:
    dag = plan_of(SWAPPED, context(rows=50)).dag
    well_formed(dag)
    names = [name.split("(")[0] for name in operators(dag)]
    assert names == ["DuckFragment", "LlmFilter", "LlmFilter", "Settle"]
    (deferral,) = deferrals(dag).values()
    assert [waited.output for waited in deferral.filters] == [21]
    assert deferral.conditions == ()
    second, settle = dag.nodes[2], dag.nodes[3]
    assert isinstance(second.op, LlmFilterExec)
    assert second.op.passing == ()  # the row waits for this one
    assert deferral.column in second.columns
    assert settle.columns == T.columns
    assert isinstance(settle.op, SettleExec)
    assert [settled.output for settled in settle.op.calls] == [22]


def test_nothing_waits_without_a_new_order_or_where_failures_give_null() -> None:
    for plan in (
        llm_filter(llm_filter(T, 21, "b {3}"), 22, LONG + "{4}"),
        llm_filter(llm_filter(T, 21, LONG + "{3}"), 22, "a {4}", on_error="null"),
        llm_map(llm_filter(T, 21, "b {3}"), call(22, "x {4}")),
    ):
        dag = plan_of(plan, context(rows=50)).dag
        assert deferrals(dag) == {}
        assert "Settle" not in operators(dag)
    assert deferrals(plan_of(SWAPPED, context(rows=50, enabled=False)).dag) == {}


def test_a_failed_answer_passes_the_sql_filter_that_reads_it() -> None:
    mapped = llm_map(llm_filter(T, 21, LONG * 3 + "{3}"), call(20, "x {3}", kind="filter"))
    dag = plan_of(where(mapped, "#20 = TRUE"), context(rows=1000)).dag
    well_formed(dag)
    (step,) = [node.op for node in dag.nodes if isinstance(node.op, DuckFragmentExec) and node.op.streaming]
    (deferral,) = deferrals(dag).values()
    assert f"((c20 = TRUE) OR c{deferral.column.id} IS NOT NULL)" in render(step.tree, ["x"])


def test_a_filter_before_a_sql_filter_waits_for_that() -> None:
    plan = llm_filter(where(llm_map(T, call(20, LONG + "{3}")), "#20 = 'a'"), 21, "y {3}")
    dag = plan_of(plan, context(rows=1000)).dag
    (deferral,) = deferrals(dag).values()
    assert deferral.conditions == (sql("#20 = 'a'", BOOLEAN),)
    assert operators(dag)[-1] == "Settle"
    step = next(node.op for node in dag.nodes if isinstance(node.op, DuckFragmentExec) and node.op.streaming)
    assert "OR" not in render(step.tree, ["x"])  # the row waits for this condition


def test_long_rows_ordered_by_rank_wait_too() -> None:
    plan: Any = SWAPPED
    for number in range(30, 36):
        plan = llm_filter(plan, number, f"{number} {LONG * (number - 28)}{{3}}")
    dag = plan_of(plan, context(rows=50, limits=Limits(chain=3))).dag
    well_formed(dag)
    (deferral,) = deferrals(dag).values()
    assert [waited.output for waited in deferral.filters] == [21]


def test_the_column_passes_projections_sorts_and_clustering() -> None:
    scored = llm_map(llm_filter(T, 21, LONG * 3 + "{3}"), call(20, "x {3}", kind="filter"))
    plan = project(order_by(where(scored, "#20 = TRUE"), "#20"), ID, BODY, TITLE)
    small = EngineProfile(window_requests=4, kv_capacity_tok=2000)
    for ctx in (context(rows=1000), context(rows=1000, distinct={3: 10}, chars={3: 400}, engines={"m": small})):
        dag = plan_of(plan, ctx).dag
        well_formed(dag)
        assert dag.node(dag.root).columns == (ID, BODY, TITLE)


def test_a_limit_stops_calls_that_could_move_below_a_join() -> None:
    # over the rows of t that find partners the filter would read 2,000 rows instead of as many pairs as are wanted
    asked = llm_filter(join(T, U, on=()), 21, "y {3}")
    assert "DuckFragment(Join($0, Fragment))" in operators(plan_of(asked, context(rows=2000)).dag)
    done = plan_of(limit(asked, 400_000), context(rows=2000))
    (op,) = [node.op for node in done.dag.nodes if isinstance(node.op, LlmFilterExec)]
    assert op.by_turn
    assert operators(done.dag)[-1] == "Limit(400000)"
    assert any("orders not explored" in note for note in done.dag.notes)


def test_an_order_whose_failures_cannot_wait_is_given_up() -> None:
    dag = plan_of(SWAPPED, context(rows=50)).dag
    nodes = [node for node in dag.nodes if not isinstance(node.op, SettleExec)]
    # as if something that counts rows stood between the two
    written = limit(llm_filter(limit(T, 5), 22, "a {4}"), 3)
    with pytest.raises(CannotWaitError):
        defer_failures(written, [plan_of(T, context()).dag.nodes[0], *eager(nodes)], 1, ColumnId(99))


def eager(nodes: Any) -> list[Any]:
    """The operator of call 22, made for all rows."""
    found = next(node for node in nodes if isinstance(node.op, LlmFilterExec) and node.op.call.output == 22)
    return [replace(found, id=1, inputs=(0,), op=replace(found.op, by_turn=False, failed=None))]


def test_what_calls_come_after() -> None:
    conditions = Conditions()
    plan = llm_map(where(llm_filter(join(T, where(U, "#5 > 1")), 21, "b {3}"), "#2 > 3"), call(22, "x {3}"))
    written = as_written(plan, conditions)
    joined = conditions.of([sql("#2 = #5", BOOLEAN), sql("#5 > 1", BOOLEAN)])
    assert written.after[ColumnId(21)] == joined
    own = conditions.of([ColumnId(21), sql("#2 > 3", BOOLEAN)])
    assert written.after[ColumnId(22)] == joined | own
    assert written.whole == {21, 22}


@pytest.mark.parametrize(
    ("plan", "whole"),
    [
        (limit(llm_filter(T, 21, "b {3}"), 3), set()),
        (limit(where(llm_map(T, call(20, "x {3}")), "#20 = 'a'"), 3), set()),
        (limit(llm_filter(T, 21, "b {3}"), None, 2), {21}),
        (limit(order_by(llm_filter(T, 21, "b {3}"), "#1"), 3), {21}),
        (limit(join(llm_filter(T, 21, "b {3}"), U), 3), {21}),
        (limit(cte(llm_filter(T, 21, "b {3}"), 1, 100), 3), {21}),
        (llm_map(limit(llm_filter(T, 21, "b {3}"), 3), call(20, "x {3}")), {20}),
    ],
)
def test_calls_that_a_limit_stops(plan: Any, whole: set[int]) -> None:
    assert as_written(plan, Conditions()).whole == whole


TEXT, OTHER, FLAG = col(30), col(31), Column(ColumnId(32), "flag", BOOLEAN)
WIDE = Column(ColumnId(33), "wide", BIGINT)
KNOWN = (TEXT, OTHER, FLAG, WIDE, ID)
SAFE = (
    "#30 = 'a'",
    "#30 <> #31 AND #30 IS NOT NULL",
    "#30 IN ('a', 'it''s') OR NOT (#31 LIKE 'b%')",
    "#32",
    "NOT #32 AND #32 IS NOT NULL",
    "#33 >= 3 AND #1 < 4.5",
    "#33 BETWEEN 1 AND 3",
    "#1 = #33",
    "coalesce(#30, '') IS NULL",
)
UNSAFE = (
    "#30 = 3",
    "#30 = #33",
    "CAST(#30 AS INTEGER) = 3",
    "#30::DATE = #31",
    "#33 + 1 > 3",
    "#33 - 1 > 3",
    "#33 -1 > 3",
    "length(#30) > 3",
    "error(#30) = 'a'",
    "#30 = '1' AND #33 = 1",
    "row_number() OVER (ORDER BY #30) = 1",
    "#30 = ANY (SELECT 'a')",
)


@pytest.mark.parametrize("text", SAFE)
def test_predicates_that_never_fail(text: str) -> None:
    assert never_fails(sql(text, BOOLEAN), KNOWN)


@pytest.mark.parametrize("text", UNSAFE)
def test_predicates_that_may_fail(text: str) -> None:
    assert not never_fails(sql(text, BOOLEAN), KNOWN)


def test_volatile_and_windowed_predicates_are_not_tried() -> None:
    assert not never_fails(sql("#30 = 'a'", BOOLEAN, volatile=True), KNOWN)
    assert not never_fails(sql("#30 = 'a'", BOOLEAN, row_wise=False), KNOWN)


CHEAP = llm_map(llm_filter(T, 21, LONG * 3 + "{3}"), call(20, "x {3}"))


@pytest.mark.parametrize(
    ("predicate", "first"),
    [("#20 = 'a'", "LlmMap('x {3}')"), ("CAST(#20 AS INTEGER) = 1", "LlmFilter"), ("#20 = 1", "LlmFilter")],
)
def test_a_condition_that_may_fail_on_an_answer_stays_behind_the_filter(predicate: str, first: str) -> None:
    dag = plan_of(where(CHEAP, predicate), context(rows=1000)).dag
    assert next(name for name in operators(dag) if name.startswith("Llm")).startswith(first)


def test_a_window_over_answers_stays_behind_the_filter() -> None:
    plan = where(CHEAP, "row_number() OVER (ORDER BY #20) = 1", row_wise=False)
    names = [name.split("(")[0] for name in operators(plan_of(plan, context(rows=1000)).dag)]
    assert names.index("LlmFilter") < names.index("LlmMap")


@pytest.mark.parametrize("chain", [0, 6])
@pytest.mark.parametrize(("condition", "above"), [("#2 = #5", True), ("CAST(#3 AS INTEGER) = #5", False)])
def test_a_join_whose_condition_may_fail_stays_above_the_filter(condition: str, above: bool, chain: int) -> None:
    # few rows of t find partners: asking them only would pay
    asked = llm_filter(T, 21, "y {3}")
    asked = asked if chain else llm_filter(asked, 22, "z {3}")
    names = operators(plan_of(join(asked, U, on=(condition,)), context(rows=10, limits=Limits(chain=chain))).dag)
    joined = next(place for place, name in enumerate(names) if "Join" in name)
    assert (joined < names.index("LlmFilter('y {3}')")) == above
