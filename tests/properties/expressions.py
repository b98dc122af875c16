"""Random expressions over the columns in scope, with LLM calls in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from .pairs import Pair, bracketed, call, hole, join, of_kind, pair

#: kind -> the type that ``returns`` names for it
RETURNS = {
    "int": "BIGINT",
    "bool": "BOOLEAN",
    "date": "DATE",
    "decimal": "DECIMAL(18, 2)",
    "double": "DOUBLE",
    "struct": "STRUCT(k VARCHAR, n INTEGER)",
    "list": "VARCHAR[]",
}
LONG = "Say it as it is. " * 80
KINDS = ("text", "int", "bool", "date", "decimal", "double", "struct", "list")
LITERALS = {
    "text": ("'red'", "''", "'it''s'", "'žluť'", "'{{ no hole }}'", "'12'", "CAST(NULL AS VARCHAR)"),
    "int": ("1", "0", "2", "-3", "12", "CAST(NULL AS INTEGER)"),
    "bool": ("true", "false", "CAST(NULL AS BOOLEAN)"),
    "date": ("DATE '2024-02-29'", "DATE '2024-01-01'", "CAST(NULL AS DATE)"),
    "decimal": ("CAST(12.5 AS DECIMAL(8, 2))", "CAST(0 AS DECIMAL(8, 2))"),
    "double": ("CAST(0.5 AS DOUBLE)", "CAST(-2 AS DOUBLE)"),
    "struct": ("{'k': 'a', 'n': 1}", "{'k': NULL::VARCHAR, 'n': 2}"),  # DuckDB folds a field of a NULL to type "NULL"
    "list": ("['x', 'y']", "CAST(NULL AS VARCHAR[])"),
}
PROMPT_TEXTS = ("", "Say: ", "it''s ", "{{{{ x }} ", "} ", "ž ")  # as inside a string literal
PLAIN_TEXTS = ("", "Say: ", "it''s ", "{{ x }} ", "} ", "ž ")


@dataclass(frozen=True, slots=True)
class Col:
    """A column in scope.

    ref   how it is written here
    name  its bare name, as an object hole would call it
    """

    ref: str
    name: str
    kind: str


class Expressions:
    """Draws expressions; every choice's first alternative is the simplest, so that shrinking finds small ones.

    options   text behind every call's arguments (``, model => 'm'``); with ``lengths`` every other call has a long
              system message besides: prompts of different prices
    subquery  makes a sub-query of one column: (its kind, calls allowed) -> text; a hole's cannot hold calls
    """

    def __init__(self, rng: Random, options: str = "") -> None:
        self.rng = rng
        self._options = options
        self.lengths = False
        self.subquery: Callable[[str, bool], Pair] | None = None
        self._inside = 0  # calls around what is drawn now
        self._drawn: dict[tuple[str, tuple[Col, ...]], list[Pair]] = {}

    @property
    def options(self) -> str:
        """Text behind a call's arguments."""
        if not self.lengths or self.chance(50):
            return self._options
        return f"{self._options}, system => '{LONG}'"

    def chance(self, percent: int) -> bool:
        return self.rng.randrange(100) >= 100 - percent

    def pick(self, choices: Sequence[object]) -> object:
        return choices[self.rng.randrange(len(choices))]

    def number(self, low: int, high: int) -> int:
        return low + self.rng.randrange(high - low + 1)

    def column(self, kind: str, scope: Sequence[Col]) -> Pair:
        """A column of the kind, or a literal."""
        columns = [col for col in scope if col.kind == kind]
        if columns and not self.chance(15):
            col = columns[self.rng.randrange(len(columns))]
            return Pair(col.ref, col.ref, kind)
        others = [col for col in scope if col.kind in ("int", "text")]
        if kind == "bool" and others and not self.chance(15):
            col = others[self.rng.randrange(len(others))]
            return pair(f"({col.ref} {'> 1' if col.kind == 'int' else 'IS NOT NULL'})", kind=kind)
        return pair(str(self.pick(LITERALS[kind])), kind=kind)

    def any_kind(self, scope: Sequence[Col]) -> str:
        """Mostly text and numbers."""
        if self.chance(35):
            return str(self.pick(KINDS))
        return str(self.pick(("text", "int", "text", "bool")))

    def expr(self, kind: str, scope: Sequence[Col], depth: int, calls: bool = True) -> Pair:
        """An expression of the kind."""
        if depth <= 0 or self.chance(20):
            return self.column(kind, scope)
        if calls and self.chance(45):
            return self.call(kind, scope, depth - 1)
        return self.composed(kind, scope, depth - 1, calls)

    # calls

    def call(self, kind: str, scope: Sequence[Col], depth: int) -> Pair:
        """An LLM call of the kind, and its plain meaning; now and then one drawn before, perhaps under other guards."""
        drawn = self._drawn.setdefault((kind, tuple(scope)), [])
        if drawn and self.chance(30):
            return drawn[self.rng.randrange(len(drawn))]
        self._inside += 1
        try:
            made = self._call(kind, scope, depth)
        finally:
            self._inside -= 1
        drawn.append(made)
        return made

    def _call(self, kind: str, scope: Sequence[Col], depth: int) -> Pair:
        if kind == "text":
            return self._text_call(scope, depth)
        if kind == "bool" and not self.chance(25):
            return self.filter_call(scope, depth)
        if kind == "int" and self.chance(30):
            return self._failing_call(scope, depth)
        inner = self.expr(kind, scope, depth)
        returns = RETURNS[kind]
        asked = pair("to_json(", inner, ")") if kind in ("struct", "list") else inner
        meaning = inner.plain if kind in ("struct", "list") else f"CAST({inner.plain} AS VARCHAR)"
        options = f", returns => '{returns}'{self.options}"
        return call("LLM_MAP", hole(asked), options, f"CAST({meaning} AS {returns})", kind)

    def filter_call(self, scope: Sequence[Col], depth: int) -> Pair:
        """LLM_FILTER of a condition."""
        if self.chance(15):  # answers that are none
            inner = self.expr("text", scope, depth)
            plain = f"CASE WHEN length({inner.plain}) % 2 = 0 THEN true ELSE CAST(NULL AS BOOLEAN) END"
            asked = pair(
                "CASE WHEN length(", inner, ") % 2 = 0 THEN 'yes' WHEN length(", inner, ") > 0 THEN 'maybe' END"
            )
            return call("LLM_FILTER", hole(asked), f", on_error => 'null'{self.options}", plain, "bool")
        inner = self.expr("bool", scope, depth)
        return call("LLM_FILTER", hole(inner), self.options, f"({inner.plain})", "bool")

    def _text_call(self, scope: Sequence[Col], depth: int) -> Pair:
        form = self.number(0, 9)
        if form == 9 and self._objects(scope):
            return self._object_call(scope)
        if form == 8:
            inner = pair(self.expr("text", scope, depth), " || ''")
            return Pair(f"LLM_MAP({inner.halo}{self.options})", f"CAST({inner.plain} AS VARCHAR)", "text")
        if form == 7:
            return call("LLM_MAP", "constant", self.options, "'constant'", "text")
        if form >= 5:
            place = self.number(0, len(PROMPT_TEXTS) - 1)
            holes = [self.expr(self.any_kind(scope), scope, depth) for _ in range(self.number(1, 2))]
            prompt = PROMPT_TEXTS[place] + "/".join(hole(inner) for inner in holes)
            plain = " || '/' || ".join(f"CAST({inner.plain} AS VARCHAR)" for inner in holes)
            return call("LLM_MAP", prompt, self.options, f"('{PLAIN_TEXTS[place]}' || {plain})", "text")
        inner = self.expr(self.any_kind(scope), scope, depth)
        return call("LLM_MAP", hole(inner), self.options, f"CAST({inner.plain} AS VARCHAR)", "text")

    def _failing_call(self, scope: Sequence[Col], depth: int) -> Pair:
        """Some rows answer what is no number: on_error => 'null', or a guard that keeps them out."""
        inner = self.expr("text", scope, depth)
        length = f"length({inner.plain})"
        asked = pair(
            "CASE WHEN length(", inner, ") % 2 = 0 THEN 'no number' ELSE CAST(length(", inner, ") AS VARCHAR) END"
        )
        if self.chance(50):
            options = f", returns => 'BIGINT', on_error => 'null'{self.options}"
            plain = f"CASE WHEN {length} % 2 = 0 THEN CAST(NULL AS BIGINT) ELSE {length} END"
            return call("LLM_MAP", hole(asked), options, plain, "int")
        guarded = call("LLM_MAP", hole(asked), f", returns => 'BIGINT'{self.options}", length, "int")
        condition = pair("length(", inner, ") % 2 = 1")
        return pair("CASE WHEN ", condition, " THEN ", guarded, " END", kind="int")

    def _objects(self, scope: Sequence[Col]) -> list[Col]:
        """Columns that an object hole can name without doubt."""
        plain = ("text", "int", "bool", "date")
        return [col for col in scope if col.kind in plain and sum(other.name == col.name for other in scope) == 1]

    def _object_call(self, scope: Sequence[Col]) -> Pair:
        known = self._objects(scope)
        one, other = known[0], known[self.rng.randrange(len(known))]
        fields = [one] if one == other else [one, other]
        if len(fields) == 1:
            inner = Pair(one.ref, one.ref)
            return call("LLM_MAP", hole(inner), self.options, f"CAST({one.ref} AS VARCHAR)", "text")
        prompt = hole(Pair(", ".join(col.ref for col in fields), ""))
        keys = ["'" + col.name.strip('"').replace("'", "''") + "'" for col in fields]
        plain = ", ".join(f"{key}: {col.ref}" for key, col in zip(keys, fields, strict=True))
        asked = call("LLM_MAP", prompt, self.options, f"to_json({{{plain}}})", "text")
        path = "'$.\"" + fields[1].name.strip('"') + "\"'"
        return pair("json_extract_string(", asked, ", ", path, ")", kind="text")

    # plain forms around them

    def composed(self, kind: str, scope: Sequence[Col], depth: int, calls: bool) -> Pair:
        """A form of DuckDB's around smaller expressions."""

        def inner(of: str = kind) -> Pair:
            return self.expr(of, scope, depth, calls)

        common: list[Callable[[], Pair]] = [
            lambda: pair("coalesce(", inner(), ", ", inner(), ")"),
            lambda: pair("CASE WHEN ", inner("bool"), " THEN ", inner(), " ELSE ", inner(), " END"),
            lambda: pair("CASE WHEN ", inner("bool"), " THEN ", inner(), " END"),
            lambda: pair("if(", inner("bool"), ", ", inner(), ", ", inner(), ")"),
            lambda: pair("CASE ", inner("int"), " WHEN 1 THEN ", inner(), " ELSE ", inner(), " END"),
        ]
        own: dict[str, list[Callable[[], Pair]]] = {
            "text": [
                lambda: pair("upper(", inner(), ")"),
                lambda: pair("(", inner(), " || ", inner(), ")"),
                lambda: pair("CAST(", inner(self.any_kind(scope)), " AS VARCHAR)"),
                lambda: pair("replace(", inner(), ", 'e', '')"),
                lambda: pair("substr(", inner(), ", 2, 3)"),
                lambda: pair("(", inner("struct"), ").k"),
                lambda: pair("(", inner("list"), ")[1]"),
                lambda: pair("concat_ws('-', ", inner(), ", ", inner("int"), ")"),
            ],
            "int": [
                lambda: pair("length(", inner("text"), ")"),
                lambda: pair("(", inner(), " + ", inner(), ")"),
                lambda: pair("(", inner(), " % 3)"),
                lambda: pair("len(", inner("list"), ")"),
                lambda: pair("(", inner("struct"), ").n"),
                lambda: pair("year(", inner("date"), ")"),
            ],
            "bool": [
                lambda: pair("(", inner("int"), " > ", inner("int"), ")"),
                lambda: pair("(", inner("text"), " = ", inner("text"), ")"),
                lambda: pair("(", inner(), " AND ", inner(), ")"),
                lambda: pair("(", inner(), " OR ", inner(), ")"),
                lambda: pair("(NOT ", inner(), ")"),
                lambda: pair("(", inner(self.any_kind(scope)), " IS NULL)"),
                lambda: pair("(", inner("text"), " LIKE '%e%')"),
                lambda: pair("(", inner("int"), " IN (1, 2, 3))"),
                lambda: pair("(", inner("int"), " BETWEEN 1 AND ", inner("int"), ")"),
                lambda: pair("(", inner("text"), " IS DISTINCT FROM ", inner("text"), ")"),
                lambda: self._membership(scope, depth, calls),
            ],
            "date": [lambda: pair("CAST(", inner(), " + INTERVAL 1 DAY AS DATE)")],
            "decimal": [lambda: pair("CAST(-", inner(), " AS DECIMAL(18, 2))")],
            "double": [lambda: pair("(-", inner(), ")")],
            "struct": [lambda: pair("{'k': ", inner("text"), ", 'n': CAST(", inner("int"), " AS INTEGER)}")],
            "list": [
                lambda: pair("[", inner("text"), ", ", inner("text"), "]"),
                lambda: pair("list_concat(", inner(), ", ", inner(), ")"),
            ],
        }
        forms = own[kind] * 2 + common
        return of_kind(forms[self.rng.randrange(len(forms))](), kind)

    def _membership(self, scope: Sequence[Col], depth: int, calls: bool) -> Pair:
        if self.subquery is None or depth <= 0:
            return pair("(", self.expr("text", scope, depth, calls), " IN ('red', '12'))")
        return pair(
            "(", self.expr("text", scope, 0, calls), " IN (", self.subquery("text", calls and not self._inside), "))"
        )

    def conjunction(self, scope: Sequence[Col], depth: int) -> Pair:
        """What stands in WHERE: one to three conditions."""
        several = 1 if self.chance(50) else self.number(2, 3)
        return join(" AND ", [bracketed(self.expr("bool", scope, depth)) for _ in range(several)])
