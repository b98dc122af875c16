"""Views and macros with LLM calls: made as stubs in DuckDB's catalog, written out where statements name them.

Which names are such stubs is read once and kept, so that a plain statement pays for one look into a set of words; a
statement that names one reads their definitions anew when anything may have changed them since.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from halo_sql.duck import Duck
from halo_sql.errors import BinderError, CatalogError, Error
from halo_sql.grammar.lex import lex
from halo_sql.ir.expr import literal, quote

if TYPE_CHECKING:
    from halo_sql.grammar.definitions import Columns, Creation, Definition
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.ir.logical import BoundStatement

# statements that may bring stubs in, that may change what a name stands for, and of these what other connections see
_BRINGS = re.compile(r"(?:^|;)\s*(?:attach|import|copy\s+from)\b", re.IGNORECASE)
_SHARED = re.compile(
    r"(?:^|;)\s*(?:drop|alter|detach|commit|end)\b|\bcreate\b[^;]*\b(?:view|macro|function)\b", re.IGNORECASE
)
_LOCAL = re.compile(r"(?:^|;)\s*(?:create|use|set|reset|rollback|abort|execute)\b", re.IGNORECASE)
_QUERY = re.compile(r"[\s(]*(?:select|from|with|insert|update|delete|values|merge|set|pragma|execute)\b", re.IGNORECASE)
_CREATES = re.compile(r"\bcreate\b[^;]*\b(?:view|macro|function)\b", re.IGNORECASE)
# what a NULL in the place of a macro's parameter can make fail without the macro being wrong
_BY_TYPE = re.compile(
    r"No function matches|Cannot extract|Could not choose|ambiguous|Cannot (?:cast|compare|mix|infer)"
)

Bind = Callable[[str, "Expanded | None"], "BoundStatement"]


class Stored:
    """The views and macros with LLM calls that one connection sees.

    shared  counts what connections of the same database did to them; the others read them anew
    """

    def __init__(self, duck: Duck, shared: list[int], empty: bool = False) -> None:
        self._duck = duck
        self._shared = shared
        self._names: set[str] = set()  # upper case; grows only: a ROLLBACK can bring a dropped one back
        self._pattern: re.Pattern[str] | None = None  # finds them in a text; made when needed
        self._read = empty  # whether the names are known
        self._fresh = empty  # whether the definitions are
        self._seen = shared[0]
        self._found: dict[tuple[str, str], list[Definition]] = {}  # ('view' | 'macro', lower-case name)
        self._others: set[tuple[str, str, str]] = set()  # (lower-case name, database, schema) of other macros
        self._path: list[tuple[str, str]] = []

    def duplicate(self, duck: Duck) -> Stored:
        """The same for another connection to the same database."""
        made = Stored(duck, self._shared, self._read and not self._names)
        made._names, made._read = set(self._names), self._read
        return made

    # --- whether a statement is concerned ---

    def concerns(self, sql: str) -> bool:
        """Whether a text may name a view or macro with LLM calls."""
        if self._seen != self._shared[0]:
            self._seen, self._read, self._fresh = self._shared[0], False, False
        if not self._read and not (_QUERY.match(sql) and ";" not in sql.rstrip("; \t\r\n")):
            with suppress(Error):  # a catalog that cannot be read now: the statement itself says why, or mends it
                self.read()
        if not self._names:
            return False
        if self._pattern is None:
            listed = "|".join(re.escape(name.replace('"', '""')) for name in sorted(self._names))
            self._pattern = re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)
        return self._pattern.search(sql) is not None

    def note(self, sql: str) -> None:
        """A plain statement has run: it may have changed what there is."""
        if _BRINGS.search(sql):
            self._changed()
            self._read = False
        elif self._names:
            if _SHARED.search(sql):
                self._changed()
                self._read = False
            elif _LOCAL.search(sql):
                self._fresh = False

    def missed(self, problem: Error) -> bool:
        """Whether DuckDB may have stumbled over a stub this connection did not know of; then it does now."""
        from halo_sql.grammar.definitions import STUB_ERROR

        if self._fresh or not (STUB_ERROR in problem.message or isinstance(problem, BinderError | CatalogError)):
            return False
        try:
            self.read()
        except Error:  # the transaction is aborted
            return False
        return True

    def _changed(self) -> None:
        self._fresh = False
        self._shared[0] += 1
        self._seen = self._shared[0]

    # --- reading ---

    def read(self) -> None:
        """Read the definitions that DuckDB's catalog holds now."""
        from halo_sql.grammar.definitions import STUB_ERROR, read_stub

        self._found, self._others = {}, set()
        views = self._duck.rows(
            "SELECT view_name, database_name, schema_name, sql FROM duckdb_views() "
            f"WHERE NOT internal AND contains(sql, {literal(STUB_ERROR)})"
        )
        for name, database, schema, sql in views:
            self._keep(read_stub("view", name, [sql], database, schema))
        macros = self._duck.rows(
            "SELECT function_name, database_name, schema_name, list(macro_definition) FROM duckdb_functions() "
            "WHERE NOT internal AND function_type IN ('macro', 'table_macro') GROUP BY ALL"
        )
        for name, database, schema, sqls in macros:
            if not self._keep(read_stub("macro", name, sqls, database, schema)):
                self._others.add((name.lower(), database, schema))
        self._know(name for _, name in self._found)
        self._path = self._search_path() if self._names else []
        self._read = self._fresh = True

    def _know(self, names: Iterable[str]) -> None:
        self._names |= {name.upper() for name in names}
        self._pattern = None

    def _keep(self, definition: Definition | None) -> bool:
        if definition is not None:
            kind = "view" if definition.kind == "view" else "macro"
            self._found.setdefault((kind, definition.name.lower()), []).append(definition)
        return definition is not None

    def _search_path(self) -> list[tuple[str, str]]:
        """(database, schema) in the order in which an unqualified name is looked up."""
        [(database, schema, listed)] = self._duck.rows(
            "SELECT current_database(), current_schema(), current_setting('search_path')"
        )
        path = [("temp", "main")]
        for entry in listed.split(",") if listed else []:
            parts = [part.strip('" ') for part in entry.split(".")]
            path.append((parts[0], parts[1]) if len(parts) > 1 else (database, parts[0]))
        return list(dict.fromkeys([*path, (database, schema), (database, "main")]))

    def names(self) -> frozenset[str]:
        """Lower-case names of the views and macros with LLM calls, also of some that are gone."""
        return frozenset(name.lower() for name in self._names)

    def expand(self, sql: str) -> Expanded | None:
        """The statement with its views and macros written out; None when it names none."""
        if not self.concerns(sql):
            return None
        if not self._fresh:
            self.read()
        from halo_sql.grammar.expand import expand

        try:
            return expand(sql, self)
        except Error as problem:
            raise problem.locate(sql) from None

    # --- what the grammar asks ---

    @property
    def functions(self) -> frozenset[str]:
        """Upper-case names of the macros."""
        return frozenset(name.upper() for kind, name in self._found if kind == "macro")

    def view(self, parts: Sequence[str], home: Definition | None) -> Definition | None:
        """The view a name stands for."""
        candidates = self._found.get(("view", parts[-1].lower()), [])
        if not candidates:
            return None
        name = literal(parts[-1].lower())
        rows = self._duck.rows(
            f"SELECT database_name, schema_name FROM duckdb_tables() WHERE lower(table_name) = {name} "
            f"UNION ALL SELECT database_name, schema_name FROM duckdb_views() WHERE lower(view_name) = {name}"
        )
        return self._first(candidates, set(rows), parts[:-1], home)

    def macro(self, parts: Sequence[str], home: Definition | None, table: bool) -> Definition | None:
        """The macro a name stands for."""
        name = parts[-1].lower()
        candidates = self._found.get(("macro", name), [])
        if not candidates:
            return None
        places = {(known.database, known.schema) for known in candidates}
        places |= {(database, schema) for other, database, schema in self._others if other == name}
        found = self._first(candidates, places, parts[:-1], home)
        return found if found is not None and (found.kind == "table macro") == table else None

    def qualified(self, name: str, home: Definition) -> str:
        """A table of a view's own schema, written so that it is found from any other."""
        place = (home.database, home.schema)
        if place in self._path[:2] or home.database == "temp":
            return ""
        found = self._duck.rows(
            "SELECT 1 FROM (SELECT database_name, schema_name, table_name FROM duckdb_tables() UNION ALL "
            "SELECT database_name, schema_name, view_name FROM duckdb_views()) AS o(d, s, n) "
            "WHERE lower(n) = lower(?) AND d = ? AND s = ?",
            [name, *place],
        )
        return f"{quote(home.database)}.{quote(home.schema)}.{quote(name)}" if found else ""

    def expression_name(self, text: str) -> str:
        """The column name DuckDB gives an expression."""
        return self._duck.expression_name(text)

    def _first(
        self,
        candidates: Sequence[Definition],
        places: set[tuple[str, str]],
        given: Sequence[str],
        home: Definition | None,
    ) -> Definition | None:
        """Of the objects of a name in ``places`` the one that is found; None when that is not one of ours."""
        path = self._path if home is None else [("temp", "main"), (home.database, home.schema), *self._path]
        lowered = [part.lower() for part in given]
        if len(lowered) == 2:
            wanted = [place for place in places if [part.lower() for part in place] == lowered]
        elif len(lowered) == 1:
            order = [*path, *sorted(places)]
            wanted = [place for place in order if place in places and place[1].lower() == lowered[0]]
            wanted += [place for place in order if place in places and place[0].lower() == lowered[0]]
        else:
            wanted = [place for place in path if place in places]
        return (
            next((known for known in candidates if (known.database, known.schema) == wanted[0]), None)
            if wanted
            else None
        )

    # --- making ---

    def creation(self, sql: str) -> Creation | None:
        """The parts of a CREATE VIEW or CREATE MACRO statement; None for another statement."""
        if not _CREATES.search(sql):
            return None
        from halo_sql.grammar.definitions import parse_creation

        return parse_creation(lex(sql))

    def create(self, sql: str, creation: Creation, params: Any, bind: Bind) -> Any:
        """Check a definition by binding it, then make its stub; nothing is called. DuckDB's result of the CREATE."""
        lexed = lex(sql)
        if params:
            raise BinderError(
                "Unexpected prepared parameter. This type of statement can't be prepared!",
                sql=sql,
                remedy="Write the value into the definition.",
            )
        head = lexed.slice(*creation.head)
        definition = creation.definition
        if creation.if_not_exists and definition.kind == "view" and self._exists(creation, lexed.slice(*creation.name)):
            return self._duck.execute(f"{head} AS SELECT 1")
        if definition.kind == "view":
            stub = self._view(sql, head, creation, bind)
        else:
            from halo_sql.grammar.definitions import macro_stub

            stub = macro_stub(head, definition, self._check_macro(sql, creation, bind))
        try:
            result = self._duck.execute(stub)
        except Error as problem:
            problem.sql, problem.span = sql, lexed.span(*creation.name)
            raise
        self._know([definition.name])
        self._changed()
        return result

    def _exists(self, creation: Creation, name: str) -> bool:
        try:
            self._duck.describe(f"FROM {'temp.' if creation.temp else ''}{name}")
        except Error:
            return False
        return True

    def _view(self, sql: str, head: str, creation: Creation, bind: Bind) -> str:
        from halo_sql.grammar.definitions import view_stub
        from halo_sql.grammar.texts import visible

        span = lex(sql).span(*creation.bodies[0])
        query = sql[span.start : span.end]
        try:
            bound = bind(query, self.expand(query))
        except Error as problem:
            raise problem.moved(query, span.start, sql) from None
        names = [column.name for column in bound.columns]
        given = creation.definition.names
        if len(given) > len(names):
            where = lex(sql).span(*creation.name)
            raise BinderError("More VIEW aliases than columns in query result", sql=sql, span=where)
        names[: len(given)] = given
        shown = visible([replace(column, name=name) for column, name in zip(bound.columns, names, strict=True)])
        columns = [(name, column.type) for (name, _), column in zip(shown, bound.columns, strict=True)]
        return view_stub(head, creation.definition, columns)

    def _check_macro(self, sql: str, creation: Creation, bind: Bind) -> list[Columns]:
        """Bind each body with NULLs in the place of its parameters: names, options and holes must be right.

        Gives the columns of each, none where only values for the parameters would tell.
        """
        found: list[Columns] = []
        from halo_sql.grammar.expand import expand_body
        from halo_sql.grammar.texts import visible

        for overload, body in zip(creation.definition.overloads, creation.bodies, strict=True):
            expanded = expand_body(sql, lex(sql).span(*body), creation.definition, overload, self)
            try:
                bound = bind(sql, expanded)
            except Error as problem:
                if not _BY_TYPE.search(problem.message) and not expanded.is_argument(problem.span, sql):
                    raise
                found.append([])
                continue
            names = [name for name, _ in visible(bound.columns)]
            found.append([(name, column.type) for name, column in zip(names, bound.columns, strict=True)])
        return found
