"""Statements whose queries with LLM calls are run first, into temporary tables (``halo_sql.grammar.forms``)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from halo_sql.duck import Duck
from halo_sql.errors import Error, Span
from halo_sql.grammar.expanded import Expanded, Mark, assembled
from halo_sql.grammar.forms import Stage, Staged, may_stage, staged
from halo_sql.grammar.lex import lex
from halo_sql.grammar.parameters import splice_parameters
from halo_sql.grammar.values import parameter, variable
from halo_sql.ir.expr import quote
from halo_sql.result import Result, detached

if TYPE_CHECKING:
    from halo_sql.ir.logical import BoundStatement

_NUMBERS = itertools.count(1)
_WANTS_ROWS = "SELECT list is empty after resolving * expressions"

Bind = Callable[[str, "Expanded | None"], "BoundStatement"]
Run = Callable[[str, Expanded], Result]


def find(sql: str, params: Any, expanded: Expanded | None, duck: Duck) -> tuple[Expanded, Staged] | None:
    """The stages of a statement, its parameters and definitions written out; None when it needs none."""
    text = sql if expanded is None else expanded.text
    if not may_stage(text):
        return None
    name = f"__halo_stage_{next(_NUMBERS)}_"
    if staged(lex(text), name) is None:
        return None
    spliced = splice_parameters(text, params, partial(parameter, duck), duck.expression_name, partial(variable, duck))
    whole = written(spliced.pieces(), expanded)
    found = staged(lex(whole.text), name)
    assert found is not None
    return whole, found


def written(pieces: Iterator[tuple[str, Span]], expanded: Expanded | None, start: int = 0) -> Expanded:
    """Pieces of a text with their places in ``expanded``'s text (None: in the statement) as one text."""
    made = []
    for text, span in pieces:
        place = span if expanded is None else expanded.origin(span)
        label = "" if expanded is None else expanded.label(span.start)
        made.append(Mark(text, Span(place.start + start, place.end + start), label))
    return assembled(made)


def run(sql: str, whole: Expanded, found: Staged, duck: Duck, bind: Bind, execute: Run) -> Result:
    """Run a statement's stages, then the statement over their tables; its rows are read into memory.

    The statement is checked over empty tables before a stage runs. Tables are dropped whatever happens.
    """
    with _tables(sql, whole, found.stages, duck, bind) as columns:
        text = _text(whole, found.parts, columns)
        _check(sql, text, duck)
        for stage in found.stages:
            if not stage.described:
                head = Mark(f"INSERT INTO temp.main.{quote(stage.table)} ", Span(0, 0))
                execute(sql, assembled([head, *_text(whole, stage.parts, columns).pieces])).close()
        try:
            return detached(execute(sql, text))
        except Error as problem:
            if problem.sql == text.text:
                text.explain(problem, sql)
            raise


def explain(
    sql: str, whole: Expanded, found: Staged, duck: Duck, bind: Bind, plan: Callable[[Expanded], str]
) -> tuple[list[str], str]:
    """The plan of each stage that would run; without any, DuckDB's of the statement."""
    with _tables(sql, whole, found.stages, duck, bind) as columns:
        text = _text(whole, found.parts, columns)
        _check(sql, text, duck)
        plans = [plan(_text(whole, stage.parts, columns)) for stage in found.stages if not stage.described]
        return plans, "" if plans else str(duck.rows("EXPLAIN " + text.text)[0][-1])


@contextmanager
def _tables(sql: str, whole: Expanded, stages: Sequence[Stage], duck: Duck, bind: Bind) -> Iterator[dict[str, str]]:
    """Empty tables of the stages' columns; gives what stands for each stage that is only described."""
    described: dict[str, str] = {}
    made: list[str] = []
    try:
        for stage in stages:
            bound = bind(sql, _text(whole, stage.parts, described))
            if stage.described:
                items = ", ".join(
                    f"CAST(NULL AS {column.type.text}) AS {quote(column.name)}" for column in bound.columns
                )
                described[f"FROM temp.main.{quote(stage.table)}"] = f"SELECT {items}"
                continue
            from halo_sql.grammar.texts import visible

            names = [name for name, _ in visible(bound.columns)]
            listed = ", ".join(
                f"{quote(name)} {column.type.text}" for name, column in zip(names, bound.columns, strict=True)
            )
            duck.execute(f"CREATE TEMP TABLE {quote(stage.table)} ({listed})")
            made.append(stage.table)
        yield described
    finally:
        for table in made:
            with suppress(Error):  # gone with an aborted transaction
                duck.drop(table)


def _text(whole: Expanded, parts: Sequence[Span | str], described: dict[str, str]) -> Expanded:
    """A text of pieces of the statement and others."""
    pieces: list[Any] = []
    last = Span(0, 0)
    for part in parts:
        if isinstance(part, Span):
            pieces += whole.part(part.start, part.end)
            last = whole.origin(Span(part.end - 1, part.end))
        else:
            text = part
            for name, query in described.items():
                text = text.replace(name, query)
            pieces.append(Mark(text, last))
    return assembled(pieces)


def _check(sql: str, text: Expanded, duck: Duck) -> None:
    from halo_sql.grammar.classify import Kind, classify

    if classify(text.text) is not Kind.PLAIN or text.text.lstrip()[:3].upper() == "SET":
        return
    prefix = "EXPLAIN "
    try:
        duck.rows(prefix + text.text)
    except Error as problem:
        if _WANTS_ROWS in problem.message:  # the columns of a PIVOT are values of its rows: there are none yet
            return
        if problem.span is not None:
            problem.span = Span(problem.span.start - len(prefix), problem.span.end - len(prefix))
            text.explain(problem, sql)
        raise
