"""ANALYZE of a query: its calls are made for a few rows, to learn what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halo_sql.errors import Error, NotSupportedError, Span
from halo_sql.grammar.classify import Kind, classify
from halo_sql.result import Result

if TYPE_CHECKING:
    from halo_sql.grammar.statements.nodes import Analyze
    from halo_sql.session import Session

_COLUMNS = (
    ("call", "VARCHAR"),
    ("requests", "BIGINT"),
    ("prompt_tok", "DOUBLE"),
    ("output_tok", "DOUBLE"),
    ("true_share", "DOUBLE"),
)


def statement(session: Session, node: Analyze, sql: str, params: object) -> Result:
    """ANALYZE [(SAMPLE n)] query: what is known of its calls afterwards, a row each.

    NotSupportedError for a query without calls, one that writes or acts, and while nothing is to be learnt.
    """
    from halo_sql.learning import known_of
    from halo_sql.statements import text_result

    span = Span(node.start, node.start + len(node.query))
    knowledge = session.knowledge
    if knowledge is None:
        raise NotSupportedError("halo_learn is off", sql=sql, span=span, remedy="SET halo_learn = true.")
    expanded = session.stored.expand(node.query)
    if expanded is None and classify(node.query) is not Kind.LLM:
        raise NotSupportedError(
            "the query makes no calls",
            sql=sql,
            span=span,
            remedy="ANALYZE takes a query with LLM calls.",
        )
    try:
        result, profile = session.queries.run(node.query, params, expanded, sample=node.sample_rows)
        try:
            for _ in result.reader():
                pass
        finally:
            result.close()
    except Error as problem:
        raise problem.moved(node.query, node.start, sql) from None
    models = session.catalog.snapshot().models
    return text_result(_COLUMNS, known_of(profile.dag, models, knowledge))
