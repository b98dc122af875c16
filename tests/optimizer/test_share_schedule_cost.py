"""Sharing, prefixes, schedule, and the cost model."""

from __future__ import annotations

from typing import Any

import pytest

from halo_sql.ir.estimate import Cost
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.logical import Filter, Fragment, InputRef, LlmMap, Sink
from halo_sql.ir.physical import LlmMapExec, MaterializeExec, SinkExec
from halo_sql.ir.prompt import Hole, ObjectHole, Prompt, Sampling
from halo_sql.ir.types import BOOLEAN
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.cardinality import Known, Profile, derive
from halo_sql.optimizer.context import EngineProfile, OptimizerContext
from halo_sql.optimizer.cost import levels, llm_estimate, trie_tok, value
from halo_sql.optimizer.nodes import cannot_fail
from halo_sql.optimizer.values import Values

from .plans import (
    ID,
    T,
    call,
    col,
    context,
    cte,
    holes,
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
from .run_dag import run_dag
from .test_same_rows import SETUP

VOLATILE = llm_map(T, call(20, "a joke about {3}", volatile=True))


def union(*plans: Any) -> Fragment:
    """UNION ALL of the plans' last columns."""
    parts: list[str | InputRef] = []
    for index, plan in enumerate(plans):
        column = output_columns(plan)[-1]
        parts += [" UNION ALL FROM " if parts else "FROM ", InputRef(index, (("id", column.id),))]
    return Fragment(tuple(parts), (col(900, "id"),), plans)


# --- sharing ---


def test_cte_read_twice_is_computed_once() -> None:
    done = plan_of(union(cte(VOLATILE, 1, 40), cte(VOLATILE, 1, 50)))
    well_formed(done.dag)
    assert operators(done.dag) == [
        "DuckFragment(Fragment)",
        "LlmMap('a joke about {3}')",
        "Materialize",
        "Select",
        "Select",
        "DuckFragment(Fragment($0, $1))",
    ]


def test_readers_under_limit_and_filter_still_share() -> None:
    # a row goal or a filter that went into the CTE would make two computations of it: two different jokes
    first, second = cte(VOLATILE, 1, 40), cte(VOLATILE, 1, 50)
    done = plan_of(union(limit(first, 3), where(second, "#50 > 5")))
    well_formed(done.dag)
    names = operators(done.dag)
    assert [name for name in names if name.startswith("LlmMap")] == ["LlmMap('a joke about {3}')"]
    assert names.count("Materialize") == 1


def test_cte_in_a_cte_read_twice() -> None:
    inner = llm_map(T, call(20, "x {3}"))
    reader = llm_map(cte(inner, 1, 40), call(60, "y {42}"))
    plan = union(cte(reader, 2, 70), cte(reader, 2, 80), cte(inner, 1, 90))
    done = plan_of(plan)
    well_formed(done.dag)
    names = operators(done.dag)
    assert [name for name in names if name.startswith("LlmMap")] == ["LlmMap('x {3}')", "LlmMap('y {42}')"]
    assert names.count("Materialize") == 2
    assert run_dag(done.dag, SETUP).rows == run_dag(plan_of(plan, context(enabled=False)).dag, SETUP).rows


def test_look_alikes_with_other_columns_are_not_shared() -> None:
    other = Fragment(T.parts, tuple(col(500 + i, c.name, c.type) for i, c in enumerate(T.columns)), label="Scan t")
    done = plan_of(union(VOLATILE, llm_map(other, call(520, "a joke about {502}", volatile=True))))
    assert len([name for name in operators(done.dag) if name.startswith("LlmMap")]) == 2
    assert not any(isinstance(node.op, MaterializeExec) for node in done.dag.nodes)


def test_root_has_the_statements_columns() -> None:
    plan = project(llm_map(T, call(20, "x {3}")), col(20), ID)
    renamed = (ID, col(20, "summary"))
    done = plan_of(plan, context(), renamed)
    assert done.dag.node(done.dag.root).columns == renamed
    assert len([name for name in operators(done.dag) if name == "Select"]) == 1


def test_sink_is_the_root() -> None:
    plan = Sink(llm_map(T, call(20, "x {3}")), "CREATE TABLE u AS ", "", (("s", ColumnId(20)),), "ctas")
    done = plan_of(plan, context(), (col(99, "Count"),))
    root = done.dag.node(done.dag.root)
    assert root.op == SinkExec("CREATE TABLE u AS ", "", (("s", ColumnId(20)),), "ctas")
    assert root.columns == (col(99, "Count"),)
    assert operators(done.dag)[-2] == "Select"  # only what the table gets is spooled


def test_scoped_predicate_reads_its_tables() -> None:
    from .normalize_cases import SCOPED

    done = plan_of(Filter(llm_map(T, call(20, "x {3}")), SCOPED))
    well_formed(done.dag)
    assert operators(done.dag) == ["DuckFragment(Filter(Fragment))", "LlmMap('x {3}')"]


# --- prefixes ---


def test_prefixes_over_all_nodes() -> None:
    shared = "You are a careful reader of support tickets. " * 4
    plan = llm_filter(llm_map(T, call(20, shared + "Summarise: {3}")), 21, shared + "Is it urgent? {3}")
    done = plan_of(plan, context(rows=100))
    texts = dict(done.dag.prefixes)
    assert set(texts) == {shared, shared + "Summarise: ", shared + "Is it urgent? "}
    assert texts[shared] == pytest.approx(150)
    assert [len(text) for text, _ in done.dag.prefixes] == sorted(map(len, texts), reverse=True)


def test_short_prefixes_are_not_listed() -> None:
    assert plan_of(llm_map(T, call(20, "x {3}")), context(rows=100)).dag.prefixes == ()


# --- schedule ---


def test_long_way_first_and_workers() -> None:
    slow = llm_map(llm_map(where(T, "#2 > 1"), call(20, "x {3}", model="big")), call(21, "y {20}", model="small"))
    fast = order_by(T, "#1")
    done = plan_of(union(fast, slow), context(rows=1000))
    well_formed(done.dag)
    assert operators(done.dag)[0] == "DuckFragment(Project(Filter(Fragment)))"
    assert operators(done.dag)[-1] == "DuckFragment(Fragment(Sort(Fragment), $0))"
    assert [node.op.worker for node in done.dag.nodes if isinstance(node.op, LlmMapExec)] == ["big/0", "small/0"]


def test_one_node_with_two_models_names_both_workers() -> None:
    plan = llm_map(T, call(20, "x {3}", model="big"), call(21, "y {3}", model="small"))
    assert [node.op.worker for node in plan_of(plan).dag.nodes if isinstance(node.op, LlmMapExec)] == ["big/0,small/0"]


# --- cardinality and cost ---

PROFILE = Profile(1000.0, {ColumnId(3): Known(10.0, 400.0), ColumnId(4): Known(1000.0, 40.0)})
PROMPT = Prompt(("s" * 640, Hole(ColumnId(3)), "-" * 64, Hole(ColumnId(4))))


def test_levels_of_a_prompt() -> None:
    static, document, question = levels(PROMPT, PROFILE)
    assert (static.columns, static.end_tok) == ((), 160)
    assert (document.columns, document.end_tok) == ((3,), 276)
    assert (question.columns, question.end_tok) == ((3, 4), 287)
    fields = Prompt((ObjectHole((("doc", ColumnId(3)), ("q", ColumnId(4)))),), "system")
    assert [level.columns for level in levels(fields, PROFILE)] == [(), (3,), (3, 4)]
    assert [level.end_tok for level in levels(fields, PROFILE)] == [4.25, 106.0, 117.0]


def test_trie_counts_each_prefix_once_in_whole_blocks() -> None:
    parts = levels(PROMPT, PROFILE)
    # 160 static once; 10 documents up to the block boundary 272; then 1,000 times the rest
    assert trie_tok(parts, PROFILE, 1000, 16) == 160 + 10 * (272 - 160) + 1000 * (287 - 272)
    assert trie_tok(parts, PROFILE, 1000, 1024) == 1000 * 287
    assert trie_tok(parts, PROFILE, 1, 16) == 287


def test_small_cache_costs_a_trie_per_window() -> None:
    item = call(20, "x {3}").__class__(ColumnId(20), "map", PROMPT, "m")
    roomy = OptimizerContext(engines={"m": EngineProfile(kv_capacity_tok=10**9, window_requests=100)})
    small = OptimizerContext(engines={"m": EngineProfile(kv_capacity_tok=5000, window_requests=100)})
    ideal = llm_estimate([item], PROFILE, 1000, False, roomy)
    streamed = llm_estimate([item], PROFILE, 1000, False, small)
    clustered = llm_estimate([item], PROFILE, 1000, True, small)
    assert ideal.prompt_tok == streamed.prompt_tok == clustered.prompt_tok == 287_000
    computed = {name: one.prompt_tok - one.prompt_tok_cached for name, one in
                (("ideal", ideal), ("streamed", streamed), ("clustered", clustered))}  # fmt: skip
    assert computed["ideal"] == computed["clustered"] == 160 + 10 * 112 + 15_000
    assert computed["streamed"] == pytest.approx(160 + 10 * (10 * 112 + 1500))


def test_calls_are_distinct_prompts_unless_volatile() -> None:
    ctx = OptimizerContext()
    assert llm_estimate([call(20, "x {3}")], PROFILE, 1000, False, ctx).llm_calls == 10
    assert llm_estimate([call(20, "x")], PROFILE, 1000, False, ctx).llm_calls == 1
    assert llm_estimate([call(20, "x {3}", volatile=True)], PROFILE, 1000, False, ctx).llm_calls == 1000
    seeded = call(20, "x {3}", sampling=Sampling(temperature=1.0, seed=7, max_tokens=8))
    estimate = llm_estimate([seeded], PROFILE, 1000, False, ctx)
    assert (estimate.llm_calls, estimate.output_tok) == (10, 80)


def test_price_and_objective() -> None:
    ctx = OptimizerContext(engines={"m": EngineProfile(usd_per_prompt_tok=1e-3, usd_per_output_tok=1e-2)})
    estimate = llm_estimate([call(20, "x {4}", kind="filter")], PROFILE, 1000, False, ctx)
    assert estimate.cost.usd == pytest.approx(estimate.prompt_tok * 1e-3 + 1000 * 1e-2)
    cost = Cost(gpu_s=2.0, cpu_s=1.0, tokens=50.0, usd=0.5)
    assert value(cost, "makespan") == 3.0
    assert value(cost, "usd") == pytest.approx(0.5)
    assert value(cost, "tokens") == pytest.approx(50.0)


def test_rows_of_nodes() -> None:
    ctx = context(rows=900, distinct={2: 9})
    source = derive(T, [], ctx)
    assert source.rows == 900
    assert derive(where(T, "#2 > 1"), [source], ctx).rows == pytest.approx(297)
    assert derive(llm_filter(T, 21, "y {3}"), [source], ctx).rows == 450
    assert derive(limit(T, 10, 5), [source], ctx).rows == 10
    assert derive(limit(T, None, 890), [source], ctx).rows == 10
    computed = derive(holes(T, (col(10), "upper(#2)")), [source], ctx)
    assert computed.known(ColumnId(10)) == Known(9.0, 8.0)
    answered = derive(llm_map(T, call(20, "x {2}")), [source], ctx)
    assert answered.known(ColumnId(20)).distinct == 9
    assert derive(Fragment(("SELECT 1",), (ID,)), [], ctx).rows == 1000


# --- questions about expressions and values ---


@pytest.mark.parametrize(
    "text",
    ["#3", "CAST(#3 AS VARCHAR)", "(#3)::VARCHAR", "#3 || ' it''s ' || lower(#4)", "coalesce(#3, '')", "#3 IS NULL"],
)
def test_expressions_that_cannot_fail(text: str) -> None:
    assert cannot_fail(sql(text))


@pytest.mark.parametrize(
    "text", ["CAST(#3 AS INTEGER)", "#2 / #1", "#3::INTEGER", "f(#3)", "error('x')", "CAST(#3 AS VARCHAR[])", "#2 + 1"]
)
def test_expressions_that_may_fail(text: str) -> None:
    assert not cannot_fail(sql(text))


def test_long_hostile_text_is_looked_at_in_no_time() -> None:
    assert not cannot_fail(sql("'" + "''" * 20_000 + " " * 20_000 + "+"))


def test_value_numbers() -> None:
    values = Values()
    plan = llm_map(
        holes(T, (col(10), "upper(#3)"), (col(11), "upper(#3)"), (col(12), "upper(#4)")),
        call(20, "x {10}"),
        call(21, "x {11}"),
        call(22, "x {12}"),
        call(23, "x {10}", volatile=True),
    )
    keys = values.keys(plan)
    assert keys[ColumnId(10)] == keys[ColumnId(11)] != keys[ColumnId(12)]
    assert keys[ColumnId(20)] == keys[ColumnId(21)] != keys[ColumnId(22)]
    assert keys[ColumnId(23)] != keys[ColumnId(20)]
    assert isinstance(plan, LlmMap)
    flag = sql("#2 > 1", BOOLEAN, volatile=True)
    twice = holes(T, (col(30), flag), (col(31), flag))
    assert values.keys(twice)[ColumnId(30)] != values.keys(twice)[ColumnId(31)]
