"""Calls of TOOL and AGENT objects: bound as far as that needs no columns, then refused, as this version runs none.

``TOOL(name, argument => e, …)``, ``AGENT(name, task, argument => e, …)``; arguments may also be given by position,
before the named ones. What is wrong with a call is said first: a statement is then ready for the version that runs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.catalog.objects import AgentDef, Parameter, Snapshot, ToolDef
from halo_sql.duck import Duck, Token
from halo_sql.errors import BinderError, Error, NotSupportedError, Span, did_you_mean
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.source import Source, read_literal

#: Options every call may have beside its arguments (an argument of the same name comes first).
CALL_OPTIONS = ("on_error", "cache", "priority")
_IN_FROM = frozenset({"FROM", "LATERAL", "JOIN"})


def check_object_call(duck: Duck, snapshot: Snapshot, source: Source, index: int) -> None:
    """The call whose name (TOOL or AGENT) is token ``index``. Returns when it is none of ours, but a function or alias
    of the user's; raises BinderError for a wrong one, NotSupportedError for a right one. Spans are the statement's."""
    lexed = source.lexed
    start = lexed.tokens[index].start
    # an expression may begin with a call, a statement (which operator_calls expects) does not
    tokens = lexed.tokens if index else (Token(0, 0, "keyword", "SELECT"), *lexed.tokens)
    if not any(call.start == start for call in operator_calls(tokens)) or _is_function(duck, lexed.word(index)):
        return
    _Call(duck, snapshot, source, index).check()


def _is_function(duck: Duck, name: str) -> bool:
    query = "SELECT 1 FROM duckdb_functions() WHERE NOT internal AND lower(function_name) = lower(?) LIMIT 1"
    return bool(duck.rows(query, [name]))


class _Call:
    """One call."""

    def __init__(self, duck: Duck, snapshot: Snapshot, source: Source, index: int) -> None:
        self._duck = duck
        self._source = source
        self._lexed: Lexed = source.lexed
        self._index = index
        self._kind = self._lexed.word(index).lower()
        self._known = snapshot.of(self._kind)

    def check(self) -> None:
        """Raises, always."""
        lexed, closing = self._lexed, self._lexed.partner[self._index + 1]
        pieces = lexed.split(self._index + 2, closing)
        name = self._name(*pieces[0])
        found = self._known.get(name.lower())
        if found is None:
            near = did_you_mean(name, [item.name for item in self._known.values()])
            raise BinderError(
                f'{self._kind} "{name}" does not exist',
                span=self._span(*pieces[0]),
                remedy=near or f"CREATE {self._kind.upper()} {name} … first.",
            )
        assert isinstance(found, ToolDef | AgentDef)
        rest = pieces[1:]
        if isinstance(found, AgentDef):
            rest = self._without_task(found, rest, closing)
        self._check_place(found)
        self._check_arguments(found, rest, closing)
        raise NotSupportedError(
            f'{self._kind.upper()}("{found.name}") runs in a later version',
            span=self._span(self._index, closing + 1),
            remedy="The call is right as it stands; in this version tools and agents are only stored and checked.",
        )

    def _name(self, start: int, end: int) -> str:
        token = self._lexed.tokens[start]
        return read_literal(token.text).value if token.kind == "string_const" else identifier(token.text)

    def _without_task(self, agent: AgentDef, pieces: Sequence[tuple[int, int]], closing: int) -> list[tuple[int, int]]:
        for place, (start, end) in enumerate(pieces):
            named = self._lexed.text(start + 1) in ("=>", ":=")
            if start < end and (not named or identifier(self._lexed.text(start)).lower() == "task"):
                return [*pieces[:place], *pieces[place + 1 :]]
        raise BinderError(
            f'agent "{agent.name}" is given no task',
            span=self._span(closing, closing + 1),
            remedy=f"For example AGENT({agent.name}, 'Find the …').",
        )

    def _check_place(self, found: ToolDef | AgentDef) -> None:
        """A tool that returns a table stands in FROM, one that returns a value does not."""
        if not isinstance(found, ToolDef):
            return
        before, span = self._lexed.word(self._index - 1), self._span(self._index, self._index + 1)
        if found.columns and before not in _IN_FROM and self._lexed.text(self._index - 1) != ",":
            raise BinderError(
                f'tool "{found.name}" returns a table',
                span=span,
                remedy=f"Put it into FROM: FROM TOOL({found.name}, …).",
            )
        if not found.columns and before in _IN_FROM:
            raise BinderError(
                f'tool "{found.name}" returns a value, not a table',
                span=span,
                remedy=f"Use it as an expression: SELECT TOOL({found.name}, …).",
            )

    def _check_arguments(self, found: ToolDef | AgentDef, pieces: Sequence[tuple[int, int]], closing: int) -> None:
        parameters = {item.name.lower(): item for item in found.parameters}
        what, given = f'{self._kind} "{found.name}"', set[str]()
        free = list(found.parameters)  # for those given by position
        for start, end in pieces:
            if start == end:
                raise BinderError(
                    f"{self._kind.upper()}: an argument is missing",
                    span=self._span(start, start + 1),
                    remedy="Remove the comma.",
                )
            if self._lexed.text(start + 1) not in ("=>", ":="):
                if len(given) >= len(free):
                    raise BinderError(
                        f"{what} takes {len(free)} arguments", span=self._span(start, end), remedy=_signature(found)
                    )
                parameter = free[len(given)]
                value = start
            else:
                name = identifier(self._lexed.text(start))
                value, place = start + 2, self._span(start, start + 1)
                if name.lower() not in parameters:
                    if name.lower() in CALL_OPTIONS:
                        continue
                    near = did_you_mean(name, [item.name for item in found.parameters])
                    raise BinderError(
                        f'{what} has no argument "{name}"', span=place, remedy=near or "It takes no arguments."
                    )
                parameter = parameters[name.lower()]
                if parameter.name.lower() in given:
                    raise BinderError(f'argument "{name}" is given twice', span=place, remedy="Remove one of them.")
            given.add(parameter.name.lower())
            self._check_value(parameter, value, end)
        missing = [item.name for item in found.parameters if item.default is None and item.name.lower() not in given]
        if missing:
            raise BinderError(
                f'{what} needs the argument "{missing[0]}"',
                span=self._span(closing, closing + 1),
                remedy=_signature(found),
            )

    def _check_value(self, parameter: Parameter, start: int, end: int) -> None:
        """A constant must be castable to the argument's type; what other expressions are is known with the columns."""
        if start == end:
            raise BinderError(
                f'argument "{parameter.name}" has no value',
                span=self._span(start - 2, start - 1),
                remedy=f"It takes the type {parameter.type}.",
            )
        if end != start + 1 or self._lexed.tokens[start].kind not in ("string_const", "numeric_const"):
            return
        text = self._lexed.slice(start, end)
        try:
            self._duck.rows(f"SELECT CAST({text} AS {parameter.type})")
        except Error as problem:
            raise BinderError(
                f'argument "{parameter.name}" takes the type {parameter.type}: {problem.message.splitlines()[0]}',
                span=self._span(start, end),
                remedy=f"Give a value of type {parameter.type}.",
            ) from None

    def _span(self, first: int, end: int) -> Span:
        return self._source.origin(self._lexed.span(first, end))


def _signature(found: ToolDef | AgentDef) -> str:
    items = [
        f"{item.name} {item.type}" + ("" if item.default is None else f" DEFAULT {item.default}")
        for item in found.parameters
    ]
    return f"Its arguments: {', '.join(items)}." if items else "It takes no arguments."
