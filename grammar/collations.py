"""Collations: part of a VARCHAR's type inside DuckDB, and lost wherever rows leave it."""

from __future__ import annotations

from halo_sql.grammar.binding import Binding
from halo_sql.grammar.skeleton import identifier, starts_query


def reads_collations(binding: Binding) -> bool:
    """Whether the statement may read columns with a collation: then all of it is one query of DuckDB's."""
    lexed, duck = binding.lexed, binding.duck
    for index in range(len(lexed.tokens)) if "COLLATE" in lexed.words else ():
        opening = lexed.parent[index] if lexed.word(index) == "COLLATE" else -1
        while opening >= 0:
            if lexed.text(opening) == "(" and starts_query(lexed, opening + 1):
                return True
            opening = lexed.parent[opening]
    if not duck.may_collate[0]:
        return False
    tables = duck.rows("SELECT lower(table_name) FROM duckdb_tables() WHERE contains(lower(sql), ' collate ')")
    if not tables:
        duck.may_collate[0] = False
        return False
    views = duck.rows("SELECT lower(view_name) FROM duckdb_views() WHERE NOT internal")
    names = {name for (name,) in (*tables, *views)}
    return any(identifier(token.text).lower() in names for token in lexed.tokens)
