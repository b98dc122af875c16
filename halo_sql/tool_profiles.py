"""What the optimizer is told of tools: what was learnt of calls, what DuckDB expects of queries, their limits."""

from __future__ import annotations

from halo_sql.duck import Duck
from halo_sql.engines.experience import CallKind, Experience
from halo_sql.engines.knowledge import Knowledge
from halo_sql.engines.latency import quantile
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.walk import calls_made
from halo_sql.learning import tool_identity
from halo_sql.optimizer.context import DEFAULT_TOOL, NEVER, ToolProfile
from halo_sql.optimizer.nodes import walk_once
from halo_sql.optimizer.tool_cost import join_from
from halo_sql.statistics import expected_of
from halo_sql.targets import Targets
from halo_sql.tools.limits import PROCESSES, limits_of, takes_sql
from halo_sql.tools.protocol import BoundTool
from halo_sql.tools.sql_join import QueryTexts, joinable

#: Seconds of a query with arguments: one call, a join, each call of a join; and, besides, of a row that is read.
QUERY_CALL_S = 1e-3
JOIN_S = 4e-3
JOIN_CALL_S = 2e-5
READ_ROW_S = 2e-9


def tool_profiles(
    plan: LogicalPlan, targets: Targets, duck: Duck, knowledge: Knowledge | None
) -> dict[str, ToolProfile]:
    """Lower-case name -> profile, for the tools that a plan and its agents call. ``knowledge`` None: nothing learnt is
    used. Queries that the plan calls itself are shown to DuckDB (two EXPLAINs each); nothing of them is run."""
    called = {call.target.lower() for node in walk_once(plan) for call in calls_made(node) if call.kind == "tool"}
    kinds = {name: CallKind(tool_identity(tool.tool), tool.name) for name, tool in targets.tools.items()}
    known = {} if knowledge is None or not kinds else knowledge.recall(kinds.values())
    return {
        name: _profile(tool, known.get(kinds[name]), duck if name in called else None)
        for name, tool in targets.tools.items()
    }


def agent_tools(targets: Targets) -> dict[str, tuple[str, ...]]:
    """Lower-case name of an agent -> the names of its tools."""
    return {
        agent.name.lower(): tuple(tool.name.lower() for tool in agent.tools if tool.kind == "tool")
        for agent in targets.agents.values()
    }


def _profile(tool: BoundTool, seen: Experience | None, duck: Duck | None) -> ToolProfile:
    limits = limits_of(tool)
    joins = tool.tool.kind == "sql" and not takes_sql(tool)
    touched_s, can_join, source = _expected(tool, duck) if joins and duck is not None else (0.0, False, "assumed")
    call_s = QUERY_CALL_S + touched_s if joins else DEFAULT_TOOL.call_s
    p90_s, line = call_s, (JOIN_S + touched_s, JOIN_CALL_S)
    if seen is not None and seen.timed:
        call_s = seen.seconds / seen.timed
        p90_s = quantile(seen.latencies, 0.9) or call_s
    if seen is not None and seen.joins:
        line = _line(seen, line[0])
    if seen is not None and (seen.timed or seen.joins):
        source = f"learnt of {seen.timed + seen.joined:,.0f} calls"
    start = (join_from(call_s, *line) if can_join else NEVER) if joins else 0
    return ToolProfile(
        call_s,
        p90_s,
        _at_once(tool, limits.concurrency),
        limits.rate_per_s,
        seen.answer_chars / seen.requests if seen is not None and seen.requests else None,
        seen.listed_rows / seen.listed if seen is not None and seen.listed else None,
        start,
        *(line if joins else (0.0, 0.0)),
        source=source,
    )


def _at_once(tool: BoundTool, concurrency: int) -> int:
    """A connection runs one query at a time; functions have worker processes, unless said otherwise
    PROCESSES (fewer on a small machine, which is no reason for another plan)."""
    if tool.tool.kind == "sql" and not takes_sql(tool):
        return 1
    named = tool.tool.kind == "python" and ":" in tool.tool.body  # not a function that was registered
    own_processes = named and str(tool.options.get("isolation", "process")).lower() == "process"
    return min(concurrency, PROCESSES) if own_processes and "concurrency" not in tool.options else concurrency


def _expected(tool: BoundTool, duck: Duck) -> tuple[float, bool, str]:
    """Seconds for the rows that a query is expected to read, whether its calls can be joined here, and who says so."""
    if duck.in_transaction():
        return 0.0, False, "assumed"
    texts = QueryTexts(tool, 0)
    expected = expected_of(duck, texts.probe)
    if expected is None:
        return 0.0, False, "assumed"
    return expected.touched_rows * READ_ROW_S, joinable(duck, texts), "estimated by DuckDB"


def _line(seen: Experience, assumed_s: float) -> tuple[float, float]:
    """Seconds of a join, and of each of its calls: by least squares; of joins that were all as large, by the mean and
    what is assumed of the first."""
    calls, seconds = seen.joined / seen.joins, seen.join_s / seen.joins
    spread = seen.joins * seen.joined_sq - seen.joined**2
    if spread > 0.01 * seen.joined**2:
        slope = (seen.joins * seen.joined_s - seen.joined * seen.join_s) / spread
        slope = min(max(0.0, slope), seconds / calls)
    else:
        slope = max(0.0, seconds - assumed_s) / calls
    return seconds - slope * calls, slope
