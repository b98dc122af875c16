"""An AGENT's definition with its tools: what they are, what they may do to data, what the agent is held to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from halo_sql.agents.prompts import system_text
from halo_sql.agents.protocol import MAX_DEPTH, AgentSpec, AgentTool
from halo_sql.catalog.objects import AgentDef, Parameter, Snapshot, ToolDef
from halo_sql.errors import BinderError
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import VARCHAR, SqlType, json_schema_text
from halo_sql.tools.schema import arguments_schema

DEFAULTS: Mapping[str, float] = {
    "max_steps": 10,
    "max_tool_calls": 20,
    "max_seconds": 120.0,
    "max_tokens": 50_000,
    "max_step_tokens": 512,
    "max_parallel": 8,
    "max_repeats": 3,
}


#: Functions of a query by which its arguments can reach files, servers and other databases.
_READS_ELSEWHERE = re.compile(
    r"\b(?:read_\w+|glob|sniff_csv|parquet_\w+|query|query_table|getenv|st_read\w*|\w+_scan|\w+_query|from_substrait)\s*\("
    r"|\bfrom\s+'",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Flow:
    """What a tool does to data.

    private    its results come from the user's tables, or it is declared so
    untrusted  its results may hold anything: other people wrote them
    egress     its arguments leave: for a server, or for code that may send them on
    writes     it has side effects
    """

    private: bool = False
    untrusted: bool = False
    egress: bool = False
    writes: bool = False

    def __or__(self, other: Flow) -> Flow:
        return Flow(
            self.private or other.private,
            self.untrusted or other.untrusted,
            self.egress or other.egress,
            self.writes or other.writes,
        )


def flow_of(found: ToolDef | AgentDef, snapshot: Snapshot) -> Flow:
    """What a tool, or an agent by its tools, does to data; options ``private``, ``trusted``, ``egress`` and
    ``side_effects`` say otherwise."""
    if isinstance(found, AgentDef):
        total = Flow()
        for item in tools_of(found, snapshot):
            total |= flow_of(item, snapshot)
        return total
    local = found.kind == "sql"
    return Flow(
        private=bool(found.options.get("private", local)),
        untrusted=not bool(found.options.get("trusted", False)),
        egress=bool(found.options.get("egress", not local or _READS_ELSEWHERE.search(found.body) is not None)),
        writes=bool(found.options.get("side_effects", False)),
    )


def tools_of(agent: AgentDef, snapshot: Snapshot, depth: int = 0) -> tuple[ToolDef | AgentDef, ...]:
    """The tools that an agent names, agents among them. BinderError for a missing one, and when agents call agents
    more than ``MAX_DEPTH`` deep (a cycle always does)."""
    if depth > MAX_DEPTH:
        raise BinderError(
            f'agent "{agent.name}" is called by an agent that another one calls',
            remedy=f"Agents may call agents {MAX_DEPTH} deep; a cycle never ends.",
        )
    found: list[ToolDef | AgentDef] = []
    for name in agent.tools:
        known = snapshot.tools.get(name.lower()) or snapshot.agents.get(name.lower())
        if known is None:
            raise BinderError(
                f'tool "{name}" of agent "{agent.name}" does not exist', remedy=f"CREATE TOOL {name} … first."
            )
        if isinstance(known, AgentDef):
            tools_of(known, snapshot, depth + 1)
        found.append(known)
    return tuple(found)


def allowed_egress(agent: AgentDef) -> frozenset[str]:
    """Lower-case names of the tools that the agent's definition lets act on tainted values."""
    given = agent.options.get("egress")
    return frozenset(str(name).lower() for name in given) if isinstance(given, list | tuple) else frozenset()


def exposed(agent: AgentDef, snapshot: Snapshot) -> list[str]:
    """The tools that would send row data out, or write by it, without the agent's definition saying so."""
    allowed = allowed_egress(agent)
    flows = [(item.name, flow_of(item, snapshot)) for item in tools_of(agent, snapshot)]
    return [name for name, flow in flows if (flow.egress or flow.writes) and name.lower() not in allowed]


def is_volatile(found: ToolDef | AgentDef, snapshot: Snapshot) -> bool:
    """Whether equal calls may differ."""
    if isinstance(found, ToolDef):
        return found.volatility == "volatile"
    return not sampling_of(found).deterministic or any(
        is_volatile(item, snapshot) for item in tools_of(found, snapshot)
    )


def sampling_of(agent: AgentDef) -> Sampling:
    """How its steps are decoded; ``max_tokens`` is that of one step."""
    options = agent.options
    seed = options.get("seed")
    return Sampling(
        float(str(options.get("temperature", 0.0))),
        float(str(options.get("top_p", 1.0))),
        int(limit(agent, "max_step_tokens")),
        None if seed is None else int(str(seed)),
    )


def limit(agent: AgentDef, name: str) -> float:
    """One of its limits."""
    return float(str(agent.options.get(name, DEFAULTS[name])))


def agent_key(name: str, task: str | None, untrusted: bool) -> str:
    """What one way of calling an agent is known by in a run: the static text of the task, whether rows give data."""
    return f"{name.lower()}\n{'rows' if untrusted else 'constant'}\n{task or ''}"


def agent_spec(
    agent: AgentDef,
    snapshot: Snapshot,
    model: str,
    task: str,
    untrusted: bool,
    cache: bool,
    sql_type: Callable[[str], SqlType],
    default_json: Callable[[Parameter], str],
    describe: Callable[[ToolDef | AgentDef], str],
) -> AgentSpec:
    """An agent as it is run.

    task          what is the same for all rows; '' when the task is data
    untrusted     its data come from rows
    sql_type      a type's text -> the type
    default_json  an argument -> the JSON text of its default
    describe      what a model is told of a tool
    """
    returns = sql_type(agent.returns)
    tools = tools_of(agent, snapshot)
    allowed = allowed_egress(agent)

    def tool(item: ToolDef | AgentDef) -> AgentTool:
        flow = flow_of(item, snapshot)
        parameters = [(each.name, sql_type(each.type), each.default is not None) for each in item.parameters]
        if isinstance(item, AgentDef):
            parameters.insert(0, ("task", VARCHAR, False))
        return AgentTool(
            item.name,
            describe(item),
            _compact(arguments_schema(parameters)),
            "agent" if isinstance(item, AgentDef) else "tool",
            flow.private,
            flow.untrusted,
            flow.egress,
            flow.writes,
            item.name.lower() in allowed,
            {each.name: default_json(each) for each in item.parameters if each.default is not None},
        )

    return AgentSpec(
        agent.name,
        model,
        str(agent.options.get("system", "")),
        task,
        returns,
        json_schema_text(returns),
        tuple(tool(item) for item in tools),
        sampling_of(agent),
        int(limit(agent, "max_steps")),
        int(limit(agent, "max_tool_calls")),
        limit(agent, "max_seconds"),
        int(limit(agent, "max_tokens")),
        int(limit(agent, "max_parallel")),
        int(limit(agent, "max_repeats")),
        untrusted_rows=untrusted,
        cache=cache,
        depth=int(any(isinstance(item, AgentDef) for item in tools)),
        deterministic=not is_volatile(agent, snapshot),
    )


def told(agent: AgentDef, snapshot: Snapshot, sql_type: Callable[[str], SqlType]) -> int:
    """About how many characters the agent is told beside its task, for estimates."""
    spec = agent_spec(
        agent, snapshot, "", "", False, False, sql_type, lambda item: "null", lambda item: item.comment or ""
    )
    return len(system_text(spec))


def _compact(schema: Mapping[str, object]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
