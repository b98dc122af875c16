"""Every ``.test`` file below this folder, once optimised and once with the optimizer off.

A file (sqllogictest format) is a list of records separated by blank lines; ``#`` starts a comment line::

    statement ok
    CREATE TABLE t AS SELECT 1 AS a

    statement error
    SELECT LLM_MAP('{{ b }}') FROM t
    ----
    does not exist

    query IT rowsort
    SELECT a, LLM_MAP('{{ a }}') FROM t
    ----
    1	1

    columns
    SELECT LLM_MAP('{{ a }}') AS x FROM t
    ----
    x

    calls 1

``query``'s letters count the columns (I integer, R number, T anything else: they are for the reader). ``rowsort``
sorts both sides. The text behind an error's ``----`` is a regular expression searched in the message. ``columns``
checks the result's column names; ``calls N`` the LLM requests of the statement before it, ``tools N`` the calls of
tools (both in the optimised run only).
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import halo_sql

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.test"))
CONFIG = {"halo_store": "off", "halo_default_model": "echo", "halo_default_embedding_model": "echo"}


COUNTS = {"calls": "llm_calls", "tools": "tool_calls"}


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    kind      'statement' | 'query' | 'columns' | 'calls' | 'tools'
    argument  statement: 'ok' or 'error'; query: its letters; calls, tools: the number
    sql       the text up to ``----`` or the blank line
    expected  the lines behind ``----``
    rowsort   row order does not count
    line      of the record's first line, from 1
    """

    kind: str
    argument: str
    sql: str
    expected: tuple[str, ...]
    rowsort: bool
    line: int


def parse(text: str) -> list[Record]:
    """The records of a file; ValueError with the line number for anything else."""
    records = []
    lines = text.split("\n")
    index = 0
    while index < len(lines):
        if not lines[index].strip() or lines[index].startswith("#"):
            index += 1
            continue
        block_start = index
        while index < len(lines) and lines[index].strip():
            index += 1
        records.append(_record(lines[block_start:index], block_start + 1))
    return records


def _record(block: list[str], line: int) -> Record:
    kind, *words = block[0].split()
    cut = block.index("----") if "----" in block else len(block)
    sql = "\n".join(block[1:cut])
    expected = tuple(block[cut + 1 :])
    argument = words[0] if words else ""
    well_formed = {
        "statement": argument in ("ok", "error") and bool(sql),
        "query": bool(argument) and set(argument) <= set("IRT") and cut < len(block),
        "columns": not words and cut < len(block),
        "calls": argument.isdigit() and len(block) == 1,
        "tools": argument.isdigit() and len(block) == 1,
    }
    if not well_formed.get(kind) or words[1:] not in ([], ["rowsort"]):
        raise ValueError(f"line {line}: not a record: {block[0]}")
    return Record(kind, argument, sql, expected, words[1:] == ["rowsort"], line)


def render_row(row: tuple[Any, ...]) -> str:
    """A row as one line: values as text, separated by tabs."""
    return "\t".join("(empty)" if value == "" else _text(value) for value in row)


def _text(value: Any, nested: bool = False) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if nested else value
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{name}': {_text(item, nested=True)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item, nested=True) for item in value) + "]"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return str(value)


class MismatchError(AssertionError):
    """A record did not give what the file says."""


@pytest.mark.parametrize("optimizer", ["on", "off"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_file(path: Path, optimizer: str) -> None:
    # Both runs must give the rows of the file, so optimised rows equal unoptimised rows.
    records = parse(path.read_text(encoding="utf-8"))
    assert records
    with halo_sql.connect(":memory:", config={**CONFIG, "halo_optimizer": optimizer}) as connection:
        for record in records:
            if record.kind in COUNTS and optimizer == "off":
                continue
            failed = _failure(connection, record)
            if failed:
                pytest.fail(f"{path.name}:{record.line} (optimizer {optimizer})\n{record.sql}\n{failed}", pytrace=False)


def _failure(connection: Any, record: Record) -> str:
    try:
        _run(connection, record)
    except MismatchError as problem:
        return str(problem)
    return ""


def _run(connection: Any, record: Record) -> None:
    if record.kind in COUNTS:
        found = connection.last_profile()["totals"][COUNTS[record.kind]]
        if found != int(record.argument):
            raise MismatchError(f"{found} {COUNTS[record.kind]} instead of {record.argument}")
        return
    if record.argument == "error":
        _run_error(connection, record)
        return
    try:
        cursor = connection.execute(record.sql)
        rows = cursor.fetchall() if cursor.description else []
    except halo_sql.Error as problem:
        raise MismatchError(str(problem)) from None
    if record.kind == "query":
        _compare(record, rows, [item[0] for item in cursor.description])
    elif record.kind == "columns":
        _same([item[0] for item in cursor.description], list(record.expected))


def _run_error(connection: Any, record: Record) -> None:
    try:
        cursor = connection.execute(record.sql)
        rows = cursor.fetchall() if cursor.description else []
    except halo_sql.Error as problem:
        pattern = "\n".join(record.expected)
        if not re.search(pattern, str(problem)):
            raise MismatchError(f"the error is\n{problem}\nwhich does not match {pattern!r}") from None
    else:
        raise MismatchError(f"no error, but rows: {rows[:5]}")


def _compare(record: Record, rows: list[tuple[Any, ...]], names: list[str]) -> None:
    if len(names) != len(record.argument):
        raise MismatchError(f"{len(names)} columns {names} instead of {len(record.argument)}")
    found = [render_row(row) for row in rows]
    expected = list(record.expected)
    if record.rowsort:
        found.sort()
        expected.sort()
    _same(found, expected)


def _same(found: list[str], expected: list[str]) -> None:
    if found != expected:
        raise MismatchError("\n".join(["found:", *found, "expected:", *expected]))


def test_there_are_files() -> None:
    assert len(FILES) >= 40


def test_malformed_record_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 4: not a record"):
        parse("statement ok\nSELECT 1\n\nquery X\nSELECT 1\n")


def test_values_are_rendered_as_text() -> None:
    row = (None, "", True, "a b", {"k": None, "v": ["x", 1]}, datetime.datetime(2024, 1, 2, 3))
    assert render_row(row) == "NULL\t(empty)\ttrue\ta b\t{'k': NULL, 'v': ['x', 1]}\t2024-01-02 03:00:00"
