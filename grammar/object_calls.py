"""Calls of TOOL and AGENT objects, resolved against the catalog.

``TOOL(name, argument => e, …)``, ``AGENT(name, task, argument => e, …)``; arguments may also be given by position,
before the named ones. What is sent is a JSON object: a tool's arguments, or the data that an agent is given. Text that
is the same for all rows of a task (a template outside its holes) is no data: it becomes the agent's standing order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from halo_sql.agents.assemble import is_volatile, limit, sampling_of, told, tools_of
from halo_sql.catalog.objects import AgentDef, ModelDef, Snapshot, ToolDef
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.duck_tokens import Token
from halo_sql.errors import BinderError, Error, Span, did_you_mean
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.object_arguments import ArgumentReader, Member
from halo_sql.grammar.operators_table import ROW_OPERATORS
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.source import Source, read_literal
from halo_sql.ir.expr import quote
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import SqlType, check_schema

_TRACE = (
    "STRUCT(step INTEGER, kind VARCHAR, tool VARCHAR, arguments VARCHAR, result VARCHAR, error VARCHAR, "
    "prompt_tok BIGINT, output_tok BIGINT)[]"
)


@dataclass(frozen=True, slots=True)
class ObjectCall:
    """A call of a TOOL or AGENT: what the binder's ``CallSite`` needs to know of it.

    members   of the object that is sent, in order
    task      token range of an agent's task; None: a tool
    returns   type of the value
    around    characters that an agent is told beside the task
    steps     that an agent may take
    """

    kind: str
    target: str
    members: tuple[Member, ...]
    task: Range | None
    model: ModelDef
    returns: SqlType
    sampling: Sampling
    on_error: str
    cache: bool
    priority: int
    volatile: bool
    row_form: bool = False
    around: int = 0
    steps: int = 0


NO_MODEL = ModelDef("", "", "")


def is_object_call(duck: Duck, source: Source, index: int) -> bool:
    """Whether the word at a token (TOOL or AGENT, before a bracket) calls an object: not a function or alias of the
    user's."""
    lexed = source.lexed
    if lexed.word(index) in ROW_OPERATORS:
        return True
    start = lexed.tokens[index].start
    # an expression may begin with a call, a statement (which operator_calls expects) does not
    tokens = lexed.tokens if index else (Token(0, 0, "keyword", "SELECT"), *lexed.tokens)
    return any(call.start == start for call in operator_calls(tokens)) and not _is_function(duck, lexed.word(index))


def _is_function(duck: Duck, name: str) -> bool:
    """Whether the user has a function or macro of this name. Asked of DuckDB's binder: its list of functions takes
    milliseconds."""
    for text in (f"SELECT {name}(NULL)", f"FROM {name}(NULL)"):
        try:
            duck.probe(text)
        except Error as problem:
            if "does not exist" not in problem.message:
                return True  # it takes other arguments
        else:
            return True
    return False


def read_object_call(duck: Duck, snapshot: Snapshot, settings: Settings, source: Source, index: int) -> ObjectCall:
    """The call whose name is token ``index``; BinderError (span in the statement) for what is wrong with it."""
    return _Reader(duck, snapshot, settings, source, index).read()


@dataclass(slots=True)
class _Reader:
    duck: Duck
    snapshot: Snapshot
    settings: Settings
    source: Source
    index: int
    _read: ArgumentReader = field(init=False)

    def __post_init__(self) -> None:
        self._read = ArgumentReader(self.duck, self.settings, self.source)

    @property
    def lexed(self) -> Lexed:
        return self.source.lexed

    def read(self) -> ObjectCall:
        lexed = self.lexed
        word = lexed.word(self.index)
        rows, kind = word in ROW_OPERATORS, ROW_OPERATORS.get(word, word).lower()
        closing = lexed.partner[self.index + 1]
        pieces = lexed.split(self.index + 2, closing)
        found = self._object(kind, *pieces[0])
        if isinstance(found, ToolDef):
            return self._tool(found, pieces[1:], closing, rows)
        return self._agent(found, pieces[1:], closing, rows)

    def _object(self, kind: str, start: int, end: int) -> ToolDef | AgentDef:
        token = self.lexed.tokens[start]
        name = read_literal(token.text).value if token.kind == "string_const" else identifier(token.text)
        known = self.snapshot.of(kind)
        found = known.get(name.lower())
        if found is None:
            other = "agent" if kind == "tool" else "tool"
            if name.lower() in self.snapshot.of(other):
                remedy = f"It is the name of the {other} {other.upper()}({name}, …)."
            else:
                near = did_you_mean(name, [item.name for item in known.values()])
                remedy = near or f"CREATE {kind.upper()} {name} … first."
            raise BinderError(f'{kind} "{name}" does not exist', span=self._span(start, end), remedy=remedy)
        assert isinstance(found, ToolDef | AgentDef)
        return found

    # --- tools

    def _tool(self, tool: ToolDef, pieces: Sequence[Range], closing: int, rows: bool) -> ObjectCall:
        if tool.columns and not rows:
            raise BinderError(
                f'tool "{tool.name}" returns a table',
                span=self._span(self.index, self.index + 1),
                remedy=f"Put it into FROM: FROM TOOL({tool.name}, …).",
            )
        if rows and not tool.columns:
            raise BinderError(
                f'tool "{tool.name}" returns a value, not a table',
                span=self._span(self.index, self.index + 1),
                remedy=f"Use it as an expression: SELECT TOOL({tool.name}, …).",
            )
        given = self._read.read("tool", tool, pieces, closing)
        special = str(tool.options.get("null_handling", "")).lower() == "special"
        members = [self._read.member(item, given.get(item.name.lower()), special) for item in tool.parameters]
        on_error = self._read.on_error(tool.options)
        if tool.columns and on_error == "struct":
            raise BinderError(
                "on_error => 'struct' does not fit a tool that returns a table",
                span=self._span(self.index, self.index + 1),
                remedy="With 'null' a call that fails gives no rows.",
            )
        return ObjectCall(
            "tool",
            tool.name,
            tuple(members),
            None,
            NO_MODEL,
            value_type(tool, self.duck.sql_type),
            Sampling(),
            on_error,
            bool(self._read.options.get("cache", True)),
            int(str(self._read.options.get("priority", 0))),
            tool.volatility == "volatile",
        )

    # --- agents

    def _agent(self, agent: AgentDef, pieces: Sequence[Range], closing: int, rows: bool) -> ObjectCall:
        task, rest = self._task(agent, pieces, closing)
        given = self._read.read("agent", agent, rest, closing)
        members = [self._read.member(item, given.get(item.name.lower()), False) for item in agent.parameters]
        where = self._span(self.index, closing + 1)
        returns = self.duck.sql_type(agent.returns)
        try:
            check_schema(returns)
        except ValueError as problem:
            reason, _, remedy = str(problem).partition("\n")
            raise BinderError(f'agent "{agent.name}": {reason}', span=where, remedy=remedy) from None
        try:
            tools = tools_of(agent, self.snapshot)
        except BinderError as problem:
            problem.span = where
            raise
        on_error = self._read.on_error(agent.options)
        if rows:
            text = f"STRUCT(answer {returns.text}, steps INTEGER, tokens BIGINT, trace {_TRACE})"
            returns = self.duck.sql_type(text)
            if on_error == "struct":
                raise BinderError(
                    "on_error => 'struct' does not fit an agent in FROM",
                    span=where,
                    remedy="With 'null' its columns are NULL for rows that fail; halo_calls() says why.",
                )
        return ObjectCall(
            "agent",
            agent.name,
            tuple(members),
            task,
            self._model(agent, where),
            returns,
            sampling_of(agent),
            on_error,
            bool(self._read.options.get("cache", True)),
            int(str(self._read.options.get("priority", 0))),
            any(is_volatile(item, self.snapshot) for item in tools),
            rows,
            told(agent, self.snapshot, self.duck.sql_type),
            int(limit(agent, "max_steps")) if tools else 1,
        )

    def _task(self, agent: AgentDef, pieces: Sequence[Range], closing: int) -> tuple[Range, list[Range]]:
        for place, (start, end) in enumerate(pieces):
            named = self.lexed.text(start + 1) in ("=>", ":=")
            if start < end and (not named or identifier(self.lexed.text(start)).lower() == "task"):
                value = (start + 2, end) if named else (start, end)
                if value[0] == value[1]:
                    raise BinderError("the task has no value", span=self._span(start, end), remedy="It takes a text.")
                return value, [*pieces[:place], *pieces[place + 1 :]]
        raise BinderError(
            f'agent "{agent.name}" is given no task',
            span=self._span(closing, closing + 1),
            remedy=f"For example AGENT({agent.name}, 'Find the …').",
        )

    def _model(self, agent: AgentDef, where: Span) -> ModelDef:
        name = agent.model or self.settings.text("halo_default_model")
        found = self.snapshot.models.get(name.lower())
        if found is None:
            raise BinderError(
                f'the model "{name}" of agent "{agent.name}" does not exist',
                span=where,
                remedy=did_you_mean(name, list(self.snapshot.models)) + f" Or CREATE MODEL {quote(name)} FROM '…'.",
            )
        return found

    def _span(self, first: int, end: int) -> Span:
        return self.source.origin(self.lexed.span(first, end))


def value_type(tool: ToolDef, sql_type: Callable[[str], SqlType]) -> SqlType:
    """The type of a tool's value; of one that returns a table a list of its rows."""
    if not tool.columns:
        return sql_type(tool.returns)
    members = ", ".join(f"{quote(name)} {kind}" for name, kind in tool.columns)
    return sql_type(f"STRUCT({members})[]")
