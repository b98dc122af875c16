"""Which way a statement with LLM calls goes: a definition is kept, a form is run in stages, all others become plans."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from halo_sql.errors import CatalogError, Error
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.split import StatementText
from halo_sql.result import DuckResult, Result

if TYPE_CHECKING:
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.grammar.forms import Staged
    from halo_sql.session import Session


#: Statements that are run as they stand; others define something, or are about a statement.
_RUN_AT_ONCE = re.compile(r"\s*(?:\(|(?:select|from|with|values|insert|update|delete|merge|copy)\b)", re.IGNORECASE)


def run(session: Session, sql: str, params: object, expanded: Expanded | None) -> Result:
    """A statement with LLM calls, its own or those of views, macros and prepared statements it names.

    expanded  the statement with these written out
    """
    if (creation := session.stored.creation(sql)) is not None:
        session.stored.create(sql, creation, params, session.check)
        return DuckResult(session.duck.connection)
    if session.prepared.prepare(sql, session.stored.expand, session.check):
        from halo_sql.statements import text_result

        return text_result([("Success", "BOOLEAN")], [])
    if expanded is not None and classify(expanded.text) is not Kind.LLM:
        return run_written(session, sql, params, expanded)
    from halo_sql import staging

    stages = staging.find(sql, params, expanded, session.duck)
    if stages is not None:
        return run_staged(session, sql, *stages)
    return session.queries.run(sql, params, expanded)[0]


def query_of(session: Session, sql: str, params: object) -> tuple[object, Expanded | None] | None:
    """What ``queries.run`` would be given beside the text of a single statement: parameters and the statement written
    out; None when it goes another way. Errors point into ``sql``."""
    kind = classify(sql)
    if kind not in (Kind.LLM, Kind.PLAIN):
        return None
    expanded = session.tool_names.expand(sql)
    if expanded is not None:
        if session.stored.concerns(expanded.text) or session.prepared.concerns(expanded.text):
            return None
    else:
        expanded = session.prepared.expand(sql, params, session.stored.expand)
        params = params if expanded is None else None
        expanded = expanded or session.stored.expand(sql)
    text = sql if expanded is None else expanded.text
    if _RUN_AT_ONCE.match(text) is None or classify(text) is not Kind.LLM:
        return None
    from halo_sql import staging

    return None if staging.find(sql, params, expanded, session.duck) is not None else (params, expanded)


def run_plain(session: Session, sql: str, params: object) -> Result:
    """A text for DuckDB alone."""
    if session.prepared.forget(sql):
        from halo_sql.statements import text_result

        return text_result([("Success", "BOOLEAN")], [])
    try:
        session.duck.execute(sql, params)
    except Error as problem:
        if session.stored.missed(problem) and (expanded := session.stored.expand(sql)) is not None:
            return run(session, sql, params, expanded)
        raise named_better(session, problem) from None
    result = DuckResult(session.duck.connection)
    session.stored.note(sql)
    session.tool_names.note(sql)
    return result


def named_better(session: Session, problem: Error) -> Error:
    """DuckDB's error, or ours for a name that it cannot know."""
    if not isinstance(problem, CatalogError):
        return problem
    from halo_sql.statements import misspelled

    return misspelled(problem, _agents(session)) or problem


def _agents(session: Session) -> Container[str]:
    """Lower-case names of the agents; none in a transaction that the error has aborted."""
    try:
        known: Container[str] = session.catalog.snapshot().agents
        return known
    except Error:
        return ()


def run_written(session: Session, sql: str, params: object, expanded: Expanded) -> Result:
    """A text that stands for the user's statement: an EXPLAIN whose statement names views or macros."""
    try:
        return session.execute_one(StatementText(expanded.text, 0), classify(expanded.text), params)
    except Error as problem:
        if problem.sql == expanded.text:
            expanded.explain(problem, sql)
        raise


def run_named(session: Session, sql: str, params: object, named: Expanded) -> Result:
    """A text that calls tools by their own names; ``named`` calls them by TOOL."""
    text = named.text
    more = session.stored.concerns(text) or session.prepared.concerns(text)  # other names are to be written out, too
    if more or _RUN_AT_ONCE.match(sql) is None or classify(text) is not Kind.LLM:
        return run_written(session, sql, params, named)
    return run(session, sql, params, named)


def run_staged(session: Session, sql: str, whole: Expanded, stages: Staged) -> Result:
    """A statement whose queries with LLM calls are run before it."""
    from halo_sql import staging

    def execute(sql: str, text: Expanded) -> Result:
        if classify(text.text) is Kind.LLM:
            return run(session, sql, None, text)
        session.duck.execute(text.text)
        return DuckResult(session.duck.connection)

    return staging.run(sql, whole, stages, session.duck, session.check, execute)
