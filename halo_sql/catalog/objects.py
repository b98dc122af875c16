"""Catalog objects and the snapshot a statement is bound against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelDef:
    """A MODEL.

    name     as created (lookups ignore case)
    source   hub id, directory, URL or ``bundled:name``
    engine   'vllm' | 'openai' | 'python' | 'echo' | 'replay' | 'emulated' | 'ray'
    options  WITH (…) options, lower-case key -> value
    version  1, 2, …: CREATE OR REPLACE and ALTER make the next one
    temp     lives with the connection
    comment  COMMENT ON MODEL … IS
    """

    name: str
    source: str
    engine: str
    options: Mapping[str, object] = field(default_factory=dict)
    version: int = 1
    temp: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class PromptDef:
    """A PROMPT: a template with holes, and an optional system message."""

    name: str
    text: str
    system: str | None = None
    version: int = 1
    temp: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a TOOL or AGENT.

    type     a DuckDB type as written
    default  a SQL expression as written; None: the argument must be given
    """

    name: str
    type: str
    default: str | None = None


#: Kinds of tools: what stands behind AS.
TOOL_KINDS = ("sql", "http", "python", "mcp")
VOLATILITIES = ("volatile", "stable", "immutable")


def default_volatility(kind: str, method: str, options: Mapping[str, object]) -> str:
    """The volatility of a tool that does not say: 'stable' for what only reads (queries, HTTP GET) and for Python
    functions, as DuckDB takes them; 'volatile' for other servers and for what has side effects."""
    if options.get("side_effects") is True or kind == "mcp" or method == "POST":
        return "volatile"
    return "stable"


@dataclass(frozen=True, slots=True)
class ToolDef:
    """A TOOL.

    kind        one of TOOL_KINDS
    body        sql: a SELECT with ``$argument``; http: a URL with ``{{argument}}``; python: 'module:function';
                mcp: the server (a URL or a command)
    method      http: 'GET' | 'POST'; else ''
    remote      mcp: the server's name of the tool; '' for ``name``
    parameters  its arguments in order
    returns     a DuckDB type as written; '' when it returns a table
    columns     RETURNS TABLE (…): names and types as written
    volatility  one of VOLATILITIES: may two equal calls differ; 'stable': not within one statement
    """

    name: str
    kind: str
    body: str
    parameters: tuple[Parameter, ...] = ()
    returns: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    method: str = ""
    remote: str = ""
    volatility: str = "volatile"
    options: Mapping[str, object] = field(default_factory=dict)
    version: int = 1
    temp: bool = False
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class AgentDef:
    """An AGENT: a model that calls tools until it has an answer.

    parameters  its arguments beside the task, in order
    returns     a DuckDB type as written
    options     WITH (…): ``model`` and ``tools`` hold names
    """

    name: str
    parameters: tuple[Parameter, ...] = ()
    returns: str = "VARCHAR"
    options: Mapping[str, object] = field(default_factory=dict)
    version: int = 1
    temp: bool = False
    comment: str | None = None

    @property
    def model(self) -> str | None:
        """The name of its model; None: the default model."""
        given = self.options.get("model")
        return None if given is None else str(given)

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of its tools."""
        given = self.options.get("tools")
        return tuple(str(name) for name in given) if isinstance(given, list | tuple) else ()


Definition = ModelDef | PromptDef | ToolDef | AgentDef

#: Kinds of objects that lie in the database, in an order in which they can be created.
KINDS: Mapping[str, type[ModelDef] | type[PromptDef] | type[ToolDef] | type[AgentDef]] = {
    "model": ModelDef,
    "prompt": PromptDef,
    "tool": ToolDef,
    "agent": AgentDef,
}


def kind_of(definition: Definition) -> str:
    """The key of KINDS."""
    return next(kind for kind, cls in KINDS.items() if isinstance(definition, cls))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects as one statement sees them; keys are lower-case names."""

    models: Mapping[str, ModelDef] = field(default_factory=dict)
    prompts: Mapping[str, PromptDef] = field(default_factory=dict)
    tools: Mapping[str, ToolDef] = field(default_factory=dict)
    agents: Mapping[str, AgentDef] = field(default_factory=dict)

    def of(self, kind: str) -> Mapping[str, Definition]:
        """The objects of a kind."""
        found: Mapping[str, Definition] = getattr(self, kind + "s")
        return found


#: Models that exist without a CREATE MODEL.
BUILT_IN_MODELS: Mapping[str, ModelDef] = {
    "echo": ModelDef("echo", "echo", "echo"),
    "minilm": ModelDef("minilm", "bundled:minilm", "vllm"),
    "smollm2": ModelDef("smollm2", "bundled:smollm2", "vllm"),
}
