"""What can be said of the functions that an expression calls: DuckDB's own, and the user's macros by their bodies."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from halo_sql.duck import Duck
from halo_sql.errors import Error
from halo_sql.grammar.called import contains_query, functions_in
from halo_sql.grammar.lex import lex
from halo_sql.grammar.operators_table import OPERATORS
from halo_sql.grammar.source import Source
from halo_sql.grammar.syntax import Syntax

#: functions that give several rows
UNNEST = frozenset({"unnest", "unlist", "generate_subscripts"})
#: functions whose result depends on how their arguments are spelled
NAMING = frozenset({"struct_pack", "struct_insert", "struct_update", "union_value", "alias"})
#: Built-in functions whose values differ between connections.
_OF_CONNECTION = frozenset({"getvariable", "current_schema", "current_schemas", "current_database", "current_catalog"})
#: What stands in front of a bracket and is no function of the user's.
_NO_USERS = frozenset(name.lower() for name in OPERATORS) | {
    *("select", "from", "where", "over", "filter", "exists", "values", "any", "all", "by", "using", "union"),
    *("then", "when", "else", "limit", "having"),
}
_SAMPLES = frozenset({"SAMPLE", "TABLESAMPLE"})
_LIST = (
    "SELECT system.main.lower(function_name), database_name, schema_name, macro_definition "
    "FROM duckdb_functions() WHERE NOT internal AND function_type = 'macro'"
)


@dataclass(frozen=True, slots=True)
class UserFunctions:
    """The user's macros by lower-case name.

    row_wise  those that give one value for one row, on any connection to the database
    volatile  those that may give two results for equal arguments
    """

    row_wise: frozenset[str] = frozenset()
    volatile: frozenset[str] = frozenset()


def are_volatile(functions: Set[str], duck: Duck) -> bool:
    """Whether one of the functions may give two results for equal arguments."""
    if functions & duck.volatile_functions():
        return True
    users = functions - duck.built_in_functions() - duck.aggregate_functions() - _NO_USERS
    return bool(users and users & _known(duck).volatile)


def are_row_wise(functions: Set[str], duck: Duck) -> bool:
    """Whether all functions look at one row only, and do so on a second connection to the database, too."""
    if functions & _OF_CONNECTION:
        return False
    others = functions - duck.built_in_functions()
    return not others or (others <= _known(duck).row_wise and not duck.in_transaction())


def _known(duck: Duck) -> UserFunctions:
    try:
        return duck.of_catalog("user_functions", lambda: _read(duck))
    except Error:  # a transaction that an error has ended: its statements say so themselves
        return UserFunctions()


def _read(duck: Duck) -> UserFunctions:
    rows = duck.rows(_LIST)
    if not rows:
        return UserFunctions()
    other = duck.duplicate()
    try:
        [(database,)] = other.rows("SELECT current_database()")
    finally:
        other.close()
    bodies: dict[str, list[str]] = {}
    others: set[str] = set()  # what a second connection does not know by its name alone
    for name, database_name, schema, body in rows:
        bodies.setdefault(name, []).append(body)
        if (database_name, schema) != (database, "main"):
            others.add(name)
    sources = {
        name: [Source(lex(body), Syntax(True, ()), lambda span: span) for body in found]
        for name, found in bodies.items()
    }
    called = {name: frozenset[str]().union(*map(_called, found)) for name, found in sources.items()}
    volatile = set(duck.volatile_functions())
    _grow(volatile, called, every=False)
    row_wise = set(duck.built_in_functions() - bodies.keys() - UNNEST - NAMING - _OF_CONNECTION)
    able = bodies.keys() - others
    _grow(row_wise, {name: called[name] for name in able if not any(map(_has_query, sources[name]))}, every=True)
    return UserFunctions(frozenset(row_wise & bodies.keys()), frozenset(volatile & bodies.keys()))


def _grow(found: set[str], called: Mapping[str, frozenset[str]], every: bool) -> None:
    """Add the functions that call found ones, or call found ones only, until there are no more. What calls itself in
    the end never gets there."""
    size = -1
    while size != len(found):
        size = len(found)
        found.update(name for name, inner in called.items() if (inner <= found if every else inner & found))


def _called(body: Source) -> frozenset[str]:
    """The functions that a macro's body calls; a sample is drawn by ``random``."""
    words = body.lexed.words
    return frozenset(functions_in(body, 0, len(words))) | ({"random"} if _SAMPLES.intersection(words) else set())


def _has_query(body: Source) -> bool:
    return contains_query(body, 0, len(body.lexed.tokens))
