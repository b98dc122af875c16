"""Samples of what the object holes of a statement hold, for the order of their fields.

A sample is of the source of a call's rows, before any filter or LIMIT of the statement, and takes whole groups of the
column that repeats most, so that they are as large as in the source. Groups are taken by the hashes of their values:
the same data give the same sample, a few more rows nearly the same, and so do statements that differ in conditions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

from halo_sql.duck import Duck
from halo_sql.errors import Error, InterruptedQueryError
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.logical import (
    CteScan,
    Distinct,
    Filter,
    Limit,
    LlmFilter,
    LlmMap,
    LlmTopK,
    Project,
    Sort,
)
from halo_sql.ir.physical import batch_name
from halo_sql.ir.prompt import ItemsHole, LlmCall, ObjectHole, Segment
from halo_sql.ir.sql import render
from halo_sql.ir.walk import output_columns
from halo_sql.optimizer.cardinality import DEFAULT_CHARS
from halo_sql.optimizer.field_order import KINDS
from halo_sql.optimizer.nodes import RELATIONAL, calls_of, walk_once
from halo_sql.optimizer.samples import ObjectSample, Values
from halo_sql.steady import is_steady

SAMPLE_ROWS = 2048
SAMPLE_VALUES = 32_768  # rows × columns
MOST_SOURCES = 8  # of a statement
MOST_ROWS = 500_000  # looked at in a source
ALL_DISTINCT = 0.9  # share of different values from which a column is taken for a key: they are counted roughly
#: Operators of DuckDB that pass on a table's rows as they come, in its order.
_SCANNING = ("PROJECTION", "FILTER", "SCAN", "READ", "UNION", "LIMIT")

#: Column of a prompt -> the columns of the source it is computed from; None: it is an answer, or volatile.
_Origins = dict[ColumnId, frozenset[ColumnId] | None]


def object_samples(plan: Any, duck: Duck) -> dict[ColumnId, tuple[ObjectSample | None, ...]]:
    """Output column of a call -> a sample per object hole of its prompt, for calls that have one of several fields.

    Reads each source once, and the first ``MOST_SOURCES`` only; nothing for sources that are volatile, read an LLM's
    answers, fail or are too large.
    """
    traced: list[tuple[LlmCall, Any, _Origins]] = []
    wanted: dict[int, tuple[Any, set[ColumnId]]] = {}  # by identity of the source
    for node in walk_once(plan):
        for call in calls_of(node):
            objects = [segment for segment in call.prompt.user if isinstance(segment, ObjectHole)]
            if call.kind in KINDS and any(len(hole.fields) > 1 for hole in objects):
                source, origins = _origins(node.input, call)
                traced.append((call, source, origins))
                _, needed = wanted.setdefault(id(source), (source, set()))
                needed.update(*(own for own in origins.values() if own is not None))
    sources = islice(wanted.items(), MOST_SOURCES)
    read = {key: _read(duck, source, sorted(needed)) for key, (source, needed) in sources}
    found: dict[ColumnId, tuple[ObjectSample | None, ...]] = {}
    for call, source, origins in traced:
        known = read.get(id(source))
        if known:
            rows = len(next(iter(known.values())).keys)
            values = {column: _together(own, known, rows) for column, own in origins.items()}
            found[call.output] = _samples(call, values, rows)
    return found


def _origins(node: Any, call: LlmCall) -> tuple[Any, _Origins]:
    """The source of the rows of ``node``, and what the columns of a call's prompt are computed from there.

    Filters, sorts, limits and LLM nodes on the way are looked through.
    """
    origins: _Origins = {column: frozenset([column]) for column in call.prompt.columns()}
    origins.update((segment.column, None) for segment in call.prompt.user if isinstance(segment, ItemsHole))
    while isinstance(node, Project | CteScan | LlmMap | LlmFilter | LlmTopK | Filter | Sort | Limit | Distinct):
        defined: _Origins = {}
        if isinstance(node, Project):
            defined = {column.id: None if expr.volatile else expr.columns() for column, expr in node.exprs}
        elif isinstance(node, CteScan):
            pairs = zip(node.columns, output_columns(node.input), strict=True)
            defined = {column.id: frozenset([below.id]) for column, below in pairs}
        elif isinstance(node, LlmMap):
            defined = {made.output: None for made in node.calls}
        if defined:
            origins = {column: _through(own, defined) for column, own in origins.items()}
        node = node.input
    return node, origins


def _through(columns: frozenset[ColumnId] | None, defined: _Origins) -> frozenset[ColumnId] | None:
    found: set[ColumnId] = set()
    for column in columns or ():
        own = defined.get(column, frozenset([column]))
        if own is None:
            return None
        found |= own
    return None if columns is None else frozenset(found)


def _read(duck: Duck, source: Any, needed: list[ColumnId]) -> dict[ColumnId, Values] | None:
    """Values of some of the source's rows; None when it is not to be read."""
    if not needed or not all(isinstance(node, (*RELATIONAL, CteScan)) for node in walk_once(source)):
        return None  # a call of its own stands in it
    columns = {column.id: column for column in output_columns(source)}
    places = range(len(needed))
    items = ", ".join(
        f"hash({batch_name(column)}) AS k{place}, {_chars_of(columns[column])} AS n{place}"
        for place, column in enumerate(needed)
    )
    keys = [f"k{place}" for place in places]
    try:
        text = render(source, [])
        bounded = _bounded(duck, text) if is_steady(duck, text) else None
        if bounded is None:
            return None
        text = f"SELECT DISTINCT {items} FROM ({bounded})"  # equal prompts are asked once
        numbers = ", ".join(f"approx_count_distinct(k{place}), avg(n{place})" for place in places)
        rows, *known = duck.rows(f"SELECT count(*), {numbers} FROM ({text})")[0]
        distinct = [float(own if own < ALL_DISTINCT * rows else rows) for own in known[::2]]
        repeated = [(rows - own) * (chars or 0.0) for own, chars in zip(distinct, known[1::2], strict=True)]
        order = [keys[repeated.index(max(repeated))], *keys]
        limit = min(SAMPLE_ROWS, SAMPLE_VALUES // len(needed))
        found = duck.rows(f"FROM ({text}) ORDER BY {', '.join(order)} LIMIT {limit}")
    except InterruptedQueryError:
        raise
    except Error:
        return None  # it will be raised, with its position, when the statement runs
    taken: list[tuple[int, ...]] = list(zip(*found, strict=True)) or [()] * (2 * len(needed))
    if len(found) == rows:
        distinct = [float(len(set(own))) for own in taken[::2]]
    return {
        column: Values(taken[2 * place], taken[2 * place + 1], distinct[place], float(rows))
        for place, column in enumerate(needed)
    }


def _bounded(duck: Duck, text: str) -> str | None:
    """The query, of a long table the query of its first rows; None when looking at it would take long."""
    most, scans = 0.0, True
    stack = list(json.loads(duck.rows(f"EXPLAIN (FORMAT json) {text}")[0][1]))
    while stack:
        node = stack.pop()
        most = max(most, float(node["extra_info"].get("Estimated Cardinality", 0)))
        scans = scans and any(word in node["name"] for word in _SCANNING)
        stack += node["children"]
    if most <= MOST_ROWS:
        return text
    return f"SELECT * FROM ({text}) LIMIT {MOST_ROWS}" if scans else None


def _chars_of(column: Column) -> str:
    """The characters of a value's JSON."""
    quotes = 2 if column.type.kind == "varchar" else 0
    return f"coalesce(length(CAST({batch_name(column.id)} AS VARCHAR)) + {quotes}, 4)"


def _samples(call: LlmCall, values: Mapping[ColumnId, Values | None], rows: int) -> tuple[ObjectSample | None, ...]:
    """A sample per object hole; None behind a hole of which nothing is known."""
    found: list[ObjectSample | None] = []
    before: list[int] | None = [0] * rows
    user = call.prompt.user
    for place, segment in enumerate(user):
        if isinstance(segment, str):
            continue
        if isinstance(segment, ObjectHole):
            fields = {name: values[column] for name, column in segment.fields}
            after_chars = sum(_chars(part, values) for part in user[place + 1 :])
            found.append(None if before is None else ObjectSample(fields, before, after_chars))
        read = [values[column] for column in _columns(segment)]
        known = [own.keys for own in read if own is not None]
        before = None if before is None or len(known) < len(read) else list(map(hash, zip(before, *known, strict=True)))
    return tuple(found)


def _columns(segment: Segment) -> Sequence[ColumnId]:
    if isinstance(segment, ObjectHole):
        return [column for _, column in segment.fields]
    return [] if isinstance(segment, str) else [segment.column]


def _chars(segment: Segment, values: Mapping[ColumnId, Values | None]) -> float:
    """Average characters of a part of a prompt."""
    if isinstance(segment, str):
        return float(len(segment))
    own = [values[column] for column in _columns(segment)]
    return sum(DEFAULT_CHARS if one is None else sum(one.chars) / max(1, len(one.chars)) for one in own)


def _together(columns: frozenset[ColumnId] | None, known: Mapping[ColumnId, Values], rows: int) -> Values | None:
    """What is computed from these columns: one value per combination of theirs, as long as all of them."""
    if columns is None:
        return None
    parts = [known[column] for column in sorted(columns)]
    if len(parts) == 1:
        return parts[0]
    keys = map(hash, zip([0] * rows, *(part.keys for part in parts), strict=True))
    chars = map(sum, zip([0] * rows, *(part.chars for part in parts), strict=True))
    of_rows = next(iter(known.values())).of_rows
    distinct = min(of_rows, prod(part.distinct for part in parts))
    return Values(tuple(keys), tuple(chars), distinct, of_rows)
