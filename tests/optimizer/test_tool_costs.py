"""What calls of tools are taken to cost, and what that decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halo_sql.ir.logical import AgentApply, Fragment, InputRef
from halo_sql.ir.physical import ToolApplyExec
from halo_sql.ir.types import SqlType
from halo_sql.optimizer.cardinality import Profile, derive
from halo_sql.optimizer.context import NEVER, OptimizerContext, ToolProfile
from halo_sql.optimizer.cost import llm_estimate
from halo_sql.optimizer.tool_cost import JOIN_MOST, calls_s, join_from, joins_s, tool_s

from .plans import BODY, ID, T, call, col, context, limit, llm_filter, operators, plan_of, project, tool_apply, where

LOOK_UP = ToolProfile(call_s=0.001, p90_s=0.002, concurrency=1, join_from=5, join_s=0.004, join_call_s=0.00002)
LIST = SqlType("STRUCT(v VARCHAR)[]", "list")


def test_calls_take_their_share_of_what_the_tool_does_at_once() -> None:
    tool = ToolProfile(call_s=0.1, p90_s=0.3, concurrency=10)
    assert calls_s(tool, 0) == 0
    assert calls_s(tool, 1) == pytest.approx(0.3), "it may be a slow one"
    assert calls_s(tool, 0.5) == pytest.approx(0.15)
    assert calls_s(tool, 1000) == pytest.approx(10)


def test_a_rate_limit_is_a_least_time() -> None:
    assert calls_s(ToolProfile(call_s=0.1, concurrency=100, rate_per_s=5), 1000) == pytest.approx(200)


def test_a_join_pays_from_where_its_start_is_earned() -> None:
    start = join_from(LOOK_UP.call_s, LOOK_UP.join_s, LOOK_UP.join_call_s)
    assert start == 5
    assert joins_s(LOOK_UP, start) < start * LOOK_UP.call_s
    assert joins_s(LOOK_UP, start - 1) > (start - 1) * LOOK_UP.call_s
    assert join_from(0.5, 0.001, 0.001) == 2, "one call is no join"
    assert join_from(0.001, 0.004, 0.001) == join_from(0.001, 5.0, 0.0) == NEVER


def test_calls_are_priced_as_they_will_be_run() -> None:
    assert tool_s(LOOK_UP, 4) == pytest.approx(0.004)
    assert tool_s(LOOK_UP, 5) == pytest.approx(0.004 + 5 * 0.00002)
    assert tool_s(LOOK_UP, JOIN_MOST + 1) == pytest.approx(2 * 0.004 + (JOIN_MOST + 1) * 0.00002)


@pytest.mark.parametrize(("rows", "joined"), [(4, False), (5, True)])
def test_the_plan_says_how_the_calls_are_expected_to_run(rows: int, joined: bool) -> None:
    done = plan_of(tool_apply(T, 20, "t {3}", "look"), context(rows=rows, tools={"look": LOOK_UP}))
    (op,) = (node.op for node in done.dag.nodes if isinstance(node.op, ToolApplyExec))
    assert (op.join_from, op.joined) == ((5,), (joined,))


def test_a_limit_means_few_calls() -> None:
    plan = limit(tool_apply(T, 20, "t {3}", "look"), 3)
    done = plan_of(where(plan, "#20 = 'a'"), context(rows=1000, tools={"look": LOOK_UP}))
    (op,) = (node.op for node in done.dag.nodes if isinstance(node.op, ToolApplyExec))
    assert op.joined == (False,)


@pytest.mark.parametrize(("call_s", "first"), [(10.0, "LlmFilter('y {3}')"), (1e-4, "ToolApply('t {3}')")])
def test_a_slow_tool_comes_after_an_llm_filter_and_a_cheap_one_before_it(call_s: float, first: str) -> None:
    tools = {"t": ToolProfile(call_s=call_s, p90_s=call_s)}
    for plan in (
        llm_filter(where(tool_apply(T, 20, "t {3}", "t"), "#20 = 'a'"), 21, "y {3}"),
        where(tool_apply(llm_filter(T, 21, "y {3}"), 20, "t {3}", "t"), "#20 = 'a'"),
    ):
        found = [name for name in operators(plan_of(plan, context(rows=1000, tools=tools)).dag) if "{3}" in name]
        assert found[0] == first


@pytest.mark.parametrize(("slow", "first"), [("a", "ToolApply('b {3}')"), ("b", "ToolApply('a {3}')")])
def test_the_cheap_one_of_two_tools_is_asked_first(slow: str, first: str) -> None:
    tools = {name: ToolProfile(*((1.0, 1.0) if name == slow else (0.01, 0.01))) for name in ("a", "b")}
    lower = where(tool_apply(T, 20, "a {3}", "a"), "#20 = 'x'")
    plan = where(tool_apply(lower, 21, "b {3}", "b"), "#21 = 'x'")
    found = [name for name in operators(plan_of(plan, context(rows=1000, tools=tools)).dag) if "{3}" in name]
    assert found[0] == first


def test_volatile_tools_keep_their_place() -> None:
    tools = {"a": ToolProfile(call_s=1.0), "b": ToolProfile(call_s=0.001)}
    lower = where(tool_apply(T, 20, "a {3}", "a", volatile=True), "#20 = 'x'")
    plan = where(tool_apply(lower, 21, "b {3}", "b", volatile=True), "#21 = 'x'")
    found = [name for name in operators(plan_of(plan, context(rows=1000, tools=tools)).dag) if "{3}" in name]
    assert found[0] == "ToolApply('a {3}')"


def test_tables_multiply_rows_by_what_was_learnt() -> None:
    tools = {"t": ToolProfile(rows=7.0, chars=300.0)}
    options = OptimizerContext(tools=tools)
    one = call(20, "t {3}", kind="tool", model="", target="t")
    applied = tool_apply(T, 20, "t {3}", "t")
    applied = replace(applied, calls=(replace(one, returns=LIST),))
    ref = InputRef(0, (("id", ID.id), ("v", one.output)))
    rows = Fragment(
        ("SELECT id, unnest(v) FROM ", ref), (col(30), col(31)), (applied,), row_wise=True, unnested=one.output
    )
    source = derive(applied, [Profile(100.0, {})], options)
    assert source.known(one.output).chars == 300
    assert derive(rows, [source], options).rows == 700
    assert derive(rows, [derive(applied, [Profile(100.0, {})], OptimizerContext())], OptimizerContext()).rows == 100
    assert derive(replace(rows, unnested=None), [source], options).rows == 100


def test_a_limit_above_a_table_asks_for_the_fewer_calls_the_more_rows_each_gives() -> None:
    def read(each: float) -> float:
        tools = {"t": ToolProfile(rows=each)}
        applied = replace(tool_apply(T, 20, "t {3}", "t"))
        applied = replace(applied, calls=(replace(applied.calls[0], returns=LIST),))
        ref = InputRef(0, (("id", ID.id), ("v", col(20).id)))
        shown = (col(30), col(31))
        rows = Fragment(("SELECT id, unnest(v) FROM ", ref), shown, (applied,), row_wise=True, unnested=col(20).id)
        done = plan_of(limit(rows, 100), context(rows=1000, tools=tools))
        return next(node.estimate.tool_calls for node in done.dag.nodes if isinstance(node.op, ToolApplyExec))

    assert read(10.0) == 10
    assert read(0.5) == 200


def test_an_agents_tools_take_time() -> None:
    one = call(20, "do {3}", kind="agent", target="g", steps=5)
    rows = Profile(100.0, {})
    free = llm_estimate([one], rows, 100, False, OptimizerContext())
    tools = {"t": ToolProfile(call_s=2.0, p90_s=2.0, concurrency=4)}
    paid = llm_estimate([one], rows, 100, False, OptimizerContext(tools=tools, agent_tools={"g": ("t",)}))
    assert paid.tool_calls == free.tool_calls == 200
    assert paid.cost.cpu_s - free.cost.cpu_s == pytest.approx(200 * 2.0 / 4)
    slow = {"t": ToolProfile(call_s=2.0, p90_s=2.0, concurrency=1000)}
    alone = llm_estimate([one], rows, 100, False, OptimizerContext(tools=slow, agent_tools={"g": ("t",)}))
    assert alone.cost.cpu_s - free.cost.cpu_s == pytest.approx(2 * 2.0), "two calls, one after the other"
    done = plan_of(AgentApply(T, (one,)), context(rows=10, tools=tools, agent_tools={"g": ("t",)}))
    assert done.tools == tools


def test_casts_to_a_columns_own_type_cannot_fail() -> None:
    """The arguments of a tool are cast to its types: below a filter only where that changes nothing."""
    for kind, expected in (("INTEGER", "ToolApply('t {30}')"), ("SMALLINT", "LlmFilter('y {3}')")):
        argument = (col(30), f"CAST(CAST(to_json(CAST((#1 \n) AS {kind})) AS VARCHAR) AS VARCHAR)")
        tool = tool_apply(project(llm_filter(T, 21, "y {3}"), ID, BODY, argument), 20, "t {30}", "t")
        plan = where(tool, "#20 = 'a'")
        tools = {"t": ToolProfile(call_s=1e-4, p90_s=1e-4)}
        found = operators(plan_of(plan, context(rows=1000, tools=tools)).dag)
        assert next(name for name in found if "('" in name) == expected
