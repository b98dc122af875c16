"""Plans for every explore, implement and enforce rule: where it gives something, and where it must not."""

from __future__ import annotations

from typing import Any

from halo_sql.ir.logical import (
    AgentApply,
    Ask,
    CallText,
    Demand,
    Fragment,
    InputRef,
    LlmMap,
    Sink,
)
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.context import EngineProfile, ToolProfile

from .plans import (
    SMALL_ENGINE,
    T,
    U,
    call,
    col,
    cte,
    groups,
    join,
    limit,
    llm_filter,
    llm_map,
    order_by,
    project,
    reduced,
    tool_apply,
    top_k,
    where,
)

S = col(20, "s")
MAPPED = llm_map(T, call(20, "x {3}"))
TOOLED = tool_apply(T, 20, "t {3}", "lookup")
LONG = "a long question that costs more to read, again and again, than any short one does: "
CHEAP_ABOVE = llm_filter(llm_filter(T, 21, LONG + "{3}"), 22, "y {3}")
SMALL = {"m": SMALL_ENGINE}
#: 10,000 rows, 200 documents of 4,000 characters that repeat, too many for the small engine's KV cache.
BIG: dict[str, Any] = {"rows": 10_000, "distinct": {3: 200, 4: 10_000}, "chars": {3: 4000, 4: 20}, "engines": SMALL}
CLUSTERED = llm_map(T, call(20, "read {3} and answer {4}"))
#: A filter that a proxy ten times as fast may decide in part, over 5,000 rows; one over 20,000 pairs of ten labels.
CASCADE = llm_filter(T, 21, "y {3}", quality=0.9, proxy="p")
PAIRS = llm_filter(join(T, U, on=()), 21, "is {3} about {6}?", quality=0.9)
SLOW = EngineProfile(prefill_tok_per_s=500, decode_step_s=0.2, calibrated="measured")
FAST = EngineProfile(calibrated="measured")
APPROXIMATE: dict[str, Any] = {"approximate": True, "rows": 5_000, "engines": {"m": SLOW, "p": FAST}}
LABELS = {"approximate": True, "rows": 2_000, "distinct": {3: 2_000, 6: 10}}


def over_cte(plan: Any, number: int = 2) -> Fragment:
    """A fragment that reads a CTE ``number`` times."""
    readers = tuple(cte(plan, 1, 40 + 10 * index) for index in range(number))
    refs = [
        InputRef(index, tuple((column.name, column.id) for column in output_columns(reader)))
        for index, reader in enumerate(readers)
    ]
    parts: list[str | InputRef] = ["SELECT count(*) FROM "]
    for ref in refs:
        parts += [ref, ", "]
    return Fragment((*parts[:-1],), (col(90, "n"),), readers)


SINK = Sink(project(MAPPED, S), "INSERT INTO u ", "", (("s", S.id),), "insert")
DEMAND = Demand(
    ("SELECT s FROM t WHERE EXISTS (SELECT ", CallText(0, (("body",),)), ")"),
    (col(50, "s"),),
    (),
    (Ask(call(51, "x {52}"), (col(52, "body"),)),),
)

#: Short texts, and money counts more than time.
CHEAP: dict[str, Any] = {"rows": 1000, "chars": {3: 8}, "objective": "usd"}

LONG_BODIES: dict[str, Any] = {"rows": 1000, "chars": {3: 4000}}


def topic_and_mood(**rest: Any) -> Any:
    """Two questions about the same column that may be asked together."""
    return llm_map(T, call(20, "topic of {3}", fuse=True), call(21, "mood of {3}", fuse=True, **rest))


TOOLS = {"slow": ToolProfile(call_s=1.0, p90_s=1.0), "cheap": ToolProfile(call_s=0.001, p90_s=0.001)}


def slow_and_cheap(cheap: str = "cheap {3}") -> Any:
    """SQL filters on the values of two tools, the slow one below."""
    slow = tool_apply(T, 20, "slow {3}", "slow")
    return where(tool_apply(where(slow, "#20 = 'a'"), 22, cheap, "cheap"), "#22 = 'b'")


#: rule -> (plan, options, what the operators must hold)
GIVES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "order_llm_filters": (CHEAP_ABOVE, {}, "LlmFilter('y {3}')"),
    "llm_filter_past_llm_map": (llm_filter(MAPPED, 21, "y {3}"), {}, "LlmFilter('y {3}')"),
    "llm_filter_past_filter": (llm_filter(where(MAPPED, "#20 = 'a'"), 21, "y {3}"), {}, "LlmFilter('y {3}')"),
    "llm_map_past_llm_filter": (
        where(LlmMap(llm_filter(T, 21, LONG * 9 + "{3}"), (call(20, "x {3}", kind="filter"),)), "#20 = TRUE"),
        {},
        "LlmMap('x {3}')",
    ),
    "fuse_llm_maps": (topic_and_mood(), LONG_BODIES, "LlmMap('topic of {3}' + 'mood of {3}')"),
    "llm_past_join": (join(llm_filter(T, 21, "y {3}"), U), {"rows": 10}, "DuckFragment(Join(Fragment, Fragment))"),
    "llm_below_join": (llm_filter(join(T, U, on=()), 21, "y {3}"), {"rows": 2000}, "DuckFragment(Join($0, Fragment))"),
    "partners_before_llm": (
        join(where(U, "#5 = 1"), llm_map(T, call(20, "x {3}")), kind="left"),
        {"rows": 1000},
        "DuckFragment(Join(Fragment, Project(Filter(Fragment))))",
    ),
    "order_map_filters": (slow_and_cheap(), {"tools": TOOLS}, "ToolApply('slow {3}')"),
    "sort_past_llm_filter": (
        limit(order_by(llm_filter(MAPPED, 21, "y {20}"), "#20"), 2),
        {},
        "DuckFragment(Sort($0))",
    ),
    "llm_map": (MAPPED, {}, "LlmMap('x {3}')"),
    "tool_apply": (TOOLED, {}, "ToolApply('t {3}')"),
    "agent_apply": (AgentApply(T, (call(20, "a {3}", kind="agent", target="g"),)), {}, "AgentApply('a {3}')"),
    "llm_filter": (llm_filter(T, 21, "y {3}"), {}, "LlmFilter('y {3}')"),
    "llm_filter_cascade": (CASCADE, APPROXIMATE, "LlmFilterCascade(score)"),
    "classify_join": (PAIRS, LABELS, "LlmFilterCascade(classify)"),
    "llm_reduce_one_shot": (reduced(groups(T, 30), 20, "sum {30}", 31), {}, "LlmReduce(one shot)"),
    "llm_reduce_tree_fold": (reduced(groups(T, 30), 20, "sum", 31, fan_in=2), {}, "LlmReduce(tree fold)"),
    "llm_top_k_score": (top_k(T, 20, "x {3}", 5), {"rows": 1000}, "LlmTopK(score)"),
    "llm_top_k_tournament": (top_k(T, 20, "x {3}", 1), CHEAP, "LlmTopK(tournament)"),
    "limit": (limit(llm_filter(T, 21, "y {3}"), 10), {}, "Limit(10)"),
    "select": (project(MAPPED, S), {}, "Select"),
    "cte_scan": (over_cte(MAPPED), {}, "Materialize"),
    "sink": (SINK, {}, "Sink"),
    "demand": (where(DEMAND, "#50 = 'a'"), {}, "Demand"),
    "relational_run": (where(T, "#2 > 1"), {}, "DuckFragment(Filter(Fragment))"),
    "duck_fragment": (where(MAPPED, "#20 = 'a'"), {}, "DuckFragment(Filter($0) streaming)"),
    "fragment_input": (order_by(MAPPED, "#20"), {}, "DuckFragment(Sort($0))"),
    "prefix_cluster": (CLUSTERED, BIG, "PrefixCluster(#3)"),
    "restore_order": (CLUSTERED, BIG, "RestoreOrder"),
}

#: rule -> (plan, options): the rule gives nothing that is used
GIVES_NOT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "order_llm_filters": (llm_filter(llm_filter(T, 21, "z {3}", volatile=True), 22, "y {3}"), {}, ""),
    "llm_filter_past_llm_map": (llm_filter(MAPPED, 21, "y {20}"), {}, ""),
    "llm_filter_past_filter": (llm_filter(where(T, "#2 > 1"), 21, "y {3}"), {}, ""),
    "llm_map_past_llm_filter": (llm_map(llm_filter(T, 21, "y {3}"), call(20, "x {3}")), {}, ""),
    "fuse_llm_maps": (topic_and_mood(on_error="null"), LONG_BODIES, ""),
    "llm_past_join": (join(MAPPED, U, on=("#20 = #6",)), {"rows": 10}, ""),
    "llm_below_join": (llm_filter(join(T, U, on=()), 21, "y {3} {6}"), {"rows": 2000}, ""),
    "partners_before_llm": (join(U, MAPPED, on=("#5 = #20",), kind="left"), {"rows": 1000}, ""),
    "order_map_filters": (slow_and_cheap("cheap {20}"), {"tools": TOOLS}, ""),
    "sort_past_llm_filter": (order_by(llm_filter(T, 21, "y {3}"), "CAST(#3 AS INTEGER)"), {}, ""),
    "llm_map": (T, {}, "LlmMap"),
    "tool_apply": (MAPPED, {}, "ToolApply"),
    "agent_apply": (TOOLED, {}, "AgentApply"),
    "llm_filter": (MAPPED, {}, "LlmFilter"),
    "llm_filter_cascade": (CASCADE, APPROXIMATE | {"engines": {"m": FAST, "p": FAST}}, "LlmFilterCascade"),
    "classify_join": (PAIRS, LABELS | {"distinct": {3: 2_000, 6: 2_000}}, ""),
    "llm_reduce_one_shot": (
        reduced(groups(T, 30, keys=0), 20, "sum", 31),
        {"engines": {"m": EngineProfile(context_tok=2000)}},
        "LlmReduce(one shot)",
    ),
    "llm_reduce_tree_fold": (
        reduced(groups(T, 30, keys=0), 20, "sum", 31),
        {"engines": {"m": EngineProfile(context_tok=200_000)}},
        "LlmReduce(tree fold)",
    ),
    "llm_top_k_score": (top_k(T, 20, "x {3}", 5, "tournament"), {"rows": 1000}, "LlmTopK(score)"),
    "llm_top_k_tournament": (top_k(T, 20, "x {3}", 1, on_error="null"), CHEAP, "LlmTopK(tournament)"),
    "limit": (limit(T, 10), {}, "Limit(10)"),
    "select": (project(MAPPED, S, (col(30), "upper(#20)")), {}, "Select"),
    "cte_scan": (over_cte(MAPPED, 1), {}, "Materialize"),
    "sink": (MAPPED, {}, "Sink"),
    "demand": (MAPPED, {}, "Demand"),
    "relational_run": (SINK, {}, "DuckFragment(LlmMap"),
    "duck_fragment": (where(order_by(T, "#1"), "#2 > 1"), {}, "DuckFragment(Filter($0)"),
    "fragment_input": (where(T, "#2 > 1"), {}, "$0"),
    "prefix_cluster": (CLUSTERED, BIG | {"engines": {"m": EngineProfile(kv_capacity_tok=10**9)}}, "PrefixCluster"),
    "restore_order": (limit(llm_filter(T, 20, "read {3}? {4}"), 5), BIG, "RestoreOrder"),
}
