"""Seconds that calls of tools take, by themselves and as one join."""

from __future__ import annotations

from math import ceil

from halo_sql.ir.prompt import LlmCall
from halo_sql.optimizer.context import NEVER, OptimizerContext, ToolProfile

#: Calls that one join takes at most.
JOIN_MOST = 1024


def calls_s(tool: ToolProfile, calls: float) -> float:
    """Seconds of so many calls side by side: what the tool can do at once and per second, and for one of them at least
    as long as nine in ten take (it is the slow ones that are waited for)."""
    if calls <= 0:
        return 0.0
    at_rate = calls / tool.rate_per_s if tool.rate_per_s else 0.0
    return max(calls * tool.call_s / max(1, tool.concurrency), at_rate, min(1.0, calls) * tool.p90_s)


def joins_s(tool: ToolProfile, calls: float) -> float:
    """Seconds of so many calls of a query as joins of at most JOIN_MOST."""
    return ceil(calls / JOIN_MOST) * tool.join_s + calls * tool.join_call_s


def is_joined(tool: ToolProfile, calls: float) -> bool:
    """Whether so many calls are run as joins."""
    return 0 < tool.join_from <= round(calls)


def tool_s(tool: ToolProfile, calls: float) -> float:
    """Seconds of so many calls, run as they will be."""
    return joins_s(tool, calls) if is_joined(tool, calls) else calls_s(tool, calls)


def join_from(call_s: float, join_s: float, join_call_s: float) -> int:
    """From how many calls on a join takes less than the calls one by one; NEVER when it does not get there."""
    saved_s = call_s - join_call_s
    if saved_s <= 0 or join_s / saved_s >= JOIN_MOST:
        return NEVER
    return max(2, int(join_s / saved_s) + 1)


def agent_tools_s(call: LlmCall, calls: float, conversations: float, options: OptimizerContext) -> float:
    """Seconds of the calls that an agent's conversations make, each tool taken to have an equal share. Those of one
    conversation come one after the other."""
    tools = [options.tool(name) for name in options.agent_tools.get(call.target.lower(), ())]
    if not tools or calls <= 0:
        return 0.0
    share = calls / len(tools)
    longest = calls / max(1.0, conversations) * sum(tool.call_s for tool in tools) / len(tools)
    return max(longest, *(calls_s(tool, share) for tool in tools))
