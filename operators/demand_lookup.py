"""The functions behind which a demand's text finds its answers, and the list of what they could not find.

A function is given the arguments of its call (guard, holes) for a vector of rows, inside DuckDB and on any of its
threads. It renders the prompts, looks the answers up and gives them; for a prompt without answer it gives NULL and
remembers the prompt. It never asks anybody: no LLM call is made inside DuckDB.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from halo_sql.duck import Duck
from halo_sql.engines.protocol import Outcome
from halo_sql.ir.expr import quote
from halo_sql.ir.logical import Ask
from halo_sql.ir.physical import batch_name
from halo_sql.ir.prompt import ItemsHole
from halo_sql.ir.types import SqlType
from halo_sql.operators.arrow_types import carried_as_text
from halo_sql.operators.convert import Converter
from halo_sql.operators.items import ItemLists
from halo_sql.operators.render import Renderer
from halo_sql.operators.text_cast import TextCast

#: Kinds whose Arrow form DuckDB takes back as another type: the function gives text or a near type, the query casts.
_CAST = frozenset({"json", "enum", "uuid", "hugeint"})


def carrier(sql_type: SqlType) -> str:
    """The type a look-up function returns for values of ``sql_type``; where it differs the text casts."""
    return _carried(sql_type) if _needs_cast(sql_type) else sql_type.text


def _needs_cast(sql_type: SqlType) -> bool:
    return (
        sql_type.kind in _CAST or carried_as_text(sql_type) or any(_needs_cast(member) for _, member in sql_type.fields)
    )


def _carried(sql_type: SqlType) -> str:
    if carried_as_text(sql_type) or sql_type.kind in ("json", "enum", "uuid"):
        return "VARCHAR"
    if sql_type.kind == "hugeint":
        return "DECIMAL(38,0)"
    members = [(name, _carried(member)) for name, member in sql_type.fields]
    if sql_type.kind == "struct":
        return "STRUCT(" + ", ".join(f"{quote(name)} {text}" for name, text in members) + ")"
    if sql_type.kind == "list":
        return f"{members[0][1]}[]"
    if sql_type.kind == "array":
        return f"{members[0][1]}[{sql_type.size}]"
    if sql_type.kind == "map":
        return f"MAP({members[0][1]}, {members[1][1]})"
    return sql_type.text


class Lookup:
    """One call of a demand: its function, the answers known so far, the prompts missed in this round.

    stopped  set when a recursive call missed an answer: what it would be asked from then on is guesswork
    """

    def __init__(self, ask: Ask, name: str, type_: SqlType, cast: TextCast) -> None:
        self.ask = ask
        self.name = name
        self.type = type_
        self.answers: dict[str, Outcome] = {}
        self.missing: dict[str, None] = {}
        self.stopped = False
        self.renderer = Renderer(ask.call)
        self.converter = Converter(ask.call, cast)
        self.hole = next((part for part in ask.call.prompt.user if isinstance(part, ItemsHole)), None)
        self.groups: dict[str, tuple[str, Any]] = {}  # of calls over groups: missing prompt -> instruction, items
        self._columns = [batch_name(column.id) for column in ask.arguments]
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Answers for a vector of rows, as DuckDB wants them."""
        import pyarrow as pa

        arrays = [item.combine_chunks() if isinstance(item, pa.ChunkedArray) else item for item in arguments]
        names = self._columns or ["c0"]
        batch = pa.RecordBatch.from_arrays(arrays, names=names)
        prompts = self.renderer.prompts(batch)
        heads, lists = prompts, None
        if self.hole is not None:
            lists = ItemLists(batch.column(batch_name(self.hole.column)))
            prompts = lists.behind(heads, self.hole.separator)
        texts: list[str | None] = []
        errors: dict[int, str] = {}
        missed: list[str] = []
        answers = self.answers
        for row, prompt in enumerate(prompts):
            outcome = None if prompt is None else answers.get(prompt)
            if outcome is None:
                texts.append(None)
                if prompt is not None:
                    missed.append(prompt)
                    if lists is not None:
                        self.groups[prompt] = (heads[row] or "", lists.copied(row))
            elif outcome.error is None:
                texts.append(outcome.text)
            else:
                texts.append(None)
                errors[row] = outcome.error.message
        if missed:
            with self._lock:
                if not self.stopped:
                    self.missing.update(dict.fromkeys(missed))
                    self.stopped = self.ask.recursive
        return self.converter.to_arrow(texts, errors)

    def begin_round(self) -> None:
        """Forget what the last round missed."""
        self.missing = {}
        self.stopped = False

    def learn(self, outcomes: Mapping[str, Outcome]) -> None:
        """Answers that came."""
        self.answers.update(outcomes)
        self.groups = {}


class Lookups:
    """The functions of one demand, registered on the user's connection while it runs."""

    def __init__(self, asks: Sequence[Ask], types: Sequence[SqlType], prefix: str, cast: TextCast) -> None:
        self.all = [
            Lookup(ask, f"{prefix}_{place}", kind, cast)
            for place, (ask, kind) in enumerate(zip(asks, types, strict=True))
        ]
        self.go_on = f"{prefix}_go_on"
        self._registered: list[str] = []

    def register(self, duck: Duck) -> None:
        """Create the functions."""
        for lookup in self.all:
            kinds = [column.type.text for column in lookup.ask.arguments] or ["VARCHAR"]
            duck.add_function(lookup.name, lookup, kinds, carrier(lookup.type))
            self._registered.append(lookup.name)
        if any(lookup.ask.recursive for lookup in self.all):
            duck.add_function(self.go_on, self._goes_on, ["BIGINT"], "BOOLEAN", volatile=True)
            self._registered.append(self.go_on)

    def _goes_on(self, rows: Any) -> Any:
        import pyarrow as pa

        going = not any(lookup.stopped for lookup in self.all)
        return pa.array([going] * len(rows), pa.bool_())

    def unregister(self, duck: Duck) -> None:
        """Remove the functions; those that an aborted transaction took are gone already."""
        for name in self._registered:
            duck.remove_function(name)
        self._registered = []

    def begin_round(self) -> None:
        """Before the text runs again."""
        for lookup in self.all:
            lookup.begin_round()

    def missed(self) -> list[Lookup]:
        """The calls of the lowest rank that missed answers: what they missed is sure to be needed."""
        waiting = [lookup for lookup in self.all if lookup.missing]
        lowest = min((lookup.ask.rank for lookup in waiting), default=0)
        return [lookup for lookup in waiting if lookup.ask.rank == lowest]
