"""Random statements: SELECT blocks, joins, grouping, windows, set operations, CTEs, sub-queries."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from .expressions import KINDS, Col, Expressions
from .pairs import Pair, join, pair
from .sources import Cte, Query, Source, same_names
from .tables import TABLES

ODD_NAMES = ('"Odd Name"', '"it\'s"', '"select"', '"x.y"')
#: joins whose right side is not seen above them
HIDING = (" SEMI JOIN ", " ANTI JOIN ")
SORTABLE = ("text", "int", "bool", "date", "decimal")


class Generator:
    """Draws statements. The same ``rng`` gives the same statements.

    depth    how far sub-queries nest
    size     how far expressions nest
    options  text behind every call's arguments (``, model => 'm'``)

    ``text`` is the last query, as one reads it in a report.
    """

    def __init__(self, rng: Random, options: str = "", depth: int = 2, size: int = 3) -> None:
        self.draw = Expressions(rng, options)
        self.draw.subquery = self._subquery
        self.depth = depth
        self.size = size
        self.text = ""
        self._names = 0
        self._ctes: list[Cte] = []

    # statements

    def query(self, named: bool = False) -> Query:
        """A whole query; ``named``: every column has an alias."""
        query = self._query(named)
        self.text = query.sql.halo
        return query

    def _query(self, named: bool) -> Query:
        draw = self.draw
        if not draw.chance(20):
            return self._any_query(self.depth, named)
        ctes = []
        for _ in range(draw.number(1, 2)):
            name = self._name("c")
            query = self._any_query(self.depth - 1, named=True)
            columns = query.columns
            head = name
            if draw.chance(20):
                columns = tuple(replace(col, ref=(fresh := self._name("k")), name=fresh) for col in columns)
                head = f"{name}({', '.join(col.name for col in columns)})"
            words = str(draw.pick((" AS (", " AS (", " AS MATERIALIZED (", " AS NOT MATERIALIZED (")))
            ctes.append(pair(head, words, query.sql, ")"))
            self._ctes.append(Cte(name, columns))
        body = self._any_query(self.depth, named)
        return replace(body, sql=pair("WITH ", join(", ", ctes), " ", body.sql))

    def source(self) -> Source:
        """A FROM clause for conditions of the caller's making."""
        return self._from(1)

    def condition(self, scope: tuple[Col, ...]) -> Pair:
        """A condition that holds a call."""
        draw = self.draw
        asked = draw.filter_call(scope, self.size - 1)
        form = draw.number(0, 4)
        if form == 1:
            return pair("(NOT ", asked, ")")
        if form == 2:
            return pair("(", asked, " AND ", draw.expr("bool", scope, self.size - 1), ")")
        if form == 3:
            return pair("(", asked, " OR ", draw.expr("bool", scope, self.size - 1), ")")
        if form == 4:
            return pair("CASE WHEN ", draw.expr("bool", scope, 1), " THEN ", asked, " END")
        return asked

    # queries

    def _any_query(self, depth: int, named: bool) -> Query:
        draw = self.draw
        if depth > 0 and draw.chance(12):
            return self._set_operation(depth - 1, named)
        kind = draw.number(0, 99)
        if kind >= 85:
            return self._tail(self._grouped(depth, named))
        return self._block(depth, named)

    def _set_operation(self, depth: int, named: bool) -> Query:
        draw = self.draw
        left = self._block(depth, True)
        kinds = [col.kind for col in left.columns]
        arms, words = [pair("(", left.sql, ")") if left.ordered else left.sql], []
        for _ in range(draw.number(1, 2)):
            right = self._block(depth, True, kinds)
            words.append(str(draw.pick((" UNION ALL ", " UNION ALL ", " UNION ", " EXCEPT ", " INTERSECT "))))
            arms.append(pair("(", right.sql, ")") if right.ordered else right.sql)
        sql = arms[0]
        for word, arm in zip(words, arms[1:], strict=True):
            sql = pair(sql, word, arm)
        return self._tail(Query(sql, left.columns))

    def _tail(self, query: Query) -> Query:
        """Perhaps ORDER BY all columns, then perhaps LIMIT and OFFSET."""
        draw = self.draw
        if query.ordered or not draw.chance(40):
            return query
        keys = [str(place + 1) + self._direction() for place in range(len(query.columns))]
        if draw.chance(30):
            keys = list(reversed(keys))
        return Query(pair(query.sql, " ORDER BY ", ", ".join(keys), self._limit()), query.columns, True)

    def _direction(self) -> str:
        return str(self.draw.pick(("", " DESC", " NULLS FIRST", " DESC NULLS LAST")))

    def _limit(self) -> str:
        draw = self.draw
        if not draw.chance(60):
            return ""
        text = f" LIMIT {draw.number(0, 5)}"
        return text + (f" OFFSET {draw.number(0, 3)}" if draw.chance(30) else "")

    def _subquery(self, kind: str, calls: bool) -> Pair:
        """A sub-query of one column, in an expression."""
        draw = self.draw
        table = self._table(alias=self._name("s"))
        where = draw.expr("bool", table.scope, 1, calls)
        item = draw.expr(kind, table.scope, 1, calls)
        return pair("SELECT ", item, " FROM ", table.sql, " WHERE ", where)

    # FROM

    def _from(self, depth: int) -> Source:
        draw = self.draw
        if depth <= 0 or not draw.chance(30):
            return self._one(depth)
        return self._join(depth - 1)

    def _one(self, depth: int) -> Source:
        draw = self.draw
        kind = draw.number(0, 99)
        if self._ctes and kind >= 60:
            cte = self._ctes[draw.rng.randrange(len(self._ctes))]
            return self._derived(pair(cte.name), cte.columns)
        if depth > 0 and kind >= 30 and draw.chance(60):
            inner = self._any_query(depth - 1, named=True)
            return self._derived(pair("(", inner.sql, ")"), inner.columns)
        if kind in (28, 29):
            alias = self._name("v")
            rows = "(VALUES (1, 'one'), (2, NULL), (3, 'it''s'), (2, '12'))"
            scope = (Col("n", "n", "int"), Col("label", "label", "text"))
            return Source(pair(f"{rows} {alias}(n, label)"), scope, None)
        if 21 <= kind <= 26:  # without an order only the number of rows is determined
            alias, table = self._name("n"), self._table()
            where = draw.conjunction(table.scope, self.size - 1)
            rows = pair("SELECT ", draw.call("text", table.scope, 1), " AS m FROM ", table.sql, " WHERE ", where)
            sql = pair("(SELECT count(*) AS n FROM (", rows, f" LIMIT {draw.number(1, 3)})) {alias}")
            return Source(sql, (Col("n", "n", "int"),), ("n",))
        if kind == 27:
            alias = self._name("r")
            return Source(pair(f"range(4) {alias}(i)"), (Col("i", "i", "int"),), ("i",))
        return self._table()

    def _table(self, alias: str = "") -> Source:
        draw = self.draw
        name = tuple(TABLES)[draw.rng.randrange(len(TABLES))]
        qualified = bool(alias) or draw.chance(30)
        alias = alias or (self._name("a") if draw.chance(50) else "")
        prefix = f"{alias or name}." if qualified else ""
        scope = tuple(Col(prefix + column, column, kind) for column, kind in TABLES[name])
        return Source(pair(f"{name} {alias}".strip()), scope, (scope[0].ref,))

    def _derived(self, sql: Pair, columns: tuple[Col, ...]) -> Source:
        alias = self._name("d")
        prefix = f"{alias}." if self.draw.chance(40) else ""
        scope = tuple(Col(prefix + col.name, col.name, col.kind) for col in columns)
        return Source(pair(sql, f" {alias}"), scope, None)

    def _qualified(self, depth: int) -> Source:
        """One source whose columns are written with its alias."""
        source = self._one(depth)
        if all("." in col.ref.replace('"x.y"', "") for col in source.scope):
            return source
        inner = pair("(SELECT * FROM ", source.sql, ")")
        if source.key is None and source.sql.halo.rsplit(" ", 1)[-1].startswith("d"):
            alias, sql = source.sql.halo.rsplit(" ", 1)[-1], source.sql
        else:
            alias = self._name("q")
            sql = pair(inner, f" {alias}")
        scope = tuple(Col(f"{alias}.{col.name}", col.name, col.kind) for col in source.scope)
        key = None if source.key is None else tuple(f"{alias}.{part.rsplit('.', 1)[-1]}" for part in source.key)
        return Source(sql, scope, key)

    def _join(self, depth: int) -> Source:
        draw = self.draw
        left, right = self._qualified(depth), self._qualified(0)
        if left.sql.plain == right.sql.plain:
            return left  # the same name twice
        key = None if left.key is None or right.key is None else left.key + right.key
        shared = [
            (one, other)
            for one in left.scope
            for other in right.scope
            if one.name == other.name and one.kind == other.kind and one.kind in ("int", "text", "bool")
        ]
        word = str(draw.pick((" JOIN ", " LEFT JOIN ", " JOIN ", " RIGHT JOIN ", " FULL JOIN ", *HIDING)))
        hides = word in HIDING
        if shared and draw.chance(40):
            one, other = shared[draw.rng.randrange(len(shared))]
            merged = Col(one.name, one.name, one.kind)
            rest = tuple(col for col in left.scope + right.scope if col not in (one, other))
            if all(col.name != one.name for col in rest):
                how = pair(left.sql, word, right.sql, f" USING ({one.name})")
                if len(shared) == 1 and same_names(left.scope, right.scope) == {one.name} and draw.chance(50):
                    how = pair(left.sql, " NATURAL", word, right.sql)
                if hides:
                    return Source(how, left.scope, left.key)
                return Source(how, (merged, *rest), key if word in (" JOIN ", " LEFT JOIN ") else None)
        scope = left.scope + right.scope
        pairs = [(one, other) for one in left.scope for other in right.scope if one.kind == other.kind]
        pairs = [(one, other) for one, other in pairs if one.kind in ("int", "text", "date", "decimal")]
        if not pairs or draw.chance(10):
            return Source(pair(left.sql, str(draw.pick((", ", " CROSS JOIN "))), right.sql), scope, key)
        one, other = pairs[draw.rng.randrange(len(pairs))]
        condition = f" ON {one.ref} = {other.ref}"
        if draw.chance(20):
            condition += f" AND {right.scope[0].ref} IS NOT NULL"
        how = pair(left.sql, word, right.sql, condition)
        if hides:
            return Source(how, left.scope, left.key)
        return Source(how, scope, key if word in (" JOIN ", " LEFT JOIN ") else None)

    # SELECT

    def _block(self, depth: int, named: bool, kinds: list[str] | None = None) -> Query:
        draw = self.draw
        source = self._from(depth)
        items, columns = self._items(source, named, kinds)
        where = pair(" WHERE ", draw.conjunction(source.scope, self.size - 1)) if draw.chance(60) else pair("")
        distinct = draw.chance(12)
        head = pair("SELECT DISTINCT " if distinct else "SELECT ", items, " FROM ", source.sql, where)
        if draw.chance(8) and not distinct:
            key = draw.expr(draw.any_kind(source.scope), source.scope, 1)
            part = draw.column("int", source.scope)
            head = pair(head, " QUALIFY rank() OVER (PARTITION BY ", part, " ORDER BY ", key, ") <= 2")
            return self._tail(Query(head, columns))
        if source.key is not None and not distinct and draw.chance(30):
            first = draw.expr(str(draw.pick(SORTABLE)), source.scope, self.size - 1) if draw.chance(50) else None
            if first is not None and not any(col.ref in first.plain for col in source.scope):
                first = None  # a constant is a position, or an error
            keys = [] if first is None else [pair(first, self._direction())]
            keys += [pair(part, self._direction()) for part in source.key]
            hidden = {col.name.strip('"').lower() for col in columns} & {part.strip('"').lower() for part in source.key}
            if not hidden:
                return Query(pair(head, " ORDER BY ", join(", ", keys), self._limit()), columns, True)
        return self._tail(Query(head, columns))

    def _items(self, source: Source, named: bool, kinds: list[str] | None) -> tuple[Pair, tuple[Col, ...]]:
        draw = self.draw
        items: list[Pair] = []
        columns: list[Col] = []
        if kinds is None and draw.chance(10) and len({col.name for col in source.scope}) == len(source.scope):
            items.append(pair("*"))
            columns += [Col(col.name, col.name, col.kind) for col in source.scope]
        for kind in kinds or [draw.any_kind(source.scope) for _ in range(draw.number(1, 4))]:
            windowed = kinds is None and draw.chance(7)
            item = self._window(source) if windowed else draw.expr(kind, source.scope, self.size)
            name = self._alias(columns, named)
            items.append(pair(item, f" AS {name}") if name else item)
            columns.append(Col(name, name, item.kind))
        return join(", ", items), tuple(columns)

    def _window(self, source: Source) -> Pair:
        draw = self.draw
        part = draw.expr(draw.any_kind(source.scope), source.scope, 1)
        key = draw.expr(draw.any_kind(source.scope), source.scope, self.size - 1)
        over = pair(" OVER (PARTITION BY ", part, " ORDER BY ", key)
        form = draw.number(0, 4)
        if source.key is not None and form >= 3:
            total = pair(over, ", ", ", ".join(source.key), ")")
            if form == 3:
                return pair("row_number()", total, kind="int")
            return pair("lag(", draw.expr("text", source.scope, self.size - 1), ")", total, kind="text")
        if form == 0:
            return pair("rank()", over, ")", kind="int")
        if form == 1:
            return pair("count(*) OVER (PARTITION BY ", part, ")", kind="int")
        return pair(
            "max(", draw.expr("text", source.scope, self.size - 1), ") OVER (PARTITION BY ", part, ")", kind="text"
        )

    def _grouped(self, depth: int, named: bool) -> Query:
        draw = self.draw
        source = self._from(depth)
        items: list[Pair] = []
        columns: list[Col] = []
        keys: list[Pair] = []
        for _ in range(draw.number(0, 2)):
            kind = draw.any_kind(source.scope)
            key = draw.expr(kind, source.scope, self.size - 1)
            name = self._alias(columns, True)
            items.append(pair(key, f" AS {name}"))
            columns.append(Col(name, name, kind))
            spelled = pair(str(len(items))) if draw.chance(50) else pair(name)
            keys.append(spelled)
        for _ in range(draw.number(1, 2)):
            item = self._aggregate(source)
            name = self._alias(columns, named)
            items.append(pair(item, f" AS {name}") if name else item)
            columns.append(Col(name, name, item.kind))
        sql = pair("SELECT ", join(", ", items), " FROM ", source.sql)
        if draw.chance(40):
            sql = pair(sql, " WHERE ", draw.conjunction(source.scope, self.size - 1))
        if keys:
            sql = pair(sql, " GROUP BY ", pair("ALL") if draw.chance(20) else join(", ", keys))
        if draw.chance(25):
            having = self._aggregate(source)
            sql = pair(sql, " HAVING ", having, " IS NOT NULL")
        return Query(sql, tuple(columns))

    def _aggregate(self, source: Source) -> Pair:
        draw = self.draw
        form = draw.number(0, 7)
        if form == 0:
            return pair("count(*)", self._filter(source), kind="int")
        if form == 1:
            kind = draw.any_kind(source.scope)
            word = "count(DISTINCT " if draw.chance(50) else "count("
            return pair(word, draw.expr(kind, source.scope, self.size - 1), ")", self._filter(source), kind="int")
        if form == 2:
            return pair("sum(", draw.expr("int", source.scope, self.size - 1), ")", self._filter(source), kind="int")
        if form == 3:
            text = draw.expr("text", source.scope, self.size - 1)
            return pair("string_agg(", text, ", ',' ORDER BY ", text, " || '')", kind="text")
        if form == 4:
            return pair("bool_or(", draw.expr("bool", source.scope, self.size - 1), ")", kind="bool")
        if form == 5:
            return pair("upper(max(", draw.expr("text", source.scope, self.size - 1), "))", kind="text")
        kind = str(draw.pick(KINDS))
        return pair(
            "max(" if form == 6 else "min(",
            draw.expr(kind, source.scope, self.size - 1),
            ")",
            self._filter(source),
            kind=kind,
        )

    def _filter(self, source: Source) -> Pair:
        if not self.draw.chance(25):
            return pair("")
        return pair(" FILTER (WHERE ", self.draw.expr("bool", source.scope, self.size - 1), ")")

    # names

    def _name(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    def _alias(self, columns: list[Col], named: bool) -> str:
        draw = self.draw
        if not named and draw.chance(20):
            return ""
        if draw.chance(10):
            odd = str(draw.pick((*ODD_NAMES, "word", "id", "grp")))
            if all(col.name.strip('"').lower() != odd.strip('"').lower() for col in columns):
                return odd
        return self._name("x")
