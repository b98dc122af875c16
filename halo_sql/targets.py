"""What a plan calls: models, tools and agents, with everything about them resolved before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial

from halo_sql.agents.assemble import agent_key, agent_spec, tools_of
from halo_sql.agents.protocol import AgentSpec
from halo_sql.catalog.objects import AgentDef, ModelDef, Snapshot, ToolDef
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.engines.secret_store import SecretStore
from halo_sql.errors import CatalogError
from halo_sql.grammar.object_arguments import default_json
from halo_sql.grammar.object_calls import value_type
from halo_sql.ir.logical import BoundStatement
from halo_sql.ir.prompt import LlmCall
from halo_sql.ir.walk import calls_made
from halo_sql.optimizer.nodes import walk_once
from halo_sql.runtime import Runtime
from halo_sql.tools.limits import acts
from halo_sql.tools.protocol import BoundTool, Surroundings


@dataclass(frozen=True, slots=True)
class Targets:
    """What a plan calls.

    models    by the name that calls and agents use
    tools     by lower-case name; those of agents, too
    agents    by ``agent_key``; an agent that agents call by its lower-case name
    querying  lower-case names of the tools and agents whose calls run queries on the user's connection
    proxies   of the models those that decide in another's place, if the plan is to use them
    """

    models: Mapping[str, ModelDef] = field(default_factory=dict)
    tools: Mapping[str, BoundTool] = field(default_factory=dict)
    agents: Mapping[str, AgentSpec] = field(default_factory=dict)
    querying: frozenset[str] = frozenset()
    proxies: Set[str] = frozenset()

    @property
    def acting(self) -> bool:
        """Whether a call may have side effects."""
        return any(acts(tool) for tool in self.tools.values())

    @property
    def acting_names(self) -> frozenset[str]:
        """Lower-case names of the tools whose calls may have side effects and, where there are any, of all agents."""
        names = {name for name, tool in self.tools.items() if acts(tool)}
        return frozenset(names | {key.split("\n", 1)[0] for key in self.agents} if names else ())


def targets_of(bound: BoundStatement, snapshot: Snapshot, settings: Settings, duck: Duck) -> Targets:
    """The targets of all calls of a plan, those of agents' agents included."""
    found = _Finder(snapshot, settings.text("halo_default_model"), duck)
    for node in walk_once(bound.plan):
        for call in calls_made(node):
            found.call(call)
    proxies: dict[str, ModelDef] = {}
    if settings.flag("halo_approximate") and settings.text("halo_optimizer") == "on":
        calls = (call for node in walk_once(bound.plan) for call in calls_made(node))
        proxies = {call.proxy: snapshot.models[call.proxy.lower()] for call in calls if call.proxy}
    models = {**proxies, **found.models}
    return Targets(models, found.tools, found.agents, found.querying(), proxies.keys() - found.models.keys())


class _Finder:
    def __init__(self, snapshot: Snapshot, default_model: str, duck: Duck) -> None:
        self.models: dict[str, ModelDef] = {}
        self.tools: dict[str, BoundTool] = {}
        self.agents: dict[str, AgentSpec] = {}
        self._used: dict[str, AgentDef] = {}
        self._snapshot = snapshot
        self._default_model = default_model
        self._duck = duck
        self._sql_type = duck.sql_type
        self._default = partial(default_json, duck)

    def call(self, call: LlmCall) -> None:
        if call.kind == "tool":
            self._tool(self._snapshot.tools[call.target.lower()])
            return
        self.models[call.model] = self._snapshot.models[call.model.lower()]
        if call.kind == "agent":
            untrusted = bool(call.prompt.columns())
            key = agent_key(call.target, call.prompt.system, untrusted)
            agent = self._snapshot.agents[call.target.lower()]
            self._agent(key, agent, call.prompt.system or "", untrusted, call.cache)

    def _tool(self, tool: ToolDef) -> None:
        if tool.name.lower() not in self.tools:
            parameters = tuple((item.name, self._sql_type(item.type)) for item in tool.parameters)
            self.tools[tool.name.lower()] = BoundTool(tool, parameters, value_type(tool, self._sql_type))

    def _agent(self, key: str, agent: AgentDef, task: str, untrusted: bool, cache: bool) -> None:
        if key in self.agents:
            return
        model = self._snapshot.models[(agent.model or self._default_model).lower()]
        self.models[model.name] = model
        self._used[agent.name.lower()] = agent
        self.agents[key] = agent_spec(
            agent, self._snapshot, model.name, task, untrusted, cache, self._sql_type, self._default, self._describe
        )
        for item in tools_of(agent, self._snapshot):
            if isinstance(item, ToolDef):
                self._tool(item)
            else:
                self._agent(item.name, item, "", True, cache)

    def _describe(self, item: ToolDef | AgentDef) -> str:
        """A tool's comment; of one whose query the model writes also the tables that there are."""
        text = item.comment or ""
        tables = item.options.get("tables") if isinstance(item, ToolDef) else None
        if not isinstance(tables, list):
            return text
        from halo_sql.tools.sandbox_copy import describe_tables

        shown = describe_tables(self._duck, [str(name) for name in tables])
        return f"{text or 'Runs one SELECT of DuckDB SQL.'} Tables: {'; '.join(shown.splitlines())}"

    def querying(self) -> frozenset[str]:
        """Agents too, when one of their tools, or of their agents' tools, runs queries."""
        names = {name for name, tool in self.tools.items() if tool.tool.kind == "sql"}
        for name, agent in self._used.items():
            if any(tool.lower() in names for tool in self._all_tools(agent)):
                names.add(name)
        return frozenset(names)

    def _all_tools(self, agent: AgentDef) -> Iterator[str]:
        for item in tools_of(agent, self._snapshot):
            yield item.name
            if isinstance(item, AgentDef):
                yield from self._all_tools(item)


def check_tool_secrets(targets: Targets, secrets: SecretStore) -> None:
    """CatalogError when the SECRET of a tool is missing, or is for another server: before anything is called."""
    for tool in targets.tools.values():
        if "secret" in tool.options:
            secret_key(secrets, str(tool.options["secret"]), tool.tool.body.split("{{", 1)[0], tool.name)


def surroundings_of(runtime: Runtime) -> Surroundings:
    """What the runners of tools may ask of a runtime."""
    return Surroundings(partial(secret_key, runtime.secrets), runtime.tool_functions)


def secret_key(secrets: SecretStore, name: str, url: str, tool: str = "") -> str:
    """The key of a SECRET for a URL. CatalogError when there is none, or when it is for another server."""
    found = secrets.get(name)
    if not found.covers(url):
        raise CatalogError(
            f'secret "{found.name}"{f" of tool {tool}" if tool else ""} is for {found.base_url}, not for {url}',
            remedy="Use another secret, or change the BASE_URL of this one.",
        )
    return found.key()
