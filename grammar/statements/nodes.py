"""Syntax nodes of HaloSQL's own statements: frozen, with character spans into the statement's text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halo_sql.catalog.objects import AgentDef, ModelDef, Parameter, PromptDef, ToolDef, default_volatility
from halo_sql.duck_tokens import Token
from halo_sql.errors import Span
from halo_sql.grammar.statements.lexemes import string_value

#: Engines a MODEL may name, in the order in which errors list them.
ENGINES = ("vllm", "openai", "ray", "python", "echo", "replay", "emulated")

OptionValue = str | int | float | bool | list["OptionValue"] | dict[str, "OptionValue"] | None


@dataclass(frozen=True, slots=True)
class Option:
    """``key = value`` in WITH (…).

    key      lower case
    value    an unquoted word is its text, except true, false and null
    literal  False when the value is an unquoted word (the name of something)
    span     of the key
    """

    key: str
    value: OptionValue
    literal: bool
    span: Span
    value_span: Span


@dataclass(frozen=True, slots=True)
class CreateModel:
    """CREATE [OR REPLACE] [TEMP] MODEL [IF NOT EXISTS] name FROM 'source' [USING engine] [WITH (…)]

    engine  as given, lower case; otherwise what the source says (``default_engine``)
    """

    name: str
    name_span: Span
    source: str
    source_span: Span
    engine: str
    options: tuple[Option, ...] = ()
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    def definition(self) -> ModelDef:
        """The catalog object this creates; the catalog gives it its version."""
        return ModelDef(self.name, self.source, self.engine, option_values(self.options), temp=self.temp)


@dataclass(frozen=True, slots=True)
class CreatePrompt:
    """CREATE [OR REPLACE] [TEMP] PROMPT [IF NOT EXISTS] name AS 'template' [WITH (system = '…')]

    text_span  of the template with its quotes
    """

    name: str
    name_span: Span
    text: str
    text_span: Span
    system: str | None = None
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    def definition(self) -> PromptDef:
        """The catalog object this creates; the catalog gives it its version."""
        return PromptDef(self.name, self.text, self.system, temp=self.temp)


@dataclass(frozen=True, slots=True)
class Argument:
    """``name TYPE [DEFAULT e]``, or a column of RETURNS TABLE; ``default_span`` is the type's when there is none."""

    name: str
    name_span: Span
    type: str
    type_span: Span
    default: str | None
    default_span: Span


@dataclass(frozen=True, slots=True)
class CreateTool:
    """CREATE [OR REPLACE] [TEMP] TOOL [IF NOT EXISTS] name (…) RETURNS … AS …

    returns       the type as written; '' for a table, whose ``columns`` they are
    volatility    '' when none is given
    kind          'sql' | 'http' | 'python' | 'mcp'
    body_literal  the query, URL, function or server as written, quotes included
    method        http: 'GET' | 'POST'
    remote        mcp: the tool's name there; '' when none is given
    """

    name: str
    name_span: Span
    parameters: tuple[Argument, ...]
    returns: str
    returns_span: Span
    columns: tuple[Argument, ...]
    volatility: str
    comment: str | None
    kind: str
    body_literal: str
    body_span: Span
    method: str = ""
    remote: str = ""
    options: tuple[Option, ...] = ()
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    @property
    def body(self) -> str:
        """The body's text."""
        return string_value(Token(0, len(self.body_literal), "string_const", self.body_literal))

    def definition(self) -> ToolDef:
        """The catalog object this creates; the catalog gives it its version."""
        options = option_values(self.options)
        return ToolDef(
            self.name,
            self.kind,
            self.body,
            _parameters(self.parameters),
            self.returns,
            tuple((column.name, column.type) for column in self.columns),
            self.method,
            self.remote,
            self.volatility or default_volatility(self.kind, self.method, options),
            options,
            temp=self.temp,
            comment=self.comment,
        )


@dataclass(frozen=True, slots=True)
class ImportTools:
    """CREATE [OR REPLACE] [TEMP] TOOL [IF NOT EXISTS] name | * AS MCP 'server' ['tool'] [WITH (…)]

    name    None: all tools of the server, under its names
    remote  the tool's name there; '' when none is given
    """

    name: str | None
    name_span: Span
    server: str
    server_span: Span
    remote: str = ""
    options: tuple[Option, ...] = ()
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False


@dataclass(frozen=True, slots=True)
class CreateAgent:
    """CREATE [OR REPLACE] [TEMP] AGENT [IF NOT EXISTS] name [(…)] [RETURNS TYPE] WITH (…)

    returns_span  the name's when no type is given
    """

    name: str
    name_span: Span
    parameters: tuple[Argument, ...]
    returns: str
    returns_span: Span
    options: tuple[Option, ...]
    or_replace: bool = False
    if_not_exists: bool = False
    temp: bool = False

    def definition(self) -> AgentDef:
        """The catalog object this creates; the catalog gives it its version."""
        return AgentDef(
            self.name, _parameters(self.parameters), self.returns, option_values(self.options), temp=self.temp
        )


#: What a secret of TYPE llm may hold.
SECRET_KEYS = ("type", "provider", "api_key", "api_key_env", "base_url")


@dataclass(frozen=True, slots=True)
class CreateSecret:
    """CREATE [OR REPLACE] [TEMP | PERSISTENT] SECRET [IF NOT EXISTS] name (TYPE llm, …)

    api_key, api_key_env  exactly one is given: the key, or the environment variable that holds it
    base_url              URLs it may be sent to begin with this; '' for any
    """

    name: str
    name_span: Span
    api_key: str | None = field(repr=False)
    api_key_env: str | None
    base_url: str
    base_url_span: Span
    persistent: bool = False
    or_replace: bool = False
    if_not_exists: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """DROP MODEL | PROMPT | TOOL | AGENT [IF EXISTS] name [CASCADE]; kind is 'model' | 'prompt' | 'tool' | 'agent'."""

    kind: str
    name: str
    name_span: Span
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class DropSecret:
    """DROP [TEMP | PERSISTENT] SECRET [IF EXISTS] name; scope is '' | 'temporary' | 'persistent'."""

    name: str
    name_span: Span
    scope: str = ""
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class Alter:
    """ALTER kind name …, COMMENT ON kind name IS …

    action   'rename' | 'set_options' | 'reset_options' | 'set_comment' | 'set_text'
    text     the new name, comment (None: none) or template
    options  of set_options
    keys     of reset_options: (lower-case key, span)
    """

    kind: str
    name: str
    name_span: Span
    action: str
    if_exists: bool = False
    text: str | None = None
    text_span: Span | None = None
    options: tuple[Option, ...] = ()
    keys: tuple[tuple[str, Span], ...] = ()


@dataclass(frozen=True, slots=True)
class Show:
    """SHOW MODELS | PROMPTS | TOOLS | AGENTS | SECRETS; kind is the singular."""

    kind: str


@dataclass(frozen=True, slots=True)
class Describe:
    """DESCRIBE MODEL | PROMPT | TOOL | AGENT | SECRET name; kind in lower case."""

    kind: str
    name: str
    name_span: Span


@dataclass(frozen=True, slots=True)
class Calibrate:
    """CALIBRATE MODEL name."""

    name: str
    name_span: Span


@dataclass(frozen=True, slots=True)
class BatchMark:
    """BEGIN BATCH, END BATCH."""

    begins: bool


@dataclass(frozen=True, slots=True)
class SetSetting:
    """SET [SESSION | GLOBAL | LOCAL] halo_x = value, PRAGMA halo_x = value.

    name   lower case
    value  a list arrives as its items joined by commas
    scope  '' | 'session' | 'global' | 'local'
    """

    name: str
    name_span: Span
    value: str | int | float | bool | None
    value_span: Span
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ResetSetting:
    """RESET [scope] halo_x, SET halo_x = DEFAULT."""

    name: str
    name_span: Span
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Explain:
    """EXPLAIN [ANALYZE] [(option [value], …)] statement.

    format     'text' | 'json' | 'html' | 'mermaid' | 'graphviz'
    sections   of 'logical', 'physical', 'memo', 'rules', 'costs', those asked for, in the order given, or 'dump'
    statement  the explained statement's text
    start      where it begins in the EXPLAIN's text (characters)
    """

    statement: str
    start: int
    analyze: bool = False
    format: str = "text"
    sections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analyze:
    """ANALYZE [(SAMPLE n)] query.

    query        its text; ``start`` is where it begins (characters)
    sample_rows  rows that are read below its calls
    """

    query: str
    start: int
    sample_rows: int = 20


@dataclass(frozen=True, slots=True)
class DropStatistics:
    """DROP STATISTICS."""


Create = CreateModel | CreatePrompt | CreateTool | CreateAgent
Change = Create | ImportTools | CreateSecret | Drop | DropSecret | Alter
Statement = (
    Change | Show | Describe | Calibrate | SetSetting | ResetSetting | Explain | BatchMark | Analyze | DropStatistics
)


def option_values(options: tuple[Option, ...]) -> Mapping[str, object]:
    """Key -> value."""
    return {option.key: option.value for option in options}


def _parameters(arguments: tuple[Argument, ...]) -> tuple[Parameter, ...]:
    return tuple(Parameter(item.name, item.type, item.default) for item in arguments)


def default_engine(source: str) -> str:
    """The engine of a model whose statement names none."""
    lowered = source.lower()
    if lowered.startswith(("http://", "https://")):
        return "openai"
    return "echo" if lowered == "echo" else "vllm"
