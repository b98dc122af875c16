"""EXPLAIN of any statement: ours, DuckDB's, and those that are run in stages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from halo_sql import explain_sections, routing, staging
from halo_sql.errors import Error, NotSupportedError, ProgrammingError
from halo_sql.grammar.classify import Kind, classify
from halo_sql.result import DuckResult, Result

if TYPE_CHECKING:
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.grammar.statements.nodes import Explain
    from halo_sql.session import Session


def statement(session: Session, node: Explain, sql: str, params: object) -> Result:
    """EXPLAIN [ANALYZE]: one row, the plan as text."""
    inner, dumped = node.statement, "dump" in node.sections
    if dumped and node.analyze:
        raise ProgrammingError(
            "EXPLAIN (DUMP) is of a plan that is not run", kind="Invalid Input Error", remedy="Leave ANALYZE out."
        )
    if classify(inner) is not Kind.LLM:
        if dumped:
            raise NotSupportedError(
                "DuckDB plans a statement without calls", remedy="EXPLAIN (DUMP) takes a statement with LLM calls."
            )
        prefix = f"EXPLAIN ({'ANALYZE, ' * node.analyze}FORMAT {node.format}) "
        try:
            session.duck.execute(prefix + inner, params)
        except Error as problem:
            if problem.span is not None:
                problem.moved(problem.sql or "", node.start - len(prefix), sql)
            raise
        return DuckResult(session.duck.connection)
    from halo_sql.statements import text_result

    try:
        shown = text(session, inner, params, node.analyze, node.format, node.sections)
    except Error as problem:
        raise problem.moved(inner, node.start, sql) from None
    key = "analyzed_plan" if node.analyze else "dump" if dumped else "physical_plan"
    return text_result([("explain_key", "VARCHAR"), ("explain_value", "VARCHAR")], [(key, shown)])


def any_text(session: Session, sql: str, analyze: bool, form: str, params: object) -> str:
    """The plan of a statement, whoever runs it."""
    named = session.tool_names.expand(sql)
    if named is not None:
        try:
            return any_text(session, named.text, analyze, form, params)
        except Error as problem:
            if problem.sql == named.text:
                named.explain(problem, sql)
            raise
    expanded = session.prepared.expand(sql, params, session.stored.expand)
    if expanded is not None:
        params = None
    expanded = expanded or session.stored.expand(sql)
    if expanded is not None or classify(sql) is Kind.LLM:
        return text(session, sql, params, analyze, form, (), expanded)
    prefix = "EXPLAIN (ANALYZE, FORMAT " if analyze else "EXPLAIN (FORMAT "
    rows = session.duck.rows(f"{prefix}{form}) {sql}", params)
    return "\n".join(row[-1] for row in rows)


def text(
    session: Session,
    sql: str,
    params: object,
    analyze: bool,
    form: str,
    sections: Sequence[str],
    expanded: Expanded | None = None,
) -> str:
    """The plan of a statement with LLM calls; with ``analyze`` it is run, and other sections follow what happened."""
    if analyze and sections:
        sections = ("physical", *(section for section in sections if section != "physical"))
        explain_sections.check(form, sections)
    stages = staging.find(sql, params, expanded, session.duck)
    if not analyze:
        if stages is None:
            return _planned(session, sql, params, form, sections, expanded)
        plans, plain = staging.explain(
            sql, *stages, session.duck, session.check, lambda text: _planned(session, sql, None, form, sections, text)
        )
        if not plans:
            return plain
        return plans[0] if len(plans) == 1 else _joined(plans, form, sections)
    with session.queries.watched() as planned:
        if stages is None:
            result, profile = session.queries.run(sql, params, expanded, closely=True)
        else:
            result = routing.run_staged(session, sql, *stages)
            last = session.last_profile()
            assert last is not None
            profile = last
    try:
        for _ in result.reader():
            pass
    finally:
        result.close()
    return explain_sections.render(*planned[-1], form, sections, sql, profile)


def _planned(
    session: Session, sql: str, params: object, form: str, sections: Sequence[str], expanded: Expanded | None
) -> str:
    bound, snapshot = session.queries.bind(sql, params, expanded)
    optimized = session.queries.optimize(bound, snapshot, closely=True)
    return explain_sections.render(bound, optimized, form, sections, sql)


def _joined(plans: Sequence[str], form: str, sections: Sequence[str]) -> str:
    if "dump" in sections:
        return "[\n" + ",\n".join(plans) + "\n]"
    if form == "json":
        return json.dumps([json.loads(plan) for plan in plans], indent=2)
    return "\n\n".join(plans)
