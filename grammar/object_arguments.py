"""The arguments of a TOOL or AGENT call: by position or name, options beside them, each a member of a JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from halo_sql.catalog.objects import AgentDef, Parameter, ToolDef
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error, Span, did_you_mean
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.options import OPTIONS
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.source import Source
from halo_sql.grammar.statements.check_options import AGENT_OPTIONS, TOOL_OPTIONS
from halo_sql.tools.sql_values import holds, spelled

#: Options every call may have beside its arguments (an argument of the same name comes first).
CALL_OPTIONS = ("on_error", "cache", "priority")
_CONSTANTS = frozenset({"TRUE", "FALSE", "NULL"})


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the JSON object that is sent.

    text   the JSON of a constant; '' for a hole
    parts  of a hole: SQL before the user's expression and behind it; with the expression's token range, or (of a
           hole in a template) its text
    """

    name: str
    text: str = ""
    before: str = ""
    after: str = ""
    tokens: Range | None = None


@dataclass(slots=True)
class ArgumentReader:
    """Reads the arguments of one call; ``options`` are those given so far."""

    duck: Duck
    settings: Settings
    source: Source
    options: dict[str, object] = field(default_factory=dict)

    @property
    def lexed(self) -> Lexed:
        """The source's tokens."""
        return self.source.lexed

    def read(self, kind: str, found: ToolDef | AgentDef, pieces: Sequence[Range], closing: int) -> dict[str, Range]:
        """Lower-case name of each argument given -> the token range of its value; options go to ``options``."""
        parameters = {item.name.lower(): item for item in found.parameters}
        what, given = f'{kind} "{found.name}"', dict[str, Range]()
        free = list(found.parameters)  # for those given by position
        for start, end in pieces:
            if start == end:
                raise BinderError(
                    f"{kind.upper()}: an argument is missing",
                    span=self._span(start, start + 1),
                    remedy="Remove the comma.",
                )
            if self.lexed.text(start + 1) not in ("=>", ":="):
                if len(given) >= len(free):
                    takes = "1 argument" if len(free) == 1 else f"{len(free)} arguments"
                    raise BinderError(f"{what} takes {takes}", span=self._span(start, end), remedy=signature(found))
                parameter, value = free[len(given)], start
            else:
                name = identifier(self.lexed.text(start))
                value, place = start + 2, self._span(start, start + 1)
                if name.lower() not in parameters:
                    if name.lower() in CALL_OPTIONS:
                        self._option(name.lower(), place, (value, end))
                        continue
                    raise BinderError(f'{what} has no argument "{name}"', span=place, remedy=_elsewhere(found, name))
                parameter = parameters[name.lower()]
                if parameter.name.lower() in given:
                    raise BinderError(f'argument "{name}" is given twice', span=place, remedy="Remove one of them.")
            if value == end:
                raise BinderError(
                    f'argument "{parameter.name}" has no value',
                    span=self._span(value - 2, value - 1),
                    remedy=f"It takes the type {parameter.type}.",
                )
            given[parameter.name.lower()] = (value, end)
        missing = [item.name for item in found.parameters if item.default is None and item.name.lower() not in given]
        if missing:
            raise BinderError(
                f'{what} needs the argument "{missing[0]}"',
                span=self._span(closing, closing + 1),
                remedy=signature(found),
            )
        return given

    def _option(self, name: str, place: Span, value: Range) -> None:
        option = OPTIONS[name]
        if name in self.options:
            raise BinderError(f'option "{name}" is given twice', span=place, remedy="Remove one of them.")
        if value[0] == value[1]:
            raise BinderError(f'option "{name}" has no value', span=place, remedy=f"It takes {option.takes}.")
        written = self.lexed.slice(*value)
        try:
            self.options[name] = option.check(self.duck.rows(f"SELECT {written}")[0][0])
        except (ValueError, TypeError, OverflowError, Error):
            raise BinderError(
                f'option "{name}" cannot be {written[:60]}',
                span=self._span(*value),
                remedy=f"It takes {option.takes}.",
            ) from None

    def on_error(self, options: Mapping[str, object]) -> str:
        """What a failing row does: as the call says, else the object (``options``), else the setting."""
        given = self.options.get("on_error") or options.get("on_error") or self.settings.text("halo_on_error")
        return str(given).lower()

    def member(self, parameter: Parameter, value: Range | None, special: bool) -> Member:
        """A parameter's member: the default's value, a constant's, or a hole that is computed for each row."""
        if value is None:
            assert parameter.default is not None
            return Member(parameter.name, text=default_json(self.duck, parameter))
        nullable = special or is_null(parameter.default)
        if self._is_constant(value):
            text = self._constant(parameter, value)
            if text is not None or nullable:
                return Member(parameter.name, text=text or "null")
        before, after = _around(self.duck, parameter.type)
        if nullable:
            before, after = "coalesce(" + before, after + ", 'null')"
        return Member(parameter.name, before=before, after=after, tokens=value)

    def _is_constant(self, value: Range) -> bool:
        start, end = value
        if end == start + 2 and self.lexed.text(start) == "-":
            start += 1
        token = self.lexed.tokens[start]
        constant = token.kind in ("string_const", "numeric_const") or self.lexed.word(start) in _CONSTANTS
        return end == start + 1 and constant

    def _constant(self, parameter: Parameter, value: Range) -> str | None:
        text = self.lexed.slice(*value)
        try:
            found = _json_of(self.duck, text, parameter.type)
        except Error as problem:
            raise BinderError(
                f'argument "{parameter.name}" takes the type {parameter.type}: {problem.message.splitlines()[0]}',
                span=self._span(*value),
                remedy=f"Give a value of type {parameter.type}.",
            ) from None
        return found

    def _span(self, first: int, end: int) -> Span:
        return self.source.origin(self.lexed.span(first, end))


def _elsewhere(found: ToolDef | AgentDef, name: str) -> str:
    """What to do about an argument that an object does not take."""
    kind, known = ("agent", AGENT_OPTIONS) if isinstance(found, AgentDef) else ("tool", TOOL_OPTIONS[found.kind])
    if any(option.name == name.lower() for option in known):
        return f"It is an option of the {kind}: ALTER {kind.upper()} {found.name} SET ({name.lower()} = …)."
    return did_you_mean(name, [item.name for item in found.parameters]) or "It takes no arguments."


def _around(duck: Duck, type_: str) -> tuple[str, str]:
    """SQL before an expression and behind it: together the JSON text of its value, NULL for NULL."""
    kind = duck.sql_type(type_)
    if kind.kind == "json":
        return "CAST(CAST((", "\n) AS JSON) AS VARCHAR)"
    if holds(kind, "json"):  # to_json takes the numbers in it through a DOUBLE
        text = spelled("halo_value", kind)
        return "list_transform([CAST((", f"\n) AS {type_})], lambda halo_value: {text})[1]"
    return "CAST(to_json(CAST((", f"\n) AS {type_})) AS VARCHAR)"


def _json_of(duck: Duck, text: str, type_: str) -> str | None:
    """The JSON of a constant expression; None for NULL."""
    before, after = _around(duck, type_)
    found: str | None = duck.rows(f"SELECT {before}{text}{after}")[0][0]
    return found


def default_json(duck: Duck, parameter: Parameter) -> str:
    """The JSON of an argument's default."""
    assert parameter.default is not None
    return _json_of(duck, parameter.default, parameter.type) or "null"


def is_null(default: str | None) -> bool:
    """Whether an argument is one that may be NULL: its default is."""
    return default is not None and default.strip().upper() == "NULL"


def signature(found: ToolDef | AgentDef) -> str:
    """An object's arguments in words."""
    items = [
        f"{item.name} {item.type}" + ("" if item.default is None else f" DEFAULT {item.default}")
        for item in found.parameters
    ]
    return f"Its arguments: {', '.join(items)}." if items else "It takes no arguments."
